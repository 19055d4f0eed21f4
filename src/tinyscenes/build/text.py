"""The text encoder: a small CLIP text model that learns what captions say, before any picture is involved.

Large text-to-image models start from a text encoder that already understands language. Ours learns it here: from every
noun's state, and from the end-of-text state, linear heads must tell the facts (shape, color, texture, count, relation).
Word order carries the binding of attributes to things, so binding reaches the denoiser in every token it attends to.
The heads are thrown away and the encoder is frozen.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..language import WORDS, parse
from ..scenes import COLORS, MAX_COUNT, RELATIONS, SHAPES, TEXTURES, Thing
from .captions import CaptionNoise, caption, sample_true_description

MAX_TOKENS = 16
HIDDEN = 128
_FACT_SIZES = (len(SHAPES), len(COLORS) + 1, len(TEXTURES) + 1, MAX_COUNT)
_UNSAID = -100  # cross entropy's own "no target here"


def new_tokenizer() -> CLIPTokenizer:
    """CLIP byte-level BPE in which every word of the language is one token and any other text is spelled in pieces."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    last_letters = [letter + "</w>" for letter in alphabet]
    # Named first, last letters have the same ids in every training; else they come in the order of a hash table, and
    # with them the ids of all words: the same seed would train another text encoder each time.
    bpe.train_from_iterator(
        [" ".join(WORDS)],
        trainers.BpeTrainer(
            vocab_size=10_000,
            end_of_word_suffix="</w>",
            initial_alphabet=alphabet,
            special_tokens=last_letters,
            show_progress=False,
            min_frequency=1,
        ),
    )
    model = json.loads(bpe.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    # The end-of-text id must be the highest one: CLIP's pooling looks for it.
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[tuple(merge) for merge in model["merges"]],
        pad_token="<|endoftext|>",
        model_max_length=MAX_TOKENS,
    )


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids, int64 [N, MAX_TOKENS]."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Untrained CLIP text model; token and position embeddings start at the same scale, so order is heard."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=4 * HIDDEN,
            num_hidden_layers=3,
            num_attention_heads=4,
            projection_dim=HIDDEN,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _facts(thing: Thing) -> list[int]:
    return [
        SHAPES.index(thing.shape),
        0 if thing.color is None else COLORS.index(thing.color) + 1,
        0 if thing.texture is None else TEXTURES.index(thing.texture) + 1,
        thing.count - 1,
    ]


def _targets(captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Where each thing's noun stands [N, 2], its facts [N, 2, 4], and the relation [N] (0: none)."""
    places = torch.zeros(len(captions), 2, dtype=torch.long)
    facts = torch.full((len(captions), 2, len(_FACT_SIZES)), _UNSAID)
    relations = torch.zeros(len(captions), dtype=torch.long)
    names = list(RELATIONS)
    for row, text in enumerate(captions):
        description = parse(text)
        words = 0
        for index, thing in enumerate(description.things):
            words += 2 + (thing.color is not None) + (thing.texture is not None)
            places[row, index] = words  # position 0 is the start token, so the k-th word stands at k
            facts[row, index] = torch.tensor(_facts(thing))
            words += len((description.relation or "and").split())
        relations[row] = names.index(description.relation) + 1 if description.relation else 0
    return places, facts, relations


class _Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.noun = nn.Linear(HIDDEN, sum(_FACT_SIZES))
        self.end = nn.Linear(HIDDEN, 2 * sum(_FACT_SIZES))
        self.relation = nn.Linear(HIDDEN, len(RELATIONS) + 1)

    def losses(self, states: Tensor, end: Tensor, captions: list[str]) -> list[tuple[Tensor, Tensor]]:
        """Pairs of logits [M, K] and targets [M]."""
        places, facts, relations = _targets(captions)
        noun = states.gather(1, places[..., None].expand(-1, -1, HIDDEN))
        second = facts[:, 1, 0] != _UNSAID
        pairs = [(self.relation(end), relations), (self.relation(noun[:, 1])[second], relations[second])]
        for logits in (self.noun(noun), self.end(end).unflatten(-1, (2, -1))):
            pairs += [
                (fact.flatten(0, 1), facts[..., index].flatten())
                for index, fact in enumerate(logits.split(_FACT_SIZES, -1))
            ]
        return pairs


def train_text_encoder(
    tokenizer: CLIPTokenizer, seed: int, steps: int, log: Callable[[str], None], batch: int = 128
) -> CLIPTextModel:
    """Cross entropy of every fact; captions are clean in order but may leave attributes, relations or things unsaid."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 2])
    encoder, heads = new_text_encoder(tokenizer), _Heads()
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.05)
    noise = CaptionNoise(empty=0.0)
    for step in range(1, steps + 1):
        captions = [caption(sample_true_description(rng), noise, rng) for _ in range(batch)]
        output = encoder(tokenize(tokenizer, captions))
        pairs = heads.losses(output.last_hidden_state, output.pooler_output, captions)
        loss = sum((nn.functional.cross_entropy(logits, target) for logits, target in pairs), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == steps:
            accuracies = [
                (logits.argmax(-1) == target)[target != _UNSAID].float().mean().item() for logits, target in pairs
            ]
            log(f"text {step}/{steps} loss {loss.item():.4f} worst fact accuracy {min(accuracies):.4f}")
    return encoder.eval().requires_grad_(False)
