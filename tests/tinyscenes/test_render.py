"""The renderer draws what the scene holds, and nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from helpers.scene_draws import draw
from tinyscenes.render import BACKGROUND, PALETTE, WHITE, render, silhouette, texture_pattern
from tinyscenes.scenes import CANVAS_PX, COLORS, SHAPES, TEXTURES, PlacedObject, Scene


def test_pictures_are_deterministic_and_of_palette_colors() -> None:
    allowed = {BACKGROUND, WHITE, *PALETTE.values()}
    for _, _, scene in draw(10):
        image = render(scene)
        assert image.shape == (CANVAS_PX, CANVAS_PX, 3) and image.dtype == np.uint8
        np.testing.assert_array_equal(image, render(scene))
        assert {tuple(map(int, pixel)) for pixel in image.reshape(-1, 3)} <= allowed


def test_nothing_outside_the_silhouette() -> None:
    image = render(Scene((PlacedObject("cross", "red", "plain", 10, 20, 5),)))
    painted = (image != BACKGROUND).any(-1)
    expected = np.zeros((CANVAS_PX, CANVAS_PX), bool)
    expected[15:26, 5:16] = silhouette("cross", 5)
    np.testing.assert_array_equal(painted, expected)
    assert (image[painted] == PALETTE["red"]).all()


def test_empty_scene_is_background() -> None:
    assert (render(Scene(())) == BACKGROUND).all()


def test_every_kind_of_object_looks_different() -> None:
    images = {
        render(Scene((PlacedObject(*facts, 16, 16, 5),))).tobytes()
        for facts in itertools.product(SHAPES, COLORS, TEXTURES)
    }
    assert len(images) == len(SHAPES) * len(COLORS) * len(TEXTURES)


@pytest.mark.parametrize("radius", range(3, 7))
@pytest.mark.parametrize("shape", SHAPES)
def test_silhouettes_are_symmetric_and_textured_ones_show_both_colors(shape: str, radius: int) -> None:
    mask = silhouette(shape, radius)
    assert mask.shape == (2 * radius + 1,) * 2 and mask.any()
    np.testing.assert_array_equal(mask, mask[:, ::-1])
    for texture in ("striped", "checkered"):
        own = texture_pattern(texture)[: 2 * radius + 1, : 2 * radius + 1]
        assert (mask & own).any() and (mask & ~own).any()


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match="hexagon"):
        silhouette("hexagon", 4)
    with pytest.raises(ValueError, match="furry"):
        texture_pattern("furry")
