"""Stages at their peaks: where text encoders weigh, and what decoding holds, against real autoencoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddspo.base_facts import BaseFacts, read_base_facts
from ddspo.families import autoencoder
from ddspo.memory import training_memory
from ddspo.plan_notes import memory_notes
from ddspo.recipe import Model, Recipe
from ddspo.stage_memory import (
    PIXELS_AT_ONCE,
    decoding_bytes,
    drawing_bytes,
    judging_bytes,
    reading_bytes,
    training_peak,
)
from helpers.tiny_families import tiny_sana
from helpers.tiny_pipelines import tiny_sd

FACTS = BaseFacts(
    channels=4,
    sample_size=64,
    latent_scale=8,
    scheduler="",
    shapes={"block.to_q.weight": (10**4, 10**5)},
    text_parameters=10**6,
    vae_parameters=10**6,
    vae_width=256,
)


def recipe(model: dict[str, Any] | None = None, **training: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"frozen_dtype": "bf16", **(model or {})},
            "training": {"mixed_precision": "bf16", "micro_batch_pairs": 1, "global_batch_pairs": 64, **training},
        }
    )


def test_text_encoders_weigh_where_they_are() -> None:
    """Read before the denoiser comes, beside it while pairs are drawn, and in every step where the recipe says so."""
    small, large = (replace(FACTS, text_parameters=size) for size in (10**6, 2 * 10**10))
    stored, live = recipe(), recipe(text="encoded")
    offloaded, live_offloaded = recipe({"offload": True}), recipe({"offload": True}, text="encoded")
    training = training_memory(stored, small)
    assert training_peak(stored, small) == training.total
    assert training_peak(stored, large) == 4 * 10**10
    assert training_peak(live, large) == training.total + 4 * 10**10
    assert training_peak(live_offloaded, large) == training.total - training.activations + 4 * 10**10
    assert training_peak(live_offloaded, small) == training.total
    denoiser = 2 * FACTS.parameters
    assert drawing_bytes(stored, large) == denoiser + 4 * 10**10
    assert drawing_bytes(offloaded, large) == 4 * 10**10 and drawing_bytes(offloaded, small) == denoiser
    assert reading_bytes(stored, large) == 4 * 10**10 and reading_bytes(stored, small) == denoiser
    assert judging_bytes(stored, large) == 4 * 10**10


def test_the_plan_says_where_text_encoders_decide(tmp_path: Path) -> None:
    """SANA: Gemma weighs more than a LoRA's training."""
    told = {"model": {"base": str(tiny_sana(tmp_path))}, "training": {"max_steps": 1, "gradient_checkpointing": True}}
    facts = read_base_facts(Model(base=told["model"]["base"]))
    assert facts is not None
    heavy = replace(facts, text_parameters=10**9)
    lines = [memory_notes(Recipe.model_validate(told), each)[0] for each in (facts, heavy)]
    assert "text encoders" not in lines[0]
    assert lines[1].endswith("; text encoders, which read all prompts before it, take more: 4.00 GB")
    assert len(memory_notes(Recipe.model_validate(told), heavy)) == 1, "offload would save the denoiser, and it is tiny"
    both = memory_notes(Recipe.model_validate(told), replace(heavy, shapes={"weight": (10**9,)}))
    assert both[1].endswith("together 8.0 GB; with model.offload one at a time, 4.0 GB")
    told["training"]["text"] = "encoded"
    assert memory_notes(Recipe.model_validate(told), heavy)[0].endswith(", and text encoders 4.00 GB")


def test_a_preview_decodes_beside_weights_and_optimizer() -> None:
    decoding = 4 * (FACTS.vae_parameters + int(4.5 * 256 * 512 * 512))
    assert decoding_bytes(recipe(), FACTS) == decoding
    step = training_memory(recipe(), FACTS)
    wide = replace(FACTS, vae_width=10**5)
    more = decoding_bytes(recipe(), wide)
    assert training_peak(recipe(), wide) == step.total, "none is drawn"
    assert training_peak(recipe(preview_every_steps=5), FACTS) == step.total, "a step takes more"
    assert training_peak(recipe(preview_every_steps=5), wide) == step.weights + step.optimizer + more
    assert training_peak(recipe({"offload": True}, preview_every_steps=5), wide) == step.optimizer + more
    (told,) = memory_notes(recipe(preview_every_steps=5), wide)
    assert "a preview takes more" in told and told.endswith("(training.preview_every_steps null: none)")


def test_pictures_are_decoded_about_a_megapixel_at_a_time() -> None:
    assert PIXELS_AT_ONCE == autoencoder.PIXELS_AT_ONCE
    one = decoding_bytes(recipe(), FACTS) - 4 * FACTS.vae_parameters
    assert decoding_bytes(recipe(), FACTS, 3) - 4 * FACTS.vae_parameters == 3 * one
    assert decoding_bytes(recipe(), FACTS, 100) - 4 * FACTS.vae_parameters == 4 * one, "four of 512 px"
    large = recipe({"height_px": 2048, "width_px": 2048})
    assert decoding_bytes(large, FACTS, 100) - 4 * FACTS.vae_parameters == 16 * one, "one at least"
    told = recipe().model_dump() | {"evaluation": {"sampling": {"batch_images": 3}}}
    denoiser = 2 * FACTS.parameters
    assert judging_bytes(Recipe.model_validate(told), FACTS) == denoiser + 4 * FACTS.vae_parameters + 3 * one


@pytest.mark.slow
@pytest.mark.parametrize("network", ["autoencoder_kl", "autoencoder_dc"])
def test_decoding_holds_what_is_foretold(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published autoencoders at full width, pictures of two sizes: not more, and not far less."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import peak
    import published_networks

    makers: dict[str, tuple[Callable[[], Any], int, int, int]] = {
        "autoencoder_kl": (lambda: published_networks.autoencoder_kl(4, 0.18215), 256, 4, 8),
        "autoencoder_dc": (published_networks.autoencoder_dc, 128, 32, 32),
    }
    make, width, channels, scale = makers[network]
    vae = make().eval().requires_grad_(False)

    def decode(latents: Tensor) -> Callable[[], Tensor]:
        return lambda: autoencoder.decode(vae, latents, scale)

    held, foretold = [], []
    for side in (128, 320):
        latents = torch.randn(1, channels, side // scale, side // scale)
        held.append(peak.most_grown(decode(latents)))
        size = {"height_px": side, "width_px": side}
        foretold.append(decoding_bytes(recipe(size), replace(FACTS, vae_width=width, vae_parameters=0)))
    # What does not grow with the picture, such as weights that a kernel turns round, is left out.
    assert 0.75 < (held[1] - held[0]) / (foretold[1] - foretold[0]) < 1.1


def test_the_widest_layer_is_read_from_the_configuration(tmp_path: Path) -> None:
    """8, 8, 16, 16 in the tiny autoencoders: the last block of Stable Diffusion's begins with the second number."""
    for folder, width in ((tiny_sd(tmp_path), 8), (tiny_sana(tmp_path), 8)):
        facts = read_base_facts(Model(base=str(folder)))
        assert facts is not None and facts.vae_width == width
