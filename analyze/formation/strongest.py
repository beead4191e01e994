"""The head or pair furthest outside its null band, measure by measure."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from headway.analyze.formation.dates import onset, outside
from headway.analyze.formation.half_way import HalfWay, half_way, way
from headway.analyze.formation.roles import ROLES
from headway.analyze.measures.head_names import MAINLY
from headway.models.config import Head

# The measures whose strongest head or pair is named: as a label, as what it is, and as what it would be.
LABELS = {**{name: ROLES[name] for name in ("previous_token", "prefix_matching")}, "k_composition": "K-composition"}
VERBS = {
    "previous_token": "is a previous-token head",
    "prefix_matching": "is a prefix-matching head",
    "k_composition": "K-compose",
}
NOUNS = {
    "previous_token": "previous-token head",
    "prefix_matching": "prefix-matching head",
    "k_composition": "K-composition",
}


@dataclass(frozen=True)
class Formed:
    """The strongest head or pair of one measure at the last checkpoint, beside its null.

    ``since`` is the interval in which it left its null band for good: the last checkpoint inside, the first outside.
    The first is None for a score that is outside from the start. ``since`` is None for a score that ends inside its
    band. ``half`` is the step from which on the score stays more than half of its way from its null.
    """

    measure: str
    heads: tuple[Head, ...]
    score: float
    null: float
    null_std: float
    z: float
    since: tuple[int | None, int] | None
    ceiling: float | None = None
    half: HalfWay | None = None

    def __str__(self) -> str:
        return f"{LABELS[self.measure]}: {', '.join(map(str, self.heads))}"

    @property
    def when(self) -> str:
        """The checkpoints between which it left its band for good, upwards; "not formed" without such a step."""
        if self.since is None or self.z < 0:
            return "not formed"
        before, first = self.since
        return f"{first}" if before is None else f"{before} to {first}"

    @property
    def sentence(self) -> str:
        """A sentence on what formed and when, with its numbers; or that nothing formed, with the highest score.

        A score has formed if it is more than half of the way from its null to its ceiling: 1 for attention.
        """
        names = " and ".join(map(str, self.heads))
        if self.since is None or self.z < 0:
            where = "inside" if self.since is None else "below"
            return (
                f"No {NOUNS[self.measure]} (highest: {names}, {self.score:.3f}; "
                f"null {self.null:.3f}, {where} its 99 % band)."
            )
        most = 1.0 if self.ceiling is None else self.ceiling
        if not self.formed:
            gone = way(self.score, self.null, most)
            return (
                f"No {NOUNS[self.measure]} (highest: {names}, {self.score:.3f}; null {self.null:.3f}): the score "
                f"{self._leaves}, but it is only {gone:.1%} of the way from the null to {most:.3g}."
            )
        beside = "" if self.ceiling is None else f" of at most {self.ceiling:.3f}"
        reached = "" if self.half is None else f" It is half-way {self.half}."
        return (
            f"{names} {VERBS[self.measure]}: {self.measure} {self.score:.3f}{beside} (null {self.null:.3f})."
            f"{reached} The score {self._leaves}."
        )

    @property
    def dates(self) -> str:
        """A sentence on the dates alone, of a score that has formed and is named elsewhere."""
        reached = "" if self.half is None else f"is half-way {self.half}, and "
        return f"{self.measure} of {' and '.join(map(str, self.heads))} {reached}{self._leaves}."

    @property
    def formed(self) -> bool:
        """Whether the score is above its band for good, and more than half of the way to its ceiling."""
        if self.since is None or self.z < 0:
            return False
        if self.measure not in ROLES and self.ceiling is None:
            return True
        return way(self.score, self.null, 1.0 if self.ceiling is None else self.ceiling) > MAINLY

    @property
    def _leaves(self) -> str:
        assert self.since is not None
        before, first = self.since
        if before is None:
            return (
                "is outside its 99 % band from the start" if first == 0 else f"is outside its 99 % band by step {first}"
            )
        return f"leaves its 99 % band for good between steps {before} and {first}"


def strongest(scores: xr.Dataset, measure: str) -> Formed:
    """The head or pair with the largest z of ``measure`` at the last step, and when it left its band.

    Raises:
        ValueError: a measure of which no head has a z at the last step.
    """
    z = scores.variables[f"{measure}_z"].transpose("step", ...)
    if np.isnan(z.values[-1]).all():
        raise ValueError(f"{measure}: no head of this run has a score with a null")
    numbers = [int(place) for place in np.unravel_index(np.nanargmax(z.values[-1]), z.shape[1:])]
    where = {"step": -1, **dict(zip(z.dims[1:], numbers, strict=True))}

    def value(part: str) -> float:
        variable = scores.variables[f"{measure}{part}"]
        return float(variable[{axis: where[axis] for axis in variable.dims}])

    return Formed(
        measure=measure,
        heads=tuple(Head(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)),
        score=value(""),
        null=value("_null"),
        null_std=value("_null_std"),
        z=value("_z"),
        since=onset(outside(scores, measure)[{axis: where[axis] for axis in z.dims[1:]}]),
        ceiling=value("_ceiling") if f"{measure}_ceiling" in scores else None,
        # Half of the final value is half of it whatever the ceiling.
        half=half_way(scores[measure][{axis: where[axis] for axis in z.dims[1:]}] - value("_null")),
    )


def what_formed(scores: xr.Dataset) -> list[Formed]:
    """One entry for each measure of LABELS of which this run has scores."""
    last = {name: scores[f"{name}_z"].isel(step=-1) for name in LABELS if f"{name}_z" in scores}
    return [strongest(scores, name) for name, z in last.items() if not np.isnan(z.values).all()]
