"""Circuit: edges that carry a behaviour, with the numbers that say how well, as one Dataset."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr

from headway.analyze.circuits.graph import Edge
from headway.checkpoints.scores import read_file, write_scores


@dataclass(frozen=True)
class Circuit:
    """A circuit that ``find_circuit`` found.

    Args:
        scores: Numbers, with the axes ``node``, ``edge``, ``order``, ``control`` and ``size``; ``find_circuit`` lists
            them. Its attributes of the variable ``known`` say what was asked: part, replacement, other replacement.
    """

    scores: xr.Dataset

    @cached_property
    def edges(self) -> list[Edge]:
        """Edges of the circuit."""
        return [Edge.named(name) for name in self.scores.edge.values[self.scores.in_circuit.values]]

    @cached_property
    def nodes(self) -> list[str]:
        """Nodes of the circuit in the order in which they compute, without the output."""
        return [str(name) for name in self.scores.node.values[self.scores.node_in_circuit.values]]

    @property
    def stand_ins(self) -> dict[str, list[str]]:
        """For nodes of the circuit, the nodes outside of it that can stand in for them."""
        names, table = self.scores.node.values, self.scores.stand_in.values
        return {str(names[row]): [str(name) for name in names[table[row]]] for row in np.flatnonzero(table.any(1))}

    def save(self, path: Path) -> None:
        """Write the circuit to a file."""
        write_scores(path, self.scores)

    @classmethod
    def load(cls, path: Path) -> "Circuit":
        """Read a circuit from a file; raise a ValueError if it is damaged."""
        return cls(read_file(path))
