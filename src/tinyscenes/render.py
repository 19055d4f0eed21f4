"""Draw a scene as a 32×32 picture: hard-edged pixel art on a dark ground, no noise, no antialiasing."""

from __future__ import annotations

from functools import cache

import numpy as np

from .scenes import CANVAS_PX, PlacedObject, Scene

BACKGROUND = (28, 28, 36)
WHITE = (245, 245, 245)
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (225, 45, 45),
    "green": (45, 180, 70),
    "blue": (55, 90, 235),
    "yellow": (240, 215, 50),
    "magenta": (225, 70, 200),
    "cyan": (60, 205, 220),
}


@cache
def silhouette(shape: str, radius: int) -> np.ndarray:
    """Boolean mask of a shape, [2·radius + 1, 2·radius + 1]."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(float)
    if shape == "circle":
        return x * x + y * y <= (radius + 0.3) ** 2
    if shape == "square":
        return (abs(x) <= radius * 0.88) & (abs(y) <= radius * 0.88)
    if shape == "triangle":
        return (y <= radius * 0.9) & (abs(x) <= (y + radius) / 2 * 1.05)
    if shape == "cross":
        return (abs(x) <= radius * 0.38) | (abs(y) <= radius * 0.38)
    raise ValueError(f"unknown shape '{shape}'")


@cache
def texture_pattern(texture: str) -> np.ndarray:
    """True where an object shows its own color, False where it shows white; fixed to the canvas, [32, 32]."""
    y, x = np.mgrid[:CANVAS_PX, :CANVAS_PX] // 2
    if texture == "plain":
        return np.ones((CANVAS_PX, CANVAS_PX), bool)
    if texture == "striped":
        return y % 2 == 0
    if texture == "checkered":
        return (x + y) % 2 == 0
    raise ValueError(f"unknown texture '{texture}'")


def _draw(image: np.ndarray, thing: PlacedObject) -> None:
    window = np.s_[
        thing.y - thing.radius : thing.y + thing.radius + 1, thing.x - thing.radius : thing.x + thing.radius + 1
    ]
    mask = silhouette(thing.shape, thing.radius)
    own = texture_pattern(thing.texture)[window]
    image[window][mask & own] = PALETTE[thing.color]
    image[window][mask & ~own] = WHITE


def render(scene: Scene) -> np.ndarray:
    """The picture of a scene, uint8 [32, 32, 3]. Deterministic."""
    image = np.empty((CANVAS_PX, CANVAS_PX, 3), np.uint8)
    image[:] = BACKGROUND
    for thing in scene.objects:
        _draw(image, thing)
    return image
