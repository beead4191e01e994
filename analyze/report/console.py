"""Tables for the terminal: those of a study with its claims, and the predictions of a network on a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headway.analyze.studies.result import Claims, StudyResult

if TYPE_CHECKING:
    from headway.analyze.tools.prompt import PromptResult

# The most rows and sources in the terminal; the page shows all.
MOST_COMPONENTS, MOST_HEADS, MOST_SOURCES = 16, 24, 3


def print_study(study: StudyResult, console: Console) -> None:
    """Print the tables of a study and then its claims; the page shows its pictures."""
    for section in study.sections:
        tables = [figure for figure in section.figures if figure.kind == "table"]
        if not tables:
            continue
        console.print(Text(f"\n{section.title}", style="bold"))
        for text in filter(None, [section.text]):
            console.print(Text(text, style="dim"))
        for figure in tables:
            console.print(Text(f"\n{figure.title}"), Text(figure.note, style="dim"), sep="  ")
            console.print(_table_of(figure.data))
    if study.claims:
        at = "" if study.step is None else f", at step {study.step}"
        console.print(Text(f"\nClaims{at}", style="bold"))
        console.print(_claims(study.claims))


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
        >>> [formatted(value) for value in (0.123456, 12345, 1234.5, True, "L0H3", float("nan"), float("inf"))]
        ['0.123', '12345', '1234', 'yes', 'L0H3', '–', '∞']
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if np.isnan(value):
        return "–"
    if np.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def _labels(data: xr.Dataset, axis: str) -> list:
    return data[axis].values.tolist()  # numbered from 0 where there are no labels


def _table_of(data: xr.Dataset) -> Table:
    head, body = rows(data)
    table = _table(*head)
    for row in body:
        _add(table, *row)
    return table


def _claims(claims: Claims) -> Table:
    table = _table("holds", "claim", "number", "needs", "measured")
    for claim in claims:
        known = not np.isnan(claim.number)
        holds = ("yes" if claim.holds else "no") if known else "not measured"
        _add(table, holds, claim.says, formatted(claim.number), claim.needs, Text(claim.measured, style="dim"))
    return table


def print_prompt(result: PromptResult, console: Console, top: int = 5) -> None:
    """Print the next tokens at each position, and the attribution and attention at the position in question."""
    console.print(_next_tokens(result, top))
    position, token = result.position, int(result.explained[result.position])
    label = result.labels[position]
    console.print(
        Text(f"\nDirect attribution of {result.label(token)} after position {position}, {label}", "bold"),
        Text(f"(probability {formatted(result.probability(position, token))}, rank {result.rank(position, token)})"),
    )
    if result.outputs is not None:
        console.print(
            Text("what each component adds directly to its logit over the mean logit; strongest first", "dim")
        )
        console.print(_components(result))
    if result.left_out:
        console.print(Text(f"left out: {result.left_out}", "dim"))
    console.print(Text("\nAttention", "bold"), Text(f"from position {position}"))
    console.print(_attended(result))


def _table(*columns: str) -> Table:
    """A table with these heads. Rich would read a ``str`` in it as markup, in which [random] is a style."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(Text(column))
    return table


def _add(table: Table, *cells: str | Text) -> None:
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _next_tokens(result: PromptResult, top: int) -> Table:
    table = _table("position", "token", "next", "probability", "rank", f"{top} most likely")
    following = [*result.tokens[1:].tolist(), None]
    for position, (label, token) in enumerate(zip(result.labels, following, strict=True)):
        known = ["", "", ""]
        if token is not None:
            rank, probability = result.rank(position, token), result.probability(position, token)
            known = [result.label(token), formatted(probability), str(rank)]
        likeliest = [f"{each.token} {formatted(each.probability)}" for each in result.likeliest(position, top)]
        _add(table, str(position), label, *known, "  ".join(likeliest))
    return table


def _components(result: PromptResult) -> Table:
    assert result.outputs is not None
    terms = result.outputs.isel(pos=result.position)
    order = abs(terms).argsort().values[::-1]
    table = _table("component", "adds", "" if result.sources is None else "strongest sources")
    for name in map(str, terms.component.values[order[:MOST_COMPONENTS]]):
        taken = ""
        if result.sources is not None and name in result.sources["head"]:
            taken = _strongest(result, result.sources.sel(head=name))
        _add(table, name, f"{terms.sel(component=name).item():+.3f}", taken)
    rest = terms.values[order[MOST_COMPONENTS:]]
    if len(rest):
        _add(table, f"{len(rest)} others", f"{rest.sum():+.3f}", "")
    _add(table, "all", f"{terms.values.sum():+.3f}", "")
    return table


def _attended(result: PromptResult) -> Table:
    """The heads that add most, in the order of the network."""
    heads = result.attention["head"].values.tolist()
    strongest = range(MOST_HEADS)
    if result.outputs is not None:
        terms = abs(result.outputs.isel(pos=result.position).sel(component=heads))
        strongest = sorted(terms.argsort().values[::-1][:MOST_HEADS].tolist())
    table = _table("head", "attends to")
    for head in (heads[place] for place in strongest if place < len(heads)):
        _add(table, head, _strongest(result, result.attention.sel(head=head)))
    if len(heads) > MOST_HEADS:
        _add(table, "", Text(f"the page shows the {len(heads) - MOST_HEADS} others", "dim"))
    return table


def _strongest(result: PromptResult, of_head: xr.DataArray) -> str:
    """The sources of the largest numbers, with their positions."""
    values, labels = of_head.isel(pos=result.position).values[: result.position + 1], result.labels
    return "   ".join(
        f"{labels[source]} ({source}) {formatted(float(values[source]))}"
        for source in abs(values).argsort()[::-1][:MOST_SOURCES].tolist()
    )
