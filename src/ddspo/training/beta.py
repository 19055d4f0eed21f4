"""`objective.beta: auto`: beta from the size of the signal on the data, decided before the first step.

    beta = strength / scale

scale is what the margin's first-order part comes to, per unit of beta, when the policy goes one full step along the
signal. With policy = reference + u and r = reference - target on either side (means over latent dimensions)

    margin = beta (<u_lose, r_lose> - <u_win, r_win>) + (beta/2) (|u_lose|² - |u_win|²)

and the full step u_win = -r_win, u_lose = r_lose gives beta (|r_win|² + |r_lose|²). So `strength` is the margin, in
logits, at which a pair that made the full step stands (for 'kto', which has no ½, half of it); see docs/beta.md for
why 4.

    contrastive targets      signal = mean of |r_win|² + |r_lose|² over pairs,  scale = signal
    forward noise            scale = max(signal, noise)

With forward noise r is mostly noise that nobody can predict. Its mean given x_t carries the signal of the training-free
target (`data.measures_contrast`), measured with that target's rows; the rest spreads the margin (`noise_scale`), and
where that spread is the larger one it settles pairs by chance. Pairs that no degraded prompt made have the noise alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..diffusion.noise_path import NoisePath
from ..diffusion.states import states
from ..errors import UserError
from ..files import read_json, write_json
from ..objectives.errors import both_errors
from ..progress import announce
from ..recipe import Recipe, Target
from ..targets import TARGETS, TargetRows, target_source
from ..targets.error_space import rows_in_x_0
from ..targets.forward_noise import noise_target
from ..tensors import PreferenceBatch, RolePredict
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
        strength: value · scale, but for the rounding.
        scale: what beta was set by, in squared prediction units.
        yardstick: what drift is measured with: the signal, without the weights of timesteps, as drift is; or the scale
            where there is only noise.
        measured: 'contrast' or 'noise': which of the two the scale is.
        pairs: how many pairs were measured.
        network_evaluations: denoiser rows that measuring took.
        reason: one sentence for the report.
    """

    value: float
    strength: float
    scale: float
    yardstick: float
    measured: str
    pairs: int
    network_evaluations: float
    reason: str


@dataclass(frozen=True)
class Measured:
    """One micro batch, [B] each.

    Attributes:
        signal: |r_win|² + |r_lose|² of contrastive targets; None: there are none.
        error: mean of error(reference, noise) over both sides; None: the objective's targets are not noise.
        dimensions: how many numbers a prediction has.
        network_evaluations: denoiser rows spent.
    """

    signal: Tensor | None
    error: Tensor | None
    dimensions: int
    network_evaluations: float


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
    recipe: Recipe, micro_batches: Iterable[MicroBatch], measure: Callable[[MicroBatch], Measured]
) -> Choice:
    """Measure the signal and choose beta.

    Args:
        recipe: the objective is read.
        micro_batches: the pairs to measure on, with the timesteps, noise and weights that the run draws for them.
        measure: what reference and targets say of a micro batch.

    Raises:
        UserError: there is no signal.
    """
    signal = plain = noise = weights = evaluations = 0.0
    pairs = 0
    for micro in micro_batches:
        found, weight = measure(micro), micro.weight.cpu().double()  # Apple's GPUs have no float64
        if found.signal is not None:
            signal += float((found.signal.cpu() * weight).sum())
            plain += float(found.signal.cpu().double().sum())
        if found.error is not None:
            noise += noise_scale(float((found.error.cpu() * weight).sum()), found.dimensions)
        weights += float(weight.sum())
        pairs, evaluations = pairs + len(weight), evaluations + found.network_evaluations
    signal, noise = signal / weights, noise / weights
    scale, strength = max(signal, noise), recipe.objective.strength
    if not math.isfinite(scale) or scale < LEAST_CONTRAST:
        raise UserError(
            f"objective.beta auto: the signal on {pairs} pairs is {scale:.2g}, nothing to set beta by; check that "
            "degraded prompts differ from their prompts, or give beta as a number"
        )
    value, kind = beta_for(strength, scale), "contrast" if signal >= noise else "noise"
    reason = (
        f"beta {value:g} = strength {strength:g} / {scale:.4g}, {_WHAT[kind]}, measured on {pairs} pairs before the "
        f"first step: a pair counts as settled once the policy has made that movement"
    )
    yardstick = plain / pairs if plain / pairs >= LEAST_CONTRAST else scale
    return Choice(value, strength, scale, yardstick, kind, pairs, evaluations, f"{reason}.")


_WHAT = {
    "contrast": "the mean squared distance of winning and losing targets from the reference",
    "noise": "the spread that noise alone gives the margin when the policy moves as far as its own error",
}


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
    if run.recipe.objective.beta != "auto" or run.watch.beta is not None:
        return
    if run.is_main and read_choice(run.output) is None:
        write_choice(run.output, measure(run))
    run.accelerator.wait_for_everyone()
    choice = read_choice(run.output)
    if choice is None:
        raise UserError(f"{run.output / FILE_NAME} is not there for this process; all need the same file system")
    run.watch = Watch(beta=choice.value, yardstick=choice.yardstick)
    run.ledger.add(choice.network_evaluations)
    announce(choice.reason)


def measure(run: Run) -> Choice:
    """`choose_beta` on the first pairs of a run, as it will draw them."""
    recipe, training = run.recipe, run.settings
    path = noise_path_on(run.family.noise_path, run.accelerator.device)
    contrast = recipe.target.source != "forward_noise" or measures_contrast(recipe, run.store)
    samples = min(recipe.objective.auto.pairs, training.max_steps * training.global_batch_pairs)
    return choose_beta(
        recipe,
        run.batches.first(samples),
        lambda micro: measure_batch(micro.pairs, recipe.target, run.roles.predict, path, contrast=contrast),
    )


def measure_batch(
    batch: PreferenceBatch, target: Target, predict: RolePredict, path: NoisePath, *, contrast: bool
) -> Measured:
    """Signal and error of B pairs.

    Args:
        batch: with the timesteps and noise that training draws.
        target: source and space of errors.
        predict: the frozen roles are asked.
        path: how x_0 and noise make x_t.
        contrast: whether there are contrastive targets: those of `target`, or, with forward noise, of degraded prompts.
    """
    noise, x_t = target.source == "forward_noise", states(batch, path)
    source = TARGETS["training_free"] if noise and contrast else target_source(target)
    rows = source(batch, x_t, predict, path)

    def distance(found: TargetRows) -> Tensor:
        """error(reference, target) of both sides added, in the space that the recipe asks for."""
        found = rows_in_x_0(found, batch.timestep, path) if target.error_space == "x_0" else found
        return both_errors(found.compared(), found.target)

    return Measured(
        signal=distance(rows) if contrast else None,
        error=distance(replace(rows, target=noise_target(batch, path))) / 2 if noise else None,
        dimensions=x_t.win[0].numel(),
        network_evaluations=rows.network_evaluations,
    )
