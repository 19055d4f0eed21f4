"""One batch of pairs to per-pair losses and measurements: no optimizer, no device, no process.

Reference rows come first and carry no gradient; then one policy call over the winning and losing rows together. Per
pair and counted in F (one denoiser forward on one sample; a backward is 2F):

    | what is trained         | reference | policy | backward | together |
    |-------------------------|-----------|--------|----------|----------|
    | preference, training_free | 3       | 2      | 4        | 9F       |
    | preference, forward_noise | 2       | 2      | 4        | 8F       |
    | denoising on the winners  | 0       | 1      | 2        | 3F       |

Gradient checkpointing runs the policy's forward once more inside the backward, which is counted as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor

from .. import recipe
from ..diffusion.noise_path import NoisePath
from ..diffusion.states import added_noise, states
from ..errors import UserError
from ..objectives import OBJECTIVES
from ..objectives.anchor import drift_anchor
from ..objectives.errors import squared_error
from ..targets import TARGETS, TargetRows
from ..tensors import PreferenceBatch, RolePredict, WinLose


@dataclass(frozen=True)
class StepOutcome:
    """What one batch of B pairs gave; every tensor is [B] and only `loss` carries a gradient.

    Attributes:
        loss: per pair, not weighted and not reduced.
        timestep: what the network was fed.
        forward_rows: denoiser rows evaluated, policy and reference.
        backward_rows: denoiser rows that a backward through `loss` visits.
        margin: how clearly policy prefers the winning side, as the loss sees it; None for denoising.
        win_drift, lose_drift: mean |policy - reference|² over latent dimensions; None for denoising.
        contrast: mean d² with d = reference(x_lose, c) - reference(x_lose, c⁻); None without degraded prompts.
    """

    loss: Tensor
    timestep: Tensor
    forward_rows: int
    backward_rows: int
    margin: Tensor | None = None
    win_drift: Tensor | None = None
    lose_drift: Tensor | None = None
    contrast: Tensor | None = None


class Step(Protocol):
    """What the loop calls for every micro batch."""

    def __call__(
        self, batch: PreferenceBatch, *, beta: float | None = None, rows: TargetRows | None = None
    ) -> StepOutcome:
        """`beta` in place of the recipe's; `rows`, computed before, in place of asking the frozen roles."""
        ...


def make_step(recipe: recipe.Recipe, predict: RolePredict, noise_path: NoisePath) -> Step:
    """The step function that a recipe asks for.

    Args:
        recipe: its objective and target are read.
        predict: calls the network in one of its roles.
        noise_path: how x_0 and noise make x_t; tables on the device of the batches save a transfer per call.
    """
    return partial(
        pair_step, predict=predict, noise_path=noise_path, settings=recipe.objective, target=recipe.target.source
    )


def pair_step(
    batch: PreferenceBatch,
    *,
    predict: RolePredict,
    noise_path: NoisePath,
    settings: recipe.Objective,
    target: str,
    beta: float | None = None,
    rows: TargetRows | None = None,
) -> StepOutcome:
    """States of both sides, what is known without the policy, the policy, then objective and options.

    Args:
        batch: B pairs; stored states are used where it has them, else x_0 and noise are mixed.
        predict: calls the network in one of its roles.
        noise_path: how x_0 and noise make x_t, and what the network predicts.
        settings: the objective and its options.
        target: a key of `ddspo.targets.TARGETS`.
        beta: in place of `settings.beta`.
        rows: targets and reference predictions of this batch, computed before; None: computed here.

    Raises:
        UserError: the recipe says `beta: auto` and no beta was given.
    """
    objective, count, x_t = OBJECTIVES[settings.name], len(batch.timestep), states(batch, noise_path)
    beta, spent = beta_in_use(settings, beta), 0
    if objective.sides == "win":
        return _winning_side_alone(batch, x_t.win, predict, noise_path, settings, beta)
    if rows is None:
        rows = TARGETS[target](batch, x_t, predict, noise_path)
        spent = rows.network_evaluations
    policy = WinLose.split(predict("policy", x_t.stacked(), batch.timestep.repeat(2), batch.prompt.repeat(2)))
    result = objective.loss(policy, rows.reference, rows.target, settings, beta)
    loss = result.loss
    if settings.anchor:
        loss = loss + drift_anchor(policy, rows.reference, beta=beta, anchor=settings.anchor)
    measured, contrastive = WinLose(policy.win.detach(), policy.lose.detach()), target == "training_free"
    return StepOutcome(
        loss=loss,
        timestep=batch.timestep,
        forward_rows=spent + 2 * count,
        backward_rows=2 * count,
        margin=None if result.margin is None else result.margin.detach(),
        win_drift=squared_error(measured.win, rows.reference.win),
        lose_drift=squared_error(measured.lose, rows.reference.lose),
        contrast=squared_error(rows.reference.lose, rows.target.lose) if contrastive else None,
    )


def beta_in_use(settings: recipe.Objective, beta: float | None) -> float:
    """The beta of this call: the one given, else the recipe's.

    Raises:
        UserError: the recipe leaves it open and none was given.
    """
    if beta is not None:
        return beta
    if settings.beta == "auto":
        raise UserError("objective.beta is 'auto': it is measured by `ddspo train`; give a number to use the step alone")
    return settings.beta


def _winning_side_alone(
    batch: PreferenceBatch,
    x_t: Tensor,
    predict: RolePredict,
    noise_path: NoisePath,
    settings: recipe.Objective,
    beta: float,
) -> StepOutcome:
    """Plain fine-tuning: one row per pair, no reference; the losing side and the degraded prompt are not looked at."""
    noise = added_noise(batch, noise_path)
    win = noise_path.target(batch.x_0.win, noise.win, batch.timestep)
    policy = predict("policy", x_t, batch.timestep, batch.prompt)
    result = OBJECTIVES[settings.name].loss(WinLose(policy, policy), None, WinLose(win, win), settings, beta)
    count = len(batch.timestep)
    return StepOutcome(result.loss, batch.timestep, forward_rows=count, backward_rows=count)
