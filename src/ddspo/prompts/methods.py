"""The degraders by name, and which settings decide what they make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..recipe import Degradation
from .removal import RemovalDegrader
from .rules.degrader import RulesDegrader
from .rules.tagger import TAGGERS
from .scenes import ScenesDegrader
from .variants import Degrader, StreamDegrader

Factory = Callable[[Degradation, Path | None], Degrader | StreamDegrader]


def _removal(settings: Degradation, journal: Path | None) -> Degrader:
    return RemovalDegrader(
        settings.remove_low,
        settings.remove_high,
        settings.remove_units,
        settings.keep_style,
        TAGGERS[settings.tagger](),
    )


def _rules(settings: Degradation, journal: Path | None) -> RulesDegrader:
    return RulesDegrader(settings.kinds, TAGGERS[settings.tagger]())


def _local_model(settings: Degradation, journal: Path | None) -> StreamDegrader:
    from .language_model import LanguageModelDegrader
    from .local_model import LocalCompleter

    fallback = _rules(settings, None) if settings.fallback == "rules" else None
    return LanguageModelDegrader(
        "local_model", settings.language_model, LocalCompleter(settings.language_model), fallback
    )


def _server(settings: Degradation, journal: Path | None) -> StreamDegrader:
    from .language_model import LanguageModelDegrader
    from .server import ServerCompleter

    fallback = _rules(settings, None) if settings.fallback == "rules" else None
    completer = ServerCompleter(settings.language_model, journal)
    return LanguageModelDegrader("server", settings.language_model, completer, fallback)


#: method -> how to make it from its settings and the path of a journal of paid answers
DEGRADERS: dict[str, Factory] = {
    "removal": _removal,
    "scenes": lambda settings, journal: ScenesDegrader(settings.kinds),
    "rules": _rules,
    "local_model": _local_model,
    "server": _server,
}

_ALWAYS = ("method", "variants", "min_text_distance", "min_embedding_distance")
_OWN: dict[str, tuple[str, ...]] = {
    "removal": ("remove_low", "remove_high", "remove_units", "keep_style", "tagger"),
    "scenes": ("kinds",),
    "rules": ("kinds", "tagger"),
    "local_model": ("fallback", "kinds", "tagger"),
    "server": ("fallback", "kinds", "tagger"),
}
_MODEL = ("name", "task", "max_new_tokens", "temperature")


def deciding_settings(settings: Degradation) -> dict[str, Any]:
    """The settings that decide what is made; speed, addresses and patience are not among them, they may change."""
    described = settings.model_dump(mode="json", include={*_ALWAYS, *_OWN[settings.method]})
    if settings.measures_embeddings:
        described["measure_embedding_distance"] = True
    if settings.method in ("local_model", "server"):
        described["language_model"] = settings.language_model.model_dump(mode="json", include=set(_MODEL))
    return described
