"""In bfloat16, too, pairs are what the diffusers pipeline draws: latents, text and times are as precise as there."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from ddspo.families.load import load_family
from ddspo.ledger import Ledger
from ddspo.pairs.make import PairMaker
from ddspo.pairs.plan import PlannedPair
from ddspo.recipe import Pairs, Sampling
from helpers.family_cases import CASES, Case

PROMPT, DEGRADED, SEED, STEPS = "a red cat", "a blue dog", 7, 4


def pipelines_own(folder: Path, case: Case, noise: Tensor) -> tuple[Tensor, torch.dtype]:
    """x_0 of both prompts from one noise [C, H, W], and the precision that the pipeline wants to draw noise in."""
    index = json.loads((folder / "model_index.json").read_text())
    absent: dict[str, Any] = {name: None for name, value in index.items() if value == [None, None]}
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True, **absent)
    pipeline.set_progress_bar_config(disable=True)
    prepare, wanted = pipeline.prepare_latents, []

    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(prepare).bind(*args, **kwargs).arguments
        wanted.append(bound["dtype"])
        latents = case.pack(pipeline, torch.stack([noise, noise])).to(bound["dtype"])
        return prepare(**{**bound, "latents": latents})

    pipeline.prepare_latents = prepare_latents
    height, width = case.size_px
    options: dict[str, Any] = {"guidance_scale": case.guidance_scale, **case.call}
    prompts = [PROMPT, DEGRADED]
    found = pipeline(
        prompts, height=height, width=width, num_inference_steps=STEPS, output_type="latent", **options
    ).images
    return case.unpack(pipeline, found, tuple(noise.shape)), wanted[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pairs_in_bfloat16_are_the_pipelines_bit_for_bit(case: Case, tmp_path: Path) -> None:
    folder = case.build(tmp_path)
    family = load_family(str(folder), dtype="bf16")
    height, width = case.size_px
    noise = torch.randn(family.latent_shape(height, width), generator=torch.Generator().manual_seed(SEED))
    theirs, precision = pipelines_own(folder, case, noise)
    assert precision == (torch.float32 if family.samples_in_float32 else torch.bfloat16)
    sampling = Sampling(steps=STEPS, guidance_scale=case.guidance_scale)
    maker = PairMaker(family, Pairs(sampling=sampling), height_px=height, width_px=width)
    x_0 = maker.make([PlannedPair("id", PROMPT, DEGRADED, "swap", "x", SEED)], Ledger()).x_0
    # What is stored has the family's precision, whatever the sampling had.
    assert torch.equal(torch.cat([x_0.win, x_0.lose]), theirs.to(torch.bfloat16))


def test_states_on_the_way_are_stored_in_the_familys_precision(tmp_path: Path) -> None:
    """Sana's trajectory is float32 while it is drawn; twice the disk would be foretold wrongly."""
    sana = next(case for case in CASES if case.name == "sana")
    family = load_family(str(sana.build(tmp_path)), dtype="bf16")
    settings = Pairs(sampling=Sampling(steps=STEPS, guidance_scale=1.0), trajectory_states=2)
    maker = PairMaker(family, settings, height_px=64, width_px=64)
    drawn = maker.make([PlannedPair("id", PROMPT, DEGRADED, "swap", "x", SEED)], Ledger())
    assert drawn.states is not None
    assert {drawn.x_0.win.dtype, drawn.states.win.dtype, drawn.states.lose.dtype} == {torch.bfloat16}
