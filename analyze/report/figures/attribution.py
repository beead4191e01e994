"""Direct contribution of each component to the output."""

from typing import TYPE_CHECKING

import xarray as xr

from headway.analyze.report import palette
from headway.analyze.report.figures.axes import (
    DOUBLE,
    SINGLE,
    finite_range,
    grid_of_panels,
    label_outer,
    number_text,
    with_margin,
)
from headway.analyze.report.figures.chosen import check_scored, not_scored
from headway.analyze.report.stored import StoredScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def attribution(stored: StoredScores, at: int | None = None) -> "Figure":
    """Direct contribution of each component to the output, on all positions and on each of the task's parts."""
    index = stored.index(at)
    parts = stored.attributions
    if not parts:
        raise not_scored(stored, "direct_attribution")
    check_scored(stored, "direct_attribution", index)
    components = max(part.values.sizes["component"] for part in parts)
    figure, panels = grid_of_panels([parts], SINGLE if len(parts) < 2 else DOUBLE, 0.13 * components + 0.8)
    for axes, part in panels:
        total = _bars(axes, part.values, index)
        axes.set(title=f"{part.label}\nsum {number_text(total)}", xlabel=part.units, ylabel="component")
    label_outer(panels, left=True)
    figure.suptitle(f"direct_attribution, step {stored.steps[index]}")
    return figure


def _bars(axes: "Axes", values: xr.DataArray, index: int) -> float:
    """One bar for each component, on an axis that is the same at every step; gives their sum."""
    from matplotlib.ticker import MaxNLocator

    here = values.isel(step=index)
    names = here.component.values.tolist()
    colors = [palette.CATEGORIES[0 if value >= 0 else 1] for value in here.values]
    axes.barh(range(len(names)), here.values, color=colors, height=0.75)
    axes.axvline(0, color="black", linewidth=0.6)
    low, high = finite_range(values.values)
    axes.set_xlim(*with_margin(min(0, low), max(0, high)))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(lambda value, _: number_text(value))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    return here.sum(min_count=1).item()
