"""Lines of text in the terminal: cells that stand in columns, and text that wraps below its own column."""

import shutil
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

# The width where there is no terminal.
WIDTH = 120
# The start of a headed line is as wide, and a text has at least so many columns before it begins below its cells.
HEAD, LEAST = 12, 40
INDENT = 6


class Line(NamedTuple):
    """A text with the cells before it, or below the ``head`` of a paragraph where there are none."""

    text: str
    cells: tuple[str, ...] = ()
    head: str = ""

    @property
    def sentence(self) -> str:
        """All of it in one line, as a sentence."""
        start = ", ".join(filter(None, (self.head, *self.cells)))
        return " ".join(f"{start}: {self.text}.".removeprefix(": ").split())


def width() -> int:
    """Return the width of the terminal; WIDTH where there is none."""
    return shutil.get_terminal_size((WIDTH, 24)).columns


def laid_out(lines: Sequence[Line], columns: int | None = None) -> list[str]:
    """Return lines as text; neighbours with as many cells share their columns, and each text wraps below its own.

    A text without room beside its cells begins in the line below them.

    Args:
        lines: The lines.
        columns: How wide the text is; as the terminal if None.

    Example:
        >>> said = [Line("found", head="Circuit"), Line("needed", ("L0H0", "unnamed")), Line("not", ("MLP0", ""))]
        >>> print(*laid_out(said, 100), sep="\\n")
        Circuit     found
          L0H0  unnamed  needed
          MLP0           not
    """
    columns = width() if columns is None else columns
    said: list[str] = []
    for place, line in enumerate(lines):
        if line.cells:
            sizes = map(max, zip(*(map(len, each.cells) for each in _beside(lines, place)), strict=True))
            start = "  " + "".join(f"{cell:<{size}}  " for cell, size in zip(line.cells, sizes, strict=True))
        else:
            start = f"{line.head:<{HEAD}}" if line.head else "  "
        said += _wrapped(start, line.text, columns)
    return said


def _beside(lines: Sequence[Line], place: int) -> list[Line]:
    """Return the neighbours with as many cells."""
    first = last = place
    while first and len(lines[first - 1].cells) == len(lines[place].cells):
        first -= 1
    while last + 1 < len(lines) and len(lines[last + 1].cells) == len(lines[place].cells):
        last += 1
    return list(lines[first : last + 1])


def _wrapped(start: str, text: str, columns: int) -> list[str]:
    if columns - len(start) < LEAST < columns:
        return [start.rstrip(), *_wrapped(" " * min(INDENT, len(start)), text, max(columns, LEAST + INDENT))]
    room = max(columns - len(start), LEAST)
    found = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{start if place == 0 else ' ' * len(start)}{part}".rstrip() for place, part in enumerate(found)]
