"""The whole stage on a tiny pipeline: same seeds, exact bookkeeping, resuming, refusing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddspo import alignment
from ddspo.errors import UserError
from ddspo.evaluation import evaluate as stage
from ddspo.evaluation import features, work
from ddspo.evaluation.evaluate import check_evaluation, evaluate
from ddspo.evaluation.pictures import read_pngs
from ddspo.families.load import load_family
from ddspo.families.roles import Roles
from ddspo.files import read_json, read_jsonl
from ddspo.folder_lock import only_one
from ddspo.recipe import Lora, Recipe
from ddspo.rng import normal_like_shape
from helpers.tiny_pipelines import tiny_sd

PROMPTS = {
    "a red circle": "color",
    "two blue squares": "numeracy",
    "a green cross": "color",
    "a cyan triangle and a red cross": "color",
    "three yellow circles": "numeracy",
}


def _policy(base: Path, folder: Path, strength: float) -> Path:
    """A LoRA policy; strength 0 changes nothing."""
    family = load_family(str(base))
    roles = Roles.lora(family, Lora(rank=2), seed=0)
    state = roles.state()
    for name, tensor in state.items():
        if "lora_B" in name:
            state[name] = strength * normal_like_shape(tuple(tensor.shape), 0, name)
    roles.load_state(state)
    roles.save_policy(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_real_renders() -> Iterator[None]:
    """Real renders cost seconds here; their number is not what these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "_REAL_IN_ALL", 40)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, idle/ (a policy that changes nothing), bold/ (one that does), prompts.jsonl."""
    folder = tmp_path_factory.mktemp("home")
    tiny_sd(folder, scheduler="ddim").rename(folder / "base")
    _policy(folder / "base", folder / "idle", 0.0)
    _policy(folder / "base", folder / "bold", 1.0)
    rows = [json.dumps({"prompt": prompt, "category": name}) for prompt, name in PROMPTS.items()]
    (folder / "prompts.jsonl").write_text("\n".join(rows))
    return folder


def _recipe(home: Path, **evaluation: Any) -> Recipe:
    settings = {
        "prompts": str(home / "prompts.jsonl"),
        "images_per_prompt": 2,
        "sampling": {"steps": 2, "guidance_scale": 3.0, "batch_images": 4},
        "bootstrap_samples": 200,
    }
    model = {"base": str(home / "base"), "height_px": 32, "width_px": 32}
    return Recipe.model_validate({"seed": 5, "model": model, "evaluation": settings | evaluation})


@pytest.fixture(scope="module")
def whole(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken evaluation of both policies."""
    output = tmp_path_factory.mktemp("scores") / "whole"
    evaluate(_recipe(home), {"idle": home / "idle", "bold": home / "bold"}, output)
    return output


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


class _Killed(BaseException):
    """As sudden as a signal: nothing catches it on the way."""


@pytest.mark.parametrize(("pictures", "rows"), [(0, 0), (3, 5), (17, 11)])
def test_resumed_equals_unbroken(
    home: Path, whole: Path, tmp_path: Path, pictures: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a number of pictures, and again after a number of rows; a torn row is left behind."""
    output, policies = tmp_path / "whole", {"idle": home / "idle", "bold": home / "bold"}
    for name, survive in (("write_png", pictures), ("append_jsonl", rows)):
        left = [survive]
        genuine = getattr(work, name)

        def dying(*args: Any, left: list[int] = left, genuine: Any = genuine) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise _Killed
            genuine(*args)

        with monkeypatch.context() as patch:
            patch.setattr(work, name, dying)
            with pytest.raises(_Killed):
                evaluate(_recipe(home), policies, output)
    with (output / "scores.jsonl").open("a") as file:
        file.write('{"model": "reference", "id": "12')
    evaluate(_recipe(home), policies, output)
    for name in ("scores.jsonl", "evaluation.json"):
        assert (output / name).read_bytes() == (whole / name).read_bytes()
    for picture in whole.glob("images/*/*.png"):
        assert (output / picture.relative_to(whole)).read_bytes() == picture.read_bytes()


@pytest.mark.parametrize("moment", ["before", "pictures", "drawn", "scoring", "scored"])
def test_costs_count_once_wherever_it_is_interrupted(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Killed, or the disk full, around the second batch: only evaluations that gave pictures are counted, each once."""
    calls, recipe = {"n": 0}, _recipe(home, images_per_prompt=1)  # batches of 4 and 1
    name, last = {
        "before": ("_bind_pictures", 3),  # bound when named, then for each batch of the first model
        "pictures": ("write_png", 3),
        "drawn": ("write_png", 4),
        "scoring": ("append_jsonl", 2),
        "scored": ("append_jsonl", 4),
    }[moment]
    owner: Any = work.Work if name.startswith("_") else work
    genuine = getattr(owner, name)

    def dying(*args: Any) -> None:
        calls["n"] += 1
        if calls["n"] >= last and not moment.endswith(("drawn", "scored")):
            raise UserError("cannot write: No space left on device")
        genuine(*args)
        if calls["n"] >= last:
            raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises((UserError, _Killed)):
            evaluate(recipe, {"bold": home / "bold"}, tmp_path / "scores")
    evaluate(recipe, {"bold": home / "bold"}, tmp_path / "scores")
    found = read_json(tmp_path / "scores" / "cost.json")
    assert found["network_evaluations"] == 2 * 5 * 2 * 2  # models, pictures, steps, guidance
    assert set(found) == {"seconds", "network_evaluations"}


def test_finished_evaluation_draws_nothing_and_a_new_policy_only_its_own(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _recipe(home, images_per_prompt=1, limit=3)
    one_model = 3 * 2 * 2

    def spent() -> float:
        return float(read_json(tmp_path / "cost.json")["network_evaluations"])

    evaluate(recipe, {"idle": home / "idle"}, tmp_path)
    assert spent() == 2 * one_model
    evaluate(recipe, {"idle": home / "idle", "bold": home / "bold"}, tmp_path)
    assert spent() == 3 * one_model
    before = (tmp_path / "evaluation.json").read_bytes()
    monkeypatch.setattr(work.Work, "_draw_batch", None)
    again = evaluate(recipe, {"idle": home / "idle", "bold": home / "bold"}, tmp_path)
    assert (tmp_path / "evaluation.json").read_bytes() == before
    assert list(again.models) == ["reference", "idle", "bold"]


def test_a_lost_picture_is_drawn_again(home: Path, whole: Path) -> None:
    picture = next(whole.glob("images/bold/*.png"))
    content = picture.read_bytes()
    picture.unlink()
    cost = (whole / "cost.json").read_bytes()
    evaluate(_recipe(home), {"idle": home / "idle", "bold": home / "bold"}, whole)
    assert picture.read_bytes() == content
    (whole / "cost.json").write_bytes(cost)


def test_other_settings_are_refused_with_the_difference(home: Path, whole: Path) -> None:
    changed = {"sampling": {"steps": 3, "guidance_scale": 3.0, "batch_images": 4}}
    with pytest.raises(UserError, match=r"sampling\.steps: 2 there, 3 now"):
        evaluate(_recipe(home, **changed), {}, whole)
    with pytest.raises(UserError, match=r"pictures of 'idle' made with other settings \(fingerprint"):
        evaluate(_recipe(home), {"idle": home / "bold"}, whole)


def test_settings_under_which_nothing_was_drawn_bind_nobody(
    home: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the first batch does not fit in memory."""
    output, recipe = tmp_path / "whole", _recipe(home)
    larger = _recipe(home, sampling=recipe.evaluation.sampling.model_dump() | {"batch_images": 64})
    with monkeypatch.context() as patch:
        patch.setattr("ddspo.evaluation.generate.sample", _out_of_memory)
        with pytest.raises(MemoryError):
            evaluate(larger, {"idle": home / "bold"}, output)
    evaluate(recipe, {"idle": home / "idle"}, output)
    assert not output.joinpath("images/bold").exists()
    picture = next(output.glob("images/idle/*.png"))
    assert picture.read_bytes() == (whole / picture.relative_to(output)).read_bytes()


def _out_of_memory(*args: Any, **kwargs: Any) -> None:
    raise MemoryError


def test_a_folder_of_other_things_is_left_alone(home: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not lose me")
    with pytest.raises(UserError, match="already holds other files"):
        evaluate(_recipe(home), {}, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_statistics_may_change(home: Path, whole: Path) -> None:
    before = read_json(whole / "evaluation.json")
    policies = {"idle": home / "idle", "bold": home / "bold"}
    found = evaluate(_recipe(home, confidence=0.5, set_metrics=[]), policies, whole).results
    assert found["confidence"] == 0.5
    assert found["models"]["bold"]["frechet"] is None and found["features"] is None and found["notes"] == []
    assert evaluate(_recipe(home), policies, whole).results == before


def test_a_denoiser_that_training_changed_is_not_taken_for_the_reference(
    home: Path, whole: Path, tmp_path: Path
) -> None:
    family = load_family(str(home / "base"))
    with torch.no_grad():
        for parameter in family.denoiser.parameters():
            parameter.mul_(1.5)
    evaluate(_recipe(home), {}, tmp_path, family=family)
    for picture in tmp_path.glob("images/reference/*.png"):
        assert picture.read_bytes() == (whole / picture.relative_to(tmp_path)).read_bytes()


def test_prompts_of_other_worlds(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No categories, no features: both are left out, and the report is told why."""
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n" + "a very long prompt " * 40)
    recipe = _recipe(home, prompts=str(tmp_path / "prompts.txt"), scorers=["pickscore"])
    monkeypatch.setattr(stage, "load_scorer", lambda choice, device: _Brightness())
    found = evaluate(recipe, {"bold": home / "bold"}, tmp_path / "scores").results
    assert found["categories"] == {} and found["models"]["bold"]["category_differences"] == {}
    assert found["models"]["bold"]["failures"] == {}
    assert found["models"]["bold"]["frechet"] is None and found["features"] is None
    assert len(found["notes"]) == 2 and "1 of 3 prompts" in found["notes"][0] and "tinyscenes" in found["notes"][1]
    assert list(read_jsonl(tmp_path / "scores" / "scores.jsonl"))[0]["category"] is None


def test_an_evaluation_that_is_at_work_already_is_left_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "policies_of", lambda recipe, run: {})
    with only_one(tmp_path / "scores", "ddspo evaluate"), pytest.raises(UserError, match="`ddspo evaluate` is already"):
        alignment.evaluate_stage(_recipe(home), tmp_path)


class _Brightness:
    name, higher_is_better, description = "brightness", True, "mean pixel value"

    def check(self, records: Any) -> None:
        pass

    def __call__(self, images: np.ndarray, records: Any) -> Any:
        from ddspo.evaluation.scorers import Scores

        return Scores(images.mean((1, 2, 3)), [{} for _ in records])


def test_bad_input(home: Path, tmp_path: Path) -> None:
    recipe = _recipe(home)
    for name in ("reference", "../up", ""):
        with pytest.raises(UserError, match="cannot name a policy"):
            evaluate(recipe, {name: home / "idle"}, tmp_path / "scores")
    with pytest.raises(UserError, match="no policy of ddspo"):
        evaluate(recipe, {"p": tmp_path}, tmp_path / "scores")
    with pytest.raises(UserError, match="scorers is empty"):
        evaluate(_recipe(home, scorers=[]), {}, tmp_path / "scores")
    with pytest.raises(UserError, match="gone.txt does not exist"):
        check_evaluation(_recipe(home, prompts="gone.txt"))
    check_evaluation(recipe)
    assert not (tmp_path / "scores").exists()
    tiny_sd(tmp_path, scheduler="ddim", seed=9).rename(tmp_path / "other")
    foreign = _policy(tmp_path / "other", tmp_path / "foreign", 0.0)
    with pytest.raises(UserError, match="trained on another base"):
        evaluate(recipe, {"p": foreign}, tmp_path / "scores")
