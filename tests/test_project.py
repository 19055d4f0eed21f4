"""Promises about the project itself: sizes, documents that name what exists, an API that loads lazily."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ddspo
from ddspo import cli
from ddspo.recipe_file import bundled_recipes

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
DOCUMENTS = [path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))]
VERBS = {command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_modules_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 260


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_commands_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    assert set(re.findall(r"(?:^|`)(?:ddspo|python -m ddspo) ([a-z]+)", text, re.MULTILINE)) <= VERBS
    for name in re.findall(r"ddspo (?:align|pairs|train) ([a-z0-9_]+)(?:\s|`)", text):
        assert name in bundled_recipes(), name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_link_to_files_that_exist(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if not link.startswith(("http://", "https://")):
            assert (path.parent / link).exists(), link


def test_readme_opens_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```(?:bash|sh)?\n(.*?)```", text, re.DOTALL)
    assert block is not None
    assert [line.split("#")[0].strip() for line in block.group(1).strip().splitlines()] == ["make demo", "make test"]


def test_no_requirement_brings_torchvision() -> None:
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if "torchvision" in line and not line.lstrip().startswith("#")]


def test_nothing_is_unpickled() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\btorch\.load\(|\bimport pickle|\bpickle\.", text), path


def test_public_names_load_and_are_what_they_say() -> None:
    code = "import sys, ddspo; assert 'torch' not in sys.modules and 'pydantic' not in sys.modules; dir(ddspo)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "src")
    for name in ddspo.__all__:
        assert callable(getattr(ddspo, name)), name
        assert name in dir(ddspo)
    from ddspo import alignment

    assert ddspo.align is alignment.align, "importing modules must not hide the function"
    with pytest.raises(AttributeError):
        _ = ddspo.nothing
