from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ddspo.files import read_json, write_json, write_jsonl, write_text
from ddspo.recipe import Recipe
from ddspo.report.build import build_report
from ddspo.report.data import load_run
from ddspo.report.degradation import ALL, degradation, quantiles, read_kinds
from helpers.fake_run import make_run


def how(kind: str, text: float, **more: float) -> dict[str, Any]:
    return {"kind": kind, "change": "x", "text_distance": text, **more}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "run", per_category=1, steps=3, baselines=False)
    rows = [
        {"id": "a", "prompt": "p", "degraded_prompts": ["x", "y"], "how": [how("drop_color", 0.2), how("swap", 0.5)]},
        {"id": "b", "prompt": "q", "degraded_prompts": ["z"], "how": [how("drop_color", 0.4)]},
    ]
    write_jsonl(run / "degraded.jsonl", rows)
    summary = {"skipped": {"one word": 2}, "dropped": {"nearer in text <b>": 3}}
    write_json(run / "degraded.settings.json", {"summary": summary})
    return run


def measured(run: Path, minimum: float = 0.0) -> None:
    kinds = ["drop_color", "drop_color", "swap"]
    write_jsonl(run / "pairs" / "shard-00000.jsonl", [{"id": str(n), "kind": kind} for n, kind in enumerate(kinds)])
    write_json(run / "pairs" / "contrast-00000.json", {"contrast": {"0": 1e-4, "1": 3e-4, "2": 0.02}})
    write_json(run / "pairs" / "contrast.cost.json", {"seconds": 2.0, "network_evaluations": 24.0})
    recipe = Recipe().model_dump(mode="json")
    recipe["pairs"] |= {"contrast_draws": 4, "min_contrast": minimum}
    write_text(run / "recipe.yaml", yaml.safe_dump(recipe))


def test_quantiles_by_hand() -> None:
    assert quantiles([]) is None and quantiles([3.0]) == (3.0, 3.0, 3.0)
    assert quantiles([0.0, 10.0, 5.0]) == pytest.approx((1.0, 5.0, 9.0))


def test_kinds_are_counted_and_the_threshold_tells_what_it_cost(run: Path) -> None:
    measured(run, 2e-4)
    drop, swap = read_kinds(run)
    assert (drop.name, drop.variants, drop.text, drop.pairs, drop.contrast) == (
        "drop_color", 2, [0.2, 0.4], 2, [1e-4, 3e-4]
    )  # fmt: skip
    assert (swap.name, swap.contrast, drop.left_out(2e-4), swap.left_out(2e-4)) == ("swap", [0.02], 1, 0)
    section = degradation(load_run(run))
    assert section is not None
    assert (section["left_out"], section["pairs"], section["embedding"]) == (1, 3, False)
    assert [row["left_out"] for row in section["rows"]] == [1, 1, 0] and section["rows"][0]["name"] == ALL
    assert section["reasons"] == [("prompts", "one word", 2), ("variants", "nearer in text <b>", 3)]


def test_the_page_shows_the_distribution_and_the_ledger_its_cost(run: Path) -> None:
    measured(run, 2e-4)
    page = build_report(run).read_text(encoding="utf-8")
    assert 'id="degradation"' in page and "Contrast of pairs by kind of degradation" in page
    assert "1 of 3 pairs lie below" in page and "nearer in text &lt;b&gt;" in page
    assert read_json(run / "summary.json")["stages"]["contrast"]["network_evaluations"] == 24


def test_without_measurement_the_page_shows_distances_only(run: Path) -> None:
    page = build_report(run).read_text(encoding="utf-8")
    assert 'id="degradation"' in page and "Contrast of pairs" not in page and "pairs.contrast_draws" in page


def test_torn_or_strange_files_leave_the_report_whole(run: Path) -> None:
    measured(run)
    (run / "pairs" / "contrast-00001.json").write_text("{", encoding="utf-8")
    (run / "degraded.settings.json").write_text("[", encoding="utf-8")
    with (run / "degraded.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"how": [{"kind": "swap", "text_distance": "far"}]}\n{"torn')
    swap = next(kind for kind in read_kinds(run) if kind.name == "swap")
    assert (swap.variants, swap.text) == (2, [0.5])
    build_report(run)
