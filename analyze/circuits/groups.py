"""Parts of a circuit that are alike, the verdict on each, and the sets of them that are judged together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from headway.analyze.circuits.graph import EMBED, OUTPUT, POS_EMBED, Edge
from headway.analyze.measures.head_names import spans

# A part is needed if its removal costs at least this share of what is known, with its whole interval, ...
NEEDED = 0.1
# ... and not needed alone if its removal costs less, with its whole interval. Between them nothing is decided.
UNNAMED = "unnamed"
NECESSARY, DEPENDS, UNDECIDED = "necessary", "depends on the replacement", "undecided"
# Verdicts on parts that are not needed alone; ALONE where no group was judged.
REDUNDANT, LITTLE_NEEDED, ALONE = "redundant", "little needed", "little needed alone"


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
        """Sets of nodes that are judged as one.

        They are groups of several nodes, those of a group that are not needed alone, those with the same verdict, and
        parts of the circuit with all that stand in for them.
        """
        sets = []
        for group in self.groups:
            idle = tuple(node for node in group.names if self.idle_alone(node))
            sets += [group.names, idle, *self.by_verdict(group).values()]
        for node in self.members:
            stand_ins = [other for other, whom in self.stands_in_for.items() if node in whom]
            sets.append(tuple(sorted([node, *stand_ins], key=self.nodes.index)))
        return list(dict.fromkeys(names for names in sets if len(names) > 1))

    def by_verdict(self, group: Group) -> dict[str, tuple[str, ...]]:
        """Return the nodes of a group by the verdict on each."""
        found: dict[str, tuple[str, ...]] = {}
        for node in group.names:
            verdict = self.verdict(node)
            found[verdict] = (*found.get(verdict, ()), node)
        return found

    def verdict(self, node: str) -> str:
        """Return the verdict on a node, from the intervals of what its removal costs under both replacements.

        - NECESSARY: at least NEEDED of what is known under both, with the whole interval.
        - DEPENDS: at least NEEDED under one, less under the other, with both intervals.
        - UNDECIDED: neither, because an interval spans NEEDED.
        - REDUNDANT: less than NEEDED under both, with both intervals; but where others are replaced too, its own
          replacement adds at least NEEDED, with the whole interval. So these others can stand in for it. They are the
          others of a group of it (``marginal_effect``), or everything that is not in the circuit (``node_cost``).
        - LITTLE_NEEDED: less than NEEDED where others are replaced too, or not shown to be more. ALONE: the same of a
          circuit whose groups were not judged.
        """
        needed, idle = self._decided(self.effects(node))
        if needed.all():
            return NECESSARY
        if not (needed | idle).all():
            return UNDECIDED
        if needed.any():
            return DEPENDS
        if self._decided(self._with_others_replaced(node))[0].any():
            return REDUNDANT
        return LITTLE_NEEDED if "marginal_effect" in self.scores else ALONE

    def idle_alone(self, node: str) -> bool:
        """Return whether the removal of a node alone costs less than NEEDED, with the whole interval."""
        return bool(self._decided(self.effects(node))[1].all())

    def effects(self, node: str) -> np.ndarray:
        """Return the effects of a node, a row for each replacement under which something is known.

        A row holds the effect, what is known, and the two ends of the interval of the effect.
        """
        return self._effects("effect", {"node": self.nodes.index(node)})

    def effects_together(self, names: Sequence[str]) -> np.ndarray | None:
        """Return the effects of nodes replaced together; None for a set, or a circuit, that was not judged so."""
        if "group" not in self.scores or label(names) not in self.scores.group.values:
            return None
        return self._effects("group_effect", {"group": self.scores.group.values.tolist().index(label(names))})

    def _with_others_replaced(self, node: str) -> np.ndarray:
        """Return what the replacement of a node adds where all outside the circuit, or its groups, are replaced too."""
        place = self.nodes.index(node)
        groups = range(self.scores.sizes.get("group", 0) if "marginal_effect" in self.scores else 0)
        return np.concatenate([
            self._effects("node_cost", {"node": place}),
            *(self._effects("marginal_effect", {"group": group, "node": place}) for group in groups),
        ])  # fmt: skip

    def _effects(self, name: str, place: Mapping[str, int]) -> np.ndarray:
        rows = [[self.scores[f"{kind}{each}"].isel(place if each != "known" else {}).item()
                 for each in (name, "known", f"{name}_low", f"{name}_high")]
                for kind in ("", "second_") if f"{kind}{name}" in self.scores]  # fmt: skip
        return np.array([row for row in rows if np.isfinite(row[0])]).reshape(-1, 4)

    def _decided(self, effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return for each row of effects whether it is at least NEEDED, and whether it is less, with its interval."""
        return effects[:, 2] >= NEEDED, effects[:, 3] < NEEDED

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
