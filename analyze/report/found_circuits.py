"""Circuits that ``headway circuit`` has written to a run, read from files for figures, without the network."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import xarray as xr

from headway.analyze.circuits.graph import Edge
from headway.checkpoints import Run

IN_CIRCUIT, STANDS_IN, LEADS, NOT_NEEDED = "in the circuit", "stands in for", "leads to a stand-in", "not needed"


class NodeRole(NamedTuple):
    """The role of a node in a circuit, and the nodes of the circuit that it can stand in for."""

    kind: str
    replaces: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {', '.join(self.replaces)}" if self.replaces else self.kind


@dataclass(frozen=True)
class FoundCircuits:
    """The circuits of one behaviour under one replacement.

    Args:
        part: The behaviour, as ``Run.circuits`` names it.
        replacement: What stood in for the edges that were not kept.
        found: The circuit of each step at which one was found: the Dataset of ``Run.circuit``, in order.
        over: The last circuit evaluated at every checkpoint, if it was.
        nodes: Nodes were searched for, without edges.
        damaged: Errors of files that cannot be read, by step; that of the last circuit over steps has None for it.
    """

    part: str
    replacement: str
    found: dict[int, xr.Dataset]
    over: xr.Dataset | None
    nodes: bool = False
    damaged: Mapping[int | None, str] = field(default_factory=dict)

    @property
    def behaviour(self) -> str:
        """The behaviour in words."""
        return "all positions" if self.part == "all" else self.part

    def shown_at(self, step: int) -> int | None:
        """The last step up to ``step`` at which a circuit was found; None if there is none."""
        return max((found for found in self.found if found <= step), default=None)

    def check(self, shown: int, step: int) -> None:
        """Refuse to show the circuit of ``shown`` at ``step`` if that of a step between them cannot be read.

        Raises:
            ValueError: what is damaged.
        """
        for at, error in self.damaged.items():
            if at is not None and shown < at <= step:
                raise ValueError(error)


def found_circuits(run: Run) -> list[FoundCircuits]:
    """Read the circuits of a run, those of nodes without edges last.

    The one that ``Run.circuit()`` returns by default is in the first entry.
    """
    kinds = ((False, run.circuits), (True, run.node_circuits))
    return [each for nodes, there in kinds for each in _of_kind(run, there, nodes)]


def _of_kind(run: Run, there: list[tuple[int, str, str]], nodes: bool) -> list[FoundCircuits]:
    steps: dict[tuple[str, str], list[int]] = defaultdict(list)
    for step, part, replacement in there:
        steps[part, replacement].append(step)
    return [_read(run, *asked, steps[asked], nodes) for asked in run.usual_first(steps)]


def _read(run: Run, part: str, replacement: str, steps: list[int], nodes: bool) -> FoundCircuits:
    found, damaged, over = {}, {}, None
    for step in steps:
        try:
            found[step] = run.circuit(step, part, replacement, nodes=nodes)
        except ValueError as error:
            damaged[step] = str(error)
    if run.circuit_file(None, part, replacement, nodes).exists():
        try:
            over = run.circuit(None, part, replacement, over_steps=True, nodes=nodes)
        except ValueError as error:
            damaged[None] = str(error)
    return FoundCircuits(part, replacement, found, over, nodes, damaged)


def edges_shown(circuit: xr.Dataset) -> list[tuple[int, Edge, bool]]:
    """The edges of a circuit and those through which nodes stand in: place, edge, whether the circuit has it."""
    inside = circuit.in_circuit.values.astype(bool)
    places = np.flatnonzero(inside | circuit.in_reach.values.astype(bool))
    return [(int(at), Edge.named(str(circuit.edge.values[at])), bool(inside[at])) for at in places]


def node_roles(circuit: xr.Dataset) -> dict[str, NodeRole]:
    """The role of each node in a circuit, in the order in which they compute."""
    names = [str(name) for name in circuit.node.values]
    inside, table = circuit.node_in_circuit.values.astype(bool), circuit.stand_in.values.astype(bool)
    leading = {edge.source for _, edge, _ in edges_shown(circuit)}
    found = {}
    for at, name in enumerate(names):
        replaces = tuple(names[row] for row in np.flatnonzero(table[:, at]))
        if inside[at]:
            found[name] = NodeRole(IN_CIRCUIT)
        elif replaces:
            found[name] = NodeRole(STANDS_IN, replaces)
        else:
            found[name] = NodeRole(LEADS if name in leading else NOT_NEEDED)
    return found


def signatures_of(circuit: xr.Dataset) -> dict[str, tuple[str, str, float]]:
    """For each head that has one its name, the score that it goes by, and the value of this score."""
    return {node: tuple(each) for node, each in circuit.node_in_circuit.attrs.get("names", {}).items()}
