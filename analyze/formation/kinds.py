"""Kinds of circuit: how many heads of each name are in one, and through which inputs heads read each other."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import xarray as xr

from headway.analyze.measures.head_names import HEAD_NAMES

NONE = "no circuit stored"
UNNAMED, MLP = "head without a name", "MLP"
# Inputs of heads, in the order in which they are named.
ROUTES = ("Q", "K", "V")


@dataclass(frozen=True)
class Kind:
    """Counts of nodes by name, and the inputs through which a head of the circuit reads another one.

    A minimal circuit is not unique: of heads that can stand in for each other it has some.

    Example:
        >>> print(Kind({"previous-token head": 1, "induction head": 3}, ("K", "V")))
        1 previous-token head, 3 induction heads; K, V
    """

    parts: dict[str, int]
    routes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.named or 'embedding alone'}; {', '.join(self.routes) or 'no head reads another'}"

    @property
    def named(self) -> str:
        """The counts in words."""
        return ", ".join(f"{count} {name if count == 1 else _plural(name)}" for name, count in self.parts.items())


def _plural(name: str) -> str:
    return "heads without a name" if name == UNNAMED else f"{name}s"


def kind_of(circuit: xr.Dataset) -> Kind:
    """Return the kind of a circuit, ``Run.circuit()``: its heads have the names of their signatures."""
    inside = circuit.node_in_circuit.values.astype(bool)
    nodes = [str(node) for node in circuit.node.values[inside]]
    named = circuit.node_in_circuit.attrs.get("names", {})
    heads = [node for node in nodes if node.startswith("L")]
    counts = Counter(named[node][0] if node in named else UNNAMED for node in heads)
    counts[MLP] += sum(node.startswith("MLP") for node in nodes)
    order = [*HEAD_NAMES.values(), UNNAMED, MLP]
    edges = [str(name).partition("->") for name in circuit.edge.values[circuit.in_circuit.values.astype(bool)]]
    between = [target.partition(".")[2].upper() for source, _, target in edges if source.startswith("L")]
    return Kind(
        {name: counts[name] for name in order if counts[name]}, tuple(np.array(ROUTES)[np.isin(ROUTES, between)])
    )
