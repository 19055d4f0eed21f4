"""Interrupted, repeated or with other settings: an evaluation ends in the same bits, and costs count once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ddspo import alignment
from ddspo.errors import UserError
from ddspo.evaluation import work
from ddspo.evaluation.evaluate import evaluate
from ddspo.files import read_json
from ddspo.folder_lock import only_one
from helpers.evaluation_cases import recipe_for

pytestmark = pytest.mark.usefixtures("few_real_renders")


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
                evaluate(recipe_for(home), policies, output)
    with (output / "scores.jsonl").open("a") as file:
        file.write('{"model": "reference", "id": "12')
    evaluate(recipe_for(home), policies, output)
    for name in ("scores.jsonl", "evaluation.json"):
        assert (output / name).read_bytes() == (whole / name).read_bytes()
    for picture in whole.glob("images/*/*.png"):
        assert (output / picture.relative_to(whole)).read_bytes() == picture.read_bytes()


@pytest.mark.parametrize("moment", ["before", "pictures", "drawn", "scoring", "scored"])
def test_costs_count_once_wherever_it_is_interrupted(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Killed, or the disk full, around the second batch: only evaluations that gave pictures are counted, each once."""
    calls, recipe = {"n": 0}, recipe_for(home, images_per_prompt=1)  # batches of 4 and 1
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
    recipe = recipe_for(home, images_per_prompt=1, limit=3)
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
    evaluate(recipe_for(home), {"idle": home / "idle", "bold": home / "bold"}, whole)
    assert picture.read_bytes() == content
    (whole / "cost.json").write_bytes(cost)


def test_other_settings_are_refused_with_the_difference(home: Path, whole: Path) -> None:
    changed = {"sampling": {"steps": 3, "guidance_scale": 3.0, "batch_images": 4}}
    with pytest.raises(UserError, match=r"sampling\.steps: 2 there, 3 now"):
        evaluate(recipe_for(home, **changed), {}, whole)
    with pytest.raises(UserError, match=r"pictures of 'idle' made with other settings \(fingerprint"):
        evaluate(recipe_for(home), {"idle": home / "bold"}, whole)


def _out_of_memory(*args: Any, **kwargs: Any) -> None:
    raise MemoryError


def test_settings_under_which_nothing_was_drawn_bind_nobody(
    home: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the first batch does not fit in memory."""
    output, recipe = tmp_path / "whole", recipe_for(home)
    larger = recipe_for(home, sampling=recipe.evaluation.sampling.model_dump() | {"batch_images": 64})
    with monkeypatch.context() as patch:
        patch.setattr("ddspo.evaluation.generate.sample", _out_of_memory)
        with pytest.raises(MemoryError):
            evaluate(larger, {"idle": home / "bold"}, output)
    evaluate(recipe, {"idle": home / "idle"}, output)
    assert not output.joinpath("images/bold").exists()
    picture = next(output.glob("images/idle/*.png"))
    assert picture.read_bytes() == (whole / picture.relative_to(output)).read_bytes()


def test_a_folder_of_other_things_is_left_alone(home: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not lose me")
    with pytest.raises(UserError, match="already holds other files"):
        evaluate(recipe_for(home), {}, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_evaluation_that_is_at_work_already_is_left_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "policies_of", lambda recipe, run: {})
    with only_one(tmp_path / "scores", "ddspo evaluate"), pytest.raises(UserError, match="`ddspo evaluate` is already"):
        alignment.evaluate_stage(recipe_for(home), tmp_path)
