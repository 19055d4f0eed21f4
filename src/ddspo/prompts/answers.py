"""Read a language model's answer, whatever its shape, and reject what is no degradation."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from .instructions import KINDS, Task
from .quality import text_distance
from .rules.analysis import analyze
from .rules.lexicon import CLASS_OF
from .rules.tagger import WordListTagger, closed_tag
from .sources import clean_prompt
from .variants import Variant

_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)
_OPENING = re.compile(r"[\[{]")
_TEXT_FIELD = re.compile(r'"text"\s*:\s*("(?:[^"\\]|\\.)*")')
_LIST_LINE = re.compile(r"^\s*(?:\d+[.):]|[-*•])\s+(.+?)\s*$", re.MULTILINE)
_TEXT_KEYS = ("text", "prompt", "degraded_prompt", "variant")
_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_TAGGER = WordListTagger()
Found = tuple[str, str, str]


def _from_json(value: Any) -> list[Found] | None:
    """Variants in a JSON value of about the right shape; None when it is of another."""
    if isinstance(value, dict):
        lists = [value[key] for key in ("variants", "prompts", "degraded_prompts") if isinstance(value.get(key), list)]
        if lists:
            return _from_json(lists[0])
        texts = [value[key] for key in _TEXT_KEYS if isinstance(value.get(key), str)]
        said = (str(value.get("kind", "")), str(value.get("change", "")))
        return [(texts[0], *said)] if texts else None
    if isinstance(value, list):
        if not value:
            return []
        parts = [[(item, "", "")] if isinstance(item, str) else _from_json(item) for item in value]
        return [found for part in parts if part for found in part] or None
    return None


def _embedded(text: str) -> list[Found] | None:
    """What all JSON values of about the right shape inside other text hold; of torn JSON, the whole parts."""
    decoder = json.JSONDecoder()
    result: list[Found] | None = None
    position = tries = 0
    while (match := _OPENING.search(text, position)) and tries < 200:
        tries += 1
        position = match.start() + 1
        try:
            value, end = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if (found := _from_json(value)) is not None:
            result = (result or []) + found
            position = end
    return result


def parse_answer(text: str) -> list[Found] | None:
    """(text, kind, change) of every variant in an answer; kind and change may be empty. None: nothing readable in it.

    Tried in turn: JSON alone, in a fence, inside other text; the "text" fields of torn JSON; a numbered list.
    """
    text = _THOUGHTS.sub("", text)
    for candidate in [text, *_FENCE.findall(text)]:
        try:
            found = _from_json(json.loads(candidate))
        except (ValueError, RecursionError):
            continue
        if found is not None:
            return found
    if (found := _embedded(text)) is not None:
        return found
    fields = [json.loads(match) for match in _TEXT_FIELD.findall(text) if _valid_string(match)]
    if fields:
        return [(field, "", "") for field in fields]
    lines = [line.strip("\"'“”` ") for line in _LIST_LINE.findall(text)]
    return [(line, "", "") for line in lines] or None


def _valid_string(text: str) -> bool:
    try:
        return isinstance(json.loads(text), str)
    except ValueError:
        return False


def _stem(word: str) -> str:
    return re.sub(r"(ies|es|s|ing|ed|d)$", "", word) if len(word) > 4 else word


def _content(text: str) -> list[str]:
    return [word for word in re.findall(r"[^\W_]+", text.casefold()) if closed_tag(word) is None]


def _subject(prompt: str) -> set[str]:
    """Heads of the noun phrases that are no style: all before the first comma, known things after it."""
    analysis = analyze(prompt, _TAGGER)
    first = min((start for start, _ in [*analysis.segments, *analysis.styles] if start), default=len(analysis.tokens))
    heads = [p.head for p in analysis.phrases if p.start < first or p.head in CLASS_OF]
    return {_stem(head.casefold()) for head in heads}


def rejection(task: Task, prompt: str, text: str) -> str | None:
    """Why `text` is no degraded form of `prompt`; None when it may be one.

    Compositional: it may be hardly longer and bring few new words (a changed attribute, a wider noun), else it adds.
    Aesthetic: it must keep what the prompt is about, and may bring as many words about the look as the prompt has.
    """
    if not text or not any(char.isalnum() for char in text):
        return "empty"
    if text_distance(prompt, text) == 0:
        return "repeats the prompt"
    words, own = len(text.split()), len(prompt.split())
    known = {_stem(word) for word in _content(prompt)}
    new = [word for word in _content(text) if _stem(word) not in known]
    if task == "compositional":
        if words > own + 4 or len(new) > max(2, own // 3):
            return "adds content"
        return None
    if words > 2 * own + 12 or len(new) > max(10, own):
        return "adds content"
    kept = {_stem(word) for word in _content(text)}
    return None if _subject(prompt) <= kept else "changes the subject"


def judge_answer(task: Task, prompt: str, answer: str, variants: int) -> tuple[list[Variant], Counter[str], str | None]:
    """Usable variants of an answer, the rejected ones by reason, and why there is none when there is none."""
    found = parse_answer(answer)
    rejected: Counter[str] = Counter()
    if found is None:
        return [], Counter({"answer: not readable": 1}), "the model's answer is not readable"
    if not found:
        return [], rejected, "the model found nothing to degrade"
    kept: dict[str, Variant] = {}
    for raw, kind, change in found:
        text = " ".join(clean_prompt(raw).split())
        reason = rejection(task, prompt, text)
        if reason is None and text.casefold() in kept:
            reason = "duplicate"
        if reason is not None:
            rejected[f"answer: {reason}"] += 1
        elif len(kept) < variants:
            kept[text.casefold()] = Variant(
                text, kind if kind in KINDS[task] else "rewrite", clean_prompt(change)[:200] or "rewritten"
            )
    return list(kept.values()), rejected, None if kept else "every variant in the model's answer was rejected"
