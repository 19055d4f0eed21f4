"""The whole road: order of stages, the run folder's identity, costs, resuming; and once for real on a tiny pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddspo import alignment
from ddspo.alignment import align, headline, open_run, policies_of, total_costs
from ddspo.errors import UserError
from ddspo.recipe import Recipe
from ddspo.recipe_file import load_recipe
from helpers.tiny_pipelines import tiny_sd


def simple(output: Path, **sections: object) -> Recipe:
    return Recipe.model_validate({"output": str(output), "baselines": {"dpo": {}, "sft": {}}, **sections})


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the work of every stage by a note that it was asked for, and a cost of ten."""
    asked: list[str] = []

    def note(name: str, folder: Path) -> str:
        asked.append(name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cost.json").write_text('{"seconds": 1.5, "network_evaluations": 10}', encoding="utf-8")
        return str(folder)

    def train(recipe: Recipe, run: Path, baseline: str | None = None) -> str:
        folder = run / "baselines" / baseline if baseline else run / "policy_run"
        return note(f"train {baseline or 'policy'}", folder)

    def report(run: Path) -> Path:
        asked.append("report")
        return run / "report.html"

    monkeypatch.setattr(alignment, "degrade_stage", lambda recipe, run: note("degrade", run / "unused"))
    monkeypatch.setattr(alignment, "pairs_stage", lambda recipe, run: note("pairs", run / "pairs"))
    monkeypatch.setattr(alignment, "train_stage", train)
    monkeypatch.setattr(alignment, "evaluate_stage", lambda recipe, run: note("evaluate", run / "scores"))
    monkeypatch.setattr(alignment, "report_stage", report)
    return asked


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"training": {"mixed_precision": "fp16"}}, "needs an accelerator"),
        ({"baselines": {"dpo": {"training": {"mixed_precision": "fp16"}}}}, "needs an accelerator"),
        ({"model": {"frozen_dtype": "fp16"}}, "frozen_dtype fp16 needs training.mixed_precision"),
        ({"model": {"base": "nowhere/at_all"}}, "nowhere/at_all"),
        ({"evaluation": {"prompts": "nowhere.txt"}}, "evaluation.prompts: nowhere.txt does not exist"),
    ],
)
def test_what_would_end_a_late_stage_ends_the_first(
    stages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, object], told: str
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    with pytest.raises(UserError, match=told):
        align(simple(tmp_path / "run", **sections))
    assert stages == [] and not (tmp_path / "run").exists()


def test_stages_run_in_order_and_are_told_one_line_each(stages: list[str], tmp_path: Path) -> None:
    lines: list[str] = []
    report = align(simple(tmp_path / "run"), say=lines.append)
    assert report == tmp_path / "run" / "report.html"
    assert stages == ["degrade", "pairs", "train policy", "train dpo", "train sft", "evaluate", "report"]
    assert [line.split()[0] for line in lines[:-1]] == [f"[{number}/7]" for number in range(1, 8)]
    assert "50 F" in lines[-1]
    costs = json.loads((tmp_path / "run" / "costs.json").read_text())
    assert list(costs) == ["pairs", "train", "baseline dpo", "baseline sft", "evaluate", "total"]
    assert costs["total"] == {"seconds": 7.5, "network_evaluations": 50}


def test_the_folder_keeps_the_recipe_and_the_environment(stages: list[str], tmp_path: Path) -> None:
    recipe = simple(tmp_path / "run", seed=5)
    align(recipe, say=lambda line: None)
    assert load_recipe(tmp_path / "run") == recipe
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["packages"]["torch"] and environment["python"].startswith("3.")


def test_another_run_is_refused_with_the_difference(stages: list[str], tmp_path: Path) -> None:
    align(simple(tmp_path / "run"), say=lambda line: None)
    with pytest.raises(UserError, match=r"objective\.beta: 'auto' there, 5\.0 now"):
        align(simple(tmp_path / "run", objective={"beta": 5}), say=lambda line: None)
    changes = {"training": {"micro_batch_pairs": 4}, "evaluation": {"images_per_prompt": 3}, "baselines": {"dpo": {}}}
    stages.clear()
    align(simple(tmp_path / "run", **changes), say=lambda line: None)
    assert stages[-1] == "report", "what does not change the run may differ when it is taken up again"


def test_an_attempt_that_made_nothing_does_not_hold_the_folder(tmp_path: Path) -> None:
    open_run(simple(tmp_path / "run", prompts={"source": "typo.txt"}))
    (tmp_path / "run" / "degraded.jsonl").write_text("")
    open_run(simple(tmp_path / "run", prompts={"source": "right.txt"}))
    (tmp_path / "run" / "degraded.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"prompts\.source: 'right\.txt' there"):
        open_run(simple(tmp_path / "run", prompts={"source": "other.txt"}))


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="already holds other files"):
        open_run(simple(tmp_path / "full"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        open_run(simple(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot make"):
        open_run(simple(tmp_path / "file" / "run"))


def test_an_untrained_policy_is_named_with_its_command(tmp_path: Path) -> None:
    (tmp_path / "policy_run" / "policy").mkdir(parents=True)
    with pytest.raises(UserError, match="ddspo train --baseline dpo"):
        policies_of(simple(tmp_path), tmp_path)
    assert list(policies_of(simple(tmp_path, baselines={}), tmp_path)) == ["policy"]


def test_costs_of_an_empty_run(tmp_path: Path) -> None:
    assert total_costs(simple(tmp_path), tmp_path) == {"total": {"seconds": 0, "network_evaluations": 0}}


def test_headline(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    summary = {
        "base": {"overall": 0.5},
        "policy": {"overall": 0.625},
        "difference": {"mean": 0.125, "low": -0.01, "high": 0.2},
    }
    path.write_text(json.dumps(summary))
    assert headline(path) == "overall score: base 0.500, policy 0.625; difference +0.125 (-0.010 to +0.200)"
    path.write_text(json.dumps({**summary, "base": {"overall": None}}))
    assert "no overall score" in headline(path)


@pytest.mark.slow
def test_the_road_for_real(tmp_path: Path) -> None:
    """A random-weight pipeline learns nothing, but every file must come out, and a second call must add nothing."""
    recipe = Recipe.model_validate(
        {
            "output": str(tmp_path / "run"),
            "model": {"base": str(tiny_sd(tmp_path)), "height_px": 32, "width_px": 32},
            "prompts": {"limit": 4},
            "pairs": {"sampling": {"sampler": "ddim", "steps": 2, "guidance_scale": 2.0}, "pairs_per_shard": 3},
            "objective": {"beta": 10},
            "training": {
                "lora": {"rank": 2},
                "max_steps": 2,
                "global_batch_pairs": 2,
                "micro_batch_pairs": 2,
                "checkpoint_every_steps": 1,
            },
            "baselines": {"sft": {"objective": {"name": "denoising"}}},
            "evaluation": {"limit": 4, "sampling": {"sampler": "ddim", "steps": 2, "guidance_scale": 2.0}},
        }
    )
    report = align(recipe, say=lambda line: None)
    assert report.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")
    summary = json.loads(report.with_name("summary.json").read_text())
    assert {"base", "policy", "difference", "frechet", "stages"} <= set(summary)
    costs = json.loads((tmp_path / "run" / "costs.json").read_text())
    assert costs["pairs"]["network_evaluations"] == 4 * 2 * 2 * 2
    assert costs["train"]["network_evaluations"] == 2 * 2 * 9
    assert costs["baseline sft"]["network_evaluations"] == 2 * 2 * 3
    assert costs["evaluate"]["network_evaluations"] == 4 * 3 * 2 * 2
    policy = (tmp_path / "run" / "policy_run" / "policy" / "pytorch_lora_weights.safetensors").read_bytes()
    align(recipe, say=lambda line: None)
    again = json.loads((tmp_path / "run" / "costs.json").read_text())
    assert {name: cost["network_evaluations"] for name, cost in again.items()} == {
        name: cost["network_evaluations"] for name, cost in costs.items()
    }
    assert (tmp_path / "run" / "policy_run" / "policy" / "pytorch_lora_weights.safetensors").read_bytes() == policy
