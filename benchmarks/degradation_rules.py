"""Try the rules on a folder of real prompt lists: coverage per list, variants per kind, speed, and a sample to judge.

    python benchmarks/degradation_rules.py FOLDER [--sample 100] [--seed 0]

FOLDER holds .txt lists (one prompt a line) and .jsonl lists with a field "prompt" (and perhaps "tag"), at any depth.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np

from ddspo.errors import UserError
from ddspo.prompts.rules.degrader import RulesDegrader
from ddspo.prompts.sources import read_prompts
from ddspo.prompts.variants import Variant, degrade_one
from ddspo.rng import numpy_generator


def lists(folder: Path) -> dict[tuple[str, str], list[str]]:
    """(file, list in it) -> prompts."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted([*folder.rglob("*.txt"), *folder.rglob("*.jsonl")]):
        if "license" in path.name.lower() or "readme" in path.name.lower():
            continue
        for record in read_prompts(str(path)):
            name = f"{path.parent.name}/{record.meta.get('tag', path.stem)}"
            found.setdefault((path.stem, name), []).append(record.prompt)
    if not found:
        raise UserError(f"{folder} holds no .txt or .jsonl list")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample", type=int, default=0, help="print so many random variants of every file to judge")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    degrader, kinds = RulesDegrader(), Counter[str]()
    by_file: dict[str, list[tuple[str, Variant]]] = {}
    print("| list | unique prompts | with 3 or more variants | with none | mean variants of 5 |")
    print("|---|---:|---:|---:|---:|")
    prompts = 0
    started = time.process_time()
    for (file, name), texts in lists(arguments.folder).items():
        counts = []
        for text in texts:
            made = degrade_one(degrader, text, numpy_generator(arguments.seed, "benchmark", text), 5).variants
            counts.append(len(made))
            kinds.update(variant.kind for variant in made)
            by_file.setdefault(file, []).extend((text, variant) for variant in made)
        prompts += len(texts)
        several, none = np.mean(np.array(counts) >= 3), counts.count(0)
        print(f"| {name} | {len(texts)} | {several:.1%} | {none} | {np.mean(counts):.2f} |")
    seconds = time.process_time() - started
    print(f"\n{prompts} prompts, {kinds.total()} variants, {1e3 * seconds / prompts:.2f} ms of one core per prompt")
    print("\n| kind | variants |\n|---|---:|")
    for kind, count in kinds.most_common():
        print(f"| {kind} | {count} |")
    for file, variants in by_file.items() if arguments.sample else ():
        print(f"\n{file}")
        order = numpy_generator(arguments.seed, "sample", file).permutation(len(variants))[: arguments.sample]
        for number, index in enumerate(order.tolist(), 1):
            text, variant = variants[index]
            print(f"{number}. {text}\n   {variant.kind}: {variant.text}")


if __name__ == "__main__":
    main()
