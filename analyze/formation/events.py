"""Events of one run, read from its files: what can form in it, how far each has come, and when it was half-way."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from headway.analyze.formation.behaviour import behaviour
from headway.analyze.formation.half_way import HalfWay, State, half_way, state, way, way_of_circuit, width
from headway.analyze.formation.roles import ROLES, roles
from headway.analyze.formation.updates import date_by_updates
from headway.analyze.measures.descriptions import long_name
from headway.analyze.measures.head_names import MAINLY
from headway.analyze.network.axes import HEAD, PAIR
from headway.checkpoints.run import Run
from headway.models.config import Head

# States of an event in a run whose scores say nothing of it, and in one in which it cannot be.
MISSING, IMPOSSIBLE = "not measured", "does not apply"
BEHAVIOUR, CIRCUIT, COMPOSITION = "behaviour", "circuit", "k_composition"
# What has a date by default, where it has been measured.
USUAL = (BEHAVIOUR, CIRCUIT, *ROLES, COMPOSITION)


@dataclass(frozen=True)
class Event:
    """Formation of one thing in one run.

    Args:
        label: The event in words.
        way: How far it has come at each checkpoint, from its null to its ceiling, axis ``step``.
        state: Formed, partly formed or not formed at the last checkpoint.
        half: The step at which it was half-way to where it ends, where there is one.
        who: The heads, the part or the circuit that it is about.
        by_updates: Whether ``half`` comes from the loss of every update.
        mainly: Whether a head mainly plays this role at the end; False for what is no role.
    """

    label: str
    way: xr.DataArray
    state: State
    half: HalfWay | None
    who: str = ""
    by_updates: bool = False
    mainly: bool = False

    @property
    def final(self) -> float:
        """The way at the last checkpoint."""
        return float(self.way.values[-1])

    @property
    def width(self) -> float:
        """The ratio of the steps of 90 % and 10 % of where it ends, from checkpoints."""
        return width(self.way)


def event_of(label: str, way: xr.DataArray, outside: bool = True, **others: Any) -> Event:
    """Return an event from its way, dated by checkpoints."""
    way = way.isel(step=np.isfinite(way.values))
    final = float(way.values[-1]) if way.size else np.nan
    return Event(label, way, state(final, outside), half_way(way), **others)


def events(
    run: Run, measures: Sequence[str] = (), asked: Mapping[str, Any] | None = None, part: str | None = None,
    circuit: xr.Dataset | None = None,
) -> dict[str, Event]:  # fmt: skip
    """Return the events of a run that its files hold: the behaviour, the circuit, roles of heads, K-composition.

    Heads are found by role, never by number: a role is dated by the head that is furthest on the way to it at the end
    among those that mainly play it, or among all if none does, and a measure with a null by the head or pair of the
    largest z at the end.

    Args:
        run: A run.
        measures: Further scores: of heads or pairs with a null, whose upper end is 1 or a ceiling, and shares and
            losses of the network.
        asked: The behaviour of the task, for a run whose scores do not say it.
        part: The part whose loss is the behaviour; what the task says if None.
        circuit: The circuit evaluated at every checkpoint, ``Run.circuit(over_steps=True)``.

    Raises:
        ValueError: scores without a way, a part that has no loss.
    """
    scores = run.scores
    found: dict[str, Event | None] = {BEHAVIOUR: _behaviour(run, scores, asked, part)}
    if circuit is not None:
        found[CIRCUIT] = event_of("circuit", way_of_circuit(circuit), who="what the last circuit keeps alone")
    found |= _roles(scores)
    for name in dict.fromkeys((COMPOSITION, *measures)):
        if name not in found and name in scores:
            found[name] = _measure(scores, name)
    return {name: each for name, each in found.items() if each is not None and each.way.size}


def _behaviour(run: Run, scores: xr.Dataset, asked: Mapping[str, Any] | None, part: str | None) -> Event | None:
    if "loss" not in scores:
        return None
    of_loss = [str(name) for name in scores if str(name) == "loss" or str(name).startswith("loss_")]
    losses = {name: scores[name].load() for name in of_loss if scores[name].dims == ("step",)}
    known = np.isfinite(losses["loss"].values)
    losses = {name: each.isel(step=known) for name, each in losses.items()}
    if not losses["loss"].size:
        return None
    about = behaviour(losses, losses["loss"].attrs.get("behaviour") or asked, part)
    name = "loss" if about.part is None else f"loss on {about.part}"
    found = event_of(name, about.way, who=about.part or "all positions")
    finer = date_by_updates(found.way, losses, about.part, lambda: run.training.loss)
    return found if finer is None else Event(found.label, found.way, found.state, finer, found.who, by_updates=True)


def _roles(scores: xr.Dataset) -> dict[str, Event]:
    """Return the roles that attention has been scored for."""
    there = [name for name in ROLES if f"{name}_chance" in scores and f"{name}_high" in scores]
    if not there:
        return {}
    ours = [name for name in map(str, scores) if any(name == each or name.startswith(f"{each}_") for each in there)]
    scores = scores[ours].load()
    whole = np.stack([np.isfinite(scores[name].values).reshape(scores.sizes["step"], -1).any(1) for name in there])
    if not whole.all(0).any():
        return {}
    scores = scores.isel(step=whole.all(0))
    last = scores.isel(step=[-1])
    does = roles(last).isel(step=0)
    found = {}
    for name in there:
        mainly = (does.role.values == name) & (does.role_share.values > MAINLY)
        ways = _ways(scores, name, 1.0)
        last_ways = ways.isel(step=-1).transpose(*HEAD).values
        final = np.where(mainly, does.role_share.values, -np.inf) if mainly.any() else last_ways
        layer, head = map(int, np.unravel_index(np.nanargmax(final), final.shape))
        place = {"layer": layer, "head": head}
        outside = _value(last, name, place) > _value(last, f"{name}_high", place)
        found[name] = event_of(
            ROLES[name], ways.isel(place), outside, who=str(Head(layer, head)), mainly=bool(mainly.any())
        )
    return found


def _measure(scores: xr.Dataset, name: str) -> Event | None:
    """Return the event of any other score, of the head or pair of the largest z, or of the network."""
    score = scores[name]
    axes = set(map(str, score.dims)) - {"step"}
    where = HEAD if axes == set(HEAD) else PAIR if axes == set(PAIR) else None if axes else ()
    if where is None:
        raise ValueError(
            f"measures: {name!r} is not valid; it has the axes {', '.join(sorted(axes))}, not those of heads"
        )
    ours = [each for each in map(str, scores) if each == name or each.startswith(f"{name}_")]
    scores = scores[ours].load()
    scores = scores.isel(step=np.isfinite(scores[name].values).reshape(scores.sizes["step"], -1).any(1))
    if not scores.sizes["step"]:
        return None
    if score.attrs.get("of") == "loss":
        about = behaviour({"loss": scores[name]}, None)
        return event_of(score.attrs.get("long_name", long_name(name)), about.way)
    ceiling = _ceiling(scores, name)
    if where == ():
        return event_of(long_name(name), way(scores[name], float(scores[name].values[0]), ceiling))
    if f"{name}_null" not in scores or f"{name}_z" not in scores:
        raise ValueError(f"measures: {name!r} is not valid; it has no null from which a way could begin")
    last = scores.isel(step=[-1])
    z = last[f"{name}_z"].isel(step=0).transpose(*where)
    if np.isnan(z.values).all():
        return None
    numbers = [int(each) for each in np.unravel_index(np.nanargmax(z.values), z.shape)]
    place: dict[str, int] = dict(zip(where, numbers, strict=True))
    who = " and ".join(str(Head(*each)) for each in zip(numbers[::2], numbers[1::2], strict=True))
    outside = f"{name}_high" not in scores or _value(last, name, place) > _value(last, f"{name}_high", place)
    return event_of(long_name(name), _ways(scores, name, ceiling).isel(place), outside, who=who)


def _ways(scores: xr.Dataset, name: str, ceiling: float | xr.DataArray) -> xr.DataArray:
    """Return the way of each head or pair from its null, which belongs to the run."""
    null = scores[f"{name}_null" if f"{name}_null" in scores else f"{name}_chance"]
    if "step" in null.dims:
        null = null.isel(step=-1, drop=True)
    with np.errstate(invalid="ignore", divide="ignore"):  # pairs that do not exist have no ceiling
        return way(scores[name], null, ceiling).transpose("step", ...).drop_attrs()


def _ceiling(scores: xr.Dataset, name: str) -> float | xr.DataArray:
    if f"{name}_ceiling" in scores:
        return scores[f"{name}_ceiling"]
    ends = re.fullmatch(r"\[(-?[\d.]+), (-?[\d.]+)\]", scores[name].attrs.get("range", ""))
    if ends is None:
        raise ValueError(f"measures: {name!r} is not valid; it has no upper end to which a way could lead")
    return float(ends[2])


def _value(last: xr.Dataset, name: str, place: Mapping[str, int]) -> float:
    """Return a number of one head or pair at the last checkpoint."""
    value = last[name]
    place = {"step": 0, **place}
    return float(value.isel({axis: at for axis, at in place.items() if axis in value.dims}))
