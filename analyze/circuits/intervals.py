"""Paired bootstrap over sequences: intervals of numbers that are made from several losses of the same sequences."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 1000
# Of the resampled numbers this share lies between the two ends of an interval.
LEVEL = 0.95


class Interval(NamedTuple):
    """A number, and the interval of its resampled values."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def paired_bootstrap(
    numbers: Callable[[Callable[[np.ndarray], np.ndarray]], Mapping[str, np.ndarray]],
    counts: Float[np.ndarray, "batch"],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Return numbers with their intervals; every resample draws the same sequences for all losses.

    Args:
        numbers: Makes the numbers from a function that turns sums ``[..., batch]`` of losses into means ``[n, ...]``,
            n being 1, or the number of resamples; each number has n as its first axis.
        counts: The number of positions over which each sequence was summed.
        seed: Seed of the resamples.
        resamples: How many there are.

    Example:
        >>> sums = np.array([1.0, 2.0, 3.0])
        >>> found = paired_bootstrap(lambda mean: {"twice": mean(2 * sums) / mean(sums)}, np.ones(3))
        >>> found["twice"].value.item(), found["twice"].low.item(), found["twice"].high.item()
        (2.0, 2.0, 2.0)
    """
    batch = len(counts)
    draws = _draws(batch, seed, resamples)
    # A resample in which no position counts has no mean.
    draws = draws[draws @ counts > 0]

    def means(weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return lambda sums: (
            np.moveaxis(sums @ weights.T, -1, 0) / (weights @ counts).reshape(-1, *[1] * (sums.ndim - 1))
        )

    values, resampled = numbers(means(np.ones((1, batch)))), numbers(means(draws))
    ends = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    return {
        name: Interval(value[0], *np.quantile(resampled[name], ends, axis=0, method="linear"))
        for name, value in values.items()
    }


# A circuit that is followed over training has the same at each checkpoint.
@lru_cache(maxsize=4)
def _draws(batch: int, seed: int, resamples: int) -> Int[np.ndarray, "resample batch"]:
    """Return how often each sequence is in each resample."""
    draws = np.random.default_rng(seed).multinomial(batch, np.full(batch, 1 / batch), size=resamples)
    draws.flags.writeable = False
    return draws
