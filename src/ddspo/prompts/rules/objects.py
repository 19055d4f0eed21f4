"""Edits of which things are there: drop one, exchange two, drop a phrase or the style."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .analysis import Analysis, NounPhrase
from .lexicon import CLASS_OF, THIRD_PERSON, VERB_FORMS, is_alive
from .text import Edit, Splice, Token, cut, edit, put, said, word
from .words import MEASURES, SYMMETRIC, is_abstract

_PLURAL_AUXILIARY = {"is": "are", "was": "were", "has": "have", "does": "do"}
_SINGULAR_AUXILIARY = {plural: singular for singular, plural in _PLURAL_AUXILIARY.items()}
_BASE_OF = {third: base for base, third in THIRD_PERSON.items()}
#: without what follows these say nothing: 'is looking at', 'made for', 'filled with'
_NEEDY = frozenset(
    "look looks looking looked made filled covered surrounded lined topped equipped engaged immersed based dressed "
    "consists consisting belongs lead leads leading led cut cuts sliced slices".split()
)
_ONLY_SINGULAR = frozenset("a an this that each every another".split())
OWNERS = frozenset("his her its their".split())
_SELVES = frozenset("himself herself itself".split())
_PLAIN_MEDIUM = frozenset("a an the photo photograph picture image of".split())


def agreement(a: Analysis, subject: NounPhrase, singular: bool) -> list[Splice] | None:
    """What the rest needs when the number of the subject changes: splices, perhaps none, or None for 'unclear'."""
    if subject.start != a.start:
        return []
    verb = _verb_agreement(a, subject, singular)
    return verb if verb is None or singular else [*verb, *_owners(a, subject)]


def _owners(a: Analysis, subject: NounPhrase) -> list[Splice]:
    """'its owner' and 'itself' for a subject that becomes several: 'their owner', 'themselves'."""
    found = []
    for index in range(subject.end, len(a.tokens)):
        key, following = a.tokens[index].key, a.tags[index + 1] if index + 1 < len(a.tags) else "sign"
        if key in OWNERS and following in ("noun", "adjective"):
            found.append(put(index, index + 1, [word("their")]))
        elif key in _SELVES:
            found.append(put(index, index + 1, [word("themselves")]))
    return found


def _verb_agreement(a: Analysis, subject: NounPhrase, singular: bool) -> list[Splice] | None:
    for index in range(subject.end, len(a.tokens)):
        key, tag = a.tokens[index].key, a.tags[index]
        forms = (_SINGULAR_AUXILIARY if singular else _PLURAL_AUXILIARY).get(key)
        if tag == "auxiliary" and forms is not None:
            return [put(index, index + 1, [word(forms)])]
        if tag == "verb" and "ing" not in VERB_FORMS.get(key, ()):
            if "past" in VERB_FORMS.get(key, ()) or key.endswith("ed"):
                return []
            changed = (THIRD_PERSON if singular else _BASE_OF).get(key)
            return None if changed is None or index != subject.end else [put(index, index + 1, [word(changed)])]
        if tag == "auxiliary" or (tag == "noun" and index == subject.end):
            return None
    return []


def _list_tokens(a: Analysis, kept: list[NounPhrase], dropped_first: NounPhrase | None) -> list[Token]:
    """'A, B and C' anew from the phrases that are kept; a shared article moves to the first of them."""
    result: list[Token] = []
    for number, phrase in enumerate(kept):
        part = list(a.tokens[phrase.start : phrase.end])
        if number:
            result.append(word("and") if number == len(kept) - 1 else Token("", ",", ","))
        elif dropped_first is not None and phrase.determiner is None and phrase.number is None:
            shared = dropped_first.determiner
            if shared is not None and not (phrase.plural and a.tokens[shared].key in _ONLY_SINGULAR):
                part = [a.tokens[shared], Token(" ", part[0].text, part[0].key), *part[1:]]
        result += [Token(" ", part[0].text, part[0].key), *part[1:]]
    return result


def _drop_from_list(a: Analysis, group: tuple[NounPhrase, ...]) -> Iterator[Edit]:
    if group[0].start and a.tokens[group[0].start - 1].key in ("between", "among"):
        return  # nothing is between one thing
    for index, gone in enumerate(group):
        if gone.head not in CLASS_OF and is_abstract(gone.head):
            continue  # 'a display of artistry and craftsmanship'
        kept = [phrase for phrase in group if phrase is not gone]
        whole = NounPhrase(group[0].start, 0, group[-1].end, group[-1].end, (), None, None, "", True)
        verb: list[Splice] | None = []
        if len(kept) == 1 and not kept[0].plural:
            verb = agreement(a, whole, True)
        if verb is None:
            continue
        tokens = _list_tokens(a, kept, gone if index == 0 else None)
        change = f"- {said(a.tokens[gone.start : gone.end])}"
        yield edit("drop_object", change, put(group[0].start, group[-1].end, tokens), *verb)


def _new_clause(a: Analysis, index: int) -> bool:
    return a.tags[index] == "conjunction" and index + 1 < a.end and a.tags[index + 1] in ("verb", "auxiliary")


def _drop_place(a: Analysis, group: tuple[NounPhrase, ...], before: NounPhrase | None) -> Iterator[Edit]:
    """'... on a table' at the end or before a sign: the preposition goes too, and a bare 'is' before it."""
    start, end = group[0].start, group[-1].end
    while start > a.start and a.tags[start - 1] == "preposition":
        start -= 1
    goes_on = end + 1 < a.end and a.tags[end] == "preposition"  # not '... for a night in'
    closed = end >= a.end or a.tags[end] == "sign" or goes_on or _new_clause(a, end)
    closed = closed and (end >= a.end or a.tokens[end].key != "of")
    if start == group[0].start or start <= a.start or not closed or a.tokens[start].key in ("of", "to", "like", "as"):
        return
    if before is not None and before.end == start and before.head in MEASURES:
        return
    if a.tokens[start].key == "from" and end < a.end and a.tokens[end].key == "to":
        return  # 'from tree to tree'
    if a.tokens[start].key == "with" and a.tokens[start - 1].key.startswith("contrast"):
        return  # nothing contrasts alone
    if a.tokens[start - 1].key in _NEEDY or (
        len(group) == 1 and group[0].head not in CLASS_OF and is_abstract(group[0].head)
    ):
        return
    while start > a.start and a.tags[start - 1] in ("auxiliary", "adverb"):
        start -= 1
    if start > a.start and a.tags[start - 1] in ("noun", "verb"):
        yield edit("drop_object", f"- {said(a.tokens[start:end])}", cut(start, end))


def drop_object(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'a cup and a plate' -> 'a plate'; 'a cup on a plate' -> 'a cup'."""
    before: NounPhrase | None = None
    for group in a.groups:
        if len(group) > 1:
            yield from _drop_from_list(a, group)
        yield from _drop_place(a, group, before)
        before = group[-1]
    if len(a.groups) == 2 and a.groups[0][0].start == a.start and a.groups[1][-1].end == a.end:
        (first, *rest), (second, *_) = a.groups
        between = range(first.end, second.start)
        led_by = all(a.tags[i] == "preposition" for i in between) and a.tokens[first.end].key != "of"
        if not rest and led_by and not _own(a, second):
            change = f"- {said(a.tokens[first.start : second.start])}"
            yield edit("drop_object", change, cut(first.start, second.start))


def swap_objects(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'a dog chasing a cat' -> 'a cat chasing a dog': who does it to whom, around a verb."""
    singles = [group[0] if len(group) == 1 else None for group in a.groups]
    for one, two in zip(singles, singles[1:], strict=False):
        if one is None or two is None or one.start != a.start or one.plural != two.plural:
            continue
        between = range(one.end, two.start)
        verbs = [i for i in between if a.tags[i] == "verb"]
        allowed = ("verb", "auxiliary", "preposition", "adverb")
        if not verbs or any(a.tags[i] not in allowed for i in between) or _own(a, two):
            continue
        if (
            one.determiner is None
            or two.determiner is None
            or one.head == two.head
            or is_alive(one.head) != is_alive(two.head)
        ):
            continue
        if one.head not in CLASS_OF or two.head not in CLASS_OF or disagrees(a, one, two):
            continue
        if {a.tokens[i].key for i in between} & SYMMETRIC or any(one.end <= s < two.start for s, _, _ in a.relations):
            continue
        change = f"{said(a.tokens[one.start : one.end])} <-> {said(a.tokens[two.start : two.end])}"
        yield exchanged("swap_objects", change, a, one, two)


def disagrees(a: Analysis, one: NounPhrase, two: NounPhrase) -> bool:
    """'a group of people are gathered': the verb follows the sense of `one`, so another subject would not fit it."""
    between = {a.tokens[index].key for index in range(one.end, two.start)}
    return not one.plural and not between.isdisjoint(_PLURAL_AUXILIARY.values())


def _own(a: Analysis, phrase: NounPhrase) -> bool:
    """'her book' cannot come before the one it belongs to."""
    return phrase.determiner is not None and a.tokens[phrase.determiner].key in OWNERS


def exchanged(kind: str, change: str, a: Analysis, one: NounPhrase, two: NounPhrase) -> Edit:
    """Two noun phrases change places."""
    first, second = a.tokens[one.start : one.end], a.tokens[two.start : two.end]
    return edit(
        kind,
        change,
        put(one.start, one.end, [Token(first[0].space, second[0].text, second[0].key), *second[1:]]),
        put(two.start, two.end, [Token(" ", first[0].text, first[0].key), *first[1:]]),
    )


def _inside_phrase(a: Analysis, index: int) -> bool:
    return any(group[0].start < index < group[-1].end for group in a.groups)


def drop_phrase(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """Drop ', casting a shadow', 'and singing a song', 'to reach a shelf', or one tag of a list of tags."""
    sentence = "auxiliary" in a.tags or any(tag == "verb" for tag in a.tags[a.start : a.end])
    for start, end in a.segments:
        opens = a.tags[start] == "verb" and a.tokens[start].key.endswith("ing") or a.tags[start] == "preposition"
        unfinished = a.tags[start - 2] in ("adjective", "determiner", "preposition", "conjunction")
        if _inside_phrase(a, start - 1) or unfinished or a.tokens[start].key == "and":
            continue
        if opens or not sentence:
            end = min(end, a.end)
            yield edit("drop_phrase", f"- {said(a.tokens[start:end])}", cut(start - 1, end))
    for index in range(a.start + 1, a.end - 1):
        key, after, before = a.tokens[index].key, a.tags[index + 1], a.tags[index - 1]
        verb = a.tokens[index + 1].key
        joined = key == "and" and after == "verb" and before == "noun"
        purpose = key == "to" and after == "verb" and "base" in VERB_FORMS.get(verb, ()) and before == "noun"
        commas = any(a.tokens[i].key in (",", "and") for i in range(index + 1, a.end))
        if (joined or purpose) and not commas and not _inside_phrase(a, index):
            yield edit("drop_phrase", f"- {said(a.tokens[index : a.end])}", cut(index, a.end))


def drop_style(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'a photo of a cat, 8k, by someone' -> 'a cat'."""
    if not a.styles or a.end <= a.start:
        return
    if all({a.tokens[i].key for i in range(s, e)} <= _PLAIN_MEDIUM for s, e in a.styles):
        return  # 'a photo of a cat' and 'a cat' show the same
    splices = [cut(s - 1 if s and a.tokens[s - 1].key in (",", ";", "|") else s, e) for s, e in a.styles]
    removed = ", ".join(said(a.tokens[s:e]) for s, e in a.styles)
    yield edit("drop_style", f"- {removed}", *splices)
