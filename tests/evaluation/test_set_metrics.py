"""Set metrics against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from ddspo.evaluation.set_metrics import frechet_distance, frechet_from_moments, inception_score


def test_frechet_of_diagonal_gaussians() -> None:
    mean_a, mean_b = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0])
    variance_a, variance_b = np.array([1.0, 4.0, 0.25]), np.array([9.0, 4.0, 1.0])
    expected = ((mean_a - mean_b) ** 2).sum() + ((np.sqrt(variance_a) - np.sqrt(variance_b)) ** 2).sum()
    assert frechet_from_moments(mean_a, np.diag(variance_a), mean_b, np.diag(variance_b)) == pytest.approx(expected)


def test_frechet_of_full_covariances_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(150, 6)) + 1
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    cross = linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * cross)
    assert frechet_distance(a, b) == pytest.approx(expected)
    assert frechet_distance(b, a) == pytest.approx(expected)


def test_frechet_of_drawn_gaussians_approaches_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20_000, 4)), 2 * rng.normal(size=(20_000, 4)) + 1
    assert frechet_distance(a, b) == pytest.approx(4 * 1 + 4 * 1, rel=0.03)


def test_frechet_is_zero_on_itself_and_safe_when_singular() -> None:
    few = np.random.default_rng(0).normal(size=(5, 64))  # fewer pictures than features
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(np.zeros((4, 8)), np.ones((4, 8))) == pytest.approx(8)
    assert np.isfinite(frechet_distance(few, few + 1e-3))
    assert frechet_distance(few[:, :1], few[:, :1] + 2) == pytest.approx(4)


def test_frechet_refuses_what_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least two"):
        frechet_distance(np.zeros((1, 4)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match="feature rows"):
        frechet_distance(np.zeros((5, 3)), np.zeros((5, 4)))


def test_inception_score_ends_of_the_scale() -> None:
    assert inception_score(np.eye(10)) == pytest.approx(10)  # sure and diverse
    assert inception_score(np.full((7, 10), 0.1)) == pytest.approx(1)  # unsure
    assert inception_score(np.eye(10)[[3] * 5]) == pytest.approx(1)  # sure, always the same


def test_inception_score_by_hand() -> None:
    probabilities = np.array([[0.75, 0.25], [0.25, 0.75]])
    divergence = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert inception_score(probabilities) == pytest.approx(np.exp(divergence))
    with pytest.raises(ValueError, match="class probabilities"):
        inception_score(np.zeros((0, 3)))
