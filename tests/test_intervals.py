"""Intervals over runs: coverage of the truth, censoring, and agreement with other ways to the same number."""

import math

import numpy as np
import pytest
from scipy.stats import CensoredData, ecdf, kstest

from headway.analyze.formation.differences import cliffs_delta, holm, permutation_p
from headway.analyze.formation.intervals import formed_by, median, median_step, resampled, share, widest_level


def test_the_interval_of_a_median_covers_the_truth_about_as_often_as_it_says():
    draws = np.random.default_rng(0)
    steps = np.exp(draws.normal(5.0, 0.3, (300, 23)))
    found = [median_step(each, np.full(23, True), seed) for seed, each in enumerate(steps)]
    covered = np.mean([each.low <= math.exp(5.0) <= each.high for each in found])
    assert 0.90 <= covered <= 0.985
    assert np.median([each.value for each in found]) == pytest.approx(math.exp(5.0), rel=0.02)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_few_runs_cannot_cover_a_median_as_often_as_an_interval_says(n: int):
    draws = np.random.default_rng(3)
    steps = draws.normal(0.0, 1.0, (4000, n))
    assert np.mean((steps.min(1) <= 0) & (steps.max(1) >= 0)) == pytest.approx(widest_level(n), abs=0.02)
    found = [median(each, seed) for seed, each in enumerate(steps[:200])]
    covered = np.mean([each.low <= 0 <= each.high for each in found])
    assert covered <= widest_level(n) + 0.05


def test_without_censoring_the_median_is_the_ordinary_one():
    draws = np.random.default_rng(1)
    for n in (3, 4, 11, 12):
        steps = draws.integers(1, 9, n).astype(float)
        assert median_step(steps, np.full(n, True)).value == np.median(steps)
        resamples = [np.repeat(steps, counts) for counts in resampled(n, 0)]
        found, other = median_step(steps, np.full(n, True)), median(steps)
        assert found == other
        assert found.low == np.percentile([np.median(each) for each in resamples], 2.5, method="inverted_cdf")


def test_a_run_that_ends_early_is_not_a_run_that_never_forms():
    steps, formed = np.array([10.0, 20.0, 5.0, 5.0, 5.0]), np.array([True, True, False, False, False])
    assert median_step(steps, formed).value == 15.0  # of the two that were still going on
    steps[~formed] = 90.0
    assert median_step(steps, formed).value == math.inf


def test_more_than_half_never_is_never():
    steps = np.array([10.0, 20.0, 90.0, 90.0, 90.0])
    found = median_step(steps, steps < 90)
    assert (found.value, found.high, found.n) == (math.inf, math.inf, 5)
    assert 10.0 <= found.low < math.inf
    nothing = median_step(np.array([90.0, 90.0, 90.0]), np.full(3, False))
    assert nothing[:3] == (math.inf, math.inf, math.inf)


def test_the_curve_is_that_of_kaplan_and_meier():
    steps = np.array([3.0, 4.0, 4.0, 6.0, 8.0, 8.0, 9.0])
    formed = np.array([True, True, False, True, False, True, False])
    at = np.array([2.0, 3.0, 4.0, 7.0, 8.0, 9.0, 10.0])
    left = np.cumprod([1, 6 / 7, 5 / 6, 3 / 4, 2 / 3])  # those that are left, of those at risk, at 3, 4, 6, 8
    value, low, high = formed_by(steps, formed, at)
    np.testing.assert_allclose(value[:-1], 1 - left[[0, 1, 2, 3, 4, 4]])
    assert np.isnan([value[-1], low[-1], high[-1]]).all()
    assert (low[:-1] <= value[:-1]).all()
    assert (value[:-1] <= high[:-1]).all()
    ends = ecdf(CensoredData(steps[formed], right=steps[~formed])).sf.confidence_interval(0.95, method="log-log")
    np.testing.assert_allclose(low[3], 1 - ends.high.evaluate(7.0))
    # Nothing is censored before step 4, so that this is a share of seven.
    assert (low[1], high[1]) == share(1, 7)[1:3]


@pytest.mark.parametrize("formed", [0, 50])
def test_a_curve_of_none_or_all_has_an_interval(formed: int):
    steps, happened = np.full(50, 100.0), np.full(50, formed > 0)
    value, low, high = formed_by(steps, happened, np.array([100.0]))
    assert value[0] == formed / 50
    assert high[0] - low[0] == pytest.approx(0.0713, abs=1e-4)  # Wilson: z² / (n + z²)


def test_fewer_than_three_have_no_interval():
    for found in (median_step(np.array([1.0, 3.0]), np.full(2, True)), median(np.array([1.0, 3.0]))):
        assert found.value == 2.0
        assert np.isnan(found[1:3]).all()
    assert np.isnan(share(1, 2)[1:3]).all()
    assert np.isnan(median(np.array([math.nan])).value)


def test_infinite_leads_have_a_median():
    found = median(np.array([1.0, 2.0, math.inf]))
    assert (found.value, found.high) == (2.0, math.inf)
    assert median(np.array([-math.inf, -math.inf, 1.0])).value == -math.inf


def test_holm_by_hand():
    # 4 * .005; 3 * .01 is more; 2 * .03; .04 may not be less than the one before.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1, 1]


def test_p_is_uniform_without_a_difference_and_small_with_one():
    draws = np.random.default_rng(2)
    groups = draws.normal(size=(150, 2, 11))
    p = [permutation_p(first, second, seed, permutations=199) for seed, (first, second) in enumerate(groups)]
    assert kstest(p, "uniform").pvalue > 0.01
    shifted = draws.normal(size=11)
    assert permutation_p(shifted, shifted + 3) < 0.001
    assert permutation_p(np.full(5, math.inf), np.full(7, math.inf)) == 1.0  # never in both


def test_the_effect_counts_pairs():
    first, second = np.array([1.0, 5.0, math.inf]), np.array([2.0, 5.0, math.inf, math.inf])
    pairs = np.sign(second[:, None].clip(max=9) - first.clip(max=9))
    assert cliffs_delta(first, second) == pytest.approx(pairs.mean())
    shares = cliffs_delta(np.array([0.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0, 1.0]))
    assert shares == pytest.approx(3 / 4 - 1 / 3)
