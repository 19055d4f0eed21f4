"""Tiny text encoders, tokenizers and autoencoders of random weights: what tiny pipelines are put together from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from helpers.tiny_pipelines import MAX_TOKENS


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


CORPUS = ["a photo of a red cat on a blue table", "three green apples, two bananas", "user prompt: describe"] * 3


LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.:;-'\"()ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def t5_tokenizer() -> Any:
    """A unigram tokenizer with T5's markers."""
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=150,
            special_tokens=["<pad>", "</s>", "<unk>"],
            unk_token="<unk>",
            show_progress=False,
            initial_alphabet=list(LETTERS),
        ),
    )
    made = json.loads(unigram.to_str())["model"]["vocab"]
    # Training orders equally likely pieces differently in every process; sorted, the same text has the same tokens.
    pieces = [tuple(piece) for piece in made[:3]] + sorted((piece, round(score, 2)) for piece, score in made[3:])
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def t5(tokenizer: Any, width: int) -> Any:
    """Two layers of T5's encoder; like the true one it has some rows more than the tokenizer has tokens."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer) + 4,
            d_model=width,
            d_kv=8,
            d_ff=37,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def gemma_tokenizer() -> Any:
    """Byte-fallback BPE with Gemma's markers and its <bos>."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    bpe.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False))
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return GemmaTokenizer(vocab=model["vocab"], merges=merges, add_bos_token=True, model_max_length=2**20)
