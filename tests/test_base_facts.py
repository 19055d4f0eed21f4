"""What the plan says of stored text: with T5 it outweighs the pairs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ddspo.base_facts import read_base_facts
from ddspo.families.load import load_family
from ddspo.files import write_json
from ddspo.plan import make_plan
from ddspo.recipe import Model, Recipe
from helpers.tiny_families import tiny_flux, tiny_sana, tiny_sd3, tiny_sdxl
from helpers.tiny_pipelines import tiny_sd


def base(folder: Path, pipeline: str, denoiser: str, **config: Any) -> str:
    write_json(folder / "model_index.json", {"_class_name": pipeline})
    write_json(folder / denoiser / "config.json", {"sample_size": 128, **config})
    return str(folder)


@pytest.mark.parametrize(
    ("pipeline", "denoiser", "config", "numbers"),
    [
        ("StableDiffusionPipeline", "unet", {"cross_attention_dim": 768}, 77 * 768),
        ("StableDiffusionXLPipeline", "unet", {"cross_attention_dim": [2048] * 3}, 77 * 2048),
        ("StableDiffusion3Pipeline", "transformer", {"joint_attention_dim": 4096}, 333 * 4096),
        ("SanaPipeline", "transformer", {"caption_channels": 2304, "cross_attention_dim": 1152}, 300 * 2304),
        ("FluxPipeline", "transformer", {"joint_attention_dim": 4096}, 512 * 4096),
    ],
)
def test_numbers_per_prompt(tmp_path: Path, pipeline: str, denoiser: str, config: Any, numbers: int) -> None:
    facts = read_base_facts(Model(base=base(tmp_path, pipeline, denoiser, **config)))
    assert facts is not None and facts.text_numbers == numbers


def test_the_plan_tells_what_text_takes_on_disk(tmp_path: Path) -> None:
    folder = base(tmp_path, "StableDiffusion3Pipeline", "transformer", joint_attention_dim=4096)
    told = {"model": {"base": folder, "frozen_dtype": "fp16"}, "pairs": {"count": 200_000}}
    recipe = Recipe.model_validate(told | {"training": {"max_steps": 10}})
    assert (
        "text embeddings of up to 40960 prompts: 111.7 GB beside the pairs; none with training.text encoded"
        in make_plan(recipe).notes
    )
    noise = Recipe.model_validate(told | {"training": {"max_steps": 10}, "target": {"source": "forward_noise"}})
    assert (
        "text embeddings of up to 20480 prompts: 55.9 GB beside the pairs; none with training.text encoded"
        in make_plan(noise).notes
    )


@pytest.mark.parametrize(
    "names",
    [
        ["diffusion_pytorch_model.safetensors"],  # a denoiser without the variant that other parts have
        [f"diffusion_pytorch_model.fp16-0000{number}-of-00002.safetensors" for number in (1, 2)],
        [f"diffusion_pytorch_model-0000{number}-of-00002.fp16.safetensors" for number in (1, 2)],
    ],
)
def test_weights_of_a_variant_are_found_as_they_would_be_loaded(tmp_path: Path, names: list[str]) -> None:
    folder = base(tmp_path, "StableDiffusionPipeline", "unet")
    for number, name in enumerate(names):
        save_file({f"layer{number}.weight": np.zeros((2, 3), np.float32)}, tmp_path / "unet" / name)
    save_file(
        {"other.weight": np.zeros(7, np.float32)}, tmp_path / "unet" / "diffusion_pytorch_model.non_ema.safetensors"
    )
    facts = read_base_facts(Model(base=folder, variant="fp16"))
    assert facts is not None and facts.parameters == 6 * len(names)


@pytest.mark.parametrize(
    "build", [tiny_sd, tiny_sdxl, tiny_sd3, partial(tiny_sd3, with_t5=False), tiny_sana, tiny_flux]
)
def test_text_encoders_and_autoencoder_are_counted_as_they_load(build: Callable[[Path], Path], tmp_path: Path) -> None:
    family = load_family(str(build(tmp_path)))
    facts = read_base_facts(Model(base=str(family.base)))

    def numbers(*parts: str) -> int:
        return sum(p.numel() for name in parts for p in family.part(name).parameters())

    assert facts is not None
    assert facts.text_parameters == numbers(*family.text_parts) > 0
    assert facts.vae_parameters == numbers("vae") > 0


def test_shards_and_variants_of_text_encoders_are_counted_once(tmp_path: Path) -> None:
    folder = Path(base(tmp_path, "StableDiffusionPipeline", "unet"))
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": [None, None],
        },
    )
    for number in (1, 2):
        (folder / "text_encoder").mkdir(exist_ok=True)
        for name in (f"model-0000{number}-of-00002.safetensors", f"model.fp16-0000{number}-of-00002.safetensors"):
            save_file({f"layer.{number}": np.zeros((3, number))}, folder / "text_encoder" / name)
    for variant in (None, "fp16"):
        facts = read_base_facts(Model(base=str(folder), variant=variant))
        assert facts is not None and facts.text_parameters == 3 + 6
