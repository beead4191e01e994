"""Circuit: edges that carry a behaviour, with the numbers that say how well, as one Dataset."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr

from headway.analyze.circuits.graph import Edge
from headway.analyze.circuits.kept import Kept
from headway.checkpoints.scores import read_file, write_scores


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
        """Whether edges were searched for; nodes without edges otherwise."""
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
        write_scores(path, self.scores)
        return replace(self, file=path)

    @classmethod
    def load(cls, path: Path) -> "Circuit":
        """Read a circuit from a file; raise a ValueError if it is damaged."""
        return cls(read_file(path), path)
