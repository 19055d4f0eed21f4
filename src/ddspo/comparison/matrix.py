"""The file that a comparison is made from: which methods, which values of their own knob, which seeds, who decides.

    name: sweep
    base: tinyscenes                       # a recipe; `set` changes fields of it for every method
    set: {training: {max_steps: 40}}
    seeds: [0, 1, 2]
    validation: {prompts: tinyscenes:validation}
    methods:
      diffusion_dpo:
        target: {source: forward_noise}
        sweep: {objective.beta: [200, 1000, 5000]}
        auto: true

Prompts of `validation` decide the best value of every sweep; the base recipe's `evaluation` is the final word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, field_validator, model_validator

from ..errors import UserError
from ..overrides import apply_override, describe_validation_error, field_paths, merged, nearest, parse_yaml
from ..recipe import Recipe
from ..recipe_base import Section
from ..recipe_file import load_recipe

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")
_RESERVED = ("reference", "best", "auto")


class Method(Section):
    """One contender: what it changes in the base recipe, and the values of one field that it may choose among.

    `target` and `objective` are whole: a field left out is the default, not the base's. `training` and `evaluation` are
    laid over the base's, field by field.
    """

    target: dict[str, Any] = {}
    objective: dict[str, Any] = {}
    training: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    """how its pictures are drawn, where that belongs to the method; prompts, seeds and scorers stay the same for all"""
    sweep: dict[str, tuple[float, ...]] = {}
    """one field and its values, such as objective.beta: [200, 1000]; empty: nothing to choose"""
    auto: bool = False
    """also train with objective.beta: auto, every seed"""
    train: bool = True
    """false: the base itself, drawn otherwise (`evaluation`)"""

    @model_validator(mode="after")
    def _one_knob(self) -> Method:
        if len(self.sweep) > 1:
            raise ValueError(f"sweep: one field at a time, found {', '.join(self.sweep)}")
        for field, values in self.sweep.items():
            known = field_paths(Recipe)
            if field not in known:
                close = nearest(field, known)
                raise ValueError(f"sweep.{field}: no such field" + (f"; did you mean {close}?" if close else ""))
            if not values or len(set(values)) < len(values):
                raise ValueError(f"sweep.{field}: expected values that differ, found {list(values)}")
        if not self.train and (self.sweep or self.auto or self.target or self.objective or self.training):
            raise ValueError("train: false leaves the base as it is; only `evaluation` may stand beside it")
        if "evaluation" in self.model_fields_set and set(self.evaluation) & {"prompts", "column", "limit", "scorers"}:
            raise ValueError("evaluation: prompts and scorers are the same for all methods; set them for the base")
        return self

    @property
    def knob(self) -> str | None:
        """The swept field; None without a sweep."""
        return next(iter(self.sweep), None)

    @property
    def values(self) -> tuple[float, ...]:
        """What the sweep tries; () without a sweep."""
        return next(iter(self.sweep.values()), ())


class Matrix(Section):
    """A comparison: everything but the base recipe's own fields."""

    name: str = "comparison"
    base: str = "tinyscenes"
    """a recipe file or the name of a bundled recipe: model, prompts, pairs, evaluation, and defaults of every method"""
    set: dict[str, Any] = {}
    """changes to the base recipe, for all methods"""
    output: Path | None = None
    """None: runs/NAME"""
    pairs: Path | None = None
    """a folder of pairs that exists already; None: made once, as the base recipe says"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """training seeds; sweeps use the first alone"""
    budget: Literal["pairs", "network_evaluations"] = "pairs"
    """what is equal for all methods: 'pairs' trained on (training.max_steps), or 'network_evaluations' of training,
    for which a method cheaper per pair than the base recipe's gets more steps"""
    validation: dict[str, Any] = {}
    """changes to the base's `evaluation`, for choosing; its prompts must be others than the base's"""
    heldout: dict[str, dict[str, Any]] = {"heldout": {}}
    """name -> changes to the base's `evaluation` for the final word; each judges the same policies, on a page of its
    own, such as {plain: {}, guided: {sampling: {guidance_scale: 4}}}; the first is the main one"""
    versus: str | None = None
    """a method that all others are also compared with, such as diffusion_dpo"""
    methods: dict[str, Method]

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"expected at least one seed and each once, found {list(seeds)}")
        return seeds

    @model_validator(mode="after")
    def _names(self) -> Matrix:
        for name in self.heldout:
            if not _NAME.fullmatch(name) or name == "validation":
                raise ValueError(f"heldout.{name}: not a usable name; use letters, digits and _, and not validation")
        if not self.heldout:
            raise ValueError("heldout is empty; leave it out, or name how policies are finally judged")
        for name in self.methods:
            if not _NAME.fullmatch(name) or name in _RESERVED:
                raise ValueError(
                    f"methods.{name}: not a usable name; use letters, digits and _, and not {', '.join(_RESERVED)}"
                )
        if not any(method.train for method in self.methods.values()):
            raise ValueError("methods: none of them trains anything; a comparison needs at least one that does")
        if self.versus is not None and self.versus not in self.methods:
            raise ValueError(f"versus: {self.versus} is not among methods ({', '.join(self.methods)})")
        if "prompts" not in self.validation and any(len(method.values) > 1 for method in self.methods.values()):
            raise ValueError("validation.prompts is missing: name the prompts that decide the best value of a sweep")
        return self


def load_matrix(path: Path, overrides: Sequence[str] = (), output: Path | None = None) -> tuple[Matrix, Recipe]:
    """(matrix, its base recipe), both checked.

    Args:
        path: the YAML file.
        overrides: 'a.b=c' fields of the BASE RECIPE, above the file's `set`.
        output: the folder of the comparison, above the file's.

    Raises:
        UserError: no such file, an unknown key or a wrong value; one line that names the place and the mend.
    """
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8; a matrix is YAML") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a matrix, a YAML file") from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise UserError(f"{path}: expected keys such as base, seeds, methods")
    data.setdefault("name", path.stem)
    changes = data.get("set")
    for override in overrides:
        if isinstance(changes, dict | None):
            data["set"] = changes = changes or {}
            apply_override(changes, override)
    if output is not None:
        data["output"] = str(output)
    try:
        matrix = Matrix.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path}: {describe_validation_error(error, Matrix)}") from error
    beside = path.parent / matrix.base
    base = load_recipe(beside if beside.suffix in (".yaml", ".yml") and beside.is_file() else matrix.base)
    changed = overlaid(base, {**matrix.set, "output": str(folder_of(matrix))}, f"{path}: set")
    return matrix, changed


def folder_of(matrix: Matrix) -> Path:
    """Where the comparison lies."""
    return matrix.output or Path("runs") / matrix.name


def overlaid(recipe: Recipe, changes: dict[str, Any], where: str, whole: dict[str, Any] | None = None) -> Recipe:
    """The recipe, without its baselines, with nested changes laid over it, checked again.

    Args:
        recipe: what is changed.
        changes: sections and fields, laid over field by field.
        where: what an error begins with.
        whole: sections that replace the recipe's own before that.

    Raises:
        UserError: an unknown key or a wrong value.
    """
    data = recipe.model_dump(exclude_unset=True)  # what nobody stated stays a default, which other choices may move
    try:
        return Recipe.model_validate(merged({**data, "baselines": {}, **(whole or {})}, changes))
    except ValidationError as error:
        raise UserError(f"{where}: {describe_validation_error(error, Recipe)}") from error
