"""Parts that figures share: panels, axes of steps and tokens, legends, colours, numbers as text."""

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import xarray as xr

from headway.analyze.report import palette
from headway.analyze.report.stored import StoredScores

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

T = TypeVar("T")
# Widths of one and of two columns, in inches.
SINGLE, DOUBLE = 3.3, 6.8
# Points that a name beside a cell takes, and its most letters.
NAME, LONGEST = 5.5, 9
NO_NUMBER = "#808080"
GUIDE = {"color": palette.NOTHING, "linewidth": 0.6, "zorder": 0.5}
DASHES = ("-", "--", ":", "-.")


def one_panel(height: float, width: float = SINGLE) -> "tuple[Figure, Axes]":
    """A figure with a single panel, of this height and width in inches."""
    figure, ((axes, _),) = grid_of_panels([[None]], width, height)
    return figure, axes


def grid_of_panels(rows: Sequence[Sequence[T]], width: float, height: float) -> "tuple[Figure, list[tuple[Axes, T]]]":
    """A figure with one panel for each item of each row."""
    from headway.analyze.report.figures.shown import ShownFigure

    figure = ShownFigure(figsize=(width, height), layout="constrained")
    places = figure.add_gridspec(len(rows), max(map(len, rows)))
    return figure, [
        (figure.add_subplot(places[y, x]), item) for y, row in enumerate(rows) for x, item in enumerate(row)
    ]


def label_outer(panels: "Sequence[tuple[Axes, Any]]", left: bool = False) -> None:
    """Keep labels only below the last panel of each column, and with ``left`` beside the first of each row."""
    last = {_column(axes): axes for axes, _ in panels}
    for axes, _ in panels:
        column = _column(axes)
        if axes is not last[column]:
            axes.tick_params(labelbottom=False)
            axes.set_xlabel("")
        if left and column:
            axes.tick_params(labelleft=False)
            axes.set_ylabel("")


def _column(axes: "Axes") -> int:
    place = axes.get_subplotspec()
    assert place is not None  # every panel belongs to a grid
    return place.colspan.start


def side_of_panel(width: float, columns: int) -> float:
    """The width of a square panel in inches, without the labels at both edges of the figure."""
    return (width - 1.0) / columns - 0.1


def width_of_figure(columns: int, size: int) -> float:
    """The narrower width at which each row and column of the matrices has room for a name, if there is one."""
    for width in (SINGLE, DOUBLE):
        if 72 * side_of_panel(width, columns) / size >= NAME:
            return width
    return SINGLE if columns == 1 else DOUBLE


def title_over_training(name: str, stored: StoredScores, at: int | None) -> str:
    """The title of a figure over training."""
    if at is None and len(stored.steps) > 1:
        return f"{name}, steps {stored.steps[0]} to {stored.steps[-1]}"
    return f"{name}, step {stored.steps[stored.index(at)]}"


def number_text(number: float, digits: int = 3) -> str:
    """A number in a few digits.

    Example:
        >>> number_text(1429.3), number_text(0.03141), number_text(-2.0)
        ('1429', '0.0314', '−2')
    """
    if not np.isfinite(number):
        return "–"
    return (f"{number:.0f}" if 100 <= abs(number) < 1e5 else f"{number:.{digits}g}").replace("-", "−")


def finite_range(values: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest finite number, and never the same one, so that an axis can go between them."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def with_margin(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis: a range with a small margin."""
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def line_over_training(axes: "Axes", values: xr.DataArray, at: int | None, color: str, dashes: str, label: str) -> None:
    """A line through the known numbers, with a dot at the step ``at`` and at a number between two gaps."""
    known = np.isfinite(values.values)
    beside = np.pad(known, 1)
    alone = known & ~beside[:-2] & ~beside[2:]
    marks = np.flatnonzero(alone | (values.step.values == at))
    (line,) = axes.plot(values.step, values, dashes, color=color, label=label, clip_on=False)
    # It lies within its panel, so that the layout need not measure it.
    line.set_in_layout(False)
    if marks.size:
        line.set(marker="o", markersize=3, markevery=marks.tolist())


def axis_of_steps(axes: "Axes", last: int, at: int | None, inches: float) -> None:
    """An axis of log(1 + step) up to the ``last`` one, with 0 and the powers of ten for which there is room."""
    last = max(1, last)
    axes.set_xscale("function", functions=(np.log1p, np.expm1))
    axes.set_xlim(0, last)
    ticks = [0]
    for power in range(len(str(last))):
        if np.log1p(10**power) - np.log1p(ticks[-1]) > 0.2 * np.log1p(last) / inches:
            ticks.append(10**power)
    axes.set_xticks(ticks, [_short(tick) for tick in ticks])
    if at is not None:
        axes.axvline(at, **GUIDE)


def _short(step: int) -> str:
    for unit, letter in ((1_000_000, "M"), (1000, "k")):
        if step >= unit:
            return f"{step // unit}{letter}"
    return str(step)


def legend_below(figure: "Figure", keys: "Sequence[Artist]", columns: int, **more: Any) -> None:
    """A legend below the figure, without the dots that mark a step."""
    if not keys:
        return
    columns = ceil(len(keys) / ceil(len(keys) / columns))
    legend = figure.legend(handles=keys, loc="outside lower center", ncols=columns, **more)
    for line in legend.get_lines():
        if line.get_linestyle() != "None":
            line.set_marker("")


def colormap(ramp: palette.Ramp) -> "Colormap":
    """A ramp of the page's palette as a colormap of matplotlib."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("headway", list(ramp.light))


def color_bar(
    figure: "Figure",
    image: "ScalarMappable",
    panels: "Sequence[Axes]",
    label: str,
    ticks: list[float],
    below: bool = False,
) -> None:
    """The scale of the colours of some panels: a bar on their right, or ``below`` them."""
    place, aspect = ("bottom", 25) if below else ("right", 8 * figure.get_figheight())
    bar = figure.colorbar(image, ax=panels, label=label, fraction=0.05, aspect=aspect, pad=0.02, location=place)
    bar.set_ticks(ticks, labels=[number_text(tick, 2) for tick in ticks])
    bar.minorticks_off()
    bar.outline.set_linewidth(0.4)  # pyright: ignore[reportCallIssue]


def name_cells(axes: "Axes", columns: Sequence[str], rows: Sequence[str], cell: float) -> None:
    """Names of the columns and rows of a matrix whose cells are ``cell`` points wide: all, or every second or third."""
    every = ceil(NAME / cell)
    axes.set_xticks(range(0, len(columns), every), columns[::every], rotation=90)
    axes.set_yticks(range(0, len(rows), every), rows[::every])
    axes.tick_params(labelsize=min(7, max(5, 0.8 * cell * every)), length=1.5, pad=1.5)
    axes.spines[:].set_visible(True)


def axes_of_tokens(axes: "Axes", tokens: Sequence[str], cell: float) -> None:
    """Tokens where each has room, and positions elsewhere, since every third token says little."""
    from matplotlib.ticker import MaxNLocator

    if cell >= NAME:
        # Characters that do not print, such as the end of a line, are escaped.
        shown = [token if token.isprintable() else repr(token)[1:-1] for token in tokens]
        texts = [text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…" for text in shown]
        name_cells(axes, texts, texts, cell)
    else:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(min(5, max(1, int(cell * len(tokens) / 22))), integer=True))
        axes.spines[:].set_visible(True)
    axes.set(xlabel="key", ylabel="query")
