"""Formation over many runs: when each event happened in each run, read from the files of all of them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from headway.analyze.formation.curves import on_same_steps
from headway.analyze.formation.distributions import distribution_notes, distributions
from headway.analyze.formation.events import (
    BEHAVIOUR,
    CIRCUIT,
    COMPOSITION,
    IMPOSSIBLE,
    MISSING,
    USUAL,
    Event,
    event_of,
    events,
)
from headway.analyze.formation.kinds import NONE, ROUTES, Kind, kind_of
from headway.analyze.formation.roles import ROLES
from headway.checkpoints.files import holds_run
from headway.checkpoints.run import Run
from headway.options import nearest, shown

Source = Run | str | Path


def formation(
    runs: Source | Sequence[Source],
    measures: Sequence[str] = (),
    only: Sequence[str] | None = None,
    *,
    part: str | None = None,
    replacement: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Return when what formed in each of many runs, with medians, orders, shares and outliers over them.

    Everything is read from the files of the runs. An event is something that can form: the ``behaviour`` (the loss that
    the task is about), the ``circuit`` that ``headway circuit`` found, each role that a head mainly plays at the end of
    a run, and K-composition. Heads are matched by role: an event of a run is that of its strongest head. An event has
    happened if its way, (score - null) / (ceiling - null), ends at a half or more, and above its null band if it has
    one; its date is ``half_way``. A run in which it has not happened is censored at its last step, and never dropped.

    The behaviour is dated by the loss of every update where that can tell (``updates.dated_by_updates``), and anything
    else between two checkpoints.

    Args:
        runs: Runs or their directories; a directory that holds runs, as a sweep makes it, stands for all of them.
        measures: Further scores with a null and an upper end, or losses of other parts, by name.
        only: The events that are looked at, instead of all.
        part: The part whose loss is the behaviour, and whose circuit is looked at; ``all`` for every position.
        replacement: The replacement of the circuit, where several were used.
        seed: Seed of the bootstrap.
        progress: Show a progress bar.

    Returns:
        Axes ``run`` and ``event``, and those of ``distributions``; ``way`` has ``checkpoint`` too, the checkpoints of
        all runs. The attribute ``notes`` lists what was left out.

    Raises:
        ValueError: no run, a run without scores or given twice, runs of different tasks, a measure that none has.

    Example:
        >>> found = formation("runs/many")  # doctest: +SKIP
        >>> found.half_way.sel(event="previous_token"), found.median_half_way  # doctest: +SKIP
    """
    if seed < 0:
        raise ValueError(f"seed: {seed} is not valid; it must be 0 or more")
    opened, notes = open_runs([runs] if isinstance(runs, Run | str | Path) else list(runs))
    check_one_task(opened)
    wanted = tuple(only if only is not None else measures)
    chosen = _chosen_circuits(opened, part, replacement)
    asked, said = _behaviours(opened, part, chosen)
    found: list[_OfRun] = []
    for run, about in zip(_shown(opened, progress), asked, strict=True):
        try:
            found.append(_of_run(run, wanted, about, part, chosen))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            # Scores and circuits may have been altered: a name or an attribute is not what it is in ours.
            said = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"run: scores or circuits of {run.path} are damaged ({said}); compute them again"
            ) from None
    notes += said
    short = [run.path.name for run in opened if _last_step(run) < run.config["steps"]]
    if short:
        notes.append(f"{_few(short)}: not finished; what has not formed yet is censored at the last checkpoint")
    names = _names(found, measures, only, opened)
    if not names:
        raise ValueError(
            f"run: {opened[0].path} has no score that could form; headway measure {opened[0].path} adds them"
        )
    data = _dataset(found, names)
    data.attrs["task"] = opened[0].config["task"]["class"]
    data.attrs["circuit"] = "" if chosen is None else f"{chosen[0]}, {chosen[1]}"
    data = data.merge(distributions(data, seed))
    data.attrs["notes"] = notes + distribution_notes(data)
    return data


def open_runs(sources: Sequence[Source]) -> tuple[list[Run], list[str]]:
    """Return runs, those of folders too, and a line for whatever else lies in such a folder.

    Raises:
        ValueError: no run, a run that is given twice or has no scores.
    """
    runs: list[Run] = []
    notes: list[str] = []
    for source in sources:
        if isinstance(source, Run) or holds_run(Path(source).expanduser()):
            runs.append(source if isinstance(source, Run) else Run(source))
            if not _scored(runs[-1]):
                raise ValueError(
                    f"run: {runs[-1].path} has no scores yet; headway measure {runs[-1].path} computes them"
                )
            continue
        folder = Path(source).expanduser()
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        there = [Run(each) for each in inside if each.is_dir() and holds_run(each)]
        if not there:
            _ = Run(folder).config  # it says what is wrong
        scored = [run for run in there if _scored(run)]
        foreign = [each.name for each in inside if not holds_run(each) and not _is_ours(each)]
        if foreign:
            notes.append(f"{folder} holds {_few(foreign)} too, no run: passed over")
        if len(scored) < len(there):
            names = [run.path.name for run in there if run not in scored]
            notes.append(_passed_over(names, f" in {folder}"))
        if not scored:
            raise ValueError(f"run: no run in {folder} has scores yet; headway measure computes them")
        runs += scored
    if not runs:
        raise ValueError("runs: none is given; name a run, or a folder that holds runs")
    check_given_once(runs)
    return runs, notes


def _is_ours(path: Path) -> bool:
    """Return whether a file in a folder of runs is their page, or is hidden."""
    return path.name == "report.html" or path.name.startswith(".")


def scored_runs(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Return the runs that have scores, and a line on those that have none yet."""
    scored = [run for run in runs if _scored(run)]
    names = [run.path.name for run in runs if not _scored(run)]
    return scored, [_passed_over(names)] if names else []


def runs_inside(sources: Sequence[Source]) -> list[Run]:
    """Return runs, with or without scores, and in place of a folder that holds runs all of these.

    Raises:
        ValueError: a directory that neither is nor holds a run.
    """
    runs: list[Run] = []
    for source in sources:
        folder = source if isinstance(source, Run) else Path(source).expanduser()
        if isinstance(folder, Run) or holds_run(folder) or not folder.is_dir():
            runs.append(folder if isinstance(folder, Run) else Run(folder))
            continue
        inside = [Run(each) for each in sorted(folder.iterdir()) if each.is_dir() and holds_run(each)]
        runs += inside or [Run(folder)]  # which says what is wrong
    return runs


def _passed_over(names: Sequence[str], where: str = "") -> str:
    return f"{_few(names)}{where} {'has' if len(names) == 1 else 'have'} no scores yet: passed over"


def check_given_once(runs: Sequence[Run]) -> None:
    """Raise a ValueError for a run that is given twice."""
    places = Counter(run.path.resolve() for run in runs)
    twice = next((run.path for run in runs if places[run.path.resolve()] > 1), None)
    if twice is not None:
        raise ValueError(f"run: {twice} is given twice; it counts once")


def check_one_task(runs: Sequence[Run]) -> None:
    """Raise a ValueError for runs of different tasks."""
    first = runs[0]
    for run in runs[1:]:
        if run.config["task"]["class"] != first.config["task"]["class"]:
            names = [str(each.config["task"]["class"]).rpartition(":")[2] for each in (first, run)]
            raise ValueError(
                f"run: {run.path} is of the task {names[1]} and {first.path} of {names[0]}; compare runs of one task"
            )


@dataclass(frozen=True)
class _OfRun:
    """What was read of one run."""

    run: Run
    last: int
    events: dict[str, Event]
    kind: Kind | None


def _of_run(
    run: Run, measures: Sequence[str], asked: Mapping[str, Any] | None, part: str | None, chosen: tuple[str, str] | None
) -> _OfRun:
    circuit = over = None
    if chosen is not None and any(each[1:] == chosen for each in run.circuits):
        circuit = run.circuit(None, *chosen)
        if run.circuit_file(None, *chosen).exists():
            over = run.circuit(None, *chosen, over_steps=True)
    found = events(run, [name for name in measures if name not in (BEHAVIOUR, CIRCUIT)], asked, part, over)
    last = max((int(each.way.step.values[-1]) for each in found.values()), default=_last_step(run))
    knows = found.get(BEHAVIOUR)
    if circuit is None and chosen is not None and knows is not None and knows.state == "not formed":
        # Nothing is found, or searched for, where the network knows nothing.
        found[CIRCUIT] = event_of("circuit", xr.zeros_like(knows.way), who="the behaviour has not formed")
    return _OfRun(run, last, found, None if circuit is None else kind_of(circuit))


def _names(
    found: Sequence[_OfRun], measures: Sequence[str], only: Sequence[str] | None, runs: Sequence[Run]
) -> list[str]:
    """Return the events that are looked at, in their usual order."""
    there = {name for each in found for name in each.events}
    for option, names in (("measures", measures), ("only", only or ())):
        for name in names:
            if name not in there:
                known = sorted({*there, *(str(each) for run in runs for each in run.scores.data_vars)})
                raise ValueError(
                    f"{option}: {shown(name)} is not an event or a score of these runs{nearest(name, known)}"
                )
    if only is not None:
        return list(dict.fromkeys(only))
    played = {name for each in found for name, event in each.events.items() if name not in ROLES or event.mainly}
    return [name for name in dict.fromkeys((*USUAL, *measures)) if name in played or name in measures]


VARIABLES = {
    "half_way": ("half-way", "steps", "Step from which on the way stays above half of where it ends; NaN if censored."),
    "after": ("last checkpoint before", "steps", "The date is later than this step; NaN if formed from the start."),
    "before": ("first checkpoint after", "steps", "The date is not later than this step."),
    "width": ("width", "ratio of steps", "Step at 90 % of where the way ends over that at 10 %; NaN if not formed."),
    "level": ("final way", "", "Way at the last checkpoint: 0 at the null, 1 at the ceiling; NaN if not measured."),
    "formed": ("formed", "", "Whether the way ends at a half or more, above its null band; if not: censored."),
    "state": ("state", "", "formed, partly formed, not formed, not measured, or does not apply"),
    "by_updates": ("dated by updates", "", "Whether the date comes from the loss of every update."),
    "who": ("head", "", "The heads, or the part of the task, that the event is about in this run."),
}  # fmt: skip


def _dataset(found: Sequence[_OfRun], names: Sequence[str]) -> xr.Dataset:
    rows = [[_row(each.events.get(name), _why_missing(each.run, name)) for name in names] for each in found]
    data = xr.Dataset(coords={"run": _labels([each.run.path for each in found]), "event": list(names)})
    for name, (words, units, description) in VARIABLES.items():
        values = np.array([[row[name] for row in of_run] for of_run in rows]).reshape(len(found), len(names))
        data[name] = (("run", "event"), values, {"long_name": words, "units": units, "description": description})
    labels = [next(each.events[name].label for each in found if name in each.events) for name in names]
    places = [str(each.run.path.absolute()) for each in found]
    data = data.assign_coords(label=("event", labels), path=("run", places))
    text = "Step of the last checkpoint with scores, at which an event that has not happened is censored."
    data["last_step"] = (
        "run",
        [each.last for each in found],
        {"long_name": "last step", "units": "steps", "description": text},
    )
    data = data.merge(_ways(found, names))
    kinds = [NONE if each.kind is None else str(each.kind) for each in found]
    data["kind"] = (
        "run",
        kinds,
        {"long_name": "kind of circuit", "units": "", "description": "Heads by name; routes."},
    )
    parts = list(dict.fromkeys(part for each in found if each.kind for part in each.kind.parts))
    counts = [[np.nan if each.kind is None else each.kind.parts.get(part, 0) for part in parts] for each in found]
    routes = [[np.nan if each.kind is None else float(route in each.kind.routes) for route in ROUTES] for each in found]
    data = data.assign_coords(part=parts, route=list(ROUTES))
    text = "How many heads of this name are in the circuit; NaN without a circuit."
    data["parts"] = (
        ("run", "part"), np.array(counts, float).reshape(len(found), len(parts)),
        {"long_name": "heads in the circuit", "units": "heads", "description": text},
    )  # fmt: skip
    text = "1 if a head of the circuit reads another one through this input; NaN without a circuit."
    data["routes"] = (
        ("run", "route"),
        np.array(routes, float),
        {"long_name": "routes", "units": "", "description": text},
    )
    return data


def _ways(found: Sequence[_OfRun], names: Sequence[str]) -> xr.Dataset:
    ways = [each.events[name].way if name in each.events else None for name in names for each in found]
    flat = on_same_steps(ways)
    values = flat.values.reshape(len(names), len(found), -1).swapaxes(0, 1)
    text = "Way at the checkpoints of all runs, interpolated in log(1 + step) between those of a run; NaN beyond them."
    attributes = {"long_name": "way", "units": "", "description": text}
    return xr.Dataset({"way": (("run", "event", "checkpoint"), values, attributes)}, {"checkpoint": flat.checkpoint})


def _why_missing(run: Run, name: str) -> str:
    """Return the state of an event of which the scores of a run say nothing: heads of one layer do not compose."""
    return IMPOSSIBLE if name == COMPOSITION and run.config["model"]["n_layers"] == 1 else MISSING


def _row(event: Event | None, missing: str) -> dict[str, Any]:
    blank = {"half_way": np.nan, "after": np.nan, "before": np.nan, "width": np.nan, "level": np.nan, "formed": False}
    if event is None:
        return {**blank, "state": missing, "by_updates": False, "who": ""}
    row = {**blank, "level": event.final, "state": event.state, "by_updates": event.by_updates, "who": event.who}
    if event.state != "formed" or event.half is None:
        return row
    after, before = event.half.between
    date = {"half_way": event.half.step, "after": np.nan if after is None else float(after), "before": float(before)}
    return row | date | {"width": event.width, "formed": True}


def _labels(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that differ from each other."""
    parts = [path.absolute().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _chosen_circuits(runs: Sequence[Run], part: str | None, replacement: str | None) -> tuple[str, str] | None:
    """Return the part and replacement of which most runs have a circuit, among those that fit what is asked.

    Without a part, circuits of the behaviour come first, where a run says what that is.
    """
    there = Counter(each for run in runs for each in {(part, kind) for _, part, kind in run.circuits})
    if part is None:
        stated = next((asked for run in runs if (asked := _stated(run)) is not None), None)
        part = None if stated is None else stated["part"] or "all"
    fitting = {
        each: count for each, count in there.items() if part in (None, each[0]) and replacement in (None, each[1])
    }
    if replacement is not None and not fitting:
        kinds = ", ".join(sorted({kind for _, kind in there})) or "none"
        raise ValueError(f"replace: {shown(replacement)} is not that of a circuit of these runs; there is {kinds}")
    return max(fitting, key=lambda each: (fitting[each], each)) if fitting else None


def _behaviours(
    runs: Sequence[Run], part: str | None, chosen: tuple[str, str] | None
) -> tuple[list[Mapping[str, Any] | None], list[str]]:
    """Return the behaviour of each run, ``behaviour.behaviour``'s ``asked``, and notes on runs that do not say it.

    For a run that an older Headway scored, a run of the same task says it. Otherwise the part is that of other runs, or
    of the circuits, and chance and floor are not known.
    """
    stated = [_stated(run) for run in runs]
    by_task = {_task(run): asked for run, asked in zip(runs, stated, strict=True) if asked is not None}
    parts = [asked["part"] for asked in by_task.values()] or ([] if chosen is None else [chosen[0]])
    other = {"part": None if parts[0] == "all" else parts[0], "chance": None, "floor": None} if parts else None
    silent = [run for run, asked in zip(runs, stated, strict=True) if asked is None and part is None]
    lent = [run.path.name for run in silent if _task(run) in by_task]
    others = [run.path.name for run in silent if _task(run) not in by_task]
    notes = [f"{_few(lent)}: the scores do not say what the task is about; those of another run do"] if lent else []
    if others and other is not None:
        notes.append(
            f"{_few(others)}: the scores do not say what the task is about; the part is that of "
            f"{'other runs' if by_task else 'the circuits'}, from the first checkpoint to the lowest loss"
        )
    elif others:
        notes.append(f"{_few(others)}: the scores do not say what the task is about: the loss of all positions")
    return [asked or by_task.get(_task(run), other) for run, asked in zip(runs, stated, strict=True)], notes


def _stated(run: Run) -> Mapping[str, Any] | None:
    scores = run.scores
    stated = scores.loss.attrs.get("behaviour") if "loss" in scores else None
    if stated is not None and not _is_behaviour(stated):
        raise ValueError(f"run: the losses of {run.path} are damaged (behaviour: {shown(stated)}); compute them again")
    return stated


def _is_behaviour(stated: Any) -> bool:
    """Return whether an attribute is what ``Task.behaviour`` is stored as; a run may have been altered."""
    kinds = {"part": str, "chance": int | float, "floor": int | float}
    return isinstance(stated, dict) and all(
        name in stated and (stated[name] is None or isinstance(stated[name], kind)) for name, kind in kinds.items()
    )


def _task(run: Run) -> str:
    return repr(run.config["task"])


def _scored(run: Run) -> bool:
    return any(run.path.glob("scores/step-*/*.safetensors"))


def _last_step(run: Run) -> int:
    return max(int(folder.name.removeprefix("step-")) for folder in run.path.glob("scores/step-*"))


def _few(names: Sequence[str], most: int = 4) -> str:
    return (
        ", ".join(names) if len(names) <= most else f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    )


def _shown(runs: list[Run], progress: bool) -> Iterable[Run]:
    if not progress or len(runs) < 2:
        return runs
    from rich.console import Console
    from rich.progress import track

    return track(runs, "reading", console=Console(stderr=True), transient=True)
