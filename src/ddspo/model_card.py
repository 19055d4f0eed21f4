"""README.md of a policy: what it is, how to load it, how it was made, what was measured, whose license applies.

Nothing of the user's machine gets in: folders are named by their last part, prompts are counted and not quoted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .files import read_json, write_text
from .method_facts import OBJECTIVES, target_of
from .recipe import Recipe

EMBEDDED = "tinyscenes"
CARD = "README.md"
_BEGIN, _END = "<!-- evaluation -->", "<!-- /evaluation -->"
_NOT_MEASURED = "Not measured: `ddspo evaluate` compares it with its base and writes the numbers here."
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*\n", re.DOTALL)


_HUB_LICENSES = frozenset(
    """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 wtfpl agpl-3.0 gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1
    lgpl-3.0 isc mpl-2.0 openrail++ unlicense deepfloyd-if-license gemma unknown other""".split()
)
"""what the hub takes as `license`; a card with another one cannot be uploaded and needs `other` and a name"""


def shown(place: str | Path) -> str:
    """A base, data set or file by a name that tells nothing of this machine: hub ids stay, paths lose their folders."""
    path = Path(place).expanduser()
    return path.name if path.exists() or path.is_absolute() else str(place)


def _is_on_hub(base: str) -> bool:
    return shown(base) == base != EMBEDDED and _HUB_ID.fullmatch(base) is not None and not base.startswith(".")


def base_license(folder: Path, base: str) -> str:
    """The license that the base's README.md has in its front matter ('creativeml-openrail-m'); 'unknown' without."""
    if base == EMBEDDED:
        return "apache-2.0"
    try:
        found = _FRONT_MATTER.match((folder / CARD).read_text(encoding="utf-8"))
        values = yaml.safe_load(found[1]) if found else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return "unknown"
    values = values if isinstance(values, dict) else {}
    name = values.get("license")
    if name == "other" and isinstance(values.get("license_name"), str):
        name = values["license_name"]
    return name if isinstance(name, str) and re.fullmatch(r"[\w.+-]{1,80}", name) else "unknown"


def model_card(
    recipe: Recipe, metrics: Mapping[str, Any], cost: Mapping[str, float], data: str, *, kind: str, license_name: str
) -> str:
    """The card as it stands when training ends; `write_figures` adds what evaluation finds.

    Args:
        recipe: as it was trained.
        metrics: the last row of metrics.jsonl.
        cost: {"seconds", "network_evaluations"}.
        data: how many pairs, and from where.
        kind: 'lora' or 'full'.
        license_name: from `base_license`.
    """
    base, what = shown(recipe.model.base), "LoRA weights" if kind == "lora" else "A full pipeline"
    front = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        # The hub links to whatever has this name, so a folder's name would point to a stranger's model.
        **({"base_model": base} if _is_on_hub(recipe.model.base) else {}),
        **_license(license_name),
        "tags": ["ddspo", "text-to-image", "preference-optimization", *(["lora"] if kind == "lora" else [])],
    }
    scalars = [(name, f"{value:.6g}") for name, value in metrics.items() if isinstance(value, float)]
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        f"# {' '.join(recipe.name.split())}",
        "",
        f"{what} trained from `{base}` with ddspo",
        "(Direct Diffusion Score Preference Optimization, arXiv 2512.23426).",
        "",
        "```python",
        "from diffusers import DiffusionPipeline",
        "",
        *_loading(recipe.model.base, recipe.model.lora, kind),
        "```",
        "",
    ]
    if kind == "lora":
        lines += ["`single_file/ddspo_lora.safetensors` is the same LoRA for ComfyUI and kohya-style tools.", ""]
    lines += ["## What it does", "", _BEGIN, _NOT_MEASURED, _END, "", "## How it was made", ""]
    lines += [*_table("training", _training_rows(recipe, metrics, cost, data)), "", *_table("last step", scalars), ""]
    return "\n".join([*lines, "## License", "", _license_text(license_name), ""])


def write_figures(policy: Path, evaluation: Path, name: str) -> None:
    """Put what an evaluation found into the policy's card; what an earlier one found goes. Without a card: nothing.

    Args:
        policy: the policy's folder.
        evaluation: evaluation.json.
        name: of the policy in it.
    """
    card = policy / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if _BEGIN in text and _END in text:
        before, after = text.split(_BEGIN, 1)[0], text.split(_END, 1)[1]
        write_text(card, "\n".join([f"{before}{_BEGIN}", *_figures(read_json(evaluation), name), f"{_END}{after}"]))


def _figures(results: Mapping[str, Any], name: str) -> list[str]:
    ours, base = results["models"][name], results["models"]["reference"]
    percent = f"{100 * results['confidence']:g} %"
    sampling = results.get("settings", {}).get("sampling", {})
    drawn = f"{sampling['steps']} steps, guidance {sampling['guidance_scale']:g}" if sampling else "as the recipe says"
    lines = [
        f"On {results['prompts']} prompts, {results['images_per_prompt']} pictures each, same seeds ({drawn}).",
        f"Brackets: {percent} intervals, bootstrap over prompts.",
        "",
        "| score | base | this model | difference | p |",
        "|---|---|---|---|---|",
    ]
    for scorer, found in ours["scorers"].items():
        difference = found["difference"]
        lines.append(
            f"| {scorer} | {_interval(base['scorers'][scorer]['overall'])} | {_interval(found['overall'])} "
            f"| {_interval(difference, '+')} | {difference['p_value']:.2g} |"
        )
    for measure in ("frechet", "inception_score"):
        if ours.get(measure) is not None and base.get(measure) is not None:
            lines.append(f"| {measure} of the set | {base[measure]:.4g} | {ours[measure]:.4g} | | |")
    return lines


def _interval(values: Mapping[str, float], sign: str = "") -> str:
    return f"{values['mean']:{sign}.4f} [{values['low']:{sign}.4f}, {values['high']:{sign}.4f}]"


def _training_rows(
    recipe: Recipe, metrics: Mapping[str, Any], cost: Mapping[str, float], data: str
) -> list[tuple[str, str]]:
    training, optimizer = recipe.training, recipe.training.optimizer
    rows = [
        ("objective", _objective(recipe, metrics)),
        ("pairs", data),
        ("steps", f"{training.max_steps} of {training.global_batch_pairs} pairs"),
        ("optimizer", f"{optimizer.name}, learning rate {optimizer.learning_rate:g}, {optimizer.schedule}"),
        ("precision", f"mixed {training.mixed_precision}, frozen parts {recipe.model.frozen_dtype}"),
        ("average", "none" if training.ema_decay is None else f"moving average, decay {training.ema_decay:g}"),
        ("seed", str(recipe.seed)),
        ("cost", f"{cost['network_evaluations']:.0f} network evaluations, {cost['seconds']:.0f} s"),
    ]
    if recipe.model.lora:
        rows.insert(0, ("merged into the base before", ", ".join(shown(path) for path in recipe.model.lora)))
    return rows + ([("early end", str(metrics["stopped"]))] if "stopped" in metrics else [])


def _objective(recipe: Recipe, metrics: Mapping[str, Any]) -> str:
    objective = recipe.objective
    if objective.name == "denoising":
        return f"plain fine-tuning on the {'winning' if objective.side == 'win' else 'losing'} pictures"
    last = f"{metrics['beta']:g} at the last step, " if "beta" in metrics else ""
    beta = f", beta {last}{objective.beta_words}" if OBJECTIVES[objective.name].beta is not None else ""
    return f"{objective.name}{beta}, target source `{target_of(recipe)}`"


def _loading(base: str, merged: Sequence[Path], kind: str) -> list[str]:
    if kind == "full":
        return ['pipeline = DiffusionPipeline.from_pretrained("path/to/policy")']
    if base == EMBEDDED:
        lines = ["import tinyscenes", "", "pipeline = DiffusionPipeline.from_pretrained(tinyscenes.pipeline_folder())"]
    else:
        name = shown(base) if shown(base) == base else f"path/to/{shown(base)}"
        lines = [f'pipeline = DiffusionPipeline.from_pretrained("{name}")']
    for lora in merged:  # they are part of the base that this LoRA was trained on
        lines += [f'pipeline.load_lora_weights("path/to/{shown(lora)}")', "pipeline.fuse_lora()"]
        lines += ["pipeline.unload_lora_weights()"]
    return [*lines, 'pipeline.load_lora_weights("path/to/policy")']


def _license_text(name: str) -> str:
    if name == "unknown":
        return (
            "These weights derive from the base model, whose license applies. Which one that is is unknown: the base's "
            "files do not say. Look it up before you pass them on."
        )
    return f"These weights derive from the base model, whose license applies: `{name}`, as its own card says."


def _license(name: str) -> dict[str, str]:
    return {"license": name} if name in _HUB_LICENSES else {"license": "other", "license_name": name}


def _table(title: str, rows: list[tuple[str, str]]) -> list[str]:
    return [f"| {title} | |", "|---|---|", *(f"| {name} | {value.replace('|', '/')} |" for name, value in rows)]
