"""Which pairs to make: pair number -> prompt, degraded prompt, seed. A pure function of prompts, count and run seed.

With P prompts, pair n belongs to turn n // P and takes prompt n % P of a seeded order of the prompts. So the first turn
gives every prompt one pair; later ones reuse it with a new seed and, as long as it has one, another degraded prompt.
A smaller count is the beginning of a larger one, and neither the order of lines in the file nor the other prompts in it
decide the degraded prompt and seed that a prompt gets at its turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import content_id, read_jsonl
from ..rng import seed_for


@dataclass(frozen=True)
class DegradedPrompt:
    """A prompt with its degraded variants, as one line of degraded.jsonl has it."""

    id: str
    prompt: str
    degraded_prompts: tuple[str, ...]
    how: tuple[dict[str, Any], ...]
    """how each variant was made: {"kind", "change"}"""


@dataclass(frozen=True)
class PlannedPair:
    """One pair to make."""

    prompt_id: str
    prompt: str
    degraded_prompt: str
    kind: str
    change: Any
    seed: int
    """seeds the initial noise, shared by both sides; diffusers gives the winning picture again with
    `pipeline(prompt, generator=torch.Generator().manual_seed(seed), ...)`. Below 2**53, exact in every JSON reader."""

    def id(self, reference_fingerprint: str) -> str:
        """A content-derived id: the same pair made by another reference has another one."""
        return content_id(self.prompt, self.degraded_prompt, str(self.seed), reference_fingerprint)


def fingerprint(prompts: Sequence[DegradedPrompt]) -> str:
    """A digest of all prompts and their degraded variants, whatever the order of the prompts."""
    return content_id(
        *(
            content_id(prompt.id, prompt.prompt, *prompt.degraded_prompts)
            for prompt in sorted(prompts, key=lambda prompt: prompt.id)
        )
    )


def plan_pairs(prompts: Sequence[DegradedPrompt], count: int | None, run_seed: int) -> list[PlannedPair]:
    """The pairs to make, in the order of their numbers.

    Args:
        prompts: with at least one degraded variant each, and ids that differ.
        count: how many pairs; None: one per prompt.
    """
    order = sorted(prompts, key=lambda prompt: seed_for(run_seed, "pairs", "order", prompt.id))
    plan = []
    for number in range(len(order) if count is None else count):
        turn, place = divmod(number, len(order))
        plan.append(_planned_pair(order[place], turn, run_seed))
    return plan


def _planned_pair(prompt: DegradedPrompt, turn: int, run_seed: int) -> PlannedPair:
    variants = sorted(
        range(len(prompt.degraded_prompts)),
        key=lambda variant: seed_for(run_seed, "pairs", "variant", prompt.id, variant),
    )
    variant = variants[turn % len(variants)]
    return PlannedPair(
        prompt_id=prompt.id,
        prompt=prompt.prompt,
        degraded_prompt=prompt.degraded_prompts[variant],
        kind=prompt.how[variant]["kind"],
        change=prompt.how[variant]["change"],
        seed=seed_for(run_seed, "pairs", "noise", prompt.id, turn) >> 10,
    )


def read_degraded(path: Path) -> list[DegradedPrompt]:
    """Read degraded.jsonl; prompts that could not be degraded (no variants) are left out.

    Raises:
        UserError: a field is missing or of the wrong kind, two prompts share an id, or no prompt has a variant.
    """
    prompts: dict[str, DegradedPrompt] = {}
    for number, row in enumerate(read_jsonl(path), 1):
        where = f"{path}, row {number}"
        for field, kind in (("id", str), ("prompt", str), ("degraded_prompts", list), ("how", list)):
            if not isinstance(row.get(field), kind):
                raise UserError(
                    f"{where}: field {field!r} is missing or not a {kind.__name__}; make the file with `ddspo degrade`"
                )
        if len(row["how"]) != len(row["degraded_prompts"]):
            raise UserError(
                f"{where}: {len(row['degraded_prompts'])} degraded_prompts but {len(row['how'])} entries in 'how'"
            )
        if row["id"] in prompts:
            raise UserError(f"{where}: the id {row['id']!r} occurs twice; remove one of the two rows")
        prompts[row["id"]] = DegradedPrompt(row["id"], row["prompt"], tuple(row["degraded_prompts"]), tuple(row["how"]))
    usable = [prompt for prompt in prompts.values() if prompt.degraded_prompts]
    if not usable:
        raise UserError(f"{path} holds no degraded prompts; choose another degradation method or other prompts")
    return usable
