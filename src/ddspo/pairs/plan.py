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
from ..prompts.variants import Variant
from ..rng import seed_for


@dataclass(frozen=True)
class DegradedPrompt:
    """A prompt with its degraded variants: one line of degraded.jsonl."""

    id: str
    prompt: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class PlannedPair:
    """One pair to make."""

    prompt_id: str
    prompt: str
    degraded_prompt: str
    kind: str
    change: str
    seed: int
    """seeds the initial noise, shared by both sides; diffusers gives the winning picture again with
    `pipeline(prompt, generator=torch.Generator().manual_seed(seed), ...)`. Below 2**53, exact in every JSON reader."""

    def id(self, reference_fingerprint: str) -> str:
        """A content-derived id: the same pair made by another reference has another one."""
        return content_id(self.prompt, self.degraded_prompt, str(self.seed), reference_fingerprint)


def fingerprint(prompts: Sequence[DegradedPrompt]) -> str:
    """A digest of all prompts and their degraded variants, whatever the order of the prompts."""
    return content_id(*sorted(repr(prompt) for prompt in prompts))


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
    order = sorted(
        range(len(prompt.variants)), key=lambda number: seed_for(run_seed, "pairs", "variant", prompt.id, number)
    )
    variant = prompt.variants[order[turn % len(order)]]
    return PlannedPair(
        prompt_id=prompt.id,
        prompt=prompt.prompt,
        degraded_prompt=variant.text,
        kind=variant.kind,
        change=variant.change,
        seed=seed_for(run_seed, "pairs", "noise", prompt.id, turn) >> 10,
    )


def read_degraded(path: Path) -> list[DegradedPrompt]:
    """Read degraded.jsonl; prompts that could not be degraded (no variants) are left out.

    Raises:
        UserError: a field is missing or of the wrong kind, two prompts share an id, or no prompt has a variant.
    """
    prompts: dict[str, DegradedPrompt] = {}
    for number, row in enumerate(read_jsonl(path), 1):
        prompt = _parse(row, f"{path}, row {number}")
        if prompt.id in prompts:
            raise UserError(f"{path}, row {number}: the id {prompt.id!r} occurs twice; remove one of the two rows")
        prompts[prompt.id] = prompt
    usable = [prompt for prompt in prompts.values() if prompt.variants]
    if not usable:
        raise UserError(f"{path} holds no degraded prompts; choose another degradation method or other prompts")
    return usable


def _parse(row: dict[str, Any], where: str) -> DegradedPrompt:
    mend = "make the file with `ddspo degrade`"
    for field, kind in (("id", str), ("prompt", str), ("degraded_prompts", list), ("how", list)):
        if not isinstance(row.get(field), kind):
            raise UserError(f"{where}: field {field!r} is missing or not a {kind.__name__}; {mend}")
    texts, how = row["degraded_prompts"], row["how"]
    if len(texts) != len(how):
        raise UserError(f"{where}: {len(texts)} degraded_prompts but {len(how)} entries in 'how'; {mend}")
    try:
        variants = tuple(Variant(text, made["kind"], made["change"]) for text, made in zip(texts, how, strict=True))
    except (KeyError, TypeError) as error:
        raise UserError(f"{where}: an entry of 'how' lacks 'kind' or 'change'; {mend}") from error
    return DegradedPrompt(row["id"], row["prompt"], variants)
