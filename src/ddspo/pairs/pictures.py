"""Pictures of a preference pair: decoded with care, brought to one size by the same crop and the same flip."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .bucket_sizes import Size, bucket_for

BROKEN, MISSING, TOO_SMALL = "broken picture", "missing picture", "too small"
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
"""what is read: not all that Pillow knows, because for EPS it starts Ghostscript on bytes from elsewhere"""


class UnusablePictureError(Exception):
    """Why a pair is left out: the reason that is counted."""


@dataclass(frozen=True)
class PicturePair:
    """Both sides of a pair at one size.

    Attributes:
        win, lose: uint8, [3, H, W].
        sizes: for the index: size, original sizes and crops in pixels, as (height, width) and (top, left).
    """

    win: Tensor
    lose: Tensor
    sizes: dict[str, Any]


def prepare_pair(
    win: bytes | Path, lose: bytes | Path, buckets: list[Size], *, flipped: bool, max_upscale: float
) -> PicturePair:
    """Decode both pictures, choose one bucket for them, and cut the same middle part out of each.

    Each is scaled so that it just covers the bucket, and what sticks out is cut off evenly on both sides. The crop
    that the index tells is in pixels of the scaled picture, as SDXL's size conditioning counts it.

    Args:
        win, lose: an encoded picture, or the file that holds it.
        buckets: from `bucket_sizes`.
        flipped: mirror both.
        max_upscale: pictures that would have to grow by more are left out.

    Raises:
        UnusablePictureError: missing, broken or too small.
    """
    pictures = decode(win), decode(lose)
    height, width = bucket_for((_aspect(pictures[0]), _aspect(pictures[1])), buckets)
    sizes: dict[str, Any] = {"height_px": height, "width_px": width, "flipped": flipped}
    sides = []
    for name, picture in zip(("win", "lose"), pictures, strict=True):
        scale = max(width / picture.width, height / picture.height)
        if scale > max_upscale:
            raise UnusablePictureError(TOO_SMALL)
        # No more than there is: the quotient of a quotient may be larger by its rounding, which Pillow refuses.
        kept_width, kept_height = min(width / scale, picture.width), min(height / scale, picture.height)
        left, top = (picture.width - kept_width) / 2, (picture.height - kept_height) / 2
        box = (left, top, left + kept_width, top + kept_height)
        sizes[f"original_{name}_px"] = [picture.height, picture.width]
        sizes[f"crop_{name}_px"] = [round(top * scale), round(left * scale)]
        fitted = picture.resize((width, height), Image.Resampling.LANCZOS, box=box)
        sides.append(ImageOps.mirror(fitted) if flipped else fitted)
    return PicturePair(_tensor(sides[0]), _tensor(sides[1]), sizes)


def decode(picture: bytes | Path) -> Image.Image:
    """An RGB picture, upright by its EXIF orientation; what is transparent becomes white.

    Raises:
        UnusablePictureError: the file is missing, or no whole picture.
    """
    try:
        data = picture if isinstance(picture, bytes) else picture.read_bytes()
    except OSError as error:
        raise UnusablePictureError(MISSING) from error
    if not data:
        raise UnusablePictureError(MISSING)
    try:
        with _opened(data) as opened:
            opened.verify()
        with _opened(data) as opened:
            return _plain(ImageOps.exif_transpose(opened))
    except (OSError, SyntaxError, ValueError, EOFError, UnidentifiedImageError) as error:
        raise UnusablePictureError(BROKEN) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnusablePictureError(BROKEN) from error


def _opened(data: bytes) -> Image.Image:
    """The picture, not decoded yet; Pillow's limit holds without the warning filters, which all threads share."""
    opened = Image.open(io.BytesIO(data), formats=_known_formats())
    if Image.MAX_IMAGE_PIXELS is not None and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
        raise UnusablePictureError(BROKEN)
    return opened


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    built = set(Image.registered_extensions().values())
    return tuple(name for name in FORMATS if name in built)


def _plain(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at 255 instead of scaling them
        picture = Image.fromarray((np.asarray(picture).clip(0, 0xFFFF) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return picture.convert("RGB")


def _aspect(picture: Image.Image) -> float:
    return picture.width / picture.height


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1)
