"""Parts of a circuit that are alike, the verdict on each, and the sets of them that are judged together."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from headway.analyze.circuits.graph import EMBED, OUTPUT, POS_EMBED, Edge
from headway.analyze.measures.head_names import spans

# A part is needed if its removal alone costs at least this share of what is known.
NEEDED = 0.1
UNNAMED = "unnamed"
NECESSARY, DEPENDS, REDUNDANT = "necessary", "depends on the replacement", "redundant"


@dataclass(frozen=True)
class Group:
    """Nodes that are alike; ``names`` are nodes in the order in which they compute."""

    names: tuple[str, ...]
    signature: str

    @property
    def title(self) -> str:
        """Their names, as ``spans`` gives them."""
        return spans(self.names)


@dataclass(frozen=True)
class Parts:
    """The parts of a circuit: heads and MLPs, those alike in one group, each with a verdict.

    Parts of one layer with one name and the same edges are alike, and so are those that stand in for them.

    Args:
        scores: The Dataset of a circuit; names of heads are the attribute ``names`` of ``node_in_circuit``.
    """

    scores: xr.Dataset

    @cached_property
    def nodes(self) -> list[str]:
        """All nodes, in the order in which they compute."""
        return [str(name) for name in self.scores.node.values]

    @cached_property
    def signatures(self) -> dict[str, tuple[str, str, float]]:
        """For each head that has one its name, the score that it goes by, and the value of this score."""
        return {node: tuple(each) for node, each in self.scores.node_in_circuit.attrs.get("names", {}).items()}

    @cached_property
    def stands_in_for(self) -> dict[str, list[str]]:
        """For each node that stands in, the parts of the circuit for which it does."""
        table = self.scores.stand_in.values.astype(bool)
        members = np.array(self.nodes)
        return {
            node: members[table[:, place]].tolist() for place, node in enumerate(self.nodes) if table[:, place].any()
        }

    @cached_property
    def members(self) -> list[str]:
        """Heads and MLPs of the circuit."""
        inside = self.scores.node_in_circuit.values.astype(bool)
        return [node for node, kept in zip(self.nodes, inside, strict=True) if kept and node not in (EMBED, POS_EMBED)]

    @property
    def outside(self) -> list[str]:
        """Heads and MLPs that are neither in the circuit nor stand in for a part of it."""
        inside = {*self.members, *self.stands_in_for, EMBED, POS_EMBED}
        return [node for node in self.nodes if node not in inside]

    @cached_property
    def edges(self) -> list[Edge]:
        """Edges of the circuit.

        Raises:
            ValueError: one joins a node that is not in the circuit, as in a file that was changed.
        """
        edges = [Edge.named(str(name)) for name in self.scores.edge.values[self.scores.in_circuit.values.astype(bool)]]
        inside = {*self.members, EMBED, POS_EMBED, OUTPUT}
        for edge in edges:
            if not {edge.source, edge.target} <= inside:
                raise ValueError(f"circuit: {edge} is an edge of it, though it joins a node that is not in the circuit")
        return edges

    @cached_property
    def groups(self) -> list[Group]:
        """Parts of the circuit that are alike, with those that stand in for them."""
        alike: dict[tuple, list[str]] = {}
        key_of = {}
        for node in self.members:
            key_of[node] = (*self._kind(node), self._edges_of(node))
            alike.setdefault(key_of[node], []).append(node)
        for node, whom in self.stands_in_for.items():
            like = [key_of[each] for each in whom if each in key_of and key_of[each][:2] == self._kind(node)]
            alike.setdefault(like[0] if like else (*self._kind(node), node), []).append(node)
        place = self.nodes.index
        groups = [Group(tuple(sorted(names, key=place)), key[0]) for key, names in alike.items()]
        return sorted(groups, key=lambda group: place(group.names[0]))

    @property
    def together(self) -> list[tuple[str, ...]]:
        """Sets of nodes that are judged as one: groups of several nodes, and those in one with the same verdict."""
        sets = [names for group in self.groups for names in (group.names, *self.by_verdict(group).values())]
        return list(dict.fromkeys(names for names in sets if len(names) > 1))

    def by_verdict(self, group: Group) -> dict[str, tuple[str, ...]]:
        """Return the nodes of a group by the verdict on each."""
        found: dict[str, tuple[str, ...]] = {}
        for node in group.names:
            verdict = self.verdict(node)
            found[verdict] = (*found.get(verdict, ()), node)
        return found

    def verdict(self, node: str) -> str:
        """Return NECESSARY, DEPENDS or REDUNDANT: what its removal alone costs under both replacements."""
        needed = self.needed(node)
        return NECESSARY if needed.all() else DEPENDS if needed.any() else REDUNDANT

    def needed(self, node: str) -> np.ndarray:
        """Return whether a node is needed, under each replacement under which something is known."""
        return self.effects(node)[:, 0] >= NEEDED

    def effects(self, node: str) -> np.ndarray:
        """Return the effects of a node under each replacement under which something is known, and what is known."""
        return self._effects("effect", self.nodes.index(node))

    def effects_together(self, names: Sequence[str]) -> np.ndarray | None:
        """Return the effects of nodes replaced together; None for a set, or a circuit, that was not judged so."""
        if "group" not in self.scores or label(names) not in self.scores.group.values:
            return None
        return self._effects("group_effect", self.scores.group.values.tolist().index(label(names)))

    def _effects(self, name: str, place: int) -> np.ndarray:
        pairs = [(self.scores[f"{kind}{name}"].values[place], self.scores[f"{kind}known"].item())
                 for kind in ("", "second_") if f"{kind}{name}" in self.scores]  # fmt: skip
        return np.array([pair for pair in pairs if np.isfinite(pair[0])])

    def name(self, node: str) -> str:
        """Return the name of a node; UNNAMED without a signature."""
        return self.signatures[node][0] if node in self.signatures else UNNAMED

    def _kind(self, node: str) -> tuple[str, int]:
        return self.name(node), _layer(node)

    def _edges_of(self, node: str) -> frozenset[tuple[str, str, str]]:
        into = {("from", edge.source, edge.input) for edge in self.edges if edge.target == node}
        return frozenset(into | {("to", edge.target, edge.input) for edge in self.edges if edge.source == node})


def label(names: Sequence[str]) -> str:
    """Return the label of a set of nodes along the axis ``group``.

    Example:
        >>> label(["L1H1", "L1H2"])
        'L1H1 L1H2'
    """
    return " ".join(names)


def _layer(node: str) -> int:
    """Return the layer of a head or an MLP, which is never alike with one of the other kind."""
    return -1 - int(node[3:]) if node.startswith("MLP") else int(node[1:].partition("H")[0])
