"""Scores of the whole network but the loss, and scores of layers, over training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from headway.analyze.report import palette
from headway.analyze.report.figure_data import Curves
from headway.analyze.report.figures.axes import (
    DASHES,
    DOUBLE,
    SINGLE,
    axis_of_steps,
    finite_range,
    grid_of_panels,
    label_outer,
    legend_below,
    line_over_training,
    title_over_training,
    with_margin,
)
from headway.analyze.report.figures.chosen import not_scored, wrong_measure
from headway.analyze.report.stored import StoredScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def network(stored: StoredScores, at: int | None = None, measure: str | None = None) -> "Figure":
    """Scores of the network and of its layers over training: one panel for each, and their nulls as dotted lines."""
    stored.index(at)
    every = stored.curves
    curves = [each for each in every if measure in (None, each.measure, each.label)]
    if not curves and measure is None:
        raise not_scored(stored, "accuracy,in_context")
    if not curves:
        valid = dict.fromkeys(each.measure for each in every)
        raise wrong_measure(stored, measure or "", "is not a score of the network or of layers", valid)
    columns = min(3, len(curves))
    width = SINGLE if columns == 1 else DOUBLE
    rows = [curves[start : start + columns] for start in range(0, len(curves), columns)]
    figure, panels = grid_of_panels(rows, width, (1.3 if len(rows) == 1 else 1.05) * len(rows) + 0.75)
    labels = list(dict.fromkeys(label for each in curves for label in each.lines))
    for axes, each in panels:
        _lines(axes, each, labels, at)
        axis_of_steps(axes, stored.steps[-1], at, width / columns - 0.5)
        axes.set(xlabel="step", ylabel=each.units)
        axes.set_title(each.label if len(curves) > 1 else "", loc="left")
    label_outer(panels)
    _legend(figure, [axes for axes, _ in panels], labels, width)
    figure.suptitle(title_over_training(curves[0].label if len(curves) == 1 else "scores of the network", stored, at))
    return figure


def _lines(axes: "Axes", curves: Curves, labels: Sequence[str], at: int | None) -> None:
    """The lines of one panel; a label has the same colour in all panels."""
    values = [line.values for line in curves.lines.values()]
    for label, line in curves.lines.items():
        place = labels.index(label)
        color = palette.CATEGORIES[place % len(palette.CATEGORIES)]
        line_over_training(axes, line.dropna("step"), at, color, DASHES[place % len(DASHES)], label=label)
    if curves.null is not None:
        axes.plot(curves.null.step, curves.null, ":", color=palette.NOTHING, linewidth=0.9, label="null")
        values.append(curves.null.values)
    axes.set_ylim(*with_margin(*(curves.limits or finite_range(np.concatenate(values)))))


def _legend(figure: "Figure", panels: "Sequence[Axes]", labels: Sequence[str], width: float) -> None:
    found = {}
    for axes in panels:
        handles, names = axes.get_legend_handles_labels()
        found |= dict(zip(names, handles, strict=True))
    order = [*labels, *(["null"] if "null" in found else [])]
    legend_below(figure, [found[label] for label in order], 2 if width == SINGLE else 4)
