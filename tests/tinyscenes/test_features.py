"""The feature network: what it can tell, and that its numbers move with the pictures."""

from __future__ import annotations

import numpy as np
import pytest

from tinyscenes.build.features import largest_class, save_features, train_features
from tinyscenes.features import CLASSES, FEATURES, WEIGHTS, extract, load_feature_network
from tinyscenes.render import render
from tinyscenes.scenes import PlacedObject, Scene, realize, sample_description


def _scenes(count: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [realize(sample_description(rng, "color"), rng) for _ in range(count)]


def test_shipped_network_reads_the_largest_object() -> None:
    scenes = _scenes(400, 0)
    features, probabilities = extract(np.stack([render(scene) for scene in scenes]))
    assert features.shape == (400, FEATURES) and probabilities.shape == (400, len(CLASSES))
    np.testing.assert_allclose(probabilities.sum(1), 1)
    right = np.mean(probabilities.argmax(1) == [largest_class(scene) for scene in scenes])
    assert right > 0.9


def test_extraction_is_independent_of_the_batch() -> None:
    images = np.stack([render(scene) for scene in _scenes(10, 1)])
    np.testing.assert_allclose(extract(images)[0], extract(images, batch=3)[0], atol=1e-5)


def test_largest_class_and_its_ties() -> None:
    small, low, high = (
        PlacedObject("circle", "red", "plain", 6, 6, 4),
        PlacedObject("cross", "blue", "plain", 20, 24, 6),
        PlacedObject("square", "cyan", "plain", 24, 8, 6),
    )
    assert CLASSES[largest_class(Scene((small, low)))] == ("cross", "blue")
    assert CLASSES[largest_class(Scene((small, low, high)))] == ("square", "cyan")


def test_weights_are_small() -> None:
    assert WEIGHTS.stat().st_size < 1_000_000


def test_training_is_reproducible_and_saved_whole(tmp_path) -> None:  # type: ignore[no-untyped-def]
    lines: list[str] = []
    networks = [train_features(7, 3, lines.append, batch=8) for _ in range(2)]
    images = np.stack([render(scene) for scene in _scenes(4, 2)])
    first, second = (extract(images, network)[0] for network in networks)
    np.testing.assert_array_equal(first, second)
    assert len(lines) == 2 and "3/3" in lines[0]
    assert not np.allclose(first, extract(images, load_feature_network())[0])
    save_features(networks[0], tmp_path / "weights" / "features.safetensors")
    assert (tmp_path / "weights" / "features.safetensors").stat().st_size == pytest.approx(
        WEIGHTS.stat().st_size, rel=0.01
    )
