"""Degradation by a language model: ask, read the answers, reject, fall back."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..recipe import LanguageModel
from .answers import judge_answer
from .instructions import Message, messages, schema
from .rules.degrader import RulesDegrader
from .variants import Outcome, degrade_one


@dataclass(frozen=True)
class Question:
    """One request: the conversation, and a seed for backends that draw."""

    messages: list[Message]
    seed: int


@dataclass(frozen=True)
class Failure:
    """No answer came; `reason` is what it is counted under, `passing` says that another attempt may help."""

    reason: str
    passing: bool = False


class Completer(Protocol):
    """Something that answers questions."""

    def complete(
        self, questions: Iterable[Question], schema: dict[str, object]
    ) -> Generator[str | Failure, None, None]:
        """One answer per question, in order; reads ahead as far as it works in parallel."""
        ...


class LanguageModelDegrader:
    """Variants written by a language model; whatever is unusable is counted, and made by rules instead if asked."""

    def __init__(
        self, name: str, settings: LanguageModel, completer: Completer, fallback: RulesDegrader | None
    ) -> None:
        self.name = name
        self._task = settings.task
        self._completer = completer
        self._fallback = fallback

    def degrade_stream(self, prompts: Iterable[tuple[str, np.random.Generator]], variants: int) -> Iterator[Outcome]:
        """One outcome per prompt, in order."""
        asked: deque[tuple[str, np.random.Generator]] = deque()

        def questions() -> Iterator[Question]:
            for prompt, rng in prompts:
                asked.append((prompt, rng))
                yield Question(messages(self._task, prompt, variants), int(rng.integers(1 << 31)))

        with closing(self._completer.complete(questions(), schema(self._task))) as answers:
            for answer in answers:
                prompt, rng = asked.popleft()
                yield self._outcome(prompt, rng, answer, variants)

    def _outcome(self, prompt: str, rng: np.random.Generator, answer: str | Failure, variants: int) -> Outcome:
        rejected: Counter[str] = Counter()
        if isinstance(answer, Failure):
            reason = answer.reason
        else:
            made, rejected, why = judge_answer(self._task, prompt, answer, variants)
            if why is None:
                return Outcome(made, None, rejected)
            reason = why
        if self._fallback is None:
            return Outcome([], reason, rejected, isinstance(answer, Failure) and answer.passing)
        rejected[f"made by rules instead: {reason}"] += 1
        outcome = degrade_one(self._fallback, prompt, rng, variants)
        return Outcome(outcome.variants, outcome.skipped and f"{reason}, and {outcome.skipped}", rejected)
