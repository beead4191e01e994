"""Distributions over runs: medians, the order of events, curves of the share that has formed, kinds, outliers."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import xarray as xr

from headway.analyze.formation.curves import QUARTILES, quartiles
from headway.analyze.formation.events import IMPOSSIBLE
from headway.analyze.formation.intervals import (
    FEWEST,
    LEVEL,
    Estimate,
    formed_by,
    median,
    median_step,
    share,
    widest_level,
)
from headway.analyze.formation.kinds import NONE, Kind

# A date is an outlier if it lies so many scaled median absolute deviations from the median, in log steps; among fewer
# dates than LEAST_DATES none is.
DEVIATIONS, LEAST_DATES = 3.5, 10
# A kind is rare if at most this share of the runs, or one run, has it, while most have another one.
RARE = 0.1
ENDS = ("", "_low", "_high")


def distributions(data: xr.Dataset, seed: int = 0) -> xr.Dataset:
    """Return what holds over the runs of ``formation``, with intervals of 95 % where there are three runs or more.

    - ``median_half_way``, ``median_width``, ``median_level`` [event], each with ``_low`` and ``_high``: percentile
      bootstrap over runs. The median date is that of the Kaplan-Meier curve, infinite if half of the runs or more never
      get there; widths are of the runs in which the event happened.
    - ``measured``, ``formed_runs``, ``share_formed`` [event], with a Wilson interval; ``same_checkpoints``, the largest
      share of runs whose date lies between the same two checkpoints.
    - ``lead`` [event, other]: the median over runs of log((1 + date of other) / (1 + date of event)), with its
      interval, of ``lead_runs`` runs. A run that has only one of the two counts as infinite, one that has neither not.
    - ``first`` [event, other]: the share of runs in which the event comes before the other one, with its Wilson
      interval, of the ``decided`` runs. Dates between the same checkpoints are ``undecided``.
    - ``formed_by`` [event, step] with its interval: the share of runs in which it has happened by then, with right
      censoring (``intervals.formed_by``).
    - ``way_quartile`` [event, quartile, checkpoint]: the quartiles of the ways, of the ``way_runs`` that got so far
      (``curves.quartiles``).
    - ``kind_share`` [kind_name] of all runs, and of the circuits ``part_share`` [part_count], so many heads of a name,
      and ``route_share`` [route], with Wilson intervals.
    - ``outlier`` [run]: why a run is an outlier; empty if it is none.
    """
    names = [str(name) for name in data.event.values]
    each = {name: data.sel(event=name) for name in names}
    found = xr.Dataset(coords={"event": names, "other": names})
    found["measured"] = ("event", [int(_measured(one).sum()) for one in each.values()], _says("runs", "measured"))
    found["formed_runs"] = ("event", [int(one.formed.sum()) for one in each.values()], _says("runs", "formed"))
    _put(found, "share_formed", ("event",), [_share_formed(one) for one in each.values()], "share of runs")
    _put(found, "median_half_way", ("event",), [_median_date(one, seed) for one in each.values()], "steps")
    widths = [np.where(one.formed.values, one.width.values, np.nan) for one in each.values()]
    _put(found, "median_width", ("event",), [median(width, seed) for width in widths], "ratio of steps")
    _put(found, "median_level", ("event",), [median(one.level.values, seed) for one in each.values()], "way")
    between = [_same_checkpoints(one) for one in each.values()]
    found["same_checkpoints"] = ("event", [count / max(1, n) for _, count, n in between], _says("share of runs", ""))
    _orders(found, data, names, seed)
    _curves(found, data, names)
    _way_quartiles(found, data)
    _kinds(found, data)
    found["outlier"] = (
        "run",
        outliers(data),
        {"long_name": "outlier", "units": "", "description": "Why; empty if not."},
    )
    return found


def outliers(data: xr.Dataset) -> list[str]:
    """Return why each run is an outlier, or an empty text.

    A date counts that is more than 3.5 scaled median absolute deviations (1.4826 MAD) of log(1 + step) from the median,
    of at least ten dates, wherever it lies between its two checkpoints; the deviation is at least that of dates spread
    evenly over the checkpoints around them. So does an event that never happens where it does in most runs (unless the
    run ended before the latest of their dates), or happens where it does not in most, and a kind of circuit that one
    run has, or a tenth of them, where most have another one.
    """
    why: list[list[str]] = [[] for _ in data.run]
    for name, label in zip(data.event.values, data.label.values, strict=True):
        one = data.sel(event=name)
        formed, measured = one.formed.values, _measured(one)
        count = int(formed.sum())
        dates = np.log1p(one.half_way.values)
        if count >= LEAST_DATES:
            middle = float(np.nanmedian(dates))
            spread = 1.4826 * float(np.nanmedian(abs(dates - middle)))
            starts, ends = np.log1p(np.nan_to_num(one.after.values, nan=0.0)), np.log1p(one.before.values)
            spread = max(spread, float(np.nanmedian(ends - starts)) / 12**0.5)
            # The end of the interval of each date that is nearer to the median.
            distances = np.where(dates > middle, starts - middle, middle - ends)
            for place in np.flatnonzero(formed & (distances > DEVIATIONS * spread)):
                side = "late" if dates[place] > middle else "early"
                away = distances[place] / spread if spread else np.inf
                why[place].append(
                    f"{label} {side}: step {one.half_way.values[place]:.0f}, median {np.expm1(middle):.0f} "
                    f"({away:.1f} deviations or more)"
                )
        n = int(measured.sum())
        if n >= FEWEST and count > n / 2:
            # A run that ended before the latest date may have been on its way.
            ended = one.half_way.where(one.formed).max().item() > one.last_step.values
            for place in np.flatnonzero(measured & ~formed & ~ended):
                why[place].append(f"{label} never formed ({count} of {n} did)")
        if n >= FEWEST and count < n / 2 and count <= max(1, RARE * n):
            for place in np.flatnonzero(formed):
                why[place].append(f"{label} formed ({n - count} of {n} never did)")
    kinds = Counter(map(str, data.kind.values))
    usual, most = kinds.most_common(1)[0]
    if most > len(why) / 2 and len(why) >= FEWEST:
        for place, kind in enumerate(map(str, data.kind.values)):
            if kind != usual and kinds[kind] <= max(1, RARE * len(why)):
                why[place].append(f"rare kind of circuit: {kind} ({most} of {len(why)} have {usual})")
    return ["; ".join(each) for each in why]


def leads(data: xr.Dataset, first: str, second: str) -> np.ndarray:
    """Return log((1 + date of the second) / (1 + date of the first)) of each run [run].

    It is infinite in a run that has only one of the two, and NaN in one that has neither or lacks a measure.
    """
    one, other = data.sel(event=first), data.sel(event=second)
    dates = [np.where(each.formed.values, np.log1p(each.half_way.values), np.inf) for each in (one, other)]
    known = _measured(one) & _measured(other) & (one.formed.values | other.formed.values)
    with np.errstate(invalid="ignore"):
        return np.where(known, dates[1] - dates[0], np.nan)


def before(data: xr.Dataset, first: str, second: str) -> np.ndarray:
    """Return 1 for each run in which the first event comes before the second, -1 for after, 0 where it is undecided.

    Dates are compared as intervals: one comes before the other if it ends where the other begins, or earlier. NaN in a
    run that has neither or lacks a measure.
    """
    one, other = data.sel(event=first), data.sel(event=second)
    ends = []
    for each in (one, other):
        formed, start = each.formed.values, np.nan_to_num(each.after.values, nan=-1.0)
        ends.append((np.where(formed, start, np.inf), np.where(formed, each.before.values, np.inf)))
    known = ~np.isnan(leads(data, first, second))
    earlier, later = ends[0][1] <= ends[1][0], ends[1][1] <= ends[0][0]
    return np.where(known, earlier.astype(float) - later, np.nan)


def _measured(one: xr.Dataset) -> np.ndarray:
    return ~np.isnan(one.level.values)


def _share_formed(one: xr.Dataset) -> Estimate:
    return share(int(one.formed.sum()), int(_measured(one).sum()))


def _dates(one: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the date of each run that was measured, or its last step, and whether it is a date."""
    measured, formed = _measured(one), one.formed.values
    return np.where(formed, one.half_way.values, one.last_step.values)[measured], formed[measured]


def _median_date(one: xr.Dataset, seed: int) -> Estimate:
    return median_step(*_dates(one), seed)


def _same_checkpoints(one: xr.Dataset) -> tuple[tuple[float, float], int, int]:
    """Return the two checkpoints between which most dates lie, how many do, and the number of runs measured."""
    dated = one.formed.values & ~one.by_updates.values & ~np.isnan(one.after.values)
    found = Counter(zip(one.after.values[dated].tolist(), one.before.values[dated].tolist(), strict=True))
    between, count = found.most_common(1)[0] if found else ((np.nan, np.nan), 0)
    return between, count, int(_measured(one).sum())


def _orders(found: xr.Dataset, data: xr.Dataset, names: Sequence[str], seed: int) -> None:
    """Add leads, and the shares of runs in which one comes before the other."""
    pairs = [(first, second) for first in names for second in names]
    nothing = Estimate(np.nan, np.nan, np.nan, 0)
    found_leads = [median(leads(data, *pair), seed) if pair[0] != pair[1] else nothing for pair in pairs]
    axes = ("event", "other")
    _put(found, "lead", axes, found_leads, "log steps")
    found["lead_runs"] = (axes, np.reshape([each.n for each in found_leads], (len(names), -1)), _says("runs", ""))
    sides = [before(data, *pair) if pair[0] != pair[1] else np.array([]) for pair in pairs]
    shares = [share(int((side == 1).sum()), int((abs(side) == 1).sum())) for side in sides]
    _put(found, "first", axes, shares, "share of decided runs")
    for name, counts in (
        ("decided", [each.n for each in shares]),
        ("undecided", [int((side == 0).sum()) for side in sides]),
    ):
        found[name] = (axes, np.reshape(counts, (len(names), -1)), _says("runs", name))


def _curves(found: xr.Dataset, data: xr.Dataset, names: Sequence[str]) -> None:
    """Add the share of runs in which each event has happened, at every step that ends an interval or a run."""
    ends = [data.before.values.ravel(), data.after.values.ravel(), data.last_step.values]
    steps = np.unique(np.concatenate(ends).astype(float))
    steps = steps[~np.isnan(steps)]
    curves = np.array([formed_by(*_dates(data.sel(event=name)), steps) for name in names])
    curves = curves.reshape(len(names), 3, len(steps))
    for place, end in enumerate(ENDS):
        found[f"formed_by{end}"] = (("event", "step"), curves[:, place], _says("share of runs", "formed by"))
    found.coords["step"] = steps


def _way_quartiles(found: xr.Dataset, data: xr.Dataset) -> None:
    each = [quartiles(data.way.sel(event=name).values) for name in data.event.values]
    shape = (len(each), len(QUARTILES), data.sizes["checkpoint"])
    found.coords["quartile"] = list(QUARTILES)
    values = np.reshape([found for found, _ in each], shape)
    found["way_quartile"] = (("event", "quartile", "checkpoint"), values, _says("", "quartiles of the way"))
    found["way_runs"] = (("event", "checkpoint"), np.array([count for _, count in each]), _says("runs", "runs"))


def _kinds(found: xr.Dataset, data: xr.Dataset) -> None:
    kinds = Counter(map(str, data.kind.values)).most_common()
    found.coords["kind_name"] = [kind for kind, _ in kinds]
    found["kind_runs"] = ("kind_name", [count for _, count in kinds], _says("runs", "kind of circuit"))
    _put(found, "kind_share", ("kind_name",), [share(count, data.sizes["run"]) for _, count in kinds], "share of runs")
    counts = [
        (part, int(count)) for part in data.part.values for count in np.unique(data.parts.sel(part=part).dropna("run"))
    ]
    known = int(data.parts.notnull().all("part").sum()) if counts else 0
    found.coords["part_count"] = [Kind({str(part): count}, ()).named for part, count in counts]
    having = [share(int((data.parts.sel(part=part) == count).sum()), known) for part, count in counts]
    _put(found, "part_share", ("part_count",), having, "share of circuits")
    there = data.routes.values[~np.isnan(data.routes.values).any(1)]
    shares = [share(int(each.sum()), len(there)) for each in there.T]
    found.coords["route"] = data.route.values
    _put(found, "route_share", ("route",), shares, "share of circuits")


def _put(found: xr.Dataset, name: str, axes: tuple[str, ...], estimates: Sequence[Estimate], units: str) -> None:
    shape = [found.sizes[axis] for axis in axes]
    for place, end in enumerate(ENDS):
        values = np.array([each[place] for each in estimates], float).reshape(shape)
        words = name.replace("_", " ") + {"": "", "_low": ", lower end of 95 %", "_high": ", upper end of 95 %"}[end]
        found[name + end] = (axes, values, _says(units, words))


def _says(units: str, words: str) -> dict[str, str]:
    return {"long_name": words, "units": units}


def distribution_notes(data: xr.Dataset) -> list[str]:
    """Return sentences on what these runs cannot tell: too few, checkpoints too far apart, a measure missing."""
    names = [str(name) for name in data.event.values]
    notes = []
    if data.sizes["run"] < FEWEST:
        count = data.sizes["run"]
        notes.append(f"{count} run{'' if count == 1 else 's'}: values without intervals, which need {FEWEST}")
    elif widest_level(data.sizes["run"]) < LEVEL:
        notes.append(
            f"{data.sizes['run']} runs: no interval of a median is wider than their range, which holds the median of "
            f"all runs with {widest_level(data.sizes['run']):.0%}, not {LEVEL:.0%}"
        )
    coarse: dict[tuple[float, float], list[str]] = {}
    for name in names:
        ends, count, n = _same_checkpoints(data.sel(event=name))
        if n >= FEWEST and count > n / 2:
            coarse.setdefault(ends, []).append(f"{data.label.sel(event=name).item()} ({count} of {n} runs)")
    for (first, last), whose in coarse.items():
        notes.append(
            f"{', '.join(whose)}: between the same two checkpoints, {first:.0f} and {last:.0f}; checkpoints are too "
            "far apart for a distribution of these dates"
        )
    for name in names:
        one = data.sel(event=name)
        lacking = int((~_measured(one) & (one.state.values != IMPOSSIBLE)).sum())
        if lacking:
            command = "headway circuit" if name == "circuit" else "headway measure"
            notes.append(f"{one.label.item()} is not known of {lacking} of {len(data.run)} runs; {command} finds it")
    if (data.kind == NONE).all():
        notes.append("no run has a circuit; headway circuit RUN finds it")
    return notes
