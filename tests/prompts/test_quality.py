from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ddspo.errors import UserError
from ddspo.prompts.degrade import degrade_prompts
from ddspo.prompts.journal import Journal
from ddspo.prompts.quality import embedding_distances, text_distance
from ddspo.prompts.sources import PromptRecord
from ddspo.recipe import Degradation


def test_text_distance_by_hand() -> None:
    assert text_distance("a red car", "a red car") == 0
    assert text_distance("a Red  car", "A red car") == 0
    assert text_distance("a red car", "a car") == pytest.approx(1 / 3)
    assert text_distance("a red car", "a blue car") == pytest.approx(1 / 3)
    assert text_distance("a b c d", "d c b a") == pytest.approx(3 / 4)
    assert text_distance("a b", "x y z") == 1
    assert text_distance("", "") == 0


def slow_common(one: str, two: str) -> int:
    table = np.zeros((len(one) + 1, len(two) + 1), int)
    for i, a in enumerate(one):
        for j, b in enumerate(two):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def test_bit_parallel_equals_the_plain_table() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        one, two = ("".join(rng.choice(list("abcd"), int(rng.integers(1, 90)))) for _ in range(2))
        expected = 1 - slow_common(one, two) / max(len(one), len(two))
        assert text_distance(" ".join(one), " ".join(two)) == pytest.approx(expected)


def embed(texts: list[str]) -> np.ndarray:
    """Counts of 'red' and 'car' and a constant."""
    return np.array([[text.count("red"), text.count("car"), 1.0] for text in texts])


def test_embedding_distance_by_hand() -> None:
    ((same, without),) = embedding_distances(["red car"], [["car red", "car"]], embed)
    assert same == pytest.approx(0)
    assert without == pytest.approx(1 - 2 / np.sqrt(6))
    with pytest.raises(ValueError, match=r"\[2, D\]"):
        embedding_distances(["a"], [["b"]], lambda texts: np.zeros(3))


def test_filters_drop_and_count(tmp_path: Path) -> None:
    given = [PromptRecord("0" * 16, "a red car on a street"), PromptRecord("1" * 16, "blue blue blue house")]
    settings = Degradation(method="removal", variants=30, min_embedding_distance=0.05)
    summary = degrade_prompts(settings, given, tmp_path / "d.jsonl", seed=0, embed=embed)
    row = json.loads((tmp_path / "d.jsonl").read_text())
    assert all("red" not in text or "car" not in text for text in row["degraded_prompts"])
    assert min(how["embedding_distance"] for how in row["how"]) >= 0.05
    assert summary.skipped == {"every variant is too near to the prompt": 1}
    assert summary.dropped["nearer in embedding than min_embedding_distance"] > 0
    far = settings.model_copy(update={"min_embedding_distance": 0.0, "min_text_distance": 0.6})
    summary = degrade_prompts(far, given[:1], tmp_path / "e.jsonl", seed=0)
    row = json.loads((tmp_path / "e.jsonl").read_text())
    assert all(how["text_distance"] >= 0.6 for how in row["how"])
    assert summary.dropped["nearer in text than min_text_distance"] > 0
    with pytest.raises(UserError, match="needs the model's text encoder"):
        degrade_prompts(settings, given, tmp_path / "f.jsonl", seed=0)


def test_filters_on_many_prompts_keep_the_order(tmp_path: Path) -> None:
    given = [PromptRecord(f"{i:016x}", f"a red car number {i} here") for i in range(70)]
    degrade_prompts(Degradation(method="removal"), given, tmp_path / "d.jsonl", seed=0, embed=embed)
    rows = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [record.id for record in given]
    row = rows[40]
    for text, how in zip(row["degraded_prompts"], row["how"], strict=True):
        assert how["embedding_distance"] == pytest.approx(
            embedding_distances([row["prompt"]], [[text]], embed)[0][0], abs=1e-6
        )


def test_journal_keeps_answers_and_cuts_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with Journal(path) as journal:
        journal.put("k1", "eins\n\N{SNOWMAN}")
        journal.put("k2", "zwei")
        assert journal.get("k1") == "eins\n\N{SNOWMAN}" and journal.get("k3") is None
    with path.open("a") as file:
        file.write('{"key": "k3", "answ')
    with Journal(path) as journal:
        assert journal.get("k2") == "zwei" and journal.get("k3") is None
        journal.put("k3", "drei")
    with Journal(path) as journal:
        assert [journal.get(f"k{i}") for i in (1, 2, 3)] == ["eins\n\N{SNOWMAN}", "zwei", "drei"]
