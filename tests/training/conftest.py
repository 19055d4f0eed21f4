"""A tiny base and pairs for it, made once a module."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.training_cases import make_case


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the base and the pairs; runs go beside them."""
    path = tmp_path_factory.mktemp("case")
    make_case(path)
    return path
