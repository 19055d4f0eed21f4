"""What is said of a base that is not what it should be; none of its code runs, no weight is made up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline

from ddspo.errors import UserError
from ddspo.families.load import FAMILIES, load_family
from helpers.damaged_bases import edit_json, message


def test_other_pipelines_are_refused_by_name(folder: Path) -> None:
    edit_json(folder / "model_index.json", _class_name="KandinskyPipeline")
    text = message(folder)
    assert "KandinskyPipeline" in text
    assert all(name in text for name in FAMILIES)


def test_inpainting_and_distilled_networks_are_refused(folder: Path) -> None:
    edit_json(folder / "unet" / "config.json", in_channels=9)
    assert "inpainting" in message(folder)
    edit_json(folder / "unet" / "config.json", in_channels=4, time_cond_proj_dim=256)
    assert "distilled" in message(folder)


def test_few_step_names_are_warned_about(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_family(str(folder))
    assert not caplog.records
    turbo = folder.rename(folder.with_name("sd-turbo"))
    load_family(str(turbo))
    load_family(str(turbo))
    assert len(caplog.records) == 1, "once"
    assert "few-step" in caplog.text and "'turbo'" in caplog.text and "\n" not in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    ("changes", "sign"),
    [
        ({"_class_name": "LCMScheduler"}, "LCMScheduler"),
        ({"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}, "trailing"),
        (
            {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
            None,
        ),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}, None),
    ],
)
def test_few_step_schedules_are_warned_about(
    folder: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, object], sign: str | None
) -> None:
    edit_json(folder / "scheduler" / "scheduler_config.json", **changes)
    load_family(str(folder))
    assert (sign in caplog.text) if sign else not caplog.records


def test_the_checkpoint_a_folder_was_saved_from_counts_as_its_name(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_json(folder / "model_index.json", _name_or_path="somebody/sdxl_LCM")
    load_family(str(folder))
    assert "'LCM'" in caplog.text


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_subfolder_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    assert f"'{part}'" in message(folder)


def test_a_part_the_index_leaves_out_is_named(folder: Path) -> None:
    edit_json(folder / "model_index.json", vae=[None, None])
    assert "'vae'" in message(folder)


def test_code_of_other_libraries_is_refused(folder: Path) -> None:
    edit_json(folder / "model_index.json", unet=["my_pipeline", "MyUNet"])
    assert "my_pipeline" in message(folder)


@pytest.mark.parametrize("name", ["../../elsewhere.safetensors", "notes.txt"])
def test_an_index_names_weight_files_of_its_folder_only(folder: Path, name: str) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    (folder / "unet" / name).write_text("private")
    index = {"metadata": {}, "weight_map": {"conv_in.weight": name}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert "no .safetensors file of this folder" in message(folder)


def test_part_names_are_no_paths(folder: Path) -> None:
    edit_json(folder / "model_index.json", **{"../elsewhere": ["diffusers", "AutoencoderKL"]})
    assert "'../elsewhere' cannot name a part" in message(folder)


def test_code_in_a_folder_is_refused_without_a_question(folder: Path) -> None:
    """transformers' Auto classes would ask at the terminal."""
    edit_json(folder / "model_index.json", text_encoder=["transformers", "AutoModel"])
    edit_json(folder / "text_encoder" / "config.json", auto_map={"AutoConfig": "evil.Config"}, model_type="mine")
    (folder / "text_encoder" / "evil.py").write_text("raise SystemExit('foreign code ran')")
    with pytest.raises(UserError, match="cannot load .*custom code"):
        load_family(str(folder)).part("text_encoder")


def test_pickled_weights_are_never_loaded(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    text = message(folder)
    assert "diffusion_pytorch_model.bin" in text and "safetensors" in text


def test_missing_weights_and_broken_weights(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    family = load_family(str(folder))
    with pytest.raises(UserError, match="cannot load .*unet"):
        _ = family.denoiser
    weights.unlink()
    assert "no weights" in message(folder)


def test_weights_that_lack_a_tensor_are_refused_instead_of_filled_with_noise(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    del tensors[next(name for name in tensors if "position_embedding" in name)]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lack 1 tensors"):
        load_family(str(folder)).part("text_encoder")


def test_a_tokenizer_without_files_is_refused(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()
    assert "tokenizer files" in message(folder)


def test_a_tokenizer_of_another_size_is_refused(folder: Path) -> None:
    """transformers makes a two-token tokenizer of an empty vocabulary and says nothing."""
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1}')
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(UserError, match=r"has 2 tokens but the text encoder knows \d+"):
        load_family(str(folder)).encode_prompts(["a cat"])


def test_plain_diffusers_reads_what_the_tests_damage(original: Path) -> None:
    """Guards the fixtures: the undamaged folder is a good one."""
    assert StableDiffusionPipeline.from_pretrained(original).unet.config.in_channels == 4
