"""The published checkpoints, each network in its true configuration, with random weights: no download, no license.

    python benchmarks/published.py sdxl FOLDER     write a whole pipeline folder, for trying memory and speed

In bf16 SD 1.5 takes 2 GB, SDXL 7, SANA 8, SD3 16, FLUX.1 34. Time and memory of a step do not depend on what weights
are. `true_sizes.py` counts on the same networks, on torch's meta device. Tokenizers are made here: as many tokens as
the true ones, and every word of the instruction that SANA reads with each prompt is one token, so that lengths are
about the true ones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    PNDMScheduler,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
)
from published_networks import autoencoder_dc, autoencoder_kl, clip_g, clip_l, gemma_2, sdxl_unet, t5_xxl, unet
from published_tokenizers import clip_tokenizer, gemma_tokenizer, t5_tokenizer
from torch import Tensor, nn

from ddspo.families.sana import Sana

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SANA_TOKENS = 300 + round(len(Sana.instruction()) / 4.5)
"""the instruction counted at four and a half characters a token, as English is on average"""


@dataclass(frozen=True)
class Encoder:
    """A text encoder, its tokenizer, and how many tokens it reads of one prompt."""

    make: Callable[[], nn.Module]
    tokenizer: Callable[[], Any]
    tokens: int


@dataclass(frozen=True)
class Checkpoint:
    """A family at the size of its published checkpoint.

    Attributes:
        name: of the checkpoint, with its own picture size.
        pipeline: diffusers' name of it.
        part: what the pipeline calls its denoiser.
        denoiser, autoencoder, scheduler: made on call.
        inputs: keyword arguments for one row of a denoiser call at the checkpoint's own picture size.
        encoders: all that read a prompt, as the pipeline counts them.
        lora: layers of the published or the customary LoRA.
    """

    name: str
    pipeline: str
    part: str
    denoiser: Callable[[], Any]
    autoencoder: Callable[[], nn.Module]
    scheduler: Callable[[], Any]
    inputs: Callable[[], dict[str, Any]]
    encoders: Sequence[Encoder]
    lora: Sequence[str] = ATTENTION


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


def flux_inputs() -> dict[str, Any]:
    return {
        "hidden_states": zeros(1, 4096, 64),
        "encoder_hidden_states": zeros(1, 512, 4096),
        "pooled_projections": zeros(1, 768),
        "timestep": zeros(1),
        "guidance": zeros(1),
        "img_ids": zeros(4096, 3),
        "txt_ids": zeros(512, 3),
    }


def text_and_time(width: int, tokens: int = 77, size: int = 64, channels: int = 4, **more: Tensor) -> dict[str, Any]:
    states = {"encoder_hidden_states": zeros(1, tokens, width), "timestep": zeros(1), **more}
    return {"sample" if channels == 4 else "hidden_states": zeros(1, channels, size, size), **states}


CHECKPOINTS = {
    "sd15": Checkpoint(
        "SD 1.5, 512 px",
        "StableDiffusionPipeline",
        "unet",
        unet,
        lambda: autoencoder_kl(4, 0.18215),
        lambda: PNDMScheduler(**STABLE_DIFFUSION, skip_prk_steps=True, set_alpha_to_one=False),
        lambda: text_and_time(768),
        [Encoder(clip_l, clip_tokenizer, 77)],
    ),
    "sdxl": Checkpoint(
        "SDXL, 1024 px",
        "StableDiffusionXLPipeline",
        "unet",
        sdxl_unet,
        lambda: autoencoder_kl(4, 0.13025),
        lambda: EulerDiscreteScheduler(**STABLE_DIFFUSION, timestep_spacing="leading"),
        lambda: {
            **text_and_time(2048, size=128),
            "added_cond_kwargs": {"text_embeds": zeros(1, 1280), "time_ids": zeros(1, 6)},
        },
        [Encoder(clip_l, clip_tokenizer, 77), Encoder(clip_g, clip_tokenizer, 77)],
    ),
    "sd3": Checkpoint(
        "SD3 medium, 1024 px",
        "StableDiffusion3Pipeline",
        "transformer",
        lambda: SD3Transformer2DModel(
            num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192
        ),
        lambda: autoencoder_kl(16, 1.5305, 0.0609),
        lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
        lambda: text_and_time(4096, 333, 128, 16, pooled_projections=zeros(1, 2048)),
        [
            Encoder(lambda: clip_l(projected=True), clip_tokenizer, 77),
            Encoder(clip_g, clip_tokenizer, 77),
            Encoder(t5_xxl, t5_tokenizer, 256),
        ],
        (*ATTENTION, *ADDED),
    ),
    "sana": Checkpoint(
        "SANA 0.6B, 1024 px",
        "SanaPipeline",
        "transformer",
        lambda: SanaTransformer2DModel(num_attention_heads=36, num_layers=28, num_cross_attention_heads=16,
                                       cross_attention_head_dim=72, cross_attention_dim=1152),
        autoencoder_dc,
        lambda: DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        lambda: text_and_time(2304, 300, 32, 32),
        [Encoder(gemma_2, gemma_tokenizer, SANA_TOKENS)],
    ),
    "flux": Checkpoint(
        "FLUX.1 dev, 1024 px",
        "FluxPipeline",
        "transformer",
        lambda: FluxTransformer2DModel(guidance_embeds=True),
        lambda: autoencoder_kl(16, 0.3611, 0.1159),
        lambda: FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        flux_inputs,
        [Encoder(clip_l, clip_tokenizer, 77), Encoder(t5_xxl, t5_tokenizer, 512)],
        (*ATTENTION, *ADDED),
    ),
}  # fmt: skip


def write_pipeline(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A whole pipeline folder with random weights, one part in memory at a time.

    Args:
        checkpoint: which.
        folder: new, or written before by the same call: then it is left as it is.
        dtype: of denoiser and text encoders; the autoencoder is float32.
    """
    index = folder / "model_index.json"
    if index.is_file():
        return folder
    networks: dict[str, tuple[Callable[[], Any], torch.dtype]] = {
        checkpoint.part: (checkpoint.denoiser, dtype),
        "vae": (checkpoint.autoencoder, torch.float32),
    }
    others: dict[str, Callable[[], Any]] = {"scheduler": checkpoint.scheduler}
    for number, encoder in enumerate(checkpoint.encoders, start=1):
        ending = "" if number == 1 else f"_{number}"
        networks[f"text_encoder{ending}"] = (encoder.make, dtype)
        others[f"tokenizer{ending}"] = encoder.tokenizer
    classes: dict[str, Any] = {"_class_name": checkpoint.pipeline, "_diffusers_version": "0.40.0"}

    def write(name: str, part: Any) -> None:
        part.save_pretrained(folder / name)
        classes[name] = [type(part).__module__.split(".")[0], type(part).__name__]

    for name, (make, precision) in networks.items():
        write(name, made_in(precision, make))
    for name, make in others.items():
        write(name, make())
    index.write_text(json.dumps(classes, indent=2) + "\n")
    return folder


def made_in(dtype: torch.dtype, make: Callable[[], Any]) -> Any:
    """With the same random start every time, its numbers in `dtype` from the first; on a GPU, which is faster."""
    usual, device = torch.get_default_dtype(), "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(0)
            return make()
    finally:
        torch.set_default_dtype(usual)


def main() -> None:
    """Write one folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", choices=CHECKPOINTS)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(write_pipeline(CHECKPOINTS[arguments.checkpoint], arguments.folder))


if __name__ == "__main__":
    main()
