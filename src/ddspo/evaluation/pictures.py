"""Which pictures an evaluation is made of, and where they lie: lossless PNG files that are whole or absent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from ..files import atomic_path
from ..prompts.sources import PromptRecord
from ..rng import seed_for

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """One picture to draw: the `index`-th for a prompt. Every model draws it from the same seed."""

    record: PromptRecord
    index: int
    seed: int

    def path(self, model: str) -> Path:
        """Where it lies for a model, relative to the evaluation's folder."""
        return Path("images") / model / f"{self.record.id}-{self.index}.png"


def plan_batches(
    records: Sequence[PromptRecord], images_per_prompt: int, batch_images: int, run_seed: int
) -> list[list[Picture]]:
    """All pictures, prompt by prompt, in the batches they are always drawn in: rounding is then the same every time."""
    pictures = [
        Picture(record, index, seed_for(run_seed, "evaluate", record.id, index))
        for record in records
        for index in range(images_per_prompt)
    ]
    return [pictures[start : start + batch_images] for start in range(0, len(pictures), batch_images)]


def write_png(path: Path, image: Images) -> None:
    """Write uint8 [H, W, 3], whole or not at all."""
    with atomic_path(path) as partial:
        Image.fromarray(image).save(partial, format="PNG")


def read_pngs(paths: Sequence[Path]) -> Images:
    """Read pictures of one size, uint8 [N, H, W, 3].

    Raises:
        UserError: one of them cannot be read; names it.
    """
    images = []
    for path in paths:
        try:
            with Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB")))
        except (OSError, SyntaxError) as error:
            raise UserError(
                f"{path} cannot be read as a picture ({error}); delete it and run again to redraw it"
            ) from error
    return np.stack(images)
