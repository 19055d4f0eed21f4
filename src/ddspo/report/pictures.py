"""Pictures as data URIs, small enough that one page holds them all."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

#: pictures up to this size are kept pixel for pixel and enlarged without smoothing
PIXELATED_PX = 64
#: (longest side, WebP quality), tried in turn until all pictures fit
_RUNGS = ((384, 82), (320, 76), (256, 70), (192, 62), (128, 55), (96, 45))


@dataclass(frozen=True)
class Picture:
    """A picture ready for the page."""

    uri: str
    width: int
    height: int

    @property
    def pixelated(self) -> bool:
        """Whether it is to be enlarged without smoothing."""
        return max(self.width, self.height) <= PIXELATED_PX


def inside(folder: Path, name: str) -> Path | None:
    """The file `name` under `folder`, or None if the name leads out of it, is no picture, or does not exist.

    Names come from a file that anybody may have written; the check is made after links are followed.
    """
    pure = PurePosixPath(name)
    if not name or "\0" in name or "\\" in name or pure.is_absolute() or ".." in pure.parts:
        return None
    if pure.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        return None
    try:
        path = (folder / pure).resolve()
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
    except OSError:
        return None


def _open(path: Path) -> Image.Image | None:
    try:
        with warnings.catch_warnings():
            # A picture large enough to be a decompression bomb is no picture of ours.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None


def _encode(image: Image.Image, side: int, quality: int) -> tuple[bytes, str, tuple[int, int]]:
    buffer = io.BytesIO()
    if max(image.size) <= PIXELATED_PX:
        image.save(buffer, "PNG", optimize=True)
        return buffer.getvalue(), "png", image.size
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue(), "webp", small.size


def _fits(paths: Sequence[Path], side: int, quality: int, most_bytes: int) -> bool:
    """Whether a sample of the pictures, scaled up to all of them, stays within the budget with a fifth to spare."""
    sample = paths[:: max(1, len(paths) // 12)]
    sizes = [len(_encode(image, side, quality)[0]) for path in sample if (image := _open(path)) is not None]
    return not sizes or sum(sizes) / len(sizes) * len(paths) <= 0.8 * most_bytes


def embed(paths: Sequence[Path], most_bytes: int) -> dict[Path, Picture]:
    """Encode pictures so that together they take at most about `most_bytes` before base64.

    Small pictures stay as they are (PNG); larger ones become WebP at the largest size that fits.
    Unreadable ones are left out.
    """
    unique = list(dict.fromkeys(paths))
    side, quality = next((rung for rung in _RUNGS if _fits(unique, *rung, most_bytes)), _RUNGS[-1])
    result, used = {}, 0
    for path in unique:
        image = _open(path)
        if image is None:
            continue
        content, kind, (width, height) = _encode(image, side, quality)
        if used + len(content) > most_bytes:
            break
        used += len(content)
        result[path] = Picture(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", width, height)
    return result
