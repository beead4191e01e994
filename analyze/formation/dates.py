"""The step from which on a score is outside its null band, or a statement holds, up to the last checkpoint."""

import numpy as np
import xarray as xr


def outside(scores: xr.Dataset, measure: str) -> xr.DataArray:
    """The side of its null band on which each score lies: 1 above, -1 below, 0 inside, and 0 without number or band.

    Example:
        >>> outside(xr.Dataset({"m": ("head", [0.1, 0.9, -2.0]), "m_low": -1.0, "m_high": 0.5}), "m").values.tolist()
        [0, 1, -1]
    """
    score, low, high = (scores.variables[name] for name in (measure, f"{measure}_low", f"{measure}_high"))
    # Variables broadcast by the names of their axes; without the labels this is ten times as fast.
    side = (score > high).astype(int) - (score < low).astype(int)
    return scores[measure].copy(data=side.transpose(*score.dims).values).drop_attrs()


def onset(side: xr.DataArray) -> tuple[int | None, int] | None:
    """The checkpoints between which one score (axis ``step``) leaves its band for good, to the side on which it ends.

    The first is the last checkpoint at which the score is not on that side, None if it is there from the start; the
    second is the next checkpoint. None for a score that ends inside its band.

    Example:
        >>> side = xr.DataArray([0, 1, -1, 1, 1], dims="step", coords={"step": [0, 1, 10, 50, 100]})
        >>> onset(side)
        (10, 50)
    """
    steps, end = side.step.values, side.values[-1]
    if end == 0:
        return None
    elsewhere = np.flatnonzero(side.values != end)
    if elsewhere.size == 0:
        return None, int(steps[0])
    return int(steps[elsewhere[-1]]), int(steps[elsewhere[-1] + 1])


def formed_from(scores: xr.Dataset, measure: str) -> xr.DataArray:
    """The checkpoint from which on each score is above its band up to the last one; NaN if it is not above it there.

    The axes are those of the score without ``step``.

    Example:
        >>> values = [[0.1, 0.9], [0.9, 0.1], [0.1, 0.9], [0.2, 0.9]]
        >>> scores = xr.Dataset({"m": (("step", "head"), values), "m_low": 0.0, "m_high": 0.5})
        >>> formed_from(scores.assign_coords(step=[0, 1, 10, 100]), "m").values.tolist()
        [nan, 10.0]
    """
    return held_from(outside(scores, measure) == 1)


def held_from(true: xr.DataArray) -> xr.DataArray:
    """The checkpoint from which on something is true up to the last one (axis ``step``); NaN if it is not true there.

    Example:
        >>> held_from(xr.DataArray([True, False, True], dims="step", coords={"step": [0, 1, 10]})).item()
        10.0
    """
    last = true.isel(step=-1, drop=True)
    by_step = true.transpose("step", ...).values.astype(bool)
    count = np.logical_and.accumulate(by_step[::-1]).sum(0)  # of last checkpoints at which it is true
    first = true.step.values[(len(by_step) - count) % len(by_step)]
    return last.copy(data=np.where(count > 0, first, np.nan))
