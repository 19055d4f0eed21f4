"""Tiny random-weight pipelines of the families beyond Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    Gemma2Config,
    Gemma2Model,
)

from helpers.tiny_parts import clip, gemma_tokenizer, save, t5, t5_tokenizer, vae_kl
from helpers.tiny_pipelines import make_scheduler, tiny_tokenizer


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


def tiny_sd3(folder: Path, *, with_t5: bool = True) -> Path:
    """Two projected CLIPs, T5 or none, a two-layer MMDiT, a 16-channel autoencoder with a shift."""

    def make() -> Any:
        first, second = tiny_tokenizer(), tiny_tokenizer()
        reader = t5_tokenizer() if with_t5 else None
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=96,
            caption_projection_dim=32,
            pooled_projection_dim=24 + 40,
            pos_embed_max_size=24,
        )
        return StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae_kl(16, 1.5305, 0.0609, quant=False),
            text_encoder=clip(first, 32, projected=24),
            tokenizer=first,
            text_encoder_2=clip(second, 48, projected=40, act="gelu"),
            tokenizer_2=second,
            text_encoder_3=t5(reader, 96) if with_t5 else None,
            tokenizer_3=reader,
        )

    return save(make, folder, f"tiny_sd3_{'t5' if with_t5 else 'clip'}")


def tiny_sana(folder: Path) -> Path:
    """Gemma 2, a two-layer linear transformer, a 32-fold autoencoder."""

    def make() -> Any:
        tokenizer = gemma_tokenizer()
        gemma = Gemma2Model(
            Gemma2Config(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
                query_pre_attn_scalar=8,
                sliding_window=64,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                max_position_embeddings=8192,
            )
        )
        blocks, widths = ("ResBlock",) * 4 + ("EfficientViTBlock",) * 2, (8, 8, 16, 16, 32, 32)
        scales: tuple[tuple[int, ...], ...] = ((), (), (), (), (5,), (5,))
        vae = AutoencoderDC(
            in_channels=3,
            latent_channels=32,
            attention_head_dim=8,
            encoder_block_types=blocks,
            decoder_block_types=blocks,
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            encoder_qkv_multiscales=scales,
            decoder_qkv_multiscales=scales,
            encoder_layers_per_block=(1,) * 6,
            decoder_layers_per_block=(1,) * 6,
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        )
        transformer = SanaTransformer2DModel(
            in_channels=32,
            out_channels=32,
            num_attention_heads=4,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=4,
            cross_attention_head_dim=8,
            cross_attention_dim=32,
            caption_channels=32,
            mlp_ratio=2.5,
            sample_size=2,
            patch_size=1,
        )
        return SanaPipeline(
            tokenizer=tokenizer,
            text_encoder=gemma,
            vae=vae,
            transformer=transformer,
            scheduler=DPMSolverMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        )

    return save(make, folder, "tiny_sana")


def tiny_flux(folder: Path, *, guidance: bool = True) -> Path:
    """CLIP and T5, one double and one single block, with or without the guidance input."""

    def make() -> Any:
        tokenizer, reader = tiny_tokenizer(), t5_tokenizer()
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=40,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance,
        )
        return FluxPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
            vae=vae_kl(16, 0.3611, 0.1159, quant=False),
            text_encoder=clip(tokenizer),
            tokenizer=tokenizer,
            text_encoder_2=t5(reader, 40),
            tokenizer_2=reader,
        )

    return save(make, folder, f"tiny_flux_{'guidance' if guidance else 'plain'}")
