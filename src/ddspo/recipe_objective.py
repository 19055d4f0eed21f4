"""The parts of a recipe that say what is learned: target, states, timesteps, objective."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .method_facts import OBJECTIVES, without_effect
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
    error_space: Literal["native", "x_0"] = "native"
    """where errors are measured: the network's own space, or the x_0 that predictions imply (errors times sigma² for
    flow and v, times (sigma / alpha)² for epsilon), as in the published SD3 code; beta means another strength there"""
    guidance_weight: Price = 1.0
    """of 'guidance': reference(c) + weight (reference(c) - reference(c⁻))"""
    winning: Path | None = None
    """of 'data_driven': a LoRA trained elsewhere, folder or .safetensors file; None: trained here, see `adapters`"""
    losing: Path | None = None
    adapters: TargetAdapters = TargetAdapters()


class Timesteps(Section):
    """Where on the noise path to train, and how much each place counts; two separate choices."""

    states: Literal["forward", "trajectory"] = "forward"
    """'forward': x_0 and noise; 'trajectory': a state that sampling visited, any of pairs.trajectory_states alike"""
    sampler: Literal["uniform", "logit_normal"] = "uniform"
    low: Fraction = 0.0
    """range as a share of the schedule, 0 = clean"""
    high: Fraction = 1.0
    logit_mean: float = 0.0
    logit_std: PositiveNumber = 1.0
    weight: Literal["none", "linear", "high_noise"] = "none"
    """'linear' multiplies a pair's loss by t / (T - 1), as in the published SDXL script; 'high_noise' by the share of
    noise in the variance of x_t (our reading of Rethinking-DPO's timestep-aware training)"""

    @model_validator(mode="after")
    def _has_effect(self) -> Timesteps:
        fields = ("sampler", "low", "high", "logit_mean", "logit_std")
        changed = [name for name in fields if getattr(self, name) != type(self).model_fields[name].default]
        if self.states == "trajectory" and changed:
            raise ValueError(
                f"{', '.join(changed)}: no effect with states 'trajectory', whose timesteps are those that sampling "
                "visited (pairs.sampling); leave out, or use states 'forward'"
            )
        logit = [name for name in changed if name.startswith("logit_")]
        if self.sampler != "logit_normal" and logit:
            raise ValueError(
                f"{', '.join(logit)}: no effect with sampler '{self.sampler}'; leave out, or use sampler 'logit_normal'"
            )
        return self


class MovingReference(Section):
    """A reference that follows the policy, tied to its start (our reading of Rethinking-DPO, arXiv 2505.18736)."""

    every_steps: Positive = 10
    rate: Fraction = 0.1
    """share of the policy taken over each time"""
    pull: Fraction = 0.1
    """share of the way back to the start each time"""


AUTO_STRENGTH = {"preference": 4.0, "dmpo": 4.6, "kto": 2.0, "hinge": 1.0, "ipo": 0.5}
"""strengths at which one whole step along the signal settles a pair, where beta multiplies a margin (docs/beta.md)"""


class AutoBeta(Section):
    """`objective.beta: auto`: beta from the size of the signal, then watched (docs/beta.md)."""

    strength: PositiveNumber | None = None
    """beta times the measured signal: the margin of a pair along whose signal the policy went the whole way once; None:
    the objective's own, 4 for 'preference'"""
    pairs: Positive = 128
    """pairs that the signal is measured on before the first step; the run's own first ones"""
    hold_drift: PositiveNumber = 0.5
    """drift / signal from which on drift has a price, which rises with it"""
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

    @property
    def is_on(self) -> bool:
        """Whether the margin is another than the published one."""
        return self != type(self)()


def _default_beta(data: dict[str, Any]) -> float | Literal["auto"]:
    """'auto' where it is defined; elsewhere the published number, and 16000 where there is no beta."""
    name = data.get("name", "preference")
    if name in AUTO_STRENGTH:
        return "auto"
    facts = OBJECTIVES.get(name, OBJECTIVES["preference"])
    return 16000.0 if facts.beta is None else facts.beta


class Objective(Section):
    """The loss."""

    name: Literal[
        "preference", "ipo", "hinge", "dspo", "dmpo", "kto", "mapo", "dppo", "denoising", "guidance_distillation"
    ] = "preference"
    """'preference': -log sigmoid(margin), DDSPO and Diffusion-DPO by target; 'denoising': fine-tuning on the winners"""
    beta: PositiveNumber | Literal["auto"] = Field(default_factory=_default_beta)
    """multiplies half the difference of mean squared errors, but not in 'dspo', 'kto' and 'mapo'; left out: 'auto',
    which measures the signal first (docs/beta.md), or the published number where auto is not defined. Published for
    DDSPO on SD 1.x: 16000; the published recipes name theirs"""
    auto: AutoBeta = AutoBeta()
    anchor: Price = 0.0
    """price of drift from the reference on both sides, in units of beta/2 where that multiplies errors (not in 'dspo',
    'mapo', 'denoising' and 'guidance_distillation', where it is 1); 0: the published objective"""
    lose_anchor: Price | None = None
    """the same for the losing side alone; None: as `anchor`"""
    safeguard: Fraction | None = None
    """mu of the SDPO safeguard, 1 protects the winning side most (published: 0.9 on SD 1.5, 0.6 on SDXL); None: off"""
    dspo_reward: Literal["implicit", "contrast"] = "implicit"
    """whose score the preference has: 'implicit': policy - reference, as published; 'contrast': that of the pair of
    training_free targets, where the published form has nothing to learn"""
    dspo_gain: PositiveNumber = 1.0
    """of dspo_reward 'contrast': times the contrast"""
    dmpo_alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """probability left to the losing side"""
    kto_win_weight: PositiveNumber = 1.0
    kto_lose_weight: PositiveNumber = 1.0
    mapo_slope: PositiveNumber = 0.5
    """how fast odds fall with the error; the release's snr_value"""
    mapo_scale: PositiveNumber = 1000.0
    """times the difference of odds; published: the number of training timesteps"""
    dppo_conservativeness: Price = 1.0
    """factor on the losing side's distance; 1: as published"""
    side: Literal["win", "lose"] = "win"
    """which pictures 'denoising' learns from"""
    protect: Protect = Protect()
    """of 'preference'"""
    reference: MovingReference | None = None
    """None: the reference stays where it started"""

    @property
    def strength(self) -> float:
        """Of automatic beta: as given, else the objective's own."""
        return self.auto.strength or AUTO_STRENGTH[self.name]

    @property
    def beta_words(self) -> str:
        """'200', or 'auto (strength 4)'."""
        return f"auto (strength {self.strength:g})" if self.beta == "auto" else f"{self.beta:g}"

    @model_validator(mode="after")
    def _fits(self) -> Objective:
        if self.beta == "auto" and self.name not in AUTO_STRENGTH:
            raise ValueError(
                f"beta 'auto' is not defined for name '{self.name}', where beta does not multiply a margin against the "
                f"reference; give a number, or use one of {', '.join(AUTO_STRENGTH)}"
            )
        if self.protect.is_on and self.name != "preference":
            raise ValueError(f"protect: no effect with name '{self.name}', it belongs to 'preference'; leave it out")
        return self

    @model_validator(mode="after")
    def _has_effect(self) -> Objective:
        if mistake := without_effect(self):
            raise ValueError(mistake)
        return self

    @property
    def anchors(self) -> tuple[float, float]:
        """(winning side, losing side)."""
        return self.anchor, self.anchor if self.lose_anchor is None else self.lose_anchor


__all__ = ["AutoBeta", "MovingReference", "Objective", "Protect", "Target", "TargetAdapters", "Timesteps"]
