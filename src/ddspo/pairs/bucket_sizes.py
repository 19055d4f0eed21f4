"""Picture sizes for preference pairs of mixed shapes: about one area, few enough to make full batches.

    step        a multiple of what the network needs (autoencoder factor · patch or U-Net halvings), about side / 16
    buckets     long sides are multiples of the step; the short one is the largest multiple that keeps to the area

At 1024 px this gives SDXL's list (1024×1024, 1152×896, 1216×832, 1344×768, ...).
"""

from __future__ import annotations

import math
from typing import Any

from ..families.pipeline import PipelineFamily

Size = tuple[int, int]
"""(height, width) in pixels"""
_STEPS_PER_SIDE = 16


def needed_multiple_px(family: PipelineFamily) -> int:
    """What picture sizes must be multiples of, so that the denoiser halves or cuts its latents evenly."""
    config: dict[str, Any] = family.folder.config(family.denoiser_part)
    blocks = config.get("block_out_channels")
    cells = 2 ** (len(blocks) - 1) if blocks else int(config.get("patch_size") or 1)
    return math.lcm(family.pixels_per_latent * cells, family.size_multiple_px)


def bucket_sizes(base: Size, multiple: int, max_aspect: float = 2.0) -> list[Size]:
    """The sizes that pictures are brought to, the base first.

    Args:
        base: (height, width) whose area is the target; always one of them.
        multiple: every side is a multiple of it (see `needed_multiple_px`).
        max_aspect: the longest side over the shortest, at most; 1 leaves the base alone.
    """
    area = base[0] * base[1]
    step = multiple * max(1, round(math.sqrt(area) / _STEPS_PER_SIDE / multiple))
    sizes = [base]
    for width in range(step, int(math.sqrt(area * max_aspect)) + step, step):
        height = area // width // step * step
        if 0 < height <= width <= max_aspect * height:
            sizes += [size for size in ((height, width), (width, height)) if size not in sizes]
    return [base] if max_aspect == 1 else sizes


def bucket_for(aspects: tuple[float, float], sizes: list[Size]) -> Size:
    """The bucket of a pair: closest in log aspect (width over height) to the mean of its two pictures.

    Args:
        aspects: width over height of both pictures.
        sizes: from `bucket_sizes`; of two equally close the larger, then the earlier one.
    """
    wanted = (math.log(aspects[0]) + math.log(aspects[1])) / 2
    return min(sizes, key=lambda size: (round(abs(math.log(size[1] / size[0]) - wanted), 9), -size[0] * size[1]))
