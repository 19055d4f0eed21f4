"""Device memory of whole stages at their peaks: what a plan prints. No torch here.

    pairs       denoiser and text encoders; with `model.offload` one at a time
    train       a step (`memory.py`); or text encoders, before the denoiser comes; or a preview, decoded beside weights
                and optimizer
    evaluate    text encoders; or denoiser, autoencoder and what decoding takes

With T5 or Gemma the text encoders decide; at 1024 px decoding may. The autoencoder is float32 and takes about a
megapixel at a time (`families/autoencoder.py`). What a denoiser holds on its way through a picture is not counted.
"""

from __future__ import annotations

from .base_facts import BaseFacts
from .memory import BYTES, training_memory
from .recipe import Recipe

DECODED = 4.5
"""numbers alive at once, per pixel and channel of the widest layer at full size: 3.8 in Stable Diffusion's autoencoder,
4.5 in SANA's (docs/log.md)"""
PIXELS_AT_ONCE = 1024 * 1024
"""as in `families/autoencoder.py`"""


def text_bytes(recipe: Recipe, facts: BaseFacts) -> int:
    """All text encoders, which are there while prompts are read."""
    return facts.text_parameters * BYTES[recipe.model.frozen_dtype]


def decoding_bytes(recipe: Recipe, facts: BaseFacts, pictures: int = 1) -> int:
    """The autoencoder, and what it holds while `pictures` are decoded."""
    height, width = facts.picture_px(recipe.model)
    at_once = min(pictures, max(1, PIXELS_AT_ONCE // (height * width)))
    return 4 * (facts.vae_parameters + int(DECODED * facts.vae_width * height * width * at_once))


def training_peak(recipe: Recipe, facts: BaseFacts) -> int:
    """What one process of `train` holds at most."""
    training, text = training_memory(recipe, facts), text_bytes(recipe, facts)
    offload, most = recipe.model.offload, training.total
    if recipe.training.text == "stored":
        most = max(most, text)
    else:  # with offload they leave before the policy is called
        most = max(most, most - training.activations + text) if offload else most + text
    if recipe.training.preview_every_steps is not None:
        kept = training.optimizer + training.average + (0 if offload else training.weights)
        most = max(most, kept + decoding_bytes(recipe, facts))
    return most


def reading_bytes(recipe: Recipe, facts: BaseFacts) -> int:
    """Weights while frozen networks are asked: the text encoders first, then the denoiser."""
    return max(facts.parameters * BYTES[recipe.model.frozen_dtype], text_bytes(recipe, facts))


def drawing_bytes(recipe: Recipe, facts: BaseFacts) -> int:
    """Weights while pairs are drawn; nothing is decoded."""
    denoiser, text = facts.parameters * BYTES[recipe.model.frozen_dtype], text_bytes(recipe, facts)
    return max(denoiser, text) if recipe.model.offload else denoiser + text


def judging_bytes(recipe: Recipe, facts: BaseFacts) -> int:
    """What is held while pictures are drawn to be judged."""
    denoiser, pictures = facts.parameters * BYTES[recipe.model.frozen_dtype], recipe.evaluation.sampling.batch_images
    return max(text_bytes(recipe, facts), denoiser + decoding_bytes(recipe, facts, pictures))
