"""Memory foretold: parts by hand, activations against what autograd keeps, and SDXL's true configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ddspo.base_facts import BaseFacts
from ddspo.memory import (
    activation_numbers,
    checkpoint_bytes,
    kept_bytes,
    optimizer_bytes,
    training_memory,
)
from ddspo.recipe import Recipe

SDXL: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def recipe(model: dict[str, Any] | None = None, **training: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"frozen_dtype": "bf16", **(model or {})},
            "training": {"mixed_precision": "bf16", "micro_batch_pairs": 1, "global_batch_pairs": 64, **training},
        }
    )


def test_optimizer_state_by_hand() -> None:
    trained = {"a": (3, 4), "b": (5,)}
    assert optimizer_bytes("adamw", trained) == 8 * 17
    assert optimizer_bytes("adamw_8bit", trained) == 8 * 17  # small tensors keep float32
    assert optimizer_bytes("adamw_8bit", trained | {"c": (64, 65)}) == 8 * 17 + 2 * 4160 + 2 * 4 * 17
    assert optimizer_bytes("adafactor", trained) == 4 * (3 + 4 + 5)


def test_checkpoints_hold_what_their_optimizer_keeps() -> None:
    trained = {"a": (3, 4), "b": (5,)}
    assert checkpoint_bytes(recipe(), trained) == 4 * 17 + 8 * 17
    assert checkpoint_bytes(recipe(optimizer={"name": "adafactor"}, ema_decay=0.9), trained) == 8 * 17 + 4 * 12
    moving = Recipe.model_validate({"objective": {"reference": {}}, "training": {"optimizer": {"name": "adamw_8bit"}}})
    assert checkpoint_bytes(moving, trained) == 8 * 17 + 8 * 17
    assert kept_bytes(recipe(max_steps=60, checkpoint_every_steps=50, keep_checkpoints=3), trained) == 2 * 204 + 68


def test_a_lora_reference_that_moves_weighs_as_much_as_the_policy(sdxl: BaseFacts) -> None:
    moving = Recipe.model_validate({"objective": {"reference": {}}, "training": {"lora": {"rank": 8}}})
    still = Recipe.model_validate({"training": {"lora": {"rank": 8}}})
    more = training_memory(moving, sdxl).weights - training_memory(still, sdxl).weights
    assert more == training_memory(still, sdxl).gradients > 0


def facts(shapes: dict[str, tuple[int, ...]], side: int, **more: Any) -> BaseFacts:
    return BaseFacts(4, side, 8, "EulerDiscreteScheduler", shapes, **more)


def test_activations_by_hand() -> None:
    shapes = {
        "down_blocks.0.resnets.0.conv1.weight": (8, 4, 3, 3),
        "down_blocks.0.resnets.0.conv2.weight": (8, 8, 3, 3),
        "down_blocks.0.resnets.0.time_emb_proj.weight": (8, 16),
        "down_blocks.1.resnets.0.conv1.weight": (8, 8, 3, 3),
        "conv_in.weight": (4, 4, 3, 3),
        "conv_in.bias": (4,),
    }
    base = facts(shapes, 8, levels=2)
    first, second, outside = 3 * (4 * 64 + 8 * 64 + 16), 3 * 8 * 16, 3 * 4 * 64
    assert activation_numbers(recipe(), base) == first + second + outside
    checkpointed = recipe(gradient_checkpointing=True)
    assert activation_numbers(checkpointed, base) == (4 * 64 + 8 * 16) + outside + first
    assert training_memory(checkpointed, base).activations == 2 * 2 * ((4 * 64 + 8 * 16) + outside + first)


@pytest.fixture(scope="module")
def sdxl() -> BaseFacts:
    """The denoiser of SDXL base 1.0 by its published configuration, without a weight in memory."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL)
    shapes = {name: tuple(parameter.shape) for name, parameter in unet.named_parameters()}
    return facts(shapes, 128, pipeline="StableDiffusionXLPipeline", levels=3)


def test_sdxl_is_the_true_one(sdxl: BaseFacts) -> None:
    assert sdxl.parameters == 2_567_463_684


def test_sdxl_lora_at_1024_px_is_planned_under_12_gb(sdxl: BaseFacts) -> None:
    memory = training_memory(recipe(gradient_checkpointing=True), sdxl)
    assert memory.weights == pytest.approx(2 * 2.567e9 + 4 * 92.9e6, rel=0.01)
    assert 1e9 < memory.activations < 5e9
    assert memory.total < 12e9
    assert training_memory(recipe(), sdxl).activations > 3 * memory.activations


@pytest.mark.slow
def test_activations_of_sdxl_are_about_what_autograd_keeps(sdxl: BaseFacts) -> None:
    """The true network on the meta device: nothing is computed, and what would be saved for the backward is summed."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL).to(torch.bfloat16)
        x_t, text = torch.empty(1, 4, 128, 128, dtype=torch.bfloat16), torch.empty(1, 77, 2048, dtype=torch.bfloat16)
        told = {
            "text_embeds": torch.empty(1, 1280, dtype=torch.bfloat16),
            "time_ids": torch.empty(1, 6, dtype=torch.bfloat16),
        }
        timestep = torch.empty(1)
    own = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}
    saved: dict[int, int] = {}
    held = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        scores = tensor.ndim >= 3 and tensor.shape[-2] in (1024, 4096) and tensor.shape[-1] in (77, 1024, 4096)
        if not scores and tensor.untyped_storage()._cdata not in own:  # fused kernels keep no scores
            saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            held.append(tensor)  # so that no storage's address is used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        unet(x_t, timestep, encoder_hidden_states=text, added_cond_kwargs=told)
    estimate = 2 * activation_numbers(recipe(), sdxl)
    assert 0.85 < estimate / sum(saved.values()) < 1.3


def test_full_sdxl_needs_more_than_eight_bit_moments_to_fit_24_gb(sdxl: BaseFacts) -> None:
    """The plan's own answer: float32 weights and gradients are 20.5 GB before any moment."""
    options = {"parameters": "full", "gradient_checkpointing": True}
    eight_bit = training_memory(recipe({"offload": True}, **options, optimizer={"name": "adamw_8bit"}), sdxl)
    assert eight_bit.weights == eight_bit.gradients == 4 * sdxl.parameters
    assert eight_bit.casts == 2 * sdxl.parameters
    assert 24e9 < eight_bit.total < 40e9
    kept = training_memory(recipe(**options, optimizer={"name": "adamw_8bit"}), sdxl)
    assert kept.total - eight_bit.total == 2 * sdxl.parameters, "the frozen copy in bf16"
    factored = training_memory(recipe({"offload": True}, **options, optimizer={"name": "adafactor"}), sdxl)
    assert factored.optimizer < 0.1 * eight_bit.gradients < eight_bit.optimizer


def test_full_sdxl_in_bf16_on_stored_rows_is_planned_under_24_gb(sdxl: BaseFacts) -> None:
    options = {"parameters": "full", "gradient_checkpointing": True, "optimizer": {"name": "adamw_8bit"}}
    memory = training_memory(recipe(**options, trained_dtype="bf16", reference_rows="rows"), sdxl)
    assert memory.weights == memory.gradients == pytest.approx(2 * sdxl.parameters, rel=2e-3)
    assert memory.casts == 0
    assert memory.total < 24e9
    with_copy = training_memory(recipe(**options, trained_dtype="bf16"), sdxl)
    assert with_copy.total - memory.total == 2 * sdxl.parameters
