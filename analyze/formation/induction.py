"""Induction circuits, as scores of patterns and weights show them."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import xarray as xr

from headway.analyze.formation.dates import formed_from, held_from
from headway.analyze.formation.roles import roles
from headway.analyze.measures.head_names import MAINLY
from headway.analyze.network.axes import PAIR
from headway.models.config import Head


@dataclass(frozen=True)
class InductionCircuit:
    """A previous-token head and a later prefix-matching head that K-compose.

    Each of the two heads is more than half of the way from chance to doing only that (``roles``), and their
    K-composition is above its null band. ``since`` is the first checkpoint from which on all of this holds. These are
    signatures in patterns and weights; ablation and path patching show whether the loss on repeats needs the circuit.
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
            f"{self.previous} and {self.induction} form an induction circuit from step {self.since} on: "
            f"{self.previous} is a previous-token head ({self.previous_token:.3f}), {self.induction} does prefix "
            f"matching ({self.prefix_matching:.3f}), and its keys read the output of {self.previous} "
            f"(K-composition {self.k_composition:.3f})."
        )


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
            found.append(InductionCircuit(previous, induction, int(max(steps)), **scored))
    return sorted(found, key=lambda circuit: -circuit.k_composition)
