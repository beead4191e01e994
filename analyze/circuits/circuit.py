"""Circuit: edges that carry a behaviour, with the numbers that say how well, as one Dataset."""

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from headway.analyze.circuits.graph import Edge
from headway.analyze.circuits.kept import Kept
from headway.analyze.measures.descriptions import LOSS, SHARE_OF_KNOWN
from headway.checkpoints.scores import read_circuit, write_scores


class _Meaning(NamedTuple):
    description: str
    units: str = ""
    range: str = ""
    null: str = ""


_CONTROL = "that of random circuits of its size, control_faithfulness"
_SHARE = {"units": SHARE_OF_KNOWN, "range": "any"}
_OF_EFFECT = {**_SHARE, "null": "0, no effect"}
_MEANINGS = {
    "clean": _Meaning("the loss of the unchanged network", LOSS, "0 or more"),
    "all_replaced": _Meaning("the loss with every edge replaced", LOSS, "0 or more"),
    "chance": _Meaning("the loss of a network that does not know the answer", LOSS, "0 or more"),
    "misleads": _Meaning("the loss with every edge replaced exceeds chance by more than a tenth, with its interval"),
    "known": _Meaning("the loss with every edge replaced minus that of the unchanged network", LOSS, "any", "0"),
    "in_circuit": _Meaning("the edge is in the circuit"),
    "node_in_circuit": _Meaning("an edge of the circuit begins at the node"),
    "in_order": _Meaning("the edge is in the circuit that elimination in this order left"),
    "node_in_order": _Meaning("the node is in the circuit that elimination in this order left"),
    "node_in_reach": _Meaning("the node is in the circuit, or stands in"),
    "overlap": _Meaning("mean intersection over union of the circuits of two orders", range="[0, 1]"),
    "in_reach": _Meaning("the edge is in the circuit, or a node stands in through it"),
    "stand_in": _Meaning("the other node can take the place of the node, which is in the circuit"),
    "faithfulness": _Meaning("what the circuit keeps alone", **_SHARE, null=_CONTROL),
    "necessity": _Meaning("what is lost when the circuit is replaced", **_SHARE),
    "reach_faithfulness": _Meaning("what the circuit keeps with all that stands in", **_SHARE),
    "reach_necessity": _Meaning("what is lost when the circuit and all that stands in are replaced", **_SHARE),
    "minimality": _Meaning("the cost of the edge of the circuit that costs least", **_SHARE),
    "effect": _Meaning("what is lost when the node alone is replaced", **_OF_EFFECT),
    "edge_effect": _Meaning("what is lost when the edge alone is replaced", **_OF_EFFECT),
    "group_effect": _Meaning("what is lost when nodes that are alike are replaced together", **_OF_EFFECT),
    "marginal_effect": _Meaning(
        "what the replacement of the node adds where the others of its group are replaced", **_OF_EFFECT
    ),
    "cost": _Meaning("the loss of faithfulness when the edge is removed from the circuit", **_OF_EFFECT),
    "node_cost": _Meaning("the loss of faithfulness when the node is removed from the circuit", **_OF_EFFECT),
    "faithfulness_by_size": _Meaning("what the edges that left last keep alone, by their share of all edges", **_SHARE),
    "cpr": _Meaning("the area under faithfulness_by_size", range="any"),
    "cmd": _Meaning("the area under |1 - faithfulness_by_size|", range="0 or more"),
    "control_faithfulness": _Meaning("what a random circuit of the same size keeps alone", **_SHARE),
    "p": _Meaning("(1 + random circuits at least as faithful) / (1 + random circuits)", range="[0, 1]", null="uniform"),
    "edge_importance": _Meaning("the place of the edge in the order in which edges are needed", range="[0, 1]"),
    "node_importance": _Meaning("that of the most important edge out of the node", range="[0, 1]"),
}  # fmt: skip
_ENDS = {"low": "lower", "high": "upper"}


def described(scores: xr.Dataset, loss_units: str) -> xr.Dataset:
    """Return numbers of a circuit with ``long_name``, ``description``, ``units``, ``range`` and ``null`` as attributes.

    ``second_...`` is a number under the second replacement, ``..._low`` and ``..._high`` are the ends of an interval.

    Example:
        >>> described(xr.Dataset({"second_known_low": 3.1}), "nats").second_known_low.attrs["description"]
        'lower end of the 95 % interval of known, under the second replacement'
    """
    scores = scores.copy()
    for name in map(str, scores.data_vars):
        second, base, end = re.fullmatch(r"(second_)?(.*?)(?:_(low|high))?", name).groups()  # pyright: ignore[reportOptionalMemberAccess]
        meaning = _MEANINGS.get(base, _Meaning(""))
        said = meaning.description if end is None else f"{_ENDS[end]} end of the 95 % interval of {base}"
        found = meaning._replace(
            description=f"{said}, under the second replacement" if second else said,
            units=loss_units if meaning.units == LOSS else meaning.units,
        )
        attributes = {
            "long_name": name.replace("_", " "),
            **{key: text for key, text in found._asdict().items() if text},
        }
        scores.variables[name].attrs = attributes | {"units": found.units} | scores.variables[name].attrs
    return scores


@dataclass(frozen=True)
class Circuit:
    """A circuit that ``find_circuit`` or ``find_nodes`` found.

    Args:
        scores: Numbers, with the axes ``node``, ``edge``, ``order``, ``control`` and ``size``; ``find_circuit`` lists
            them. Its attributes of the variable ``known`` say what was asked: part, replacement, other replacement.
        file: The file that holds it; None if there is none.
    """

    scores: xr.Dataset
    file: Path | None = None

    @cached_property
    def edges(self) -> list[Edge]:
        """Edges of the circuit."""
        return [Edge.named(name) for name in self.scores.edge.values[self.scores.in_circuit.values]]

    @cached_property
    def nodes(self) -> list[str]:
        """Nodes of the circuit in the order in which they compute, without the output."""
        return [str(name) for name in self.scores.node.values[self.scores.node_in_circuit.values]]

    @property
    def has_edges(self) -> bool:
        """True if edges were searched for, False for nodes without edges."""
        return bool(self.scores.sizes["edge"])

    @property
    def kept(self) -> Kept:
        """An entry for each edge, or each node if there are no edges: True in the circuit."""
        return self.scores.in_circuit.values if self.has_edges else self.scores.node_in_circuit.values

    @property
    def reach(self) -> Kept:
        """The same with those through which other nodes stand in, or with these nodes."""
        return self.scores.in_reach.values if self.has_edges else self.scores.node_in_reach.values

    @property
    def stand_ins(self) -> dict[str, list[str]]:
        """For nodes of the circuit, the nodes outside of it that can stand in for them."""
        names, table = self.scores.node.values, self.scores.stand_in.values
        return {str(names[row]): [str(name) for name in names[table[row]]] for row in np.flatnonzero(table.any(1))}

    def save(self, path: Path) -> "Circuit":
        """Write the circuit to a file, and return it with this file."""
        write_scores(path, self.scores, checksum=True)
        return replace(self, file=path)

    @classmethod
    def load(cls, path: Path) -> "Circuit":
        """Read a circuit from a file; raise a ValueError if it is damaged."""
        return cls(read_circuit(path), path)
