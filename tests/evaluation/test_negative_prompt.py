"""The baseline without training: same seeds, guided away from degraded prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from pydantic import ValidationError

from ddspo.errors import UserError
from ddspo.evaluation import work
from ddspo.evaluation.evaluate import evaluate
from ddspo.evaluation.negative_prompt import NEGATIVE_PROMPT, negative_prompts
from ddspo.evaluation.pictures import read_pngs
from ddspo.files import read_json, read_jsonl, write_jsonl
from ddspo.plan import make_plan
from ddspo.prompts.sources import PromptRecord, read_prompts
from ddspo.recipe import Recipe
from helpers.tiny_pipelines import tiny_sd

PROMPTS = ["a red circle", "two blue squares", "a green cross and a red circle"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    tiny_sd(folder, scheduler="ddim").rename(folder / "base")
    write_jsonl(folder / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    return folder


def recipe_for(home: Path, **evaluation: Any) -> Recipe:
    settings = {
        "prompts": str(home / "prompts.jsonl"),
        "sampling": {"steps": 2, "guidance_scale": 3.0, "batch_images": 2},
        "bootstrap_samples": 50,
        "set_metrics": [],
        "negative_prompt_baseline": True,
    }
    model = {"base": str(home / "base"), "height_px": 32, "width_px": 32}
    degradation = {"method": "removal", "variants": 4}
    data = {"seed": 5, "model": model, "degradation": degradation, "evaluation": settings | evaluation}
    return Recipe.model_validate(data)


def test_a_row_of_its_own_with_the_same_seeds(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, output = recipe_for(home), tmp_path / "scores"
    result = evaluate(recipe, {}, output)
    assert list(result.models) == ["reference", NEGATIVE_PROMPT]
    model = result.models[NEGATIVE_PROMPT]
    assert {"overall", "difference", "win_rate"} <= model.keys()
    rows = [row for row in read_jsonl(output / "scores.jsonl")]
    seeds = {name: [row["seed"] for row in rows if row["model"] == name] for name in result.models}
    assert seeds["reference"] == seeds[NEGATIVE_PROMPT]
    assert read_json(output / "cost.json")["network_evaluations"] == 2 * len(PROMPTS) * 2 * 2
    # the same call again draws nothing; other negative prompts are refused under the same name
    monkeypatch.setattr(work.Work, "_draw_batch", None)
    before = (output / "evaluation.json").read_bytes()
    evaluate(recipe, {}, output)
    assert (output / "evaluation.json").read_bytes() == before


def test_pictures_are_those_of_diffusers_with_that_negative_prompt(home: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores"
    evaluate(recipe_for(home), {}, output)
    negatives = {
        row["id"]: row["degraded_prompts"][0] for row in read_jsonl(output.with_name("scores.negative_prompts.jsonl"))
    }
    rows = [row for row in read_jsonl(output / "scores.jsonl") if row["model"] == NEGATIVE_PROMPT]
    assert len(set(negatives.values()) - set(PROMPTS)) == len(PROMPTS)
    pipeline = StableDiffusionPipeline.from_pretrained(home / "base", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    for row in rows:
        theirs = pipeline(
            row["prompt"],
            negative_prompt=negatives[row["id"]],
            num_inference_steps=2,
            guidance_scale=3.0,
            height=32,
            width=32,
            generator=torch.Generator().manual_seed(row["seed"]),
            output_type="np",
        ).images[0]
        ours = read_pngs([output / row["image"]])[0]
        assert np.abs(ours / 255 - theirs).max() < 1.5 / 255


def test_negative_prompts_follow_from_seed_and_prompt_and_are_kept(home: Path, tmp_path: Path) -> None:
    recipe = recipe_for(home)
    records = read_prompts(recipe.evaluation.prompts, "prompt", None, 0)
    one = negative_prompts(recipe, records, tmp_path / "a")
    alone = negative_prompts(recipe, records[1:2], tmp_path / "b")
    assert alone[records[1].id] == one[records[1].id]
    for record in records:
        words, left = record.prompt.split(), one[record.id].split()
        assert 0 < len(left) < len(words) and set(left) <= set(words)
    other = negative_prompts(recipe.model_copy(update={"seed": 6}), records, tmp_path / "c")
    assert other != one
    with pytest.raises(UserError, match="other settings"):
        negative_prompts(recipe.model_copy(update={"seed": 6}), records, tmp_path / "a")


def test_a_prompt_that_cannot_be_degraded_is_guided_plainly(home: Path, tmp_path: Path) -> None:
    recipe = recipe_for(home)
    records = [PromptRecord("one", "cat", {}), PromptRecord("two", "a red cat", {})]
    found = negative_prompts(recipe, records, tmp_path / "scores")
    assert found["one"] == "" and found["two"]


def test_a_line_separator_inside_a_prompt_ends_no_row(home: Path, tmp_path: Path) -> None:
    records = [PromptRecord("one", "a red cat\u2028on a blue mat in the garden", {})]
    assert negative_prompts(recipe_for(home), records, tmp_path / "scores")["one"]


def test_it_needs_guidance_and_its_name(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="needs guidance"):
        recipe_for(home, sampling={"steps": 2, "guidance_scale": 1.0})
    with pytest.raises(UserError, match="cannot name a policy"):
        evaluate(recipe_for(home), {NEGATIVE_PROMPT: tmp_path}, tmp_path / "scores")


def test_the_plan_counts_its_pictures(home: Path) -> None:
    costs = {}
    for wanted in (True, False):
        stages = {stage.name: stage for stage in make_plan(recipe_for(home, negative_prompt_baseline=wanted)).stages}
        costs[wanted] = stages["evaluate"].network_evaluations
    assert costs[False] == 2 * len(PROMPTS) * 2 * 2
    assert costs[True] == 3 * len(PROMPTS) * 2 * 2
