"""A tiny Stable Diffusion, whole and as a copy that a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.tiny_pipelines import tiny_sd


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("base"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "model"))
