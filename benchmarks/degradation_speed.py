"""How long one core takes to degrade a long list of real prompts, and in how much memory: the stage from file to file.

    python benchmarks/degradation_speed.py FOLDER [--prompts 200000] [--method rules]

FOLDER holds .txt and .jsonl lists, as for `degradation_rules.py`. Public lists are short, so every prompt is taken with
one style phrase after another behind it until there are enough; all are unique.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from itertools import islice, product
from pathlib import Path

from degradation_rules import lists

from ddspo.prompts.degrade import degrade_prompts
from ddspo.prompts.stream import open_prompts
from ddspo.recipe import Degradation

STYLES = ["", *(f", {one} {two}" for one in
    ("oil", "watercolor", "digital", "pencil", "acrylic", "pastel", "ink", "charcoal", "gouache", "vector")
    for two in ("painting", "drawing", "illustration", "sketch", "art", "poster", "print", "portrait", "study", "mural")
)]  # fmt: skip


def main() -> None:
    """Write the list, degrade it, print seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompts", type=int, default=200_000)
    parser.add_argument("--method", default="rules", choices=("rules", "removal"))
    parser.add_argument("--units", default="words", choices=("words", "content_words", "phrases"))
    arguments = parser.parse_args()
    prompts = list(dict.fromkeys(prompt.rstrip(" .") for texts in lists(arguments.folder).values() for prompt in texts))
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "prompts.txt", Path(folder) / "degraded.jsonl"
        with source.open("w", encoding="utf-8") as file:
            file.writelines(f"{p}{style}\n" for style, p in islice(product(STYLES, prompts), arguments.prompts))
        del prompts
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        settings = Degradation(method=arguments.method, remove_units=arguments.units)
        wall, cpu = time.monotonic(), time.process_time()
        summary = degrade_prompts(settings, open_prompts(str(source)), output, seed=0)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{summary.prompts} prompts, {summary.variants} variants by {arguments.method}, {summary.skipped}")
        print(f"{wall:.1f} s, {cpu:.1f} s of one core, {1e3 * cpu / summary.prompts:.3f} ms per prompt")
        print(f"peak memory {after / 1024:.0f} MB, {before / 1024:.0f} MB before the first prompt")


if __name__ == "__main__":
    main()
