"""A figure that a notebook shows. A notebook of its own accord shows only those that pyplot makes.

matplotlib is imported at once, so that this module is imported only where a figure is drawn.
"""

import io

from matplotlib.figure import Figure

from headway.analyze.report.figures.style import paper_style

# Of a screen; a figure in a file has more.
DOTS_PER_INCH = 110


class ShownFigure(Figure):
    """A matplotlib figure with a picture for the output of a notebook."""

    def _repr_png_(self) -> bytes:
        with paper_style():
            content = io.BytesIO()
            self.savefig(content, format="png", dpi=DOTS_PER_INCH)
        return content.getvalue()
