"""Scores of a whole set of pictures, given features and class probabilities from whatever network the caller has.

Values depend on that network and on the number of pictures: compare only what was measured with the same of both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _root(matrix: Array) -> Array:
    """Symmetric square root of a positive semidefinite matrix; eigenvalues below 0 are rounding and become 0."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T)


def frechet_from_moments(mean_a: Array, covariance_a: Array, mean_b: Array, covariance_b: Array) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians (Dowson & Landau 1982).

        |m_a - m_b|² + tr(C_a + C_b - 2 (C_a^½ C_b C_a^½)^½)

    The symmetric form needs eigenvalues of symmetric matrices only, so singular covariances (fewer pictures than
    features) give a real, non-negative number without any added ridge.
    """
    root = _root(covariance_a)
    overlap = np.linalg.eigvalsh(root @ covariance_b @ root).clip(0)
    spread = np.trace(covariance_a) + np.trace(covariance_b) - 2 * np.sqrt(overlap).sum()
    return float(max(0.0, ((mean_a - mean_b) ** 2).sum() + spread))


def frechet_distance(features: Array, real_features: Array) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features (Heusel et al. 2017), lower is better.

    Args:
        features: of the pictures in question, [N, D].
        real_features: of real pictures, [M, D].

    Raises:
        ValueError: a set has fewer than two pictures, or the numbers of features differ.
    """
    sets = [np.asarray(values, np.float64) for values in (features, real_features)]
    if any(values.ndim != 2 or len(values) < 2 for values in sets) or sets[0].shape[1] != sets[1].shape[1]:
        raise ValueError(f"expected two sets of at least two feature rows, got {sets[0].shape} and {sets[1].shape}")
    (mean_a, covariance_a), (mean_b, covariance_b) = (
        (values.mean(0), np.atleast_2d(np.cov(values, rowvar=False))) for values in sets
    )
    return frechet_from_moments(mean_a, covariance_a, mean_b, covariance_b)


def inception_score(probabilities: Array) -> float:
    """exp(E[KL(p(class | picture) ‖ p(class))]) (Salimans et al. 2016), from 1 to the number of classes, more is good.

    Args:
        probabilities: each picture's class probabilities, [N, K], rows adding up to 1. All pictures are one split.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or len(probabilities) == 0:
        raise ValueError(f"expected class probabilities [pictures, classes], got shape {probabilities.shape}")
    tiny = np.finfo(np.float64).tiny
    marginal = probabilities.mean(0)
    divergence = probabilities * (np.log(probabilities.clip(tiny)) - np.log(marginal.clip(tiny)))
    return float(np.exp(divergence.sum(1).mean()))
