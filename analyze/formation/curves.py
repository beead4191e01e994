"""Curves of events over runs: how far each has come at every checkpoint, and the quartiles of that over runs."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from headway.analyze.formation.intervals import FEWEST

QUARTILES = (0.25, 0.5, 0.75)


def on_same_steps(ways: Sequence[xr.DataArray | None]) -> xr.DataArray:
    """Return ways [run, checkpoint] at the checkpoints of any of the runs.

    Between two of its own checkpoints a way is interpolated in log(1 + step), as ``half_way`` does; before its first
    and after its last one it is NaN, and so it is everywhere where the way is None.

    Example:
        >>> ways = [xr.DataArray(way, {"step": steps}, "step") for way, steps in (([0.0, 1.0], [0, 3]), ([0.5], [1]))]
        >>> on_same_steps(ways).values
        array([[0. , 0.5, 1. ],
               [nan, 0.5, nan]])
    """
    steps = np.unique(np.concatenate([each.step.values for each in ways if each is not None and each.size] or [[]]))
    rows = np.full((len(ways), len(steps)), np.nan)
    for row, each in zip(rows, ways, strict=True):
        if each is not None and each.size:
            own = np.log1p(each.step.values.astype(float))
            row[:] = np.interp(np.log1p(steps.astype(float)), own, each.values, left=np.nan, right=np.nan)
    return xr.DataArray(rows, {"checkpoint": steps}, ("run", "checkpoint"))


def quartiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the quartiles over runs [quartile, checkpoint] of numbers [run, checkpoint], and how many runs have one.

    With fewer than three runs there is a median alone.

    Example:
        >>> quartiles(np.array([[0.0, 1.0], [0.5, np.nan], [1.0, np.nan]]))[0].tolist()
        [[0.25, nan], [0.5, 1.0], [0.75, nan]]
    """
    found = np.full((len(QUARTILES), values.shape[1]), np.nan)
    counts = np.isfinite(values).sum(0)
    there = counts > 0
    if there.any():
        found[:, there] = np.nanquantile(values[:, there], QUARTILES, axis=0)
    found[np.ix_([0, 2], counts < FEWEST)] = np.nan
    return found, counts
