"""Generation equals the diffusers pipeline, and a picture follows from its seed and prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from ddspo.evaluation.generate import UNCONDITIONAL, decode_uint8, generate
from ddspo.families.load import load_family
from ddspo.families.prompt_table import PromptTable
from ddspo.ledger import Ledger
from ddspo.recipe import Sampling
from ddspo.rng import normal_like_shape, seed_for
from helpers.tiny_pipelines import tiny_sd

PROMPTS = ["a red cat", "a blue cat", "red"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("pipelines"))


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_equal_to_diffusers(folder: Path, guidance_scale: float) -> None:
    family = load_family(str(folder))
    seeds = [seed_for(0, "evaluate", prompt, 0) for prompt in PROMPTS]
    ledger = Ledger()
    images = generate(
        family,
        PROMPTS,
        seeds,
        Sampling(steps=3, guidance_scale=guidance_scale),
        PromptTable(family, [UNCONDITIONAL, *PROMPTS]),
        ledger=ledger,
    )
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.stack([normal_like_shape((4, 8, 8), 0, "evaluate", prompt, 0) for prompt in PROMPTS])
    theirs = pipeline(PROMPTS, latents=noise, num_inference_steps=3, guidance_scale=guidance_scale, output_type="pil")
    assert images.dtype == np.uint8 and images.shape == (3, 64, 64, 3)
    np.testing.assert_array_equal(images, np.stack([np.asarray(image) for image in theirs.images]))
    assert ledger.network_evaluations == 3 * 4 * (2 if guidance_scale > 1 else 1)  # PNDM makes one call more


@pytest.mark.parametrize(("scheduler", "options"), [("pndm", {}), ("euler_ancestral", {"steps_offset": 1})])
def test_a_picture_does_not_depend_on_its_batch(tmp_path: Path, scheduler: str, options: dict[str, int]) -> None:
    """Also not where the sampler adds noise as it goes."""
    family = load_family(str(tiny_sd(tmp_path, scheduler=scheduler, **options)))
    table = PromptTable(family, PROMPTS)

    def draw(prompts: list[str], seeds: list[int], batch_images: int) -> np.ndarray:
        sampling = Sampling(steps=3, guidance_scale=1, batch_images=batch_images)
        return generate(family, prompts, seeds, sampling, table).astype(int)

    together = draw(PROMPTS, [1, 2, 3], 3)
    assert abs(together - draw(PROMPTS, [1, 2, 3], 2)).max() <= 1
    assert abs(together[::-1] - draw(PROMPTS[::-1], [3, 2, 1], 3)).max() <= 1
    assert abs(together[0] - draw(PROMPTS[:1], [2], 3)[0]).max() > 5


def test_size_and_decoding_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = load_family(str(folder))
    sampling, table = Sampling(steps=1, guidance_scale=1), PromptTable(family, PROMPTS)
    assert generate(family, PROMPTS, [1, 2, 3], sampling, table, height_px=32, width_px=48).shape == (3, 32, 48, 3)
    x_0 = normal_like_shape((3, 4, 8, 8), 0, "test")
    whole = decode_uint8(family, x_0)
    monkeypatch.setattr("ddspo.evaluation.generate._DECODED_CELLS", 64)
    assert abs(whole.astype(int) - decode_uint8(family, x_0)).max() <= 1
