"""Many runs laid over each other: thin lines of runs with their median and quartiles, and shares that have formed."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from headway.analyze.formation.curves import on_same_steps, quartiles
from headway.analyze.formation.events import BEHAVIOUR, CIRCUIT
from headway.analyze.formation.intervals import FEWEST
from headway.analyze.formation.over_runs import check_given_once, check_one_task, formation, scored_runs
from headway.analyze.report import palette
from headway.analyze.report.attributes import complete
from headway.analyze.report.figures.axes import (
    DASHES,
    DOUBLE,
    SINGLE,
    axis_of_steps,
    finite_range,
    grid_of_panels,
    label_outer,
    legend_below,
    number_text,
    one_panel,
    with_margin,
)
from headway.analyze.report.formation_rows import in_order
from headway.checkpoints import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THIN = {"color": palette.NOTHING, "linewidth": 0.4, "alpha": 0.35}
# Two labels of fewer letters stand beside each other below a figure of one column.
LONG = 20
MEDIAN = {"color": palette.CATEGORIES[0], "linewidth": 1.4}


def formed_by(
    runs: Sequence[Run], at: int | None = None, part: str | None = None, replace: str | None = None
) -> "Figure":
    """The share of runs in which each event has happened by each step, with its 95 % interval."""
    data = formation(runs, part=part, replacement=replace)
    last = int(data.last_step.max())
    figure, axes = one_panel(2.4 + 0.14 * data.sizes["event"])
    for place, name in enumerate(in_order(data)):
        each = data.sel(event=name)
        color = palette.CATEGORIES[place % len(palette.CATEGORIES)]
        known = np.isfinite(each.formed_by.values)
        steps = np.concatenate([[0.0], each.step.values[known], [float(last)]])
        value, low, high = (_stairs(each[f"formed_by{end}"].values[known]) for end in ("", "_low", "_high"))
        label = f"{each.label.item()} ({each.formed_runs.item()} of {each.measured.item()})"
        axes.step(steps, value, DASHES[place % len(DASHES)], where="post", color=color, label=label, clip_on=False)
        axes.fill_between(steps, low, high, step="post", color=color, alpha=0.15, linewidth=0)
    axes.set_ylim(*with_margin(0, 1))
    axis_of_steps(axes, last, at, SINGLE - 0.6)
    axes.set(xlabel="step", ylabel="share of runs that have formed it")
    keys, labels = axes.get_legend_handles_labels()
    legend_below(figure, keys, 2 if max(map(len, labels), default=0) < LONG else 1)
    bands = ", bands: 95 % intervals" if len(runs) >= FEWEST else ""
    figure.suptitle(f"formation in {len(runs)} runs{bands}")
    return figure


def _stairs(values: np.ndarray) -> np.ndarray:
    """Return the heights of stairs that begin at 0, or at the first interval, and go on to the last run's end."""
    return np.concatenate([[0.0], values, values[-1:]]) if values.size else np.zeros(2)


def heads(
    runs: Sequence[Run],
    at: int | None = None,
    measure: str | None = None,
    part: str | None = None,
    replace: str | None = None,
) -> "Figure":
    """The way of the strongest head of each run in each role, or of the strongest pair: one panel for each."""
    only = None if measure is None else [measure]
    data = formation(runs, only=only, part=part, replacement=replace)
    names = [name for name in in_order(data) if measure is not None or name not in (BEHAVIOUR, CIRCUIT)]
    if not names:
        raise ValueError(
            "figure: no head of these runs mainly plays a role; --measure names one, such as previous_token"
        )
    chosen = [data.sel(event=name) for name in names]
    ways = {f"{each.label.item()} ({each.formed_runs.item()} of {each.measured.item()})": each.way for each in chosen}
    title = f"strongest head of each role in {len(runs)} runs"
    return _overlay(ways, title, "way (0 null, 1 ceiling)", at, data.last_step.values, (0.0, 1.0))


def loss(runs: Sequence[Run], at: int | None = None, part: str | None = None) -> "Figure":
    """The loss on the evaluation batch, and that of each of the task's parts: one panel for each."""
    scores = [run.scores for run in runs]
    names = list(dict.fromkeys(str(name) for each in scores for name in each if _is_loss(each, str(name))))
    if part is not None:
        wanted = "loss" if part == "all" else f"loss_{part}"
        if wanted not in names:
            parts = ["all", *(name.removeprefix("loss_") for name in names if name != "loss")]
            raise ValueError(f"part: {part!r} is not valid; it must be one of {', '.join(parts)}")
        names = [wanted]
    if not names:
        raise ValueError(f"figure: loss has no scores; headway measure {runs[0].path} --only loss computes them")
    curves = {}
    for name in names:
        each = [_known(one[name]) if name in one else None for one in scores]
        curves["loss" if name == "loss" else f"loss on {name.removeprefix('loss_')}"] = on_same_steps(each)
    first = next(place for place, one in enumerate(scores) if names[0] in one)
    units = complete("loss", names[0], scores[first][names[0]].attrs, runs[first].config)["units"]
    lasts = np.array([int(one.step.values[-1]) for one in scores])
    return _overlay(curves, f"loss of {len(runs)} runs", f"loss ({units})" if units else "loss", at, lasts)


def _is_loss(scores: xr.Dataset, name: str) -> bool:
    return (name == "loss" or name.startswith("loss_")) and scores[name].dims == ("step",)


def _known(values: xr.DataArray) -> xr.DataArray:
    return values.isel(step=np.isfinite(values.values)).astype(float)


# A function draws many runs; the options that it takes follow from its signature.
FIGURES: dict[str, Callable[..., "Figure"]] = {"formation": formed_by, "heads": heads, "loss": loss}


def checked(runs: Sequence[Run]) -> Sequence[Run]:
    """Return runs, of one task and with scores, each given once.

    Raises:
        ValueError: other runs.
    """
    check_given_once(runs)
    check_one_task(runs)
    without = next((run for run in runs if not scored_runs([run])[0]), None)
    if without is not None:
        raise ValueError(f"run: {without.path} has no scores yet; headway measure {without.path} computes them")
    return runs


def _overlay(
    curves: dict[str, xr.DataArray],
    title: str,
    label: str,
    at: int | None,
    lasts: np.ndarray,
    whole: tuple[float, ...] = (),
) -> "Figure":
    """Draw a panel for each title with its lines [run, checkpoint]; ``whole`` are numbers that every axis has."""
    columns = min(len(curves), 3)
    items = list(curves.items())
    rows = [items[start : start + columns] for start in range(0, len(items), columns)]
    width = SINGLE if columns == 1 else DOUBLE
    figure, panels = grid_of_panels(rows, width, (2.4 if columns == 1 else 1.7) * len(rows) + 0.6)
    for axes, (name, lines) in panels:
        _lines(axes, lines)
        axes.set_ylim(*with_margin(*finite_range(np.append(lines.values.ravel(), whole))))
        axis_of_steps(axes, int(lasts.max()), at, width / columns - 0.4)
        axes.set_title(name, loc="left")
        axes.set(xlabel="step", ylabel=label)
    label_outer(panels)
    for place, (axes, _) in enumerate(panels):
        if place % columns:
            axes.set_ylabel("")
    handles: dict[str, Any] = {}
    for axes, _ in panels:
        found, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    legend_below(figure, list(handles.values()), 3)
    figure.suptitle(title)
    return figure


def _lines(axes: "Axes", lines: xr.DataArray) -> None:
    """Draw the line of each run thin, their quartiles as a band, and their median thick."""
    steps, values = lines.checkpoint.values, lines.transpose("run", "checkpoint").values
    for place, one in enumerate(values):
        known = np.isfinite(one)
        (line,) = axes.plot(steps[known], one[known], label="" if place else "one run", zorder=1, **THIN)
        line.set_in_layout(False)
    (low, middle, high), _ = quartiles(values)
    if np.isfinite(low).any():
        axes.fill_between(
            steps, low, high, color=MEDIAN["color"], alpha=0.4, linewidth=0, zorder=2, label="quartiles over runs"
        )
    axes.plot(steps, middle, label="median over runs", zorder=3, **MEDIAN)
    axes.yaxis.set_major_formatter(lambda value, _: number_text(value))
