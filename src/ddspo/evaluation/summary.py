"""From per-picture scores to the numbers of evaluation.json: means, intervals, paired differences, win rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..prompts.sources import PromptRecord
from .statistics import bootstrap_mean, paired_difference, win_rate

REFERENCE = "reference"
#: where prompts without a category are counted when others have one
NO_CATEGORY = "(none)"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Resampling:
    """How intervals and p-values are computed."""

    samples: int
    confidence: float
    seed: int


def category(record: PromptRecord) -> str | None:
    """The category that a prompt's row names, if any."""
    found = record.meta.get("category")
    return str(found) if found else None


def categories(records: Sequence[PromptRecord]) -> dict[str, list[int]]:
    """Category -> numbers of its prompts, in order of first appearance; empty when no prompt has one."""
    groups: dict[str, list[int]] = {}
    for number, record in enumerate(records):
        groups.setdefault(category(record) or NO_CATEGORY, []).append(number)
    return {} if set(groups) <= {NO_CATEGORY} else groups


def summarize_scorer(
    scores: Array, reference: Array | None, groups: dict[str, list[int]], how: Resampling, higher_is_better: bool
) -> dict[str, Any]:
    """What one scorer says of one model.

    Args:
        scores: [prompts, pictures].
        reference: the reference's, same shape, same prompts and seeds; None for the reference itself.
        groups: from `categories`.
        how: resampling.
        higher_is_better: of the scorer; decides what a win is. Differences are always policy - reference.

    Returns:
        'overall' and 'categories', and with a reference 'difference', 'category_differences' and 'win_rate'.
    """
    options: dict[str, Any] = asdict(how)

    def of_group(rows: list[int]) -> dict[str, Any]:
        return bootstrap_mean(scores[rows], **options).as_dict() | {"prompts": len(rows)}

    summary: dict[str, Any] = {
        "overall": bootstrap_mean(scores, **options).as_dict(),
        "categories": {name: of_group(rows) for name, rows in groups.items()},
    }
    if reference is not None:
        summary["difference"] = paired_difference(scores, reference, **options).as_dict()
        summary["category_differences"] = {
            name: paired_difference(scores[rows], reference[rows], **options).as_dict() | {"prompts": len(rows)}
            for name, rows in groups.items()
        }
        summary["win_rate"] = win_rate(scores, reference, higher_is_better=higher_is_better, **options).as_dict()
    return summary


def versus(scores: Mapping[str, Array], name: str, how: Resampling) -> dict[str, Any]:
    """Paired differences of one model's scores [prompts, pictures] and every other's, the reference left out."""
    others = [other for other in scores if other not in (REFERENCE, name)]
    return {other: paired_difference(scores[name], scores[other], **asdict(how)).as_dict() for other in others}


def failures(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Pictures per word for what went wrong, most frequent first; empty when the first scorer does not tell."""
    words = Counter(row["detail"]["failure"] for row in rows if "failure" in row["detail"])
    return dict(words.most_common())


def score_matrix(rows: Sequence[dict[str, Any]], scorer: str, prompts: int) -> Array:
    """Scores of one model, rows in the order of prompts and pictures, as [prompts, pictures]."""
    return np.array([row["scores"][scorer] for row in rows], np.float64).reshape(prompts, -1)
