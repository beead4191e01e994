"""Scores of pairs of heads as matrices; rows: heads that write, columns: heads that read."""

from typing import TYPE_CHECKING

import einops
import numpy as np

from headway.analyze.report import palette
from headway.analyze.report.figure_data import Score
from headway.analyze.report.figures.axes import (
    DOUBLE,
    NO_NUMBER,
    color_bar,
    colormap,
    finite_range,
    grid_of_panels,
    name_cells,
    number_text,
    width_of_figure,
)
from headway.analyze.report.figures.chosen import check_scored, chosen_scores, is_scored, not_scored
from headway.analyze.report.stored import StoredScores
from headway.models.config import Head

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def composition(stored: StoredScores, at: int | None = None, measure: str | None = None) -> "Figure":
    """Scores of pairs of heads as matrices, rows write and columns read: z where there is a null, else the score."""
    index = stored.index(at)
    layers, count = stored.heads
    if layers < 2:
        raise ValueError(
            f"figure: composition is not valid for {stored.run.path}: it has one layer, so that no head reads another"
        )
    scores = chosen_scores(stored, stored.per_pair, "k_composition", "is not a score of pairs of heads", measure)
    if measure:
        check_scored(stored, scores[0].measure, index)
    scores = [score for score in scores if is_scored(stored, score.measure, index)]
    if not scores:
        raise not_scored(stored, "k_composition", stored.steps[index])
    size = (layers - 1) * count
    columns = min(3, len(scores))
    width = width_of_figure(columns, size) if columns == 1 else DOUBLE
    rows = [scores[start : start + columns] for start in range(0, len(scores), columns)]
    side = width / columns - 0.6
    figure, panels = grid_of_panels(rows, width, len(rows) * (side + 1.15) + 0.2)
    for axes, score in panels:
        _matrix(figure, axes, score, stored, index, 72 * side / size)
        axes.set_title(score.label if len(scores) > 1 else "")
    name = scores[0].label if len(scores) == 1 else measure or "composition"
    figure.suptitle(f"{name}, step {stored.steps[index]}")
    return figure


def _matrix(figure: "Figure", axes: "Axes", score: Score, stored: StoredScores, index: int, cell: float) -> None:
    """One matrix of pairs; its colours follow the square root, so that weak pairs are visible too."""
    from matplotlib.colors import FuncNorm

    layers, count = stored.heads
    values = score.values if score.z is None else score.z
    square = einops.rearrange(values.values[:, :-1, :, 1:], "step l1 h1 l2 h2 -> step (l1 h1) (l2 h2)")
    there = np.isfinite(square).any(0)
    most = max(map(abs, finite_range(square)))
    root = (lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * x**2)
    colors = colormap(palette.DIVERGING).with_extremes(bad=NO_NUMBER)
    image = axes.imshow(
        square[index], cmap=colors, norm=FuncNorm(root, -most, most), alpha=there.astype(float), interpolation="none"
    )
    names = [str(Head(layer, head)) for layer, head in np.ndindex(layers, count)]
    name_cells(axes, names[count:], names[:-count], cell)
    axes.set(xlabel="reads", ylabel="writes")
    quarters = [most / 4] if len(number_text(most / 4, 2)) <= 5 else []
    ticks = sorted([-most, 0.0, most, *quarters, *(-quarter for quarter in quarters)])
    color_bar(figure, image, [axes], score.label if score.z is None else "z", ticks, below=True)
