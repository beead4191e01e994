"""Heads by layer, coloured by their roles, and edges for the compositions that have formed."""

from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from headway.analyze.formation.roles import ROLES
from headway.analyze.network.axes import PAIR
from headway.analyze.report import palette
from headway.analyze.report.figure_data import Score
from headway.analyze.report.figures.axes import DOUBLE, SINGLE, finite_range, legend_below, number_text, one_panel
from headway.analyze.report.figures.chosen import not_scored
from headway.analyze.report.stored import StoredScores
from headway.models.config import Head

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


class Kind(NamedTuple):
    """The look of a composition: its colour, its dashes, and where on the later head it ends, from -1 to 1."""

    color: str
    dashes: Any
    port: float


KINDS = {
    "q_composition": Kind(palette.CATEGORIES[5], (0, (3.0, 1.5)), -0.55),
    "k_composition": Kind("#1b2330", "-", 0.0),
    "v_composition": Kind(palette.NOTHING, (0, (1.0, 1.0)), 0.55),
}
# More edges than this cannot be told apart.
MOST_EDGES = 120


class Edge(NamedTuple):
    """A composition that stays above its band, and its z."""

    kind: str
    source: Head
    target: Head
    z: float


def diagram(stored: StoredScores, at: int | None = None) -> "Figure":
    """Heads by layer, coloured by their roles, and the compositions that have formed by a step."""
    index = stored.index(at)
    roles = stored.roles
    if roles is None and not any(_compositions(stored)):
        raise not_scored(stored, "previous_token,k_composition")
    layers, heads = stored.heads
    edges = edges_at(stored, index)
    # Over all steps, so that the figures of two of them can be compared.
    strongest = max([1.0, *(finite_range(z.values)[1] for _, z in _compositions(stored))])
    width, gap = SINGLE if heads <= 5 else DOUBLE, 0.85
    apart = (width - 0.5) / heads
    radius = min(0.2, 0.42 * apart)
    places = {Head(*at): (0.5 + (at[1] + 0.5) * apart, (at[0] + 0.5) * gap) for at in np.ndindex(layers, heads)}
    keys, columns = _diagram_keys(roles, index, edges[:MOST_EDGES], strongest), 1 if width == SINGLE else 2
    figure, axes = one_panel((layers - 1) * gap + 2 * radius + 0.4 + 0.17 * ceil(len(keys) / columns), width)
    legend_below(figure, keys, columns, handlelength=3)
    axes.set(xlim=(0, width), ylim=(gap / 2 - radius - 0.05, (layers - 0.5) * gap + radius + 0.05), aspect="equal")
    axes.set_axis_off()
    for edge in reversed(edges[:MOST_EDGES]):
        axes.add_patch(_curve(edge, places, radius, strongest))
    for head, place in places.items():
        _node(axes, head, place, radius, _role_color(roles, index, head))
    for layer in range(layers):
        axes.text(0, places[Head(layer, 0)][1], f"layer {layer}", va="center", fontsize=7)
    told = f"the {MOST_EDGES} strongest of {len(edges)}" if len(edges) > MOST_EDGES else f"{len(edges)}"
    figure.suptitle(f"{told} compositions above their null bands, step {stored.steps[index]}")
    return figure


def edges_at(stored: StoredScores, index: int) -> list[Edge]:
    """The compositions that stay above their bands from this step or an earlier one on, strongest first."""
    found = []
    for score, all_z in _compositions(stored):
        z = all_z.isel(step=index).transpose(*PAIR)
        formed = (score.formed_from.transpose(*PAIR) <= stored.steps[index]) & (z > 0)
        for l1, h1, l2, h2 in np.argwhere(formed.values):
            found.append(Edge(score.label, Head(int(l1), int(h1)), Head(int(l2), int(h2)), float(z[l1, h1, l2, h2])))
    return sorted(found, key=lambda edge: -edge.z)


def _compositions(stored: StoredScores) -> list[tuple[Score, xr.DataArray]]:
    """The scores of KINDS that have a null, each with its z."""
    return [(score, score.z) for score in stored.per_pair if score.label in KINDS and score.z is not None]


def _node(axes: "Axes", head: Head, place: tuple[float, float], radius: float, color: tuple[float, ...]) -> None:
    from matplotlib.patches import Circle

    name = str(head)
    axes.add_patch(Circle(place, radius, facecolor=color, edgecolor="black", linewidth=0.6, zorder=2, label=name))
    # Wide letters of this size fit into the circle.
    size = min(7.0, 72 * radius * 2 / (0.68 * len(name)))
    axes.text(*place, name, ha="center", va="center", fontsize=size, color=_readable_on(color), zorder=3)


def _curve(edge: Edge, places: dict[Head, tuple[float, float]], radius: float, strongest: float) -> Any:
    """From the top of the head that writes to the bottom of the one that reads."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    kind = KINDS[edge.kind]
    (x1, y1), (x2, y2) = places[edge.source], places[edge.target]
    y1, x2, y2 = y1 + radius, x2 + kind.port * radius, y2 - radius * (1 - 0.3 * abs(kind.port))
    bend = 0.45 * (y2 - y1)
    curve = Curve([(x1, y1), (x1, y1 + bend), (x2, y2 - bend), (x2, y2)], [Curve.MOVETO, *[Curve.CURVE4] * 3])
    return PathPatch(
        curve, fill=False, edgecolor=kind.color, linestyle=kind.dashes, linewidth=_thickness(edge.z, strongest),
        capstyle="butt", alpha=0.85, label=f"{edge.kind} {edge.source} {edge.target}",
    )  # fmt: skip


def _thickness(z: float, strongest: float) -> float:
    return 0.5 + 2.5 * z / strongest


def _role_color(roles: xr.Dataset | None, index: int, head: Head) -> tuple[float, ...]:
    """The colour of a head's role, the fainter the less of its attention goes there; white for no role."""
    here = None if roles is None else roles.isel(step=index, **head._asdict())
    if here is None or not here.role.item():
        return (1.0, 1.0, 1.0)
    (full,) = palette.rgb((palette.CATEGORIES[list(ROLES).index(here.role.item())],))
    share = 0.06 + 0.94 * max(0.0, here.role_share.item())
    return tuple(share * part + 1 - share for part in full)


def _readable_on(color: tuple[float, ...]) -> str:
    return "white" if np.dot(color, (0.299, 0.587, 0.114)) < 0.55 else "black"


def _diagram_keys(roles: xr.Dataset | None, index: int, edges: list[Edge], strongest: float) -> "list[Line2D]":
    """The legend of the colours and lines of this step, and no others."""
    from matplotlib.lines import Line2D

    does = set() if roles is None else set(roles.role.isel(step=index).values.ravel())
    keys = [
        Line2D([], [], linestyle="", marker="o", markersize=6, color=palette.CATEGORIES[place], label=words)
        for place, (name, words) in enumerate(ROLES.items())
        if name in does
    ]
    if "" in does:
        keys.append(
            Line2D([], [], linestyle="", marker="o", markersize=6, markerfacecolor="white", markeredgecolor="black",
                   markeredgewidth=0.6, label="no score above its null band")
        )  # fmt: skip
    for name, kind in KINDS.items():
        z = max((edge.z for edge in edges if edge.kind == name), default=None)
        if z is not None:
            label = f"{name.replace('_c', '-c').capitalize()}, z up to {number_text(z)}"
            keys.append(
                Line2D([], [], color=kind.color, linestyle=kind.dashes, linewidth=_thickness(z, strongest), label=label)
            )
    return keys
