"""Parts of speech: a word-list tagger that is always there, and HanTa's and spaCy's as optional extras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from ...errors import UserError
from .lexicon import CLASS_OF, COMPOUNDS, MEMBERS, SINGULAR_OF, UNCOUNTED, VERB_FORMS, is_alive
from .words import (
    ADJECTIVES,
    ADVERBS,
    ATTRIBUTE_CLASS,
    AUXILIARIES,
    CONJUNCTIONS,
    DETERMINERS,
    NUMBERS,
    PREPOSITIONS,
    PRONOUNS,
    PURPOSES,
)

Tag = Literal[
    "determiner",
    "number",
    "adjective",
    "noun",
    "verb",
    "auxiliary",
    "adverb",
    "preposition",
    "conjunction",
    "pronoun",
    "sign",
]

_CLOSED: dict[str, Tag] = {
    **dict.fromkeys(ADVERBS, "adverb"),
    **dict.fromkeys(PREPOSITIONS, "preposition"),
    **dict.fromkeys(CONJUNCTIONS, "conjunction"),
    **dict.fromkeys(AUXILIARIES, "auxiliary"),
    **dict.fromkeys(PRONOUNS, "pronoun"),
    **dict.fromkeys(DETERMINERS, "determiner"),
    **dict.fromkeys(NUMBERS, "number"),
}
_NOUNS = frozenset(CLASS_OF) | frozenset(MEMBERS) | frozenset(SINGULAR_OF) | UNCOUNTED
_ADJECTIVE_ENDINGS = ("ful", "ous", "less", "ish", "ible", "able", "esque", "colored", "coloured", "shaped", "like")
#: these only before a word that can be the noun
_LIKELY_ENDINGS = ("al", "ic", "ive", "ary")
#: -ing and -ed words that name things
_NOT_VERBS = frozenset(
    "building painting earring ring string king wing ceiling railing clothing drawing evening morning spring lightning "
    "wedding wing pudding icing bed seed weed sled shed red need speed bracelet sunbed "
    "seating setting warning seaweed duckling".split()
)
_COMPOUND_STARTS = frozenset(compound.split()[0] for compound in COMPOUNDS)
_NOT_ADVERBS = frozenset(
    "butterfly family fly lily jelly belly doily monopoly assembly lovely friendly lively curly".split()
)


class Tagger(Protocol):
    """Names the part of speech of each word of a prompt."""

    def tag(self, words: Sequence[str]) -> list[Tag]:
        """One tag per word; `words` are lower-case, signs included."""
        ...


def closed_tag(word: str) -> Tag | None:
    """The tag of a word whose part of speech never depends on its neighbors."""
    if word in _CLOSED:
        return _CLOSED[word]
    if word.isdigit():
        return "number"
    return None if word[:1].isalnum() else "sign"


def _is_compound(word: str, following: str) -> bool:
    """'potted plant(s)' is one noun, whatever 'potted' is elsewhere."""
    return word in _COMPOUND_STARTS and f"{word} {SINGULAR_OF.get(following, following)}" in COMPOUNDS


class WordListTagger:
    """Tags from lists, endings and the neighboring tags, left to right. Unknown words are nouns."""

    def tag(self, words: Sequence[str]) -> list[Tag]:
        """One tag per word."""
        tags: list[Tag] = []
        for index, word in enumerate(words):
            following = words[index + 1] if index + 1 < len(words) else ""
            if _is_compound(word, following) or (index and _is_compound(words[index - 1], word)):
                tags.append("noun")
                continue
            if (word, following) == ("each", "other") or (index and (words[index - 1], word) == ("each", "other")):
                tags.append("pronoun")
                continue
            tags.append(closed_tag(word) or self._open(word, tags, following))
        return tags

    def _open(self, word: str, tags: Sequence[Tag], following: str) -> Tag:
        before = tags[-1] if tags else None
        if before == "adverb" and tags[-2:-1] == ["noun"]:
            before = "noun"  # 'the designer carefully selected fabrics'
        # A word that may continue the noun phrase stands next.
        goes_on = bool(following) and closed_tag(following) is None
        forms = VERB_FORMS.get(word, frozenset())
        if word in PURPOSES and before in ("determiner", "number", "adjective") and goes_on and not is_alive(following):
            return "noun"  # 'a shopping bag', but 'a running dog'
        if before == "conjunction" and "ing" in forms and not goes_on:
            return "verb"  # '... and walking down the street'
        if before in ("auxiliary", "noun", "pronoun", "adverb") and self._is_verb(
            word, forms, before, following, goes_on
        ):
            return "verb"
        if word.endswith("ly") and word not in _NOT_ADVERBS and word not in ADJECTIVES and len(word) > 4:
            return "adverb"
        endings = _ADJECTIVE_ENDINGS + _LIKELY_ENDINGS if goes_on else _ADJECTIVE_ENDINGS
        if word in ADJECTIVES or (len(word) > 5 and word not in _NOUNS and word.endswith(endings)):
            return self._adjective_or_noun(word, before, following, goes_on)
        if word not in _NOT_VERBS and (word.endswith(("ing", "ed")) or "past" in forms) and word not in _NOUNS:
            if before in ("determiner", "adjective", "number", "adverb") and goes_on:
                return "adjective"
            if before in ("determiner", "number"):
                return "noun"
            # 'the dress exuded elegance', '... in the park, savoring snacks'
            clause = before == "noun" or (before == "sign" and not {"verb", "auxiliary"}.isdisjoint(tags))
            return "verb" if forms or not goes_on or clause else "adjective"
        if before == "preposition" and "base" in forms and word not in _NOUNS and closed_tag(following) == "determiner":
            return "verb"  # 'to reach a shelf'
        return "noun"

    @staticmethod
    def _adjective_or_noun(word: str, before: Tag | None, following: str, goes_on: bool) -> Tag:
        if before == "noun" and not goes_on and word in _NOUNS:
            return "noun"  # 'a wine glass'
        if goes_on or before in ("auxiliary", "noun", "adverb") or following in (",", "and", "or"):
            joins = following in (",", "and", "or")
            return "noun" if joins and word in _NOUNS and before in ("determiner", "number") else "adjective"
        return "noun" if before in ("determiner", "adjective", "number", "preposition", "conjunction") else "adjective"

    @staticmethod
    def _is_verb(word: str, forms: frozenset[str], before: Tag, following: str, goes_on: bool) -> bool:
        if word in _NOT_VERBS:
            return before == "auxiliary" and "ing" in forms  # 'is painting a wall'
        if before == "auxiliary":
            return bool(forms & {"ing", "past", "base"}) or word.endswith(("ing", "ed")) and word not in ADJECTIVES
        if "ing" in forms or "past" in forms:
            return word not in _NOUNS or not goes_on
        if not forms:
            return False
        # 'the dog watches a bird' but 'the dog toys are': a name in the plural needs a hint that a verb stands here.
        hint = closed_tag(following) in ("determiner", "preposition", "pronoun", "number", "adverb")
        if word in _NOUNS:
            return hint and "s" in forms and closed_tag(following) in ("determiner", "pronoun")
        return hint or not following or (not goes_on and closed_tag(following) == "sign") or following in ADJECTIVES


_PENN: dict[str, Tag] = {
    "NN": "noun",
    "JJ": "adjective",
    "VB": "verb",
    "RB": "adverb",
    "CD": "number",
    "IN": "preposition",
}


class HanTaTagger:
    """HanTa's English tagger (`pip install ddspo[nlp]`, LGPL): better than lists on words that no list knows."""

    def __init__(self) -> None:
        try:
            from HanTa import HanoverTagger
        except ImportError as error:
            raise UserError(
                "degradation.tagger: 'hanta' needs HanTa; install it with: pip install 'ddspo[nlp]'"
            ) from error
        self._tagger: Any = HanoverTagger.HanoverTagger("morphmodel_en.pgz")

    def tag(self, words: Sequence[str]) -> list[Tag]:
        """One tag per word."""
        found = self._tagger.tag_sent(list(words))
        return [self._tag(word, penn) for word, (_, _, penn) in zip(words, found, strict=True)]

    @staticmethod
    def _tag(word: str, penn: str) -> Tag:
        closed = closed_tag(word)
        if closed is not None:
            return closed
        # A material before a noun is an attribute here, whatever grammar calls it.
        return (
            "adjective"
            if word in ATTRIBUTE_CLASS and penn[:2] == "NN" and word not in _NOUNS
            else _PENN.get(penn[:2], "noun")
        )


_UNIVERSAL: dict[str, Tag] = {
    "NOUN": "noun",
    "PROPN": "noun",
    "ADJ": "adjective",
    "VERB": "verb",
    "AUX": "auxiliary",
    "ADV": "adverb",
    "NUM": "number",
    "ADP": "preposition",
    "DET": "determiner",
    "PRON": "pronoun",
    "PUNCT": "sign",
    "SYM": "sign",
    "CCONJ": "conjunction",
    "SCONJ": "conjunction",
}


class SpacyTagger:
    """spaCy's tagger (`pip install ddspo[spacy]`, and the model: `python -m spacy download en_core_web_sm`)."""

    def __init__(self, model: str = "en_core_web_sm") -> None:
        try:
            import spacy
            from spacy.tokens import Doc
        except ImportError as error:
            raise UserError(
                "degradation.tagger: 'spacy' needs spaCy; install it with: pip install 'ddspo[spacy]'"
            ) from error
        try:
            self._pipeline: Any = spacy.load(model, exclude=["ner", "lemmatizer"])
        except OSError as error:
            raise UserError(
                f"degradation.tagger: spaCy has no model {model}; run: python -m spacy download {model}"
            ) from error
        self._doc: Any = Doc

    def tag(self, words: Sequence[str]) -> list[Tag]:
        """One tag per word."""
        found = self._pipeline(self._doc(self._pipeline.vocab, words=list(words)))
        return [
            closed_tag(word)
            or ("adjective" if word in ATTRIBUTE_CLASS and word not in _NOUNS else _UNIVERSAL.get(token.pos_, "noun"))
            for word, token in zip(words, found, strict=True)
        ]


TAGGERS: dict[str, Callable[[], Tagger]] = {"words": WordListTagger, "hanta": HanTaTagger, "spacy": SpacyTagger}
