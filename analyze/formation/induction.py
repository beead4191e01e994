"""Induction circuits, as scores of patterns and weights tell them."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import xarray as xr

from headway.analyze.formation.dates import formed_from, held_from
from headway.analyze.formation.roles import MAINLY, roles
from headway.analyze.network.axes import PAIR
from headway.models.config import Head


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
