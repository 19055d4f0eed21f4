"""What a training run reports: summed on the device over micro batches, read once per optimizer step.

| field | meaning |
|---|---|
| step | optimizer steps done, counted from 1 |
| loss | mean over the step's pairs, weighted as it was trained |
| margin | mean margin |
| accuracy | share of pairs with margin > 0; a tie, nearer to 0 than 1e-6 beta, counts 1/2 |
| saturation | mean sigmoid(-margin), for -log sigmoid the weight a pair still has; 1/2 at the start, 0 when settled |
| win_drift, lose_drift | mean squared distance from policy to reference, over latent dimensions, on either side |
| contrast | mean (reference - target)², both sides added: the size of the signal; training_free: mean d² |
| drift_over_contrast | the larger drift / contrast: movement in units of the signal |
| margin_by_timestep | mean margin in ten equal parts of the schedule, clean first; null where no pair fell |
| win_drift_by_timestep, lose_drift_by_timestep, contrast_by_timestep | the same of drift and contrast |
| beta, drift_price | automatic beta: what this step trained with |
| drift_over_signal | automatic beta: the larger drift / the signal measured before the first step |
| warning, stopped | in words: something looks wrong; the run ended early |
| gradient_norm | before clipping |
| learning_rate, pairs_per_second, seconds | of this step |
| network_evaluations | F spent since the start of the run |

Fields that do not apply are left out: plain fine-tuning has no margin, Diffusion-DPO no contrast, DSPO, MaPO and DPPO
no saturation (`ObjectiveFacts.settles`). All but the loss are plain means, without the weights of timesteps.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import atomic_path
from ..progress import announce
from .checkpoint import sync
from .step import StepOutcome

BUCKETS = 10
TIMING_FIELDS = ("seconds", "pairs_per_second")
BY_TIMESTEP = ("margin", "win_drift", "lose_drift", "contrast")
"""also averaged over each tenth of the schedule"""
_SUMS = (
    "loss",
    "pairs",
    "network_evaluations",
    "margin",
    "accuracy",
    "saturation",
    "win_drift",
    "lose_drift",
    "contrast",
)


class MetricSums:
    """Sums over the micro batches of one optimizer step, a vector on the device; nothing here waits for the device."""

    def __init__(self, device: torch.device, num_train_timesteps: int, rows_per_backward: int) -> None:
        self.vector = torch.zeros(len(_SUMS) + (1 + len(BY_TIMESTEP)) * BUCKETS, device=device)
        self.num_train_timesteps = num_train_timesteps
        self.rows_per_backward = rows_per_backward
        self.present = {"loss", "network_evaluations"}

    @torch.no_grad()
    def add(self, outcome: StepOutcome, weighted_loss: Tensor) -> None:
        """Take in one micro batch of B pairs; `weighted_loss` is [B]."""
        loss = weighted_loss.detach()
        evaluations = outcome.forward_rows + self.rows_per_backward * outcome.backward_rows
        rows = {
            "loss": loss,
            "pairs": torch.ones_like(loss),
            "network_evaluations": torch.full_like(loss, evaluations / len(loss)),
        }
        if outcome.margin is not None:
            rows["margin"] = outcome.margin
            decided = outcome.margin.abs() > outcome.tie
            rows["accuracy"] = torch.where(decided, (outcome.margin > 0).float(), 0.5)
            if outcome.settles:
                rows["saturation"] = torch.sigmoid(-outcome.margin)
        for name in ("win_drift", "lose_drift", "contrast"):
            if (value := getattr(outcome, name)) is not None:
                rows[name] = value
        self.present |= rows.keys()
        zeros = torch.zeros_like(loss)
        self.vector[: len(_SUMS)] += torch.stack([rows.get(name, zeros).float() for name in _SUMS]).sum(1)
        if self.present.intersection(BY_TIMESTEP):
            values = torch.stack([torch.ones_like(zeros), *(rows.get(name, zeros) for name in BY_TIMESTEP)]).float()
            self.vector[len(_SUMS) :] += self._bucket_sums(outcome.timestep, values)

    def _bucket_sums(self, timestep: Tensor, values: Tensor) -> Tensor:
        """[K, B] -> [K BUCKETS] sums by bucket; not by index_add_, whose order of addition varies on a GPU."""
        bucket = (timestep.float() * (BUCKETS / self.num_train_timesteps)).long().clamp(0, BUCKETS - 1)
        inside = bucket == torch.arange(BUCKETS, device=bucket.device)[:, None]
        return (values[:, None] * inside).sum(2).flatten()


def read_metrics(sums: MetricSums, reduced: list[float]) -> dict[str, Any]:
    """Means from the sums over all processes (`sums.vector` after reduction, as a list)."""
    totals = dict(zip(_SUMS, reduced[: len(_SUMS)], strict=True))
    pairs = totals["pairs"]
    row: dict[str, Any] = {
        name: totals[name] / pairs
        for name in _SUMS
        if name in sums.present and name not in ("pairs", "network_evaluations")
    }
    if "contrast" in row:
        drift = max(row["win_drift"], row["lose_drift"])
        row["drift_over_contrast"] = drift / row["contrast"] if row["contrast"] > 0 else None
    buckets = [reduced[start : start + BUCKETS] for start in range(len(_SUMS), len(reduced), BUCKETS)]
    for name, sums_of in zip(BY_TIMESTEP, buckets[1:], strict=True):
        if name in row:
            row[f"{name}_by_timestep"] = [
                total / count if count else None for total, count in zip(sums_of, buckets[0], strict=True)
            ]
    row["network_evaluations"] = totals["network_evaluations"]
    return row


def truncate_metrics(path: Path, steps: int) -> None:
    """Keep the rows of the first `steps` optimizer steps; damaged lines among them are left out and told.

    A last line without an end is what a kill leaves; its step is done again, so nothing is said about it.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kept, damaged = [], []
    for number, line in enumerate(lines, 1):
        step = _step_of(line)
        if step is None:
            damaged += [str(number)] if line.endswith(b"\n") else []
        elif step > steps:
            break
        else:
            kept.append(line.rstrip(b"\r\n") + b"\n")
    if damaged:
        announce(f"warning: {path}: no row of a step in line {', '.join(damaged)}; left out, the others are kept")
    with atomic_path(path) as partial:
        partial.write_bytes(b"".join(kept))


def _step_of(line: bytes) -> int | None:
    """The step that a line of metrics.jsonl is about; None: it is damaged."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def last_row(path: Path) -> dict[str, Any]:
    """The newest row, or {}."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return json.loads(lines[-1]) if lines else {}


def sync_metrics(path: Path) -> None:
    """Put what was appended on the disk; done before a checkpoint, which promises that these rows exist."""
    if path.exists():
        sync(path)
