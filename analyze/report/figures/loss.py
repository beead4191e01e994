"""The loss over training, with the baselines of the task."""

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from headway.analyze.report import palette
from headway.analyze.report.figures.axes import (
    DASHES,
    GUIDE,
    SINGLE,
    axis_of_steps,
    finite_range,
    legend_below,
    line_over_training,
    number_text,
    one_panel,
    title_over_training,
    with_margin,
)
from headway.analyze.report.figures.chosen import not_scored
from headway.analyze.report.stored import StoredScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def loss(stored: StoredScores, at: int | None = None) -> "Figure":
    """The loss over training, and that of each of the task's parts, beside the task's baselines."""
    stored.index(at)
    losses = stored.losses
    if not losses:
        raise not_scored(stored, "loss")
    figure, axes = one_panel(2.5)
    for place, each in enumerate(losses):
        color = palette.CATEGORIES[place % len(palette.CATEGORIES)]
        line_over_training(axes, each.values, at, color, DASHES[place % len(DASHES)], label=each.label)
    _axis_of_losses(axes, np.concatenate([each.values.values for each in losses]), stored.baselines)
    axis_of_steps(axes, stored.steps[-1], at, SINGLE - 1.2)
    axes.set(xlabel="step", ylabel=f"loss ({stored.loss_units})" if stored.loss_units else "loss")
    legend_below(figure, axes.get_legend_handles_labels()[0], 3)
    figure.suptitle(title_over_training("loss", stored, at))
    return figure


def _axis_of_losses(axes: "Axes", losses: np.ndarray, baselines: dict[str, float]) -> None:
    """A logarithmic axis where losses differ by much; baselines near it are lines with names on the right."""
    from matplotlib.ticker import LogLocator

    positive = losses[np.isfinite(losses) & (losses > 0)]
    log = positive.size > 0 and positive.max() / positive.min() > 30
    low, high = finite_range(positive if log else np.append(losses, 0))
    near = {
        name: value for name, value in baselines.items() if (value > 0 if log else value >= 0) and value <= 1.5 * high
    }
    low, high = min([low, *near.values()]), max([high, *near.values()])
    if log:
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 300 else (1, 2, 5)))
        axes.yaxis.set_minor_locator(LogLocator(subs="auto"))
        axes.yaxis.set_minor_formatter(lambda *_: "")
    axes.yaxis.set_major_formatter(lambda value, _: number_text(value))
    axes.set_ylim((low / 1.15, high * 1.15) if log else with_margin(low, high))
    _name_levels(axes, near)


def _name_levels(axes: "Axes", levels: dict[str, float]) -> None:
    """Horizontal lines with names on the right that do not overlap."""
    place = np.inf
    for name, value in sorted(levels.items(), key=lambda level: -level[1]):
        axes.axhline(value, linestyle=":", **GUIDE | {"linewidth": 0.9})
        text = textwrap.fill(f"{name.replace('_', ' ')}\u00a0{number_text(value)}", 18)
        height = 0.075 * (1 + text.count("\n"))
        at = axes.transAxes.inverted().transform(axes.transData.transform((0, value)))[1]
        place = min(at + height / 2, place)
        axes.text(1.02, place, text, transform=axes.transAxes, va="top", fontsize=6.5, color="0.35")
        place -= height
