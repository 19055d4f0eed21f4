"""Random-weight pipelines of the true architecture, built offline in a moment and saved as diffusers folders.

Four autoencoder blocks keep the real downsampling by 8; the tokenizer is a real byte-level CLIP one, with few merges.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH = 32
MAX_TOKENS = 77
LATENT_SIZE = 8
START, END = "<|startoftext|>", "<|endoftext|>"

_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
_SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "pndm": (PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}),
    "ddim": (DDIMScheduler, {"set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False}),
    "euler": (EulerDiscreteScheduler, {"timestep_spacing": "linspace"}),
    "euler_leading": (EulerDiscreteScheduler, {"timestep_spacing": "leading", "steps_offset": 1}),
    "euler_ancestral": (EulerAncestralDiscreteScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
}


def make_scheduler(name: str = "pndm", prediction_type: str = "epsilon", **options: Any) -> Any:
    """A diffusers scheduler with Stable Diffusion's schedule; `name` is a key of `_SCHEDULERS`."""
    kind, own = _SCHEDULERS[name]
    return kind(**_SCHEDULE, **own, prediction_type=prediction_type, **options)


def tiny_tokenizer() -> CLIPTokenizer:
    """Bytes, a few whole words, and the two markers; any text can be spelled. The end marker has the highest id."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t</w>"), ("r", "e"), ("re", "d</w>"), ("b", "l"), ("u", "e</w>"), ("bl", "ue</w>")]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=END, model_max_length=MAX_TOKENS)


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=WIDTH,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=8 * LATENT_SIZE,
        scaling_factor=0.18215,
    )


def _unet() -> UNet2DConditionModel:
    """Four levels as in the original; attention to text at the first and in the middle alone: half the time."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, WIDTH, WIDTH, WIDTH),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def tiny_sd(
    tmp_folder: Path | str, prediction_type: str = "epsilon", scheduler: str = "pndm", *, seed: int = 0, **options: Any
) -> Path:
    """Save a Stable Diffusion pipeline (64 px, 4×8×8 latents, UNet of 0.4 M parameters) and return its folder.

    Equal arguments give equal weights; the global random state is left as it was. `options` go to the scheduler.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        pipeline = StableDiffusionPipeline(
            vae=_vae(),
            text_encoder=_text_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=_unet(),
            scheduler=make_scheduler(scheduler, prediction_type, **options),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    folder = Path(tmp_folder) / f"tiny_sd_{prediction_type}_{scheduler}_{seed}"
    pipeline.save_pretrained(folder)
    return folder
