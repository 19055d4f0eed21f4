"""A run folder as `ddspo align` leaves it, made without any model: scenes drawn right or with a known fault."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from ddspo.files import content_id, write_json, write_jsonl, write_text
from ddspo.recipe import Recipe
from tinyscenes.language import speak
from tinyscenes.render import render
from tinyscenes.scenes import CATEGORIES, COLORS, SHAPES, Description, Scene, realize, sample_description
from tinyscenes.score import failure_kind, judge

#: model -> chance that a picture is right, per place of the category
SKILL = {
    "reference": (0.62, 0.55, 0.50, 0.34, 0.45, 0.70, 0.18),
    "policy": (0.80, 0.60, 0.64, 0.52, 0.42, 0.78, 0.30),
    "diffusion_dpo": (0.64, 0.56, 0.50, 0.38, 0.44, 0.70, 0.20),
    "sft": (0.60, 0.50, 0.52, 0.33, 0.47, 0.69, 0.17),
}


def _spoil(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same scene with one fault: a swap, a lost or an extra thing, a wrong color or shape, another place."""
    objects = list(scene.objects)
    fault = rng.choice(["swap", "drop", "color", "shape", "mirror"], p=[0.35, 0.15, 0.15, 0.15, 0.2])
    first = objects[0]
    if fault == "swap" and len(objects) > 1:
        second = objects[1]
        objects[0] = replace(first, color=second.color, texture=second.texture)
        objects[1] = replace(second, color=first.color, texture=first.texture)
    elif fault == "drop" and len(objects) > 1:
        objects.pop()
    elif fault == "shape":
        objects[0] = replace(first, shape=SHAPES[(SHAPES.index(first.shape) + 1) % len(SHAPES)])
    elif fault == "mirror":
        objects = [replace(o, x=31 - o.x, y=31 - o.y) for o in objects]
    else:
        objects[0] = replace(first, color=COLORS[(COLORS.index(first.color) + 1) % len(COLORS)])
    return Scene(tuple(objects))


def _picture(description: Description, skill: float, luck: float, seed: int) -> np.ndarray:
    scene = realize(description, np.random.default_rng(seed))
    return render(scene if luck < skill else _spoil(scene, np.random.default_rng(seed + 1)))


def _save(path: Path, image: np.ndarray, size_px: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image)
    if size_px != 32:
        large = np.asarray(picture.resize((size_px, size_px), Image.Resampling.BICUBIC), np.int16)
        grain = np.random.default_rng(7).normal(0, 6, large.shape)
        picture = Image.fromarray((large + grain).clip(0, 255).astype(np.uint8))
    picture.save(path)


def _interval(values: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    means = values[rng.integers(0, len(values), (500, len(values)))].mean(1)
    return {
        "mean": float(values.mean()),
        "low": float(np.quantile(means, 0.025)),
        "high": float(np.quantile(means, 0.975)),
    }


def _scores(run: Path, per_category: int, models: list[str], size_px: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    prompts: dict[str, tuple[str, Description]] = {}
    for category in CATEGORIES:
        drawn = (sample_description(rng, category) for _ in range(20 * per_category))
        of_category = {speak(description): (category, description) for description in drawn}
        prompts |= dict(list(of_category.items())[:per_category])
    # One luck per prompt, a little disturbed per model: pictures of the same seed are right or wrong together.
    luck = rng.random(len(prompts))
    rows = []
    for model in models:
        noise = rng.normal(0, 0.12, len(prompts))
        for number, (prompt, (category, description)) in enumerate(prompts.items()):
            record = content_id(prompt)
            skill = SKILL[model][CATEGORIES.index(category)]
            image = _picture(description, skill, float(luck[number] + noise[number]), number)
            verdict = judge(image, description)
            name = f"images/{model}/{record}-0.png"
            _save(run / "scores" / name, image, size_px)
            rows.append(
                {
                    "model": model,
                    "id": record,
                    "prompt": prompt,
                    "category": category,
                    "image": name,
                    "index": 0,
                    "seed": 1000 + number,
                    "score": float(verdict.exact),
                    "scores": {"tinyscenes": float(verdict.exact)},
                    "detail": {
                        "failed": list(verdict.failed),
                        "fraction": verdict.fraction,
                        "failure": failure_kind(image, description),
                    },
                }
            )
    return rows


def evaluation_of(rows: list[dict[str, Any]], models: list[str]) -> dict[str, Any]:
    """evaluation.json from score rows (one picture per prompt)."""
    rng = np.random.default_rng(0)
    by_model = {model: [row for row in rows if row["model"] == model] for model in models}
    base = by_model["reference"]
    categories = Counter(row["category"] for row in base)

    def scores(of: list[dict[str, Any]], category: str | None = None) -> np.ndarray:
        return np.array([row["score"] for row in of if category in (None, row["category"])])

    result: dict[str, Any] = {}
    for place, (model, of) in enumerate(by_model.items()):
        entry: dict[str, Any] = {
            "overall": _interval(scores(of), rng),
            "categories": {name: {**_interval(scores(of, name), rng), "prompts": n} for name, n in categories.items()},
            "failures": dict(Counter(row["detail"]["failure"] for row in of)),
            "scorers": {},
            "frechet": 3.1 + 0.1 * place,
            "inception_score": 12.0 + 0.2 * place,
        }
        if model != "reference":
            change = scores(of) - scores(base)
            entry |= {
                "folder": "policy",
                "difference": {**_interval(change, rng), "p_value": 0.0004},
                "versus": {
                    other: {**_interval(scores(of) - scores(rows), rng), "p_value": 0.01}
                    for other, rows in by_model.items()
                    if other not in ("reference", model)
                },
                "category_differences": {
                    name: {**_interval(scores(of, name) - scores(base, name), rng), "p_value": 0.2, "prompts": n}
                    for name, n in categories.items()
                },
                "win_rate": {
                    **_interval((np.sign(change) + 1) / 2, rng),
                    "wins": int((change > 0).sum()),
                    "ties": int((change == 0).sum()),
                    "losses": int((change < 0).sum()),
                },
            }
        result[model] = entry
    return {
        "format": 1,
        "scorer": "tinyscenes",
        "scorers": {"tinyscenes": {"higher_is_better": True, "description": "share of exact pictures"}},
        "prompts": len(base),
        "images_per_prompt": 1,
        "images": len(base),
        "confidence": 0.95,
        "bootstrap_samples": 500,
        "categories": dict(categories),
        "features": "a small classifier of rendered scenes, not Inception-v3",
        "frechet_floor": 0.8,
        "inception_score_real": 15.2,
        "notes": [],
        "settings": {},
        "models": result,
    }


def metric_rows(steps: int, kind: str = "preference", sick: bool = False, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl: `kind` is 'preference', 'forward_noise' (no contrast) or 'denoising' (loss only)."""
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(1, steps + 1):
        share = step / steps
        row: dict[str, Any] = {"step": step, "loss": 0.11 * math.exp(-share / 4) + rng.normal(0, 0.004)}
        if kind != "denoising":
            margin = (1.4 if kind == "preference" else 0.5) * (1 - math.exp(-3 * share)) + rng.normal(0, 0.08)
            contrast = 2.4e-4 * (1 + rng.normal(0, 0.06))
            lose = (30 if sick else 0.9) * contrast * share**1.5 + 1e-8
            row |= {
                "loss": math.log1p(math.exp(-margin)),
                "margin": margin,
                "accuracy": min(1.0, 0.5 + 0.22 * margin),
                "win_drift": lose * (0.97 if sick else 0.22),
                "lose_drift": lose,
                "saturation": 1 / (1 + math.exp(margin)),
                "margin_by_timestep": [
                    None if rng.random() < 0.05 else margin * math.exp(-((i - 6) ** 2) / 9) + rng.normal(0, 0.12)
                    for i in range(10)
                ],
            }
            if kind == "preference":
                row["contrast"] = contrast
        row |= {
            "gradient_norm": float(np.exp(rng.normal(-0.3, 0.25))),
            "learning_rate": 1e-4 * min(1.0, step / 5),
            "pairs_per_second": 210.0,
            "network_evaluations": 9 * 64 * step,
            "seconds": 0.3 * step,
        }
        rows.append(row)
    return rows


ENVIRONMENT = {"python": "3.12.1", "torch": "2.13.0", "diffusers": "0.42.1", "device": "cpu", "threads": 2, "git": None}


def _training(folder: Path, rows: list[dict[str, Any]]) -> None:
    write_jsonl(folder / "metrics.jsonl", rows)
    write_json(folder / "environment.json", ENVIRONMENT)
    write_json(folder / "cost.json", {"seconds": 71.2, "network_evaluations": float(len(rows) * 9 * 64)})


def make_run(
    run: Path,
    *,
    per_category: int = 3,
    steps: int = 60,
    baselines: bool = True,
    size_px: int = 32,
    sick: bool = False,
    seed: int = 0,
) -> Path:
    """Fill `run` with a finished run of made-up numbers and pictures that agree with each other."""
    models = ["reference", "policy", *(["diffusion_dpo", "sft"] if baselines else [])]
    recipe = json.loads(Recipe(name="demo", output=run).model_dump_json())
    write_text(run / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False))
    write_json(run / "environment.json", ENVIRONMENT)
    write_jsonl(run / "degraded.jsonl", [{"id": "0" * 16, "prompt": "a red circle", "degraded_prompts": ["a circle"]}])
    write_json(run / "pairs" / "cost.json", {"seconds": 82.4, "network_evaluations": 204_800.0})
    _training(run / "policy_run", metric_rows(steps, sick=sick))
    if baselines:
        _training(run / "baselines" / "diffusion_dpo", metric_rows(steps, "forward_noise", seed=1))
        _training(run / "baselines" / "sft", metric_rows(steps, "denoising", seed=2))
    rows = _scores(run, per_category, models, size_px, seed)
    write_jsonl(run / "scores" / "scores.jsonl", rows)
    write_json(run / "scores" / "evaluation.json", evaluation_of(rows, models))
    write_json(run / "scores" / "cost.json", {"seconds": 44.0, "network_evaluations": 56_000.0})
    return run
