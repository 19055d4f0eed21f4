"""How close drawing pairs and pictures is to the network calls it cannot do without, and to plain diffusers.

    python benchmarks/drawing.py --threads 1                         the embedded model, on a CPU
    python benchmarks/drawing.py --base FOLDER --precision bf16      a checkpoint that is here, on a GPU

Drawing is most of what a run costs: with 25 steps and guidance a pair takes 100 F, and training on it nine. Ways take
turns on the same prompts and seeds:

    floor      bare network calls: one per step on both sides of a batch of pairs, the unconditional rows with them
    ours       `ddspo.pairs.build.build_pairs`: text, noise, scheduler, shards with checksums on disk
    diffusers  the model's own pipeline, called once for the prompts and once for the degraded prompts of a batch

    decoded    the floor of pictures: the same calls, and the autoencoder
    pictures   `ddspo.evaluation.generate.generate`

Prints medians with quartiles of ratios, each repeat against its own floor; writes JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from step import summary, timed

from ddspo.environment import describe_environment
from ddspo.evaluation.generate import generate
from ddspo.families.load import load_family
from ddspo.families.prompt_table import PromptTable
from ddspo.files import write_jsonl
from ddspo.pairs.build import build_pairs
from ddspo.processes import local_device
from ddspo.recipe import Recipe

PROMPTS = ["a red circle above a blue square", "two green stars", "a yellow star"]
AGAINST = {"ours": "floor", "diffusers": "floor", "pictures": "decoded"}
NAMES = ["floor", "decoded", *AGAINST]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="tinyscenes", help="'tinyscenes', a diffusers folder or a hub id")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--pairs", type=int, default=32, help="and as many pictures")
    parser.add_argument("--batch-images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of a CPU; with 1, time is this process's own")
    parser.add_argument("--output", type=Path, default=Path("drawing.json"))
    return parser.parse_args()


class Drawing:
    """The ways, each a function of the number of the repeat."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.folder, self.count = folder, arguments.pairs
        sampling = {
            "sampler": "ddim",
            "steps": arguments.steps,
            "guidance_scale": arguments.guidance,
            "batch_images": arguments.batch_images,
        }
        model = {"base": arguments.base, "frozen_dtype": arguments.precision}
        self.recipe = Recipe.model_validate({"model": model, "pairs": {"count": self.count, "sampling": sampling}})
        self.sampling = self.recipe.pairs.sampling
        self.family = load_family(arguments.base, dtype=arguments.precision, device=local_device())
        self.prompts = [PROMPTS[number % 3] for number in range(self.count)]
        self.degraded = ["a cat"] * self.count
        rows = zip(self.prompts, self.degraded, strict=True)
        write_jsonl(
            folder / "degraded.jsonl",
            [
                {
                    "id": str(n),
                    "prompt": prompt,
                    "degraded_prompts": [other],
                    "how": [{"kind": "removal", "change": ""}],
                }
                for n, (prompt, other) in enumerate(rows)
            ],
        )
        self.family.fingerprint()  # read once; it is kept
        self.table = PromptTable(self.family, ["", *self.prompts])
        self.text = self.table.lookup([*self.prompts, *self.prompts])
        self.pipeline = DiffusionPipeline.from_pretrained(self.family.base, dtype=self.family.dtype)
        self.pipeline.scheduler = self.family.scheduler("ddim")
        self.pipeline.to(local_device())
        self.pipeline.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def calls(self, pictures: int) -> None:
        """As many network calls, of as many rows, as drawing `pictures` takes."""
        guided = 2 if self.sampling.guidance_scale > 1 else 1
        shape, family = self.family.latent_shape(), self.family
        timesteps = family.noise_path.timesteps
        for start in range(0, pictures, self.sampling.batch_images):
            rows = guided * min(self.sampling.batch_images, pictures - start)
            text = self.text.rows([number % len(self.text) for number in range(rows)])
            x_t = torch.randn(rows, *shape, dtype=family.dtype, device=family.device)
            for step in range(self.sampling.steps):
                family.predict(x_t, timesteps[step].expand(rows).to(family.device), text)

    def floor(self, repeat: int) -> None:
        self.calls(2 * self.count)

    @torch.no_grad()
    def decoded(self, repeat: int) -> None:
        self.calls(self.count)
        self.family.decode(torch.randn(self.count, *self.family.latent_shape()))

    def ours(self, repeat: int) -> None:
        build_pairs(self.recipe, self.folder / "degraded.jsonl", self.folder / f"pairs-{repeat}", family=self.family)

    def pictures(self, repeat: int) -> None:
        generate(self.family, self.prompts, list(range(self.count)), self.sampling, self.table)

    def diffusers(self, repeat: int) -> None:
        size = self.sampling.batch_images // 2
        for start in range(0, self.count, size):
            for side in (self.prompts, self.degraded):
                prompts = side[start : start + size]
                self.pipeline(
                    prompts,
                    num_inference_steps=self.sampling.steps,
                    guidance_scale=self.sampling.guidance_scale,
                    generator=[torch.Generator().manual_seed(start + number) for number in range(len(prompts))],
                    output_type="latent",
                )


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as folder:
        drawing = Drawing(arguments, Path(folder))
        for repeat in range(-1, arguments.repeats):  # one round of warm-up
            for offset in range(len(NAMES)):
                name = NAMES[(repeat + offset) % len(NAMES)]
                elapsed = timed(getattr(drawing, name), repeat, clock)
                if repeat >= 0:
                    seconds[name].append(elapsed)
    ratios: dict[str, Any] = {
        f"{name}/{floor}": summary([a / b for a, b in zip(seconds[name], seconds[floor], strict=True)])
        for name, floor in AGAINST.items()
    }
    print(f"floor {summary(seconds['floor'])['median']:.3f} s for {arguments.pairs} pairs")
    for title, ratio in ratios.items():
        print(f"{title:<18} {ratio['median']:.3f} ({ratio['low_quartile']:.3f}-{ratio['high_quartile']:.3f})")
    record = {
        "settings": {key: str(value) for key, value in vars(arguments).items()},
        "environment": describe_environment(),
        "seconds": seconds,
        "ratios": ratios,
    }
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
