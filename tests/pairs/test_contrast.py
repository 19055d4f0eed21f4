"""The contrast of pairs by hand, stateless, shared and resumed; and training without those below a threshold."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ddspo.alignment import total_costs
from ddspo.diffusion.timesteps import draw_timesteps
from ddspo.errors import UserError
from ddspo.files import read_json
from ddspo.pairs.build import build_pairs
from ddspo.pairs.contrast import COST_FILE, measure_contrast
from ddspo.pairs.store import PairStore
from ddspo.recipe import Pairs, Recipe, Timesteps
from ddspo.rng import normal_like_shape, numpy_generator
from helpers.pair_making import Spy, small_recipe


def recipe(draws: int = 3, seed: int = 0, **fields: Any) -> Recipe:
    small = small_recipe(**fields)
    return small.model_copy(update={"pairs": small.pairs.model_copy(update={"contrast_draws": draws}), "seed": seed})


@pytest.fixture
def pairs(tmp_path: Path, family: Any, degraded: Path) -> Path:
    build_pairs(recipe(), degraded, tmp_path / "pairs", family=family)
    return tmp_path / "pairs"


def test_contrast_is_the_mean_squared_difference_at_stateless_draws(pairs: Path, family: Any) -> None:
    spy = Spy(family)
    summary = measure_contrast(recipe(), pairs, family=spy)
    store = PairStore(pairs)
    assert summary.network_evaluations == 2 * 3 * len(store) == sum(len(x_t) for x_t, _ in spy.calls)
    assert read_json(pairs / COST_FILE)["network_evaluations"] == summary.network_evaluations
    row, x_0 = store.rows[1], store.read([1]).lose
    total = 0.0
    for draw in range(3):
        uniform = (draw + numpy_generator(0, "contrast", "t", row["id"], draw).random()) / 3
        timestep = draw_timesteps(Timesteps(), family.noise_path, torch.tensor([uniform]))
        noise = normal_like_shape(tuple(x_0.shape[1:]), 0, "contrast", "noise", row["id"], draw)[None]
        x_t = family.noise_path.add_noise(x_0, noise, timestep)
        with torch.no_grad():
            one, two = (
                family.predict(x_t, timestep, family.encode_prompts([row[key]]))
                for key in ("prompt", "degraded_prompt")
            )
        total += float((one - two).square().mean())
    assert summary.contrasts[row["id"]] == pytest.approx(total / 3, rel=1e-4)
    assert all(value > 0 for value in summary.contrasts.values())


def test_interrupted_and_resumed_equals_whole(pairs: Path, family: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(pairs, other)
    whole = measure_contrast(recipe(), pairs, family=family).contrasts
    with pytest.raises(KeyboardInterrupt):
        measure_contrast(recipe(), other, family=Spy(family, stop_at=4))
    assert len(list(other.glob("contrast-*.json"))) == 1
    spy = Spy(family)
    assert measure_contrast(recipe(), other, family=spy).contrasts == whole
    assert sum(len(x_t) for x_t, _ in spy.calls) == 2 * 3 * (len(whole) - 2)
    idle = Spy(family)
    assert measure_contrast(recipe(), other, family=idle).contrasts == whole and not idle.calls


def test_processes_share_the_shards(pairs: Path, family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    shutil.copytree(pairs, other)
    whole = measure_contrast(recipe(), pairs, family=family).contrasts
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")

    class WaitsError(Exception):
        pass

    def others_work(seconds: float) -> None:
        raise WaitsError

    monkeypatch.setattr("ddspo.pairs.contrast.time.sleep", others_work)
    with pytest.raises(WaitsError):
        measure_contrast(recipe(), other, family=family)
    assert [path.name for path in other.glob("contrast-*.json")] == ["contrast-00001.json"]
    monkeypatch.setenv("RANK", "0")
    assert measure_contrast(recipe(), other, family=family).contrasts == whole


def test_other_draws_are_refused(pairs: Path, family: Any) -> None:
    measure_contrast(recipe(), pairs, family=family)
    with pytest.raises(UserError, match="draws: 3 there, 4 now.*delete .*contrast-.*to measure again"):
        measure_contrast(recipe(draws=4), pairs, family=family)


def test_pairs_below_the_threshold_are_left_out_and_counted(pairs: Path, family: Any) -> None:
    with pytest.raises(UserError, match=r"contrast-00000.json does not exist; run `ddspo pairs` again"):
        PairStore(pairs, min_contrast=0.1)
    contrasts = measure_contrast(recipe(), pairs, family=family).contrasts
    everything = PairStore(pairs)
    threshold = sorted(contrasts.values())[2]
    store = PairStore(pairs, min_contrast=threshold)
    assert (len(store), store.left_out, everything.left_out) == (len(everything) - 2, 2, 0)
    numbers = [n for n, row in enumerate(everything.rows) if contrasts[row["id"]] >= threshold]
    assert [row["id"] for row in store.rows] == [everything.rows[n]["id"] for n in numbers]
    assert torch.equal(store.read(range(len(store))).lose, everything.read(numbers).lose)
    with pytest.raises(IndexError):
        store.read([len(store)])
    with pytest.raises(UserError, match="none of 5 pairs reaches 1e\\+09"):
        PairStore(pairs, min_contrast=1e9)


def test_a_threshold_needs_draws() -> None:
    with pytest.raises(ValidationError, match="min_contrast needs contrast_draws"):
        Pairs(min_contrast=0.1)


def test_the_ledger_tells_the_measurement_apart(pairs: Path, family: Any) -> None:
    measure_contrast(recipe(), pairs, family=family)
    costs = total_costs(recipe(), pairs.parent)
    assert costs["contrast"]["network_evaluations"] == 30
    assert costs["total"]["network_evaluations"] == 30 + costs["pairs"]["network_evaluations"]
