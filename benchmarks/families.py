"""A training step of every family against the network calls it needs and against the published arrangement.

    python benchmarks/families.py --threads 1                    tiny networks of every true architecture, on a CPU
    python benchmarks/families.py --true-size sd15 sdxl          the published sizes with random weights (published.py)
    python benchmarks/families.py --base FOLDER                  one checkpoint that is here

Three ways take turns on the same random pairs in one process (see benchmarks/step.py):

    floor      bare network calls: forward without gradient on 3B rows, forward and backward on 2B rows; nothing else
    ours       `ddspo.training.loop.train_step`
    published  as the released DDSPO code arranges it, rebuilt plainly: a reference network of its own, four reference
               rows, both prompts encoded by all text encoders in every micro step, the autoencoder in memory

Every repeat is compared with its own floor. Weights are the bytes that each way holds. The peak, at true sizes alone,
is that of all tensors during two steps in a process of its own that holds nothing else (peak.py). Tiny networks say
what our code adds, not what true sizes gain: their text encoders are as small as their denoisers, and per-call
overheads weigh more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from family_ways import FamilyWays
from peak import peak_bytes
from published import CHECKPOINTS, write_pipeline
from step import summary, timed, training_section

from ddspo.base_facts import read_base_facts
from ddspo.environment import describe_environment
from ddspo.memory import training_memory
from ddspo.overrides import apply_override
from ddspo.recipe import Recipe

NAMES = ["floor", "ours", "published"]
TINY = ["sd", "sd_v", "sdxl", "sd3", "sana", "flux"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=TINY, choices=TINY, help="which tiny networks")
    parser.add_argument("--true-size", nargs="*", choices=CHECKPOINTS, help="which published sizes, in their place")
    parser.add_argument("--bases", type=Path, help="where those are written and kept; default: a temporary folder")
    parser.add_argument("--base", help="a diffusers folder or hub id, in place of both")
    parser.add_argument("--size-px", type=int, help="of the pictures; default: 64 of tiny networks, else as trained")
    parser.add_argument("--parameters", choices=("lora", "full"), default="lora")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--micro-batch-pairs", type=int, default=4)
    parser.add_argument("--global-batch-pairs", type=int, default=8)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="of the recipe")
    parser.add_argument("--repeats", type=int, default=9, help="0: memory alone")
    parser.add_argument("--peaks", nargs="*", default=NAMES[1:], choices=NAMES[1:], help="at true sizes, of which ways")
    parser.add_argument("--warm-up", type=int, default=2, help="rounds that are not counted")
    parser.add_argument("--threads", type=int, help="of a CPU; with 1, time is this process's own")
    parser.add_argument("--output", type=Path, default=Path("families.json"))
    parser.add_argument("--peak-of", choices=NAMES[1:], help=argparse.SUPPRESS)  # what a process of its own is asked
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


def bases(arguments: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Name -> pipeline folder of everything that is to be measured."""
    if arguments.base:
        return {Path(arguments.base).name: arguments.base}
    if arguments.true_size:
        kept = arguments.bases or folder
        return {name: str(write_pipeline(CHECKPOINTS[name], kept / name)) for name in arguments.true_size}
    return tiny_bases(arguments.families, folder)


def make_recipe(arguments: argparse.Namespace, base: str) -> Recipe:
    true_size = arguments.base or arguments.true_size
    size = arguments.size_px or (None if true_size else 64)
    low = "no" if arguments.precision == "fp32" else arguments.precision
    recipe = {
        "model": {"base": base, "frozen_dtype": arguments.precision, "height_px": size, "width_px": size},
        "objective": {"beta": 1000},
        "training": training_section(arguments, low) | {"gradient_checkpointing": arguments.gradient_checkpointing},
    }
    for override in arguments.set:
        apply_override(recipe, override)
    return Recipe.model_validate(recipe)


def measure(ways: FamilyWays, arguments: argparse.Namespace, clock: Callable[[], float]) -> dict[str, Any]:
    """Seconds per way and repeat, in turns, and bytes of weights."""
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    for repeat in range(-arguments.warm_up, arguments.repeats):
        for offset in range(3):
            name = NAMES[(repeat + offset) % 3]
            elapsed = timed(getattr(ways, name), repeat + arguments.warm_up, clock)
            if repeat >= 0:
                seconds[name].append(elapsed)
    return {"seconds": seconds, "memory_bytes": {name: ways.held_bytes(name) for name in NAMES[1:]}}


def peaks(arguments: argparse.Namespace, base: str) -> dict[str, int]:
    """Peak bytes of an arrangement, each in a process of its own."""
    found = {}
    for name in arguments.peaks:
        command = [sys.executable, __file__, *sys.argv[1:], "--base", base, "--peak-of", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"peak of {name}: {done.stderr[-2000:]}")
        found[name] = int(done.stdout.splitlines()[-1])
    return found


def peak_of(arguments: argparse.Namespace, name: str) -> int:
    """Bytes that two steps of one way need at their peak, its weights included."""
    with tempfile.TemporaryDirectory() as folder:
        ways = FamilyWays(make_recipe(arguments, arguments.base), Path(folder), published=name == "published")
        return peak_bytes(lambda: [getattr(ways, name)(step) for step in range(2)])


def planned(recipe: Recipe) -> int | None:
    """The peak that `--dry-run` foretells; None for a model that is not on this machine."""
    facts = read_base_facts(recipe.model)
    return None if facts is None else training_memory(recipe, facts).total


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.peak_of:
        print(peak_of(arguments, arguments.peak_of))
        return
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    true_size, results = arguments.base or arguments.true_size, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for family, base in bases(arguments, folder).items():
            result: dict[str, Any] = {}
            if true_size:
                result = {"peak_bytes": peaks(arguments, base), "planned_bytes": planned(make_recipe(arguments, base))}
            if arguments.repeats:
                (folder / f"work-{family}").mkdir()
                ways = FamilyWays(make_recipe(arguments, base), folder / f"work-{family}")
                result |= measure(ways, arguments, clock)
                del ways
            results[family] = result
            print("\n".join(lines(family, result)), flush=True)
            record = {
                "settings": {key: str(value) for key, value in vars(arguments).items()},
                "environment": describe_environment(),
                "families": results,
            }
            arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {arguments.output}")


def lines(family: str, result: dict[str, Any]) -> list[str]:
    """What is printed of one family; adds the paired ratios to the result."""
    told = []
    if "seconds" in result:
        seconds, pairs = result["seconds"], [("ours", "floor"), ("published", "floor"), ("ours", "published")]
        result["ratios"] = {
            f"{one}/{two}": summary([a / b for a, b in zip(seconds[one], seconds[two], strict=True)])
            for one, two in pairs
        }
        told.append(f"floor {1e3 * summary(seconds['floor'])['median']:.1f} ms")
        for title, ratio in result["ratios"].items():
            told.append(f"{title} {ratio['median']:.3f} ({ratio['low_quartile']:.3f}-{ratio['high_quartile']:.3f})")
    for title, key in (("weights", "memory_bytes"), ("peak", "peak_bytes")):
        if len(result.get(key, {})) == 1:
            told += [f"{title} of {name} {size / 1e9:.2f} GB" for name, size in result[key].items()]
        elif result.get(key):
            ours, published = result[key]["ours"], result[key]["published"]
            told.append(f"{title} {ours / 1e9:.2f} of {published / 1e9:.2f} GB, {ours / published:.2f}")
    if result.get("planned_bytes"):
        told.append(f"planned {result['planned_bytes'] / 1e9:.2f} GB")
    return [f"{family:<6} {line}" for line in told]


if __name__ == "__main__":
    main()
