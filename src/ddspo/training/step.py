"""One batch of pairs to per-pair losses and measurements: no optimizer, no device, no process.

Frozen rows come first and carry no gradient; then one policy call over the winning and losing rows together. Per pair
and counted in F (one denoiser forward on one sample; a backward is 2F):

    | objective, target                                | frozen | policy | backward | together |
    |--------------------------------------------------|--------|--------|----------|----------|
    | preference, ipo, hinge, dspo, dmpo, kto          |        |        |          |          |
    |     training_free                                | 3      | 2      | 4        | 9F       |
    |     forward_noise                                | 2      | 2      | 4        | 8F       |
    |     data_driven                                  | 4      | 2      | 4        | 10F      |
    | mapo, dppo: no reference                         |        |        |          |          |
    |     training_free, data_driven                   | 2      | 2      | 4        | 8F       |
    |     forward_noise                                | 0      | 2      | 4        | 6F       |
    | guidance_distillation, guidance                  | 4      | 2      | 4        | 10F      |
    | denoising on the winners                         | 0      | 1      | 2        | 3F       |

An anchor asks the reference where the objective does not: mapo and dppo then cost what preference does, denoising 4F.
Gradient checkpointing runs the policy's forward once more inside the backward, which is counted as well. The facts
behind the table are in `method_facts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor

from .. import recipe
from ..diffusion.noise_path import NoisePath
from ..diffusion.states import states
from ..errors import UserError
from ..method_facts import OBJECTIVES as FACTS
from ..method_facts import TARGETS as TARGET_FACTS
from ..method_facts import asks_reference, target_of
from ..objectives import OBJECTIVES
from ..objectives.anchor import drift_anchor
from ..objectives.errors import both_errors, squared_error
from ..objectives.safeguard import safeguard
from ..targets import TargetRows, TargetSource, target_source
from ..targets.error_space import rows_in_x_0, sides_in_x_0
from ..targets.forward_noise import noise_target
from ..tensors import PreferenceBatch, RolePredict, WinLose

ROUNDING = 1e-6
"""differences between errors near 1 that are a few last digits of float32: policy and reference rows pass the network
in batches of different size, so equal networks differ by as much"""


@dataclass(frozen=True)
class StepOutcome:
    """What one batch of B pairs gave; every tensor is [B] and only `loss` carries a gradient.

    Attributes:
        loss: per pair, not weighted and not reduced.
        timestep: what the network was fed.
        forward_rows: denoiser rows evaluated, policy and reference.
        backward_rows: denoiser rows that a backward through `loss` visits.
        margin: how clearly policy prefers the winning side, as the loss sees it; None where nothing is compared.
        tie: margins nearer to 0 than this are rounding.
        settles: whether sigmoid(-margin) says how much a pair still teaches (`ObjectiveFacts.settles`).
        win_drift, lose_drift: mean |policy - reference|² over latent dimensions; None where the reference is not asked.
        contrast: mean |reference - target|² over latent dimensions, both sides added: what there is to learn. With
            training_free targets that is d², d = reference(x_lose, c) - reference(x_lose, c⁻). None where it is noise.
    """

    loss: Tensor
    timestep: Tensor
    forward_rows: int
    backward_rows: int
    margin: Tensor | None = None
    tie: float = 0.0
    settles: bool = True
    win_drift: Tensor | None = None
    lose_drift: Tensor | None = None
    contrast: Tensor | None = None


class Step(Protocol):
    """What the loop calls for every micro batch."""

    def __call__(
        self,
        batch: PreferenceBatch,
        *,
        beta: float | None = None,
        price: float = 0.0,
        rows: TargetRows | None = None,
    ) -> StepOutcome:
        """`beta` in place of the recipe's, `price` on drift beside its anchors; `rows`, computed before, in place of
        asking the frozen roles."""
        ...


def make_step(recipe: recipe.Recipe, predict: RolePredict, noise_path: NoisePath) -> Step:
    """The step function that a recipe asks for.

    Args:
        recipe: its objective and target are read.
        predict: calls the network in one of its roles.
        noise_path: how x_0 and noise make x_t; tables on the device of the batches save a transfer per call.
    """
    source, settings = target_of(recipe), recipe.objective
    if FACTS[settings.name].sides == "win":
        return partial(
            winning_step, predict=predict, noise_path=noise_path, settings=settings, compare=asks_reference(recipe)
        )
    return partial(
        pair_step,
        predict=predict,
        noise_path=noise_path,
        settings=settings,
        target=partial(target_source(recipe.target), reference=asks_reference(recipe)),
        contrastive=TARGET_FACTS[source].contrastive,
        reference_is_target=source == "training_free",
        x_0_errors=recipe.target.error_space == "x_0",
    )


def pair_step(
    batch: PreferenceBatch,
    *,
    predict: RolePredict,
    noise_path: NoisePath,
    settings: recipe.Objective,
    target: TargetSource,
    contrastive: bool,
    reference_is_target: bool = False,
    x_0_errors: bool = False,
    beta: float | None = None,
    price: float = 0.0,
    rows: TargetRows | None = None,
) -> StepOutcome:
    """States of both sides, what is known without the policy, the policy, then objective and options.

    Args:
        batch: B pairs; stored states are used where it has them, else x_0 and noise are mixed.
        predict: calls the network in one of its roles.
        noise_path: how x_0 and noise make x_t, and what the network predicts.
        settings: the objective and its options.
        target: one of `ddspo.targets.TARGETS`, with its settings, asked for the reference's predictions if need be.
        contrastive: whether reference - target is a signal rather than noise.
        reference_is_target: whether the winning target is the reference's own prediction; the safeguard asks.
        x_0_errors: whether errors are those of the x_0 that predictions imply.
        beta: in place of `settings.beta`.
        price: on drift of both sides, beside the anchors of `settings`.
        rows: targets and reference predictions of this batch, computed before; None: computed here.

    Raises:
        UserError: the recipe says `beta: auto` and no beta was given.
    """
    beta, count, spent = beta_in_use(settings, beta), len(batch.timestep), 0
    x_t = states(batch, noise_path)
    if rows is None:
        rows = target(batch, x_t, predict, noise_path)
        spent = rows.network_evaluations
    policy = WinLose.split(predict("policy", x_t.stacked(), batch.timestep.repeat(2), batch.prompt.repeat(2)))
    if x_0_errors:
        rows = rows_in_x_0(rows, batch.timestep, noise_path)
        policy = sides_in_x_0(policy, batch.timestep, noise_path)
    reference, guarded = rows.reference, policy
    if settings.safeguard is not None:
        free = rows.compared().lose - rows.target.lose if reference_is_target else None
        guarded = safeguard(policy, rows.target, mu=settings.safeguard, free=free)
    result = OBJECTIVES[settings.name](guarded, reference, rows.target, settings, beta)
    return StepOutcome(
        loss=result.loss + _prices(policy, rows, settings, beta, price),
        timestep=batch.timestep,
        forward_rows=spent + 2 * count,
        backward_rows=2 * count,
        margin=None if result.margin is None else result.margin.detach(),
        tie=ROUNDING * beta,
        settles=FACTS[settings.name].settles,
        win_drift=None if reference is None else squared_error(policy.win.detach(), reference.win),
        lose_drift=None if reference is None else squared_error(policy.lose.detach(), reference.lose),
        contrast=both_errors(reference, rows.target) if contrastive and reference is not None else None,
    )


def winning_step(
    batch: PreferenceBatch,
    *,
    predict: RolePredict,
    noise_path: NoisePath,
    settings: recipe.Objective,
    compare: bool,
    beta: float | None = None,
    price: float = 0.0,
    rows: TargetRows | None = None,
) -> StepOutcome:
    """Plain fine-tuning on winning sides: one policy row per pair, and one of the reference if drift has a price.

    Args:
        batch: B pairs; the losing side and the degraded prompt are not looked at.
        predict: calls the network in one of its roles.
        noise_path: how x_0 and noise make x_t, and what the network predicts.
        settings: the objective and its options.
        compare: whether to ask the reference, which has no part in the loss but for a price on drift.
        beta, price, rows: as every step takes them; there is no beta here, and nothing that was computed before.
    """
    x_t, target, count = states(batch, noise_path).win, noise_target(batch, noise_path), len(batch.timestep)
    reference = predict("reference", x_t, batch.timestep, batch.prompt) if compare else None
    policy = predict("policy", x_t, batch.timestep, batch.prompt)
    result = OBJECTIVES[settings.name](WinLose(policy, policy), None, target, settings, 1.0)
    drift = None if reference is None else squared_error(policy, reference)
    return StepOutcome(
        loss=result.loss if drift is None else result.loss + settings.anchors[0] * drift,
        timestep=batch.timestep,
        forward_rows=count if reference is None else 2 * count,
        backward_rows=count,
        win_drift=None if drift is None else drift.detach(),
    )


def beta_in_use(settings: recipe.Objective, beta: float | None) -> float:
    """The beta of this call: the one given, else the recipe's.

    Raises:
        UserError: the recipe leaves it open and none was given.
    """
    if beta is not None:
        return beta
    if settings.beta == "auto":
        raise UserError("objective.beta is 'auto', which `ddspo train` measures; give a number to use the step alone")
    return settings.beta


def _prices(policy: WinLose, rows: TargetRows, settings: recipe.Objective, beta: float, price: float) -> Tensor | float:
    """What anchors and `price` add to the loss, [B]; 0 without."""
    win, lose = (anchor + price for anchor in settings.anchors)
    if not (win or lose):
        return 0.0
    unit = beta / 2 if FACTS[settings.name].beta_scales_errors else 1.0
    return drift_anchor(policy, rows.compared(), unit=unit, anchor=win, lose_anchor=lose)
