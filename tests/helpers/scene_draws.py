"""Descriptions and scenes that several tests draw."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyscenes.scenes import CATEGORIES, Category, Description, Scene, realize, sample_description, sample_single


def draw(count: int, seed: int = 0) -> Iterator[tuple[Category | None, Description, Scene]]:
    """`count` descriptions of every category, and of single things (category None), each with a scene of it."""
    for number, category in enumerate((*CATEGORIES, None)):
        rng = np.random.default_rng([seed, number])
        for _ in range(count):
            description = sample_single(rng) if category is None else sample_description(rng, category)
            yield category, description, realize(description, rng)
