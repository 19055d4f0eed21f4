"""Two steps and one sampling call on random pairs: how fast this machine is, before a night is spent on it."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..families.load import load_family
from ..families.pipeline import PipelineFamily
from ..files import claim_folder
from ..ledger import Ledger
from ..pairs.shards import FORMAT, Layout, write_shard
from ..pairs.store import PairStore
from ..plan import Plan, training_cost
from ..recipe import Recipe
from ..rng import torch_generator
from ..tensors import WinLose
from .loop import train_step
from .run import Run
from .setup import start_accelerator

_DRAWN = ("pairs", "evaluate")


@dataclasses.dataclass(frozen=True)
class Probe:
    """What was measured.

    Attributes:
        step_seconds: of one micro batch, forward and backward, with the optimizer's step.
        training_seconds: per F of training; the optimizer's step is in it, so long accumulation runs a little faster.
        sampling_seconds: per F of drawing pictures, without decoding them.
        peak_bytes: of device memory; None on a CPU.
    """

    step_seconds: float
    training_seconds: float
    sampling_seconds: float
    peak_bytes: int | None

    def hours(self, plan: Plan) -> dict[str, float]:
        """Stage -> hours on this machine alone, for stages whose network evaluations are known."""
        return {
            stage.name: stage.network_evaluations
            * (self.sampling_seconds if stage.name in _DRAWN else self.training_seconds)
            / 3600
            for stage in plan.stages
            if stage.network_evaluations
        }

    def text(self, plan: Plan) -> str:
        """In lines, for below the plan."""
        hours = self.hours(plan)
        memory = "" if self.peak_bytes is None else f", peak device memory {self.peak_bytes / 1e9:.2f} GB"
        return "\n".join(
            [
                f"probe: {self.step_seconds:.3f} s for a step of {plan.recipe.training.micro_batch_pairs} pairs, "
                f"{1e3 * self.sampling_seconds:.1f} ms per row drawn{memory}",
                *(f"probe: {name} about {value:.2g} h on this machine" for name, value in hours.items()),
                f"probe: together about {sum(hours.values()):.2g} h (pictures' decoding and scoring come on top)",
            ]
        )


def probe(recipe: Recipe) -> Probe:
    """Run two training steps of one micro batch and one sampling call, in a temporary folder, and forget them.

    The second step is timed. Pairs are random latents with made-up prompts: time and memory do not depend on what they
    show. Winning and losing models that are not there yet are left out, F for F.

    Raises:
        UserError: the model is not here, or a step does not fit in memory.
    """
    with tempfile.TemporaryDirectory(prefix="ddspo-probe-") as name:
        folder = Path(name)
        small = _one_micro_batch(recipe, folder)
        accelerator, model = start_accelerator(small, folder / "run"), small.model
        family = load_family(
            model.base,
            dtype=model.frozen_dtype,
            device=accelerator.device,
            revision=model.revision,
            variant=model.variant,
        )
        if accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        (folder / "run").mkdir()
        run = Run(small, _random_pairs(small, family, folder / "pairs"), folder / "run", family, accelerator)
        train_step(run, 0)
        step_seconds = _timed(lambda: train_step(run, 1))
        rows = recipe.pairs.sampling.batch_images * (2 if recipe.pairs.sampling.guidance_scale > 1 else 1)
        drawing = _timed(lambda: _draw(run, rows), warm_up=True)
        peak = torch.cuda.max_memory_allocated() if accelerator.device.type == "cuda" else None
    pairs = small.training.global_batch_pairs
    return Probe(step_seconds, step_seconds / (pairs * training_cost(small)), drawing / rows, peak)


def _one_micro_batch(recipe: Recipe, folder: Path) -> Recipe:
    size = recipe.training.micro_batch_pairs
    training = {
        "global_batch_pairs": size,
        "max_steps": 5,  # two are made, less than half: nothing is said about what was learned
        "preview_every_steps": None,
        "trackers": (),
        "reference_rows": None,
    }
    data = recipe.model_dump()
    data["training"] |= {key: value for key, value in training.items() if key in data["training"]}
    if data["objective"]["beta"] == "auto":
        data["objective"]["beta"] = 1000.0
    if data["target"]["source"] == "data_driven":
        data["target"] = {"source": "training_free", "error_space": data["target"]["error_space"]}
        data["training"]["caption_dropout"] = 0.0  # does not go with that target, nor does the implicit reward of dspo
        if data["objective"]["name"] == "dspo":
            data["objective"]["dspo_reward"] = "contrast"
    data["training"]["timesteps"] |= {"states": "forward"}
    return Recipe.model_validate(data | {"baselines": {}, "output": folder})


def _random_pairs(recipe: Recipe, family: PipelineFamily, folder: Path) -> PairStore:
    count, shape = recipe.training.micro_batch_pairs, family.latent_shape(recipe.model.height_px, recipe.model.width_px)
    fingerprint = family.fingerprint()
    settings = {"format": FORMAT, "count": count, "pairs_per_shard": count, "reference_fingerprint": fingerprint}
    claim_folder(folder, settings, "pairs")
    generator = torch_generator(recipe.seed, "probe")
    x_0 = WinLose(*(torch.randn((count, *shape), generator=generator) for _ in range(2)))
    rows = [
        {"id": str(n), "prompt": f"a red cat, number {n}", "degraded_prompt": "a cat", "seed": n} for n in range(count)
    ]
    write_shard(Layout(folder, count, count), 0, x_0, rows, Ledger())
    return PairStore(folder)


@torch.no_grad()
def _draw(run: Run, rows: int) -> None:
    """One network call as the sampler makes it, on noise."""
    family, recipe = run.family, run.recipe
    shape = family.latent_shape(recipe.model.height_px, recipe.model.width_px)
    prompt = run.store.rows[0]["prompt"]
    x_t = torch.randn((rows, *shape), generator=torch_generator(0, "probe")).to(family.device)
    timestep = family.noise_path.timesteps[-1].expand(rows).to(family.device)
    text = run.table.lookup([prompt] * rows).to(family.device)
    run.roles.predict("policy", x_t, timestep, text)


def _timed(work: Callable[[], object], *, warm_up: bool = False) -> float:
    if warm_up:
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
