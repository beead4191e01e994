"""Medians, shares and curves over runs, with intervals: some runs end before the event, and some never have it."""

import warnings
from typing import NamedTuple

import numpy as np

# Intervals contain what is estimated with this probability; fewer runs than FEWEST have none.
LEVEL, FEWEST, DRAWS = 0.95, 3, 2000
_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


class Estimate(NamedTuple):
    """A number over runs, the ends of its interval (NaN with fewer than three runs), and the number of runs."""

    value: float
    low: float
    high: float
    n: int


def resampled(n: int, seed: int, draws: int = DRAWS) -> np.ndarray:
    """Return how often each of ``n`` runs is in each of ``draws`` resamples [draw, run].

    Example:
        >>> resampled(5, seed=0).sum(1).tolist() == [5] * DRAWS
        True
    """
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)


def median_step(steps: np.ndarray, formed: np.ndarray, seed: int = 0) -> Estimate:
    """Return the median step of an event with a percentile bootstrap interval over runs.

    ``steps`` is the date where ``formed``, and the last step of the run elsewhere: there the event is censored. The
    median is that of the Kaplan-Meier curve, for each resample of runs; where no run ends before another's date it is
    the ordinary median, in which a run without the event comes after all others. It is infinite, never, where the curve
    stays below a half.

    Example:
        >>> median_step(np.array([10.0, 20.0, 90.0]), np.array([True, True, False])).value
        20.0
        >>> median_step(np.array([10.0, 90.0, 90.0]), np.array([True, False, False]))
        Estimate(value=inf, low=10.0, high=inf, n=3)
    """
    n = len(steps)
    if not n:
        return Estimate(np.nan, np.nan, np.nan, 0)
    value = float(_median_steps(steps, formed, np.ones((1, n)))[0])
    if n < FEWEST:
        return Estimate(value, np.nan, np.nan, n)
    return Estimate(value, *percentiles(_median_steps(steps, formed, resampled(n, seed))), n)


def widest_level(n: int) -> float:
    """Return the probability with which the range of ``n`` runs holds the median of all runs, ``1 - 2 ** (1 - n)``.

    A bootstrap interval of a median is never wider than the range.

    Example:
        >>> widest_level(3), widest_level(6)
        (0.75, 0.96875)
    """
    return 1 - 0.5 ** (n - 1)


def median(values: np.ndarray, seed: int = 0) -> Estimate:
    """Return the median of the values that are numbers, infinite ones too, with a percentile bootstrap interval.

    Example:
        >>> median(np.array([1.0, 5.0, 2.0, np.nan])).value, median(np.array([1.0, 5.0]))
        (2.0, Estimate(value=3.0, low=nan, high=nan, n=2))
    """
    values = np.asarray(values, float)[~np.isnan(values)]
    n = len(values)
    if not n:
        return Estimate(np.nan, np.nan, np.nan, 0)
    if n < FEWEST:
        return Estimate(float(_medians(values[None])[0]), np.nan, np.nan, n)
    drawn = median_draws(values, seed)
    return Estimate(float(_medians(values[None])[0]), *percentiles(drawn), n)


def median_draws(values: np.ndarray, seed: int) -> np.ndarray:
    """Return the median of each resample of runs [draw]."""
    counts = resampled(len(values), seed)
    order = np.argsort(values)
    places = np.repeat(np.tile(order, len(counts)), counts[:, order].ravel())
    return _medians(values[places].reshape(len(counts), len(values)))


def share(count: int, n: int) -> Estimate:
    """Return a share of runs with its Wilson interval.

    Example:
        >>> [round(float(each), 3) for each in share(0, 50)]
        [0.0, 0.0, 0.071, 50.0]
    """
    if n < FEWEST:
        return Estimate(count / n if n else np.nan, np.nan, np.nan, n)
    from scipy.stats import binomtest

    found = binomtest(int(count), int(n)).proportion_ci(LEVEL, method="wilson")
    return Estimate(count / n, float(found.low), float(found.high), n)


def formed_by(steps: np.ndarray, formed: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the share of runs in which an event has happened by each step, with its interval [3, step].

    It is one minus the Kaplan-Meier estimate. Up to the first run that ends without the event this is a plain share,
    with its Wilson interval; later the interval is that of the log-log transform. NaN after the last step of any run,
    unless it has happened in all.

    Example:
        >>> formed_by(np.array([1.0, 2.0, 9.0, 9.0]), np.array([True, True, False, False]), np.array([0, 1, 5]))[0]
        array([0.  , 0.25, 0.5 ])
    """
    if not len(steps):
        return np.full((3, len(at)), np.nan)
    found = np.full((3, len(at)), np.nan)
    ordered, left = _survival(steps, formed, np.ones((1, len(steps))))
    found[0] = 1 - np.concatenate([[1.0], left[0]])[np.searchsorted(ordered, at, side="right")]
    whole = at <= min(steps[~formed], default=np.inf)
    if len(steps) >= FEWEST:
        if not whole.all() and formed.any():
            from scipy.stats import CensoredData, ecdf

            curve = ecdf(CensoredData(uncensored=steps[formed], right=steps[~formed])).sf
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore", RuntimeWarning)  # it is undefined at 0 and 1
                ends = curve.confidence_interval(LEVEL, method="log-log")
            found[1:] = [1 - ends.high.evaluate(at), 1 - ends.low.evaluate(at)]
        for place in np.flatnonzero(whole | np.isnan(found[1])):
            risk = len(steps) if whole[place] else int((steps >= at[place]).sum())
            found[1:, place] = share(round(found[0, place] * risk), risk)[1:3] if risk else np.nan
    if left[0, -1] > 0:
        found[:, at > steps.max()] = np.nan
    return found


def _survival(steps: np.ndarray, formed: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return steps in order, and the Kaplan-Meier estimate from each on, for each row of counts [draw, run]."""
    order = np.lexsort((~formed, steps))  # a run that ends at the date of another one was at risk
    steps, formed, counts = steps[order].astype(float), formed[order], counts[:, order].astype(float)
    at_risk = counts.sum(1, keepdims=True) - np.cumsum(counts, 1) + counts
    return steps, np.cumprod(np.where(formed & (counts > 0), 1 - counts / np.maximum(at_risk, 1), 1.0), 1)


def _median_steps(steps: np.ndarray, formed: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the Kaplan-Meier median for each row of counts [draw, run]."""
    steps, left = _survival(steps, formed, counts)
    ends = []
    for reached in (left <= 0.5 + 1e-9, left < 0.5 - 1e-9):
        ends.append(np.where(reached.any(1), steps[reached.argmax(1)], np.inf))
    return np.where(ends[0] == ends[1], ends[0], (ends[0] + ends[1]) / 2)


def _medians(values: np.ndarray) -> np.ndarray:
    """Return the median along the last axis; NaN between minus and plus infinity."""
    values, n = np.sort(values, -1), values.shape[-1]
    low, high = values[..., (n - 1) // 2], values[..., n // 2]
    with np.errstate(invalid="ignore"):
        return np.where(low == high, low, (low + high) / 2)


def percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """Return the ends of an interval, which are numbers that were drawn: no mean of a number and infinity."""
    drawn = np.sort(drawn[~np.isnan(drawn)])
    if not drawn.size:
        return np.nan, np.nan
    low, high = (float(drawn[int(np.ceil(end * drawn.size)) - 1]) for end in _ENDS)
    return low, high
