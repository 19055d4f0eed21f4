"""`python -m tinyscenes.build` from nothing to its record, with a handful of steps; resumed, it makes the same bits."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from tinyscenes.build import __main__ as build
from tinyscenes.build.text import new_tokenizer
from tinyscenes.edits import EDITS
from tinyscenes.language import WORDS

record = importlib.import_module("tinyscenes.build.record")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"VAE_STEPS": 2, "TEXT_STEPS": 2, "FEATURE_STEPS": 2, "BANK_IMAGES": 256}.items():
        monkeypatch.setattr(build, name, value)
    monkeypatch.setattr(build, "REPORT_EVERY_STEPS", 1)
    probes = build.probe_descriptions
    monkeypatch.setattr(build, "probe_descriptions", lambda per_category, seed: probes(1, seed))
    monkeypatch.setattr(record, "PER_CATEGORY", 2)
    monkeypatch.setattr(record, "STEPS", 2)
    monkeypatch.setattr(record, "GUIDANCE_SCALES", (1.0, 4.0))


def run(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["build", str(out), "--images", "192", "--threads", "1"])
    build.main()


@pytest.mark.slow
def test_the_build_runs_from_nothing_and_goes_on_where_it_was_stopped(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(monkeypatch, tmp_path / "unbroken")
    figures = json.loads((tmp_path / "unbroken" / "build.json").read_text())
    assert figures["unet_images"] == 192 and set(figures["screen"]) == set(EDITS)
    assert set(figures["guidance"]) == {"1.0", "4.0"} and 0 <= figures["vae_round_trip"] <= 1
    told = [path.read_text() for path in (tmp_path / "unbroken" / "pipeline").rglob("*.json")]
    assert len(told) > 5 and not any(str(tmp_path) in text for text in told)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "unbroken" / "pipeline", dtype=torch.float32)
    assert figures["parameters"]["unet"] == sum(parameter.numel() for parameter in pipeline.unet.parameters())

    drawn, draw = [], build.draw

    def stopped(*args: Any, **kwargs: Any) -> Any:
        drawn.append(1)
        if len(drawn) == 2:  # the first step is saved, the second one is not
            raise KeyboardInterrupt
        return draw(*args, **kwargs)

    monkeypatch.setattr(build, "draw", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path / "broken")
    run(monkeypatch, tmp_path / "broken")
    for part in ("vae", "text_encoder", "unet"):
        names = [path.name for path in (tmp_path / "unbroken" / "pipeline" / part).glob("*.safetensors")]
        ours, theirs = (load_file(tmp_path / who / "pipeline" / part / names[0]) for who in ("unbroken", "broken"))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), part
    assert (tmp_path / "broken" / "build.json").read_text() == (tmp_path / "unbroken" / "build.json").read_text()


def test_the_tokenizer_is_the_same_in_every_training_and_knows_every_word_whole() -> None:
    """Trained merges come out of a hash table; a seed means little where the words' ids change with it."""
    first, second = new_tokenizer(), new_tokenizer()
    assert first.get_vocab() == second.get_vocab()
    assert all(len(first.tokenize(word)) == 1 for word in WORDS)
    assert first.get_vocab()["<|endoftext|>"] == len(first) - 1
