"""Whole runs on a tiny model: equal however cut, learning what they should, readable by diffusers."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from ddspo.families.load import load_family
from ddspo.training.checkpoint import latest_checkpoint
from ddspo.training.loop import train
from helpers.training_cases import changed, make_case, metrics_of, policy_bytes


def trained(output: Path) -> dict[str, torch.Tensor]:
    checkpoint = latest_checkpoint(output / "checkpoints")
    assert checkpoint is not None
    return checkpoint.tensors["trained"]


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_the_cut_into_micro_batches_does_not_matter(folder: Path, tmp_path: Path, parameters: str) -> None:
    states = []
    for micro in (1, 8):
        recipe, pairs = make_case(
            folder, parameters=parameters, global_batch_pairs=8, micro_batch_pairs=micro, max_steps=2
        )
        train(recipe, pairs, tmp_path / str(micro))
        states.append(metrics_of(tmp_path / str(micro)))
    for one, eight in zip(*states, strict=True):
        for name in ("loss", "margin", "contrast", "gradient_norm"):
            assert one[name] == pytest.approx(eight[name], rel=1e-3, abs=2e-6), name
        assert one["network_evaluations"] == eight["network_evaluations"]


def test_reference_and_base_stay_as_they_were(folder: Path, tmp_path: Path) -> None:
    for parameters in ("lora", "full"):
        recipe, pairs = make_case(folder, parameters=parameters)
        family = load_family(recipe.model.base)
        before = {name: tensor.clone() for name, tensor in family.denoiser.state_dict().items()}
        train(recipe, pairs, tmp_path / parameters, family=family)
        after = family.denoiser.state_dict()
        moved = [name for name in before if parameters == "full" and not torch.equal(before[name], after[name])]
        same = [name for name in before if torch.equal(before[name], after.get(name, after.get(layer(name))))]
        assert len(moved) > 100 if parameters == "full" else len(same) == len(before)
        assert load_family(recipe.model.base).fingerprint() == family.fingerprint()


def layer(name: str) -> str:
    """Where peft moves an adapted layer's own weight."""
    return ".base_layer.".join(name.rsplit(".", 1))


def test_checkpoints_hold_only_what_is_trained(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    train(recipe, pairs, tmp_path / "run")
    assert all(".lora_" in name for name in trained(tmp_path / "run"))
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-000002", "step-000004"]


def test_something_is_learned(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, max_steps=12, global_batch_pairs=8, micro_batch_pairs=8)
    train(recipe, pairs, tmp_path / "run")
    rows = metrics_of(tmp_path / "run")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[-1]["loss"] < 0.66
    assert rows[-1]["margin"] > 0.05
    assert rows[-1]["accuracy"] == 1
    assert rows[-1]["saturation"] < 0.49


def test_the_average_is_the_result(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, ema_decay=0.9, max_steps=2)
    train(recipe, pairs, tmp_path / "run")
    checkpoint = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    saved = load_file(tmp_path / "run" / "policy" / "pytorch_lora_weights.safetensors")
    saved_norm = float(sum(tensor.double().square().sum() for tensor in saved.values()))
    norms = {
        group: float(sum(tensor.double().square().sum() for tensor in checkpoint.tensors[group].values()))
        for group in ("trained", "average")
    }
    assert saved_norm == pytest.approx(norms["average"], rel=1e-12)
    assert norms["average"] != pytest.approx(norms["trained"], rel=1e-7)


def test_the_policy_loads_in_diffusers_and_differs_from_the_base(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    policy = train(recipe, pairs, tmp_path / "lora").policy
    full = train(changed(recipe, training={"parameters": "full"}), pairs, tmp_path / "full").policy

    def draw(pipe: StableDiffusionPipeline) -> np.ndarray[Any, Any]:
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        return pipe("a red cat", num_inference_steps=2, generator=generator, output_type="np").images

    base = StableDiffusionPipeline.from_pretrained(recipe.model.base, safety_checker=None)
    pictures = [draw(base)]
    base.load_lora_weights(policy)
    pictures += [draw(base), draw(StableDiffusionPipeline.from_pretrained(full, safety_checker=None))]
    assert np.abs(pictures[0] - pictures[1]).max() > 1e-4
    assert np.abs(pictures[0] - pictures[2]).max() > 1e-4
    card = (policy / "README.md").read_text()
    assert f"from `{Path(recipe.model.base).name}`" in card and recipe.model.base not in card
    assert "base_model" not in card  # on the hub that name may be a stranger's
    assert "10, drawn by the base" in card
    assert "license: unknown" in card and "look it up before" in card.lower()


@pytest.mark.parametrize("change", [{"gradient_checkpointing": True}, {"mixed_precision": "bf16"}])
def test_memory_savers_train_the_same_within_their_precision(
    folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    recipe, pairs = make_case(folder, max_steps=2)
    train(recipe, pairs, tmp_path / "plain")
    train(changed(recipe, training=change), pairs, tmp_path / "other")
    plain, other = metrics_of(tmp_path / "plain")[-1], metrics_of(tmp_path / "other")[-1]
    exact = "gradient_checkpointing" in change
    assert other["loss"] == pytest.approx(plain["loss"], rel=1e-6 if exact else 1e-2)
    assert other["network_evaluations"] == 2 * 4 * (11 if exact else 9)
    dtypes = {tensor.dtype for tensor in trained(tmp_path / "other").values()}
    assert dtypes == {torch.float32}


@pytest.mark.parametrize(
    ("sections", "present", "cost"),
    [
        ({"target": {"source": "forward_noise"}}, {"margin", "win_drift", "lose_drift"}, 8),
        ({"objective": {"name": "denoising"}}, set(), 3),
    ],
)
def test_the_baselines_train_too(
    folder: Path, tmp_path: Path, sections: dict[str, Any], present: set[str], cost: int
) -> None:
    recipe, pairs = make_case(folder, max_steps=2)
    summary = train(changed(recipe, **sections), pairs, tmp_path / "run")
    row = metrics_of(tmp_path / "run", timing=True)[-1]
    always = {"step", "loss", "gradient_norm", "learning_rate", "pairs_per_second", "network_evaluations", "seconds"}
    margins = {"margin", "accuracy", "saturation", "margin_by_timestep"} if "margin" in present else set()
    by_timestep = {f"{name}_by_timestep" for name in present & {"win_drift", "lose_drift"}}
    assert row.keys() == always | present | margins | by_timestep
    assert summary.cost["network_evaluations"] == row["network_evaluations"] == 2 * 4 * cost
    assert row["gradient_norm"] > 0
    assert row["pairs_per_second"] == pytest.approx(4 / row["seconds"], rel=0.01)


def test_previews_show_fixed_prompts_at_start_middle_and_end(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, preview_every_steps=2, max_steps=3, optimizer={"learning_rate": 0.05})
    train(recipe, pairs, tmp_path / "run")
    names = ["step-000000.png", "step-000002.png", "step-000003.png"]
    assert sorted(path.name for path in (tmp_path / "run" / "previews").iterdir()) == names
    pictures = [np.asarray(Image.open(tmp_path / "run" / "previews" / name)) for name in names]
    assert pictures[0].shape == (64, 4 * 64, 3)
    assert not np.array_equal(pictures[0], pictures[2])
    alone, _ = make_case(folder, max_steps=3, optimizer={"learning_rate": 0.05})
    train(alone, pairs, tmp_path / "alone")
    assert policy_bytes(tmp_path / "alone") == policy_bytes(tmp_path / "run")


def test_processes_exchange_gradients_once_a_step(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder, max_steps=2, global_batch_pairs=8)
    silent: list[Any] = []
    monkeypatch.setattr(Accelerator, "no_sync", lambda _, module: nullcontext(silent.append(module)))
    train(recipe, pairs, tmp_path / "run")
    assert len(silent) == 2 * 3  # four micro batches a step, of which the last is heard
