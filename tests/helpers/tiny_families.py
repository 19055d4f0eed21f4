"""Tiny random-weight pipelines of the families beyond Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from helpers.tiny_pipelines import MAX_TOKENS, make_scheduler, tiny_tokenizer


def clip(tokenizer: CLIPTokenizer, width: int = 32, projected: int | None = None, act: str = "quick_gelu") -> Any:
    """A CLIP text encoder, with a projection if asked."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=projected or width,
        hidden_act=act,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def vae_kl(
    channels: int = 4, scaling: float = 0.18215, shift: float | None = None, quant: bool = True
) -> AutoencoderKL:
    """Four blocks keep the real downsampling by 8."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=scaling,
        shift_factor=shift,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    )


def save(make: Callable[[], Any], folder: Path, name: str, seed: int = 0) -> Path:
    """Build with this seed, leaving the global random state alone, and save."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = make()
    pipeline.save_pretrained(folder / name)
    return folder / name


def tiny_sdxl(folder: Path, *, force_zeros: bool = True) -> Path:
    """Two CLIP encoders of different width, text_time conditioning; the second tokenizer pads with another token."""

    def make() -> Any:
        first, second = tiny_tokenizer(), tiny_tokenizer()
        second.pad_token = "!</w>"
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16, 32, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            attention_head_dim=(2, 4, 4),
            use_linear_projection=True,
            cross_attention_dim=32 + 48,
            norm_num_groups=8,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
        )
        return StableDiffusionXLPipeline(
            vae=vae_kl(scaling=0.13025),
            text_encoder=clip(first),
            text_encoder_2=clip(second, 48, projected=24, act="gelu"),
            tokenizer=first,
            tokenizer_2=second,
            unet=unet,
            scheduler=make_scheduler("euler_leading"),
            force_zeros_for_empty_prompt=force_zeros,
            add_watermarker=False,
        )

    return save(make, folder, f"tiny_sdxl_{'zeros' if force_zeros else 'text'}")
