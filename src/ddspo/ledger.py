"""What a stage cost: network evaluations (F) and seconds, kept across interruptions.

F is one forward of the denoiser on one sample; a backward counts as 2F. Text encoders and autoencoders are not
counted in F, their time is in the seconds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .files import read_json, write_json

FILE_NAME = "cost.json"


@dataclass
class Ledger:
    """Costs of one stage. `seconds` counts only time spent working, summed over all attempts that were kept."""

    network_evaluations: float = 0.0
    seconds: float = 0.0
    _since: float = field(default_factory=time.monotonic, repr=False)
    _saved: dict[str, float] = field(default_factory=lambda: {"seconds": 0.0, "network_evaluations": 0.0}, repr=False)

    def add(self, network_evaluations: float) -> None:
        """Count evaluations of the denoiser: forwards count 1 per row, a backward 2 per row."""
        self.network_evaluations += network_evaluations

    def as_dict(self) -> dict[str, float]:
        """{"seconds", "network_evaluations"} with the clock read now."""
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        return {"seconds": round(self.seconds, 3), "network_evaluations": self.network_evaluations}

    def save(self, folder: Path, before: Sequence[Path] = ()) -> None:
        """Write `cost.json` in the stage's folder.

        Args:
            folder: of the stage.
            before: files in it, relative, that are written next and whose cost is added in. If a kill or a full disk
                leaves one of them out, they are all made again, and `load` takes what was saved last instead. So
                nothing is lost and nothing counts twice, wherever the interruption falls.
        """
        costs = self.as_dict()
        record: dict[str, Any] = dict(costs)
        if before:
            record |= {"if_there": [path.as_posix() for path in before], "else": self._saved}
        write_json(folder / FILE_NAME, record)
        self._saved = costs

    @classmethod
    def load(cls, folder: Path) -> Ledger:
        """Take up the costs of an interrupted stage, or start at zero."""
        path = folder / FILE_NAME
        if not path.exists():
            return cls()
        costs = read_json(path)
        if not all((folder / name).is_file() for name in costs.get("if_there", ())):
            costs = costs["else"]
        saved = {unit: costs[unit] for unit in ("seconds", "network_evaluations")}
        return cls(**saved, _saved=saved)
