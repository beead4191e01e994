"""What formed, and at which kept step."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from headway.analyze.nulls import band_z
from headway.models.config import Head

# What is said of the head, or the pair of heads, whose score is furthest out of its band.
WORDS = {
    "previous_token": "{0} looks at the token before",
    "prefix_matching": "{0} does prefix matching",
    "k_composition": "{0} and {1} K-compose",
}


@dataclass(frozen=True)
class Formed:
    """The strongest head or pair of one measure at the last kept step, beside its null.

    ``since`` is the interval in which it left its band for good: (last kept step inside, first outside); the first is
    None if it was outside from the start. ``since`` is None if it is inside its band at the end: nothing formed.
    """

    measure: str
    heads: tuple[Head, ...]
    score: float
    null: float
    null_std: float
    z: float
    since: tuple[int | None, int] | None
    ceiling: float | None = None

    def __str__(self) -> str:
        return WORDS[self.measure].format(*self.heads)

    @property
    def when(self) -> str:
        """The kept steps between which it left its band."""
        if self.since is None:
            return "not formed"
        before, first = self.since
        return f"{first}" if before is None else f"{before} to {first}"


def family(z: xr.DataArray) -> int:
    """How many heads or pairs one measure scores at one step: those whose z is ever a number."""
    return int(z.notnull().any("step").sum())


def onset(z: xr.DataArray, limit: float) -> tuple[int | None, int] | None:
    """When one head's z (axis ``step``) rose above ``limit`` for good: (last step not above, first step above).

    Falling below -limit is not asked for. None if it is not above at the last step; the first entry is None if it is
    above at every step. NaN is not above.

    Example:
        >>> z = xr.DataArray([0.0, 9.0, 1.0, 8.0, 9.0], dims="step", coords={"step": [0, 1, 10, 50, 100]})
        >>> onset(z, limit=3.0)
        (10, 50)
    """
    below = np.flatnonzero(~(z.values > limit))
    steps = z.step.values
    if below.size == 0:
        return None, int(steps[0])
    if below[-1] == len(steps) - 1:
        return None
    return int(steps[below[-1]]), int(steps[below[-1] + 1])


def strongest(scores: xr.Dataset, measure: str) -> Formed:
    """The head or pair with the largest z of ``measure`` at the last step, and when it left its band."""
    z = scores[f"{measure}_z"]
    axes = [axis for axis in z.dims if axis != "step"]
    last = z.isel(step=-1).stack(where=axes)
    if not last.notnull().any():
        raise ValueError(f"{measure}: no head of this run has a score with a null")
    where = dict(zip(axes, last["where"].values[int(np.nanargmax(last.values))], strict=True))
    numbers = list(map(int, where.values()))
    at = {"step": z.step.values[-1], **where}

    def value(name: str) -> float:
        variable = scores[name]
        return float(variable.sel({axis: at[axis] for axis in variable.dims}))

    return Formed(
        measure=measure,
        heads=tuple(Head(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)),
        score=value(measure),
        null=value(f"{measure}_null"),
        null_std=value(f"{measure}_null_std"),
        z=value(f"{measure}_z"),
        since=onset(z.sel(where), band_z(family(z))),
        ceiling=value(f"{measure}_ceiling") if f"{measure}_ceiling" in scores else None,
    )


def what_formed(scores: xr.Dataset) -> list[Formed]:
    """One entry for each measure of WORDS that this run has scores of."""
    found = []
    for measure in WORDS:
        if f"{measure}_z" in scores and scores[f"{measure}_z"].isel(step=-1).notnull().any():
            found.append(strongest(scores, measure))
    return found
