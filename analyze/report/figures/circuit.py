"""The circuit that carries a behaviour: its nodes by layer, its edges by route, and what can stand in."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from headway.analyze.circuits.graph import OUTPUT
from headway.analyze.report import palette
from headway.analyze.report.figures.axes import DOUBLE, SINGLE, legend_below, number_text, one_panel
from headway.analyze.report.figures.diagram import KINDS, Kind
from headway.analyze.report.found_circuits import NOT_NEEDED, FoundCircuits, edges_shown, node_roles
from headway.analyze.report.stored import StoredScores

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch

ROUTES = {letter: KINDS[f"{letter}_composition"] for letter in "qkv"} | {"in": Kind(palette.CATEGORIES[0], "-", 0.0)}
WORDS = {"q": "to queries (Q)", "k": "to keys (K)", "v": "to values (V)", "in": "to an MLP or the output"}
Places = dict[str, tuple[float, float]]


def circuit(
    stored: StoredScores,
    at: int | None = None,
    part: str | None = None,
    replace: str | None = None,
    nodes: bool | None = None,
) -> "Figure":
    """The circuit found at a step, or at the last one before it; pale edges and dashed nodes can stand in."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle

    circuits, step = _chosen(stored, at, part, replace, nodes)
    found = circuits.found[step]
    layers, heads = stored.heads
    width, gap = SINGLE if heads <= 5 else DOUBLE, 0.75
    roles, edges = node_roles(found), edges_shown(found)
    places, height = _places([*roles], layers, heads, width, gap)
    radius = min(0.2, 0.42 * width / heads)
    routes = [letter for letter in ROUTES if letter in {edge.input for _, edge, _ in edges}]
    keys = [
        Line2D([], [], color=ROUTES[name].color, linestyle=ROUTES[name].dashes, label=WORDS[name]) for name in routes
    ]
    figure, axes = one_panel(height + 0.4 + 0.17 * len(keys), width)
    legend_below(figure, keys, 1, handlelength=3)
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.set_axis_off()
    for place, edge, inside in sorted(edges, key=lambda each: each[2]):
        cost = float(np.nan_to_num(found.cost.values[place])) if inside else 0.0
        curve = _curve(places[edge.source], places[edge.target], ROUTES[edge.input], radius, cost)
        curve.set(alpha=0.9 if inside else 0.3, label=str(edge))
        axes.add_patch(curve)
    for name, place in places.items():
        kind = roles[name].kind if name in roles else None
        faint = kind == NOT_NEEDED
        dashed = kind not in (None, NOT_NEEDED) and not _inside(found, name)
        color = palette.NOTHING if faint else "black"
        axes.add_patch(
            Circle(place, radius, facecolor="white", edgecolor=color, linewidth=0.6, zorder=2, label=name,
                   linestyle="--" if dashed else "-")
        )  # fmt: skip
        text = "pos" if name == "pos_embed" else "out" if name == OUTPUT else name
        size = min(7.0, 72 * radius * 2 / (0.68 * len(text)))
        axes.text(*place, text, ha="center", va="center", fontsize=size, color=color, zorder=3)
    kept = 100 * float(found.faithfulness)
    kind = "nodes, " if circuits.nodes else ""
    figure.suptitle(f"{kind}{circuits.behaviour} ({circuits.replacement}), step {step}: keeps {number_text(kept)} %")
    return figure


def _chosen(
    stored: StoredScores, at: int | None, part: str | None, replace: str | None, nodes: bool | None
) -> tuple[FoundCircuits, int]:
    there = stored.circuits
    if not there:
        raise ValueError(f"figure: circuit has not been found; headway circuit {stored.run.path} finds it")
    if nodes is not None:
        there = [each for each in there if each.nodes == nodes]
    if not there:
        has, option, lacks = ("edges", " --nodes", "nodes") if nodes else ("nodes", "", "edges")
        command = f"headway circuit {stored.run.path}{option}"
        raise ValueError(f"nodes: only circuits of {has} have been found; {command} finds one of {lacks}")
    for name, wanted, field in (("part", part, "part"), ("replace", replace, "replacement")):
        fitting = [each for each in there if wanted in (None, getattr(each, field))]
        if not fitting:
            known = ", ".join(f"{each.part} ({each.replacement})" for each in there)
            raise ValueError(f"{name}: {wanted!r} is not valid; circuits have been found of {known}")
        there = fitting
    circuits = there[0]
    last = max(each for each in (*circuits.found, *circuits.damaged) if each is not None) if at is None else at
    step = circuits.shown_at(last)
    circuits.check(-1 if step is None else step, last)
    if step is None:
        raise ValueError(
            f"at: {at} is not valid; circuits have been found at steps {', '.join(map(str, circuits.found))}"
        )
    return circuits, step


def _inside(found: xr.Dataset, name: str) -> bool:
    return bool(found.node_in_circuit.sel(node=name))


def _places(nodes: list[str], layers: int, heads: int, width: float, gap: float) -> tuple[Places, float]:
    """The middle of every node, in rows from the embedding up, and the height of all rows."""
    rows = [[name for name in ("embed", "pos_embed") if name in nodes]]
    for layer in range(layers):
        rows += [[f"L{layer}H{head}" for head in range(heads)], [name for name in nodes if name == f"MLP{layer}"]]
    filled = [row for row in [*rows, [OUTPUT]] if row]
    places = {
        name: ((place + 0.5) * width / len(row), (level + 0.5) * gap)
        for level, row in enumerate(filled)
        for place, name in enumerate(row)
    }
    return places, len(filled) * gap


def _curve(
    start: tuple[float, float], end: tuple[float, float], route: Kind, radius: float, cost: float
) -> "PathPatch":
    """From the top of the node that writes to the bottom of the one that reads, as wide as the edge's cost."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    (x1, y1), (x2, y2) = start, end
    y1, x2, y2 = y1 + radius, x2 + route.port * radius, y2 - radius * (1 - 0.3 * abs(route.port))
    bend = 0.45 * (y2 - y1)
    curve = Curve([(x1, y1), (x1, y1 + bend), (x2, y2 - bend), (x2, y2)], [Curve.MOVETO, *[Curve.CURVE4] * 3])
    thickness = 0.5 + 2.0 * min(1.0, max(0.0, cost))
    return PathPatch(
        curve, fill=False, edgecolor=route.color, linestyle=route.dashes, linewidth=thickness, capstyle="butt"
    )
