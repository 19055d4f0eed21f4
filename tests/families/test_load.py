"""A folder becomes its family: precision, samplers, variants, old names, a fingerprint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.families.stable_diffusion import StableDiffusion
from helpers.damaged_bases import edit_json, message
from helpers.tiny_pipelines import tiny_sd


def test_a_folder_becomes_its_family(folder: Path) -> None:
    family = load_family(str(folder))
    assert isinstance(family, StableDiffusion)
    assert family.base == folder
    assert family.latent_shape() == (4, 8, 8)
    assert family.latent_shape(128, 64) == (4, 16, 8)
    assert family.noise_path.prediction_type == "epsilon"


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_the_asked_for_precision_is_used_everywhere_but_in_the_autoencoder(folder: Path, dtype: str) -> None:
    family = load_family(str(folder), dtype=dtype)
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert {parameter.dtype for parameter in family.denoiser.parameters()} == {wanted}
    assert family.part("text_encoder").dtype == wanted
    assert family.part("vae").dtype == torch.float32


def test_an_unknown_precision_and_size(folder: Path) -> None:
    assert "int3" in message(folder, dtype="int3")
    with pytest.raises(UserError, match="multiple of 8"):
        load_family(str(folder)).latent_shape(60, 64)


def test_unknown_sampler(folder: Path) -> None:
    with pytest.raises(UserError, match=r"heun.*ddim, euler, dpm\+\+"):
        load_family(str(folder)).scheduler("heun")


@pytest.mark.parametrize(
    ("name", "cls"),
    [("ddim", "DDIMScheduler"), ("euler", "EulerDiscreteScheduler"), ("dpm++", "DPMSolverMultistepScheduler")],
)
def test_other_samplers_keep_the_checkpoints_noise(tmp_path: Path, name: str, cls: str) -> None:
    family = load_family(str(tiny_sd(tmp_path, "v_prediction", "pndm")))
    scheduler = family.scheduler(name)
    assert type(scheduler).__name__ == cls
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.beta_schedule == "scaled_linear"
    # diffusers' DDIM default clips latents to [-1, 1], which ruins pictures.
    assert not scheduler.config.get("clip_sample", False)


def test_the_pipelines_corrections_to_old_scheduler_configurations(folder: Path) -> None:
    edit_json(folder / "scheduler" / "scheduler_config.json", steps_offset=0)
    assert load_family(str(folder)).scheduler().config.steps_offset == 1


def test_variant_and_sharded_weights(folder: Path) -> None:
    plain = load_family(str(folder)).denoiser.state_dict()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet.half().save_pretrained(folder / "unet", variant="fp16", max_shard_size="250KB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 2
    text = CLIPTextModel.from_pretrained(folder / "text_encoder")
    (folder / "text_encoder" / "model.safetensors").unlink()
    text.half().save_pretrained(folder / "text_encoder", variant="fp16")
    assert "variant" in message(folder)
    assert "'bf17'" in message(folder, variant="bf17")
    family = load_family(str(folder), variant="fp16")
    for name, tensor in family.denoiser.state_dict().items():
        assert torch.equal(tensor, plain[name].half().float())
    assert family.part("text_encoder").dtype == torch.float32
    shard = sorted((folder / "unet").glob("*.safetensors"))[0]
    shard.unlink()
    assert shard.name in message(folder, variant="fp16")


def test_the_fingerprint_follows_the_weights_and_not_the_place(folder: Path, original: Path) -> None:
    here, there = load_family(str(folder)), load_family(str(original))
    assert here.fingerprint() == there.fingerprint()
    other = UNet2DConditionModel.from_pretrained(folder / "unet")
    with torch.no_grad():
        next(other.parameters())[0, 0, 0, 0] += 1e-3
    other.save_pretrained(folder / "unet")
    changed = load_family(str(folder))
    assert changed.fingerprint() != there.fingerprint()
    assert [
        name for name, value in changed.part_fingerprints().items() if value != there.part_fingerprints()[name]
    ] == ["unet"]
    edit_json(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    assert load_family(str(folder)).part_fingerprints()["scheduler"] != there.part_fingerprints()["scheduler"]


def test_names_of_the_first_checkpoints_are_read(folder: Path) -> None:
    """The hub's SD 1.5 has the autoencoder's attention and all of CLIP under names of their own time."""
    from safetensors.torch import load_file, save_file

    plain = load_family(str(folder))
    wanted = {part: plain.part(part).state_dict() for part in ("vae", "text_encoder")}
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def in_vae(name: str) -> str:
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        return name

    vae, text = folder / "vae/diffusion_pytorch_model.safetensors", folder / "text_encoder/model.safetensors"
    save_file({in_vae(name): tensor for name, tensor in load_file(vae).items()}, vae, metadata={"format": "pt"})
    tensors = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(text).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, text, metadata={"format": "pt"})
    family = load_family(str(folder))
    for part, state in wanted.items():
        assert all(torch.equal(family.part(part).state_dict()[name], tensor) for name, tensor in state.items())
