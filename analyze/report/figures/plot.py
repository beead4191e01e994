"""Figures of the page for papers: matplotlib draws them from the same scores, one or two columns wide.

pyplot is not touched, and so neither are the settings and open figures of the caller.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.analyze.report.figures import (
    attention,
    attribution,
    circuit,
    composition,
    diagram,
    eigenvalues,
    heads,
    loss,
    network,
    runs,
)
from headway.analyze.report.figures.style import paper_style
from headway.analyze.report.stored import StoredScores
from headway.checkpoints import Run
from headway.checkpoints.files import NotWrittenError, check_replaceable, write_whole
from headway.data.parts import remove_parts_of
from headway.options import nearest

if TYPE_CHECKING:  # an extra, which is imported where it draws
    from matplotlib.figure import Figure

FIGURES: dict[str, Callable[..., "Figure"]] = {
    "loss": loss.loss,
    "network": network.network,
    "circuit": circuit.circuit,
    "diagram": diagram.diagram,
    "attention": attention.attention,
    "eigenvalues": eigenvalues.eigenvalues,
    "heads": heads.heads,
    "composition": composition.composition,
    "attribution": attribution.attribution,
}
# The endings of --out, with the metadata that marks a figure of ours; they hold no date, so that files are the same.
PROGRAM = "headway plot"
METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": PROGRAM},
    ".svg": {"Creator": PROGRAM, "Date": None},
    ".pdf": {"Creator": PROGRAM, "CreationDate": None},
}


def draw(
    run: Run,
    figure: str,
    at: int | None = None,
    layer: int | None = None,
    head: int | None = None,
    sequence: int | None = None,
    measure: str | None = None,
    part: str | None = None,
    replace: str | None = None,
    nodes: bool | None = None,
) -> "Figure":
    """A figure of the page for a paper, as a ``matplotlib.figure.Figure`` that pyplot does not know.

    Args:
        run: The run.
        figure: A name in FIGURES.
        at: A step with scores; the last one if None. Figures over training mark it if it is given.
        layer: Only the heads of this layer.
        head: Only the heads of this number.
        sequence: Which of the sequences whose attention is kept is shown, counted from 0.
        measure: Only the scores of this measure.
        part: The behaviour whose circuit is shown; the one whose circuit was found last if None.
        replace: The replacement under which it was found.
        nodes: Show the circuit of nodes without edges, which ``headway circuit --nodes`` found, or with False that of
            edges; if None, that of edges where there is one.

    Raises:
        ValueError: an unknown figure, an option that it does not take, scores that the run does not have, or no
            matplotlib.

    Example:
        >>> save(draw(Run("runs/induction"), "attention", at=400, layer=1), "layer-1.svg")  # doctest: +SKIP
    """
    if figure in runs.FIGURES and figure not in FIGURES:
        raise ValueError(f"figure: {figure} is of several runs; give more than one, or a folder of runs")
    chosen = {"at": at, "layer": layer, "head": head, "sequence": sequence, "measure": measure}
    given = _given(FIGURES, figure, {**chosen, "part": part, "replace": replace, "nodes": nodes})
    return _drawn(lambda: FIGURES[figure](StoredScores.of(run), **given))


def draw_many(
    several: Sequence[Run],
    figure: str,
    at: int | None = None,
    measure: str | None = None,
    part: str | None = None,
    replace: str | None = None,
    **others: Any,
) -> "Figure":
    """A figure of several runs for a paper: their lines over each other with a median, or shares that have formed.

    Args:
        several: The runs, of one task.
        figure: formation (the share of runs in which each event has happened by a step), heads (how far the strongest
            head of each role has come) or loss.
        at: A step that is marked.
        measure: Of heads: another score, or one role alone.
        part: The part whose loss is the behaviour; of loss: the part that is shown, or ``all``.
        replace: The replacement of the circuits, where several were used.
        others: Options of other figures, which are refused.

    Raises:
        ValueError: as for ``draw``, and as for ``headway.formation``.

    Example:
        >>> save(draw_many([Run("runs/many/seed-0"), Run("runs/many/seed-1")], "loss"), "loss.pdf")  # doctest: +SKIP
    """
    if figure in FIGURES and figure not in runs.FIGURES:
        raise ValueError(f"figure: {figure} is of one run; of several there is {', '.join(runs.FIGURES)}")
    options = {"at": at, "measure": measure, "part": part, "replace": replace, **others}
    given = _given(runs.FIGURES, figure, options)
    return _drawn(lambda: runs.FIGURES[figure](runs.checked(several), **given))


def _given(figures: Mapping[str, Callable[..., Any]], figure: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are given; a ValueError for a figure that there is not, or an option it does not take."""
    if figure not in figures:
        raise ValueError(f"figure: {figure!r} is not one of {', '.join(figures)}{nearest(figure, figures)}")
    given = {name: value for name, value in options.items() if value is not None}
    taken = [name for name in signature(figures[figure]).parameters if name in options]
    for name, value in given.items():
        if name not in taken:
            raise ValueError(f"{name}: {value!r} is not valid; the figure {figure} takes {', '.join(taken)}")
    return given


def _drawn(draw: "Callable[[], Figure]") -> "Figure":
    with paper_style():
        drawn = draw()
        # Ticks and places would be computed when the figure is drawn. That happens here, in this style, and once: a
        # second layout would move things by a hair.
        layout = drawn.get_layout_engine()
        assert layout is not None  # every figure has a constrained layout
        layout.execute(drawn)
        drawn.set_layout_engine("none")
    return drawn


def check_figure(out: Path, overwrite: bool = False) -> Path:
    """Refuse a path at which no figure can be written, or at which one would replace something else, and return it.

    Raises:
        ValueError: another ending than .png, .svg and .pdf, a directory, a device, or a file that is not a figure of
            ours unless ``overwrite``.
    """
    if out.suffix.lower() not in METADATA:
        raise ValueError(f"out: {str(out)!r} is not valid; it must end in {', '.join(METADATA)}")
    return check_replaceable(out, PROGRAM.encode(), "a figure", overwrite)


def save(figure: "Figure", out: str | Path, overwrite: bool = False) -> Path:
    """Write a figure in the format that ``out`` ends in (.png, .svg or .pdf), and give its path.

    The same figure gives the same bytes. An earlier figure of ours at this path is replaced.

    Raises:
        ValueError: another ending, a file that is not a figure of ours (unless ``overwrite``), or a path that cannot
            be written.
    """
    out = check_figure(Path(out).expanduser(), overwrite)
    ending = out.suffix.lower()
    try:
        with paper_style():
            content = io.BytesIO()
            figure.savefig(content, format=ending[1:], metadata=METADATA[ending])
            remove_parts_of(out)
            write_whole(out, content.getvalue())
    except NotWrittenError as error:
        raise ValueError(f"out: {error.strerror}") from None
    return out
