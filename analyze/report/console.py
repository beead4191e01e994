"""What a terminal shows: the tables and claims of a study, and what a network makes of a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headway.analyze.studies.result import Claims, StudyResult

if TYPE_CHECKING:
    from headway.analyze.tools.prompt import Typed

# In the terminal; the page shows them all.
MOST_COMPONENTS, MOST_HEADS, MOST_SOURCES = 16, 24, 3


def print_story(story: StudyResult, console: Console) -> None:
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
    head, columns = [axis], [[formatted(name) for name in _labels(data, axis)]]
    for name, values in data.data_vars.items():
        title = str(values.attrs.get("long_name", name)).replace("_", " ")
        if values.ndim == 1:
            head.append(title)
            columns.append([formatted(value) for value in values.values.tolist()])
            continue
        for place, label in enumerate(_labels(data, str(values.dims[1]))):
            head.append(f"{title} {formatted(label)}" if len(data.data_vars) > 1 else formatted(label))
            columns.append([formatted(value) for value in values.values[:, place].tolist()])
    return head, [list(row) for row in zip(*columns, strict=True)]


def formatted(value: object) -> str:
    """A cell: numbers to three digits, yes or no, text as it is.

    Example:
        >>> [formatted(value) for value in (0.123456, 12345, 1234.5, True, "L0H3", float("nan"))]
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
        table.add_row(holds, Text(claim.says), formatted(claim.number), claim.needs, Text(claim.measured, style="dim"))
    return table


def print_typed(shown: Typed, console: Console, top: int = 5) -> None:
    """Print what comes next at each position, and what decided it at the one that was asked about."""
    console.print(_next_tokens(shown, top))
    position, token = shown.position, int(shown.explained[shown.position])
    console.print(
        Text(f"\nWhat speaks for {shown.label(token)} after position {position}, {shown.labels[position]}", "bold"),
        Text(f"(probability {formatted(shown.probability(position, token))}, rank {shown.rank(position, token)})"),
    )
    if shown.outputs is not None:
        console.print(
            Text("what each component adds to its logit over the mean logit, directly; strongest first", "dim")
        )
        console.print(_components(shown))
    if shown.left_out:
        console.print(Text(f"left out: {shown.left_out}", "dim"))
    console.print(Text("\nWhere its heads look", "bold"), Text(f"from position {position}"))
    console.print(_looks(shown))


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, padding=(0, 2, 0, 0))


def _next_tokens(shown: Typed, top: int) -> Table:
    table = _table("position", "token", "next", "probability", "rank", f"the {top} likeliest")
    following = [*shown.tokens[1:].tolist(), None]
    for position, (label, token) in enumerate(zip(shown.labels, following, strict=True)):
        known = ["", "", ""]
        if token is not None:
            rank, probability = shown.rank(position, token), shown.probability(position, token)
            known = [shown.label(token), formatted(probability), str(rank)]
        likeliest = [f"{each.token} {formatted(each.probability)}" for each in shown.likeliest(position, top)]
        table.add_row(*map(Text, [str(position), label, *known, "  ".join(likeliest)]))
    return table


def _components(shown: Typed) -> Table:
    assert shown.outputs is not None
    terms = shown.outputs.isel(pos=shown.position)
    order = abs(terms).argsort().values[::-1]
    table = _table("component", "adds", "" if shown.sources is None else "of that, from")
    for name in map(str, terms.component.values[order[:MOST_COMPONENTS]]):
        taken = ""
        if shown.sources is not None and name in shown.sources["head"]:
            taken = _strongest(shown, shown.sources.sel(head=name))
        table.add_row(name, f"{terms.sel(component=name).item():+.3f}", Text(taken))
    rest = terms.values[order[MOST_COMPONENTS:]]
    if len(rest):
        table.add_row(f"{len(rest)} others", f"{rest.sum():+.3f}", "")
    table.add_row("all", f"{terms.values.sum():+.3f}", "")
    return table


def _looks(shown: Typed) -> Table:
    """The heads that add most, in the order of the network."""
    heads = shown.attention["head"].values.tolist()
    strongest = range(MOST_HEADS)
    if shown.outputs is not None:
        terms = abs(shown.outputs.isel(pos=shown.position).sel(component=heads))
        strongest = sorted(terms.argsort().values[::-1][:MOST_HEADS].tolist())
    table = _table("head", "looks at")
    for head in (heads[place] for place in strongest if place < len(heads)):
        table.add_row(head, Text(_strongest(shown, shown.attention.sel(head=head))))
    if len(heads) > MOST_HEADS:
        table.add_row("", Text(f"the page shows the {len(heads) - MOST_HEADS} others", "dim"))
    return table


def _strongest(shown: Typed, of_head: xr.DataArray) -> str:
    """The sources of the largest numbers, with their positions."""
    values, labels = of_head.isel(pos=shown.position).values[: shown.position + 1], shown.labels
    return "   ".join(
        f"{labels[source]} ({source}) {formatted(float(values[source]))}"
        for source in abs(values).argsort()[::-1][:MOST_SOURCES].tolist()
    )
