"""A tiny Stable Diffusion and five prompts with a degraded prompt each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ddspo.families.load import load_family
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
