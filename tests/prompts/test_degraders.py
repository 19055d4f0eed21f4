from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from ddspo.errors import UserError
from ddspo.prompts.removal import RemovalDegrader
from ddspo.prompts.scenes import ScenesDegrader
from ddspo.prompts.variants import UnusableError
from tinyscenes.edits import EDITS, meaning
from tinyscenes.language import parse, speak
from tinyscenes.prompts import split_of, train_prompts
from tinyscenes.scenes import CATEGORIES, sample_description


def is_subsequence(short: list[str], long: list[str]) -> bool:
    rest = iter(long)
    return all(word in rest for word in short)


def test_removal_drops_the_published_share_and_keeps_order() -> None:
    words = [f"w{i}" for i in range(100)]
    made = RemovalDegrader(0.4, 0.7).degrade(" ".join(words), np.random.default_rng(0), 200)
    assert len({v.text for v in made}) == 200
    dropped = [100 - len(v.text.split()) for v in made]
    assert min(dropped) >= 40 and max(dropped) <= 70
    # uniform over 40..69: mean 54.5, standard error 8.7 / sqrt(200)
    assert abs(np.mean(dropped) - 54.5) < 2.5
    assert all(is_subsequence(v.text.split(), words) for v in made)
    assert all(sorted([*v.text.split(), *v.change[2:].split()]) == sorted(words) for v in made)


def test_removal_of_short_prompts() -> None:
    degrader = RemovalDegrader(0.4, 0.7)
    assert {v.text for v in degrader.degrade("red cat", np.random.default_rng(0), 5)} == {"red", "cat"}
    assert [v.text for v in degrader.degrade("go go", np.random.default_rng(0), 5)] == ["go"]
    with pytest.raises(UnusableError, match="one word"):
        degrader.degrade("cat", np.random.default_rng(0), 5)
    everything = RemovalDegrader(1.0, 1.0).degrade("a b c", np.random.default_rng(0), 5)
    assert {v.text for v in everything} == {"a", "b", "c"}


def test_removal_is_equal_in_every_process() -> None:
    code = (
        "import numpy as np; from ddspo.prompts.removal import RemovalDegrader as R;"
        "print([v.text for v in R(.4, .7).degrade('a b c d e f g h', np.random.default_rng(3), 5)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_scene_edits_by_hand() -> None:
    texts = {
        kind: {v.text for v in group}
        for kind, group in ScenesDegrader().edits("a striped red circle above a plain blue square").items()
    }
    assert texts["drop_color"] == {
        "a striped circle above a plain blue square",
        "a striped red circle above a plain square",
    }
    # an unsaid texture is plain anyway, so dropping 'plain' says the same
    assert texts["drop_texture"] == {"a red circle above a plain blue square"}
    assert texts["drop_thing"] == {"a striped red circle", "a plain blue square"}
    assert texts["drop_relation"] == {"a striped red circle and a plain blue square"}
    assert texts["swap_attributes"] == {"a plain blue circle above a striped red square"}
    assert texts["reverse_relation"] == {"a striped red circle below a plain blue square"}
    assert texts["change_relation"] == {
        "a striped red circle to the left of a plain blue square",
        "a striped red circle to the right of a plain blue square",
    }
    assert len(texts["change_color"]) == 10
    assert len(texts["change_shape"]) == 6
    assert "a striped red square above a plain blue square" in texts["change_shape"]
    counts = ScenesDegrader(("change_count",)).edits("two red circles")
    assert {v.text: v.change for v in counts["change_count"]} == {
        "a red circle": "2 -> 1 (circle)",
        "three red circles": "2 -> 3 (circle)",
        "four red circles": "2 -> 4 (circle)",
    }


def test_meaning_is_blind_to_order_and_wording() -> None:
    assert meaning(parse("a red circle and a cross")) == meaning(parse("a cross and a plain red circle"))
    assert meaning(parse("a circle above a cross")) == meaning(parse("a cross below a circle"))
    assert meaning(parse("a circle to the right of a cross")) == meaning(parse("a cross to the left of a circle"))
    assert meaning(parse("a circle above a cross")) != meaning(parse("a cross above a circle"))


@pytest.mark.parametrize("category", CATEGORIES)
def test_scene_variants_are_prompts_of_other_meaning(category: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        description = sample_description(rng, category)
        made = ScenesDegrader().degrade(speak(description), rng, 5)
        assert len(made) == 5
        assert len({meaning(parse(v.text)) for v in made} | {meaning(description)}) == 6
        assert all(v.kind in EDITS and v.change for v in made)


def test_swap_that_changes_nothing_is_no_variant() -> None:
    with pytest.raises(UnusableError, match="none of the kinds"):
        ScenesDegrader(("swap_attributes",)).degrade("a red circle and a red cross", np.random.default_rng(0), 5)


def test_kinds_select_and_unknown_kinds_are_refused() -> None:
    made = ScenesDegrader(("change_color",)).degrade("two red circles", np.random.default_rng(0), 9)
    # Six colors, less its own, less the two that are held out for circles.
    assert {v.kind for v in made} == {"change_color"} and len(made) == 3
    with pytest.raises(UserError, match="'blur' is unknown"):
        ScenesDegrader(("blur",))


def test_foreign_prompts_are_refused_with_a_reason() -> None:
    with pytest.raises(UnusableError, match="not a tinyscenes prompt"):
        ScenesDegrader().degrade("an astronaut riding a horse", np.random.default_rng(0), 5)


def test_mixture_is_balanced_over_kinds() -> None:
    first = [
        ScenesDegrader().degrade("a yellow triangle above a cyan cross", np.random.default_rng(i), 1)[0].kind
        for i in range(800)
    ]
    # eight kinds apply; each should come first about 100 times (standard deviation 9)
    assert len(set(first)) == 8 and all(60 < first.count(kind) < 140 for kind in set(first))


def test_training_prompts_are_never_degraded_into_held_out_combinations() -> None:
    """Seen on the losing side only, they would be unlearned."""
    degrader = ScenesDegrader()
    for row in train_prompts():
        for variants in degrader.edits(row["prompt"]).values():
            assert not [v.text for v in variants if split_of(parse(v.text)) != "train"]
    held_out = degrader.edits("a red square")["change_color"]
    assert "a cyan square" in [v.text for v in held_out], "a held-out prompt is degraded freely"
