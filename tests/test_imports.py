"""Arrows point one way: which room may import what, read from the source without running it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
MODEL_CODE = {"torch", "diffusers", "transformers", "accelerate", "peft", "safetensors"}
MATHS = {"ddspo.errors", "ddspo.tensors", "ddspo.recipe"}


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, for both packages."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".")
    up = node.level - (modules()[module].name == "__init__.py")
    return ".".join([*(package[:-up] if up else package), *([node.module] if node.module else [])])


def _statements(tree: ast.Module, runtime_only: bool) -> Iterator[ast.AST]:
    """Every node; with `runtime_only`, only what runs when the module is imported."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if runtime_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if runtime_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting.extend(node.orelse)
            continue
        waiting.extend(ast.iter_child_nodes(node))


@cache
def imports(module: str, runtime_only: bool = False) -> frozenset[str]:
    """Dotted names that `module` imports, relative ones resolved; `from x import y` is x.y where that is a module."""
    found = set()
    for node in _statements(ast.parse(modules()[module].read_text(encoding="utf-8")), runtime_only):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module)
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else base for name in names}
    return frozenset(found)


def runs_on_import(module: str) -> set[str]:
    """Everything that importing `module` imports, through our own modules and their packages."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        if name in modules():
            packages = [".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 1)]
            waiting.extend([*imports(name, runtime_only=True), *packages])
    return reached


def within(name: str, rooms: set[str]) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


def room(name: str) -> list[str]:
    found = [module for module in modules() if within(module, {name})]
    assert found, f"there is no room {name}"
    return found


def third_party(names: frozenset[str]) -> set[str]:
    tops = {name.split(".")[0] for name in names}
    return tops - set(sys.stdlib_module_names) - {"ddspo", "tinyscenes"}


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("ddspo.objectives", MATHS),
        ("ddspo.diffusion", MATHS),
        ("ddspo.targets", MATHS | {"ddspo.diffusion", "ddspo.families"}),
    ],
)
def test_mathematics_sees_torch_and_the_named_tensors_only(name: str, allowed: set[str]) -> None:
    for module in room(name):
        assert third_party(imports(module)) <= {"torch"}, module
        own = {other for other in imports(module) if within(other, {"ddspo", "tinyscenes"})}
        assert {other for other in own if not within(other, allowed | {name})} == set(), module


@pytest.mark.parametrize(
    ("name", "forbidden"),
    [
        ("ddspo.families", {"ddspo.targets", "ddspo.pairs", "ddspo.training", "ddspo.evaluation", "ddspo.report"}),
        ("ddspo.prompts", {"ddspo.pairs", "ddspo.training", "ddspo.evaluation", "ddspo.report"}),
        ("ddspo.pairs", {"ddspo.training", "ddspo.evaluation", "ddspo.report"}),
        ("ddspo.training", {"ddspo.evaluation", "ddspo.report", "ddspo.cli", "ddspo.align", "ddspo.comparison"}),
        ("ddspo.evaluation", {"ddspo.training", "ddspo.report", "ddspo.cli", "ddspo.align", "ddspo.comparison"}),
        ("ddspo.report", {"ddspo.families", "ddspo.diffusion", "ddspo.training", "ddspo.cli"} | MODEL_CODE),
        ("ddspo.report", {"ddspo.comparison", "ddspo.evaluation"}),
        ("tinyscenes", {"ddspo"}),
    ],
)
def test_arrows_point_one_way(name: str, forbidden: set[str]) -> None:
    for module in room(name):
        assert {other for other in imports(module) if within(other, forbidden)} == set(), module


@pytest.mark.parametrize("name", ["ddspo", "ddspo.cli", "ddspo.recipe", "ddspo.report", "tinyscenes"])
def test_importing_it_loads_no_model_code(name: str) -> None:
    assert name in modules(), f"there is no module {name}"
    assert {other for other in runs_on_import(name) if within(other, MODEL_CODE)} == set()


def test_the_walk_finds_imports() -> None:
    assert {"torch", "ddspo.tensors", "ddspo.objectives.errors"} <= imports("ddspo.objectives.margin")
    assert "ddspo.recipe" in imports("ddspo.diffusion.timesteps")
    assert "ddspo.recipe" not in imports("ddspo.diffusion.timesteps", runtime_only=True)
    assert {"torch", "ddspo.diffusion.noise_path", "ddspo"} <= runs_on_import("ddspo.targets")
