"""The rules degrader: every edit that a prompt allows, drawn so that kinds are balanced."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ...errors import UserError
from ..variants import UnusableError, Variant
from . import attributes, naming, objects, relations
from .analysis import Analysis, analyze
from .lexicon import CLASS_OF, SINGULAR_OF
from .tagger import Tagger, WordListTagger
from .text import Edit, render
from .words import ADJECTIVES, NUMBERS

Rule = Callable[[Analysis, np.random.Generator], Iterator[Edit]]

#: kind -> the rules that make it
RULES: dict[str, tuple[Rule, ...]] = {
    "drop_attribute": (attributes.drop_attribute,),
    "change_attribute": (attributes.change_attribute,),
    "swap_attributes": (attributes.swap_attributes,),
    "drop_object": (objects.drop_object,),
    "change_object": (naming.change_object,),
    "swap_objects": (objects.swap_objects, relations.swap_places),
    "drop_relation": (relations.drop_relation,),
    "change_relation": (relations.change_relation,),
    "reverse_relation": (relations.reverse_relation,),
    "change_count": (attributes.change_count,),
    "drop_count": (attributes.drop_count,),
    "generalize_noun": (naming.generalize_noun,),
    "drop_phrase": (objects.drop_phrase,),
    "drop_style": (objects.drop_style,),
}
#: longer prompts are refused and counted; text encoders see only the first words of them anyway
_MAX_CHARACTERS = 2000

#: words that surely are no names, and so lose the capital of the sentence start
LOWERED = (
    frozenset(NUMBERS)
    | ADJECTIVES
    | frozenset(CLASS_OF)
    | frozenset(SINGULAR_OF)
    | frozenset(
        "a an the this that these those his her its their our my some each every several many on in under above".split()
    )
)


class RulesDegrader:
    """Grammatical edits of real prompts, offline.

    Kinds come in random order, one edit of each in turn, until there are enough: the mixture is balanced over the kinds
    that a prompt allows. Every variant tells its kind and its change.
    """

    name = "rules"

    def __init__(self, kinds: tuple[str, ...] = (), tagger: Tagger | None = None) -> None:
        unknown = [kind for kind in kinds if kind not in RULES]
        if unknown:
            raise UserError(f"degradation.kinds: '{unknown[0]}' is unknown to 'rules'; known: {', '.join(RULES)}")
        self._rules = {kind: RULES[kind] for kind in kinds or RULES}
        self._tagger = tagger or WordListTagger()

    def _edits(self, analysis: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
        """One edit of each kind in turn; a kind's edits are worked out when its turn first comes."""
        columns: list[list[Edit]] = []
        kinds = list(self._rules.values())
        for index in rng.permutation(len(kinds)).tolist():
            edits = [edit for rule in kinds[index] for edit in rule(analysis, rng)]
            if len(edits) > 1:
                edits = [edits[i] for i in rng.permutation(len(edits)).tolist()]
            if edits:
                columns.append(edits)
                yield edits[0]
        for row in range(1, max(map(len, columns), default=0)):
            for column in columns:
                if row < len(column):
                    yield column[row]

    def degrade(self, prompt: str, rng: np.random.Generator, variants: int) -> list[Variant]:
        """Up to `variants` distinct edits of the prompt.

        Raises:
            UnusableError: no rule applies; foreign scripts and single unknown words end here.
        """
        if len(prompt) > _MAX_CHARACTERS:
            raise UnusableError(f"longer than {_MAX_CHARACTERS} characters")
        analysis = analyze(prompt, self._tagger)
        seen = {" ".join(prompt.casefold().split()).rstrip(" .")}
        found: list[Variant] = []
        for edit in self._edits(analysis, rng):
            text = render(analysis.tokens, edit, LOWERED)
            key = " ".join(text.casefold().split()).rstrip(" .")
            if key and key not in seen and any(char.isalnum() for char in key):
                seen.add(key)
                found.append(Variant(text, edit.kind, edit.change))
                if len(found) == variants:
                    break
        if not found:
            raise UnusableError("no rule applies")
        return found
