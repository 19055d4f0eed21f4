"""The parts of a recipe that say what is learned: target, states, timesteps, objective."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

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
    """`objective.beta: auto`: beta from the size of the signal, then watched (docs/beta.md)."""

    strength: PositiveNumber = 4.0
    """beta times the measured signal: the margin of a pair for which the policy made the whole step once"""
    pairs: Positive = 128
    """pairs that the signal is measured on before the first step; the run's own first ones"""
    hold_drift: PositiveNumber = 1.0
    """beta rises in proportion once drift / signal is above this"""
    stop_drift: PositiveNumber | None = 4.0
    """the run ends early when drift / signal is above this; None: never"""

    @model_validator(mode="after")
    def _ordered(self) -> AutoBeta:
        if self.stop_drift is not None and self.stop_drift <= self.hold_drift:
            raise ValueError(f"stop_drift ({self.stop_drift:g}) must be above hold_drift ({self.hold_drift:g})")
        return self


class Protect(Section):
    """Changes of the preference margin that protect quality (`ddspo.objectives.protect`); all off as published."""

    lose_reward: bool = True
    """False: the losing side earns for the right direction only, not for distance"""
    lose_weight: PositiveNumber = 1.0
    """conservativeness: below 1 the losing side pushes less, while the winning side holds as before"""
    trust_region: PositiveNumber | None = None
    """a pair whose losing side gained what a drift of this many times its contrast can give pushes no further"""


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
    protect: Protect = Protect()
    """of 'preference'"""
    reference: MovingReference | None = None
    """None: the reference stays where it started"""

    @property
    def anchors(self) -> tuple[float, float]:
        """(winning side, losing side)."""
        return self.anchor, self.anchor if self.lose_anchor is None else self.lose_anchor


__all__ = ["AutoBeta", "MovingReference", "Objective", "Protect", "Target", "TargetAdapters", "Timesteps"]
