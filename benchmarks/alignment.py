"""Base, fine-tuning on winners, Diffusion-DPO and DDSPO on the same pairs, for the same network evaluations.

    python benchmarks/alignment.py runs/alignment [--seeds 3] [--base FOLDER] [--set A.B=C] [--workers 2]

The matrix is `benchmarks/alignment.yaml`; this script only puts its flags into it and runs `ddspo compare`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ddspo.comparison.matrix import load_matrix
from ddspo.comparison.plan import plan_text
from ddspo.comparison.run import compare, result_path

MATRIX = Path(__file__).with_name("alignment.yaml")


def main() -> None:
    """Parse arguments, run, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, help="this many training seeds")
    parser.add_argument("--base", default="tinyscenes", help="the model: a folder, or tinyscenes")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="A.B=C")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    matrix, base = load_matrix(MATRIX, [f"model.base={arguments.base}", *arguments.overrides], arguments.out)
    if arguments.seeds:
        matrix = matrix.model_copy(update={"seeds": tuple(range(arguments.seeds))})
    if arguments.dry_run:
        print(plan_text(matrix, base))
        return
    compare(matrix, base, processes=arguments.workers)
    for where in matrix.heldout:
        print(result_path(base.output, matrix, where).with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":  # worker processes import this file as well
    main()
