"""Formation over many runs as tables in the terminal, and the differences between two groups of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headway.analyze.formation.differences import RATIOS
from headway.analyze.formation.intervals import FEWEST

# More runs are not listed one by one; more pairs of events, steps and kinds than these are left to --json.
MOST_RUNS, MOST_PAIRS, MOST_STEPS, MOST_KINDS = 10, 10, 8, 8
BY_UPDATES = "*"


def print_formation(data: xr.Dataset, console: Console, title: str = "") -> None:
    """Print what ``headway.formation`` returns."""
    n = data.sizes["run"]
    circuit = data.attrs.get("circuit")
    task = str(data.attrs.get("task", "")).rpartition(":")[2]
    facts = [f"{n} run{'' if n == 1 else 's'} of {task}", *([f"circuits: {circuit}"] if circuit else [])]
    console.print(Text(f"{title}: " if title else "", style="bold") + Text(", ".join(facts), style="bold"))
    console.print(_events(data))
    if data.by_updates.any():
        console.print(Text(f"{BY_UPDATES} from the loss of every update; all others between two checkpoints", "dim"))
    if data.sizes["event"] > 1:
        _print("Order", _orders(data), console)
    if n >= FEWEST:
        _print("Share of runs in which it has formed by step", _curves(data), console)
    if (data.parts.sizes["part"]) > 0:
        _print("Kinds of circuit", _kinds(data), console)
    if n <= MOST_RUNS:
        _print("Half-way step of each run", _runs(data), console)
    why = [(str(run), str(reason)) for run, reason in zip(data.run.values, data.outlier.values, strict=True) if reason]
    if why:
        _print("Outliers", _table((), why), console)
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
    _print(f"{names[1]} against {names[0]}", _table(columns, rows), console)
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


def interval(value: float, low: float, high: float, form: Callable[[float], str] | None = None) -> str:
    """Return a number with its interval.

    Example:
        >>> interval(154.2, 150.9, float("inf")), interval(1.0, float("nan"), float("nan"))
        ('154 [151, never]', '1')
    """
    write = form or _step
    text = "–" if np.isnan(value) else write(value)
    return text if np.isnan(low) else f"{text} [{write(low)}, {write(high)}]"


def _step(value: float) -> str:
    return "never" if np.isinf(value) else "–" if np.isnan(value) else f"{value:.0f}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _ratio(value: float) -> str:
    """Return a lead in log steps as a ratio of steps."""
    if np.isinf(value):
        return "×inf" if value > 0 else "×0"
    return f"×{np.exp(value):.2f}"


def _factor(value: float) -> str:
    return f"×{value:.3g}"


def _signed(value: float) -> str:
    return f"{value:+.3g}"


def _form(quantity: str) -> Callable[[float], str]:
    if quantity == "half-way":
        return _step
    return _percent if quantity in ("formed", "route") else lambda value: f"{value:.3g}"


def _events(data: xr.Dataset) -> Table:
    rows = []
    for name in _in_order(data):
        each = data.sel(event=name)
        by_updates = each.by_updates.values[each.formed.values]
        some = "" if by_updates.all() else f" {by_updates.sum()} of {by_updates.size}"
        mark = f"{BY_UPDATES}{some}" if by_updates.any() else ""
        rows.append(
            (
                str(each.label.item()) + mark,
                f"{each.formed_runs.item()} of {each.measured.item()}"
                + _beside(each, "share_formed", lambda value: f"{100 * value:.0f}", " %"),
                interval(*_ends(each, "median_half_way")),
                interval(*_ends(each, "median_width"), lambda value: f"{value:.3g}"),
                interval(*_ends(each, "median_level"), lambda value: f"{value:.2f}"),
            )
        )
    return _table(("event", "formed [95 %]", "half-way step [95 %]", "width [95 %]", "final way [95 %]"), rows)


def _orders(data: xr.Dataset) -> Table:
    names = _in_order(data)
    pairs = [(first, second) for place, first in enumerate(names) for second in names[place + 1 :]]
    if len(pairs) > MOST_PAIRS:
        pairs = [each for each in pairs if names.index(each[1]) == names.index(each[0]) + 1 or "behaviour" in each]
    rows = []
    for first, second in pairs:
        each = data.sel(event=first, other=second)
        counts = (
            f"{round(each['first'].item() * each.decided.item())} of {each.decided.item()}" if each.decided else "–"
        )
        undecided = each.undecided.item()
        rows.append(
            (
                str(data.label.sel(event=first).item()),
                str(data.label.sel(event=second).item()),
                interval(*_ends(each, "lead"), _ratio),
                counts + _beside(each, "first", lambda value: f"{100 * value:.0f}", " %"),
                str(undecided) if undecided else "",
            )
        )
    return _table(("event", "and the next", "lead [95 %]", "comes first in [95 %]", "dates overlap"), rows)


def _curves(data: xr.Dataset) -> Table:
    steps = data.step.values
    changes = np.flatnonzero((np.diff(np.nan_to_num(data.formed_by.values), axis=1, prepend=0) != 0).any(0))
    changes = changes if changes.size else np.arange(len(steps))
    places = np.unique(np.linspace(0, len(changes) - 1, min(MOST_STEPS, len(changes))).round().astype(int))
    places = np.unique([*changes[places], len(steps) - 1])
    rows = []
    for name in _in_order(data):
        each = data.sel(event=name).isel(step=places)
        rows.append((str(each.label.item()), *("–" if np.isnan(v) else _percent(v) for v in each.formed_by.values)))
    return _table(("", *(f"{steps[place]:.0f}" for place in places)), rows)


def _kinds(data: xr.Dataset) -> Table:
    n = data.sizes["run"]
    rows = []
    for place, name in enumerate(map(str, data.kind_name.values[:MOST_KINDS])):
        each = data.isel(kind_name=place)
        rows.append((name, f"{each.kind_runs.item()} of {n}", _share(each, "kind_share")))
    rest = data.kind_runs.values[MOST_KINDS:]
    if rest.size:
        rows.append((f"{rest.size} other kinds", f"{rest.sum()} of {n}", ""))
    there = int((~np.isnan(data.routes.values).any(1)).sum())
    for place, name in enumerate(map(str, data.part_count.values)):
        each = data.isel(part_count=place)
        rows.append((f"with {name}", f"{round(each.part_share.item() * there)} of {there}", _share(each, "part_share")))
    for route in map(str, data.route.values):
        each = data.sel(route=route)
        rows.append((f"with a {route}-route", f"{int(each.routes.sum())} of {there}", _share(each, "route_share")))
    return _table(("kind", "runs", "share [95 %]"), rows)


def _runs(data: xr.Dataset) -> Table:
    names = _in_order(data)
    rows = []
    for place, run in enumerate(map(str, data.run.values)):
        cells = [_date(data.isel(run=place).sel(event=name)) for name in names]
        rows.append((run, *cells))
    return _table(("run", *(str(data.label.sel(event=name).item()) for name in names)), rows)


def _date(each: xr.Dataset) -> str:
    if not each.formed.item():
        return str(each.state.item())
    after = each.after.item()
    start = "start" if np.isnan(after) else f"{after:.0f}"
    return f"{each.half_way.item():.0f} ({start} to {each.before.item():.0f})"


def _in_order(data: xr.Dataset) -> list[str]:
    """Return the events by median date, those that most runs never get to at the end."""
    dates = np.nan_to_num(data.median_half_way.values, nan=np.inf)
    return [str(name) for name in data.event.values[np.argsort(dates, kind="stable")]]


def _ends(each: xr.Dataset, name: str) -> tuple[float, float, float]:
    return each[name].item(), each[f"{name}_low"].item(), each[f"{name}_high"].item()


def _beside(each: xr.Dataset, name: str, form: Callable[[float], str], units: str) -> str:
    _, low, high = _ends(each, name)
    return "" if np.isnan(low) else f" [{form(low)}, {form(high)}{units}]"


def _share(each: xr.Dataset, name: str) -> str:
    return interval(*_ends(each, name), _percent)


def _table(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    columns, rows = tuple(columns), list(rows)
    table = Table(*columns, box=None, padding=(0, 2, 0, 0), show_header=bool(columns))
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _print(title: str, table: Table, console: Console) -> None:
    console.print(Text(f"\n{title}", "bold"))
    console.print(table)
