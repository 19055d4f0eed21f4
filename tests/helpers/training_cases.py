"""A tiny base, a folder of pairs for it and a recipe: what every test of training starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ddspo.families.load import load_family
from ddspo.files import claim_folder
from ddspo.ledger import Ledger
from ddspo.pairs.store import FORMAT, Layout, write_shard
from ddspo.recipe import Recipe
from ddspo.tensors import WinLose
from ddspo.training import run as run_module
from ddspo.training.checkpoint import save_checkpoint

from .tiny_pipelines import tiny_sd

SHAPE = (4, 8, 8)


def make_pairs(
    folder: Path, base: Path, count: int = 10, fingerprint: str | None = None, degraded: str | None = None
) -> Path:
    """Random latents that carry the base's fingerprint, with prompts of their own; `degraded` makes all alike."""
    fingerprint = fingerprint or load_family(str(base)).fingerprint()
    claim_folder(
        folder,
        {"format": FORMAT, "count": count, "pairs_per_shard": 4, "reference_fingerprint": fingerprint},
        "pairs",
    )
    generator, layout = torch.Generator().manual_seed(5), Layout(folder, count, 4)
    for shard in range(layout.shards):
        numbers = layout.numbers(shard)
        x_0 = WinLose(*(torch.randn((len(numbers), *SHAPE), generator=generator) for _ in range(2)))
        rows = [
            {
                "id": f"pair-{n}",
                "prompt": degraded or f"a red cat {n % 7}",
                "degraded_prompt": degraded or f"a blue dog {n % 3}",
                "seed": n,
            }
            for n in numbers
        ]
        write_shard(layout, shard, x_0, rows, Ledger())
    return folder


def make_case(folder: Path, **training: Any) -> tuple[Recipe, Path]:
    """(recipe, pairs folder) on a tiny base under `folder`; `training` changes fields of `recipe.training`."""
    base = folder / "tiny_sd_epsilon_pndm_0"
    if not base.exists():
        base = tiny_sd(folder)
    pairs = folder / "pairs"
    if not pairs.exists():
        make_pairs(pairs, base)
    return make_recipe(base, **training), pairs


def make_recipe(base: Path | str, **training: Any) -> Recipe:
    """Four steps of four pairs, LoRA of rank 4, a rate and beta at which something moves."""
    settings = {
        "max_steps": 4,
        "global_batch_pairs": 4,
        "micro_batch_pairs": 2,
        "checkpoint_every_steps": 2,
        "lora": {"rank": 4},
        "optimizer": {"learning_rate": 1e-3},
    }
    return Recipe.model_validate(
        {
            "name": "tiny",
            "seed": 3,
            "model": {"base": str(base)},
            "objective": {"beta": 200.0},
            "training": settings | training,
            "evaluation": {"sampling": {"steps": 2}},
        }
    )


def changed(recipe: Recipe, **sections: Any) -> Recipe:
    """The recipe with some sections replaced or, given a dictionary, changed in part."""
    data = recipe.model_dump()
    for name, value in sections.items():
        data[name] = data[name] | value if isinstance(value, dict) else value
    return Recipe.model_validate(data)


def metrics_of(output: Path, *, timing: bool = False) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl, without what the clock decides."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    drop = () if timing else ("seconds", "pairs_per_second")
    return [{name: value for name, value in row.items() if name not in drop} for row in rows]


def policy_bytes(output: Path) -> dict[str, bytes]:
    """Weight files of the policy by name."""
    return {
        str(file.relative_to(output)): file.read_bytes() for file in sorted((output / "policy").rglob("*.safetensors"))
    }


class Killed(Exception):  # noqa: N818
    """Stands in for a kill at a chosen place."""


def stop_in_checkpoint(monkeypatch: pytest.MonkeyPatch, step: int, *, before: bool) -> None:
    """Die while the checkpoint of `step` is due: before it is written, or right after."""

    def dying(folder: Path, checkpoint: Any, keep: int) -> Path:
        if checkpoint.step == step and before:
            raise Killed
        path = save_checkpoint(folder, checkpoint, keep)
        if checkpoint.step == step:
            raise Killed
        return path

    monkeypatch.setattr(run_module, "save_checkpoint", dying)
