"""Features for set metrics, and the real pictures to compare with: at present for tinyscenes prompts only.

Inception-v3 is neither shipped nor fetched; for other models the set metrics are left out, and a note says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..prompts.sources import PromptRecord
from ..rng import numpy_generator
from .set_metrics import frechet_distance, inception_score

Images = NDArray[np.uint8]
#: real pictures drawn for each evaluation prompt, at least; and in all, at least
_REAL_PER_PROMPT, _REAL_IN_ALL = 4, 2000


@dataclass(frozen=True)
class Features:
    """Features [N, D] and class probabilities [N, K] of N pictures."""

    features: NDArray[np.float64]
    probabilities: NDArray[np.float64]


def why_no_features(records: Sequence[PromptRecord], image_shape: tuple[int, ...]) -> str | None:
    """None when pictures of this shape for these prompts can be measured; otherwise the reason, for the report."""
    from tinyscenes.language import PromptError, parse
    from tinyscenes.scenes import CANVAS_PX

    without = "no Fréchet distance and no Inception Score: a feature network exists for"
    try:
        for record in records:
            parse(record.prompt)
    except PromptError:
        return f"{without} tinyscenes prompts only"
    if image_shape != (CANVAS_PX, CANVAS_PX, 3):
        return f"{without} pictures of {CANVAS_PX}×{CANVAS_PX} pixels only"
    return None


def real_renders(records: Sequence[PromptRecord], seed: int, per_prompt: int, purpose: str = "real") -> Images:
    """Pictures in which the prompts are true, uint8 [len(records) · per_prompt, 32, 32, 3].

    Draws with different words for `purpose` are independent of one another.
    """
    from tinyscenes.language import parse
    from tinyscenes.render import render
    from tinyscenes.scenes import realize

    return np.stack(
        [
            render(realize(parse(record.prompt), numpy_generator(seed, "evaluate", purpose, record.id, index)))
            for record in records
            for index in range(per_prompt)
        ]
    )


def extract_features(batches: Iterable[Images]) -> Features:
    """Features of all pictures of all batches, in order."""
    from tinyscenes.features import extract

    parts = [extract(images) for images in batches]
    return Features(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))


class RealReference:
    """Real renders of the evaluation prompts, with what a perfect model would score against them.

    Args:
        records: the evaluation prompts.
        seed: the run seed.
        images_per_prompt: of the models that will be compared: both metrics depend on the size of the set.
    """

    def __init__(self, records: Sequence[PromptRecord], seed: int, images_per_prompt: int) -> None:
        from tinyscenes.features import DESCRIPTION

        self.description = DESCRIPTION
        per_prompt = max(_REAL_PER_PROMPT, -(-_REAL_IN_ALL // len(records)))
        self._real = extract_features([real_renders(records, seed, per_prompt)])
        perfect = extract_features([real_renders(records, seed, images_per_prompt, "perfect")])
        self.frechet_floor = self.frechet(perfect)
        self.inception_score_real = inception_score(perfect.probabilities)

    def frechet(self, found: Features) -> float | None:
        """Distance to the real renders; None for a single picture, which has no covariance."""
        return frechet_distance(found.features, self._real.features) if len(found.features) > 1 else None
