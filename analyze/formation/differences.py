"""Differences between two groups of runs: permutation tests, corrected for how many are looked at."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from headway.analyze.formation.intervals import FEWEST, median, median_draws, percentiles, resampled

PERMUTATIONS = 9999
# Differences of these are ratios.
RATIOS = ("half-way", "width")


class _Compared(NamedTuple):
    """A number of every run of two groups; shares are means, anything else has a median."""

    event: str
    label: str
    quantity: str
    first: np.ndarray
    second: np.ndarray

    @property
    def is_share(self) -> bool:
        return self.quantity in ("formed", "route")


def differences(first: xr.Dataset, second: xr.Dataset, seed: int = 0) -> xr.Dataset:
    """Return how two groups of runs differ, each as ``formation`` returns it; axis ``comparison``.

    Looked at are, for each event that both groups have: the ``half-way`` step, where a run without the event comes
    after all others; the share in which it has ``formed``, unless that is the same whatever the run; the ``width``; the
    ``final way``; and the share of circuits with each ``route``, Q, K and V, likewise. Steps are compared as far as the
    shortest run goes: what happens later counts as not formed by then, in both groups.

    - ``first``, ``second``: medians, or shares; ``difference`` is second minus first, for steps and widths second over
      first, with the ends of a percentile bootstrap interval, ``low`` and ``high``.
    - ``effect``: the probability that a run of the second group has a larger number than one of the first, minus the
      probability of a smaller one (Cliff's delta, in [-1, 1]); for shares it is their difference.
    - ``p``: of a two-sided permutation test of ``effect`` (all permutations, or 9,999). Ranks are tested and not the
      difference of medians, which is infinite where runs never get there, and ties where runs are few.
    - ``p_corrected``: by Holm's method for all comparisons with a p.
    - ``n_first``, ``n_second``: the runs that have the number. With fewer than three of either there is no p.

    Raises:
        ValueError: groups of different tasks or behaviours, with a run in common, or without an event in common.
    """
    if first.attrs["task"] != second.attrs["task"]:
        names = [str(each.attrs["task"]).rpartition(":")[2] for each in (first, second)]
        raise ValueError(f"compare: the runs are of the tasks {names[0]} and {names[1]}; compare runs of one task")
    both = sorted({*first.path.values.tolist()} & {*second.path.values.tolist()})
    if both:
        raise ValueError(f"compare: {both[0]} is in both groups")
    horizon = float(min(first.last_step.min(), second.last_step.min()))
    compared = [each for each in _compared(first, second, horizon) if each.first.size and each.second.size]
    if not compared:
        raise ValueError("compare: the two groups have no event in common")
    rows = [_row(each, seed) for each in compared]
    tested = [place for place, row in enumerate(rows) if not np.isnan(row["p"])]
    corrected = np.full(len(rows), np.nan)
    corrected[tested] = holm([rows[place]["p"] for place in tested])
    data = xr.Dataset(coords={"comparison": [f"{each.event} {each.quantity}" for each in compared]})
    for name in ("event", "label", "quantity"):
        data[name] = ("comparison", [getattr(each, name) for each in compared])
    for name in rows[0]:
        data[name] = ("comparison", [row[name] for row in rows])
    data["p_corrected"] = ("comparison", corrected)
    for name in ("difference", "low", "high"):
        data[name].attrs["description"] = "second minus first; for half-way and width the ratio, second over first"
    longest = float(max(first.last_step.max(), second.last_step.max()))
    data.attrs |= {"tests": len(tested), "horizon": horizon, "longest": longest}
    return data


def holm(p: Sequence[float]) -> np.ndarray:
    """Return p-values corrected by Holm's method: the smallest times their number, the next times one less, and so on.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, float)
    order = np.argsort(values)
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(steps, 1)
    return corrected


def cliffs_delta(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return P(second > first) - P(second < first), of ranks or of numbers in the order of their ranks.

    Example:
        >>> float(cliffs_delta(np.array([1.0, 2.0]), np.array([3.0, 4.0])))
        1.0
    """
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([first, second], axis), axis=axis)
    n = first.shape[axis]
    low, high = (np.take(ranks, places, axis) for places in (np.arange(n), np.arange(n, ranks.shape[axis])))
    return 2 * (high.mean(axis) - low.mean(axis)) / ranks.shape[axis]


def permutation_p(first: np.ndarray, second: np.ndarray, seed: int = 0, permutations: int = PERMUTATIONS) -> float:
    """Return the p of a two-sided permutation test of ``cliffs_delta``."""
    from scipy.stats import permutation_test, rankdata

    # Ranks of all runs are the same in every permutation.
    ranks = rankdata(np.concatenate([first, second]))
    if (ranks == ranks[0]).all():
        return 1.0
    return float(
        permutation_test(
            (ranks[: len(first)], ranks[len(first) :]),
            lambda low, high, axis: high.mean(axis) - low.mean(axis),
            vectorized=True,
            n_resamples=permutations,
            rng=np.random.default_rng(seed),
        ).pvalue
    )


def _compared(first: xr.Dataset, second: xr.Dataset, horizon: float) -> list[_Compared]:
    found = []
    both = [str(name) for name in first.event.values if name in second.event.values]
    for name in both:
        one, other = first.sel(event=name), second.sel(event=name)
        label = str(one.label.item())
        if label != str(other.label.item()):
            raise ValueError(
                f"compare: the {name} of one group is {label!r} and of the other {other.label.item()!r}; name a part"
            )
        sides = [_numbers(each, horizon) for each in (one, other)]
        for quantity in sides[0]:
            values = [side[quantity] for side in sides]
            if quantity == "formed" and len(np.unique(np.concatenate(values))) < 2:
                continue
            found.append(_Compared(name, label, quantity, *values))
    for route in map(str, first.route.values):
        values = [each.routes.sel(route=route).values for each in (first, second)]
        values = [each[~np.isnan(each)] for each in values]
        if len(np.unique(np.concatenate(values))) > 1:
            found.append(_Compared(route, f"{route}-route in the circuit", "route", *values))
    return found


def _numbers(one: xr.Dataset, horizon: float) -> dict[str, np.ndarray]:
    """Return the numbers of one event, of the runs in which it was measured."""
    measured = ~np.isnan(one.level.values)
    formed = one.formed.values & (one.half_way.values <= horizon)
    width = one.width.values[measured]
    return {
        "half-way": np.where(formed, np.log1p(one.half_way.values), np.inf)[measured],
        "formed": formed[measured].astype(float),
        "width": np.log(width[~np.isnan(width)]),
        "final way": one.level.values[measured],
    }


def _row(each: _Compared, seed: int) -> dict[str, float]:
    centres = [float(side.mean()) if each.is_share else median(side).value for side in (each.first, each.second)]
    few = min(len(each.first), len(each.second)) < FEWEST
    low = high = p = np.nan
    if not few:
        draws = [_draws(side, each.is_share, seed + place) for place, side in enumerate((each.first, each.second))]
        with np.errstate(invalid="ignore"):
            low, high = percentiles(draws[1] - draws[0])
        p = permutation_p(each.first, each.second, seed)
    with np.errstate(invalid="ignore"):
        difference = np.subtract(centres[1], centres[0])
    change = np.array([difference, low, high], float)
    if each.quantity in RATIOS:
        with np.errstate(over="ignore"):
            change = np.exp(change)
            centres = [float(np.expm1(value) if each.quantity == "half-way" else np.exp(value)) for value in centres]
    return {
        "first": centres[0],
        "second": centres[1],
        "difference": float(change[0]),
        "low": float(change[1]),
        "high": float(change[2]),
        "effect": float(cliffs_delta(each.first, each.second)),
        "p": p,
        "n_first": len(each.first),
        "n_second": len(each.second),
    }


def _draws(values: np.ndarray, is_share: bool, seed: int) -> np.ndarray:
    """Return the median, or the mean of a share, of each resample."""
    if not is_share:
        return median_draws(values, seed)
    return resampled(len(values), seed) @ values / len(values)
