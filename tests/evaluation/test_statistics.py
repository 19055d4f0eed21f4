"""Intervals and tests against hand-computed values, SciPy, and their own promise of coverage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from ddspo.evaluation.statistics import (
    bootstrap_mean,
    compare_over_seeds,
    paired_difference,
    prompt_means,
    sign_flip_test,
    win_rate,
)


def test_prompt_means_keep_pictures_together() -> None:
    np.testing.assert_allclose(prompt_means(np.array([[1.0, 0.0], [1.0, 1.0]])), [0.5, 1.0])
    with pytest.raises(ValueError, match="not empty"):
        prompt_means(np.zeros((0, 2)))


@pytest.mark.parametrize(("method", "scipy_method"), [("percentile", "percentile"), ("bca", "BCa")])
def test_bootstrap_agrees_with_scipy(method: str, scipy_method: str) -> None:
    values = np.random.default_rng(0).exponential(size=40)
    ours = bootstrap_mean(values, samples=40_000, seed=1, method=method)  # type: ignore[arg-type]
    # The level at which a normal interval is as wide as Student's for 40 values (Hesterberg 2015).
    level = 2 * stats.norm.cdf(np.sqrt(40 / 39) * stats.t.ppf(0.975, 39)) - 1
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=40_000, method=scipy_method, confidence_level=level, rng=2
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_bca_shifts_towards_the_long_tail() -> None:
    values = np.random.default_rng(3).exponential(size=30) ** 2
    plain, corrected = (bootstrap_mean(values, method=method) for method in ("percentile", "bca"))  # type: ignore[arg-type]
    assert corrected.low > plain.low and corrected.high > plain.high


def test_bootstrap_is_seeded_and_narrows_with_less_confidence() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap_mean(values, seed=4) == bootstrap_mean(values, seed=4)
    assert bootstrap_mean(values, seed=4) != bootstrap_mean(values, seed=5)
    wide, narrow = (bootstrap_mean(values, confidence=level) for level in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_chunked_resampling_does_not_change_the_count() -> None:
    values = np.random.default_rng(0).normal(size=3000)  # 3000 x 2000 numbers: several chunks
    interval = bootstrap_mean(values, samples=2000)
    half_width = 1.96 * values.std() / np.sqrt(3000)
    assert interval.high - interval.low == pytest.approx(2 * half_width, rel=0.1)


def test_no_spread_has_no_width() -> None:
    interval = bootstrap_mean(np.full((7, 2), 0.25))
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)
    assert bootstrap_mean(np.array([3.0])).high == 3.0


def test_clusters_widen_the_interval() -> None:
    """Four identical pictures per prompt are one observation, not four."""
    scores = np.random.default_rng(0).normal(size=50)
    together = bootstrap_mean(np.repeat(scores[:, None], 4, axis=1))
    assert together == bootstrap_mean(scores)
    apart = bootstrap_mean(np.repeat(scores, 4))
    assert together.high - together.low == pytest.approx(2 * (apart.high - apart.low), rel=0.1)


def test_sign_flip_exact_by_hand() -> None:
    # Of the 8 sign patterns of (1, 2, 3) only +++ and --- reach |sum| >= 6.
    assert sign_flip_test(np.array([1.0, 2.0, 3.0])) == pytest.approx(2 / 8)
    # |sum| = 2: every pattern but those with sum 0 (1 + 2 - 3 and its mirror).
    assert sign_flip_test(np.array([1.0, -2.0, 3.0])) == pytest.approx(6 / 8)
    assert sign_flip_test(np.array([0.0, 1.0, 2.0, 3.0, 0.0])) == pytest.approx(2 / 8)
    assert sign_flip_test(np.zeros(5)) == 1.0


@pytest.mark.parametrize("n", [10, 30])
def test_sign_flip_agrees_with_scipy(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.3, 1, n)
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000 if n > 12 else np.inf, rng=1
    ).pvalue
    assert sign_flip_test(differences, samples=20_000) == pytest.approx(theirs, abs=0.01 if n > 12 else 1e-12)


def test_sign_flip_monte_carlo_agrees_with_exact_on_ties() -> None:
    """Scores 0/1 make many equal sums; random patterns must count them as enumeration does (binomial test)."""
    differences = np.array([1.0] * 14 + [-1.0] * 6 + [0.0] * 30)
    assert sign_flip_test(differences, samples=50_000) == pytest.approx(stats.binomtest(14, 20).pvalue, abs=0.01)


def test_sign_flip_holds_its_level() -> None:
    rng = np.random.default_rng(0)
    p_values = [sign_flip_test(rng.normal(size=25), samples=400, seed=i) for i in range(600)]
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.02)


def test_paired_difference() -> None:
    reference = np.random.default_rng(0).normal(size=(60, 2))
    policy = reference + 0.5 + 0.1 * np.random.default_rng(1).normal(size=(60, 2))
    result = paired_difference(policy, reference)
    assert result.mean == pytest.approx((policy - reference).mean())
    # Pairing removes the spread between prompts (1.0); what is left is the 0.1 of the change.
    assert 0.45 < result.low < result.mean < result.high < 0.55
    assert result.p_value < 0.001
    mirrored = paired_difference(reference, policy)
    assert mirrored.mean == pytest.approx(-result.mean) and mirrored.p_value == pytest.approx(result.p_value)
    with pytest.raises(ValueError, match="not paired"):
        paired_difference(policy, reference[:50])


def test_win_rate_by_hand() -> None:
    policy, reference = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    result = win_rate(policy, reference)
    assert (result.wins, result.ties, result.losses) == (2, 3, 1)
    assert result.mean == pytest.approx((2 + 3 / 2) / 6)
    assert result.low <= result.mean <= result.high
    reversed_ = win_rate(policy, reference, higher_is_better=False)
    assert reversed_.mean == pytest.approx(1 - result.mean) and reversed_.wins == 1


def test_bootstrap_covers() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(500):
        difficulty = rng.random(80)  # skewed clusters of two binary pictures each
        values = (rng.random((80, 2)) < difficulty[:, None]).astype(float)
        interval = bootstrap_mean(values, samples=500, seed=trial)
        covered += interval.low <= 0.5 <= interval.high
    assert 0.92 <= covered / 500 <= 0.98


@pytest.mark.parametrize(("seeds", "seed_spread"), [(3, 0.0), (3, 0.3), (5, 0.3)])
def test_compare_over_seeds_covers(seeds: int, seed_spread: float) -> None:
    """Even three training seeds with a spread of their own: intervals may be wide, they must not be wrong."""
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        differences = (
            0.2
            + seed_spread * rng.normal(size=(seeds, 1))
            + 0.5 * rng.normal(size=(1, 60))
            + 0.5 * rng.normal(size=(seeds, 60))
        )
        result = compare_over_seeds(differences, samples=400, seed=trial)
        covered += result.low <= 0.2 <= result.high
    assert covered / 300 >= 0.92


def test_compare_over_seeds_knows_what_prompts_alone_do_not() -> None:
    """Seeds that disagree: certain on these three runs, uncertain about the next."""
    differences = np.array([-0.3, 0.1, 0.5])[:, None] + 0.05 * np.random.default_rng(0).normal(size=(3, 100))
    over_prompts = bootstrap_mean(differences.mean(0))
    over_both = compare_over_seeds(differences)
    assert over_prompts.low > 0
    assert over_both.low < 0 < over_both.high and over_both.p_value > 0.05
    assert over_both.mean == pytest.approx(differences.mean())


def test_compare_over_seeds_finds_a_steady_gain() -> None:
    differences = 0.2 + 0.3 * np.random.default_rng(0).normal(size=(3, 200))
    result = compare_over_seeds(differences)
    assert result.low > 0 and result.p_value < 0.01
    assert compare_over_seeds(differences[:, :, None].repeat(2, 2)) == result


def test_bootstrap_covers_over_few_prompts() -> None:
    """Categories may have a handful of prompts: over 8, a bootstrap that is not widened covers 88 % in place of 95."""
    rng = np.random.default_rng(2)
    hits = []
    for trial in range(1000):
        interval = bootstrap_mean(rng.normal(size=8), samples=400, seed=trial)
        hits.append(interval.low <= 0 <= interval.high)
    assert 0.915 <= np.mean(hits) <= 0.97


def test_a_high_confidence_over_few_skewed_prompts_ends_at_the_outermost_resamples() -> None:
    interval = bootstrap_mean(np.array([0.0, 0.0, 1.0]), confidence=0.9999)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_compare_over_one_seed_is_the_bootstrap_over_prompts() -> None:
    values = np.random.default_rng(0).normal(size=(1, 200))
    result, plain = compare_over_seeds(values), bootstrap_mean(values[0], method="percentile")
    assert (result.low, result.high) == pytest.approx((plain.low, plain.high), abs=0.01)
    with pytest.raises(ValueError, match="training seeds"):
        compare_over_seeds(np.zeros(4))


def test_compare_over_seeds_enumerated() -> None:
    """Without a prompt effect the resamples are the means of seed draws with repetition, widened by t for three."""
    by_seed = np.array([-1.0, 0.0, 1.0])
    result = compare_over_seeds(by_seed[:, None].repeat(4, 1), samples=50_000)
    widening = np.sqrt(3 / 2) * stats.t.ppf(0.975, 2) / stats.norm.ppf(0.975)
    draws = [widening * np.mean(draw) for draw in itertools.product(by_seed, repeat=3)]
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975], method="inverted_cdf")))
