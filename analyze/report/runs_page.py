"""The page of many runs: a table of runs, curves with quartiles, distributions of dates, orders and kinds of circuit.

Every number comes from ``headway.formation``; here it is packed for the page's scripts.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import xarray as xr

from headway.analyze.formation.events import BEHAVIOUR
from headway.analyze.formation.intervals import FEWEST
from headway.analyze.formation.kinds import NONE
from headway.analyze.formation.over_runs import formation, scored_runs
from headway.analyze.report.about import about_runs, options_of
from headway.analyze.report.formation_rows import (
    Rows,
    ends,
    event_rows,
    in_order,
    interval,
    kind_rows,
    order_rows,
    percent,
    title_of,
)
from headway.analyze.report.packed import Packed
from headway.analyze.report.stored import spread
from headway.checkpoints import Run

# So many runs have a page of this kind; fewer stand beside each other, figure by figure.
MANY = 6
# The steps of curves: those that the slider stops at, and those of the share of runs that have formed something.
MOST_STEPS = 100
MOST_SHARES = 400


class OfRun(NamedTuple):
    """The row of a run but for its dates: its options, and the link to its page, None if it has none yet."""

    options: Mapping[str, Any]
    page: str | None


def runs_data(runs: Sequence[Run], out: Path) -> dict[str, Any]:
    """Return the data from which the scripts draw the page of many runs, which lies at ``out``."""
    scored, notes = scored_runs(runs)
    if not scored:
        return {"title": f"{len(runs)} runs", "notes": notes, "events": []}
    data = formation(scored)
    data.attrs["notes"] = [*notes, *data.attrs["notes"]]
    listed = [OfRun(options, link(run, out)) for run, options in zip(scored, options_of(scored), strict=True)]
    return of_formation(data, listed) | {"about": about_runs(scored)}


def link(run: Run, out: Path) -> str | None:
    """Return the address of a run's page, relative to the page at ``out``; None if it has no page."""
    if not run.report_file.exists():
        return None
    path = os.path.relpath(run.report_file.absolute(), out.expanduser().absolute().parent)
    return quote(Path(path).as_posix())


def of_formation(data: xr.Dataset, runs: Sequence[OfRun]) -> dict[str, Any]:
    """Return the data of the page from what ``headway.formation`` returns, and from the options of the same runs."""
    packed = Packed()
    steps = data.checkpoint.values
    shown = spread(steps.tolist(), MOST_STEPS)
    shares = spread(data.step.values.tolist(), MOST_SHARES)
    formed_by = np.stack([data[f"formed_by{end}"].values[:, shares] for end in ("", "_low", "_high")], 1)
    options = differing([run.options for run in runs])
    found = {
        "title": title_of(data),
        "headline": headline(data),
        "notes": data.attrs["notes"],
        "events": [_event(data.sel(event=name)) for name in data.event.values],
        "order": [data.event.values.tolist().index(name) for name in in_order(data)],
        "main": data.event.values.tolist().index(BEHAVIOUR) if BEHAVIOUR in data.event.values else None,
        "steps": steps[shown].tolist(),
        "checkpoints": len(steps),
        "ways": packed.add(data.way.transpose("event", "run", "checkpoint").values[..., shown]),
        "quartiles": packed.add(data.way_quartile.values[..., shown]),
        "counts": packed.add_exact(data.way_runs.values[:, shown]),
        "shareSteps": data.step.values[shares].tolist(),
        "formedBy": packed.add(formed_by),
        "dates": packed.add_exact(np.stack([data[name].values.T for name in ("half_way", "after", "before")], 1)),
        "levels": packed.add_exact(data.level.values.T),
        "lastSteps": data.last_step.values.tolist(),
        "options": options,
        "runs": [_run(data.isel(run=place), each, options) for place, each in enumerate(runs)],
        "tables": {
            "events": event_rows(data)._asdict(),
            "order": (order_rows(data) if data.sizes["event"] > 1 else Rows((), []))._asdict(),
            "kinds": (kind_rows(data) if data.sizes["part"] else Rows((), []))._asdict(),
        },
        "byUpdates": bool(data.by_updates.any()),
        "fewest": FEWEST,
    }
    return found | {"packed": packed.text()}


def headline(data: xr.Dataset) -> list[str]:
    """Return sentences on the behaviour: how many runs formed it, and when."""
    if BEHAVIOUR not in data.event.values:
        return []
    one = data.sel(event=BEHAVIOUR)
    formed, measured = one.formed_runs.item(), one.measured.item()
    _, low, high = ends(one, "share_formed")
    wilson = "" if math.isnan(low) else f" (95 % interval, Wilson: {percent(low)} to {percent(high)})"
    said = [
        f"{formed} of {measured} runs formed the behaviour, {one.label.item()}: {percent(one.share_formed)}{wilson}."
    ]
    if formed:
        date, low, high = ends(one, "median_half_way")
        bootstrap = "" if math.isnan(low) else " (in brackets 95 %, bootstrap over runs)"
        said.append(f"Half-way step, median over runs: {interval(date, low, high)}{bootstrap}.")
    return said


def differing(all_options: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the options in which runs differ, in the order in which they have them."""
    names = dict.fromkeys(name for options in all_options for name in options)
    return [name for name in names if len({repr(options.get(name)) for options in all_options}) > 1]


def _event(one: xr.Dataset) -> dict[str, Any]:
    return {
        "label": str(one.label.item()),
        "formed": one.formed_runs.item(),
        "measured": one.measured.item(),
        "median": [None if math.isnan(value) else str(value) for value in ends(one, "median_half_way")],
        "states": [str(state) for state in one.state.values],
        "who": [str(who) for who in one.who.values],
    }


def _run(one: xr.Dataset, about: OfRun, options: Sequence[str]) -> dict[str, Any]:
    kind = str(one.kind.item())
    return {
        "name": str(one.run.item()),
        "page": about.page,
        "options": [_plain(about.options.get(name)) for name in options],
        "kind": "" if kind == NONE else kind,
        "outlier": str(one.outlier.item()),
    }


def _plain(value: Any) -> Any:
    """Return an option as a number, a text or nothing, so that a column of numbers is sorted as such."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    return None if value is None else str(value)
