"""The parts of a recipe that say how pictures are drawn and judged."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from .overrides import nearest
from .recipe_base import Positive, Section

SCORERS = ("tinyscenes", "clip_score", "pickscore")
"""what `evaluation/scorers.py` can make; named here as well, because a recipe is read without loading them"""
SET_METRICS = ("frechet", "inception_score")


class Sampling(Section):
    """How pictures are drawn."""

    sampler: Literal["default", "ddim", "euler", "dpm++"] = "default"
    """'default' is the checkpoint's own scheduler"""
    steps: Positive = 25
    guidance_scale: Annotated[float, Field(ge=1)] = 7.5
    """diffusers' meaning; 1 switches guidance off"""
    batch_images: Positive = 64
    """pictures drawn at once"""


class Evaluation(Section):
    """How reference and policy are compared: same prompts, same seeds."""

    prompts: str = "tinyscenes:heldout"
    """a prompt file, 'held_out' for what prompts.held_out sets aside of prompts.source, or 'tinyscenes:heldout'"""
    column: str = "prompt"
    """of a prompt file"""
    limit: Positive | None = None
    """use this many unique prompts, drawn from the run seed; None: all"""
    images_per_prompt: Positive = 1
    sampling: Sampling = Sampling()
    scorers: tuple[str, ...] = ("tinyscenes",)
    """of single pictures, as 'name' or 'name:argument'; the first one decides"""
    set_metrics: tuple[str, ...] = ("frechet", "inception_score")
    """scores of whole sets of pictures; they need a feature network (tinyscenes has one)"""
    negative_prompt_baseline: bool = False
    """also the reference guided away from each prompt's degraded prompt, untrained; as 'negative_prompt'"""
    bootstrap_samples: Positive = 10_000
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95

    @field_validator("scorers", "set_metrics")
    @classmethod
    def _known(cls, chosen: tuple[str, ...], field: ValidationInfo) -> tuple[str, ...]:
        # A misspelt one would otherwise be found when everything is trained.
        known = SCORERS if field.field_name == "scorers" else SET_METRICS
        for choice in chosen:
            name = choice.partition(":")[0] if field.field_name == "scorers" else choice
            if name not in known:
                close = nearest(name, known)
                mend = f"did you mean '{close}'?" if close else f"there are {', '.join(known)}"
                raise ValueError(f"there is no '{name}'; {mend}")
        return chosen

    @model_validator(mode="after")
    def _guided(self) -> Evaluation:
        if self.negative_prompt_baseline and self.sampling.guidance_scale == 1:
            raise ValueError("negative_prompt_baseline needs guidance; set sampling.guidance_scale above 1")
        return self
