"""What compare does with its cells: choosing, statistics, files; training and drawing are replaced by known numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ddspo.comparison import run as module
from ddspo.comparison.jobs import Result, Task
from ddspo.comparison.judge import Judged, ahead
from ddspo.comparison.matrix import load_matrix
from ddspo.comparison.plan import plan_text
from ddspo.comparison.run import compare, open_comparison
from ddspo.errors import UserError
from ddspo.pairs import store
from ddspo.report.comparison import build_comparison_page

PROMPTS = 40
GAINS = {"ddspo-200": 0.1, "ddspo-1000": 0.3, "ddspo-auto": 0.2, "sft": -0.1, "reference": 0.0}
MATRIX = {
    "base": "tinyscenes",
    "set": {"evaluation": {"bootstrap_samples": 300}},
    "seeds": [0, 1],
    "validation": {"prompts": "tinyscenes:validation"},
    "versus": "sft",
    "methods": {
        "ddspo": {
            "target": {"source": "training_free"},
            "objective": {"name": "preference"},
            "sweep": {"objective.beta": [200, 1000]},
            "auto": True,
        },
        "sft": {"target": {"source": "forward_noise"}, "objective": {"name": "denoising"}},
    },
}


def found(task: Task) -> Result:
    """A policy whose scores are the reference's plus its gain, the same for all pictures; seed 1 is better by 0.02."""
    seed = task.cell.seed if task.cell else 0
    base = np.random.default_rng(0).random((PROMPTS, 2)) * 0.5 + 0.2
    scores = base + GAINS[task.name.rpartition("-seed")[0] or task.name] + 0.02 * seed
    groups = {"color": list(range(PROMPTS // 2)), "shape": list(range(PROMPTS // 2, PROMPTS))}
    judged = Judged(scores, 30.0 - 10 * float(scores.mean()), groups, {}, True, _cost(100.0))
    rows = [{"step": step, "drift_over_contrast": 0.1 * step} for step in range(1, 11)]
    if task.cell and task.cell.value == "auto":
        rows = [row | {"beta": 700.0 + seed} for row in rows]
    return Result(judged, _cost(1000.0) if task.cell else _cost(0.0), rows if task.cell else [])


def _cost(evaluations: float) -> dict[str, float]:
    return {"seconds": 2.0, "network_evaluations": evaluations}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tasks, in order; nothing is trained or drawn."""
    names: list[str] = []

    def work(task: Task) -> Result:
        names.append(f"{task.where}/{task.name}")
        return found(task)

    def rows(task: Any) -> None:
        task.folder.mkdir(parents=True, exist_ok=True)
        (task.folder / "cost.json").write_text(json.dumps(_cost(300.0)))

    def pairs(recipe: Any, folder: Path) -> str:
        (folder / "pairs").mkdir()
        (folder / "pairs" / "cost.json").write_text(json.dumps(_cost(5000.0)))
        return str(folder / "pairs")

    monkeypatch.setattr(module, "work_on", work)
    monkeypatch.setattr(module, "make_rows", rows)
    monkeypatch.setattr(module, "degrade_stage", lambda recipe, folder: "")
    monkeypatch.setattr(module, "pairs_stage", pairs)
    return names


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "m.yaml"
    path.write_text(yaml.safe_dump({**MATRIX, "output": str(folder / "out"), **changes}, sort_keys=False))
    return path


def test_values_are_chosen_on_validation_and_told_on_heldout_prompts(asked: list[str], tmp_path: Path) -> None:
    page = compare(*load_matrix(write(tmp_path)), say=lambda line: None)
    assert asked == [
        "validation/reference", "validation/ddspo-200-seed0", "validation/ddspo-1000-seed0",
        "validation/ddspo-auto-seed0", "heldout/reference",
        "heldout/ddspo-1000-seed0", "heldout/ddspo-1000-seed1", "heldout/ddspo-auto-seed0",
        "heldout/ddspo-auto-seed1", "heldout/sft-seed0", "heldout/sft-seed1",
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "chosen.json").read_text()) == {"ddspo": 1000.0}
    result = json.loads(page.with_suffix(".json").read_text())
    best, auto, sft = result["rows"]
    assert [row["name"] for row in result["rows"]] == ["ddspo", "ddspo, auto", "sft"]
    assert best["value"] == 1000 and auto["betas"] == [700.0, 701.0]
    assert best["gain"]["mean"] == pytest.approx(0.31) and best["gain"]["low"] < 0.31 < best["gain"]["high"]
    assert best["against_versus"]["mean"] == pytest.approx(0.4) and sft["against_versus"] is None
    assert best["drift_over_contrast"] == pytest.approx(0.95), "mean of the last fifth: steps 9 and 10"
    assert result["sweeps"]["ddspo"]["best"] == 1000 and result["sweeps"]["ddspo"]["auto"]["value"] == 700
    assert best["categories"].keys() == {"color", "shape"}


def test_a_method_that_runs_at_auto_alone_can_be_compared_with(asked: list[str], tmp_path: Path) -> None:
    ddspo = {key: value for key, value in MATRIX["methods"]["ddspo"].items() if key != "sweep"}  # type: ignore[index]
    methods = {**MATRIX["methods"], "ddspo": ddspo}  # type: ignore[dict-item]
    page = compare(*load_matrix(write(tmp_path, methods=methods, versus="ddspo")), say=lambda line: None)
    rows = {row["name"]: row for row in json.loads(page.with_suffix(".json").read_text())["rows"]}
    assert rows["sft"]["against_versus"]["mean"] == pytest.approx(-0.3) and rows["ddspo"]["against_versus"] is None


def test_the_page_says_that_the_run_that_chose_is_judged_too(asked: list[str], tmp_path: Path) -> None:
    page = compare(*load_matrix(write(tmp_path)), say=lambda line: None)
    assert "chosen by runs with seed 0 on validation prompts, and those runs are among the 2" in page.read_text()


def test_win_rates_mirror_each_other(asked: list[str], tmp_path: Path) -> None:
    result = json.loads(compare(*load_matrix(write(tmp_path)), say=lambda _: None).with_suffix(".json").read_text())
    rates, names = result["win_rate"]["rows"], result["win_rate"]["names"]
    assert names[0] == "reference" and rates[1][0]["mean"] == 1.0, "ddspo is above the reference in every picture"
    for i in range(len(names)):
        assert rates[i][i] is None
        for j in range(i):
            assert rates[i][j]["mean"] + rates[j][i]["mean"] == pytest.approx(1)
    assert ahead(np.array([1.0, 0.0, 2.0]), np.array([0.0, 0.0, 3.0]), True).tolist() == [1, 0.5, 0]
    assert ahead(np.array([1.0, 0.0, 2.0]), np.array([0.0, 0.0, 3.0]), False).tolist() == [0, 0.5, 1]


def test_costs_count_a_training_once_and_sharing_says_what_separate_means(asked: list[str], tmp_path: Path) -> None:
    result = json.loads(compare(*load_matrix(write(tmp_path)), say=lambda _: None).with_suffix(".json").read_text())
    evaluations = {stage: cost["network_evaluations"] for stage, cost in result["costs"].items()}
    rows = 300.0 * len(list((tmp_path / "out" / "reference_rows").iterdir()))
    assert evaluations["training"] == 7000.0, "three of the sweep, of which two go on; two more seeds; two of sft"
    assert (evaluations["pairs"], evaluations["validation"], evaluations["heldout"]) == (5000.0, 400.0, 700.0)
    assert evaluations["total"] == 5000 + rows + 7000 + 400 + 700
    shared, separate = 3 * 1000 + 300, 3 * (1000 + 10 * 64 * 3)
    sharing = result["sharing"]
    assert sharing["training"] == {"shared": shared, "separate": separate, "ratio": shared / separate}
    assert sharing["training and validation"]["separate"] == separate + 3 * 100 + 3 * 100
    assert sharing["everything"]["shared"] == shared + 3 * 100 + 100 + 5000
    assert sharing["everything"]["separate"] == separate + 3 * 200 + 3 * 5000


def test_the_page_is_self_contained_and_escapes(asked: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, name="<script>alert(1)</script>")
    page = compare(*load_matrix(path), say=lambda _: None).read_text(encoding="utf-8")
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert not re.search(r"(src|href)=\"(?!#|data:)|@import|url\(", page), "nothing is fetched"
    for told in ("ddspo, auto", "Fréchet", "What sharing saved", "Win rates", 'id="sweep-ddspo-t"', "+0.310"):
        assert told in page, told
    assert "| ddspo | 1000 |" in (tmp_path / "out" / "comparison.md").read_text()


def test_only_win_rates_whose_interval_leaves_out_one_half_are_bold(asked: list[str], tmp_path: Path) -> None:
    source = compare(*load_matrix(write(tmp_path)), say=lambda _: None).with_suffix(".json")
    data = json.loads(source.read_text())
    for row in data["win_rate"]["rows"]:
        for cell in filter(None, row):
            cell.update(mean=0.55, low=0.4, high=0.7)
    data["win_rate"]["rows"][0][1].update(mean=0.7, low=0.6, high=0.8)
    source.write_text(json.dumps(data))
    page = build_comparison_page(source).read_text(encoding="utf-8")
    assert re.findall(r'<td class="([^"]*)" style="--w', page).count("win clear") == 1
    assert page.count('<td class="win" style') == 11


def test_several_ways_to_judge_have_a_page_each(asked: list[str], tmp_path: Path) -> None:
    heldout = {"plain": {}, "guided": {"sampling": {"guidance_scale": 4.0}}}
    page = compare(*load_matrix(write(tmp_path, heldout=heldout)), say=lambda _: None)
    assert page.name == "comparison.html" and page.with_name("comparison-guided.html").exists()
    guided = json.loads(page.with_name("comparison-guided.json").read_text())
    assert (guided["judged"], guided["guidance_scale"]) == ("guided", 4.0)
    assert "guided/sft-seed1" in asked and "plain/sft-seed1" in asked


def test_prompts_that_choose_must_not_judge(tmp_path: Path) -> None:
    path = write(tmp_path, validation={"prompts": "tinyscenes:heldout", "limit": 5})
    with pytest.raises(UserError, match="5 of 5 prompts are in heldout as well"):
        open_comparison(*load_matrix(path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("start", [open_comparison, plan_text])
def test_final_prompts_that_are_not_there_are_missed_before_any_work(
    tmp_path: Path, start: Callable[..., object]
) -> None:
    path = write(tmp_path, heldout={"plain": {}, "other": {"prompts": "gone.txt"}}, validation={}, methods={"sft": {}})
    with pytest.raises(UserError, match="^evaluation.prompts: gone.txt does not exist"):
        start(*load_matrix(path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("start", [open_comparison, plan_text])
def test_methods_that_cannot_train_are_refused_before_any_work(tmp_path: Path, start: Callable[..., object]) -> None:
    dropping = {"target": {"source": "training_free"}, "training": {"caption_dropout": 0.1}}
    path = write(tmp_path, methods={**MATRIX["methods"], "dropping": dropping})  # type: ignore[dict-item]
    with pytest.raises(UserError, match="^methods.dropping: .*caption_dropout leaves target.source 'training_free'"):
        start(*load_matrix(path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("start", [open_comparison, plan_text])
def test_given_pairs_must_serve_every_method(
    tmp_path: Path, start: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    class BareStore:
        """Three pairs without degraded prompts, as an import leaves them."""

        def __init__(self, folder: Path, min_contrast: float) -> None:
            self.folder, self.rows = folder, [{"degraded_prompt": None}] * 3

        def __len__(self) -> int:
            return len(self.rows)

    path = write(tmp_path, pairs=str(tmp_path / "pairs"))
    with pytest.raises(UserError, match="pairs does not exist; make it with"):
        start(*load_matrix(path))
    (tmp_path / "pairs").mkdir()
    monkeypatch.setattr(store, "PairStore", BareStore)
    with pytest.raises(UserError, match="^methods.ddspo: .*no degraded prompt"):
        start(*load_matrix(path))
    assert not (tmp_path / "out").exists()


def test_a_method_that_only_draws_otherwise_is_not_trained(asked: list[str], tmp_path: Path) -> None:
    methods = {**MATRIX["methods"], "guided": {"train": False, "evaluation": {"sampling": {"guidance_scale": 4.0}}}}  # type: ignore[dict-item]
    GAINS["guided"] = 0.05
    matrix, base = load_matrix(write(tmp_path, methods=methods))
    result = json.loads(compare(matrix, base, say=lambda _: None).with_suffix(".json").read_text())
    row = result["rows"][-1]
    assert (row["name"], row["kind"], row["seeds"], row["steps"]) == ("guided", "untrained", 1, 0)
    assert row["gain"]["mean"] == pytest.approx(0.05)
    comparison = open_comparison(matrix, base)
    assert comparison.judged_by("heldout", "guided").evaluation.sampling.guidance_scale == 4.0
    assert comparison.judged_by("heldout", "sft").evaluation.sampling.guidance_scale == 1.0


def test_the_plan_adds_up(tmp_path: Path) -> None:
    text = plan_text(*load_matrix(write(tmp_path, set={"training": {"max_steps": 10}, "evaluation": {"limit": 20}})))
    lines = {line.split()[0]: line.split()[1] for line in text.splitlines() if " F " in line}
    figures: Sequence[int] = [
        int(lines[stage].replace(",", "")) for stage in ("pairs", "training", "validation", "heldout")
    ]
    assert figures[1] == (5 * 9 + 2 * 3) * 10 * 64, (
        "two values and auto; the chosen one and auto again with another seed"
    )
    assert int(lines["total"].replace(",", "")) == sum(figures)
    assert not (tmp_path / "out").exists()
