"""What a stage cost: network evaluations (F) and seconds, kept across interruptions.

F is one forward of the denoiser on one sample; a backward counts as 2F. Text encoders and autoencoders are not
counted in F, their time is in the seconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from .files import read_json, write_json

FILE_NAME = "cost.json"


@dataclass
class Ledger:
    """Costs of one stage. `seconds` counts only time spent working, summed over all attempts that were kept."""

    network_evaluations: float = 0.0
    seconds: float = 0.0
    _since: float = field(default_factory=time.monotonic, repr=False)

    def add(self, network_evaluations: float) -> None:
        """Count evaluations of the denoiser: forwards count 1 per row, a backward 2 per row."""
        self.network_evaluations += network_evaluations

    def as_dict(self) -> dict[str, float]:
        """{"seconds", "network_evaluations"} with the clock read now."""
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        return {"seconds": round(self.seconds, 3), "network_evaluations": self.network_evaluations}

    def save(self, folder: Path) -> None:
        """Write `cost.json` in the stage's folder."""
        write_json(folder / FILE_NAME, self.as_dict())

    @classmethod
    def load(cls, folder: Path) -> Ledger:
        """Take up the costs of an interrupted stage, or start at zero."""
        path = folder / FILE_NAME
        if not path.exists():
            return cls()
        costs = read_json(path)
        return cls(network_evaluations=costs["network_evaluations"], seconds=costs["seconds"])
