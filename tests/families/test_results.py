"""What comes out works elsewhere: one file for other tools, LoRA merged into weights, training on top of a LoRA."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddspo import recipe
from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.families.lora import AdapterDeltas
from ddspo.families.lora_files import WEIGHTS_FILE
from ddspo.families.merge import merge_policy
from ddspo.families.policy import load_policy
from ddspo.families.roles import Roles
from ddspo.families.single_file import SINGLE_FILE
from ddspo.recipe import Model
from ddspo.tensors import Conditioning
from helpers.family_cases import CASES, Case
from helpers.tiny_pipelines import tiny_sd

FAMILIES = [case for case in CASES if case.name in ("sd_epsilon", "sd_v_prediction", "sdxl", "sd3", "sana", "flux")]


def inputs(base: Path, case: Case) -> tuple[Tensor, Tensor, Conditioning]:
    family = load_family(str(base))
    x_t = torch.randn(2, *family.latent_shape(*case.size_px), generator=torch.Generator().manual_seed(1))
    timestep = family.noise_path.timesteps[torch.tensor([300, 700])]
    return x_t, timestep, family.encode_prompts(["a red cat", ""])


def shake(roles: Roles, seed: int = 5, size: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in roles.trainable_parameters().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def same(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * max(1.0, theirs.abs().max().item()))


def plain_pipeline(folder: Path) -> Any:
    index = json.loads((folder / "model_index.json").read_text())
    absent = {name: None for name, value in index.items() if value == [None, None]}
    return DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **absent)


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


# One family is enough for what follows.


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
