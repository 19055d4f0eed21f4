"""A tiny Stable Diffusion, five prompts with a degraded prompt each, and sizes for imports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ddspo.families.load import load_family
from ddspo.pairs import import_pairs as module
from helpers.pair_making import PROMPTS, write_degraded
from helpers.tiny_pipelines import tiny_sd


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("base"), scheduler="ddim")


@pytest.fixture(scope="session")
def family(base: Path) -> Any:
    return load_family(str(base))


@pytest.fixture
def degraded(tmp_path: Path) -> Path:
    return write_degraded(tmp_path / "degraded.jsonl", [(prompt, [prompt.split()[-1]]) for prompt in PROMPTS])


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The tiny U-Net takes multiples of 64 px; 16 are let in here, so that there is more than one size near 64×64."""
    monkeypatch.setattr(module, "needed_multiple_px", lambda family: 16)
    return [(64, 64), (48, 80), (80, 48)]
