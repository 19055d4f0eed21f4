"""What single families have of their own, beyond the contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionXLPipeline
from torch import Tensor

from ddspo.diffusion.sampler import network_evaluations, sample
from ddspo.errors import UserError
from ddspo.evaluation.generate import generate
from ddspo.families.flux import Flux, pack, unpack
from ddspo.families.load import load_family
from ddspo.families.prompt_table import PromptTable
from ddspo.families.roles import Roles
from ddspo.families.stable_diffusion_xl import StableDiffusionXL
from ddspo.families.stored_prompts import text_fingerprint
from ddspo.ledger import Ledger
from ddspo.pairs.make import PairMaker
from ddspo.pairs.plan import PlannedPair
from ddspo.recipe import Pairs, Sampling
from ddspo.tensors import Conditioning
from helpers.tiny_families import tiny_flux, tiny_sana, tiny_sd3, tiny_sdxl

FLOW = {"sd3": tiny_sd3, "sana": tiny_sana, "flux": tiny_flux}
Build = Callable[[Path], Path]


def test_sdxl_is_told_the_true_size(tmp_path: Path) -> None:
    family = load_family(str(tiny_sdxl(tmp_path)))
    assert isinstance(family, StableDiffusionXL)
    x_t = torch.zeros(2, *family.latent_shape(64, 192))
    assert family.size_ids(x_t).tolist() == [[64, 192, 0, 0, 64, 192]] * 2
    conditioning = family.encode_prompts(["a cat"] * 2)
    timestep = torch.tensor([500, 500])
    wide, told = family.predict(x_t, timestep, conditioning), []
    family.denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(kwargs["added_cond_kwargs"]["time_ids"].tolist()), with_kwargs=True
    )
    assert family.predict(x_t.mT, timestep, conditioning).shape == wide.mT.shape
    assert told == [[[192, 64, 0, 0, 192, 64]] * 2]


def test_sdxl_empty_prompt_is_zeros_only_where_the_checkpoint_says_so(tmp_path: Path) -> None:
    zeros = load_family(str(tiny_sdxl(tmp_path))).encode_prompts(["", "a cat"])
    text = load_family(str(tiny_sdxl(tmp_path, force_zeros=False))).encode_prompts(["", "a cat"])
    for name in ("prompt_embeds", "pooled_prompt_embeds"):
        assert not zeros.tensors[name][0].any()
        assert text.tensors[name][0].any() and zeros.tensors[name][1].any()


def test_sdxl_tells_a_frozen_copy_the_same_size_as_the_policy(tmp_path: Path) -> None:
    """Sizes of cropped pictures are any numbers; rounded to bfloat16 they would be others."""
    roles = Roles.full(load_family(str(tiny_sdxl(tmp_path)), dtype="bf16"), "bf16")
    text = roles.family.encode_prompts(["a cat"]).tensors
    sizes = Conditioning({**text, "size_ids": torch.tensor([[1365, 2047, 37, 211, 1024, 1024]])})
    x_t, timestep = torch.randn(1, *roles.family.latent_shape(64, 64)), torch.tensor([500])
    policy, reference = (roles.predict(role, x_t, timestep, sizes) for role in ("policy", "reference"))
    assert torch.equal(policy, reference)


def test_sdxl_keeps_its_scheduler_as_the_pipeline_does(tmp_path: Path) -> None:
    """The SD pipeline corrects old configurations, this one does not."""
    folder = tiny_sdxl(tmp_path)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "steps_offset": 0}))
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    scheduler = load_family(str(folder)).scheduler()
    for one in (pipeline.scheduler, scheduler):
        one.set_timesteps(4)
    assert torch.equal(scheduler.timesteps, pipeline.scheduler.timesteps)
    assert not load_family(str(folder)).scheduler("ddim").config.clip_sample


def test_sanas_text_encoder_keeps_no_cache(tmp_path: Path) -> None:
    family, given = load_family(str(tiny_sana(tmp_path))), []
    family.part("text_encoder").register_forward_hook(lambda _, __, output: given.append(output.past_key_values))
    family.encode_prompts(["a cat"])
    assert given == [None]


def test_sana_tells_which_prompts_are_cut(tmp_path: Path) -> None:
    """Of a prompt 298 tokens are read: what the pipeline's padded length leaves after its instruction."""
    family = load_family(str(tiny_sana(tmp_path)))
    tokenizer, cut = family.part("tokenizer"), []
    lead = len(tokenizer.encode(family.instruction()))
    for length in range(280, 320):
        prompt = " ".join(["cat"] * length)
        count = len(tokenizer.encode(family.instruction() + prompt))
        cut.append((family.truncated([prompt])[0], count > lead + 300 - 2))
    assert {ours for ours, _ in cut} == {True, False}
    assert [ours for ours, _ in cut] == [theirs for _, theirs in cut]


@pytest.mark.parametrize("build", FLOW.values(), ids=FLOW.keys())
@pytest.mark.parametrize("sampler", ["default", "euler", "dpm++"])
def test_flow_samplers_follow_a_true_velocity_to_its_end(tmp_path: Path, build: Build, sampler: str) -> None:
    """With velocity (x_t - x_0) / sigma every solver of the straight path ends at x_0, whatever its steps."""
    family = load_family(str(build(tmp_path)))
    shape = family.latent_shape(64, 64)
    x_0 = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))

    def velocity(x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        return (x_t - x_0) / (timestep / 1000).reshape(-1, 1, 1, 1)

    scheduler = family.scheduler(sampler, height_px=64, width_px=64)
    assert network_evaluations(scheduler, 8, 1.0) == 8
    x_T = torch.randn(1, *shape, generator=torch.Generator().manual_seed(2))
    rows = Conditioning({"none": torch.zeros(1, 1)})
    end = sample(velocity, scheduler, x_T, rows, steps=8, guidance_scale=1.0)
    assert (end - x_0).abs().max() < 0.02 * (x_T - x_0).abs().max()


@pytest.mark.parametrize("build", FLOW.values(), ids=FLOW.keys())
def test_flow_families_refuse_samplers_without_flow(tmp_path: Path, build: Build) -> None:
    with pytest.raises(UserError, match=r"ddim.*euler, dpm\+\+"):
        load_family(str(build(tmp_path))).scheduler("ddim")


def test_flux_shifts_more_for_larger_pictures(tmp_path: Path) -> None:
    family = load_family(str(tiny_flux(tmp_path)))
    assert family.latent_shape() == (16, 128, 128)
    middles = []
    for size in (256, 512, 1024):
        scheduler = family.scheduler(height_px=size, width_px=size)
        scheduler.set_timesteps(4)
        middles.append(scheduler.sigmas[2].item())
    assert 0.5 < middles[0] < middles[1] < middles[2] < 1
    # 1024 px is 4096 tokens: mu = 1.15, sigma = e^mu u / (1 + (e^mu - 1) u) at u = 1/2.
    assert middles[2] == pytest.approx(0.759511, abs=1e-5)
    with pytest.raises(UserError, match="multiple of 16"):
        family.latent_shape(72, 64)


def test_flux_without_guidance_and_shift_is_schnell(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny_flux(tmp_path, guidance=False)
    load_family(str(folder))
    assert not caplog.records
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_dynamic_shifting": False, "shift": 1.0}))
    load_family(str(folder))
    assert "few-step" in caplog.text


def test_pictures_and_pairs_of_flux_are_the_pipelines_off_the_base_size(tmp_path: Path) -> None:
    """Its schedule depends on the size: everything that samples has to say it."""
    folder = tiny_flux(tmp_path)
    family, height, width = load_family(str(folder)), 64, 96
    pipeline = FluxPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    seeds, sampling = [3, 4], Sampling(steps=3, guidance_scale=1.0)
    noise = torch.stack(
        [torch.randn(family.latent_shape(height, width), generator=torch.Generator().manual_seed(n)) for n in seeds]
    )

    def theirs(prompt: str, rows: slice, output_type: str) -> Any:
        return pipeline(
            [prompt] * len(noise[rows]),
            height=height,
            width=width,
            num_inference_steps=3,
            guidance_scale=3.5,
            latents=pack(noise[rows]),
            output_type=output_type,
        ).images

    table = PromptTable(family, ["a red cat"])
    pictures = generate(family, ["a red cat"] * 2, seeds, sampling, table, height_px=height, width_px=width)
    expected = (theirs("a red cat", slice(0, 2), "np") * 255).round().astype(int)
    assert abs(pictures.astype(int) - expected).max() <= 1
    pairs = [PlannedPair("id", "a red cat", "a blue dog", "swap", "x", seed) for seed in seeds]
    maker = PairMaker(family, Pairs(sampling=sampling), height_px=height, width_px=width, offload=True)
    x_0 = maker.make(pairs, Ledger()).x_0
    for prompt, latents in (("a red cat", x_0.win), ("a blue dog", x_0.lose)):
        expected = unpack(theirs(prompt, slice(0, 2), "latent"), height // 16, width // 16)
        torch.testing.assert_close(latents, expected, rtol=0, atol=1e-4)


def test_flux_packs_two_by_two(tmp_path: Path) -> None:
    latents = torch.arange(2 * 4 * 6, dtype=torch.float32).reshape(1, 2, 4, 6)
    tokens = pack(latents)
    assert tokens.shape == (1, 6, 8)
    assert tokens[0, 0].tolist() == [0, 1, 6, 7, 24, 25, 30, 31]  # the top left cell, channel after channel
    assert torch.equal(unpack(tokens, 2, 3), latents)


def test_flux_is_told_its_guidance(tmp_path: Path) -> None:
    family = load_family(str(tiny_flux(tmp_path)))
    assert isinstance(family, Flux)
    x_t, timestep = torch.zeros(1, *family.latent_shape(64, 64)), torch.tensor([500.0])
    predictions = []
    for strength in (3.5, 1.0):
        family.embedded_guidance = strength
        conditioning = family.encode_prompts(["a cat"])
        assert conditioning.tensors["guidance"].tolist() == [strength]
        predictions.append(family.predict(x_t, timestep, conditioning))
    assert not torch.allclose(*predictions)


def test_guidance_on_top_of_a_told_one_is_warned_about_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    family = load_family(str(tiny_flux(tmp_path)))
    table = PromptTable(family, ["a cat", ""])
    for scale in (1.0, 4.25, 4.25):
        generate(family, ["a cat"], [0], Sampling(steps=1, guidance_scale=scale), table, height_px=32, width_px=32)
    assert [record.args for record in caplog.records] == [(4.25,)]
    assert "set sampling.guidance_scale to 1" in caplog.text


def test_stored_text_of_sana_belongs_to_its_instruction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = load_family(str(tiny_sana(tmp_path)))
    before = text_fingerprint(family)
    monkeypatch.setattr(type(family), "instruction", staticmethod(lambda: "another one"))
    assert text_fingerprint(family) != before


def test_a_text_encoder_that_the_index_names_must_be_there(tmp_path: Path) -> None:
    """Leaving T5 out changes pictures, so it is done by the index and never by accident."""
    import shutil

    folder = tiny_sd3(tmp_path)
    shutil.rmtree(folder / "text_encoder_3")
    with pytest.raises(UserError, match="text_encoder_3"):
        load_family(str(folder))
    without = load_family(str(tiny_sd3(tmp_path, with_t5=False)))
    assert "text_encoder_3" not in without.text_parts
    embeds = without.encode_prompts(["a cat"]).tensors["prompt_embeds"]
    assert embeds[0, :77].any() and not embeds[0, 77:].any()
