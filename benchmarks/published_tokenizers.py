"""Tokenizers with as many tokens as the published checkpoints' have, and texts of about the true lengths."""

from __future__ import annotations

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer, GemmaTokenizer, T5Tokenizer

from ddspo.families.sana import Sana


def clip_tokenizer() -> CLIPTokenizer:
    """Letters and as many unused tokens as CLIP has others; every prompt is padded to 77."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += [f"<unused{number}>" for number in range(49406 - len(tokens))] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], pad_token="<|endoftext|>", model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    """Letters and as many unused pieces as T5 has others; every prompt is padded."""
    pieces = ["<pad>", "</s>", "<unk>", *(mark + chr(letter) for mark in ("", "▁") for letter in range(33, 127))]
    pieces += [f"<unused{number}>" for number in range(32100 - len(pieces))]
    return T5Tokenizer(vocab=[(piece, -10.0) for piece in pieces], extra_ids=0, model_max_length=512)


def gemma_tokenizer() -> GemmaTokenizer:
    """Bytes, the words of SANA's instruction, and as many unused tokens as Gemma has others."""
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])}
    merges: list[tuple[str, str]] = []

    def know(token: str) -> str:
        vocabulary.setdefault(token, len(vocabulary))
        return token

    for byte in range(256):
        know(f"<0x{byte:02X}>")
    for word in Sana.instruction().split():
        spelled = know("▁")
        for letter in word:
            merges.append((spelled, know(letter)))
            spelled = know(spelled + letter)
    for number in range(256000 - len(vocabulary)):
        know(f"<unused{number}>")
    return GemmaTokenizer(
        vocab=vocabulary, merges=list(dict.fromkeys(merges)), add_bos_token=True, model_max_length=2**20
    )
