"""Pictures and scores of one cell, in a folder of its own, so that cells can be judged side by side.

    OUTPUT/validation/CELL/  and  OUTPUT/heldout/CELL/      as an evaluation's folder, of one model, and judged.json

The reference is a cell like any other and is drawn once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.evaluate import open_work
from ..evaluation.features import RealReference, extract_features, why_no_features
from ..evaluation.negative_prompt import NEGATIVE_PROMPT
from ..evaluation.set_metrics import inception_score
from ..evaluation.statistics import Array
from ..evaluation.summary import categories, failures, score_matrix
from ..evaluation.work import Work
from ..files import content_id, read_json, write_json
from ..ledger import FILE_NAME as COST_FILE
from ..recipe import Recipe

JUDGED = "judged.json"
_REAL: dict[str, RealReference] = {}


@dataclass(frozen=True)
class Judged:
    """What was found about one cell.

    Attributes:
        scores: of the first scorer, [prompts, pictures].
        frechet: distance to real pictures; None where it cannot be measured.
        categories: category -> numbers of its prompts.
        cost: seconds and network evaluations of drawing.
    """

    scores: Array
    frechet: float | None
    categories: dict[str, list[int]]
    failures: dict[str, int]
    higher_is_better: bool
    cost: dict[str, float]


def judge(recipe: Recipe, name: str, policy: Path | None, output: Path) -> Judged:
    """Draw and score what is missing; at once where all is there.

    Args:
        recipe: of the base, with the evaluation that counts; its seed decides the pictures, whatever the training seed.
        name: of the cell.
        policy: folder of the trained policy; None: the base itself.
        output: this cell's folder.
    """
    work = open_work(recipe, output)
    if policy is None and recipe.evaluation.negative_prompt_baseline:
        name = NEGATIVE_PROMPT  # under this name alone it is drawn with negative prompts
    work.claim(name, policy)
    work.complete({name: policy})
    rows = work.ordered_rows([name])[name]
    choice, scorer = next(iter(work.scorers.items()))
    if not (output / COST_FILE).exists():
        work.ledger.save(output)
    return Judged(
        score_matrix(rows, choice, len(work.records)),
        _set_metrics(work, name)["frechet"],
        categories(work.records),
        failures(rows),
        scorer.higher_is_better,
        read_json(output / COST_FILE),
    )


def _set_metrics(work: Work, name: str) -> dict[str, Any]:
    """Fréchet distance and Inception Score as judged.json keeps them, worked out where it does not."""
    wanted, record = list(work.recipe.evaluation.set_metrics), work.output / JUDGED
    if record.exists() and (found := read_json(record))["wanted"] == wanted:
        return dict(found)
    found = {"wanted": wanted, "frechet": None, "inception_score": None}
    reason = why_no_features(work.records, next(work.images(name)).shape[1:])
    if wanted and not reason:
        features = extract_features(work.images(name))
        if "frechet" in wanted:
            found["frechet"] = _real_reference(work).frechet(features)
        if "inception_score" in wanted:
            found["inception_score"] = inception_score(features.probabilities)
    write_json(record, found | {"why_not": reason})
    return found


def _real_reference(work: Work) -> RealReference:
    """The real pictures of these prompts, rendered once per process for all cells that it judges."""
    images = work.recipe.evaluation.images_per_prompt
    key = content_id(str(work.recipe.seed), str(images), *(record.id for record in work.records))
    if key not in _REAL:
        _REAL[key] = RealReference(work.records, work.recipe.seed, images)
    return _REAL[key]


def ahead(first: Array, second: Array, higher_is_better: bool) -> Array:
    """1 where `first` scores better, 0 where worse, ½ for a tie; of equal shape."""
    sign = np.sign(first - second)
    return np.asarray(((sign if higher_is_better else -sign) + 1) / 2)
