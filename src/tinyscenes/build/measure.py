"""How good a checkpoint is: exact accuracy by category, what goes wrong, whether degraded prompts point anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from ..language import speak
from ..scenes import CATEGORIES, Description, sample_description
from ..score import failure_kind, judge
from .vae import to_uint8


@dataclass(frozen=True)
class Accuracy:
    """Share of exactly right pictures, overall and per category, and the share of each kind of failure."""

    overall: float
    categories: dict[str, float]
    failures: dict[str, float]

    def __str__(self) -> str:
        parts = " ".join(f"{name} {value:.2f}" for name, value in self.categories.items())
        wrong = " ".join(f"{name} {value:.2f}" for name, value in self.failures.items())
        return f"exact {self.overall:.3f} | {parts} | {wrong}"


def probe_descriptions(per_category: int, seed: int) -> list[tuple[str, Description]]:
    """(category, description), the same number of each category."""
    rng = np.random.default_rng([seed, 4])
    return [(category, sample_description(rng, category)) for category in CATEGORIES for _ in range(per_category)]


def draw(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    guidance_scale: float,
    steps: int,
    seed: int,
) -> np.ndarray:
    """Pictures through the plain diffusers pipeline, uint8 [N, 32, 32, 3]; the same noise for the same seed and N."""
    images = []
    for start in range(0, len(prompts), 128):
        rows = slice(start, start + 128)
        images.append(
            pipeline(
                list(prompts[rows]),
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                generator=torch.Generator().manual_seed(seed * 1000 + start),
                output_type="np",
            ).images
        )
    return (np.concatenate(images) * 255).round().astype(np.uint8)


@torch.no_grad()
def draw_against(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    degraded: Sequence[str],
    *,
    weight: float,
    guidance_scale: float,
    steps: int,
    seed: int,
) -> np.ndarray:
    """Pictures with guidance, pushed away from what the model would do on degraded prompts, uint8 [N, 32, 32, 3].

        empty + guidance_scale (full - empty) + weight (full - degraded)

    At weight 0 this is ordinary guidance; what a positive weight adds is the direction that DDSPO trains in.
    """

    def states(texts: Sequence[str]) -> torch.Tensor:
        return pipeline.encode_prompt(list(texts), "cpu", 1, do_classifier_free_guidance=False)[0]

    images = []
    for start in range(0, len(prompts), 128):
        rows = slice(start, start + 128)
        count = len(prompts[rows])
        conditions = torch.cat([states([""] * count), states(prompts[rows]), states(degraded[rows])])
        generator = torch.Generator().manual_seed(seed * 1000 + start)
        x_t = torch.randn(count, pipeline.unet.config.in_channels, 8, 8, generator=generator)
        pipeline.scheduler.set_timesteps(steps)
        for timestep in pipeline.scheduler.timesteps:
            output = pipeline.unet(torch.cat([x_t] * 3), timestep, encoder_hidden_states=conditions).sample
            empty, full, less = output.chunk(3)
            guided = empty + guidance_scale * (full - empty) + weight * (full - less)
            x_t = pipeline.scheduler.step(guided, timestep, x_t).prev_sample
        images.append(to_uint8(pipeline.vae.decode(x_t / pipeline.vae.config.scaling_factor).sample))
    return np.concatenate(images)


def accuracy(images: np.ndarray, described: Sequence[tuple[str, Description]]) -> Accuracy:
    """Judge pictures against what they should show."""
    exact: dict[str, list[bool]] = {}
    failures: Counter[str] = Counter()
    for image, (category, description) in zip(images, described, strict=True):
        verdict = judge(image, description)
        exact.setdefault(category, []).append(verdict.exact)
        if not verdict.exact:
            failures[failure_kind(image, description)] += 1
    return Accuracy(
        overall=float(np.mean([value for values in exact.values() for value in values])),
        categories={category: float(np.mean(values)) for category, values in exact.items()},
        failures={kind: count / len(described) for kind, count in failures.most_common()},
    )


@torch.no_grad()
def prompt_contrast(
    pipeline: StableDiffusionPipeline, latents: torch.Tensor, prompts: Sequence[str], degraded: Sequence[str], seed: int
) -> float:
    """E[mean d²] with d = prediction(x_t, prompt) − prediction(x_t, degraded prompt), t uniform over the schedule."""
    generator = torch.Generator().manual_seed(seed)
    timestep = torch.randint(0, 1000, (len(latents),), generator=generator)
    x_t = pipeline.scheduler.add_noise(latents, torch.randn(latents.shape, generator=generator), timestep)
    states = [
        pipeline.encode_prompt(list(texts), "cpu", 1, do_classifier_free_guidance=False)[0]
        for texts in (prompts, degraded)
    ]
    first, second = (pipeline.unet(x_t, timestep, encoder_hidden_states=state).sample for state in states)
    return (first - second).pow(2).mean().item()


def prompts_of(described: Sequence[tuple[str, Description]]) -> list[str]:
    """What the descriptions say."""
    return [speak(description) for _, description in described]
