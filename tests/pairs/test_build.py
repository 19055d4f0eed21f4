"""Making pairs with a tiny Stable Diffusion: equal to diffusers, one network call per step, every row counted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.files import read_json
from ddspo.pairs.build import build_pairs, estimate
from ddspo.pairs.store import PairStore
from ddspo.tensors import Conditioning
from helpers.pair_making import PROMPTS, STEPS, Spy, small_recipe, write_degraded
from helpers.tiny_pipelines import tiny_sd


def all_pairs(folder: Path) -> tuple[PairStore, Tensor, Tensor]:
    store = PairStore(folder)
    x_0 = store.read(range(len(store)))
    return store, x_0.win, x_0.lose


def test_both_sides_are_what_diffusers_draws_from_the_seed_in_the_index(
    tmp_path: Path, base: Path, family: Any, degraded: Path
) -> None:
    build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=family)
    store, win, lose = all_pairs(tmp_path / "pairs")
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    for row, x_0_win, x_0_lose in zip(store.rows, win, lose, strict=True):
        for prompt, x_0 in ((row["prompt"], x_0_win), (row["degraded_prompt"], x_0_lose)):
            latents = pipeline(
                prompt,
                num_inference_steps=row["steps"],
                guidance_scale=row["guidance_scale"],
                generator=torch.Generator().manual_seed(row["seed"]),
                output_type="latent",
            ).images[0]
            torch.testing.assert_close(x_0, latents, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(win, lose, atol=1e-2)


def test_index_rows_say_all_that_making_a_pair_again_takes(tmp_path: Path, family: Any, degraded: Path) -> None:
    build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=family)
    store = PairStore(tmp_path / "pairs")
    assert sorted(row["prompt"] for row in store.rows) == sorted(PROMPTS)
    assert len({row["id"] for row in store.rows}) == len({row["seed"] for row in store.rows}) == len(PROMPTS)
    for row in store.rows:
        assert row["degraded_prompt"] == row["prompt"].split()[-1]
        assert (row["kind"], row["change"], row["sampler"], row["guidance_scale"]) == ("drop", "x", "default", 3.0)
        assert row["reference_fingerprint"] == family.fingerprint()
    store.check_reference(family.fingerprint())


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_same_prompt_on_both_sides_gives_the_same_picture(tmp_path: Path, family: Any, guidance_scale: float) -> None:
    degraded = write_degraded(tmp_path / "degraded.jsonl", [(prompt, [prompt]) for prompt in PROMPTS[:2]])
    build_pairs(small_recipe(guidance_scale=guidance_scale), degraded, tmp_path / "pairs", family=family)
    _, win, lose = all_pairs(tmp_path / "pairs")
    torch.testing.assert_close(win, lose, rtol=0, atol=1e-5)
    assert not torch.allclose(win[0], win[1], atol=1e-2)


def test_noise_added_on_the_way_is_shared_too_and_belongs_to_the_pair(tmp_path: Path) -> None:
    family = load_family(str(tiny_sd(tmp_path / "base", scheduler="euler_ancestral", steps_offset=1)))
    degraded = write_degraded(tmp_path / "degraded.jsonl", [(prompt, [prompt]) for prompt in PROMPTS[:3]])
    build_pairs(small_recipe(batch_images=6), degraded, tmp_path / "together", family=family)
    build_pairs(small_recipe(batch_images=2), degraded, tmp_path / "alone", family=family)
    _, win, lose = all_pairs(tmp_path / "together")
    torch.testing.assert_close(win, lose, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(win, all_pairs(tmp_path / "alone")[1], rtol=1e-4, atol=1e-4)


def test_one_network_call_per_step_holds_both_sides_and_the_unconditional_rows(
    tmp_path: Path, family: Any, degraded: Path
) -> None:
    spy = Spy(family)
    build_pairs(small_recipe(count=2), degraded, tmp_path / "pairs", family=spy)
    assert [len(x_t) for x_t, _ in spy.calls] == [8] * STEPS
    x_T, conditioning = spy.calls[0]  # noqa: N806
    assert torch.equal(x_T[:4], x_T[4:])  # unconditional, conditional
    assert torch.equal(x_T[4:6], x_T[6:])  # win, lose
    assert not torch.equal(x_T[4], x_T[5])
    rows = PairStore(tmp_path / "pairs").rows
    texts = [""] * 4 + [row["prompt"] for row in rows] + [row["degraded_prompt"] for row in rows]
    expected = family.encode_prompts(texts).tensors["prompt_embeds"]
    torch.testing.assert_close(conditioning.tensors["prompt_embeds"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("guidance_scale", "rows_per_pair_and_call"), [(3.0, 4), (1.0, 2)])
def test_cost_counts_rows_and_the_estimate_foretells_it(
    tmp_path: Path, family: Any, degraded: Path, guidance_scale: float, rows_per_pair_and_call: int
) -> None:
    made = small_recipe(count=7, guidance_scale=guidance_scale)
    summary = build_pairs(made, degraded, tmp_path / "pairs", family=family)
    assert summary.network_evaluations == 7 * STEPS * rows_per_pair_and_call
    assert read_json(tmp_path / "pairs" / "cost.json")["network_evaluations"] == summary.network_evaluations
    assert (summary.pairs, summary.shards) == (7, 4)
    needs = estimate(made, family, len(PROMPTS))
    assert (needs.pairs, needs.network_evaluations) == (7, summary.network_evaluations)
    assert needs.bytes_on_disk / 2 < summary.bytes_on_disk < needs.bytes_on_disk


def test_estimate_counts_one_pair_per_prompt_by_default(family: Any) -> None:
    assert estimate(small_recipe(), family, 11).pairs == 11


def test_half_precision_is_stored_as_half(tmp_path: Path, base: Path, degraded: Path) -> None:
    family = load_family(str(base), dtype="bf16")
    build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=family)
    _, win, _ = all_pairs(tmp_path / "pairs")
    assert torch.equal(win, win.bfloat16().float())
    assert PairStore(tmp_path / "pairs").settings["dtype"] == "torch.bfloat16"


def test_a_full_disk_is_found_before_anything_is_drawn(
    tmp_path: Path, family: Any, degraded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="the rest of 5 pairs needs .* GB are free"):
        build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=Spy(family, stop_at=0))


def test_numbers_that_are_not_finite_are_never_stored(tmp_path: Path, family: Any, degraded: Path) -> None:
    class Broken(Spy):
        def predict(self, x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
            return super().predict(x_t, timestep, conditioning) / 0

    with pytest.raises(UserError, match="not finite.*model.frozen_dtype"):
        build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=Broken(family))
    assert not list((tmp_path / "pairs").glob("shard-*"))


def test_too_large_a_batch_names_the_field(tmp_path: Path, family: Any, degraded: Path) -> None:
    class Small(Spy):
        def predict(self, x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
            raise torch.OutOfMemoryError

    with pytest.raises(
        UserError, match=r"4 pictures at once do not fit in memory; lower pairs\.sampling\.batch_images"
    ):
        build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=Small(family))


def test_what_is_ahead_is_announced(
    tmp_path: Path, family: Any, degraded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=family)
    assert "pairs: 5 in 3 shards, 0.00 GB, 60 network evaluations; 5 pairs to make" in capsys.readouterr().err
