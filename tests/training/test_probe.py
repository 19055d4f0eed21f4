"""The probe runs and leaves nothing; its hours are evaluations times seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddspo.plan import Plan, StagePlan
from ddspo.recipe import Recipe
from ddspo.training import probe as probe_module
from ddspo.training.probe import Probe, probe
from helpers.training_cases import changed, make_case


def test_hours_by_hand() -> None:
    plan = Plan(
        Recipe(), [StagePlan("pairs", "", 7200), StagePlan("train", "", 3600), StagePlan("evaluate", "", None)], []
    )
    measured = Probe(step_seconds=1.0, training_seconds=2.0, sampling_seconds=0.5, peak_bytes=12_300_000_000)
    assert measured.hours(plan) == {"pairs": 1.0, "train": 2.0}
    assert "together about 3 h" in measured.text(plan) and "12.30 GB" in measured.text(plan)


def test_a_run_that_asks_no_reference_can_be_probed(tmp_path: Path) -> None:
    recipe, _ = make_case(tmp_path / "case", parameters="full")
    recipe = changed(recipe, objective={"name": "denoising"}, target={"source": "forward_noise"})
    assert probe(changed(recipe, model={"height_px": 64})).sampling_seconds > 0


def test_what_goes_with_target_models_only_can_be_probed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, _ = make_case(tmp_path / "case")
    dspo = {"name": "dspo", "dspo_reward": "implicit", "beta": 0.001}
    recipe = Recipe.model_validate(
        recipe.model_dump()
        | {"target": {"source": "data_driven"}, "objective": dspo}
        | {"training": recipe.training.model_dump() | {"caption_dropout": 0.5}}
    )
    assert probe(changed(recipe, model={"height_px": 64})).step_seconds > 0
    assert "warning" not in capsys.readouterr().err, "two steps on random pairs say nothing about a run"


@pytest.mark.parametrize("source", ["training_free", "data_driven"])
def test_a_probe_measures_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    recipe, _ = make_case(tmp_path / "case", checkpoint_every_steps=1)
    recipe = changed(
        recipe, target={"source": source}, objective={"beta": "auto"}, output=tmp_path / "run", model={"height_px": 64}
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(probe_module.tempfile, "tempdir", str(temporary))
    measured = probe(recipe)
    assert measured.step_seconds > 0 and measured.training_seconds > 0 and measured.sampling_seconds > 0
    assert measured.training_seconds == pytest.approx(measured.step_seconds / (2 * 9))
    assert measured.peak_bytes is None
    assert not list(temporary.iterdir()) and not (tmp_path / "run").exists()
