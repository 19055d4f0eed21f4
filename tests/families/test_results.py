"""What comes out of every family works elsewhere: as one file, merged, and as a start for training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ddspo import recipe
from ddspo.families.load import load_family
from ddspo.families.merge import merge_policy
from ddspo.families.policy import load_policy
from ddspo.families.roles import Roles
from ddspo.families.single_file import SINGLE_FILE
from ddspo.tensors import Conditioning
from helpers.family_cases import CASES, Case
from helpers.policies import inputs, plain_pipeline, same, shake

FAMILIES = [case for case in CASES if case.name in ("sd_epsilon", "sd_v_prediction", "sdxl", "sd3", "sana", "flux")]


@dataclass(frozen=True)
class Saved:
    """A policy on disk, and what it and its reference predict."""

    case: Case
    base: Path
    policy: Path
    inputs: tuple[Tensor, Tensor, Conditioning]
    expected: Tensor
    reference: Tensor

    def predicts(self, denoiser: Any) -> Tensor:
        with torch.no_grad():
            return load_family(str(self.base)).predict(*self.inputs, denoiser=denoiser)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda case: case.name)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder, case = tmp_path_factory.mktemp(request.param.name), request.param
    base = case.build(folder)
    roles, arguments = Roles.lora(load_family(str(base)), recipe.Lora(rank=4, alpha=16), 0), inputs(base, case)
    shake(roles)
    roles.save_policy(folder / "policy", card="# Card\n\nLoRA weights trained\n\n```python\nold()\n```\n")
    with torch.no_grad():
        expected, reference = (roles.predict(role, *arguments) for role in ("policy", "reference"))  # type: ignore[arg-type]
    assert (expected - reference).abs().max() > 1e-3
    return Saved(case, base, folder / "policy", arguments, expected, reference)


def test_the_single_file_loads_in_plain_diffusers_at_its_own_strength(saved: Saved) -> None:
    part = load_family(str(saved.base)).denoiser_part
    pipeline = plain_pipeline(saved.base)
    pipeline.load_lora_weights(saved.policy / SINGLE_FILE.parent, weight_name=SINGLE_FILE.name)
    same(saved.predicts(getattr(pipeline, part)), saved.expected)


def test_the_single_file_is_named_as_other_tools_expect(saved: Saved) -> None:
    tensors = load_file(saved.policy / SINGLE_FILE)
    names = set(tensors)
    prefixes = {
        "sd_epsilon": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
        "sd_v_prediction": "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k",
        "sdxl": "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q",
        "sd3": "transformer.transformer_blocks.0.attn.to_q",
        "sana": "transformer.transformer_blocks.0.attn1.to_q",
        "flux": "transformer.transformer_blocks.0.attn.to_q",
    }
    module = prefixes[saved.case.name]
    unet = module.startswith("lora_unet_")
    endings = ("lora_down.weight", "lora_up.weight", "alpha") if unet else ("lora_A.weight", "lora_B.weight")
    assert {f"{module}.{ending}" for ending in endings} <= names
    assert all(name.startswith(("lora_unet_", "transformer.")) and name.endswith(endings) for name in names)
    if unet:
        assert {float(tensor) for name, tensor in load_file(saved.policy / SINGLE_FILE).items() if "alpha" in name} == {
            16
        }
    if saved.case.name == "sdxl":
        assert not any("_blocks_" in name and "attentions" in name for name in names)


def test_the_single_file_is_read_by_us_as_well(saved: Saved) -> None:
    family = load_family(str(saved.base), lora=[saved.policy / SINGLE_FILE])
    same(saved.predicts(family.denoiser), saved.expected)


def test_merged_weights_predict_as_the_lora_does_in_plain_diffusers(saved: Saved, tmp_path: Path) -> None:
    merge_policy(saved.policy, tmp_path / "merged")
    part = load_family(str(saved.base)).denoiser_part
    same(saved.predicts(getattr(plain_pipeline(tmp_path / "merged"), part)), saved.expected, 2e-5)
    same(saved.predicts(load_policy(tmp_path / "merged").denoiser), saved.expected, 2e-5)
    for name in {str(file.relative_to(saved.base)) for file in saved.base.rglob("*") if file.is_file()}:
        equal = (tmp_path / "merged" / name).read_bytes() == (saved.base / name).read_bytes()
        assert equal == (not (name.startswith(part) and name.endswith(".safetensors")) or name == "model_index.json"), (
            name
        )
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "from_pretrained" in card and "old()" not in card and "merged into its base" in card


def test_a_lora_in_the_base_is_where_reference_and_policy_start(saved: Saved, tmp_path: Path) -> None:
    plain, family = load_family(str(saved.base)), load_family(str(saved.base), lora=[saved.policy])
    assert family.fingerprint() != plain.fingerprint()
    roles = Roles.lora(family, recipe.Lora(rank=2), 1)
    with torch.no_grad():
        for role in ("policy", "reference"):
            same(roles.predict(role, *saved.inputs), saved.expected)  # type: ignore[arg-type]
        shake(roles, 7)
        expected = roles.predict("policy", *saved.inputs)
        same(roles.predict("reference", *saved.inputs), saved.expected)
    roles.save_policy(tmp_path / "second")
    again = load_policy(tmp_path / "second")
    assert again.fingerprint() == family.fingerprint()
    same(saved.predicts(again.denoiser), expected)
    merge_policy(tmp_path / "second", tmp_path / "merged")
    same(saved.predicts(load_policy(tmp_path / "merged").denoiser), expected, 2e-5)
