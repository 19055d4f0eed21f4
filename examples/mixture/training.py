"""Align the mixture's reference with any objective of the library, through the library's own step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ddspo.diffusion.states import states
from ddspo.recipe import Recipe
from ddspo.targets import TARGETS
from ddspo.tensors import PreferenceBatch, RolePredict, WinLose
from ddspo.training.beta import Choice, choose_beta, measure_batch
from ddspo.training.data import MicroBatch
from ddspo.training.step import make_step
from ddspo.training.watch import Watch

from .world import MODES, NOTHING, PATH, TIMESTEPS, Policy, conditioning, noise_prediction, sample

PAIRS, BATCH, STEPS, LEARNING_RATE = 4096, 256, 300, 1e-3


@dataclass(frozen=True)
class Method:
    """One objective with its target.

    Attributes:
        objective: fields of the recipe's objective, as (name, value) pairs.
        target: target source.
        betas: what a sweep tries; () where there is no beta.
        best: the one that the sweep found best (docs/mixture.md).
        auto: whether automatic beta is defined.
    """

    objective: tuple[tuple[str, Any], ...]
    target: str
    betas: tuple[float, ...] = ()
    best: float | None = None
    auto: bool = False

    def recipe(self, beta: float | str | None) -> Recipe:
        """The library's recipe for it."""
        own = {} if beta is None else {"beta": beta}
        return Recipe.model_validate({"objective": dict(self.objective) | own, "target": {"source": self.target}})


@dataclass(frozen=True)
class Pairs:
    """Pictures of the reference: winning ones for a condition, losing ones for none, from the same noise; [N, 2]."""

    x_0: WinLose
    condition: Tensor


@lru_cache(maxsize=8)
def make_pairs(seed: int) -> Pairs:
    """As the library makes pairs: both sides from one x_T."""
    generator = torch.Generator().manual_seed(seed)
    condition = torch.randint(0, MODES, (PAIRS,), generator=generator)
    x_t = torch.randn(PAIRS, 2, generator=generator)
    nothing = torch.full_like(condition, NOTHING)
    sides = WinLose(sample(noise_prediction, condition, x_t), sample(noise_prediction, nothing, x_t))
    return Pairs(sides, condition)


def batches(pairs: Pairs, seed: int, steps: int) -> Iterator[PreferenceBatch]:
    """One batch a step; pairs, timesteps and noise follow from the seed."""
    generator = torch.Generator().manual_seed(seed + 1)
    for _ in range(steps):
        rows = torch.randint(0, PAIRS, (BATCH,), generator=generator)
        yield PreferenceBatch(
            x_0=WinLose(pairs.x_0.win[rows], pairs.x_0.lose[rows]),
            noise=torch.randn(BATCH, 2, generator=generator),
            timestep=torch.randint(0, TIMESTEPS, (BATCH,), generator=generator),
            prompt=conditioning(pairs.condition[rows]),
            degraded_prompt=conditioning(torch.full((BATCH,), NOTHING)),
        )


def roles(policy: Policy) -> RolePredict:
    """The policy, and everybody else as the reference."""

    def predict(role: str, x_t: Tensor, timestep: Tensor, told: Any) -> Tensor:
        condition = told.tensors["condition"]
        if role == "policy":
            return policy(x_t, timestep, condition)
        with torch.no_grad():
            return noise_prediction(x_t, timestep, condition)

    return predict


@dataclass(frozen=True)
class Trained:
    """A policy and how its training ended.

    Attributes:
        loss: the last one.
        drift: of the side that moved further, over the contrast, in the last fifth; None without reference rows.
        beta: in use; None where the objective has none.
    """

    policy: Policy
    loss: float
    drift: float | None
    beta: float | None


def train(method: Method, beta: float | str | None, seed: int = 0, steps: int = STEPS) -> Trained:
    """Adam on the mean loss at a constant rate, so that objectives differ in their loss alone.

    With beta 'auto', beta and the price on drift are what the library's own training would use at every step.
    """
    recipe = method.recipe(beta)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = Policy()
    step, auto = make_step(recipe, roles(policy), PATH), recipe.objective.auto
    choice = choose(method, seed) if beta == "auto" else None
    watch = Watch() if choice is None else Watch(beta=choice.value, yardstick=choice.yardstick)
    optimizer = torch.optim.Adam(policy.parameters(), LEARNING_RATE, fused=True)
    drifts: list[Tensor] = []
    loss = torch.zeros(())
    for number, batch in enumerate(batches(make_pairs(seed), seed, steps), 1):
        outcome = step(batch, beta=watch.beta, price=watch.price(auto))
        loss = outcome.loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if outcome.win_drift is None or outcome.lose_drift is None:
            continue
        drifts.append(torch.stack([outcome.win_drift.mean(), outcome.lose_drift.mean()]))
        if choice is not None:
            row = dict(zip(("win_drift", "lose_drift"), drifts[-1].tolist(), strict=True))
            if "stopped" in watch.see({**row, "step": number}, auto, steps):
                break
    late = drifts[-max(1, len(drifts) // 5) :]
    drift = torch.stack(late).amax(1).mean().item() / contrast(seed) if late else None
    return Trained(policy, loss.item(), drift, watch.beta if choice is not None else beta)  # type: ignore[arg-type]


@lru_cache(maxsize=8)
def contrast(seed: int) -> float:
    """Mean d² on the data, d = reference(x_lose, c) - reference(x_lose, nothing)."""
    found = []
    for batch in batches(make_pairs(seed), seed, 8):
        rows = TARGETS["training_free"](batch, states(batch, PATH), roles(Policy()), PATH)
        found.append((rows.compared().lose - rows.target.lose).square().mean().item())
    return sum(found) / len(found)


@lru_cache(maxsize=64)
def choose(method: Method, seed: int = 0) -> Choice:
    """What `objective.beta: auto` measures and chooses (`ddspo.training.beta`), on eight batches."""
    recipe, predict = method.recipe("auto"), roles(Policy())
    micro = [
        MicroBatch(batch, torch.ones(BATCH), True, step, range(BATCH))
        for step, batch in enumerate(batches(make_pairs(seed), seed, 8))
    ]
    return choose_beta(recipe, micro, lambda one: measure_batch(one.pairs, recipe.target, predict, PATH, contrast=True))


def _method(
    name: str, target: str, betas: tuple[float, ...] = (), best: float | None = None, auto: bool = False, **fields: Any
) -> Method:
    return Method((("name", name), *fields.items()), target, betas, best, auto)


_SWEEP = (5.0, 20.0, 100.0, 400.0, 1600.0, 6400.0)
_LOW_SWEEP = (1.0, 5.0, 20.0, 100.0, 400.0, 1600.0)
METHODS: dict[str, Method] = {
    "Diffusion-DPO": _method("preference", "forward_noise", _SWEEP, 400.0, auto=True),
    "DDSPO": _method("preference", "training_free", _SWEEP, 1600.0, auto=True),
    "DDSPO, anchored": _method("preference", "training_free", _LOW_SWEEP, 5.0, auto=True, anchor=0.1),
    "IPO": _method("ipo", "training_free", _LOW_SWEEP, 5.0, auto=True),
    "hinge": _method("hinge", "training_free", _SWEEP, 1600.0, auto=True),
    "DMPO": _method("dmpo", "training_free", _SWEEP, 1600.0, auto=True),
    "Diffusion-KTO": _method("kto", "forward_noise", _LOW_SWEEP, 20.0, auto=True),
    "DPPO": _method("dppo", "training_free", _LOW_SWEEP, 5.0, dppo_conservativeness=0.5),
    "DSPO": _method("dspo", "forward_noise", (0.01, 0.1, 1.0, 10.0), 10.0),
    "DSPO, contrastive": _method("dspo", "training_free", (0.001, 1.0, 100.0), 0.001, dspo_reward="contrast"),
    "MaPO": _method("mapo", "forward_noise", (0.01, 0.1, 1.0, 10.0), 1.0),
    "guidance distillation": _method("guidance_distillation", "guidance"),
    "fine-tuning": _method("denoising", "forward_noise"),
}
"""every objective of the library, with the target that makes sense for it"""
