"""The configuration: small frozen models, units in names, unknown keys refused.

A recipe is one YAML file. Every field has a default; `ddspo align --dry-run` prints the recipe as resolved.
This module imports no torch, so that `--help` stays fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from .method_facts import unfit, unstorable
from .recipe_base import Fraction, Positive, Section
from .recipe_degradation import Degradation as Degradation
from .recipe_degradation import LanguageModel as LanguageModel
from .recipe_evaluation import Evaluation as Evaluation
from .recipe_evaluation import Sampling as Sampling
from .recipe_objective import AutoBeta as AutoBeta
from .recipe_objective import MovingReference as MovingReference
from .recipe_objective import Objective as Objective
from .recipe_objective import Target as Target
from .recipe_objective import TargetAdapters as TargetAdapters
from .recipe_objective import Timesteps as Timesteps


class Model(Section):
    """The pretrained model that is aligned; it is also the frozen reference."""

    base: str = "tinyscenes"
    """a diffusers folder, a Hugging Face id, or 'tinyscenes' for the embedded one"""
    revision: str | None = None
    variant: str | None = None
    lora: tuple[Path, ...] = ()
    """LoRAs, folders or .safetensors files, merged into the base at full strength: reference and policy start there"""
    frozen_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """precision of everything that is not trained"""
    height_px: Positive | None = None
    """None: the size that the model was trained for"""
    width_px: Positive | None = None
    offload: bool = False
    """keep in main memory what is idle: text encoders and the frozen copy of full fine-tuning outside their own calls,
    the denoiser while a picture is decoded. Less device memory, some time for moving"""

    @field_validator("lora", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str | Path) else value or ()


class Prompts(Section):
    """Where prompts come from."""

    source: str = "tinyscenes:train"
    """a .txt, .jsonl, .csv or .parquet file, or 'tinyscenes:train'"""
    column: str = "prompt"
    """the field that holds the prompt, in formats that have fields"""
    limit: Positive | None = None
    """use this many unique prompts, drawn from the run seed; None: all"""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """share of the prompts that is never trained on, for evaluation.prompts 'held_out'; which ones follows from the
    run seed and each prompt alone"""


class Pairs(Section):
    """How winning and losing pictures are made."""

    count: Positive | None = None
    """how many pairs; None: one per prompt. More pairs than prompts reuse prompts with new seeds and variants"""
    sampling: Sampling = Sampling()
    pairs_per_shard: Positive = 512
    trajectory_states: Annotated[int, Field(ge=0)] = 0
    """states per side kept from the sampling trajectory, for training.timesteps.states 'trajectory'"""
    contrast_draws: Annotated[int, Field(ge=0)] = 0
    """measure, with so many draws of timestep and noise per pair (2 network evaluations each), how differently the
    reference sees prompt and degraded prompt; 0: do not"""
    min_contrast: Annotated[float, Field(ge=0)] = 0.0
    """train without pairs of a lower contrast, in squared units of the network's output; needs contrast_draws"""

    @model_validator(mode="after")
    def _measured(self) -> Pairs:
        if self.min_contrast > 0 and not self.contrast_draws:
            raise ValueError("min_contrast needs contrast_draws, such as 4: without them no contrast is measured")
        return self


class Lora(Section):
    """Low-rank adapters; the base stays frozen and serves as the reference when they are off."""

    rank: Positive = 64
    alpha: Annotated[float, Field(gt=0)] | None = None
    """None: equal to rank"""
    targets: tuple[str, ...] = ()
    """module name suffixes; empty: the family's default (attention projections)"""


class Optimizer(Section):
    """The optimizer and its learning-rate schedule."""

    name: Literal["adamw", "adamw_8bit", "adafactor"] = "adamw"
    """'adamw_8bit' needs bitsandbytes (extra 8bit); 'adafactor' keeps second moments by row and column only"""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-6
    """final: never rescaled by batch size, beta or process count"""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _used(self) -> Optimizer:
        if self.name == "adafactor" and (self.adam_betas, self.adam_epsilon) != ((0.9, 0.999), 1e-8):
            raise ValueError("adam_betas and adam_epsilon have no effect with name 'adafactor'; leave them out")
        return self


class Training(Section):
    """One training run."""

    parameters: Literal["lora", "full"] = "lora"
    lora: Lora = Lora()
    max_steps: Positive = 100
    global_batch_pairs: Positive = 2048
    """pairs per optimizer step over all processes and accumulation; published: 2048"""
    micro_batch_pairs: Positive = 8
    """pairs per network call on one process; memory, not mathematics"""
    optimizer: Optimizer = Optimizer()
    timesteps: Timesteps = Timesteps()
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    trained_dtype: Literal["fp32", "bf16"] = "fp32"
    """of parameters 'full': 'bf16' halves weights and gradients of matrices and convolutions; updates are still worked
    out in float32 and rounded stochastically, for rounding to the nearest would swallow them"""
    reference_rows: Path | None = None
    """a folder for what the reference says at every step: made once, shared by runs that ask it the same, read in place
    of keeping the reference in memory. None: asked in every step"""
    text: Literal["stored", "encoded"] = "stored"
    """'stored': embeddings of all prompts are made first and lie on disk; the text encoders leave memory. 'encoded':
    they stay and read the prompts of every micro batch, where the disk cannot hold what `--dry-run` foretells"""
    gradient_checkpointing: bool = False
    compile: bool = False
    """torch.compile the denoiser: slower to start, faster steps on a GPU; results differ by rounding"""
    caption_dropout: Fraction = 0.0
    """share of pairs that are trained without text, both sides and their targets alike; keeps guidance working"""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    """None: no averaging; otherwise the result is the moving average of the trained parameters"""
    checkpoint_every_steps: Positive = 50
    keep_checkpoints: Positive = 2
    preview_every_steps: Positive | None = None
    preview_prompts: tuple[str, ...] = ()
    """empty: the first four prompts of the pairs"""
    trackers: tuple[str, ...] = ()
    """names that accelerate knows: tensorboard, wandb, ...; metrics.jsonl is always written"""

    @model_validator(mode="after")
    def _low_precision(self) -> Training:
        if self.trained_dtype == "bf16" and (self.parameters, self.mixed_precision) != ("full", "bf16"):
            raise ValueError(
                "trained_dtype 'bf16' is for parameters 'full' with mixed_precision 'bf16', which compute in bfloat16 "
                "anyway; set both, or leave trained_dtype out"
            )
        return self

    @model_validator(mode="after")
    def _divisible(self) -> Training:
        if self.global_batch_pairs % self.micro_batch_pairs:
            raise ValueError(
                f"global_batch_pairs ({self.global_batch_pairs}) must be a multiple of "
                f"micro_batch_pairs ({self.micro_batch_pairs})"
            )
        return self


class Baseline(Section):
    """Another training run on the same pairs, to compare with; fields left out are the main run's."""

    target: Target | None = None
    objective: Objective | None = None
    training: Training | None = None


class Recipe(Section):
    """Everything one run is made of."""

    name: str = "run"
    seed: int = 0
    output: Path = Path("runs/run")
    model: Model = Model()
    prompts: Prompts = Prompts()
    degradation: Degradation = Degradation()
    pairs: Pairs = Pairs()
    target: Target = Target()
    objective: Objective = Objective()
    training: Training = Training()
    baselines: dict[str, Baseline] = {}
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _fit_together(self) -> Recipe:
        stored = self.training.reference_rows is not None
        if mistake := unfit(self) or (unstorable(self) if stored else None):
            raise ValueError(mistake)
        return self

    @model_validator(mode="after")
    def _something_is_held_out(self) -> Recipe:
        if self.evaluation.prompts == "held_out" and not self.prompts.held_out:
            raise ValueError("evaluation.prompts 'held_out' needs prompts that are set aside; set prompts.held_out=0.1")
        return self

    @model_validator(mode="after")
    def _states_are_stored(self) -> Recipe:
        if self.training.timesteps.states == "trajectory" and not self.pairs.trajectory_states:
            raise ValueError(
                "training.timesteps.states 'trajectory' needs states stored with the pairs; set pairs.trajectory_states"
            )
        return self
