"""Formation over many runs as tables in the terminal, and the differences between two groups of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headway.analyze.formation.differences import RATIOS
from headway.analyze.formation.intervals import FEWEST
from headway.analyze.report.formation_rows import (
    BY_UPDATES,
    Rows,
    curve_rows,
    event_rows,
    interval,
    kind_rows,
    order_rows,
    percent,
    run_rows,
    step_text,
    title_of,
)

# More runs are not listed one by one.
MOST_RUNS = 10


def print_formation(data: xr.Dataset, console: Console, title: str = "") -> None:
    """Print what ``headway.formation`` returns."""
    n = data.sizes["run"]
    console.print(Text(f"{title}: " if title else "", style="bold") + Text(title_of(data), style="bold"))
    console.print(_table(event_rows(data)))
    if data.by_updates.any():
        console.print(Text(f"{BY_UPDATES} from the loss of every update; all others between two checkpoints", "dim"))
    if data.sizes["event"] > 1:
        _print("Order", order_rows(data), console)
    if n >= FEWEST:
        _print("Share of runs in which it has formed by step", curve_rows(data), console)
    if (data.parts.sizes["part"]) > 0:
        _print("Kinds of circuit", kind_rows(data), console)
    if n <= MOST_RUNS:
        _print("Half-way step of each run", run_rows(data), console)
    why = [(str(run), str(reason)) for run, reason in zip(data.run.values, data.outlier.values, strict=True) if reason]
    if why:
        _print("Outliers", Rows((), why), console)
    for note in data.attrs["notes"]:
        console.print(Text(f"Note: {note}.", "dim"))


def print_differences(data: xr.Dataset, names: Sequence[str], console: Console) -> None:
    """Print what ``formation.differences.differences`` returns; ``names`` are those of the two groups."""
    columns = ("", *names, "difference [95 %]", "effect", "p", "p (Holm)", "n")
    rows = []
    for place in range(data.sizes["comparison"]):
        each = data.isel(comparison=place)
        quantity = str(each.quantity.item())
        form = _form(quantity)
        centres = [form(each[name].item()) for name in ("first", "second")]
        change, low, high = (each[name].item() for name in ("difference", "low", "high"))
        tested = ["–" if np.isnan(each[name].item()) else f"{each[name].item():.2g}" for name in ("p", "p_corrected")]
        title = each.label.item() if quantity == "route" else f"{each.label.item()}: {quantity}"
        n = f"{each.n_first.item()}, {each.n_second.item()}"
        shown = interval(change, low, high, _factor if quantity in RATIOS else _signed)
        rows.append((title, *centres, shown, f"{each.effect.item():+.2f}", *tested, n))
    _print(f"{names[1]} against {names[0]}", Rows(columns, rows), console)
    text = (
        "Medians, or shares; × is a ratio, second over first. effect: how much likelier a run of the second is to have "
        "the larger number than the smaller one. p of permutation tests of ranks, corrected for "
        f"{data.attrs['tests']} comparisons."
    )
    console.print(Text(text, "dim"))
    if data.attrs["horizon"] < data.attrs["longest"]:
        text = (
            f"Note: runs are of different lengths; steps are compared up to {data.attrs['horizon']:.0f}, the shortest."
        )
        console.print(Text(text, "dim"))
    if np.isnan(data.p.values).any():
        console.print(Text(f"Note: fewer than {FEWEST} runs of a group have the number: no interval and no p.", "dim"))


def _form(quantity: str) -> Callable[[float], str]:
    if quantity == "half-way":
        return step_text
    return percent if quantity in ("formed", "route") else lambda value: f"{value:.3g}"


def _factor(value: float) -> str:
    return f"×{value:.3g}"


def _signed(value: float) -> str:
    return f"{value:+.3g}"


def _table(rows: Rows) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(rows.columns))
    for column in rows.columns:
        table.add_column(Text(column))
    for row in rows.cells:
        table.add_row(*map(Text, row))
    return table


def _print(title: str, rows: Rows, console: Console) -> None:
    console.print(Text(f"\n{title}", "bold"))
    console.print(_table(rows))
