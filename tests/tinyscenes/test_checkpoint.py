"""The shipped checkpoint: what the package promises of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import tinyscenes
from tinyscenes.build.record import round_trip
from tinyscenes.build.text import tokenize
from tinyscenes.language import WORDS


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_pretrained(tinyscenes.pipeline_folder(), dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_is_an_ordinary_small_stable_diffusion_folder_in_half_precision():
    folder = tinyscenes.pipeline_folder()
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 25e6
    from safetensors import safe_open

    for file in folder.rglob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            assert {tensors.get_tensor(key).dtype for key in tensors.keys() if "position_ids" not in key} == {
                torch.float16
            }


def test_no_configuration_says_where_it_was_made():
    configurations = list(tinyscenes.pipeline_folder().rglob("*.json"))
    assert len(configurations) > 5
    assert not any("_name_or_path" in path.read_text(encoding="utf-8") for path in configurations)


def test_scorer_survives_the_vae_round_trip(pipeline):
    assert round_trip(pipeline, 700, seed=11) >= 0.98


def test_every_word_is_one_token(pipeline):
    ids = tokenize(pipeline.tokenizer, list(WORDS))
    assert (ids[:, 2] == pipeline.tokenizer.eos_token_id).all()
    assert len(set(ids[:, 1].tolist())) == len(WORDS)


def test_record_says_that_the_base_can_be_aligned():
    record = json.loads(tinyscenes.build_record().read_text())
    best = record["guidance"][str(record["best_guidance_scale"])]
    assert 0.35 <= best["overall"] <= 0.70
    assert record["vae_round_trip"] >= 0.98
    gains = [row["pushed"] - row["plain"] for row in record["screen"].values()]
    assert max(gains) > 0.03, "no degraded prompt points anywhere: nothing to learn from"
    assert record["screen"]["swap_attributes"]["contrast"] > 1e-3


@pytest.mark.slow
def test_accuracy_through_the_sampler_is_what_the_record_says(pipeline):
    from tinyscenes.build.measure import accuracy, draw, probe_descriptions, prompts_of

    record = json.loads(tinyscenes.build_record().read_text())
    probes = probe_descriptions(12, record["seed"] + 100)
    scale = record["best_guidance_scale"]
    measured = accuracy(draw(pipeline, prompts_of(probes), guidance_scale=scale, steps=20, seed=3), probes).overall
    expected = record["guidance"][str(scale)]["overall"]
    assert abs(measured - expected) < 4 * np.sqrt(expected * (1 - expected) / len(probes))
