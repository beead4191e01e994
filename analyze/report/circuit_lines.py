"""The paragraph on a circuit: how well it does alone, its parts with names and effects, and what is not needed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from headway.analyze.circuits.graph import EMBED, OUTPUT, POS_EMBED
from headway.analyze.circuits.groups import ALONE, LITTLE_NEEDED, REDUNDANT, UNDECIDED, UNNAMED, Group, Parts
from headway.analyze.formation.half_way import half_way, way_of_circuit
from headway.analyze.measures.head_names import spans
from headway.analyze.report.lines import Line, laid_out

# The inputs of heads; an MLP has one, which needs no name.
READ = {"q": "queries", "k": "keys", "v": "values"}
# A share of what is known that is more than all of it, and not by rounding or a small sample; circuit.js has the same.
CLEARLY_MORE = 1.05
# More routes than these are counted instead of listed.
MOST_ROUTES = 6


def circuit_lines(
    circuit: xr.Dataset,
    over_steps: xr.Dataset | None = None,
    units: str = "nats",
    nulls: Mapping[tuple[str, str], float] | None = None,
    columns: int | None = None,
) -> list[str]:
    """Return the lines on a circuit as text of so many columns; as the terminal's if None.

    They are those of ``circuit_paragraph``, with ``numbers_lines`` below the first one.

    Example:
        >>> print(*circuit_lines(Run("runs/induction").circuit()), sep="\\n")  # doctest: +SKIP
    """
    headline, *others = circuit_paragraph(circuit, over_steps, units, nulls)
    return laid_out([headline, *numbers_lines(circuit), *others], columns)


def circuit_paragraph(
    circuit: xr.Dataset,
    over_steps: xr.Dataset | None = None,
    units: str = "nats",
    nulls: Mapping[tuple[str, str], float] | None = None,
) -> list[Line]:
    """Return the lines on a circuit: what it keeps alone, its parts, and what is not needed.

    Parts of one layer with one name and the same edges stand in one line, with those that stand in for them. The
    verdict on a part compares the 95 % interval of what its removal alone costs with a tenth of what is known, under
    both replacements:

    - *necessary*: more under both;
    - *depends on the replacement*: more under one of them, less under the other;
    - *undecided*: an interval spans a tenth, so that neither is shown;
    - *redundant*: less under both, but others can stand in for it: where these are replaced too, its removal costs
      more. They are parts that are alike or stand in for each other, or everything outside the circuit. Beside it is
      what it costs where only the circuit is kept, so that nothing stands in;
    - *little needed*: less under both, and less where those others are replaced too.

    Several parts with one verdict are judged together too, and so is a group of parts with several verdicts.

    Args:
        circuit: What ``Run.circuit()`` returns.
        over_steps: What ``Run.circuit(over_steps=True)`` returns; without it there is no half-way step.
        units: Units of the loss.
        nulls: Nulls of signatures, by node and measure.
    """
    found = _Found(Parts(circuit), units, nulls or {})
    lines = [Line(found.headline(over_steps), head="Circuit")]
    if misled := misleading(circuit):
        lines.append(Line(misled, head="Replaced"))
    lines += [Line(found.verdict(each), (each.title, *found.signature(each))) for each in found.parts.groups]
    if found.costly:
        lines.append(Line(f"{found.costly}, though the circuit does without", head="Outside it"))
    return [*lines, Line(found.not_needed or "nothing: every head and MLP is in the circuit", head="Not needed")]


def circuit_in_a_line(circuit: xr.Dataset, over_steps: xr.Dataset | None = None) -> str:
    """Return the first line on a circuit, shortened: its routes, what it keeps alone, and when it was half-way.

    Args:
        circuit: What ``Run.circuit()`` returns.
        over_steps: What ``Run.circuit(over_steps=True)`` returns; without it there is no half-way step.
    """
    return _Found(Parts(circuit), "", {}).in_a_line(over_steps)


def numbers_lines(circuit: xr.Dataset) -> list[Line]:
    """Return the line with the other numbers of a circuit, with their intervals: known, necessity, CPR and the like.

    A circuit without these numbers, of an older Headway, has no line.
    """
    if not {"p", "minimality", "cpr", "cmd", "overlap"} <= set(circuit.data_vars):
        return []
    drawn, orders = circuit.sizes["control"], circuit.sizes["order"]
    edge, units = circuit.minimality.attrs.get("edge"), circuit.known.attrs.get("units", "")
    said = [
        f"known {_with_interval(circuit, 'known', '.3g')} {units}".rstrip(),
        f"necessity {_with_interval(circuit, 'necessity')}",
        f"p {float(circuit.p):.2g} against {drawn} random circuits",
        f"minimality {_with_interval(circuit, 'minimality')}" + (f" ({edge})" if edge else ""),
        f"CPR {_with_interval(circuit, 'cpr')}",
        f"CMD {_with_interval(circuit, 'cmd')}",
    ]
    if orders > 1:
        said.append(f"the circuits of {orders} orders share {_percent(float(circuit.overlap))} of their parts")
    return [Line(", ".join(said), head="Numbers")]


def _with_interval(circuit: xr.Dataset, name: str, form: str = ".3f") -> str:
    value, low, high = (float(circuit[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def misleading(circuit: xr.Dataset) -> str:
    """Return that the replacement misleads the network, in words; "" where it leaves it ignorant, or nobody knows."""
    if not bool(circuit.get("misleads", False)):
        return ""
    kind = circuit.known.attrs.get("replacement", "")
    return (
        f"the replacement ({kind}) misleads: loss with everything replaced {amount(float(circuit.all_replaced))}, "
        f"chance {amount(float(circuit.chance))}; what is known is counted from the former"
    )


@dataclass(frozen=True)
class _Found:
    parts: Parts
    units: str
    nulls: Mapping[tuple[str, str], float]

    @property
    def scores(self) -> xr.Dataset:
        return self.parts.scores

    def headline(self, over_steps: xr.Dataset | None) -> str:
        """The routes, what the circuit keeps alone, what is lost without it, and when it was half-way."""
        value = {name: float(self.scores[name]) for name in ("faithfulness", "necessity", "reach_necessity")}
        low, high = (float(self.scores[f"faithfulness_{end}"]) for end in ("low", "high"))
        without = f"without it {lost(value['necessity'])}"
        if self.parts.stands_in_for:
            without += f", {_percent(value['reach_necessity'])} without {spans(list(self.parts.stands_in_for))} too"
        keeps = f"alone it keeps {_percent(value['faithfulness'])} [{100 * low:.1f}, {100 * high:.1f}] of what is known"
        facts = [f"{keeps} ({self._controls()}){self._second()}", without, *_when(over_steps)]
        return f"{self._start}: {', '.join(facts)}"

    def in_a_line(self, over_steps: xr.Dataset | None) -> str:
        """The same without intervals, the second replacement, what is lost, and all random circuits but the best."""
        keeps = f"alone it keeps {_percent(float(self.scores.faithfulness))} of what is known"
        when = [each.partition(" (")[0] for each in _when(over_steps)]
        return f"{self._start}: {', '.join([f'{keeps} ({self._controls(median=False)})', *when])}"

    @property
    def _start(self) -> str:
        nodes = "" if self.scores.sizes["edge"] else "nodes "
        part = self.scores.known.attrs.get("part")
        return f"{f'loss on {part}' if part else 'loss'}: {nodes}{self.routes}"

    def _controls(self, median: bool = True) -> str:
        """Return the share that random circuits of the same size keep alone, in words."""
        if not self.parts.outside and not self.parts.stands_in_for and not self.scores.sizes["edge"]:
            return "it is all there is, so that there is no control"
        controls = self.scores.control_faithfulness.values
        of_median = f" {_percent(float(np.median(controls)))}," if median else ""
        return f"random circuits{of_median} at most {_percent(float(controls.max()))}"

    def _second(self) -> str:
        """Return the share kept under the second replacement, in words; "" where nothing is known under it."""
        if "second_faithfulness" not in self.scores or not np.isfinite(self.scores.second_faithfulness):
            return ""
        second = self.scores.known.attrs.get("second", "the other replacement")
        return f", {_percent(float(self.scores.second_faithfulness))} with {second}"

    @property
    def routes(self) -> str:
        """The edges between heads and MLPs, by groups; the parts themselves where there is no such edge."""
        inside = {group: spans([n for n in group.names if n in self.parts.members]) for group in self.parts.groups}
        where = {node: title for group, title in inside.items() for node in group.names}
        inputs: dict[tuple[str, str], set[str]] = {}
        for edge in self.parts.edges:
            if edge.source not in (EMBED, POS_EMBED) and edge.target != OUTPUT:
                ends = (where[edge.source], where[edge.target])
                inputs.setdefault(ends, set()).add(edge.input)
        if len(inputs) > MOST_ROUTES:
            return f"{len(self.parts.edges)} edges between {len(self.parts.members)} heads and MLPs"
        found = []
        for (source, target), letters in inputs.items():
            read = " and ".join(word for letter, word in READ.items() if letter in letters)
            found.append(f"{source} -> {f'{read} of ' if read else ''}{target}")
        joined = {node for edge in self.parts.edges if edge.target != OUTPUT for node in (edge.source, edge.target)
                  if edge.source not in (EMBED, POS_EMBED)}  # fmt: skip
        found += [title for group, title in inside.items() if title and not joined.intersection(group.names)]
        return "; ".join(found) or "the embedding alone"

    def signature(self, group: Group) -> tuple[str, str]:
        """The name of a group, and its scores beside their null."""
        if group.signature == UNNAMED:
            return UNNAMED, ""
        named = [self.parts.signatures[node] for node in group.names]
        nulls = [
            self.nulls[key] for key in zip(group.names, (each[1] for each in named), strict=True) if key in self.nulls
        ]
        beside = f" (null {max(nulls):.3f})" if nulls else ""
        name = group.signature + ("s" if len(group.names) > 1 else "")
        return name, _range([each[2] for each in named], "{:.3f}".format) + beside

    def verdict(self, group: Group) -> str:
        """The cost of removing each part of a group, by verdict, and of those with one verdict together."""
        by_verdict = self.parts.by_verdict(group)
        said = []
        for verdict, nodes in by_verdict.items():
            whose = "" if len(by_verdict) == 1 else f" {spans(nodes)}"
            said.append(f"{verdict}:{whose} {self._costs(nodes, verdict)}")
        if len(by_verdict) > 1 and (whole := self._together(group.names)):
            said.append(f"{'both' if len(group.names) == 2 else 'all of them'} {whole}")
        elsewhere = [node for node in group.names if node in self.parts.stands_in_for]
        if elsewhere:
            whom = {each for node in elsewhere for each in self.parts.stands_in_for[node]}
            said.append(f"{spans(elsewhere)} can stand in for {spans(sorted(whom, key=self.parts.nodes.index))}")
        return "; ".join(said)

    @property
    def costly(self) -> str:
        """Nodes outside the circuit, and not standing in, whose removal costs something nevertheless."""
        needed = [node for node in self.parts.outside if not self.parts.idle_alone(node)]
        return ", ".join(
            f"{node} ({'undecided: ' if self.parts.verdict(node) == UNDECIDED else ''}"
            f"{self._under([self.parts.effects(node)], self.units)})"
            for node in needed
        )

    @property
    def not_needed(self) -> str:
        """Heads and MLPs without which the network does as well, with the names of those that have one."""
        idle = [node for node in self.parts.outside if self.parts.idle_alone(node)]
        said: list[str] = []
        plain: list[str] = []
        for node in [*idle, None]:
            if node is not None and node not in self.parts.signatures:
                plain.append(node)
                continue
            said += [spans(plain)] if plain else []
            plain = []
            said += [f"{node} ({self.parts.signatures[node][0]})"] if node is not None else []
        return ", ".join(said)

    def _costs(self, nodes: Sequence[str], verdict: str) -> str:
        """Return what the removal of a node alone costs, in units of the loss, under each replacement."""
        said = [self._under([self.parts.effects(node) for node in nodes], self.units)]
        said[0] += " singly" if len(nodes) > 1 else ""
        said += filter(None, [self._together(nodes)])
        inside = [self.parts.nodes.index(node) for node in nodes if node in self.parts.members]
        if verdict in (REDUNDANT, LITTLE_NEEDED, ALONE) and inside:
            alone = self.scores.node_cost.values[inside] * self.scores.known.item()
            said.append(f"{_range(alone, amount)}{' each' if len(inside) > 1 else ''} where only the circuit is kept")
        return ", ".join(said)

    def _together(self, nodes: Sequence[str]) -> str:
        """Return what the removal of nodes together costs; "" if they were not judged so."""
        effects = self.parts.effects_together(nodes)
        return "" if effects is None else f"{self._under([effects])} together"

    def _under(self, effects: Sequence[np.ndarray], units: str = "") -> str:
        """Return the range of costs under each replacement, from effects and what is known; the first has units."""
        asked = self.scores.known.attrs
        kinds = [asked.get("replacement", ""), asked.get("second", "")]
        costs = np.stack([each[:, 0] * each[:, 1] for each in effects])
        return ", ".join(
            f"{_range(costs[:, place], amount)}{f' {units}' if units and place == 0 else ''} ({kinds[place]})"
            for place in range(costs.shape[1])
        )


def _when(over_steps: xr.Dataset | None) -> list[str]:
    if over_steps is None:
        return []
    reached = half_way(way_of_circuit(over_steps))
    return ["no half-way step" if reached is None else f"half-way {reached}"]


def lost(share: float, of: str = "") -> str:
    """Return a share of what is known that is lost, and that more than all of it is worse than knowing nothing.

    Example:
        >>> lost(0.5), lost(2.091)
        ('50.0 % is lost', '209.1 % is lost, which is worse than knowing nothing')
    """
    worse = ", which is worse than knowing nothing" if share > CLEARLY_MORE else ""
    return f"{_percent(share)} {of}is lost{worse}"


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
