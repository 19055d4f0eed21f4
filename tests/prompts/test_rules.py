from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from ddspo.errors import UserError
from ddspo.prompts.removal import RemovalDegrader
from ddspo.prompts.rules.analysis import analyze
from ddspo.prompts.rules.degrader import RULES, RulesDegrader
from ddspo.prompts.rules.inflect import article, plural
from ddspo.prompts.rules.tagger import TAGGERS, HanTaTagger, SpacyTagger, WordListTagger
from ddspo.prompts.rules.text import said, tokenize
from ddspo.prompts.variants import UnusableError


def made(prompt: str, kind: str, seed: int = 0) -> set[str]:
    """Every variant of one kind."""
    try:
        return {v.text for v in RulesDegrader((kind,)).degrade(prompt, np.random.default_rng(seed), 100)}
    except UnusableError:
        return set()


@pytest.mark.parametrize(
    ("kind", "prompt", "expected"),
    [
        ("drop_attribute", "an old red car", {"a red car", "an old car"}),
        ("drop_attribute", "The plump, juicy grapes fell.", {"The juicy grapes fell.", "The plump grapes fell."}),
        ("drop_attribute", "a black and white cat", {"a cat"}),
        ("swap_attributes", "a red car and an orange bus", {"an orange car and a red bus"}),
        ("swap_attributes", "a red car and a red bus", set()),
        ("swap_attributes", "a red car and a blue car", set()),
        ("drop_object", "a cup, two nuts and a hat", {"two nuts and a hat", "a cup and a hat", "a cup and two nuts"}),
        ("drop_object", "a photo of an owl above a car", {"a photo of an owl", "a photo of a car"}),
        ("drop_object", "The rug was on the left of the chair.", {"The rug."}),
        ("drop_object", "a dog and an owl are red", {"a dog is red", "an owl is red"}),
        ("swap_objects", "a dog chasing an owl", {"an owl chasing a dog"}),
        ("swap_objects", "The dog is below a red car.", {"A red car is below the dog."}),
        ("swap_objects", "a dog next to a cat", set()),
        ("reverse_relation", "a dog to the left of a cat", {"a dog to the right of a cat"}),
        ("reverse_relation", "a dog in front of a cat", {"a dog behind a cat"}),
        ("drop_relation", "a photo of a dog right of a cat", {"a photo of a dog and a cat"}),
        ("drop_count", "three mice and one cat", {"mice and one cat"}),
        ("generalize_noun", "two mice", {"two animals"}),
        ("generalize_noun", "a photo of a hot dog", {"a photo of a piece of food"}),
        ("drop_style", "a photo of a cat, highly detailed, trending on artstation", {"a cat"}),
        ("drop_style", "a cat in the style of van gogh", {"a cat"}),
        ("drop_phrase", "A man is holding a cup and singing a song.", {"A man is holding a cup."}),
        ("drop_phrase", "A boy is on a chair to reach a shelf.", {"A boy is on a chair."}),
        ("drop_phrase", "a castle, foggy night, oil painting", {"a castle, oil painting"}),
    ],
)
def test_edits_by_hand(kind: str, prompt: str, expected: set[str]) -> None:
    assert made(prompt, kind) == expected


def test_counts_agree_with_nouns_and_verbs() -> None:
    assert {"one cup", "three cups"} <= made("two cups", "change_count")
    assert "two knives" in made("one knife", "change_count")
    assert "two owls are on a roof" in made("an owl is on a roof", "change_count")
    assert all(text.startswith("The ") for text in made("The dog is on two chairs.", "change_count"))
    assert "4 cups" in made("3 cups", "change_count")


def test_changed_words_stay_in_their_class() -> None:
    for seed in range(20):
        (text,) = made("a red car", "change_attribute", seed)
        assert text not in ("a red car",) and text.split()[0] == ("an" if text.split()[1][0] in "aeiou" else "a")
        (relation,) = made("a cup above a plate", "change_relation", seed)
        assert relation not in ("a cup above a plate", "a cup below a plate")
    assert made("a tall tree", "change_attribute") == {"a short tree"}


def test_mistakes_of_the_prompt_that_an_edit_does_not_touch_stay() -> None:
    assert "a airplane" in made("a airplane behind a bowl", "drop_object")
    assert made("a airplane behind a red bowl", "drop_attribute") == {"a airplane behind a bowl"}


def test_weights_and_embeddings_survive() -> None:
    swapped = made("a (red:1.3) car and a (blue:0.8) bus <lora:x:1>", "swap_attributes")
    assert swapped == {"a (blue:0.8) car and a (red:1.3) bus <lora:x:1>"}
    for seed in range(5):
        (text,) = made("a (small:1.3) car <lora:x:1>", "change_attribute", seed)
        assert text == "a (large:1.3) car <lora:x:1>"


@pytest.mark.parametrize("text", ["a  cat , (dog:1.2)", "<lora:a:1> x-ray 'quoted' 8k!", "猫🐈‍⬛ قطة", "O'Neil’s"])
def test_tokens_give_the_text_back(text: str) -> None:
    assert "".join(token.space + token.text for token in tokenize(text)) == text


def test_analysis_of_a_sentence() -> None:
    found = analyze("A photo of three small dogs on the top of a wooden table, 8k", WordListTagger())
    assert [said(found.tokens[p.start : p.end]) for p in found.phrases] == ["three small dogs", "a wooden table"]
    assert [(p.head, p.plural) for p in found.phrases] == [("dog", True), ("table", False)]
    assert [phrase for _, _, phrase in found.relations] == ["on the top of"]
    assert [said(found.tokens[a:b]) for a, b in found.styles] == ["A photo of", "8k"]


def test_every_variant_differs_names_its_kind_and_repeats_by_seed() -> None:
    prompts = [
        "The thin white candlestick stood next to the wide black candle.",
        "one girl, two sofas, three peaches, three pigs and two birds",
        "A child is playing with a toy airplane in the backyard.",
        "portrait of a cyberpunk girl with neon lights, highly detailed, by greg rutkowski",
    ]
    for prompt in prompts:
        first = RulesDegrader().degrade(prompt, np.random.default_rng(1), 5)
        assert first == RulesDegrader().degrade(prompt, np.random.default_rng(1), 5)
        assert len({v.text for v in first} | {prompt}) == 6
        assert all(v.kind in RULES and v.change for v in first)
        assert not any(bad in v.text for v in first for bad in ("  ", " ,", ",,", "a a ", "the the"))


@pytest.mark.parametrize(
    "prompt",
    ["", "love", "x" * 10_000, "قطة حمراء", "一只红色的猫", "🐈 🐕‍🦺", "<lora:x:1>", ", , ,", "%s {} \\n", "...", "a"],
)
def test_what_no_rule_fits_is_refused_with_a_reason(prompt: str) -> None:
    with pytest.raises(UnusableError, match="no rule applies|longer than"):
        RulesDegrader().degrade(prompt, np.random.default_rng(0), 5)


def test_random_strings_never_crash() -> None:
    rng = np.random.default_rng(0)
    pieces = "a an red , and car (blue:1.2) <x> of photo two on is . 's 猫 to run".split()
    by_phrase, by_word = RemovalDegrader(0.4, 0.7, "phrases", True), RemovalDegrader(0.4, 0.7, "content_words")
    for degrader in (RulesDegrader(), by_phrase, by_word):
        for _ in range(400):
            prompt = " ".join(rng.choice(pieces, int(rng.integers(1, 12))))
            try:
                variants = degrader.degrade(prompt, rng, 5)
            except UnusableError:
                continue
            assert variants and all(v.text and v.text != prompt for v in variants)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="'blur' is unknown to 'rules'; known: drop_attribute"):
        RulesDegrader(("blur",))


def test_inflection() -> None:
    assert [plural(noun) for noun in ("box", "puppy", "toy", "knife", "sheep", "piece of food")] == [
        "boxes",
        "puppies",
        "toys",
        "knives",
        "sheep",
        "pieces of food",
    ]
    assert [article(noun) for noun in ("owl", "unicorn", "hour", "umbrella", "cat", "european")] == [
        "an",
        "a",
        "an",
        "an",
        "a",
        "a",
    ]


def test_removal_of_content_words_keeps_the_small_ones() -> None:
    degrader = RemovalDegrader(0.4, 0.7, "content_words")
    made = degrader.degrade("a red car on the old street", np.random.default_rng(0), 9)
    assert all([w for w in v.text.split() if w in ("a", "on", "the")] == ["a", "on", "the"] for v in made)
    assert all(len(v.text.split()) < 7 for v in made)


def test_removal_by_phrases_and_with_style_kept() -> None:
    prompt = "a photo of a red car beside an old house, oil painting"
    phrases = RemovalDegrader(0.4, 0.7, "phrases", keep_style=True).degrade(prompt, np.random.default_rng(0), 9)
    assert {v.text for v in phrases} == {
        "a photo of beside an old house, oil painting",
        "a photo of a red car oil painting",
    }
    kept = RemovalDegrader(0.4, 0.7, "words", keep_style=True).degrade(prompt, np.random.default_rng(0), 9)
    assert all(v.text.startswith("a photo of") and v.text.endswith("oil painting") for v in kept)


def test_hanta_plugs_in_and_its_absence_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "HanTa", None)
    with pytest.raises(UserError, match="pip install 'ddspo"):
        HanTaTagger()

    class Fake:
        def __init__(self, model: str) -> None:
            assert model == "morphmodel_en.pgz"

        def tag_sent(self, words: list[str]) -> list[tuple[str, str, str]]:
            return [(word, word, {"zorbly": "JJ", "glonk": "NN"}.get(word, "DT")) for word in words]

    module = types.ModuleType("HanTa")
    module.HanoverTagger = types.SimpleNamespace(HanoverTagger=Fake)
    monkeypatch.setitem(sys.modules, "HanTa", module)
    degrader = RulesDegrader(("drop_attribute",), HanTaTagger())
    assert degrader.degrade("a zorbly glonk", np.random.default_rng(0), 5)[0].text == "a glonk"


def test_spacy_plugs_in_and_its_absence_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match="pip install 'ddspo.spacy"):
        SpacyTagger()

    def pipeline(words: list[str]) -> list[types.SimpleNamespace]:
        kinds = {"zorbly": "ADJ", "glonk": "NOUN", "the": "X", "wooden": "NOUN"}
        return [types.SimpleNamespace(pos_=kinds.get(word, "X")) for word in words]

    pipeline.vocab = "vocabulary"  # type: ignore[attr-defined]
    spacy, tokens = types.ModuleType("spacy"), types.ModuleType("spacy.tokens")
    spacy.load = lambda name, exclude: pipeline  # type: ignore[attr-defined]
    tokens.Doc = lambda vocab, words: words  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    monkeypatch.setitem(sys.modules, "spacy.tokens", tokens)
    assert SpacyTagger().tag(["the", "wooden", "zorbly", "glonk"]) == ["determiner", "adjective", "adjective", "noun"]
    degrader = RulesDegrader(("drop_attribute",), TAGGERS["spacy"]())
    assert degrader.degrade("a zorbly glonk", np.random.default_rng(0), 5)[0].text == "a glonk"

    def absent(name: str, exclude: list[str]) -> None:
        raise OSError

    spacy.load = absent  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="spacy download en_core_web_sm"):
        SpacyTagger()


@pytest.mark.parametrize(
    ("kind", "prompt", "never"),
    [
        ("swap_attributes", "a parking meter above a red broccoli", "parking broccoli"),
        ("swap_attributes", "a brown carrot and a white potted plant", "potted carrot"),
        ("drop_attribute", "a potted plant", "a plant"),
        ("drop_object", "The tube is between the conical funnel and the box.", "between the box"),
        ("change_object", "a statue from a block of stone", "of "),
        ("generalize_noun", "a person looks at a map of the world", "an object of the world"),
        ("generalize_noun", "two toys in the yard", "place"),
        ("swap_objects", "A group of people are gathered around a campfire", "campfire are"),
        ("swap_objects", "A group of tourists is taking a selfie", "selfie is"),
    ],
)
def test_mistakes_once_found_in_samples_stay_mended(kind: str, prompt: str, never: str) -> None:
    for seed in range(8):
        try:
            made = RulesDegrader((kind,)).degrade(prompt, np.random.default_rng(seed), 9)
        except UnusableError:
            continue
        kept = "block of stone" if kind == "change_object" else None
        assert all((kept in v.text) if kept else (never not in v.text) for v in made), [v.text for v in made]
