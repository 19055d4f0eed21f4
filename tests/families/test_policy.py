"""Policies on disk: whole or absent, frozen parts untouched, tied to their base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from safetensors import safe_open
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPTextModel

from ddspo import recipe
from ddspo.errors import UserError
from ddspo.families import policy as policy_module
from ddspo.families.load import load_family
from ddspo.families.policy import load_policy
from ddspo.families.roles import Roles
from helpers.tiny_pipelines import tiny_sd


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("base"))


def make(folder: Path, kind: str = "lora", variant: str | None = None) -> Roles:
    family = load_family(str(folder), variant=variant)
    roles = Roles.lora(family, recipe.Lora(rank=2), 0) if kind == "lora" else Roles.full(family)
    with torch.no_grad():
        for parameter in roles.trainable_parameters().values():
            parameter.add_(0.01)
    return roles


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_a_lora_policy_is_four_small_files(folder: Path, tmp_path: Path) -> None:
    make(folder).save_policy(tmp_path / "policy", card="# Card\n")
    single = "single_file/ddspo_lora.safetensors"
    assert files(tmp_path / "policy") == {"pytorch_lora_weights.safetensors", single, "ddspo.json", "README.md"}
    record = json.loads((tmp_path / "policy" / "ddspo.json").read_text())
    assert record["format"] == 1 and record["kind"] == "lora" and record["family"] == "stable_diffusion"
    assert record["base"]["base"] == str(folder)
    assert record["base_fingerprint"] == load_family(str(folder)).fingerprint()
    assert (tmp_path / "policy" / "README.md").read_text() == "# Card\n"


def test_a_policy_that_cannot_be_replaced_stays_and_leftovers_of_killed_attempts_go(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, roles = tmp_path / "policy", make(folder)
    for leftover in (".policy.123.partial", ".policy.123.old"):
        (tmp_path / leftover).mkdir()
    roles.save_policy(target)
    before = (target / "ddspo.json").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    rename = Path.rename

    def fail(self: Path, other: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError("no more")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError, match="cannot write"):
        roles.save_policy(target)
    assert (target / "ddspo.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_the_files_metadata_keeps_rank_alpha_and_targets(folder: Path, tmp_path: Path) -> None:
    make(folder).save_policy(tmp_path / "policy")
    with safe_open(tmp_path / "policy" / "pytorch_lora_weights.safetensors", framework="pt") as opened:
        metadata = json.loads(opened.metadata()["lora_adapter_metadata"])
        assert all(name.startswith("unet.") for name in opened.keys())  # noqa: SIM118
    assert metadata["unet.r"] == 2 and metadata["unet.lora_alpha"] == 2
    assert metadata["unet.target_modules"] == ["to_k", "to_out.0", "to_q", "to_v"]


def test_frozen_parts_of_a_full_policy_are_the_bases_own_files(folder: Path, tmp_path: Path) -> None:
    make(folder, "full").save_policy(tmp_path / "policy")
    assert files(tmp_path / "policy") == files(folder) | {"ddspo.json"}
    for name in files(folder):
        same = (tmp_path / "policy" / name).read_bytes() == (folder / name).read_bytes()
        assert same == (name != "unet/diffusion_pytorch_model.safetensors"), name
    weights = "text_encoder/model.safetensors"
    assert (tmp_path / "policy" / weights).stat().st_ino == (folder / weights).stat().st_ino
    index = json.loads((tmp_path / "policy" / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]


def test_frozen_parts_are_copied_where_links_cannot_be_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another device")

    monkeypatch.setattr(policy_module.os, "link", refuse)
    make(folder, "full").save_policy(tmp_path / "policy")
    weights = "vae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "policy" / weights).read_bytes() == (folder / weights).read_bytes()


def test_a_full_policy_of_a_variant_loads_without_naming_it(folder: Path, tmp_path: Path) -> None:
    """The safety checker is absent here, as after a partial download; shards keep their names."""
    base = Path(shutil.copytree(folder, tmp_path / "base"))
    text = CLIPTextModel.from_pretrained(base / "text_encoder")
    (base / "text_encoder" / "model.safetensors").unlink()
    text.half().save_pretrained(base / "text_encoder", variant="fp16", max_shard_size="40KB")
    (base / "text_encoder" / "pytorch_model.bin").write_bytes(b"never read, never copied")
    index = json.loads((base / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (base / "model_index.json").write_text(json.dumps(index))
    roles = make(base, "full", variant="fp16")
    roles.save_policy(tmp_path / "policy")
    assert not list((tmp_path / "policy").rglob("*.bin"))
    assert len(list((tmp_path / "policy" / "text_encoder").glob("*.safetensors"))) > 1
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "policy", dtype=torch.float32, local_files_only=True)
    assert pipeline.safety_checker is None
    ours = roles.family.encode_prompts(["a cat"]).tensors["prompt_embeds"]
    assert torch.equal(pipeline.encode_prompt(["a cat"], "cpu", 1, False)[0], ours)
    assert torch.equal(load_policy(tmp_path / "policy").encode_prompts(["a cat"]).tensors["prompt_embeds"], ours)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_safety_checker_is_handed_on(folder: Path, tmp_path: Path, variant: str | None) -> None:
    """As the folder of SD 1.5 has one."""
    base = Path(shutil.copytree(folder, tmp_path / "base"))
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None, local_files_only=True)
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(
            vision_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8},
            projection_dim=8,
        )
    )
    StableDiffusionPipeline(
        **{**pipeline.components, "safety_checker": checker, "feature_extractor": CLIPImageProcessorPil()}
    ).save_pretrained(base, variant=variant)
    make(base, "full", variant=variant).save_policy(tmp_path / "policy")
    assert sorted(file.name for file in (tmp_path / "policy" / "safety_checker").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "policy", local_files_only=True)
    for name, tensor in loaded.safety_checker.state_dict().items():
        assert torch.equal(tensor, checker.state_dict()[name])


def test_a_policy_on_another_base_is_refused_with_the_part_that_differs(folder: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(folder, tmp_path / "base"))
    make(base).save_policy(tmp_path / "policy")
    load_policy(tmp_path / "policy")
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="does not exist"):
        load_policy(tmp_path / "policy")
    load_policy(tmp_path / "policy", base=str(moved))
    other = UNet2DConditionModel.from_pretrained(moved / "unet")
    with torch.no_grad():
        other.conv_out.bias += 1
    other.save_pretrained(moved / "unet")
    with pytest.raises(UserError, match=r"another base.*: unet differ"):
        load_policy(tmp_path / "policy", base=str(moved))


def test_a_full_policy_needs_its_base_no_more_but_its_frozen_parts(folder: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(folder, tmp_path / "base"))
    make(base, "full").save_policy(tmp_path / "policy")
    shutil.rmtree(base)
    load_policy(tmp_path / "policy")
    config = tmp_path / "policy" / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "scaling_factor": 1.0}))
    with pytest.raises(UserError, match="vae"):
        load_policy(tmp_path / "policy")


def test_what_is_no_policy_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ddspo.json"):
        load_policy(folder)
    make(folder).save_policy(tmp_path / "policy")
    (tmp_path / "policy" / "pytorch_lora_weights.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="damaged"):
        load_policy(tmp_path / "policy")
    (tmp_path / "policy" / "pytorch_lora_weights.safetensors").unlink()
    with pytest.raises(UserError, match="pytorch_lora_weights"):
        load_policy(tmp_path / "policy")
    (tmp_path / "policy" / "ddspo.json").write_text('{"format": 99, "kind": "lora"}')
    with pytest.raises(UserError, match="newer"):
        load_policy(tmp_path / "policy")


def test_an_earlier_policy_is_replaced_and_other_files_never(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "policy"
    make(folder, "full").save_policy(target)
    make(folder).save_policy(target)
    assert files(target) == {"pytorch_lora_weights.safetensors", "single_file/ddspo_lora.safetensors", "ddspo.json"}
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="other files"):
        make(folder).save_policy(precious)
    assert files(precious) == {"thesis.txt"}


def test_a_failed_save_leaves_the_earlier_policy_and_no_litter(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = make(folder)
    roles.save_policy(tmp_path / "policy")
    before = (tmp_path / "policy" / "ddspo.json").read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(policy_module, "write_json", full_disk)
    with pytest.raises(UserError, match="No space left"):
        roles.save_policy(tmp_path / "policy")
    assert (tmp_path / "policy" / "ddspo.json").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["policy"]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_averaged_weights_are_saved_in_place_of_the_current_ones(folder: Path, tmp_path: Path, kind: str) -> None:
    roles = make(folder, kind)
    current = roles.state()
    average = {name: tensor * 0.5 for name, tensor in current.items()}
    roles.save_policy(tmp_path / "policy", weights=average)
    assert all(torch.equal(tensor, current[name]) for name, tensor in roles.state().items())
    roles.load_state(average)
    generator = torch.Generator().manual_seed(0)
    x_t, timestep = torch.randn(1, 4, 8, 8, generator=generator), torch.tensor([500])
    conditioning = roles.family.encode_prompts(["a cat"])
    with torch.no_grad():
        expected = roles.predict("policy", x_t, timestep, conditioning)
        again = load_policy(tmp_path / "policy").predict(x_t, timestep, conditioning)
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-5)


def test_a_full_policy_can_be_the_next_base(folder: Path, tmp_path: Path) -> None:
    make(folder, "full").save_policy(tmp_path / "first")
    make(tmp_path / "first").save_policy(tmp_path / "second")
    record = json.loads((tmp_path / "second" / "ddspo.json").read_text())
    assert record["base"]["base"] == str((tmp_path / "first").resolve())
    assert load_policy(tmp_path / "second").base == (tmp_path / "first").resolve()
