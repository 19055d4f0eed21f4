"""Small English morphology: plurals, verb forms, a or an."""

from __future__ import annotations

import re

_IRREGULAR_PLURALS = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "mouse": "mice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "knife": "knives",
    "leaf": "leaves",
    "shelf": "shelves",
    "bookshelf": "bookshelves",
    "wolf": "wolves",
    "calf": "calves",
    "scarf": "scarves",
    "life": "lives",
    "loaf": "loaves",
    "sheep": "sheep",
    "deer": "deer",
    "fish": "fish",
    "goldfish": "goldfish",
    "clownfish": "clownfish",
    "salmon": "salmon",
    "trout": "trout",
    "tuna": "tuna",
    "koi": "koi",
    "shrimp": "shrimp",
    "moose": "moose",
    "ox": "oxen",
    "cactus": "cacti",
    "octopus": "octopuses",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "mango": "mangoes",
    "policeman": "policemen",
    "gentleman": "gentlemen",
    "snowman": "snowmen",
}
_IRREGULAR_PASTS = {
    verb: tuple(pasts.split("/"))
    for verb, pasts in (
        entry.split(":")
        for entry in (
            "beat:beat/beaten become:became begin:began/begun bend:bent bite:bit/bitten blow:blew/blown "
            "break:broke/broken "
            "bring:brought build:built burn:burnt/burned buy:bought cast:cast catch:caught cling:clung come:came "
            "cut:cut "
            "dig:dug dive:dived/dove do:did/done draw:drew/drawn dream:dreamt/dreamed drink:drank/drunk "
            "drive:drove/driven "
            "eat:ate/eaten fall:fell/fallen feed:fed feel:felt fight:fought fit:fit/fitted fly:flew/flown get:got "
            "give:gave/given "
            "go:went/gone grow:grew/grown hang:hung have:had hear:heard hide:hid/hidden hit:hit hold:held keep:kept "
            "kneel:knelt lay:laid lead:led lean:leaned leap:leapt/leaped leave:left lie:lay/lain light:lit make:made "
            "meet:met put:put read:read ride:rode/ridden ring:rang/rung rise:rose/risen run:ran see:saw/seen sell:sold "
            "send:sent sew:sewed/sewn shake:shook/shaken shine:shone shoot:shot show:showed/shown sing:sang/sung "
            "sink:sank/sunk sit:sat sleep:slept slide:slid speak:spoke/spoken spin:spun spread:spread stand:stood "
            "stick:stuck sweep:swept swim:swam/swum swing:swung take:took/taken teach:taught tell:told think:thought "
            "throw:threw/thrown wake:woke wear:wore/worn weave:wove/woven weep:wept wind:wound write:wrote/written"
        ).split()
    )
}
_DOUBLED = frozenset(
    "beg chat chop clap cut dig drag drip drop fit flap flit get grab grin grip hit hop hug hum jog knit pat pet "
    "nap plan put row "
    "rub run scrub shop sip sit skip slam slip snap spin stir step stop strum swim tap trot wag win wrap".split()
) - {"row"}
#: written with a vowel and spoken with a consonant, and the other way round
_SPOKEN_CONSONANT = re.compile(r"(?:uni(?!n|m)|use|usu|ukul|ufo|eu|one|once|u(?=[-\s.]|$))", re.IGNORECASE)
_SPOKEN_VOWEL = re.compile(r"(?:hour|honest|honor|heir|8|11|18|(?:x|f|m|n|s|l|h)(?:-|$))", re.IGNORECASE)


def article(word: str) -> str:
    """'a' or 'an' before `word`."""
    if _SPOKEN_CONSONANT.match(word):
        return "a"
    return "an" if word[:1].lower() in "aeiou" or _SPOKEN_VOWEL.match(word) else "a"


def plural(noun: str) -> str:
    """The plural of a name; of 'piece of furniture' that is 'pieces of furniture'."""
    head, space, rest = noun.partition(" ")
    if space:
        return f"{plural(head)} {rest}"
    if noun in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[noun]
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"


def verb_forms(verb: str) -> list[tuple[str, str]]:
    """(form, word) pairs: 'base', 's', 'ing' and one or more 'past'."""
    if verb == "have":
        third = "has"
    elif re.search(r"(s|x|z|ch|sh|o)$", verb):
        third = verb + "es"
    elif re.search(r"[^aeiou]y$", verb):
        third = verb[:-1] + "ies"
    else:
        third = verb + "s"
    if verb.endswith("ie"):
        stem, past = verb[:-2] + "y", verb + "d"
    elif verb.endswith("e") and not verb.endswith("ee"):
        stem, past = verb[:-1], verb + "d"
    elif verb in _DOUBLED:
        stem, past = verb + verb[-1], verb + verb[-1] + "ed"
    else:
        stem, past = verb, verb[:-1] + "ied" if re.search(r"[^aeiou]y$", verb) else verb + "ed"
    pasts = _IRREGULAR_PASTS.get(verb, (past,))
    return [("base", verb), ("s", third), ("ing", stem + "ing"), *(("past", form) for form in pasts)]
