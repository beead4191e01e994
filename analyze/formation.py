"""What formed, and at which kept step."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import xarray as xr

from headway.analyze.circuits import PAIR
from headway.models.config import Head

# What is said of the head, or the pair of heads, whose score is furthest out of its band.
WORDS = {
    "previous_token": "{0} looks at the token before",
    "prefix_matching": "{0} does prefix matching",
    "k_composition": "{0} and {1} K-compose",
}

# What a head can attend to, by the measure that says so.
ROLES = {
    "previous_token": "the token before",
    "prefix_matching": "what followed the current token before",
    "duplicate_token": "earlier copies of the current token",
    "current_token": "its own position",
    "first_token": "position 0, where heads rest",
}
# A head that is further than this on the way from chance to attending to one thing alone does mainly that.
MAINLY = 0.5


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


@dataclass(frozen=True)
class InductionCircuit:
    """A head that looks at the token before, and a later one that does prefix matching, whose keys read what it writes.

    Each of the two is more than half of the way from chance to doing only that (``roles``), and their K-composition is
    above its band. ``since`` is the first kept step from which on all of this holds. It is said of patterns and
    weights; that the loss on repeats needs the circuit is for ablation and path patching to show.
    """

    previous: Head
    induction: Head
    since: int
    previous_token: float
    prefix_matching: float
    k_composition: float

    @property
    def sentence(self) -> str:
        """The circuit, with its numbers."""
        return (
            f"{self.previous} and {self.induction} are an induction circuit since step {self.since}: {self.previous} "
            f"looks at the token before ({self.previous_token:.3f}), the keys of {self.induction} read what it writes "
            f"(K-composition {self.k_composition:.3f}), {self.induction} attends to what came next "
            f"({self.prefix_matching:.3f})."
        )


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


def roles(scores: xr.Dataset) -> xr.Dataset:
    """What each head attends to at each step: ``role`` [step, layer, head], one of ROLES, "" for none; ``role_share``.

    Of the attention scores that are above their band, the one furthest on the way from chance to all attention,
    ``(score - chance) / (1 - chance)``, which is ``role_share``; NaN for none. A head may do more than one thing, and
    what it attends to says neither what it reads there nor whether anything uses it.

    Raises:
        ValueError: scores without any of the measures in ROLES.
    """
    measured = [name for name in ROLES if f"{name}_high" in scores]
    if not measured:
        raise ValueError(f"roles: none of {', '.join(ROLES)} has been measured")
    shares = []
    for name in measured:
        chance = scores[f"{name}_chance"]
        share = (scores[name] - chance) / (1 - chance)
        shares.append(share.where((outside(scores, name) == 1) & (share > 0)))
    stacked = xr.concat(shares, dim="role").transpose("role", "step", "layer", "head")
    best = stacked.fillna(-1).argmax("role")
    share = stacked.max("role")
    names = np.array(measured)[best.values]
    return xr.Dataset({"role": (share.dims, np.where(share.notnull(), names, "")), "role_share": share})


def induction_circuits(scores: xr.Dataset) -> list[InductionCircuit]:
    """The induction circuits at the last kept step, strongest K-composition first."""
    needed = ("previous_token", "prefix_matching", "k_composition")
    if any(f"{name}_high" not in scores for name in needed):
        return []
    last, does = scores.isel(step=-1), roles(scores)
    since = {role: held_from((does.role == role) & (does.role_share > MAINLY)) for role in needed[:2]}
    since["k_composition"] = formed_from(scores, "k_composition")

    def heads(role: str) -> list[Head]:
        return [Head(int(layer), int(head)) for layer, head in np.argwhere(since[role].notnull().values)]

    found = []
    for previous, induction in product(heads("previous_token"), heads("prefix_matching")):
        where = {
            "previous_token": previous._asdict(),
            "prefix_matching": induction._asdict(),
            "k_composition": dict(zip(PAIR, (*previous, *induction), strict=True)),
        }
        steps = [since[name].sel(at).item() for name, at in where.items()]
        if not np.isnan(steps).any():
            scored = {name: last[name].sel(at).item() for name, at in where.items()}
            found.append(InductionCircuit(previous, induction, int(max(steps)), **scored))
    return sorted(found, key=lambda circuit: -circuit.k_composition)
