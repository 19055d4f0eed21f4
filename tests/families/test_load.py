"""Finding a base, and what is said when it is not what it should be."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import CLIPTextModel

from ddspo.errors import UserError
from ddspo.families.load import FAMILIES, load_family
from ddspo.families.stable_diffusion import StableDiffusion
from helpers.tiny_pipelines import tiny_sd


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("base"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def message(base: object, **options: str) -> str:
    with pytest.raises(UserError) as raised:
        load_family(str(base), **options)
    text = str(raised.value)
    assert "\n" not in text
    return text


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


def test_unknown_folders_files_and_ids(tmp_path: Path) -> None:
    assert "does not exist" in message(tmp_path / "nothing")
    assert "does not exist" in message("nothing")
    assert "hub" in message("nobody/no-such-model")
    single = tmp_path / "model.safetensors"
    single.write_bytes(b"")
    assert "single file" in message(single)
    (tmp_path / "empty").mkdir()
    assert "model_index.json" in message(tmp_path / "empty")


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


def test_the_embedded_model_goes_the_same_way(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    embedded = types.ModuleType("tinyscenes")
    monkeypatch.setitem(sys.modules, "tinyscenes", embedded)
    assert "not installed" in message("tinyscenes")
    monkeypatch.setattr(embedded, "pipeline_folder", lambda: tmp_path / "gone", raising=False)
    assert "lacks" in message("tinyscenes")
    monkeypatch.setattr(embedded, "pipeline_folder", lambda: folder)
    family = load_family("tinyscenes")
    assert family.base == folder and family.source["base"] == "tinyscenes"


def test_a_downloaded_model_is_read_from_the_cache_without_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache's layout: snapshots/<commit>/ holds links to blobs, and a large blob is named by its SHA-256."""
    import hashlib

    repository = tmp_path / "cache" / "models--someone--tiny"
    commit = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs").mkdir()
    for file in (file for file in folder.rglob("*") if file.is_file()):
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, blob)
        link = repository / "snapshots" / commit / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    family = load_family("someone/tiny")
    assert family.base == repository / "snapshots" / commit
    assert family.source["base"] == "someone/tiny"
    assert family.fingerprint() == load_family(str(folder)).fingerprint()


def test_a_download_brings_the_models_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' own download leaves it out, and the license is in it."""
    asked: list[str] = []

    def download(repository: str, name: str, **_: object) -> str:
        asked.append(name)
        if name == "README.md":
            raise LocalEntryNotFoundError("a model without a card is one all the same")
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", lambda *_, **__: str(folder))
    assert load_family("someone/tiny").base == folder
    assert asked == ["model_index.json", "README.md"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GatedRepoError, "gated; accept its terms"),
        (RepositoryNotFoundError, "no such model"),
        (RevisionNotFoundError, "model.revision"),
        (RemoteEntryNotFoundError, "no diffusers pipeline"),
        (ValueError, "no files of model.variant 'fp16'"),
        (LocalEntryNotFoundError, "the network"),
    ],
)
def test_why_a_download_failed_is_told(monkeypatch: pytest.MonkeyPatch, error: type[Exception], words: str) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise error.__new__(error)  # those of the hub are made of an answer

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    assert words in message("someone/tiny", variant="fp16")


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


def test_plain_diffusers_reads_what_the_tests_damage(original: Path) -> None:
    """Guards the fixtures: the undamaged folder is a good one."""
    assert StableDiffusionPipeline.from_pretrained(original).unet.config.in_channels == 4
