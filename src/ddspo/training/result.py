"""The end of a run: the policy for diffusers, its model card, the costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import read_json
from ..ledger import FILE_NAME, Ledger
from ..model_card import base_license, model_card, shown
from ..recipe import Recipe
from .metrics import last_row

if TYPE_CHECKING:
    from ..families.roles import Roles
    from ..pairs.store import PairStore
    from .optimizer import MovingAverage

POLICY_FOLDER = "policy"


@dataclass(frozen=True)
class TrainSummary:
    """What a finished run left.

    Attributes:
        policy: the folder that diffusers loads.
        steps: optimizer steps.
        metrics: the last row of metrics.jsonl.
        cost: {"seconds", "network_evaluations"}.
    """

    policy: Path
    steps: int
    metrics: dict[str, Any]
    cost: dict[str, float]


def finished(output: Path) -> bool:
    """Whether the run in this folder has its policy, which is written last."""
    return (output / POLICY_FOLDER).exists()


def summarize(output: Path) -> TrainSummary:
    """What a finished run left.

    Raises:
        UserError: its metrics.jsonl is damaged.
    """
    path = output / "metrics.jsonl"
    try:
        metrics = last_row(path)
        steps = int(metrics["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged: its last line is no row of a step; restore it, or delete that line and run the same "
            "command again"
        ) from error
    return TrainSummary(output / POLICY_FOLDER, steps, metrics, read_json(output / FILE_NAME))


def save_result(
    recipe: Recipe, output: Path, roles: Roles, average: MovingAverage | None, ledger: Ledger, store: PairStore
) -> None:
    """Write cost.json, then policy/ (the moving average if there is one) with its model card."""
    ledger.save(output)
    card = model_card(
        recipe,
        last_row(output / "metrics.jsonl"),
        ledger.as_dict(),
        describe_pairs(recipe, store),
        kind=roles.kind,
        license_name=base_license(roles.family.base, recipe.model.base),
    )
    roles.save_policy(output / POLICY_FOLDER, card, weights=average.average if average is not None else None)


def describe_pairs(recipe: Recipe, store: PairStore) -> str:
    """How many pairs there are and where they come from, in words; no prompt is quoted and no folder named."""
    count = f"{len(store):,}" + (f" ({store.left_out:,} of lower contrast left out)" if store.left_out else "")
    if store.is_imported:
        source = store.settings.get("source", {})
        return f"{count}, human preferences imported from a {source.get('kind', 'data')} set (`ddspo import`)"
    prompts, method = shown(recipe.prompts.source), recipe.degradation.method
    return f"{count}, drawn by the base from prompts of `{prompts}` (degradation: {method})"
