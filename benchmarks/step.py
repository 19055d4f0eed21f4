"""How close a training step is to the network calls it cannot do without, and to the published arrangement.

    python benchmarks/step.py --base tinyscenes

Three ways to spend one optimizer step on the same pairs, taking turns in one process:

    floor      bare network calls: forward without gradient on 3B rows, forward and backward on 2B rows; nothing else
    ours       `ddspo.training.loop.train_step`: data, noise, targets, loss, metrics, clipping, AdamW, metrics.jsonl
    published  as the released DDSPO code arranges it, rebuilt plainly: both prompts encoded in every micro step, the
               reference on 2B + B + B rows (the winning rows twice), the loss read by the host in every micro step

Prints a table of medians with quartiles and of ratios to the floor (each repeat against its own floor), writes JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ddspo.environment import describe_environment
from ddspo.families.load import load_family
from ddspo.files import claim_folder
from ddspo.ledger import Ledger
from ddspo.pairs.store import FORMAT, Layout, PairStore, write_shard
from ddspo.recipe import Recipe
from ddspo.tensors import WinLose
from ddspo.training.data import noise_path_on
from ddspo.training.loop import train_step
from ddspo.training.run import Run
from ddspo.training.setup import start_accelerator

PROMPTS = [
    "a red circle above a blue square",
    "two green stars",
    "a striped house to the left of a yellow tree",
    "a cat",
]
PAIRS = 256
"""pairs to draw batches from, unless said otherwise"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="tinyscenes", help="'tinyscenes', a diffusers folder or a hub id")
    parser.add_argument("--parameters", choices=("lora", "full"), default="lora")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--micro-batch-pairs", type=int, default=16)
    parser.add_argument("--global-batch-pairs", type=int, default=64)
    parser.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--frozen-dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: this process's time, for a busy machine without a GPU",
    )
    parser.add_argument("--output", type=Path, default=Path("step.json"))
    return parser.parse_args()


def make_recipe(arguments: argparse.Namespace) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"base": arguments.base, "frozen_dtype": arguments.frozen_dtype},
            "objective": {"beta": 1000},
            "training": training_section(arguments, arguments.mixed_precision),
        }
    )


def training_section(arguments: argparse.Namespace, mixed_precision: str) -> dict[str, Any]:
    """A recipe's `training`, as endless as a benchmark needs it."""
    return {
        "parameters": arguments.parameters,
        "lora": {"rank": arguments.rank},
        "max_steps": 10**6,
        "global_batch_pairs": arguments.global_batch_pairs,
        "micro_batch_pairs": arguments.micro_batch_pairs,
        "mixed_precision": mixed_precision,
    }


def make_pairs(folder: Path, shape: tuple[int, int, int], fingerprint: str, pairs: int = PAIRS) -> PairStore:
    """Random latents: the time of a step does not depend on what they show."""
    settings = {"format": FORMAT, "count": pairs, "pairs_per_shard": pairs, "reference_fingerprint": fingerprint}
    claim_folder(folder, settings, "pairs")
    rows = [
        {"id": str(n), "prompt": f"{PROMPTS[n % 4]} {n}", "degraded_prompt": PROMPTS[(n + 1) % 4], "seed": n}
        for n in range(pairs)
    ]
    x_0 = WinLose(torch.randn(pairs, *shape), torch.randn(pairs, *shape))
    write_shard(Layout(folder, pairs, pairs), 0, x_0, rows, Ledger())
    return PairStore(folder)


class Ways:
    """The three ways, each a function of the step number."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.accelerator = recipe, start_accelerator(recipe, folder / "run")
        model, device = recipe.model, self.accelerator.device
        self.plain = load_family(model.base, dtype=model.frozen_dtype, device=device)
        self.store = make_pairs(folder / "pairs", self.plain.latent_shape(), self.plain.fingerprint())
        self.path = noise_path_on(self.plain.noise_path, device)
        (folder / "run").mkdir()
        family = load_family(model.base, dtype=model.frozen_dtype, device=device)
        self.run = Run(recipe, self.store, folder / "run", family, self.accelerator)
        self.batches = [micro.pairs for micro in self.run.batches.micro_batches(0)]
        self.parameters = list(self.run.parameters.values())
        self.adamw = torch.optim.AdamW(self.parameters, lr=0.0)

    def network(self, module: torch.nn.Module, x_t: torch.Tensor, timestep: torch.Tensor, prompt: Any) -> torch.Tensor:
        with self.accelerator.autocast():
            return self.plain.predict(x_t, timestep, prompt, denoiser=module)

    def floor(self, step: int) -> None:
        for batch in self.batches:
            x_t, timestep = batch.noise, batch.timestep
            with torch.no_grad():
                rows = batch.prompt.repeat(3)
                self.network(self.plain.denoiser, x_t.repeat(3, 1, 1, 1), timestep.repeat(3), rows)
            prediction = self.network(
                self.run.policy, x_t.repeat(2, 1, 1, 1), timestep.repeat(2), batch.prompt.repeat(2)
            )
            prediction.mean().backward()
        self.run.optimizer.zero_grad(set_to_none=True)

    def ours(self, step: int) -> None:
        self.run.record(train_step(self.run, step))

    def published(self, step: int) -> None:
        settings, device = self.recipe.training, self.accelerator.device
        for start in range(0, settings.global_batch_pairs, settings.micro_batch_pairs):
            numbers = [(start + n) % len(self.store) for n in range(settings.micro_batch_pairs)]
            x_0, count = self.store.read(numbers), len(numbers)
            both = torch.cat([x_0.win, x_0.lose]).to(device)
            noise = torch.randn_like(both[:count]).repeat(2, 1, 1, 1)
            drawn = torch.randint(0, len(self.path.timesteps), (count,), device=device)
            timestep = self.path.timesteps[drawn].repeat(2)
            x_t = self.path.add_noise(both, noise, timestep)
            prompt = self.plain.encode_prompts([self.store.rows[n]["prompt"] for n in numbers])
            degraded = self.plain.encode_prompts([self.store.rows[n]["degraded_prompt"] for n in numbers])
            inside = self.published_margin(x_t, timestep, prompt, degraded)
            loss = -F.logsigmoid(inside).mean() * settings.micro_batch_pairs / settings.global_batch_pairs
            loss.backward()
            loss.item()
            (inside > 0).float().mean().item()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)

    def published_margin(self, x_t: torch.Tensor, t: torch.Tensor, prompt: Any, degraded: Any) -> torch.Tensor:
        """Four reference rows a pair in three calls, two policy rows; what the log sigmoid is taken of."""
        win, lose = slice(0, len(x_t) // 2), slice(len(x_t) // 2, None)
        with torch.no_grad():
            reference = self.network(self.plain.denoiser, x_t, t, prompt.repeat(2))
            target_win = self.network(self.plain.denoiser, x_t[win], t[win], prompt)
            target_lose = self.network(self.plain.denoiser, x_t[lose], t[lose], degraded)
        target = torch.cat([target_win, target_lose])
        policy = self.network(self.run.policy, x_t, t, prompt.repeat(2))
        m_w, m_l = F.mse_loss(policy, target, reduction="none").mean((1, 2, 3)).chunk(2)
        r_w, r_l = F.mse_loss(reference, target, reduction="none").mean((1, 2, 3)).chunk(2)
        return -0.5 * self.recipe.objective.beta * ((m_w - m_l) - (r_w - r_l))


def timed(way: Callable[[int], None], step: int, clock: Callable[[], float]) -> float:
    synchronize()
    began = clock()
    way(step)
    synchronize()
    return clock() - began


def synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def measure(ways: Ways, repeats: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds per way and repeat; the order turns, so that no way always follows the same one."""
    names = ["floor", "ours", "published"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(-2, repeats):
        for offset in range(3):
            name = names[(repeat + offset) % 3]
            elapsed = timed(getattr(ways, name), repeat + 2, clock)
            if repeat >= 0:  # two rounds of warm-up
                seconds[name].append(elapsed)
    return seconds


def summary(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": median, "low_quartile": low, "high_quartile": high}


def main() -> None:
    arguments = parse_arguments()
    if arguments.repeats < 3:
        raise SystemExit("--repeats must be at least 3")
    with tempfile.TemporaryDirectory() as folder:
        ways = Ways(make_recipe(arguments), Path(folder))
        clock = time.perf_counter if arguments.clock == "wall" else time.process_time
        seconds = measure(ways, arguments.repeats, clock)
    ratios = {
        name: summary([value / floor for value, floor in zip(values, seconds["floor"], strict=True)])
        for name, values in seconds.items()
    }
    print(f"{'way':<10} {'ms per step':>24} {'times the floor':>24}")
    for name, values in seconds.items():
        time_, ratio = summary(values), ratios[name]
        spread = f"{1e3 * time_['low_quartile']:.1f} .. {1e3 * time_['high_quartile']:.1f}"
        ratio_spread = f"{ratio['low_quartile']:.3f} .. {ratio['high_quartile']:.3f}"
        print(f"{name:<10} {1e3 * time_['median']:8.1f} ({spread:>14}) {ratio['median']:7.3f} ({ratio_spread:>14})")
    result = {
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        "environment": describe_environment(),
        "seconds": seconds,
        "seconds_summary": {name: summary(values) for name, values in seconds.items()},
        "times_the_floor": ratios,
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
