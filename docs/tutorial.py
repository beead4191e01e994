"""Run the cells of docs/tutorial.ipynb, and write them and what they show to tutorial.md: ``python docs/tutorial.py``.

A cell is run as a notebook would, in one namespace, and shows what it prints and the value of its last line. Nothing of
Jupyter is needed; magics (``%``, ``!``) are not understood.
"""

import ast
import contextlib
import io
import json
import linecache
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).resolve().parent
NOTEBOOK, PAGE = DOCS / "tutorial.ipynb", DOCS / "tutorial.md"
PICTURES = "figures/tutorial"


class Cell(NamedTuple):
    """A cell of a notebook: markdown or code."""

    kind: str
    source: str


class Shown(NamedTuple):
    """An output of a cell: text, HTML, or a picture."""

    kind: str
    content: Any


def cells() -> list[Cell]:
    """Read the cells of the notebook."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [Cell(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def run_cells(names: dict[str, Any]) -> Iterator[tuple[Cell, list[Shown]]]:
    """Run the cells of the notebook in a namespace, and give each with its outputs."""
    for number, cell in enumerate(cells()):
        yield cell, run_cell(cell.source, names, f"<cell {number}>") if cell.kind == "code" else []


def run_cell(source: str, names: dict[str, Any], name: str = "<cell>") -> list[Shown]:
    """Run one cell of code, and return what a notebook would show below it."""
    # A traceback shows the lines of the cell.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    body = ast.parse(source, name).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), name, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), names)
    shown = [Shown("text", printed.getvalue().rstrip("\n"))] if printed.getvalue() else []
    return shown if value is None else [*shown, shown_value(value)]


def shown_value(value: Any) -> Shown:
    """Return a value as a notebook shows it: by its picture, else its HTML, else its text."""
    for kind, method in (("picture", "_repr_png_"), ("html", "_repr_html_")):
        if content := getattr(value, method, lambda: None)():
            return Shown(kind, content)
    return Shown("text", repr(value))


def page() -> tuple[str, dict[str, bytes]]:
    """Run the notebook, and return the page and its pictures by name."""
    parts = ["<!-- python docs/tutorial.py writes this file: the cells of tutorial.ipynb, and what they show. -->"]
    pictures: dict[str, bytes] = {}
    for cell, outputs in run_cells({"__name__": "__main__"}):
        parts.append(cell.source if cell.kind == "markdown" else f"```python\n{cell.source}\n```")
        for shown in outputs:
            if shown.kind == "picture":
                name = f"{PICTURES}-{len(pictures) + 1}.png"
                pictures[name] = shown.content
                parts.append(f"![{cell.source.splitlines()[-1]}]({name})")
            else:
                parts.append(shown.content if shown.kind == "html" else f"```text\n{shown.content}\n```")
    return "\n\n".join(parts) + "\n", pictures


def main() -> None:
    """Write the page and its pictures; the runs of the notebook are made in a folder that does not stay."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        text, pictures = page()
        os.chdir(DOCS)
    for old in DOCS.glob(f"{PICTURES}-*.png"):
        old.unlink()
    for name, content in pictures.items():
        (DOCS / name).write_bytes(content)
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE}: {len(text):,} characters and {len(pictures)} pictures", file=sys.stderr)


if __name__ == "__main__":
    main()
