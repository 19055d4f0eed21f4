"""Device memory of a training step, by part, from weight shapes alone. No torch here; whole stages: `stage_memory`.

    weights       trained numbers in `training.trained_dtype`, frozen ones in `model.frozen_dtype` (full fine-tuning:
                  the frozen copy, where the objective needs one, `model.offload` does not keep it in main memory
                  between calls and its rows are not stored); a LoRA reference that moves weighs as much as the policy
    casts         mixed precision: 2 bytes per trained float32 number, which autocast keeps from the first use in a
                  forward on
    gradients     trained numbers, as they are trained; in bf16 tensors of fewer than two dimensions stay float32
    optimizer     adamw 8 bytes per trained number; adamw_8bit 2 and two scales per block of 256, in tensors of 4096
                  numbers or more; adafactor rows + columns
    average       float32, if asked
    activations   an estimate: rows · Σ over layers of KEPT · inputs · positions · bytes per number. With gradient
                  checkpointing: rows · (Σ over checkpointed blocks of their inputs + the largest block as above). Rows
                  are those that a backward goes through: 2 per pair, or 1. KEPT is measured (docs/log.md): norms and
                  nonlinearities keep inputs of their own. Attention scores are not kept (torch's fused kernels).

On top come the device's own context and kernels' workspaces (about 1 GB with CUDA), which are not counted.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass

from .base_facts import TEXT_TOKENS, BaseFacts
from .method_facts import frozen_rows, policy_rows
from .recipe import Recipe, Training

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
KEPT = 3
"""numbers kept for the backward per input of a layer; autograd keeps 2.7 to 2.9 on SDXL in bf16 (docs/log.md)"""
SMALL = 4096
"""numbers that a tensor must have for bitsandbytes to keep its moments in 8 bits"""
_BLOCK = re.compile(r"(?:.*\.)?(?:resnets|(?:single_)?transformer_blocks)\.\d+")
_ONE_POSITION = re.compile(r"time_embed|time_emb_proj|add_embedding|time_text_embed|norm\w*\.linear|adaln|pooled")
_TEXT = re.compile(r"attn2\.to_[kv]|add_[qkv]_proj|to_add_out|ff_context|context_embedder|caption_projection")


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes by part."""

    weights: int
    casts: int
    gradients: int
    optimizer: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        """Their sum: the peak, as far as it is counted."""
        return sum(asdict(self).values())

    def text(self) -> str:
        """In gigabytes, part by part."""
        parts = [f"{name} {size / 1e9:.2f}" for name, size in asdict(self).items() if size]
        return f"{' + '.join(parts)} = {self.total / 1e9:.2f} GB (activations estimated)"


def trained_shapes(training: Training, facts: BaseFacts) -> dict[str, tuple[int, ...]]:
    """Shapes of what is trained: all of the denoiser, or A [rank, inputs] and B [outputs, rank] per adapted layer."""
    if training.parameters == "full":
        return facts.shapes
    rank = training.lora.rank
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (outputs, inputs, *_) in facts.adapted(training.lora.targets).items():
        shapes |= {f"{name}.A": (rank, inputs), f"{name}.B": (outputs, rank)}
    return shapes


def trained_parameters(training: Training, facts: BaseFacts) -> int:
    """How many numbers are trained."""
    return sum(math.prod(shape) for shape in trained_shapes(training, facts).values())


def training_memory(recipe: Recipe, facts: BaseFacts) -> TrainingMemory:
    """What one process of a training run holds at its peak."""
    trained = trained_shapes(recipe.training, facts)
    training, count = recipe.training, sum(math.prod(shape) for shape in trained.values())
    full = training.parameters == "full"
    frozen = facts.parameters * BYTES[recipe.model.frozen_dtype]
    if full and (not frozen_rows(recipe) or recipe.model.offload or training.reference_rows):
        frozen = 0
    moving = 0 if full or recipe.objective.reference is None else 4 * count
    short = sum(math.prod(shape) for shape in trained.values() if len(shape) < 2)
    held = 4 * count if training.trained_dtype == "fp32" else 2 * count + 2 * short
    autocast = training.mixed_precision != "no" and training.trained_dtype == "fp32"
    rows = policy_rows(recipe) * training.micro_batch_pairs
    low = training.mixed_precision != "no" or (not full and recipe.model.frozen_dtype != "fp32")
    return TrainingMemory(
        weights=held + frozen + moving,
        casts=2 * count if autocast else 0,
        gradients=held,
        optimizer=optimizer_bytes(training.optimizer.name, trained),
        average=4 * count if training.ema_decay is not None else 0,
        activations=rows * activation_numbers(recipe, facts) * (2 if low else 4),
    )


def optimizer_bytes(name: str, trained: dict[str, tuple[int, ...]]) -> int:
    """State that an optimizer keeps for these tensors."""
    count = sum(math.prod(shape) for shape in trained.values())
    if name == "adamw":
        return 8 * count
    if name == "adamw_8bit":
        sizes = [math.prod(shape) for shape in trained.values()]
        return sum(8 * size if size < SMALL else 2 * size + 2 * 4 * math.ceil(size / 256) for size in sizes)
    factored = (
        math.prod(s[:-1]) + math.prod(s[:-2] + s[-1:]) if len(s) >= 2 else math.prod(s) for s in trained.values()
    )
    return 4 * sum(factored)


def checkpoint_bytes(recipe: Recipe, trained: dict[str, tuple[int, ...]]) -> int:
    """Size of one checkpoint: trained numbers in float32, the average and a moving reference alike, optimizer state."""
    training = recipe.training
    copies = 1 + (training.ema_decay is not None) + (recipe.objective.reference is not None)
    count = sum(math.prod(shape) for shape in trained.values())
    return 4 * count * copies + optimizer_bytes(training.optimizer.name, trained)


def kept_bytes(recipe: Recipe, trained: dict[str, tuple[int, ...]]) -> int:
    """What a finished run holds on disk: its last checkpoints and the trained weights."""
    training = recipe.training
    checkpoints = min(training.keep_checkpoints, math.ceil(training.max_steps / training.checkpoint_every_steps))
    weights = 4 * sum(math.prod(shape) for shape in trained.values())
    return checkpoints * checkpoint_bytes(recipe, trained) + weights


def activation_numbers(recipe: Recipe, facts: BaseFacts) -> int:
    """Numbers that one row's forward keeps for its backward: the module's formula without rows and bytes."""
    kept: dict[str, int] = {}
    entries: dict[str, int] = {}
    for name, shape in facts.shapes.items():
        if len(shape) < 2 or not name.endswith(".weight"):
            continue
        found = _BLOCK.match(name)
        block = found.group() if found else name
        inputs = shape[1] * _positions(name, recipe, facts)
        kept[block] = kept.get(block, 0) + KEPT * inputs
        entries[block] = max(entries.get(block, 0), inputs if _is_entry(name, found) else 0)
    if not recipe.training.gradient_checkpointing:
        return sum(kept.values())
    outside = sum(size for block, size in kept.items() if not _BLOCK.fullmatch(block))
    inside = [size for block, size in kept.items() if _BLOCK.fullmatch(block)]
    return sum(entries.values()) + outside + max(inside, default=0)


def _is_entry(name: str, block: re.Match[str] | None) -> bool:
    """Whether this layer's input is as wide as what enters its block: a resnet's first convolution, a block's to_q."""
    return block is not None and name.endswith((".conv1.weight", "to_q.weight", "proj_mlp.weight"))


def _positions(name: str, recipe: Recipe, facts: BaseFacts) -> int:
    """How many places a layer is applied at, for one row."""
    if _ONE_POSITION.search(name):
        return 1
    text = TEXT_TOKENS.get(facts.pipeline, 77)
    if _TEXT.search(name):
        return text
    _, height, width = facts.latent_shape(recipe.model)
    if not facts.levels:
        tokens = height * width // facts.patch**2
        return tokens + text if name.startswith("single_") else tokens
    level = 0
    if found := re.match(r"(down|up)_blocks\.(\d+)\.", name):
        level = int(found[2]) if found[1] == "down" else facts.levels - 1 - int(found[2])
    elif name.startswith("mid_block"):
        level = facts.levels - 1
    return math.ceil(height / 2**level) * math.ceil(width / 2**level)
