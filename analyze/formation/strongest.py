"""The head or pair furthest outside its null band, measure by measure."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from headway.analyze.formation.dates import onset, outside
from headway.analyze.formation.roles import MAINLY, ROLES
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
        """The kept steps between which it left its band; what is weaker than nothing has not formed."""
        if self.since is None or self.z < 0:
            return "not formed"
        before, first = self.since
        return f"{first}" if before is None else f"{before} to {first}"

    @property
    def sentence(self) -> str:
        """What formed, with its numbers."""
        most = "" if self.ceiling is None else f" of at most {self.ceiling:.3f}"
        numbers = f"{self.measure} {self.score:.3f}{most}, where {self.null:.3f} is nothing (z {round(self.z)})"
        if self.since is None or self.z < 0:
            where = "in" if self.since is None else "below"
            return f"Not formed: {self} most of all; {numbers} lies {where} the 99 % band."
        before, first = self.since
        left = "from the start" if before is None else f"for good between steps {before} and {first}"
        way = (self.score - self.null) / (1 - self.null)
        little = f"Only {way:.1%} of the way from nothing to all, " if self.measure in ROLES and way <= MAINLY else ""
        return f"{little}{self}: {numbers}; out of its 99 % band {left}."


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

    def value(part: str) -> float:
        variable = scores[f"{measure}{part}"]
        return float(variable.sel({axis: at[axis] for axis in variable.dims}))

    return Formed(
        measure=measure,
        heads=tuple(Head(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)),
        score=value(""),
        null=value("_null"),
        null_std=value("_null_std"),
        z=value("_z"),
        since=onset(outside(scores, measure).sel(where)),
        ceiling=value("_ceiling") if f"{measure}_ceiling" in scores else None,
    )


def what_formed(scores: xr.Dataset) -> list[Formed]:
    """One entry for each measure of WORDS that this run has scores of."""
    found = []
    for measure in WORDS:
        if f"{measure}_z" in scores and scores[f"{measure}_z"].isel(step=-1).notnull().any():
            found.append(strongest(scores, measure))
    return found
