"""`objective.beta: auto`: beta from the size of the signal on the data, decided before the first step.

    beta = strength / scale

scale is what the margin's first-order part comes to, per unit of beta, when the policy goes one full step along the
signal. With policy = reference + u and r = reference - target on either side (means over latent dimensions)

    margin = beta (<u_lose, r_lose> - <u_win, r_win>) + (beta/2) (|u_lose|² - |u_win|²)

and the full step u_win = -r_win, u_lose = r_lose gives beta (|r_win|² + |r_lose|²). So `strength` is the margin, in
logits, at which a pair that made the full step stands; see docs/beta.md for why 4.

Contrastive targets (training_free, data_driven, guidance): scale is the mean of that sum over pairs, from the target's
own rows. Forward noise on pairs with degraded prompts: the same, from the rows of training_free, because the noise's
mean given x_t carries the same signal (`data.measures_contrast`). Forward noise on other pairs: what noise alone does
to the margin (`noise_scale`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..diffusion.states import states
from ..errors import UserError
from ..files import read_json, write_json
from ..objectives.errors import squared_error
from ..progress import announce
from ..recipe import Recipe
from ..targets import TARGETS, TargetRows, target_source
from ..targets.error_space import rows_in_x_0
from .data import MicroBatch, measures_contrast, noise_path_on
from .guards import LEAST_CONTRAST
from .watch import Watch

if TYPE_CHECKING:
    from .run import Run

FILE_NAME = "beta.json"


@dataclass(frozen=True)
class Choice:
    """What was chosen and why; `beta.json` of the run.

    Attributes:
        value: beta, three significant digits, so that the order of float summation does not show.
        scale: the measured signal, in squared prediction units.
        strength: value · scale, but for the rounding.
        pairs: how many pairs were measured.
        measured: 'contrast' or 'noise' (see above).
        network_evaluations: denoiser rows that measuring took.
        reason: one sentence for the report.
    """

    value: float
    scale: float
    strength: float
    pairs: int
    measured: str
    network_evaluations: float
    reason: str


def beta_for(strength: float, scale: float) -> float:
    """strength / scale, rounded to three significant digits."""
    return float(f"{strength / scale:.3g}")


def noise_scale(error: float, dimensions: int) -> float:
    """sqrt(2/D) · error: the standard deviation of the margin per unit of beta that noise alone makes.

    u as large as the reference's own error (|u|² = error on either side) but unrelated to the noise in r gives
    <u, r> a mean of 0 and a variance of |u|² |r|² / D on each side, since it is a mean over D dimensions.
    """
    return math.sqrt(2 / dimensions) * error


@torch.no_grad()
def choose_beta(
    recipe: Recipe,
    micro_batches: Iterable[MicroBatch],
    rows_of: Callable[[MicroBatch], TargetRows],
    *,
    contrast: bool,
) -> Choice:
    """Measure the signal and choose beta.

    Args:
        recipe: objective and target are read.
        micro_batches: the pairs to measure on, with the timesteps, noise and weights that the run draws for them.
        rows_of: reference and target rows of a micro batch, without gradient.
        contrast: whether `rows_of` has contrastive targets; otherwise its targets are the noise.

    Raises:
        UserError: there is no signal.
    """
    total = weights = torch.zeros((), dtype=torch.float64)
    pairs, evaluations, dimensions = 0, 0, 1
    for micro in micro_batches:
        rows = rows_of(micro)
        reference = rows.compared()
        win = squared_error(reference.win, rows.target.win).double()
        lose = squared_error(reference.lose, rows.target.lose).double()
        weight = micro.weight.double()
        total = total + ((win + lose) * weight).sum().cpu()
        weights = weights + weight.sum().cpu()
        pairs += len(weight)
        evaluations += rows.network_evaluations
        dimensions = reference.win[0].numel()
    mean = float(total / weights)
    scale = mean if contrast else noise_scale(mean / 2, dimensions)
    if not math.isfinite(scale) or scale < LEAST_CONTRAST:
        raise UserError(
            f"objective.beta auto: the signal on {pairs} pairs is {scale:.2g}, nothing to set beta by; check that "
            "degraded prompts differ from their prompts, or give beta as a number"
        )
    strength = recipe.objective.strength
    value = beta_for(strength, scale)
    return Choice(
        value, scale, strength, pairs, "contrast" if contrast else "noise", evaluations,
        _reason(value, scale, strength, pairs, contrast=contrast),
    )  # fmt: skip


def _reason(value: float, scale: float, strength: float, pairs: int, *, contrast: bool) -> str:
    what = (
        "how far the winning and losing targets are from the reference (mean squared)"
        if contrast
        else "the spread that noise alone gives the margin when the policy moves as far as its own error"
    )
    return (
        f"beta {value:g} = strength {strength:g} / {scale:.4g}, where {scale:.4g} is {what}, measured on {pairs} pairs "
        f"before the first step. A pair counts as settled, at a margin of {strength:g}, when the policy has made that "
        "movement once."
    )


def read_choice(output: Path) -> Choice | None:
    """What this run chose before it was interrupted, or None."""
    path = output / FILE_NAME
    return Choice(**read_json(path)) if path.exists() else None


def write_choice(output: Path, choice: Choice) -> None:
    """Write beta.json."""
    write_json(output / FILE_NAME, asdict(choice))


def settle_beta(run: Run) -> None:
    """Before the first step of a run with automatic beta: measure, or take what this run chose before it was killed.

    The main process alone measures, so the choice does not depend on how many there are; the others read its file.
    """
    if run.recipe.objective.beta != "auto" or run.watch.beta_0 is not None:
        return
    if run.is_main and read_choice(run.output) is None:
        write_choice(run.output, measure(run))
    run.accelerator.wait_for_everyone()
    choice = read_choice(run.output)
    if choice is None:
        raise UserError(f"{run.output / FILE_NAME} is not there for this process; all need the same file system")
    run.watch = Watch(beta_0=choice.value, scale=choice.scale)
    run.ledger.add(choice.network_evaluations)
    announce(choice.reason)


def measure(run: Run) -> Choice:
    """`choose_beta` on the first pairs of a run, as it will draw them."""
    recipe, training = run.recipe, run.settings
    contrast = recipe.target.source != "forward_noise" or measures_contrast(recipe, run.store)
    noise = recipe.target.source == "forward_noise"
    target = TARGETS["training_free"] if noise and contrast else target_source(recipe.target)
    path = noise_path_on(run.family.noise_path, run.accelerator.device)

    def rows_of(micro: MicroBatch) -> TargetRows:
        rows = target(micro.pairs, states(micro.pairs, path), run.roles.predict, path)
        return rows_in_x_0(rows, micro.pairs.timestep, path) if recipe.target.error_space == "x_0" else rows

    samples = min(recipe.objective.auto.pairs, training.max_steps * training.global_batch_pairs)
    return choose_beta(recipe, run.batches.first(samples), rows_of, contrast=contrast)
