"""Watches every run for 'loss stuck at log 2' and 'loss zero, pictures wrecked', and moves beta when it is automatic.

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


@dataclass
class Watch:
    """What has been seen of a run.

        drift      <- 0.8 drift + 0.2 max(win_drift, lose_drift) / scale           from 0
        saturation <- 0.8 saturation + 0.2 saturation of the step                  from 1/2
        beta        = beta_0 · max(1, largest drift so far / hold_drift)            automatic beta only
        stop          when drift > stop_drift                                       automatic beta only

    beta only rises. A pair of margin m has weight sigmoid(-m) in the gradient, so multiplying beta by f settles at once
    all that f·m settles: pairs that have moved far enough stop pushing, pairs that have not still do.

    Attributes:
        beta_0: beta chosen before the first step; None: beta is the recipe's number.
        scale: the signal measured with it; None: each step's own contrast, if it has one.
        drift, saturation: smoothed.
        peak: the largest smoothed drift so far.
        told: names of the warnings already given; each is given once in a run.
        stopped: why the run ended early, or None.
    """

    beta_0: float | None = None
    scale: float | None = None
    drift: float = 0.0
    saturation: float = 0.5
    peak: float = 0.0
    told: list[str] = field(default_factory=list)
    stopped: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    def beta(self, auto: AutoBeta) -> float | None:
        """What the next step trains with; None: the recipe's number."""
        return None if self.beta_0 is None else self.beta_0 * max(1.0, self.peak / auto.hold_drift)

    def see(self, row: dict[str, Any], auto: AutoBeta, max_steps: int) -> dict[str, Any]:
        """Take in the row of one step; returns fields to add to it.

        'beta' and 'drift_over_scale' with automatic beta, 'warning' and 'stopped' where something is to be said.
        """
        added: dict[str, Any] = {}
        scale = self.scale if self.scale is not None else row.get("contrast")
        drift = max(row["win_drift"], row["lose_drift"]) / scale if scale and "win_drift" in row else None
        if drift is not None:
            self.drift = MEMORY * self.drift + (1 - MEMORY) * drift
        if "saturation" in row:
            self.saturation = MEMORY * self.saturation + (1 - MEMORY) * row["saturation"]
        if self.beta_0 is not None:
            added |= {"beta": self.beta(auto), "drift_over_scale": drift}
            self.peak = max(self.peak, self.drift)
            if auto.stop_drift is not None and self.drift > auto.stop_drift:
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
