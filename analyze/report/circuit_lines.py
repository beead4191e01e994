"""The paragraph on a circuit: how well it does alone, its parts with names and effects, and what is not needed."""

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from headway.analyze.circuits.graph import EMBED, OUTPUT, POS_EMBED, Edge
from headway.analyze.formation.half_way import half_way
from headway.models.config import Head

WIDTH = 120
# A part is needed if its removal alone costs at least this share of what is known.
NEEDED = 0.1
# More routes than these are counted instead of listed.
MOST_ROUTES = 6
UNNAMED = "unnamed"


def circuit_lines(
    circuit: xr.Dataset,
    over_steps: xr.Dataset | None = None,
    units: str = "nats",
    nulls: Mapping[tuple[str, str], float] | None = None,
) -> list[str]:
    """Return the lines on a circuit: what it keeps alone, its parts, and what is not needed.

    Parts of one layer with one name and the same edges stand in one line, with those that stand in for them. The
    verdict on a part compares what its removal alone costs with what is known, under both replacements:

    - *necessary*: at least a tenth of it under both;
    - *depends on the replacement*: at least a tenth under one of them, less under the other;
    - *redundant*: less than a tenth under both, though it is in the circuit or stands in for such a part. Beside it is
      what it costs where only the circuit is kept, so that nothing stands in.

    Args:
        circuit: What ``Run.circuit()`` returns.
        over_steps: What ``Run.circuit(over_steps=True)`` returns; without it there is no half-way step.
        units: Units of the loss.
        nulls: Nulls of signatures, by node and measure.

    Example:
        >>> print(*circuit_lines(Run("runs/induction").circuit()), sep="\\n")  # doctest: +SKIP
    """
    found = _Found(circuit, units, nulls or {})
    rows = [(each.title, *found.signature(each), found.verdict(each)) for each in found.groups]
    widths = [max((len(row[place]) for row in rows), default=0) for place in range(3)]
    lines = wrapped("Circuit     ", found.headline(over_steps))
    for *cells, verdict in rows:
        start = "  " + "".join(f"{cell:<{width}}  " for cell, width in zip(cells, widths, strict=True))
        lines += wrapped(start, verdict)
    if found.costly:
        lines += wrapped("Outside it  ", f"{found.costly}, though the circuit does without")
    return lines + wrapped("Not needed  ", found.not_needed or "nothing: every head and MLP is in the circuit")


@dataclass(frozen=True)
class Group:
    """Nodes that are alike; ``names`` are nodes in the order in which they compute."""

    names: tuple[str, ...]
    signature: str

    @property
    def title(self) -> str:
        """Their names, as ``spans`` gives them."""
        return spans(self.names)


def spans(nodes: Sequence[str]) -> str:
    """Return names of nodes, with three or more neighbours of one layer as a span.

    Example:
        >>> spans(["L0H0", "L1H1", "L1H2", "L1H3", "L2H4", "MLP2"])
        'L0H0, L1H1 to L1H3, L2H4, MLP2'
    """
    runs: list[list[str]] = []
    for node in nodes:
        if runs and _follows(runs[-1][-1], node):
            runs[-1].append(node)
        else:
            runs.append([node])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def _follows(before: str, node: str) -> bool:
    pair = [re.fullmatch(r"L(\d+)H(\d+)", each) for each in (before, node)]
    return all(pair) and pair[1][0] == str(Head(int(pair[0][1]), int(pair[0][2]) + 1))  # pyright: ignore[reportOptionalSubscript]


@dataclass(frozen=True)
class _Found:
    scores: xr.Dataset
    units: str
    nulls: Mapping[tuple[str, str], float]

    @cached_property
    def nodes(self) -> list[str]:
        return [str(name) for name in self.scores.node.values]

    @cached_property
    def signatures(self) -> dict[str, tuple[str, str, float]]:
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

    @cached_property
    def edges(self) -> list[Edge]:
        return [Edge.named(str(name)) for name in self.scores.edge.values[self.scores.in_circuit.values.astype(bool)]]

    @cached_property
    def groups(self) -> list[Group]:
        """Parts of the circuit that are alike, with those that stand in for them."""
        alike: dict[tuple, list[str]] = {}
        key_of = {}
        for node in self.members:
            key_of[node] = (self._name(node), _layer(node), self._edges_of(node))
            alike.setdefault(key_of[node], []).append(node)
        for node, whom in self.stands_in_for.items():
            like = [key_of[each] for each in whom if each in key_of and key_of[each][:2] == self._kind(node)]
            alike.setdefault(like[0] if like else (*self._kind(node), node), []).append(node)
        place = self.nodes.index
        groups = [Group(tuple(sorted(names, key=place)), key[0]) for key, names in alike.items()]
        return sorted(groups, key=lambda group: place(group.names[0]))

    def headline(self, over_steps: xr.Dataset | None) -> str:
        """The routes, what the circuit keeps alone, what is lost without it, and when it was half-way."""
        value = {name: float(self.scores[name]) for name in ("faithfulness", "necessity", "reach_necessity")}
        low, high = (float(self.scores[f"faithfulness_{end}"]) for end in ("low", "high"))
        controls = self.scores.control_faithfulness.values
        lost = f"without it {_percent(value['necessity'])} is lost"
        if self.stands_in_for:
            lost += f", {_percent(value['reach_necessity'])} without {spans(list(self.stands_in_for))} too"
        facts = [
            f"keeps {_percent(value['faithfulness'])} [{100 * low:.1f}, {100 * high:.1f}] alone (random circuits "
            f"{_percent(float(np.median(controls)))}, at most {_percent(float(controls.max()))})",
            lost,
        ]
        if over_steps is not None:
            # Before the network knows anything, the circuit carries nothing.
            reached = half_way(over_steps.faithfulness.fillna(0))
            facts.append("no half-way step" if reached is None else f"half-way {reached}")
        return f"{self.routes}: {', '.join(facts)}"

    @property
    def routes(self) -> str:
        """The edges between heads and MLPs, by groups; the parts themselves where there is no such edge."""
        where = {node: group for group in self.groups for node in group.names}
        inputs: dict[tuple[str, str], set[str]] = {}
        for edge in self.edges:
            if edge.source not in (EMBED, POS_EMBED) and edge.target != OUTPUT:
                ends = (where[edge.source].title, where[edge.target].title)
                inputs.setdefault(ends, set()).add("" if edge.input == "in" else edge.input.upper())
        if len(inputs) > MOST_ROUTES:
            return f"{len(self.edges)} edges between {len(self.members)} heads and MLPs"
        order = {name: place for place, name in enumerate(("Q", "K", "V", ""))}
        found = []
        for (source, target), letters in inputs.items():
            through = "".join(sorted(letters, key=order.__getitem__))
            found.append(f"{source} -{through}-> {target}" if through else f"{source} -> {target}")
        joined = {node for edge in self.edges if edge.target != OUTPUT for node in (edge.source, edge.target)
                  if edge.source not in (EMBED, POS_EMBED)}  # fmt: skip
        found += [group.title for group in self.groups if not joined.intersection(group.names)]
        return "; ".join(found) or "the embedding alone"

    def signature(self, group: Group) -> tuple[str, str]:
        """The name of a group, and its scores beside their null."""
        if group.signature == UNNAMED:
            return UNNAMED, ""
        named = [self.signatures[node] for node in group.names]
        nulls = [
            self.nulls[key] for key in zip(group.names, (each[1] for each in named), strict=True) if key in self.nulls
        ]
        beside = f" (null {max(nulls):.3f})" if nulls else ""
        name = group.signature + ("s" if len(group.names) > 1 else "")
        return name, _range([each[2] for each in named], "{:.3f}".format) + beside

    def verdict(self, group: Group) -> str:
        """The cost of removing each part of a group, by verdict."""
        by_verdict: dict[str, list[str]] = {}
        for node in group.names:
            by_verdict.setdefault(self._verdict(node), []).append(node)
        said = []
        for verdict, nodes in by_verdict.items():
            whose = "" if len(by_verdict) == 1 else f" {spans(nodes)}"
            said.append(f"{verdict}:{whose} {self._costs(nodes, verdict == 'redundant')}")
        elsewhere = [node for node in group.names if node in self.stands_in_for]
        if elsewhere:
            whom = sorted({each for node in elsewhere for each in self.stands_in_for[node]}, key=self.nodes.index)
            said.append(f"{spans(elsewhere)} can stand in for {spans(whom)}")
        return "; ".join(said)

    @property
    def costly(self) -> str:
        """Nodes outside the circuit, and not standing in, whose removal costs something nevertheless."""
        return ", ".join(f"{node} ({self._costs([node], False)})" for node in self._outside if self._needed(node).any())

    @property
    def not_needed(self) -> str:
        """Heads and MLPs without which the network does as well, with the names of those that have one."""
        idle = [node for node in self._outside if not self._needed(node).any()]
        said: list[str] = []
        plain: list[str] = []
        for node in [*idle, None]:
            if node is not None and node not in self.signatures:
                plain.append(node)
                continue
            said += [spans(plain)] if plain else []
            plain = []
            said += [f"{node} ({self.signatures[node][0]})"] if node is not None else []
        return ", ".join(said)

    @property
    def _outside(self) -> list[str]:
        inside = {*self.members, *self.stands_in_for, EMBED, POS_EMBED}
        return [node for node in self.nodes if node not in inside]

    def _effects(self, node: str) -> np.ndarray:
        """Return the effects of a node under each replacement under which something is known, and what is known."""
        place = self.nodes.index(node)
        pairs = [(self.scores[f"{kind}effect"].values[place], self.scores[f"{kind}known"].item())
                 for kind in ("", "second_") if f"{kind}effect" in self.scores]  # fmt: skip
        return np.array([pair for pair in pairs if np.isfinite(pair[0])])

    def _needed(self, node: str) -> np.ndarray:
        return self._effects(node)[:, 0] >= NEEDED

    def _verdict(self, node: str) -> str:
        needed = self._needed(node)
        return "necessary" if needed.all() else "depends on the replacement" if needed.any() else "redundant"

    def _costs(self, nodes: Sequence[str], redundant: bool) -> str:
        """Return what the removal of a node alone costs, in units of the loss, under each replacement."""
        asked = self.scores.known.attrs
        kinds = [asked.get("replacement", ""), asked.get("second", "")]
        costs = np.stack([self._effects(node).prod(1) for node in nodes])
        said = [
            f"{_range(costs[:, place], amount)}{f' {self.units}' if place == 0 else ''} ({kinds[place]})"
            for place in range(costs.shape[1])
        ]
        text = ", ".join(said)
        if not redundant:
            return text
        text += " singly" if len(nodes) > 1 else ""
        inside = [self.nodes.index(node) for node in nodes if node in self.members]
        if inside:
            alone = self.scores.node_cost.values[inside] * self.scores.known.item()
            text += f", {_range(alone, amount)} where only the circuit is kept"
        return text

    def _name(self, node: str) -> str:
        return self.signatures[node][0] if node in self.signatures else UNNAMED

    def _kind(self, node: str) -> tuple[str, int]:
        return self._name(node), _layer(node)

    def _edges_of(self, node: str) -> frozenset[tuple[str, str, str]]:
        into = {("from", edge.source, edge.input) for edge in self.edges if edge.target == node}
        return frozenset(into | {("to", edge.target, edge.input) for edge in self.edges if edge.source == node})


def _layer(node: str) -> int:
    """Return the layer of a head or an MLP, which is never alike with one of the other kind."""
    return -1 - int(node[3:]) if node.startswith("MLP") else int(node[1:].partition("H")[0])


def _percent(share: float) -> str:
    # Zero is added so that a negative zero has no sign.
    return f"{round(100 * share, 1) + 0.0:.1f} %"


def amount(value: float) -> str:
    """Return a number in units of the loss, with two digits that count.

    Example:
        >>> amount(0.011), amount(1.0), amount(123.4)
        ('0.011', '1.0', '123')
    """
    return f"{value:.0f}" if abs(value) >= 10 else f"{value + 0.0:#.2g}"


def _range(values: Iterable[float], form: Callable[[float], str]) -> str:
    values = list(values)
    ends = [form(min(values)), form(max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def wrapped(start: str, text: str) -> list[str]:
    """Return a text after its start, in lines that begin below the text."""
    indent = " " * min(len(start), 60)
    return textwrap.wrap(start + text, WIDTH, subsequent_indent=indent, break_long_words=False, drop_whitespace=True)
