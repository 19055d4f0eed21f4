"""The figures that go with the checkpoint: accuracy, round trip, and the screen of which degradations point anywhere.

The screen samples the base pushed away from a degraded prompt, kind by kind. Where that raises exact accuracy, text
encoder and denoiser carry what the degraded prompt lacks, and contrasting with it can teach; where it raises nothing,
it cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from ..edits import EDITS, distinct_edits
from ..language import speak
from ..render import render
from ..scenes import Description, realize
from ..score import judge
from .captions import sample_true_description
from .measure import accuracy, draw, draw_against, probe_descriptions, prompt_contrast, prompts_of
from .vae import to_tensor, to_uint8

STEPS = 20
GUIDANCE_SCALES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
PER_CATEGORY = 40
SCREEN_WEIGHT = 1.0


@torch.no_grad()
def round_trip(pipeline: StableDiffusionPipeline, count: int, seed: int) -> float:
    """Share of clean renders that are still exactly right after encoding and decoding."""
    rng = np.random.default_rng([seed, 6])
    described = [sample_true_description(rng) for _ in range(count)]
    images = to_tensor(np.stack([render(realize(description, rng)) for description in described]))
    decoded = to_uint8(pipeline.vae.decode(pipeline.vae.encode(images).latent_dist.mean).sample)
    return float(np.mean([judge(image, what).exact for image, what in zip(decoded, described, strict=True)]))


def guidance_sweep(
    pipeline: StableDiffusionPipeline, probes: Sequence[tuple[str, Description]], seed: int, log: Callable[[str], None]
) -> dict[str, Any]:
    """Accuracy at every guidance scale."""
    table = {}
    for scale in GUIDANCE_SCALES:
        result = accuracy(draw(pipeline, prompts_of(probes), guidance_scale=scale, steps=STEPS, seed=seed), probes)
        log(f"guidance {scale}: {result}")
        table[str(scale)] = {"overall": result.overall, "categories": result.categories, "failures": result.failures}
    return table


@torch.no_grad()
def _latents(
    pipeline: StableDiffusionPipeline, described: Sequence[Description], rng: np.random.Generator
) -> torch.Tensor:
    images = to_tensor(np.stack([render(realize(description, rng)) for description in described]))
    return pipeline.vae.encode(images).latent_dist.mean * pipeline.vae.config.scaling_factor


def screen(
    pipeline: StableDiffusionPipeline,
    probes: Sequence[tuple[str, Description]],
    guidance_scale: float,
    seed: int,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Per kind of degradation: accuracy with plain guidance and pushed away from the degraded prompt; contrast."""
    rng = np.random.default_rng([seed, 7])
    table = {}
    for kind in EDITS:
        chosen = []
        for category, description in probes:
            edits = distinct_edits(description, (kind,)).get(kind, [])
            if edits:
                chosen.append(((category, description), edits[int(rng.integers(len(edits)))][0]))
        concerned = [item for item, _ in chosen]
        prompts, degraded = prompts_of(concerned), [speak(edited) for _, edited in chosen]
        plain, against = (
            accuracy(
                draw_against(
                    pipeline, prompts, degraded, weight=weight, guidance_scale=guidance_scale, steps=STEPS, seed=seed
                ),
                concerned,
            ).overall
            for weight in (0.0, SCREEN_WEIGHT)
        )
        latents = _latents(pipeline, [description for _, description in concerned], rng)
        contrast = prompt_contrast(pipeline, latents, prompts, degraded, seed)
        table[kind] = {"prompts": len(chosen), "plain": plain, "pushed": against, "contrast": contrast}
        log(f"screen {kind}: {len(chosen)} prompts, exact {plain:.3f} -> {against:.3f}, contrast {contrast:.2e}")
    return table


def record(pipeline: StableDiffusionPipeline, seed: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Everything measured of a finished checkpoint, ready for JSON."""
    probes = probe_descriptions(PER_CATEGORY, seed + 1)
    sweep = guidance_sweep(pipeline, probes, seed, log)
    best = max(GUIDANCE_SCALES, key=lambda scale: sweep[str(scale)]["overall"])
    return {
        "parameters": {
            name: sum(p.numel() for p in getattr(pipeline, name).parameters())
            for name in ("unet", "vae", "text_encoder")
        },
        "vae_round_trip": round_trip(pipeline, 2000, seed),
        "sampler": f"DDIM, {STEPS} steps",
        "probes_per_category": PER_CATEGORY,
        "guidance": sweep,
        "best_guidance_scale": best,
        "screen_weight": SCREEN_WEIGHT,
        "screen": screen(pipeline, probes[::2], best, seed, log),
    }
