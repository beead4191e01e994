"""The date of a behaviour between two checkpoints, from the loss of every update."""

from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr

from headway.analyze.formation.half_way import HalfWay, half_way, state

# The loss is averaged over so many updates at least, and over this share of the updates between the checkpoints.
FEWEST, SHARE = 5, 1 / 8
# The share of the fall of the whole loss that is the behaviour's may differ from 1 by this: other parts may rise too.
IMPURE = 0.1
# The fall of the smoothed loss must be so many times its standard error.
CLEAR = 5.0
# Shares of the parts in the whole loss must account for its fall but for this share of it.
EXACT = 0.02


def date_by_updates(
    way: xr.DataArray,
    losses: Mapping[str, xr.DataArray],
    part: str | None,
    training: Callable[[], xr.DataArray],
) -> HalfWay | None:
    """Return the half-way step of a behaviour that has formed, from the loss of every update.

    Args:
        way: The way of the behaviour at checkpoints, axis ``step``.
        losses: The variables ``loss`` and ``loss_<part>`` at the same checkpoints.
        part: The part of the task whose loss it is; None for all positions.
        training: Reads the loss of every update, axis ``step`` from 1; called only where it can tell.

    Returns:
        None where the behaviour has not formed, or the loss of every update cannot tell (``dated_by_updates``).
    """
    final, half = float(way.values[-1]), half_way(way)
    if state(final) != "formed" or half is None or half.between[0] is None:
        return None
    share = share_of_fall(losses, part, (half.between[0], half.between[1]))
    return dated_by_updates(half, final / 2, way, training(), share) if np.isfinite(share) else None


def dated_by_updates(
    half: HalfWay, level: float, way: xr.DataArray, training: xr.DataArray, share: float
) -> HalfWay | None:
    """Return the step at which a behaviour passes a level, from the training loss between the two checkpoints around.

    Update u is made with the loss of the network after u - 1 updates, so the training loss dates networks one by one.
    It is of other sequences at every update and of all positions: it is smoothed by a centred mean over an eighth of
    the updates between the checkpoints, at least 5, and between them it is taken to fall in proportion to the way of
    the behaviour, which both checkpoints give exactly. The date is the last crossing. The interval around it is the one
    that the mean covers. In five seeds of the induction recipe, such dates move by at most 4 steps if checkpoints
    around them are left out (125 and 227 instead of 142 and 179, or one of them); interpolated dates move by up to 12.

    Args:
        half: The date from checkpoints.
        level: The way that is passed.
        way: The way of the behaviour at checkpoints, axis ``step``.
        training: The loss of every update, axis ``step`` from 1.
        share: The share of the fall of the whole loss that is the behaviour's (``share_of_fall``).

    Returns:
        None where the training loss cannot tell: its fall and the behaviour's differ by more than a tenth, its fall is
        less than five standard errors, updates are missing, or the checkpoints are no more than 5 updates apart.

    Example:
        >>> network = np.arange(0, 400)
        >>> loss = xr.DataArray(4.0 / (1 + np.exp((network - 160) / 4)), dims="step", coords={"step": network + 1})
        >>> way = 1 - loss.values[[142, 179]] / 4
        >>> way = xr.DataArray([0, *way, 1.0], dims="step", coords={"step": [0, 142, 179, 300]})
        >>> found = dated_by_updates(HalfWay(165.0, (142, 179)), 0.5, way, loss, share=1.0)
        >>> round(found.step), found.between
        (160, (158, 163))
    """
    first, last = half.between
    if first is None or last - first <= FEWEST or not abs(share - 1) <= IMPURE:
        return None
    network = training.step.values - 1
    inside = (network >= first) & (network <= last)
    if inside.sum() < last - first:  # the network of the last checkpoint has no update
        return None
    span = max(FEWEST, int(SHARE * (last - first))) | 1
    smooth = _centred_mean(training.values.astype(float), span)
    steps, values = network[inside], smooth[inside]
    ends = way.sel(step=[first, last]).values
    error = float(np.std(training.values[inside] - values)) / span**0.5
    fall = values[0] - values[-1]
    if not (fall > 0 and fall >= CLEAR * error):
        return None
    passed = values[0] - fall * (level - ends[0]) / (ends[1] - ends[0])
    at = int(np.flatnonzero(values[:-1] >= passed)[-1])
    step = float(steps[at] + (values[at] - passed) / (values[at] - values[at + 1]))
    around = (max(first, int(steps[at]) - span // 2), min(last, int(steps[at + 1]) + span // 2))
    return HalfWay(step, around)


def share_of_fall(losses: Mapping[str, xr.DataArray], part: str | None, between: tuple[int, int]) -> float:
    """Return the share of the fall of the whole loss between two checkpoints that is the fall of one part.

    The whole loss is a sum of the parts' with fixed weights, which follow from the losses at all checkpoints by least
    squares, with a constant for positions that are in no part. Where such a sum misses the fall by more than a
    fiftieth, positions that are in no part learn too: the share is unknown, NaN.

    Example:
        >>> steps = {"step": [0, 10, 100, 1000]}
        >>> early = xr.DataArray([4.0, 3.9, 2.0, 1.9], dims="step", coords=steps)
        >>> late = xr.DataArray([4.0, 4.0, 3.0, 0.0], dims="step", coords=steps)
        >>> losses = {"loss": 0.25 * early + 0.75 * late, "loss_early": early, "loss_late": late}
        >>> round(share_of_fall(losses, "late", (100, 1000)), 2)
        0.99
    """
    if part is None:
        return 1.0
    parts = [name for name in losses if name.startswith("loss_") and losses[name].dims == ("step",)]
    whole = losses["loss"]
    sources = np.stack([*(losses[name].values.astype(float) for name in parts), np.ones(whole.size)], 1)
    known = np.isfinite(sources).all(1) & np.isfinite(whole.values)
    weights, *_ = np.linalg.lstsq(sources[known], whole.values[known].astype(float), rcond=None)
    at = [int(np.flatnonzero(whole.step.values == step)[0]) for step in between]
    fall = float(whole.values[at[0]] - whole.values[at[1]])
    falls = weights * (sources[at[0]] - sources[at[1]])
    if not fall > 0 or abs(falls.sum() - fall) > EXACT * fall:
        return np.nan
    return float(falls[parts.index(f"loss_{part}")] / fall)


def _centred_mean(values: np.ndarray, span: int) -> np.ndarray:
    """The mean over a window around each value, which is cut off at the ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - span // 2, 0), np.minimum(places + span // 2 + 1, len(values))
    return (total[high] - total[low]) / (high - low)
