"""Networks of the published checkpoints, each in its true configuration."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderDC, AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    T5Config,
    T5EncoderModel,
)


def autoencoder_kl(channels: int, scaling: float, shift: float | None = None) -> nn.Module:
    """The autoencoder of Stable Diffusion, SDXL, SD3 and FLUX; the last two shift latents and have no quant layers."""
    blocks, quant = 4, shift is None
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=2,
        latent_channels=channels,
        scaling_factor=scaling,
        shift_factor=shift,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    )


def autoencoder_dc() -> nn.Module:
    """DC-AE f32c32 of SANA (arXiv 2410.10733)."""
    kinds = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    scales: tuple[tuple[int, ...], ...] = ((), (), ()) + ((5,),) * 3
    return AutoencoderDC(
        latent_channels=32,
        encoder_block_types=kinds,
        decoder_block_types=kinds,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        encoder_layers_per_block=(2, 2, 2, 3, 3, 3),
        decoder_layers_per_block=(3, 3, 3, 3, 3, 3),
        downsample_block_type="Conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )


def unet(**changes: Any) -> Any:
    """Stable Diffusion 1.5's U-Net, with changes."""
    settings: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
    return UNet2DConditionModel(**(settings | changes))


def sdxl_unet() -> Any:
    """SDXL base 1.0's U-Net."""
    return unet(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def clip_l(projected: bool = False) -> nn.Module:
    """CLIP ViT-L/14's text encoder."""
    shape = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = CLIPTextConfig(**shape, projection_dim=768)
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def clip_g() -> nn.Module:
    """OpenCLIP ViT-bigG/14's text encoder."""
    shape = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    return CLIPTextModelWithProjection(CLIPTextConfig(**shape, projection_dim=1280, hidden_act="gelu"))


def t5_xxl() -> nn.Module:
    """The encoder of T5 v1.1 XXL."""
    shape = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128}
    return T5EncoderModel(T5Config(**shape, feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False))


def gemma_2() -> nn.Module:
    """Gemma 2, 2B."""
    return Gemma2Model(
        Gemma2Config(
            vocab_size=256000,
            hidden_size=2304,
            intermediate_size=9216,
            num_hidden_layers=26,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=256,
        )
    )
