"""The style in which figures are drawn, and a figure that a notebook shows."""

from contextlib import AbstractContextManager

STYLE = {
    "font.size": 8,
    "figure.titlesize": 8,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "text.parse_math": False,  # a token may hold a dollar sign
    "svg.fonttype": "none",  # text stays text, for searching and for an editor
    "pdf.fonttype": 42,
    "svg.hashsalt": "headway",  # the same figure has the same ids
    "savefig.dpi": 300,
}


def paper_style() -> AbstractContextManager[None]:
    """Our settings over the defaults of matplotlib, without those of the user; they end with the context."""
    try:
        from matplotlib import style
    except ImportError:
        raise ValueError("plot: needs matplotlib; pip install 'headway[paper]'") from None
    return style.context(["default", STYLE])
