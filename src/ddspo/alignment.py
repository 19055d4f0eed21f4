"""The whole road from one recipe: degrade, pairs, targets, train, baselines, evaluate, report, each resumable.

    runs/NAME/  recipe.yaml  settings.json  environment.json  costs.json
                degraded.jsonl  pairs/  targets/NAME/  policy_run/  baselines/NAME/  scores/  report.html  summary.json

(The module is not called `align`, because `ddspo.align` is the function.)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .environment import describe_environment
from .errors import UserError
from .files import claim_folder, read_json, write_json, write_text
from .folder_lock import only_one
from .ledger import Ledger
from .model_card import write_figures
from .recipe import Recipe
from .recipe_file import baseline_recipe, dump_recipe
from .run_files import BASELINES as BASELINES
from .run_files import DEGRADED as DEGRADED
from .run_files import PAIRS as PAIRS
from .run_files import POLICY_RUN as POLICY_RUN
from .run_files import SCORES as SCORES
from .run_files import TARGETS as TARGETS
from .run_files import total_costs as total_costs
from .target_recipes import target_trainings

SETTINGS = "settings.json"
_ARTIFACTS = (DEGRADED, PAIRS, TARGETS, POLICY_RUN, BASELINES, SCORES)

# What may differ when a run is taken up again, as far as the folder is concerned; stages check their own settings.
_NOT_IDENTITY: dict[str, Any] = {
    "name": True,
    "output": True,
    "model": {"offload"},
    "baselines": True,
    "evaluation": True,
    "pairs": {"contrast_draws", "min_contrast"},
    "training": {
        "micro_batch_pairs",
        "reference_rows",
        "trained_dtype",
        "gradient_checkpointing",
        "checkpoint_every_steps",
        "keep_checkpoints",
        "preview_every_steps",
        "preview_prompts",
        "trackers",
    },
}


def open_run(recipe: Recipe) -> Path:
    """Make `recipe.output` the home of this run, with recipe and environment inside, or check that it already is.

    Raises:
        UserError: the folder holds another run (the difference is told) or other files, or cannot be made.
    """
    run = recipe.output
    if int(os.environ.get("RANK", "0")) > 0:
        return run
    if run.exists() and not run.is_dir():
        raise UserError(f"{run} is a file, not a folder; choose another --output")
    try:
        settings = recipe.model_dump(mode="json", exclude=_NOT_IDENTITY)
        if (run / SETTINGS).exists() and not any(_is_made(run / name) for name in _ARTIFACTS):
            write_json(run / SETTINGS, settings)  # a mistake ended the first attempt; it may be mended in place
        claim_folder(run, settings, "a run")
        write_text(run / "recipe.yaml", dump_recipe(recipe))
        write_json(run / "environment.json", describe_environment())
    except OSError as error:
        raise UserError(f"cannot make {run}: {error.strerror or error}; choose another --output") from error
    return run


def _is_made(path: Path) -> bool:
    if path.is_dir():
        return any(path.glob("[!.]*"))  # a kill may have left a lock and nothing else
    return path.is_file() and path.stat().st_size > 0


def single_process(verb: str) -> None:
    """Refuse to run several times side by side, which torchrun would do.

    Raises:
        UserError: this is one of several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"`ddspo {verb}` runs in one process; use torchrun for `ddspo degrade`, `pairs` and `train` only"
        )


def degrade_stage(recipe: Recipe, run: Path) -> str:
    """Write degraded.jsonl; what was made, in words."""
    from .prompts.degrade import degrade_prompts
    from .prompts.held_out import trained_part
    from .prompts.stream import open_prompts

    prompts = recipe.prompts
    cost_path = run / "degraded.cost.json"
    ledger, fresh = Ledger(), not (run / DEGRADED).exists()
    records = open_prompts(prompts.source, prompts.column, prompts.limit, recipe.seed, trained_part(recipe))
    embed = None
    if recipe.degradation.measures_embeddings:
        from .families.text_embedding import TextEmbedder

        embed = TextEmbedder(recipe.model)
    # Pairs hold on to the degraded prompts that they were made from: from then on the file stays as it is.
    open_end = not (run / PAIRS / SETTINGS).exists()
    summary = degrade_prompts(recipe.degradation, records, run / DEGRADED, recipe.seed, embed=embed, try_again=open_end)
    if (fresh or not cost_path.exists()) and int(os.environ.get("RANK", "0")) == 0:
        write_json(cost_path, ledger.as_dict())
    return summary.text()


def pairs_stage(recipe: Recipe, run: Path, degraded: Path | None = None) -> str:
    """Fill the pairs folder; where it is."""
    from .pairs.build import build_pairs

    degraded = degraded or run / DEGRADED
    if not degraded.is_file():
        raise UserError(f"{degraded} does not exist; make it with `ddspo degrade`, or give --degraded")
    build_pairs(recipe, degraded, run / PAIRS)
    if recipe.pairs.contrast_draws:
        from .pairs.contrast import measure_contrast

        measure_contrast(recipe, run / PAIRS)
    return str(run / PAIRS)


def targets_stage(recipe: Recipe, run: Path, pairs: Path | None = None) -> str:
    """Train the winning and losing models of every training that needs them; where they are."""
    from .training.target_models import train_target_models

    trainings, pairs = target_trainings(recipe), _existing_pairs(run, pairs)
    if not trainings:
        raise UserError("no training of this recipe needs winning and losing models (target.source data_driven)")
    for name in dict.fromkeys(trainings.values()):
        train_target_models(_recipe_of(recipe, name), pairs, run / TARGETS / name)
    return ", ".join(str(run / TARGETS / name) for name in dict.fromkeys(trainings.values()))


def _recipe_of(recipe: Recipe, training: str | None) -> Recipe:
    return recipe if training in (None, "policy") else baseline_recipe(recipe, str(training))


def _existing_pairs(run: Path, pairs: Path | None) -> Path:
    pairs = pairs or run / PAIRS
    if not pairs.is_dir():
        raise UserError(f"{pairs} does not exist; make it with `ddspo pairs`, or give --pairs")
    return pairs


def train_stage(recipe: Recipe, run: Path, baseline: str | None = None, pairs: Path | None = None) -> str:
    """Train the policy, or one baseline on the same pairs; where the result is."""
    from .training.loop import train
    from .training.target_models import with_target_models

    pairs, own = _existing_pairs(run, pairs), _recipe_of(recipe, baseline)
    folder = run / POLICY_RUN if baseline is None else run / BASELINES / baseline
    if models := target_trainings(recipe).get(baseline or "policy"):
        own = with_target_models(own, run / TARGETS / models)
    train(own, pairs, folder)
    return str(folder / "policy")


def policies_of(recipe: Recipe, run: Path) -> dict[str, Path]:
    """The trained policies by name, the main one ('policy') first.

    Raises:
        UserError: one that the recipe asks for is not trained yet.
    """
    policies = {"policy": run / POLICY_RUN / "policy"}
    policies |= {name: run / BASELINES / name / "policy" for name in recipe.baselines}
    for name, folder in policies.items():
        if not folder.is_dir():
            mend = "ddspo train" if name == "policy" else f"ddspo train --baseline {name}"
            raise UserError(f"{folder} does not exist; make it with `{mend}`")
    return policies


def evaluate_stage(recipe: Recipe, run: Path) -> str:
    """Compare the reference with every policy, and write what was found into their cards; where the scores are."""
    from .evaluation.evaluate import evaluate

    policies = policies_of(recipe, run)
    with only_one(run / SCORES, "ddspo evaluate"):
        summary = evaluate(recipe, policies, run / SCORES)
        for name, folder in policies.items():
            write_figures(folder, summary.folder / "evaluation.json", name)
    return str(run / SCORES)


def report_stage(run: Path) -> Path:
    """Write report.html and summary.json; the report's path."""
    from .report import build_report

    return build_report(run)


def align(recipe: Recipe, *, say: Callable[[str], None] = print) -> Path:
    """Walk the whole road; every stage takes up what an earlier attempt left, and is quick when it is complete.

    Args:
        say: gets one line per finished stage.

    Returns:
        the path of report.html in `recipe.output`.

    Raises:
        UserError: bad input, in one line; nothing already made is lost.
    """
    from .early_checks import check_later_stages

    single_process("align")
    check_later_stages(recipe)
    run = open_run(recipe)
    stages: list[tuple[str, Callable[[], str]]] = [
        ("degrade", lambda: degrade_stage(recipe, run)),
        ("pairs", lambda: pairs_stage(recipe, run)),
        *([("targets", lambda: targets_stage(recipe, run))] if target_trainings(recipe) else []),
        ("train", lambda: train_stage(recipe, run)),
    ]
    for name in recipe.baselines:
        stages.append((f"baseline {name}", lambda name=name: train_stage(recipe, run, name)))  # type: ignore[misc]
    stages += [("evaluate", lambda: evaluate_stage(recipe, run)), ("report", lambda: str(report_stage(run)))]
    started = time.monotonic()
    for number, (name, stage) in enumerate(stages, 1):
        stage_started = time.monotonic()
        result = stage()
        say(f"[{number}/{len(stages)}] {name:<24} {time.monotonic() - stage_started:8.1f} s  {result}")
        write_json(run / "costs.json", total_costs(recipe, run))
    costs = total_costs(recipe, run)["total"]
    say(
        f"in all {time.monotonic() - started:.1f} s now; this run has cost {costs['network_evaluations']:,.0f} F so far"
    )
    return run / "report.html"


def headline(summary: Path) -> str:
    """The verdict of summary.json in one line."""
    values = read_json(summary)
    base, policy = values["base"].get("overall"), values["policy"].get("overall")
    difference = values["difference"]
    if None in (base, policy, difference.get("mean")):
        return f"no overall score; see {summary}"
    interval = f"{difference['low']:+.3f} to {difference['high']:+.3f}"
    return f"overall score: base {base:.3f}, policy {policy:.3f}; difference {difference['mean']:+.3f} ({interval})"
