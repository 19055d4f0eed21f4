"""The layout that the published DDSPO code writes: one latent a file, of pairs that a model already drew.

    metadata.jsonl               {"id", "prompt", "neg_prompt", "pos_file", "neg_file"}
    latents/ID.safetensors       key "latent", [C, H, W], scaled as the denoiser sees it; latents/ID_neg.safetensors
                                 (.npy files are read too)

That code names files by ids that restart on every process, and skips files that exist, so different prompts may share
one latent. Rows that name the same file for different prompts are left out: which prompt drew it cannot be told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import UserError
from ..files import file_fingerprint, read_jsonl
from .pictures import MISSING
from .source_table import inside
from .sources import NO_CAPTION, Example, Part, Skip, caption, cut

METADATA = "metadata.jsonl"
SHARED, BROKEN_LATENT = "file of several prompts", "broken latent"
_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}
_FIELDS = ("prompt", "pos_file", "neg_file")


class LatentSource:
    """A folder of the published layout.

    Raises:
        UserError: a field is missing, a file lies outside `latents/` or is pickled, or there are no rows.
    """

    def __init__(self, folder: Path, rows_per_part: int, *, channels: int) -> None:
        self.folder, self._channels = folder / "latents", channels
        self._rows = [self._checked(row, number) for number, row in enumerate(read_jsonl(folder / METADATA), 1)]
        if not self._rows:
            raise UserError(f"{folder / METADATA} holds no rows")
        self._told: dict[str, set[str]] = defaultdict(set)
        for row in self._rows:
            self._told[row["pos_file"]].add(str(row["prompt"]))
            self._told[row["neg_file"]].add(f"{row['prompt']}\x1f{row.get('neg_prompt')}")
        self.parts = cut(len(self._rows), rows_per_part)
        self.description: dict[str, Any] = {"kind": "latents", "digest": file_fingerprint([folder / METADATA])}

    def _checked(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        where = f"{METADATA}, row {number}"
        for field in _FIELDS:
            if field not in row:
                raise UserError(f"{where}: no field '{field}' (found: {', '.join(row)})")
        for field in ("pos_file", "neg_file"):
            if not isinstance(row[field], str):
                raise UserError(f"{where}: '{field}' is not the name of a file")
            inside(self.folder, row[field], where)
            if Path(row[field]).suffix.lower() in _PICKLES:
                raise UserError(
                    f"{where}: {row[field]} is a pickle, which is never loaded; where you trust its maker, write every "
                    "file anew with safetensors.torch.save_file({'latent': tensor}, 'latents/ID.safetensors')"
                )
        return row

    def read(self, part: Part) -> Iterator[Example | Skip]:
        """The rows of one part."""
        for number, row in enumerate(self._rows[part.skip : part.skip + part.take], part.skip + 1):
            where = f"{METADATA}, row {number}"
            text = caption(row["prompt"])
            if text is None:
                yield Skip(NO_CAPTION, where)
            elif len(self._told[row["pos_file"]]) > 1 or len(self._told[row["neg_file"]]) > 1:
                yield Skip(SHARED, where)
            else:
                yield self._example(row, text, where)

    def _example(self, row: dict[str, Any], text: str, where: str) -> Example | Skip:
        sides = []
        for field in ("pos_file", "neg_file"):
            path = inside(self.folder, row[field], where)
            if not path.is_file():
                return Skip(MISSING, where)
            latent = _read(path)
            if latent is None or not latent.isfinite().all():
                return Skip(BROKEN_LATENT, where)
            if latent.ndim != 3 or latent.shape[0] != self._channels:
                raise UserError(
                    f"{where}: {row[field]} is a latent of shape {tuple(latent.shape)}; the model of the recipe has "
                    f"({self._channels}, height, width)"
                )
            sides.append(latent)
        if sides[0].shape != sides[1].shape or sides[0].dtype != sides[1].dtype:
            return Skip(BROKEN_LATENT, where)
        return Example(where, text, sides[0], sides[1], caption(row.get("neg_prompt")))


def _read(path: Path) -> Tensor | None:
    """The latent without a leading 1, or None where the file is damaged."""
    try:
        if path.suffix.lower() == ".npy":
            latent = torch.from_numpy(np.load(path, allow_pickle=False))
        else:
            with safe_open(path, framework="pt") as file:
                latent = file.get_tensor("latent")
    except (SafetensorError, OSError, ValueError, TypeError):
        return None
    return latent[0] if latent.ndim == 4 and latent.shape[0] == 1 else latent
