"""Watches every run for 'loss stuck' and 'loss zero, pictures wrecked'; with automatic beta it also prices drift.

Everything follows from the rows of metrics.jsonl, which are the same on every process, and the state is in every
checkpoint: a resumed run decides as the unbroken one does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..drift_bounds import diagnose
from ..progress import announce
from ..recipe import AutoBeta

MEMORY = 0.8
"""share of the old value that smoothing keeps at each step: about five steps long"""
FULL_STEP_PRICE = 0.25
"""the anchor at which both sides alike stop after one whole step of an unsaturated pair (`objectives.anchor`)"""


@dataclass
class Watch:
    """What has been seen of a run, and what automatic beta makes of it.

        drift      <- 0.8 drift + 0.2 max(win_drift, lose_drift) / yardstick       from 0
        saturation <- 0.8 saturation + 0.2 saturation of the step                  from 1/2
        price       = 1/4 max(0, drift / hold_drift - 1)                           automatic beta only
        stop          when drift > stop_drift                                      automatic beta only

    The price is an anchor (`objectives.anchor`) on top of the recipe's. With hold_drift 1/2 it is 1/4 at drift 1, where
    an unsaturated policy stands still: u = d / (4 · price). Raising beta instead only slows a run that drifts, since
    pairs that are settled let go but nothing pulls back; measured in docs/beta.md.

    Attributes:
        beta: chosen before the first step; None: the recipe's number.
        yardstick: the signal measured with it; None: each step's own contrast, if it has one.
        drift, saturation: smoothed.
        told: names of the warnings already given; each is given once in a run.
        stopped: why the run ended early, or None.
    """

    beta: float | None = None
    yardstick: float | None = None
    drift: float = 0.0
    saturation: float = 0.5
    told: list[str] = field(default_factory=list)
    stopped: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    def price(self, auto: AutoBeta) -> float:
        """What drift costs in the next step, as an anchor; 0 without automatic beta."""
        return 0.0 if self.beta is None else FULL_STEP_PRICE * max(0.0, self.drift / auto.hold_drift - 1)

    def see(self, row: dict[str, Any], auto: AutoBeta, max_steps: int) -> dict[str, Any]:
        """Take in the row of one step; returns fields to add to it.

        'beta', 'drift_price' and 'drift_over_signal' with automatic beta, 'warning' and 'stopped' where something is to
        be said.
        """
        added: dict[str, Any] = {}
        yardstick = self.yardstick if self.yardstick is not None else row.get("contrast")
        drift = max(row["win_drift"], row["lose_drift"]) / yardstick if yardstick and "win_drift" in row else None
        if self.beta is not None:
            added = {"beta": self.beta, "drift_price": self.price(auto), "drift_over_signal": drift}
        if drift is not None:
            self.drift = MEMORY * self.drift + (1 - MEMORY) * drift
        if "saturation" in row:
            self.saturation = MEMORY * self.saturation + (1 - MEMORY) * row["saturation"]
        if self.beta is not None and auto.stop_drift is not None and self.drift > auto.stop_drift:
            self.stopped = (
                f"stopped early after step {row['step']} of {max_steps}: drift reached {self.drift:.3g} times the "
                f"signal, the bound is {auto.stop_drift:g} (objective.auto.stop_drift)"
            )
            announce(self.stopped)
            return added | {"stopped": self.stopped}
        found = diagnose(
            self.drift if drift is not None else None,
            self.saturation if "saturation" in row else None,
            row["step"] / max_steps,
        )
        if found is not None and found[0] not in self.told:
            self.told.append(found[0])
            added["warning"] = f"step {row['step']}: {found[1]}"
            announce(f"warning: {added['warning']}")
        return added
