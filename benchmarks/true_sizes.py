"""What a training step costs at the true sizes, counted: operations and bytes of weights, without a weight in memory.

    python benchmarks/true_sizes.py                    about a minute on one CPU core; nothing is downloaded

Every network is built in its published configuration on torch's meta device, and the operations of its matrix products,
convolutions and attention are counted by torch while it runs on shapes alone. A backward through trained weights
counts two forwards, as everywhere in this project; that of a LoRA, whose base needs no gradients, is counted. Two
arrangements, for one pair:

    ours       three reference rows, two policy rows with their backward; text embeddings come from disk; what is in
               memory is the policy, and its reference (LoRA: the same network; full: a frozen copy)
    published  four reference rows, the same two policy rows, both prompts through all text encoders at every step; in
               memory a policy, a reference network of its own, the text encoders and the autoencoder

So this is the share of the work that can be saved at all, whatever the hardware: a step of ours is never below it by
more than overheads that the published arrangement has beside its operations. It says nothing of seconds. Weights in
memory count two bytes a number where they are frozen and four where they are trained; activations, gradients and
optimizer state are the same in both arrangements and are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    FluxTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from peft import LoraConfig
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, Gemma2Config, Gemma2Model, T5Config, T5EncoderModel

from ddspo.families.sana import Sana

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
FROZEN_BYTES, TRAINED_BYTES = 2, 4


@dataclass(frozen=True)
class Encoder:
    """A text encoder and how many tokens it reads of one prompt."""

    make: Callable[[], nn.Module]
    tokens: int


@dataclass(frozen=True)
class Checkpoint:
    """A family at the size of its published checkpoint.

    Attributes:
        name: of the checkpoint.
        denoiser, autoencoder: built on the meta device.
        inputs: keyword arguments for one row of a denoiser call at the checkpoint's own picture size.
        encoders: all that read a prompt.
        lora: layers of the published or the customary LoRA, rank 64.
    """

    name: str
    denoiser: Callable[[], Any]
    autoencoder: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Any]]
    encoders: Sequence[Encoder]
    lora: Sequence[str] = ATTENTION


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


def autoencoder_kl(channels: int) -> nn.Module:
    """The autoencoder of Stable Diffusion, SDXL, SD3 and FLUX; they differ in latent channels."""
    blocks = 4
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=2,
        latent_channels=channels,
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


def clip_l() -> nn.Module:
    """CLIP ViT-L/14's text encoder."""
    shape = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    return CLIPTextModel(CLIPTextConfig(**shape))


def clip_g() -> nn.Module:
    """OpenCLIP ViT-bigG/14's text encoder."""
    shape = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    return CLIPTextModel(CLIPTextConfig(**shape, projection_dim=1280))


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


# The instruction is counted at four and a half characters a token, as English is on average.
SANA_TOKENS = 300 + round(len(Sana.instruction()) / 4.5)
CHECKPOINTS = (
    Checkpoint(
        "SD 1.5, 512 px", unet, lambda: autoencoder_kl(4), lambda: text_and_time(768), [Encoder(clip_l, 77)]
    ),
    Checkpoint(
        "SDXL, 1024 px",
        sdxl_unet,
        lambda: autoencoder_kl(4),
        lambda: {
            **text_and_time(2048, size=128),
            "added_cond_kwargs": {"text_embeds": zeros(1, 1280), "time_ids": zeros(1, 6)},
        },
        [Encoder(clip_l, 77), Encoder(clip_g, 77)],
    ),
    Checkpoint(
        "SD3 medium, 1024 px",
        lambda: SD3Transformer2DModel(
            num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192
        ),
        lambda: autoencoder_kl(16),
        lambda: text_and_time(4096, 333, 128, 16, pooled_projections=zeros(1, 2048)),
        [Encoder(clip_l, 77), Encoder(clip_g, 77), Encoder(t5_xxl, 256)],
        (*ATTENTION, *ADDED),
    ),
    Checkpoint(
        "SANA 0.6B, 1024 px",
        lambda: SanaTransformer2DModel(num_attention_heads=36, num_layers=28, num_cross_attention_heads=16,
                                       cross_attention_head_dim=72, cross_attention_dim=1152),
        autoencoder_dc,
        lambda: text_and_time(2304, 300, 32, 32),
        [Encoder(gemma_2, SANA_TOKENS)],
    ),
    Checkpoint(
        "FLUX.1 dev, 1024 px",
        lambda: FluxTransformer2DModel(guidance_embeds=True),
        lambda: autoencoder_kl(16),
        flux_inputs,
        [Encoder(clip_l, 77), Encoder(t5_xxl, 512)],
        (*ATTENTION, *ADDED),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """Operations for one row or one prompt, and numbers of parameters."""

    forward: int
    lora_backward: int
    text: int
    denoiser: int
    adapters: int
    encoders: int
    autoencoder: int

    def operations(self, trained: str) -> tuple[int, int]:
        """(ours, published) per pair; each of its two prompts is read once by the published arrangement."""
        policy = 2 * (self.forward + (self.lora_backward if trained == "lora" else 2 * self.forward))
        return 3 * self.forward + policy, 4 * self.forward + policy + 2 * self.text

    def weights(self, trained: str) -> tuple[int, int]:
        """(ours, published) bytes of weights in memory."""
        if trained == "lora":
            policy, reference = FROZEN_BYTES * self.denoiser + TRAINED_BYTES * self.adapters, 0
        else:
            policy, reference = TRAINED_BYTES * self.denoiser, FROZEN_BYTES * self.denoiser
        rest = FROZEN_BYTES * (self.denoiser + self.encoders + self.autoencoder)
        return policy + reference, policy + rest


def operations(work: Callable[[], object]) -> int:
    """Floating point operations that torch counts."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count(checkpoint: Checkpoint) -> Counted:
    """Run every network of a checkpoint once on shapes alone."""
    with torch.device("meta"):
        network, inputs = checkpoint.denoiser(), checkpoint.inputs()
        parameters = size(network)

        def forward() -> Tensor:
            return network(**inputs, return_dict=False)[0]

        with torch.no_grad():
            once = operations(forward)
        network.requires_grad_(False)
        network.add_adapter(LoraConfig(r=64, lora_alpha=64, target_modules=list(checkpoint.lora)))
        prediction = forward()
        lora_backward = operations(lambda: prediction.sum().backward())
        read, encoders = 0, 0
        for encoder in checkpoint.encoders:
            reader = encoder.make()
            tokens = torch.ones(1, encoder.tokens, dtype=torch.long)
            with torch.no_grad():
                read += operations(lambda reader=reader, tokens=tokens: reader(tokens))  # type: ignore[misc]
            encoders += size(reader)
        adapters = size(network) - parameters
        return Counted(once, lora_backward, read, parameters, adapters, encoders, size(checkpoint.autoencoder()))


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(
        "| checkpoint | denoiser | text encoders | one row | one prompt | trained | operations per pair, published "
        "| ours / published | weights in memory, published | ours / published |"
    )
    print("|" + "---|" * 10)
    for checkpoint in CHECKPOINTS:
        counted = count(checkpoint)
        sizes = f"{counted.denoiser / 1e9:.2f} B | {counted.encoders / 1e9:.2f} B"
        work = f"{counted.forward / 1e12:.2f} TFLOP | {counted.text / 1e12:.2f} TFLOP"
        for trained in ("lora", "full"):
            (ours, theirs), (held, holds) = counted.operations(trained), counted.weights(trained)
            print(
                f"| {checkpoint.name} | {sizes} | {work} | {trained} | {theirs / 1e12:.1f} TFLOP | "
                f"{ours / theirs:.2f} | {holds / 1e9:.1f} GB | {held / holds:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
