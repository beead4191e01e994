"""Eigenvalues of OV and QK circuits in the complex plane."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from headway.analyze.report import palette
from headway.analyze.report.figures.axes import (
    DOUBLE,
    GUIDE,
    SINGLE,
    grid_of_panels,
    number_text,
    side_of_panel,
    with_margin,
)
from headway.analyze.report.figures.chosen import check_scored, chosen_heads, not_scored, rows_of_heads, wrong_measure
from headway.analyze.report.stored import StoredScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def eigenvalues(
    stored: StoredScores,
    at: int | None = None,
    layer: int | None = None,
    head: int | None = None,
    measure: str | None = None,
) -> "Figure":
    """Eigenvalues of each head's circuit in the complex plane; the circle is the largest at any step."""
    index = stored.index(at)
    spectra = {each.measure: each for each in stored.spectra}
    if not spectra and measure is None:
        raise not_scored(stored, "ov_eigenvalue,qk_eigenvalue")
    measure = measure or next(iter(spectra))
    if measure not in spectra:
        raise wrong_measure(stored, measure, "has no eigenvalues", spectra)
    check_scored(stored, measure, index)
    rows = rows_of_heads(chosen_heads(stored, layer, head), widest=6)
    columns = max(map(len, rows))
    width = SINGLE if columns < 4 else DOUBLE
    figure, panels = grid_of_panels(rows, width, len(rows) * (min(1.6, side_of_panel(width, columns)) + 0.3) + 0.5)
    for axes, which in panels:
        radius = _plane(axes, spectra[measure].eigenvalues.isel(which._asdict()), index)
        ratio = float(spectra[measure].score.isel(step=index, **which._asdict()))
        axes.set_title(f"{which}: {number_text(ratio, 2)}\n|λ| ≤ {number_text(radius, 2)}")
    figure.supxlabel("real part of λ", fontsize=7)
    figure.supylabel("imaginary part of λ", fontsize=7)
    figure.suptitle(f"{measure}, step {stored.steps[index]}")
    return figure


def _plane(axes: "Axes", values: xr.DataArray, index: int) -> float:
    """The eigenvalues of one head at one step, round right and square left of 0; gives the largest at any step."""
    from matplotlib.patches import Circle

    sizes = np.abs(values.values)
    radius = float(sizes[np.isfinite(sizes)].max(initial=0)) or 1.0
    here = values.isel(step=index).values
    for right, color, marker in ((True, palette.CATEGORIES[0], "o"), (False, palette.CATEGORIES[1], "s")):
        some = here[(np.real(here) >= 0) == right]
        axes.plot(np.real(some), np.imag(some), marker, color=color, markersize=2.8, markeredgewidth=0, alpha=0.75)
    axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor=palette.NOTHING, linewidth=0.6))
    axes.axhline(0, **GUIDE)
    axes.axvline(0, **GUIDE)
    axes.set(xlim=with_margin(-radius, radius), ylim=with_margin(-radius, radius), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return radius
