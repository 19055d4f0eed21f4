"""The whole stage on a tiny pipeline: same seeds, exact bookkeeping, what is told and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddspo.errors import UserError
from ddspo.evaluation import evaluate as stage
from ddspo.evaluation.evaluate import check_evaluation, evaluate
from ddspo.evaluation.pictures import read_pngs
from ddspo.families.load import load_family
from ddspo.files import read_json, read_jsonl
from helpers.evaluation_cases import PROMPTS, policy_of, recipe_for
from helpers.tiny_pipelines import tiny_sd

pytestmark = pytest.mark.usefixtures("few_real_renders")


def test_rows_and_pictures(whole: Path) -> None:
    rows = list(read_jsonl(whole / "scores.jsonl"))
    assert [row["model"] for row in rows] == ["reference"] * 10 + ["idle"] * 10 + ["bold"] * 10
    assert [row["prompt"] for row in rows[:10:2]] == list(PROMPTS)
    assert [row["category"] for row in rows[:10:2]] == list(PROMPTS.values())
    assert [row["index"] for row in rows[:4]] == [0, 1, 0, 1]
    for reference, policy in zip(rows[:10], rows[20:], strict=True):
        assert (reference["id"], reference["index"], reference["seed"]) == (
            policy["id"],
            policy["index"],
            policy["seed"],
        )
        assert reference["score"] == reference["scores"]["tinyscenes"] in (0.0, 1.0)
        assert set(reference["detail"]) == {"failed", "fraction", "failure"}
    assert len({row["seed"] for row in rows}) == 10
    images = {
        name: read_pngs([whole / row["image"] for row in rows if row["model"] == name])
        for name in ("reference", "idle", "bold")
    }
    assert images["reference"].shape == (10, 32, 32, 3)
    np.testing.assert_array_equal(images["reference"], images["idle"])
    assert (images["reference"] != images["bold"]).any((1, 2, 3)).all()


def test_summary(whole: Path) -> None:
    found = read_json(whole / "evaluation.json")
    assert (found["format"], found["scorer"], found["prompts"], found["images"]) == (1, "tinyscenes", 5, 10)
    assert found["categories"] == {"color": 3, "numeracy": 2}
    assert list(found["models"]) == ["reference", "idle", "bold"]
    assert "not Inception-v3" in found["features"] and found["notes"] == []
    reference, idle, bold = found["models"].values()
    rows = [row for row in read_jsonl(whole / "scores.jsonl") if row["model"] == "reference"]
    assert reference["overall"]["mean"] == pytest.approx(np.mean([row["score"] for row in rows]))
    assert sum(reference["failures"].values()) == 10
    assert "difference" not in reference
    assert idle["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}
    assert "versus" not in reference and list(bold["versus"]) == ["idle"]
    # The idle policy draws what the reference draws.
    assert bold["versus"]["idle"] == bold["difference"]
    assert idle["versus"]["bold"]["mean"] == pytest.approx(-bold["difference"]["mean"])
    assert idle["win_rate"] == {"mean": 0.5, "low": 0.5, "high": 0.5, "wins": 0, "ties": 10, "losses": 0}
    assert idle["frechet"] == pytest.approx(reference["frechet"])
    assert bold["frechet"] != pytest.approx(reference["frechet"])
    assert set(bold["category_differences"]) == {"color", "numeracy"}
    assert bold["scorers"]["tinyscenes"]["overall"] == bold["overall"]
    # Random networks draw nothing like a scene; real renders are far closer to other real renders.
    assert 0 < found["frechet_floor"] < reference["frechet"]
    assert 1 < found["inception_score_real"] <= 24


def test_cost_counts_rows(whole: Path) -> None:
    assert read_json(whole / "cost.json")["network_evaluations"] == 3 * 10 * 2 * 2  # models, pictures, steps, guidance


def test_statistics_may_change(home: Path, whole: Path) -> None:
    before = read_json(whole / "evaluation.json")
    policies = {"idle": home / "idle", "bold": home / "bold"}
    found = evaluate(recipe_for(home, confidence=0.5, set_metrics=[]), policies, whole).results
    assert found["confidence"] == 0.5
    assert found["models"]["bold"]["frechet"] is None and found["features"] is None and found["notes"] == []
    assert evaluate(recipe_for(home), policies, whole).results == before


def test_a_denoiser_that_training_changed_is_not_taken_for_the_reference(
    home: Path, whole: Path, tmp_path: Path
) -> None:
    family = load_family(str(home / "base"))
    with torch.no_grad():
        for parameter in family.denoiser.parameters():
            parameter.mul_(1.5)
    evaluate(recipe_for(home), {}, tmp_path, family=family)
    for picture in tmp_path.glob("images/reference/*.png"):
        assert picture.read_bytes() == (whole / picture.relative_to(tmp_path)).read_bytes()


def test_prompts_of_other_worlds(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No categories, no features: both are left out, and the report is told why."""
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n" + "a very long prompt " * 40)
    recipe = recipe_for(home, prompts=str(tmp_path / "prompts.txt"), scorers=["pickscore"])
    monkeypatch.setattr(stage, "load_scorer", lambda choice, device: _Brightness())
    found = evaluate(recipe, {"bold": home / "bold"}, tmp_path / "scores").results
    assert found["categories"] == {} and found["models"]["bold"]["category_differences"] == {}
    assert found["models"]["bold"]["failures"] == {}
    assert found["models"]["bold"]["frechet"] is None and found["features"] is None
    assert len(found["notes"]) == 2 and "1 of 3 prompts" in found["notes"][0] and "tinyscenes" in found["notes"][1]
    assert list(read_jsonl(tmp_path / "scores" / "scores.jsonl"))[0]["category"] is None


class _Brightness:
    name, higher_is_better, description = "brightness", True, "mean pixel value"

    def check(self, records: Any) -> None:
        pass

    def __call__(self, images: np.ndarray, records: Any) -> Any:
        from ddspo.evaluation.scorers import Scores

        return Scores(images.mean((1, 2, 3)), [{} for _ in records])


def test_bad_input(home: Path, tmp_path: Path) -> None:
    recipe = recipe_for(home)
    for name in ("reference", "../up", ""):
        with pytest.raises(UserError, match="cannot name a policy"):
            evaluate(recipe, {name: home / "idle"}, tmp_path / "scores")
    with pytest.raises(UserError, match="no policy of ddspo"):
        evaluate(recipe, {"p": tmp_path}, tmp_path / "scores")
    with pytest.raises(UserError, match="scorers is empty"):
        evaluate(recipe_for(home, scorers=[]), {}, tmp_path / "scores")
    with pytest.raises(UserError, match="gone.txt does not exist"):
        check_evaluation(recipe_for(home, prompts="gone.txt"))
    check_evaluation(recipe)
    assert not (tmp_path / "scores").exists()
    tiny_sd(tmp_path, scheduler="ddim", seed=9).rename(tmp_path / "other")
    foreign = policy_of(tmp_path / "other", tmp_path / "foreign", 0.0)
    with pytest.raises(UserError, match="trained on another base"):
        evaluate(recipe, {"p": foreign}, tmp_path / "scores")
