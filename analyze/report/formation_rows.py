"""Formation over many runs as rows of text, which the terminal and the page show."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr

# More pairs of events, steps and kinds than these are left to --json.
MOST_PAIRS, MOST_STEPS, MOST_KINDS = 10, 8, 8
BY_UPDATES = "*"


class Rows(NamedTuple):
    """A table: the names of its columns, and its cells."""

    columns: tuple[str, ...]
    cells: list[tuple[str, ...]]


def interval(value: float, low: float, high: float, form: Callable[[float], str] | None = None) -> str:
    """Return a number with its interval in words.

    Example:
        >>> interval(154.2, 150.9, float("inf")), interval(1.0, float("nan"), float("nan"))
        ('154 [151, never]', '1')
    """
    write = form or step_text
    text = "–" if np.isnan(value) else write(value)
    return text if np.isnan(low) else f"{text} [{write(low)}, {write(high)}]"


def step_text(value: float) -> str:
    """Return a step in words; an infinite one is never."""
    return "never" if np.isinf(value) else "–" if np.isnan(value) else f"{value:.0f}"


def percent(value: float) -> str:
    """Return a share in per cent."""
    return f"{100 * value:.0f} %"


def _ratio(value: float) -> str:
    """Return a lead in log steps as a ratio of steps, or in words if one of the two events never happens.

    Example:
        >>> _ratio(0.5), _ratio(float("inf")), _ratio(float("-inf"))
        ('×1.65', 'the next never', 'the next alone')
    """
    if np.isinf(value):
        return "the next never" if value > 0 else "the next alone"
    return f"×{np.exp(value):.2f}"


def title_of(data: xr.Dataset) -> str:
    """Return the number of runs, their task, and which circuits are looked at."""
    n, circuit = data.sizes["run"], data.attrs.get("circuit")
    task = str(data.attrs.get("task", "")).rpartition(":")[2]
    return f"{n} run{'' if n == 1 else 's'} of {task}" + (f", circuits: {circuit}" if circuit else "")


def event_rows(data: xr.Dataset) -> Rows:
    """Return how many runs formed each event, and its date, width and level."""
    rows = []
    for name in in_order(data):
        each = data.sel(event=name)
        by_updates = each.by_updates.values[each.formed.values]
        some = "" if by_updates.all() else f" {by_updates.sum()} of {by_updates.size}"
        mark = f"{BY_UPDATES}{some}" if by_updates.any() else ""
        rows.append(
            (
                str(each.label.item()) + mark,
                f"{each.formed_runs.item()} of {each.measured.item()}"
                + _beside(each, "share_formed", lambda value: f"{100 * value:.0f}", " %"),
                interval(*ends(each, "median_half_way")),
                interval(*ends(each, "median_width"), lambda value: f"{value:.3g}"),
                interval(*ends(each, "median_level"), lambda value: f"{value:.2f}"),
            )
        )
    return Rows(("event", "formed [95 %]", "half-way step [95 %]", "width [95 %]", "final way [95 %]"), rows)


def order_rows(data: xr.Dataset) -> Rows:
    """Return leads between pairs of events, and in how many runs the first one comes first."""
    names = in_order(data)
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
                interval(*ends(each, "lead"), _ratio),
                counts + _beside(each, "first", lambda value: f"{100 * value:.0f}", " %"),
                str(undecided) if undecided else "",
            )
        )
    return Rows(("event", "and the next", "lead [95 %]", "comes first in [95 %]", "dates overlap"), rows)


def curve_rows(data: xr.Dataset) -> Rows:
    """Return the share of runs in which each event has happened, at a few steps."""
    steps = data.step.values
    changes = np.flatnonzero((np.diff(np.nan_to_num(data.formed_by.values), axis=1, prepend=0) != 0).any(0))
    changes = changes if changes.size else np.arange(len(steps))
    places = np.unique(np.linspace(0, len(changes) - 1, min(MOST_STEPS, len(changes))).round().astype(int))
    places = np.unique([*changes[places], len(steps) - 1])
    rows = []
    for name in in_order(data):
        each = data.sel(event=name).isel(step=places)
        rows.append((str(each.label.item()), *("–" if np.isnan(v) else percent(v) for v in each.formed_by.values)))
    return Rows(("", *(f"{steps[place]:.0f}" for place in places)), rows)


def kind_rows(data: xr.Dataset) -> Rows:
    """Return the kinds of circuit, the counts of heads of each name, and the routes, with their shares."""
    n = data.sizes["run"]
    rows = []
    # A line for one other kind would take as much room as this kind.
    shown = MOST_KINDS if data.sizes["kind_name"] > MOST_KINDS + 1 else MOST_KINDS + 1
    for place, name in enumerate(map(str, data.kind_name.values[:shown])):
        each = data.isel(kind_name=place)
        rows.append((name, f"{each.kind_runs.item()} of {n}", _share(each, "kind_share")))
    rest = data.kind_runs.values[shown:]
    if rest.size:
        rows.append((f"{rest.size} other kinds", f"{rest.sum()} of {n}", ""))
    there = int((~np.isnan(data.routes.values).any(1)).sum())
    for place, name in enumerate(map(str, data.part_count.values)):
        each = data.isel(part_count=place)
        rows.append((f"with {name}", f"{round(each.part_share.item() * there)} of {there}", _share(each, "part_share")))
    for route in map(str, data.route.values):
        each = data.sel(route=route)
        rows.append((f"with a {route}-route", f"{int(each.routes.sum())} of {there}", _share(each, "route_share")))
    return Rows(("kind", "runs", "share [95 %]"), rows)


def run_rows(data: xr.Dataset) -> Rows:
    """Return the date of each event in each run."""
    names = in_order(data)
    rows = []
    for place, run in enumerate(map(str, data.run.values)):
        cells = [date_text(data.isel(run=place).sel(event=name)) for name in names]
        rows.append((run, *cells))
    return Rows(("run", *(str(data.label.sel(event=name).item()) for name in names)), rows)


def date_text(each: xr.Dataset) -> str:
    """Return the date of an event in one run, with the checkpoints around it, or that it has not formed."""
    if not each.formed.item():
        return str(each.state.item())
    after = each.after.item()
    start = "start" if np.isnan(after) else f"{after:.0f}"
    return f"{each.half_way.item():.0f} ({start} to {each.before.item():.0f})"


def in_order(data: xr.Dataset) -> list[str]:
    """Return the events by median date, those that most runs never get to at the end."""
    dates = np.nan_to_num(data.median_half_way.values, nan=np.inf)
    return [str(name) for name in data.event.values[np.argsort(dates, kind="stable")]]


def ends(each: xr.Dataset, name: str) -> tuple[float, float, float]:
    """Return an estimate of one event and the ends of its interval."""
    return each[name].item(), each[f"{name}_low"].item(), each[f"{name}_high"].item()


def _beside(each: xr.Dataset, name: str, form: Callable[[float], str], units: str) -> str:
    _, low, high = ends(each, name)
    return "" if np.isnan(low) else f" [{form(low)}, {form(high)}{units}]"


def _share(each: xr.Dataset, name: str) -> str:
    return interval(*ends(each, name), percent)
