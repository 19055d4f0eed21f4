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

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..diffusion.noise_path import NoisePath
from ..diffusion.states import added_noise, states
from ..objectives.anchor import drift_anchor
from ..objectives.denoising import denoising_loss
from ..objectives.errors import squared_error
from ..objectives.preference import preference_loss
from ..recipe import Recipe
from ..targets import TARGETS
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


Step = Callable[[PreferenceBatch], StepOutcome]
"""What the loop calls for every micro batch."""


def make_step(recipe: Recipe, predict: RolePredict, noise_path: NoisePath) -> Step:
    """The step function that a recipe asks for.

    Args:
        recipe: its objective and target are read.
        predict: calls the network in one of its roles.
        noise_path: how x_0 and noise make x_t; tables on the device of the batches save a transfer per call.
    """
    if recipe.objective.name == "denoising":
        return partial(denoising_step, predict=predict, noise_path=noise_path)
    return partial(
        preference_step,
        predict=predict,
        noise_path=noise_path,
        target=recipe.target.source,
        beta=recipe.objective.beta,  # type: ignore[arg-type]
        anchor=recipe.objective.anchor,
    )


def preference_step(
    batch: PreferenceBatch,
    predict: RolePredict,
    noise_path: NoisePath,
    *,
    target: str,
    beta: float,
    anchor: float = 0.0,
) -> StepOutcome:
    """Noise both sides alike, ask the reference, then the policy, and compare (see `preference_loss`).

    Args:
        batch: B pairs.
        predict: calls the network in one of its roles.
        noise_path: how x_0 and noise make x_t.
        target: a key of `ddspo.targets.TARGETS`.
        beta: preference temperature.
        anchor: price of drift on both sides (see `drift_anchor`); 0 is the published objective.
    """
    x_t = states(batch, noise_path)
    rows = TARGETS[target](batch, x_t, predict, noise_path)
    policy = WinLose.split(predict("policy", x_t.stacked(), batch.timestep.repeat(2), batch.prompt.repeat(2)))
    result = preference_loss(policy, rows.reference, rows.target, beta=beta)
    loss = result.loss
    if anchor:
        loss = loss + drift_anchor(policy, rows.reference, beta=beta, anchor=anchor)

    measured = WinLose(policy.win.detach(), policy.lose.detach())
    contrastive = target == "training_free"
    return StepOutcome(
        loss=loss,
        timestep=batch.timestep,
        forward_rows=rows.network_evaluations + 2 * len(batch.timestep),
        backward_rows=2 * len(batch.timestep),
        margin=result.margin.detach(),
        win_drift=squared_error(measured.win, rows.reference.win),
        lose_drift=squared_error(measured.lose, rows.reference.lose),
        contrast=result.reference_error.lose if contrastive else None,
    )


def denoising_step(batch: PreferenceBatch, predict: RolePredict, noise_path: NoisePath) -> StepOutcome:
    """Plain fine-tuning on the winning side: one row per pair, no reference.

    Args:
        batch: B pairs; the losing side and the degraded prompt are not looked at.
        predict: calls the network in one of its roles.
        noise_path: how x_0 and noise make x_t, and what the network predicts.
    """
    x_t = states(batch, noise_path).win
    target = noise_path.target(batch.x_0.win, added_noise(batch, noise_path).win, batch.timestep)
    policy = predict("policy", x_t, batch.timestep, batch.prompt)
    count = len(batch.timestep)
    return StepOutcome(denoising_loss(policy, target), batch.timestep, forward_rows=count, backward_rows=count)
