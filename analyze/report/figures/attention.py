"""Attention patterns of heads, with the tokens of one sequence."""

from typing import TYPE_CHECKING

import numpy as np

from headway.analyze.report import palette
from headway.analyze.report.figures.axes import (
    NO_NUMBER,
    axes_of_tokens,
    color_bar,
    colormap,
    grid_of_panels,
    label_outer,
    side_of_panel,
    width_of_figure,
)
from headway.analyze.report.figures.chosen import check_scored, chosen_heads, not_scored, rows_of_heads, valid_number
from headway.analyze.report.stored import StoredScores

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def attention(
    stored: StoredScores,
    at: int | None = None,
    layer: int | None = None,
    head: int | None = None,
    sequence: int | None = None,
) -> "Figure":
    """Attention patterns of heads on one sequence; rows: queries, columns: keys."""
    from matplotlib.colors import PowerNorm

    index = stored.index(at)
    if stored.whole_attention is None:
        raise not_scored(stored, "attention")
    check_scored(stored, "attention", index)
    patterns = stored.whole_attention.isel(step=index)
    sequence = valid_number("sequence", 0 if sequence is None else sequence, patterns.sizes["batch"])
    tokens = stored.tokens[sequence]
    rows = rows_of_heads(chosen_heads(stored, layer, head), widest=8)
    columns, size = max(map(len, rows)), patterns.sizes["query"]
    width = width_of_figure(columns, size)
    side = side_of_panel(width, columns)
    figure, panels = grid_of_panels(rows, width, len(rows) * (side + 0.2) + 0.6)
    colors = colormap(palette.SEQUENTIAL).with_extremes(bad=NO_NUMBER)
    image = None
    for axes, which in panels:
        values = patterns.isel(**which._asdict(), batch=sequence).transpose("query", "key").values
        image = axes.imshow(values, cmap=colors, norm=PowerNorm(0.5, 0, 1), interpolation="none")
        axes.set_title(str(which) if np.isfinite(values).any() else f"{which}: no number")
        axes_of_tokens(axes, tokens, 72 * side / size)
    label_outer(panels, left=True)
    assert image is not None
    color_bar(figure, image, [axes for axes, _ in panels], "attention", [0.0, 0.1, 0.25, 0.5, 1.0])
    figure.suptitle(f"attention, step {stored.steps[index]}, sequence {sequence}")
    return figure
