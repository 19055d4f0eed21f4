"""Which rows an import uses: what is left out is counted, and settings without sense are refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ddspo.errors import UserError
from ddspo.pairs.import_pairs import ImportSettings, import_pairs, plan_import
from ddspo.pairs.store import PairStore
from helpers.import_cases import SMALL, recipe
from helpers.pair_making import write_degraded
from helpers.preference_sets import folder_of_pictures, row, write_parquet


def test_what_cannot_be_used_is_counted(tmp_path: Path, family: Any) -> None:
    rows = [
        row(0),
        row(1, label=0.5),
        row(2, jpg_0=b"no picture"),
        row(3, (20, 20)),
        row(0),
        row(4, caption=None),
        row(5),
        row(0),
        row(0, label=0),
    ]
    source = write_parquet(tmp_path / "set.parquet", rows, group=4)
    summary = import_pairs(str(source), tmp_path / "pairs", recipe(family), SMALL, family=family)
    assert summary.pairs == 3  # 0 and 5, and 0 judged the other way round, which is another judgment
    assert summary.skipped == {"tie": 1, "broken picture": 1, "too small": 1, "repeated": 2, "no caption": 1}
    assert summary.pairs + sum(summary.skipped.values()) == summary.rows == 9
    assert "imported 3 pairs of 9 rows in 1 sizes; left out: 1 broken picture, 1 no caption, 2 repeated" in str(summary)
    store = PairStore(tmp_path / "pairs")
    assert len(store) == len({told["id"] for told in store.rows}) == 3
    assert len(store.read(range(3)).win) == 3


def test_nothing_usable_is_an_error_that_says_why(tmp_path: Path, family: Any) -> None:
    source = write_parquet(tmp_path / "set.parquet", [row(0, label=0.5), row(1, label=0.5)])
    with pytest.raises(UserError, match=r"no pair of 2 rows can be used \(2 tie\)"):
        import_pairs(str(source), tmp_path / "pairs", recipe(family), SMALL, family=family)
    with pytest.raises(UserError, match="not finished"):
        PairStore(tmp_path / "pairs")


def test_a_picture_is_read_once(tmp_path: Path, family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source, read = folder_of_pictures(tmp_path / "set", 3), Counter[str]()
    (source / "rejected" / "2.png").write_bytes(b"")
    genuine = Path.read_bytes

    def counted(path: Path) -> bytes:
        read[path.name] += path.suffix == ".png"
        return genuine(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    summary = import_pairs(str(source), tmp_path / "pairs", recipe(family), SMALL, family=family)
    assert {name: count for name, count in read.items() if count} == {"0.png": 2, "1.png": 2, "2.png": 2}  # two sides
    assert (summary.pairs, summary.skipped) == (2, {"missing picture": 1})


def test_degraded_prompts_join_by_prompt(tmp_path: Path, family: Any) -> None:
    degraded = write_degraded(tmp_path / "degraded.jsonl", [("a cat 0", ["cat"]), ("a cat 2", ["a", "0"])])
    source = write_parquet(tmp_path / "set.parquet", [row(n) for n in range(3)])
    settings = ImportSettings(degraded=degraded, batch_pairs=2)
    summary = import_pairs(str(source), tmp_path / "pairs", recipe(family), settings, family=family)
    told = {row["prompt"]: row["degraded_prompt"] for row in PairStore(tmp_path / "pairs").rows}
    assert told["a cat 0"] == "cat" and told["a cat 1"] is None and told["a cat 2"] in ("a", "0")
    assert summary.with_degraded_prompt == 2


def test_a_plan_is_told_without_making_anything(tmp_path: Path, family: Any) -> None:
    source = str(write_parquet(tmp_path / "set.parquet", [row(n) for n in range(5)]))
    text = plan_import(source, recipe(family), ImportSettings(limit=3))
    assert text.startswith(f"3 rows of {source} in 1 parts, at most 0.00 GB in 1 sizes of about 64×64 px")
    assert not (tmp_path / "pairs").exists()


@pytest.mark.parametrize("field", ["batch_pairs", "rows_per_part", "max_aspect", "max_upscale", "limit"])
def test_settings_without_sense_are_refused(tmp_path: Path, family: Any, field: str) -> None:
    with pytest.raises(UserError, match=f"--{field.replace('_', '-')} must be at least 1"):
        settings = ImportSettings(**{field: 0})
        import_pairs("nowhere", tmp_path / "pairs", recipe(family), settings, family=family)
