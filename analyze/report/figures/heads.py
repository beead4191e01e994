"""Scores of heads over training: a panel for each layer, a line for each head, and the band of the null."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from headway.analyze.report import palette
from headway.analyze.report.figure_data import Score
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
from headway.analyze.report.figures.chosen import chosen_heads, chosen_scores
from headway.analyze.report.stored import StoredScores
from headway.models.config import Head

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def heads(
    stored: StoredScores,
    at: int | None = None,
    layer: int | None = None,
    head: int | None = None,
    measure: str | None = None,
) -> "Figure":
    """Scores of heads over training: one panel for each layer, one line for each head; the null band is shaded."""
    stored.index(at)
    scores = chosen_scores(stored, stored.per_head, "previous_token", "is not a score of heads", measure)
    by_layer: dict[int, list[Head]] = {}
    for which in chosen_heads(stored, layer, head):
        by_layer.setdefault(which.layer, []).append(which)
    # As many scores side by side as give four panels.
    panels_of = [(score, layer) for score in scores for layer in by_layer]
    columns = min(len(panels_of), len(by_layer) * max(1, 4 // len(by_layer)))
    rows = [panels_of[start : start + columns] for start in range(0, len(panels_of), columns)]
    width = SINGLE if columns <= 2 else DOUBLE
    height = (1.3 if len(rows) == 1 else 0.95) * len(rows) + 0.75
    figure, panels = grid_of_panels(rows, width, height)
    for axes, (score, layer) in panels:
        axes.set_ylim(*with_margin(*_range(score)))
        _band(axes, score, layer)
        for which in by_layer[layer]:
            _line_of_head(axes, score, which, at)
        axis_of_steps(axes, stored.steps[-1], at, width / columns - 0.4)
        axes.set(xlabel="step", ylabel="score" if len(scores) > 1 else score.label)
        if layer != min(by_layer):
            axes.tick_params(labelleft=False)
            axes.set_ylabel("")
        # The name may be wider than one panel: it stands above the first of its layers, and over the others.
        name = score.label if len(by_layer) > 1 else score.label.replace(", ", "\n")
        above = "" if len(scores) == 1 else f"{name}\n" if layer == min(by_layer) else "\n"
        axes.set_title(f"{above}layer {layer}", loc="left")
    label_outer(panels)
    _heads_legend(figure, [axes for axes, _ in panels], width)
    told = scores[0].label if len(scores) == 1 else measure or "scores of heads"
    figure.suptitle(title_over_training(told, stored, at))
    return figure


def _range(score: Score) -> tuple[float, float]:
    """The range of a score, where that is a pair of numbers; else the smallest and the largest number there is."""
    there = [part.values.ravel() for part in (score.values, score.low, score.high) if part is not None]
    return score.limits or finite_range(np.concatenate(there))


def _band(axes: "Axes", score: Score, layer: int) -> None:
    """Between what a null is in 99 % of networks: the same for all heads of a layer."""
    if score.low is None or score.high is None:
        return
    low, high = xr.align(*(part.isel(layer=layer).max("head").dropna("step") for part in (score.low, score.high)))
    if low.size:
        label = "99 % band of the null"
        axes.fill_between(low.step, low, high, color=palette.NOTHING, alpha=0.3, linewidth=0, label=label)


def _line_of_head(axes: "Axes", score: Score, head: Head, at: int | None) -> None:
    color = palette.CATEGORIES[head.head % len(palette.CATEGORIES)]
    dashes = DASHES[head.head // len(palette.CATEGORIES) % len(DASHES)]
    # A step at which this score was not computed is no gap.
    values = score.values.dropna("step", how="all").isel(head._asdict())
    line_over_training(axes, values, at, color, dashes, label=f"head {head.head}")


def _heads_legend(figure: "Figure", panels: "Sequence[Axes]", width: float) -> None:
    found = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    labels = sorted(found, key=lambda label: (label.startswith("99"), len(label), label))
    most = 3 if width == SINGLE else 7
    legend_below(figure, [found[label] for label in labels], most)
