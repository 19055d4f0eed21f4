"""Small preference sets as people publish them: parquet with Pick-a-Pic's columns, tables, folders."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
from PIL import Image

WIDE, TALL, SQUARE = (96, 48), (40, 80), (64, 64)


def picture(number: int, size: tuple[int, int] = SQUARE) -> Image.Image:
    """A gradient of its own, (width, height); left differs from right and top from bottom."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([x, y, np.full_like(x, (37 * number) % 256)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def row(number: int, size: tuple[int, int] = SQUARE, *, label: float | None = 1, **changes: Any) -> dict[str, Any]:
    """One row of Pick-a-Pic; jpg_0 is picture 2n, jpg_1 is picture 2n + 1."""
    return {
        "jpg_0": encoded(picture(2 * number, size)),
        "jpg_1": encoded(picture(2 * number + 1, size)),
        "label_0": label,
        "label_1": None if label is None else 1 - label,
        "caption": f"a cat {number}",
        "are_different": True,
        **changes,
    }


def write_parquet(path: Path, rows: Sequence[dict[str, Any]], group: int = 4, **columns: Any) -> Path:
    """A parquet file with row groups of `group` rows; `columns` sets types of columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(rows[0]) if rows else ["jpg_0", "jpg_1", "label_0", "caption"]
    types = {"jpg_0": arrow.binary(), "jpg_1": arrow.binary(), "label_0": arrow.float64(), "caption": arrow.string()}
    data = {name: arrow.array([row[name] for row in rows], type=(types | columns).get(name)) for name in names}
    parquet.write_table(arrow.table(data), path, row_group_size=group)
    return path


def mixed_rows(count: int = 12) -> list[dict[str, Any]]:
    """Squares, wide and tall pictures in turn, the label changing sides."""
    return [row(n, (SQUARE, WIDE, TALL)[n % 3], label=n % 2) for n in range(count)]


def folder_of_pictures(folder: Path, count: int) -> Path:
    """Folders `chosen` and `rejected` with the pictures of rows, captions beside them."""
    for side, column in (("chosen", "jpg_0"), ("rejected", "jpg_1")):
        (folder / side).mkdir(parents=True)
        for number in range(count):
            (folder / side / f"{number}.png").write_bytes(row(number)[column])
    for number in range(count):
        (folder / f"{number}.txt").write_text(f"a cat {number}")
    return folder
