"""The parts of a recipe that say what is learned: target, states, timesteps, objective."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from .recipe_base import Fraction, Positive, Section

PositiveNumber = Annotated[float, Field(gt=0)]
Price = Annotated[float, Field(ge=0)]


class TargetAdapters(Section):
    """How the winning and the losing model of `target.source: data_driven` are trained: two LoRAs on one base."""

    rank: Positive = 4
    alpha: PositiveNumber | None = None
    """None: equal to rank"""
    learning_rate: PositiveNumber = 1e-4
    max_steps: Positive = 300
    global_batch_pairs: Positive = 2048
    micro_batch_pairs: Positive = 8


class Target(Section):
    """What policy and reference predictions are compared with."""

    source: Literal["training_free", "forward_noise", "data_driven", "guidance"] = "training_free"
    """'training_free': the reference on prompt and degraded prompt (DDSPO, TF-CPP); 'data_driven': a model of the
    winning and one of the losing pictures (DDSPO, DD-CPP); 'forward_noise': the noise that was added (Diffusion-DPO);
    'guidance': the reference pushed from degraded prompt to prompt"""
    guidance_weight: Price = 1.0
    """of 'guidance': reference(c) + weight (reference(c) - reference(c⁻))"""
    winning: Path | None = None
    """of 'data_driven': a LoRA folder trained elsewhere; None: trained here from `adapters`"""
    losing: Path | None = None
    adapters: TargetAdapters = TargetAdapters()


class Timesteps(Section):
    """Where on the noise path to train, and how much each place counts; two separate choices."""

    states: Literal["forward", "trajectory"] = "forward"
    """'forward': x_0 and noise; 'trajectory': a state that sampling visited (pairs.trajectory_states)"""
    sampler: Literal["uniform", "logit_normal"] = "uniform"
    low: Fraction = 0.0
    """range as a share of the schedule, 0 = clean"""
    high: Fraction = 1.0
    logit_mean: float = 0.0
    logit_std: PositiveNumber = 1.0
    weight: Literal["none", "linear"] = "none"
    """'linear' multiplies a pair's loss by t / (T - 1), as in the published SDXL script"""


class MovingReference(Section):
    """A reference that follows the policy, tied to its start (our reading of Rethinking-DPO, arXiv 2505.18736)."""

    every_steps: Positive = 10
    rate: Fraction = 0.1
    """share of the policy taken over each time"""
    pull: Fraction = 0.1
    """share of the way back to the start each time"""


class AutoBeta(Section):
    """`objective.beta: auto`: beta from the size of the signal, then watched."""

    strength: PositiveNumber = 4.0
    """beta times the measured scale of the signal (see docs)"""
    pairs: Positive = 64
    """pairs that the scale is measured on before the first step"""


class Objective(Section):
    """The loss."""

    name: Literal[
        "preference", "ipo", "hinge", "dspo", "dmpo", "kto", "mapo", "dppo", "denoising", "guidance_distillation"
    ] = "preference"
    """'preference': -log sigmoid(margin), DDSPO and Diffusion-DPO by target; 'denoising': fine-tuning on the winners"""
    beta: PositiveNumber | Literal["auto"] = 16000.0
    """multiplies half the difference of mean squared errors (published for SD 1.x: 16000)"""
    auto: AutoBeta = AutoBeta()
    anchor: Price = 0.0
    """price of drift from the reference on both sides, in units of beta/2; 0: the published objective"""
    lose_anchor: Price | None = None
    """the same for the losing side alone; None: as `anchor`"""
    safeguard: Fraction | None = None
    """mu of the SDPO safeguard; None: off"""
    reference: MovingReference | None = None
    """None: the reference stays where it started"""

    @property
    def anchors(self) -> tuple[float, float]:
        """(winning side, losing side)."""
        return self.anchor, self.anchor if self.lose_anchor is None else self.lose_anchor


__all__ = ["AutoBeta", "MovingReference", "Objective", "Target", "TargetAdapters", "Timesteps"]
