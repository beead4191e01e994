"""A story in the terminal: its tables, section by section, and its claims."""

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headway.analyze.studies.story import Claims, Story


def print_story(story: Story, console: Console) -> None:
    """Print the tables of a story and then its claims; its pictures are for the page."""
    for section in story.sections:
        tables = [figure for figure in section.figures if figure.kind == "table"]
        if not tables:
            continue
        console.print(Text(f"\n{section.title}", style="bold"))
        for text in filter(None, [section.text]):
            console.print(Text(text, style="dim"))
        for figure in tables:
            console.print(Text(f"\n{figure.title}"), Text(figure.note, style="dim"), sep="  ")
            console.print(_table_of(figure.data))
    at = "" if story.step is None else f", at step {story.step}"
    console.print(Text(f"\nWhat it comes to{at}", style="bold"))
    console.print(_claims(story.claims))


def rows(data: xr.Dataset) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of a table, as text.

    Example:
        >>> rows(xr.Dataset({"loss": ("part", [0.25, float("nan")])}, {"part": ["all", "late"]}))
        (['part', 'loss'], [['all', '0.25'], ['late', '–']])
    """
    axis = str(next(iter(data.data_vars.values())).dims[0])
    head, columns = [axis], [[said(name) for name in _labels(data, axis)]]
    for name, values in data.data_vars.items():
        title = str(values.attrs.get("long_name", name)).replace("_", " ")
        if values.ndim == 1:
            head.append(title)
            columns.append([said(value) for value in values.values.tolist()])
            continue
        for place, label in enumerate(_labels(data, str(values.dims[1]))):
            head.append(f"{title} {said(label)}" if len(data.data_vars) > 1 else said(label))
            columns.append([said(value) for value in values.values[:, place].tolist()])
    return head, [list(row) for row in zip(*columns, strict=True)]


def said(value: object) -> str:
    """A cell: numbers to three digits, yes or no, text as it is.

    Example:
        >>> [said(value) for value in (0.123456, 12345, 1234.5, True, "L0H3", float("nan"))]
        ['0.123', '12345', '1234', 'yes', 'L0H3', '–']
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if np.isnan(value):
        return "–"
    return f"{value:.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def _labels(data: xr.Dataset, axis: str) -> list:
    return data[axis].values.tolist()  # numbered from 0 where there are no labels


def _table_of(data: xr.Dataset) -> Table:
    head, body = rows(data)
    table = Table(*head, box=None, padding=(0, 2, 0, 0))
    for row in body:
        table.add_row(*map(Text, row))
    return table


def _claims(claims: Claims) -> Table:
    table = Table("holds", "claim", "number", "needs", "measured", box=None, padding=(0, 2, 0, 0))
    for claim in claims:
        known = not np.isnan(claim.number)
        holds = ("yes" if claim.holds else "no") if known else "not measured"
        table.add_row(holds, Text(claim.says), said(claim.number), claim.needs, Text(claim.measured, style="dim"))
    return table
