"""Honest intervals and tests for paired comparisons: NumPy and SciPy only, seeded.

The unit that is resampled is the PROMPT: pictures of one prompt share its difficulty, so they stay together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import t as student_t

Array = NDArray[np.float64]
_CHUNK = 1 << 21  # random numbers held at once
_EXACT_BELOW = 13  # up to here every one of the 2^n sign patterns is tried


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its confidence interval."""

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """{"mean", "low", "high"} for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Difference(Interval):
    """A mean difference, its interval, and the two-sided p-value of "there is none"."""

    p_value: float


@dataclass(frozen=True)
class WinRate(Interval):
    """Share of pictures in which the policy beats the reference; a tie counts one half."""

    wins: int
    ties: int
    losses: int


def prompt_means(values: Array) -> Array:
    """[prompts, pictures] (or [prompts]) -> the mean of each prompt, [prompts]."""
    values = np.asarray(values, np.float64)
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError(f"expected values [prompts] or [prompts, pictures], not empty; got shape {values.shape}")
    return values if values.ndim == 1 else values.mean(1)


def _in_chunks(rows: int, width: int, draw: Callable[[int], Array]) -> Array:
    """`draw(n)` for n adding up to `rows`, so that no more than `_CHUNK` numbers are in memory."""
    size = max(1, _CHUNK // max(width, 1))
    return np.concatenate([draw(min(size, rows - start)) for start in range(0, rows, size)])


def _resampled_means(means: Array, samples: int, seed: int) -> Array:
    rng, n = np.random.default_rng(seed), len(means)
    return _in_chunks(samples, n, lambda rows: means[rng.integers(n, size=(rows, n))].mean(1))


def _bca_levels(means: Array, resampled: Array, reach: float) -> tuple[float, float]:
    """Quantile levels of the bias-corrected and accelerated bootstrap (Efron 1987); ties count one half.

    `reach` is where the ends would be in standard deviations of a normal distribution.
    """
    center = means.mean()
    bias = ndtri(((resampled < center).mean() + (resampled <= center).mean()) / 2)
    # Of a mean, the jackknife's deviations are the deviations of the values divided by 1 - n.
    deviations = center - (means.sum() - means) / (len(means) - 1)
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    ends = bias + np.array([-reach, reach])
    # Far out in a skewed tail the correction has a pole; beyond it the level is that of the outermost resample.
    low, high = ndtr(bias + ends / np.maximum(1 - acceleration * ends, 1e-9))
    return float(low), float(high)


def _expansion(n: int, confidence: float) -> float:
    """What widens a bootstrap over n units to the width of Student's t: sqrt(n / (n - 1)) · t / z (Hesterberg 2015)."""
    level = (1 + confidence) / 2
    return float(math.sqrt(n / (n - 1)) * student_t.ppf(level, n - 1) / ndtri(level))


def bootstrap_mean(
    values: Array,
    *,
    samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    method: Literal["bca", "percentile"] = "bca",
) -> Interval:
    """Mean over prompts and its bootstrap interval.

    Args:
        values: [prompts] or [prompts, pictures]; prompts are resampled, a prompt's pictures stay together.
        samples: bootstrap resamples.
        confidence: e.g. 0.95.
        seed: of the resampling.
        method: 'bca' corrects for bias and skewness (Efron 1987), 'percentile' is the plain one. Both are taken at the
            level that makes up for the narrowness of a bootstrap over few prompts, as categories have.

    Returns:
        The interval; of a single prompt, or of prompts that are all alike, it has no width.
    """
    means = prompt_means(values)
    mean = float(means.mean())
    if np.ptp(means) < 1e-12 * max(1.0, abs(mean)):
        return Interval(mean, mean, mean)
    resampled = _resampled_means(means, samples, seed)
    reach = float(_expansion(len(means), confidence) * ndtri((1 + confidence) / 2))
    levels = _bca_levels(means, resampled, reach) if method == "bca" else (ndtr(-reach), ndtr(reach))
    low, high = np.quantile(resampled, levels)
    return Interval(mean, float(low), float(high))


def sign_flip_test(differences: Array, *, samples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of a paired permutation test: under "no difference" each prompt's sign is a coin flip.

    Prompts with difference 0 do not matter. Up to 12 others, all sign patterns are tried and the p-value is exact;
    beyond, (1 + hits) / (1 + samples) over random patterns, which is never below the level it claims.
    """
    means = prompt_means(differences)
    means = means[means != 0]
    n = len(means)
    if n == 0:
        return 1.0
    observed = abs(means.sum()) * (1 - 1e-12)  # equal sums count as hits whatever the order of summation

    def hits(signs: NDArray[Any]) -> NDArray[Any]:
        return np.abs(signs @ means) >= observed

    if n < _EXACT_BELOW:
        patterns = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float(hits(1.0 - 2.0 * patterns).mean())
    rng = np.random.default_rng(seed)
    found = _in_chunks(samples, n, lambda rows: hits(rng.integers(2, size=(rows, n)) * 2.0 - 1.0))
    return float((1 + found.sum()) / (1 + samples))


def paired_difference(
    policy: Array, reference: Array, *, samples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Difference:
    """Mean of policy - reference over the same prompts and seeds, its interval and p-value.

    Args:
        policy: scores [prompts] or [prompts, pictures].
        reference: the same shape, the same prompts and seeds.
        samples: resamples and sign patterns.
        confidence: of the interval.
        seed: of resampling and sign flips.
    """
    policy, reference = np.asarray(policy, np.float64), np.asarray(reference, np.float64)
    if policy.shape != reference.shape:
        raise ValueError(f"scores are not paired: {policy.shape} of the policy, {reference.shape} of the reference")
    differences = policy - reference
    interval = bootstrap_mean(differences, samples=samples, confidence=confidence, seed=seed)
    return Difference(**interval.as_dict(), p_value=sign_flip_test(differences, samples=samples, seed=seed))


def win_rate(
    policy: Array,
    reference: Array,
    *,
    higher_is_better: bool = True,
    samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> WinRate:
    """How often the policy's picture scores better than the reference's of the same prompt and seed; a tie counts ½."""
    ahead = np.sign(np.asarray(policy, np.float64) - np.asarray(reference, np.float64))
    ahead = ahead if higher_is_better else -ahead
    interval = bootstrap_mean((ahead + 1) / 2, samples=samples, confidence=confidence, seed=seed)
    wins, ties, losses = (int((ahead == outcome).sum()) for outcome in (1, 0, -1))
    return WinRate(interval.mean, interval.low, interval.high, wins, ties, losses)


def compare_over_seeds(
    differences: Array, *, samples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Difference:
    """Mean difference over training seeds AND prompts: would another training run, on other prompts, gain too?

    Both are resampled, independently of one another since every seed sees the same prompts (crossed hierarchical
    bootstrap, Owen 2007). With d[s, p] = mean + a[s] + b[p] + r[s, p], a resample is

        mean + k_S · mean(a*) + k_P · mean(b*) + mean(r*)

    where the expansions k undo that a bootstrap over a handful of units is too narrow: three seeds are three draws. It
    is conservative: what seeds and prompts do not explain, r, is in a and b as well, and so counts up to three times
    (Owen 2007). Where r is most of the spread, intervals are up to 1.7 times as wide as they would need to be.

    Args:
        differences: policy - reference, [training seeds, prompts] or [training seeds, prompts, pictures]. With one
            training seed only prompts are resampled, and the result holds for that one run.
        samples: bootstrap resamples.
        confidence: of the interval.
        seed: of the resampling.

    Returns:
        Mean, interval, and twice the smaller share of resamples on one side of 0 as the p-value.
    """
    values = np.asarray(differences, np.float64)
    values = values.mean(2) if values.ndim == 3 else values
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"expected differences [training seeds, prompts], not empty; got shape {values.shape}")
    seeds, prompts = values.shape
    mean = float(values.mean())
    by_seed, by_prompt = values.mean(1) - mean, values.mean(0) - mean
    rest = values - mean - by_seed[:, None] - by_prompt
    widen_seeds, widen_prompts = (_expansion(n, confidence) if n > 1 else 0.0 for n in (seeds, prompts))
    rng = np.random.default_rng(seed)

    def draw(rows: int) -> Array:
        seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), rows) / seeds
        prompt_weights = rng.multinomial(prompts, np.full(prompts, 1 / prompts), rows) / prompts
        crossed = ((seed_weights @ rest) * prompt_weights).sum(1)
        return mean + widen_seeds * (seed_weights @ by_seed) + widen_prompts * (prompt_weights @ by_prompt) + crossed

    resampled = _in_chunks(samples, prompts + seeds, draw)
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    side = min((resampled <= 0).sum(), (resampled >= 0).sum())
    return Difference(mean, float(low), float(high), p_value=float(min(1.0, 2 * (1 + side) / (1 + samples))))
