"""Reference and policies on the same prompts from the same seeds: pictures, scores, evaluation.json.

    OUTPUT/settings.json  images/NAME/*.png  images/NAME/settings.json  scores.jsonl  evaluation.json  cost.json

Every step is resumable: what is there is kept, what is missing is made, other settings are refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import write_json
from ..recipe import Recipe
from ..rng import seed_for
from .features import RealReference, extract_features, why_no_features
from .negative_prompt import NEGATIVE_PROMPT, negative_prompts
from .prompts import evaluation_prompts
from .scorers import Scorer, load_scorer
from .set_metrics import inception_score
from .summary import REFERENCE, Resampling, categories, failures, score_matrix, summarize_scorer, versus
from .work import FORMAT, Row, Work

if TYPE_CHECKING:
    from ..families.pipeline import PipelineFamily

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class EvaluationSummary:
    """Where an evaluation lies, and what it found: the content of evaluation.json."""

    folder: Path
    results: dict[str, Any]

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """Name -> numbers; 'reference' first."""
        return dict(self.results["models"])


def evaluate(
    recipe: Recipe, policies: dict[str, Path], output: Path, *, family: PipelineFamily | None = None
) -> EvaluationSummary:
    """Draw, score and compare; run the same call again after an interruption and it finishes the rest.

    Args:
        recipe: `model`, `seed` and `evaluation` are used, and `degradation` for the negative prompts of
            `evaluation.negative_prompt_baseline`. Between calls on one folder `bootstrap_samples`, `confidence` and
            `set_metrics` may change; whatever decides pictures or scores may not.
        policies: name -> folder written by training. A later call may add policies.
        output: the folder of this evaluation.
        family: the base, if it is at hand. Its denoiser is loaded afresh: training may have changed the one in memory.

    Raises:
        UserError: prompts or a policy cannot be read, a policy belongs to another base, a scorer cannot score the
            prompts, or the folder holds pictures made with other settings.
    """
    _check_names(policies)
    work = open_work(recipe, Path(output), family)
    models: dict[str, Path | None] = {name: None for name in work.untrained} | policies
    for name, folder in models.items():
        work.claim(name, folder)
    work.complete(models)
    results = _results(work, work.ordered_rows(models), policies)
    write_json(work.output / "evaluation.json", results)
    work.ledger.save(work.output)
    return EvaluationSummary(work.output, results)


def open_work(recipe: Recipe, output: Path, family: PipelineFamily | None = None) -> Work:
    """The pictures and scores that lie in `output`, or that will: prompts read, scorers loaded, settings compared.

    Raises:
        UserError: prompts cannot be read, a scorer cannot score them, or `output` was made with other settings.
    """
    from ..families.load import load_model

    device = _device() if family is None else str(family.device)
    family = family or load_model(recipe.model, device)
    settings = recipe.evaluation
    records = evaluation_prompts(recipe)
    scorers = _scorers(recipe, device)
    for scorer in scorers.values():
        scorer.check(records)
    negatives = negative_prompts(recipe, records, output) if settings.negative_prompt_baseline else {}
    return Work(recipe, family, records, scorers, output, negatives)


def check_evaluation(recipe: Recipe) -> None:
    """Find now what would otherwise end an evaluation when everything is trained: its prompts and scorers.

    Raises:
        UserError: prompts cannot be read, or a scorer is not there or cannot score them.
    """
    records = evaluation_prompts(recipe)
    for scorer in _scorers(recipe, "cpu").values():
        scorer.check(records)


def _scorers(recipe: Recipe, device: str) -> dict[str, Scorer]:
    if not recipe.evaluation.scorers:
        raise UserError("evaluation.scorers is empty; name at least one, such as 'tinyscenes'")
    return {choice: load_scorer(choice, device) for choice in recipe.evaluation.scorers}


def _check_names(policies: dict[str, Path]) -> None:
    for name in policies:
        if name in (REFERENCE, NEGATIVE_PROMPT) or not _NAME.fullmatch(name):
            raise UserError(
                f"'{name}' cannot name a policy; use letters, digits, '.', '_', '-', and neither '{REFERENCE}' nor "
                f"'{NEGATIVE_PROMPT}'"
            )


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _results(work: Work, rows: dict[str, list[Row]], policies: dict[str, Path]) -> dict[str, Any]:
    """The content of evaluation.json."""
    evaluation, records = work.recipe.evaluation, work.records
    how = Resampling(
        evaluation.bootstrap_samples, evaluation.confidence, seed_for(work.recipe.seed, "evaluate", "bootstrap")
    )
    groups = categories(records)
    models = {name: _model_results(work, rows, name, groups, how) for name in rows}
    main = {name: score_matrix(found, next(iter(work.scorers)), len(records)) for name, found in rows.items()}
    for name, folder in policies.items():
        models[name] |= {"folder": str(folder), "versus": versus(main, name, how)}
    sets = _set_results(work, list(rows))
    for name, numbers in sets.pop("models").items():
        models[name] |= numbers
    return {
        "format": FORMAT,
        "scorer": next(iter(work.scorers)),
        "scorers": {
            choice: {"higher_is_better": scorer.higher_is_better, "description": scorer.description}
            for choice, scorer in work.scorers.items()
        },
        "base": str(work.family.base),
        "prompts": len(records),
        "images_per_prompt": evaluation.images_per_prompt,
        "images": len(rows[REFERENCE]),
        "confidence": how.confidence,
        "bootstrap_samples": how.samples,
        "categories": {name: len(numbers) for name, numbers in groups.items()},
        **sets,
        "settings": work.settings,
        "models": models,
    }


def _model_results(
    work: Work, rows: dict[str, list[Row]], name: str, groups: dict[str, list[int]], how: Resampling
) -> dict[str, Any]:
    """What the scorers say of one model; the first scorer's words stand at the top as well."""
    prompts = len(work.records)
    by_scorer = {
        choice: summarize_scorer(
            score_matrix(rows[name], choice, prompts),
            None if name == REFERENCE else score_matrix(rows[REFERENCE], choice, prompts),
            groups,
            how,
            scorer.higher_is_better,
        )
        for choice, scorer in work.scorers.items()
    }
    return {**next(iter(by_scorer.values())), "failures": failures(rows[name]), "scorers": by_scorer}


def _set_results(work: Work, names: Sequence[str]) -> dict[str, Any]:
    """Fréchet distance and Inception Score of every model, or the reason why there are none."""
    wanted = work.recipe.evaluation.set_metrics
    found: dict[str, Any] = {
        "features": None,
        "frechet_floor": None,
        "inception_score_real": None,
        "notes": work.notes(),
    }
    found["models"] = {name: {"frechet": None, "inception_score": None} for name in names}
    reason = why_no_features(work.records, next(work.images(REFERENCE)).shape[1:])
    if not wanted or reason:
        found["notes"] += [reason] if wanted and reason else []
        return found
    real = RealReference(work.records, work.recipe.seed, work.recipe.evaluation.images_per_prompt)
    found |= {"features": real.description}
    if "frechet" in wanted:
        found["frechet_floor"] = real.frechet_floor
    if "inception_score" in wanted:
        found["inception_score_real"] = real.inception_score_real
    for name in names:
        features = extract_features(work.images(name))
        if "frechet" in wanted:
            found["models"][name]["frechet"] = real.frechet(features)
        if "inception_score" in wanted:
            found["models"][name]["inception_score"] = inception_score(features.probabilities)
    return found
