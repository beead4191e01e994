"""Steps from which on a score is outside its null band, or a statement holds, for good."""

import numpy as np
import xarray as xr


def outside(scores: xr.Dataset, measure: str) -> xr.DataArray:
    """On which side of its band each score is: 1 above, -1 below, 0 inside, or where there is no number or band."""
    score = scores[measure]
    return (score > scores[f"{measure}_high"]).astype(int) - (score < scores[f"{measure}_low"]).astype(int)


def onset(side: xr.DataArray) -> tuple[int | None, int] | None:
    """When one score (axis ``step``) left its band for good, to the side of it on which it ends.

    The last kept step at which it was not on that side, and the next one. None if it ends inside its band; the first
    entry is None if it was on that side from the start.

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
    """The kept step from which on each head or pair is above its band for good; NaN where it is not at the last step.

    Example:
        >>> values = [[0.1, 0.9], [0.9, 0.1], [0.1, 0.9], [0.2, 0.9]]
        >>> scores = xr.Dataset({"m": (("step", "head"), values), "m_low": 0.0, "m_high": 0.5})
        >>> formed_from(scores.assign_coords(step=[0, 1, 10, 100]), "m").values.tolist()
        [nan, 10.0]
    """
    return held_from(outside(scores, measure) == 1)


def held_from(true: xr.DataArray) -> xr.DataArray:
    """The kept step from which on something is true for good (axis ``step``); NaN where it is not at the last step.

    Example:
        >>> held_from(xr.DataArray([True, False, True], dims="step", coords={"step": [0, 1, 10]})).item()
        10.0
    """
    for_good = true.isel(step=slice(None, None, -1)).cumprod("step").sum("step")  # at how many last steps
    first = true.step.values[(true.sizes["step"] - for_good.values) % true.sizes["step"]]
    return for_good.copy(data=np.where(for_good.values > 0, first, np.nan))
