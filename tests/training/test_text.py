"""Text that is encoded as training goes: the same run up to rounding, nothing on disk, and exact resuming."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from ddspo.training.loop import train
from helpers.training_cases import changed, make_case, policy_bytes


def test_encoded_text_trains_as_stored_text_does(tmp_path: Path) -> None:
    recipe, pairs = make_case(tmp_path)
    stored, encoded = (changed(recipe, training={"text": text}) for text in ("stored", "encoded"))
    train(encoded, pairs, tmp_path / "encoded")
    assert not (pairs / "text").exists()
    train(stored, pairs, tmp_path / "stored")
    assert (pairs / "text").is_dir()
    ours, theirs = (
        load_file(tmp_path / name / "policy" / "pytorch_lora_weights.safetensors") for name in ("encoded", "stored")
    )
    assert any((tensor != 0).any() for name, tensor in theirs.items() if ".up." in name or "lora_B" in name)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5, msg=name)


def test_a_run_with_encoded_text_resumes_bit_for_bit(tmp_path: Path) -> None:
    recipe, pairs = make_case(tmp_path, text="encoded")
    train(recipe, pairs, tmp_path / "unbroken")
    shutil.copytree(tmp_path / "unbroken", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "policy")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step-000004")
    train(recipe, pairs, tmp_path / "resumed")
    assert policy_bytes(tmp_path / "resumed") == policy_bytes(tmp_path / "unbroken")
