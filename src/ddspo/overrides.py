"""From text to recipe fields: strict YAML, `a.b=c` overrides, and mistakes told in one line with the nearest key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from .errors import UserError


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 as a number (YAML 1.1 takes it for text) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, where: str) -> Any:
    """YAML to plain Python values.

    Args:
        where: what an error message calls the text: a file name, or the override.

    Raises:
        UserError: not valid YAML; names the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{where}{line}: not valid YAML ({error.problem or error.context})") from error
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from error


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one field of the raw recipe in place: 'training.max_steps=20', 'evaluation.scorers=[tinyscenes]'.

    The value is YAML. Sections that are missing on the way are made.

    Raises:
        UserError: no '=', an empty key, or a path that goes through a field that is not a section.
    """
    path, equals, value = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {override}: expected KEY=VALUE, such as training.max_steps=20")
    section = data
    for depth, key in enumerate(keys[:-1], 1):
        if section.get(key) is None:
            section[key] = {}
        if not isinstance(section[key], dict):
            raise UserError(f"--set {override}: {'.'.join(keys[:depth])} is a value, not a section")
        section = section[key]
    section[keys[-1]] = parse_yaml(value, f"--set {override}")


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, section by section; neither is altered."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was probably meant to be, or None."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return found[0] if found else None


#: how a kind of mistake begins in pydantic's words -> what was expected, in ours
_EXPECTED = {
    "int_": "a whole number",
    "float_": "a number",
    "bool_": "true or false",
    "tuple_": "a list, such as [a, b]",
    "path_": "a path in quotes",
}
_BOUNDS = ("greater_than", "less_than", "finite_number")


def describe_validation_error(error: ValidationError, model: type[BaseModel]) -> str:
    """The first mistake in one line, 'training.optimiser: unknown key; did you mean training.optimizer?'.

    Unknown keys come first, because a misspelt key is often the cause of the rest; further mistakes are counted.
    """
    found = [mistake for mistake in error.errors() if mistake["type"] != "default_factory_not_called"]  # a consequence
    groups: dict[tuple[int | str, ...], list[Any]] = {}
    for mistake in sorted(found, key=lambda mistake: mistake["type"] != "extra_forbidden"):
        groups.setdefault(_place(mistake["loc"], model), []).append(mistake)
    (place, mistakes), more = next(iter(groups.items())), len(groups) - 1
    text = _describe(place, mistakes, model)
    return text if not more else f"{text} (and {more} more)"


def _place(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[int | str, ...]:
    """Where a mistake is. Of a field that takes one of several kinds, pydantic adds the kind; it is taken off."""
    section = _section(model, [str(part) for part in location[:-2]]) if len(location) > 1 else None
    field = section.model_fields.get(str(location[-2])) if section else None
    if field is None or get_origin(field.annotation) not in (Union, UnionType) or _model_in(field.annotation):
        return location
    return location[:-1]


def _describe(place: tuple[int | str, ...], mistakes: list[Any], model: type[BaseModel]) -> str:
    location, path = [str(part) for part in place], ".".join(map(str, place))
    kind, value = mistakes[0]["type"], mistakes[0]["input"]
    if kind == "extra_forbidden":
        return _unknown_key(location, model)
    if kind == "value_error":
        message = str(mistakes[0]["ctx"]["error"])
        return f"{path}: {message}" if path else message
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{path}: expected a section with keys, found {value!r}"
    if kind == "string_type" and isinstance(value, (int, float)):
        return f"{path}: expected text, found the number {value!r}; put it in quotes"
    return f"{path}: expected {' or '.join(dict.fromkeys(map(_expected, mistakes)))}; found {value!r}"


def _expected(mistake: Any) -> str:
    kind, message = mistake["type"], mistake["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    if kind.startswith(_BOUNDS):
        return "a finite number" if kind == "finite_number" else f"a number {message}"
    if kind in ("too_long", "too_short"):
        bound = mistake["ctx"].get("max_length", mistake["ctx"].get("min_length"))
        return f"at {'most' if kind == 'too_long' else 'least'} {bound} values"
    words = next((words for start, words in _EXPECTED.items() if kind.startswith(start)), message)
    return f"{words[0].lower()}{words[1:]}"


def _unknown_key(location: list[str], model: type[BaseModel]) -> str:
    """An unknown key with the nearest known one: a sibling first, else a field of that name anywhere in the recipe."""
    path, parent = ".".join(location), _section(model, location[:-1])
    siblings = list(parent.model_fields) if parent else []
    if close := nearest(location[-1], siblings):
        return f"{path}: unknown key; did you mean {'.'.join([*location[:-1], close])}?"
    paths = field_paths(model)
    if elsewhere := [known for known in paths if known.rpartition(".")[2] == location[-1]]:
        return f"{path}: unknown key; did you mean {' or '.join(elsewhere[:3])}?"
    where = f"{'.'.join(location[:-1])} has" if len(location) > 1 else f"a {model.__name__.lower()} has"
    return f"{path}: unknown key; {where} {', '.join(siblings)}"


def _section(model: type[BaseModel], keys: list[str]) -> type[BaseModel] | None:
    """The section model at a dotted path; names inside a dict of sections (baselines) are stepped over."""
    inside_dict = False
    for key in keys:
        if inside_dict:
            inside_dict = False
            continue
        if key not in model.model_fields:
            return None
        annotation = model.model_fields[key].annotation
        found = _model_in(annotation)
        if found is None:
            return None
        inside_dict = getattr(annotation, "__origin__", None) is dict
        model = found
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def field_paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every field of a recipe by its dotted path, sections left out, outer fields first."""
    own, inner = [], []
    for name, field in model.model_fields.items():
        section = _model_in(field.annotation)
        if section is None:
            own.append(prefix + name)
        elif getattr(field.annotation, "__origin__", None) is not dict:
            inner += field_paths(section, f"{prefix}{name}.")
    return own + inner
