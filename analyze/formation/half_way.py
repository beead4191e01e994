"""Formation in terms of the way: how much of it a score has gone, and the step at which it was half-way."""

from typing import Literal, NamedTuple, TypeVar

import numpy as np
import xarray as xr

Number = TypeVar("Number", float, np.ndarray, xr.DataArray)
State = Literal["formed", "partly formed", "not formed"]
# A score has formed from this share of its way on, and partly from the other one on.
FORMED, PARTLY = 0.5, 0.1


class HalfWay(NamedTuple):
    """A step, interpolated in log(1 + step), and the checkpoints around it; the first is None at the very start."""

    step: float
    between: tuple[int | None, int]

    def __str__(self) -> str:
        before, first = self.between
        if before is None:
            return "from the start" if first == 0 else f"before step {first}"
        return f"at step {round(self.step)} ({before} to {first})"


def way(score: Number, null: Number | float, ceiling: Number | float) -> Number:
    """Return the share of the way from the null to the ceiling, ``(score - null) / (ceiling - null)``.

    For a loss, ``null`` is the loss of a network that knows nothing and ``ceiling`` the best loss.

    Example:
        >>> way(1.0, null=4.0, ceiling=0.0)
        0.75
    """
    return (score - null) / (ceiling - null)  # pyright: ignore[reportReturnType]


def way_of_circuit(over: xr.Dataset) -> xr.DataArray:
    """Return how much of what is known at the last checkpoint a circuit keeps alone at each one, axis ``step``.

    Its faithfulness is a share of what is known at the same checkpoint, and is high early on where next to nothing is.
    Where no share is given it keeps nothing.

    Args:
        over: The numbers of the circuit at every checkpoint, ``Run.circuit(over_steps=True)``.

    Example:
        >>> known = ("step", [0.0, 0.2, 4.0, 4.0])
        >>> over = xr.Dataset({"faithfulness": ("step", [np.nan, 0.9, 0.5, 1.0]), "known": known})
        >>> way_of_circuit(over).values.round(3).tolist()
        [0.0, 0.045, 0.5, 1.0]
    """
    last = float(over.known.values[-1])
    if not last > 0:
        return xr.zeros_like(over.faithfulness).drop_attrs()
    return (over.faithfulness.fillna(0) * over.known / last).drop_attrs()


def half_way(score: xr.DataArray, share: float = 0.5) -> HalfWay | None:
    """Return the step from which on a way (axis ``step``) stays above half of its final value.

    It is interpolated in log(1 + step) between the last checkpoint that is not above and the next one. Checkpoints
    without a number are passed over. None if the way has no number at the end, or ends at 0 or below.

    Args:
        score: A way along the axis ``step``, as ``way`` returns it.
        share: The share of the final value, if not half.

    Example:
        >>> print(half_way(xr.DataArray([0.0, 0.0, 1.0, 1.0], dims="step", coords={"step": [0, 9, 99, 999]})))
        at step 31 (9 to 99)
    """
    steps, values = score.step.values, score.values.astype(float)
    if not (values.size and values[-1] > 0):
        return None
    known = ~np.isnan(values)
    steps, values = steps[known], values[known]
    level = share * values[-1]
    below = np.flatnonzero(values <= level)
    if not below.size:
        return HalfWay(float(steps[0]), (None, int(steps[0])))
    last = int(below[-1])
    ends = np.log1p(steps[last : last + 2].astype(float))
    part = (level - values[last]) / (values[last + 1] - values[last])
    return HalfWay(float(np.expm1(ends[0] + part * (ends[1] - ends[0]))), (int(steps[last]), int(steps[last + 1])))


def width(score: xr.DataArray) -> float:
    """Return the ratio of the steps at which a way reaches 90 % and 10 % of its final value for good.

    NaN where ``half_way`` has no step, or where 10 % are reached from the start.

    Example:
        >>> width(xr.DataArray([0.0, 0.1, 0.9, 1.0], dims="step", coords={"step": [0, 10, 40, 100]}))
        4.0
    """
    first, last = half_way(score, 0.1), half_way(score, 0.9)
    if first is None or last is None or first.between[0] is None or first.step == 0:
        return np.nan
    return last.step / first.step


def state(final: float, outside: bool = True) -> State:
    """Return whether a score has formed: at least half of its way, and outside its null band for good.

    From a tenth of the way on it has formed partly.

    Args:
        final: The way at the last checkpoint.
        outside: Whether the score is above its null band; True for a number without a band.

    Example:
        >>> state(0.7), state(0.3), state(0.7, outside=False), state(float("nan"))
        ('formed', 'partly formed', 'not formed', 'not formed')
    """
    if not outside or not final >= PARTLY:
        return "not formed"
    return "formed" if final >= FORMED else "partly formed"
