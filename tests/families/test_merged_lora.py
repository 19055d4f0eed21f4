"""LoRA that became part of the weights, merged or in a base, for one family: precision, order, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from ddspo import recipe
from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.families.lora import AdapterDeltas
from ddspo.families.lora_files import WEIGHTS_FILE
from ddspo.families.merge import merge_policy
from ddspo.families.policy import load_policy
from ddspo.families.roles import Roles
from ddspo.recipe import Model
from helpers.family_cases import CASES
from helpers.policies import inputs, plain_pipeline, same, shake
from helpers.tiny_pipelines import tiny_sd


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("sd"))


def make_policy(base: Path, folder: Path, **options: Any) -> Path:
    roles = Roles.lora(load_family(str(base), **options), recipe.Lora(rank=2), 0)
    shake(roles)
    roles.save_policy(folder)
    return folder


def test_shards_variant_and_precision_are_kept(sd: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    pipeline = plain_pipeline(sd)
    pipeline.unet.half()
    pipeline.save_pretrained(base, variant="fp16", max_shard_size="400KB")
    family = load_family(str(base), variant="fp16", dtype="fp16")
    shards = family.folder.weight_files("unet")[1:]
    assert len(shards) > 1
    policy = make_policy(base, tmp_path / "policy", variant="fp16", dtype="fp16")
    merge_policy(policy, tmp_path / "merged")
    merged = sorted(path.name for path in (tmp_path / "merged" / "unet").iterdir())
    assert merged == sorted(
        ["config.json", "diffusion_pytorch_model.safetensors.index.json", *(s.name for s in shards)]
    )
    adapted = untouched = 0
    for shard in shards:
        before, after = load_file(shard), load_file(tmp_path / "merged" / "unet" / shard.name)
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            assert after[name].dtype == tensor.dtype == torch.float16
            if ".to_" in name and name.endswith("weight"):
                adapted += not torch.equal(after[name], tensor)
            else:
                assert torch.equal(after[name], tensor), name
                untouched += 1
    assert adapted == 32 and untouched > 50  # four blocks of two attentions of four matrices
    UNet2DConditionModel.from_pretrained(tmp_path / "merged", subfolder="unet", local_files_only=True)
    expected = load_policy(policy, dtype="fp32").denoiser.state_dict()
    assert any(".lora_A." in name for name in expected)


def test_a_tensor_stored_finer_than_the_rest_is_merged_as_fine(sd: Path, tmp_path: Path) -> None:
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    pipeline = plain_pipeline(sd)
    fine = pipeline.unet.state_dict()[name].clone()
    pipeline.unet.half()
    pipeline.save_pretrained(tmp_path / "base")
    weights = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(weights) | {name: fine}, weights, metadata={"format": "pt"})
    policy = make_policy(tmp_path / "base", tmp_path / "policy")
    merge_policy(policy, tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "unet" / weights.name)[name]
    delta = AdapterDeltas(load_policy(policy).denoiser)[name.replace(".weight", ".base_layer.weight")]
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged, fine + delta, rtol=0, atol=0)


def test_merging_is_refused_where_it_makes_no_sense(sd: Path, tmp_path: Path) -> None:
    policy = make_policy(sd, tmp_path / "policy")
    merge_policy(policy, tmp_path / "merged")
    with pytest.raises(UserError, match="complete pipeline already"):
        merge_policy(tmp_path / "merged", tmp_path / "again")
    with pytest.raises(UserError, match="is no policy saved by ddspo"):
        merge_policy(sd, tmp_path / "again")
    with pytest.raises(UserError, match="is the policy itself"):
        merge_policy(policy, policy)
    other = tiny_sd(tmp_path, seed=4)
    with pytest.raises(UserError, match="trained on another base"):
        merge_policy(policy, tmp_path / "again", base=str(other))
    assert not (tmp_path / "again").exists()


def test_full_training_starts_from_the_merged_lora_and_is_complete(sd: Path, tmp_path: Path) -> None:
    policy, arguments = make_policy(sd, tmp_path / "policy"), inputs(sd, CASES[0])
    family = load_family(str(sd), lora=[policy])
    roles = Roles.full(family)
    with torch.no_grad():
        start = load_policy(policy).predict(*arguments)
        same(roles.predict("reference", *arguments), start)
        same(roles.predict("policy", *arguments), start)
        shake(roles, size=0.005)
        expected = roles.predict("policy", *arguments)
        same(roles.predict("reference", *arguments), start)
    roles.save_policy(tmp_path / "full")
    with torch.no_grad():
        same(load_policy(tmp_path / "full").predict(*arguments), expected)
        unet = plain_pipeline(tmp_path / "full").unet
        same(load_family(str(sd)).predict(*arguments, denoiser=unet), expected)


def test_half_precision_bases_take_the_lora_with_one_rounding(sd: Path, tmp_path: Path) -> None:
    policy = make_policy(sd, tmp_path / "policy")
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    exact = load_family(str(sd), lora=[policy]).denoiser.state_dict()[name]
    low = load_family(str(sd), lora=[policy], dtype="bf16").denoiser.state_dict()[name]
    base = load_family(str(sd)).denoiser.state_dict()[name]
    delta = exact - base
    torch.testing.assert_close(low, (base.bfloat16().float() + delta).bfloat16(), rtol=0, atol=0)


def test_a_recipe_names_one_lora_or_several_in_order(sd: Path, tmp_path: Path) -> None:
    first, second = make_policy(sd, tmp_path / "first"), make_policy(sd, tmp_path / "second", lora=[tmp_path / "first"])
    assert Model(lora=str(first)).lora == (first,)  # type: ignore[arg-type]
    assert Model(lora=None).lora == ()  # type: ignore[arg-type]
    both = Model.model_validate({"lora": [str(first), str(second)]}).lora
    assert both == (first, second)
    arguments = inputs(sd, CASES[0])
    with torch.no_grad():
        stacked = load_family(str(sd), lora=both).predict(*arguments)
        same(stacked, load_policy(second).predict(*arguments))
        moved = (tmp_path / "first").rename(tmp_path / "moved")
        with pytest.raises(UserError, match="first does not exist"):
            load_policy(second).fingerprint()
        same(stacked, load_policy(second, lora=[moved]).predict(*arguments))


def test_a_lora_of_another_family_cannot_join_the_base(sd: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign" / WEIGHTS_FILE
    foreign.parent.mkdir()
    save_file({"transformer.blocks.0.attn.to_q.lora_A.weight": torch.zeros(2, 8)}, foreign)
    with pytest.raises(UserError, match="only a LoRA of a stable_diffusion's unet alone"):
        _ = load_family(str(sd), lora=[foreign]).denoiser
