"""Induction circuits, as scores of patterns and weights show them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import xarray as xr

from headway.analyze.formation.dates import formed_from, held_from
from headway.analyze.formation.half_way import FORMED, HalfWay, half_way, way
from headway.analyze.formation.roles import roles
from headway.analyze.measures.head_names import MAINLY, spans
from headway.analyze.network.axes import PAIR
from headway.models.config import Head


@dataclass(frozen=True)
class InductionCircuit:
    """A previous-token head and a later prefix-matching head that K-compose.

    Each of the two heads is more than half of the way from chance to doing only that (``roles``), and their
    K-composition is above its null band. ``since`` is the first checkpoint from which on all of this holds, and
    ``half`` the step at which the last of the three scores is half-way; ``composed`` is the way of the K-composition
    from its null to its ceiling. These are signatures in patterns and weights; ``headway circuit`` finds what the loss
    on repeats needs.
    """

    previous: Head
    induction: Head
    since: int
    previous_token: float
    prefix_matching: float
    k_composition: float
    composed: float
    half: HalfWay | None


def sentences(circuits: Sequence[InductionCircuit]) -> list[str]:
    """Return a sentence on each previous-token head with the heads that read it, in the order of their numbers.

    A pair whose K-composition is less than half of its way composes partly.
    """
    alike: dict[tuple[Head, bool], list[InductionCircuit]] = {}
    for each in sorted(circuits, key=lambda circuit: (circuit.previous, circuit.induction)):
        alike.setdefault((each.previous, each.composed >= FORMED), []).append(each)
    return [_sentence(some, formed) for (_, formed), some in alike.items()]


def _sentence(circuits: Sequence[InductionCircuit], formed: bool) -> str:
    first = circuits[0]
    what = "have the signatures of an induction circuit" if formed else "K-compose, but less than half of the way"
    when = _when([each.half for each in circuits if each.half is not None])
    return (
        f"{first.previous} and {spans([str(each.induction) for each in circuits])} {what}{when}: previous-token head "
        f"({first.previous_token:.3f}), prefix matching ({_ends([each.prefix_matching for each in circuits])}), and "
        f"keys that read {first.previous} (K-composition {_ends([each.k_composition for each in circuits])})."
    )


def _when(dates: Sequence[HalfWay]) -> str:
    if not dates:
        return ""
    steps = [round(each.step) for each in dates]
    return f", half-way {dates[0] if len(set(dates)) == 1 else f'at steps {min(steps)} to {max(steps)}'}"


def _ends(values: Sequence[float]) -> str:
    ends = [f"{end:.3f}" for end in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def induction_circuits(scores: xr.Dataset) -> list[InductionCircuit]:
    """The induction circuits at the last checkpoint, strongest K-composition first."""
    needed = ("previous_token", "prefix_matching", "k_composition")
    if any(f"{name}_high" not in scores for name in needed):
        return []
    does = roles(scores)
    mainly = does.role_share.values > MAINLY
    since = {role: held_from(does.role.copy(data=mainly & (does.role.values == role))).values for role in needed[:2]}
    since["k_composition"] = formed_from(scores, "k_composition").transpose(*PAIR).values
    last = {name: scores[name].isel(step=-1) for name in needed}

    def heads(role: str) -> list[Head]:
        return [Head(int(layer), int(head)) for layer, head in np.argwhere(~np.isnan(since[role]))]

    found = []
    for previous, induction in product(heads("previous_token"), heads("prefix_matching")):
        places = {
            "previous_token": previous._asdict(),
            "prefix_matching": induction._asdict(),
            "k_composition": dict(zip(PAIR, (*previous, *induction), strict=True)),
        }
        steps = [since[name][tuple(place.values())] for name, place in places.items()]
        if not np.isnan(steps).any():
            scored = {name: last[name][place].item() for name, place in places.items()}
            half = _latest(half_way(_from_null(scores, name, place)) for name, place in places.items())
            pair = places["k_composition"]
            ends = (float(_at(scores[f"k_composition_{end}"].isel(step=-1), pair)) for end in ("null", "ceiling"))
            composed = way(scored["k_composition"], *ends)
            found.append(InductionCircuit(previous, induction, int(max(steps)), **scored, composed=composed, half=half))
    return sorted(found, key=lambda circuit: -circuit.k_composition)


def _at(values: xr.DataArray, place: Mapping[str, int]) -> xr.DataArray:
    return values.isel({axis: at for axis, at in place.items() if axis in values.dims})


def _from_null(scores: xr.Dataset, name: str, place: Mapping[str, int]) -> xr.DataArray:
    """Return a score minus its null, or chance where it has no null."""
    null = f"{name}_null" if f"{name}_null" in scores else f"{name}_chance"
    return _at(scores[name] - scores[null], place)


def _latest(dates: Iterable[HalfWay | None]) -> HalfWay | None:
    """Return the last of several dates; None if one of them is missing."""
    known = list(dates)
    return None if None in known else max((each for each in known if each is not None), key=lambda each: each.step)
