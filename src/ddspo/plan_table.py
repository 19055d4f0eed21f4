"""A plan as a table: stages with their costs, and what the numbers leave open."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .errors import UserError
from .recipe import Recipe
from .recipe_file import dump_recipe


@dataclass(frozen=True)
class StagePlan:
    """One stage; None where it cannot be known yet."""

    name: str
    work: str
    network_evaluations: int | None = 0
    disk_bytes: int | None = None
    memory_bytes: int | None = None
    """at the stage's peak (`stage_memory.py`)"""


@dataclass(frozen=True)
class Plan:
    """All stages of a recipe, and what the numbers leave open."""

    recipe: Recipe
    stages: list[StagePlan]
    notes: list[str] = field(default_factory=list)

    @property
    def network_evaluations(self) -> int | None:
        """Over all stages, or None when one is unknown."""
        costs = [stage.network_evaluations for stage in self.stages]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def only(self, *names: str) -> Plan:
        """The same plan with these stages alone.

        Raises:
            UserError: there is no such stage.
        """
        known = {stage.name: stage for stage in self.stages}
        for name in names:
            if name not in known:
                raise UserError(f"the recipe has no stage {name!r}; it has: {', '.join(known)}")
        return replace(self, stages=[known[name] for name in names])

    def text(self) -> str:
        """The resolved recipe and a table of the stages."""
        rows = [("stage", "evaluations (F)", "disk", "memory", "work")]
        rows += [
            (s.name, count_text(s.network_evaluations), size_text(s.disk_bytes), size_text(s.memory_bytes), s.work)
            for s in self.stages
        ]
        if len(self.stages) > 1:
            disk = sum(stage.disk_bytes for stage in self.stages if stage.disk_bytes is not None)
            rows.append(("total", count_text(self.network_evaluations), size_text(disk), "", ""))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["# recipe as resolved", dump_recipe(self.recipe).rstrip(), "", f"# plan for {self.recipe.output}"]
        for name, cost, space, memory, work in rows:
            line = f"{name:<{widths[0]}}  {cost:>{widths[1]}}  {space:>{widths[2]}}  {memory:>{widths[3]}}  {work}"
            lines.append(line.rstrip())
        lines.append("F: one forward of the denoiser on one sample; a backward counts as 2F.")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def count_text(number: int | None) -> str:
    """A number for people; '?' when it is unknown."""
    if number is None:
        return "?"
    return f"{number:,}" if number < 10_000_000 else f"{number / 1e6:,.1f}M"


def size_text(size: int | None) -> str:
    """Bytes for people; nothing when they are unknown."""
    if size is None:
        return ""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} B"
