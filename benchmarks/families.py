"""A training step of every family against the network calls it needs and against the published arrangement.

    python benchmarks/families.py --threads 1                    tiny networks of every true architecture, on a CPU
    python benchmarks/families.py --base FOLDER                  one real checkpoint, at its size, on a GPU

Three ways take turns on the same random pairs in one process (see benchmarks/step.py):

    floor      bare network calls: forward without gradient on 3B rows, forward and backward on 2B rows; nothing else
    ours       `ddspo.training.loop.train_step`
    published  as the released DDSPO code arranges it, rebuilt plainly: a reference network of its own, four reference
               rows, both prompts encoded by all text encoders in every micro step, the autoencoder in memory

Every repeat is compared with its own floor. Memory: the peak that the device's allocator reports (CUDA); on a CPU the
bytes of the weights that each way holds. Tiny networks say what our code adds, not what true sizes gain: their text
encoders are as small as their denoisers, and per-call overheads weigh more.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from step import PROMPTS, Ways, make_pairs, summary, synchronize, timed

from ddspo.environment import describe_environment
from ddspo.families.load import load_family
from ddspo.recipe import Recipe
from ddspo.training.run import Run
from ddspo.training.setup import start_accelerator

NAMES = ["floor", "ours", "published"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="a diffusers folder or hub id; default: tiny networks of every family")
    parser.add_argument("--families", nargs="*", default=["sd", "sd_v", "sdxl", "sd3", "sana", "flux"])
    parser.add_argument("--size-px", type=int, default=64, help="of the pictures, on tiny networks")
    parser.add_argument("--parameters", choices=("lora", "full"), default="lora")
    parser.add_argument("--micro-batch-pairs", type=int, default=4)
    parser.add_argument("--global-batch-pairs", type=int, default=8)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, help="of a CPU; its time is this process's own")
    parser.add_argument("--output", type=Path, default=Path("families.json"))
    return parser.parse_args()


def tiny_bases(names: list[str], folder: Path) -> dict[str, str]:
    """Random-weight pipelines of the true architectures, as the tests build them."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from helpers.tiny_families import tiny_flux, tiny_sana, tiny_sd3, tiny_sdxl
    from helpers.tiny_pipelines import tiny_sd

    builders: dict[str, Callable[[Path], Path]] = {
        "sd": tiny_sd,
        "sd_v": lambda path: tiny_sd(path, "v_prediction", "ddim"),
        "sdxl": tiny_sdxl,
        "sd3": tiny_sd3,
        "sana": tiny_sana,
        "flux": tiny_flux,
    }
    return {name: str(builders[name](folder)) for name in names}


def make_recipe(arguments: argparse.Namespace, base: str) -> Recipe:
    size = None if arguments.base else arguments.size_px
    low = "no" if arguments.precision == "fp32" else arguments.precision
    return Recipe.model_validate(
        {
            "model": {"base": base, "frozen_dtype": arguments.precision, "height_px": size, "width_px": size},
            "objective": {"beta": 1000},
            "training": {
                "parameters": arguments.parameters,
                "lora": {"rank": 16},
                "max_steps": 10**6,
                "global_batch_pairs": arguments.global_batch_pairs,
                "micro_batch_pairs": arguments.micro_batch_pairs,
                "mixed_precision": low,
                "gradient_checkpointing": arguments.gradient_checkpointing,
            },
        }
    )


class FamilyWays(Ways):
    """The three ways at a chosen size, with a reference network of its own for the published one."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.accelerator = recipe, start_accelerator(recipe, folder / "run")
        model, device = recipe.model, self.accelerator.device
        self.plain = load_family(model.base, dtype=model.frozen_dtype, device=device)
        shape = self.plain.latent_shape(model.height_px, model.width_px)
        self.store = make_pairs(folder / "pairs", shape, self.plain.fingerprint())
        self.path = self.plain.noise_path
        (folder / "run").mkdir()
        family = load_family(model.base, dtype=model.frozen_dtype, device=device)
        self.run = Run(recipe, self.store, folder / "run", family, self.accelerator)
        self.batches = [micro.pairs for micro in self.run.batches.micro_batches(0)]
        self.parameters = list(self.run.parameters.values())
        self.adamw = torch.optim.AdamW(self.parameters, lr=0.0)
        self.plain.encode_prompts(PROMPTS)
        self.plain.part("vae")

    def floor(self, step: int) -> None:
        for batch in self.batches:
            rows = batch.prompt.repeat(3)
            self.run.roles.predict("reference", batch.noise.repeat(3, 1, 1, 1), batch.timestep.repeat(3), rows)
            x_t, timestep = batch.noise.repeat(2, 1, 1, 1), batch.timestep.repeat(2)
            self.run.roles.predict("policy", x_t, timestep, batch.prompt.repeat(2)).mean().backward()
        self.run.optimizer.zero_grad(set_to_none=True)

    def published(self, step: int) -> None:
        settings, device = self.recipe.training, self.accelerator.device
        for start in range(0, settings.global_batch_pairs, settings.micro_batch_pairs):
            numbers = list(range(start, start + settings.micro_batch_pairs))
            x_0, count = self.store.read(numbers), len(numbers)
            both = torch.cat([x_0.win, x_0.lose]).to(device)
            noise = torch.randn_like(both[:count]).repeat(2, 1, 1, 1)
            timestep = self.path.timesteps[torch.randint(0, len(self.path.timesteps), (count,))].repeat(2).to(device)
            x_t = self.path.add_noise(both, noise, timestep)
            prompt = self.plain.encode_prompts([self.store.rows[n]["prompt"] for n in numbers])
            degraded = self.plain.encode_prompts([self.store.rows[n]["degraded_prompt"] for n in numbers])
            loss = self.published_loss(x_t, timestep, prompt, degraded)
            (loss * settings.micro_batch_pairs / settings.global_batch_pairs).backward()
            loss.item()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)

    def published_loss(self, x_t: torch.Tensor, t: torch.Tensor, prompt: Any, degraded: Any) -> torch.Tensor:
        count = len(x_t) // 2
        win, lose = slice(0, count), slice(count, None)
        with torch.no_grad():
            reference = self.network(self.plain.denoiser, x_t, t, prompt.repeat(2))
            target_win = self.network(self.plain.denoiser, x_t[win], t[win], prompt)
            target_lose = self.network(self.plain.denoiser, x_t[lose], t[lose], degraded)
        target = torch.cat([target_win, target_lose])
        policy = self.network(self.run.policy, x_t, t, prompt.repeat(2))
        m_w, m_l = (policy - target).square().mean((1, 2, 3)).chunk(2)
        r_w, r_l = (reference - target).square().mean((1, 2, 3)).chunk(2)
        return -torch.nn.functional.logsigmoid(-0.5 * 1000 * ((m_w - m_l) - (r_w - r_l))).mean()

    def held_bytes(self, name: str) -> int:
        """Weights that a way needs in memory: ours the run's networks, the published one its own and all parts."""
        networks = {id(module): module for module in (self.run.roles.trained, self.run.roles._frozen) if module}
        if name == "published":
            networks = {id(self.run.roles.trained): self.run.roles.trained}
            parts = [self.plain.denoiser, self.plain.part("vae")]
            parts += [self.plain.part(encoder) for encoder in self.plain.text_parts]
            networks |= {id(module): module for module in parts}
        return sum(p.numel() * p.element_size() for module in networks.values() for p in module.parameters())


def measure(ways: FamilyWays, repeats: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Seconds per way and repeat, in turns, and memory."""
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    memory = {name: ways.held_bytes(name) for name in NAMES}
    cuda = torch.cuda.is_available()
    for repeat in range(-2, repeats):
        for offset in range(3):
            name = NAMES[(repeat + offset) % 3]
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            elapsed = timed(getattr(ways, name), repeat + 2, clock)
            if repeat >= 0:
                seconds[name].append(elapsed)
    if cuda:
        memory = {name: device_peak(ways, name, repeats + 10) for name in NAMES}
    return {"seconds": seconds, "memory_bytes": memory}


def device_peak(ways: FamilyWays, name: str, step: int) -> int:
    """Peak of the allocator during one step, without what only the other ways hold."""
    others = ways.held_bytes("published") - ways.held_bytes("ours") if name != "published" else 0
    torch.cuda.reset_peak_memory_stats()
    getattr(ways, name)(step)
    synchronize()
    return torch.cuda.max_memory_allocated() - max(others, 0)


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    results: dict[str, Any] = {}
    print(
        f"{'family':<8} {'floor ms':>9} {'ours/floor':>22} {'published/floor':>22} {'ours/published':>22} {'memory':>7}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bases = {"base": arguments.base} if arguments.base else tiny_bases(arguments.families, folder)
        for family, base in bases.items():
            (folder / f"work-{family}").mkdir()
            ways = FamilyWays(make_recipe(arguments, base), folder / f"work-{family}")
            results[family] = measure(ways, arguments.repeats, clock)
            print(line(family, results[family]), flush=True)
    record = {
        "settings": {key: str(value) for key, value in vars(arguments).items()},
        "environment": describe_environment(),
        "families": results,
    }
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {arguments.output}; memory is ours / published")


def line(family: str, result: dict[str, Any]) -> str:
    """One row of the table; adds the paired ratios to the result."""
    seconds, memory = result["seconds"], result["memory_bytes"]
    pairs = {"ours/floor": ("ours", "floor"), "published/floor": ("published", "floor")}
    pairs["ours/published"] = ("ours", "published")
    result["ratios"] = {
        title: summary([a / b for a, b in zip(seconds[one], seconds[two], strict=True)])
        for title, (one, two) in pairs.items()
    }
    cells = [
        f"{ratio['median']:7.3f} ({ratio['low_quartile']:.3f}-{ratio['high_quartile']:.3f})"
        for ratio in result["ratios"].values()
    ]
    floor = 1e3 * summary(seconds["floor"])["median"]
    share = memory["ours"] / memory["published"]
    return f"{family:<8} {floor:9.1f} {cells[0]:>22} {cells[1]:>22} {cells[2]:>22} {share:7.2f}"


if __name__ == "__main__":
    main()
