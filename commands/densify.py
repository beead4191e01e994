"""``headway densify``: more checkpoints within a part of training that is over."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from headway.commands.arguments import add_trust, checked_directory
from headway.commands.failure import fail
from headway.commands.many import add_workers, for_each

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.checkpoints import Run


class NothingBetweenError(ValueError):
    """An event of a run is not half-way between two checkpoints that steps lie between."""


def densify_command(arguments: list[str]) -> None:
    """Train a part of runs again, and keep and score more checkpoints there."""
    from jsonargparse import ArgumentParser

    usage = "headway densify RUN [RUN ...] (--between FIRST LAST | --around EVENT) [options]"
    parser = ArgumentParser(usage=usage, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("runs", nargs="+", help="directory of the run; several are trained beside each other")
    parser.add_argument("--between", type=int, nargs=2, metavar=("FIRST", "LAST"), help="two checkpoints")
    parser.add_argument(
        "--around",
        type=str | None,
        help="the two between which an event of headway formation is half-way: behaviour, circuit, or a score",
    )
    parser.add_argument("--steps", type=int, default=20, help="how many checkpoints are added, evenly in log(step)")
    parser.add_argument("--from_start", action="store_true", help="begin at step 0 where no state of training was kept")
    parser.add_argument(
        "--inexact", action="store_true", help="keep them also if training ends with other weights than were kept"
    )
    add_trust(parser)
    add_workers(parser)
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from headway.options import parse

    options = parse(parser, arguments)
    paths = [checked_directory("run", run) for run in options.runs]
    if (options.between is None) == (options.around is None):
        raise ValueError("between: give either two checkpoints, or --around an event")
    job = partial(
        densify_run,
        options.between,
        options.around,
        options.steps,
        options.from_start,
        options.inexact,
        options.task,
        options.trust,
    )
    if len(paths) > 1:
        for_each(partial(densify_one_of_many, job), paths, options, "densified")
        return

    from headway.processes import DiedError
    from headway.train import StoppedError

    try:
        new = job(paths[0], progress=True)
    except (StoppedError, DiedError) as error:
        code = 128 + error.signal if isinstance(error, StoppedError) else 1
        fail(f"{error}; no checkpoint was added; the same command begins again", code)
    if new:
        print(f"{paths[0]} has {len(new)} more checkpoints: {', '.join(map(str, new))}")
    else:
        print(f"{paths[0]} has every checkpoint that this asks for already")


def densify_run(
    between: list[int] | None,
    around: str | None,
    steps: int,
    from_start: bool,
    inexact: bool,
    task: str | None,
    trust: bool,
    path: Path,
    progress: bool = False,
) -> list[int]:
    """Densify one run; return the new steps."""
    from headway.checkpoints import Run

    run = Run(path)
    if around is not None:
        first, last = around_event(run, around)
    else:
        first, last = between or (0, 0)
        for step in (first, last):
            try:
                run.check_step(step)
            except ValueError as error:
                raise ValueError(str(error).replace("step: ", "between: ", 1)) from None
    from headway.replay import densify

    return densify(path, (first, last), steps, None, from_start, inexact, task, trust, progress)


def densify_one_of_many(job: "Callable[[Path], list[int]]", path: Path) -> None:
    """Densify a run in a process that others share."""
    from headway.sweeps.each import InterruptedJobError, SkippedError
    from headway.train import StoppedError

    try:
        job(path)
    except NothingBetweenError as error:
        raise SkippedError(str(error)) from None
    except StoppedError as error:
        raise InterruptedJobError(str(error)) from None


def around_event(run: "Run", name: str) -> tuple[int, int]:
    """The checkpoints between which an event of ``headway formation`` is half-way.

    Raises:
        ValueError: a name that is neither an event nor a score of the run.
        NothingBetweenError: the event is not half-way between two checkpoints, or they are neighbouring steps.
    """
    from headway.analyze.formation.events import BEHAVIOUR, CIRCUIT, events
    from headway.analyze.formation.half_way import half_way
    from headway.options import nearest, shown

    scores = run.scores
    over = None
    if name == CIRCUIT:
        over = run.circuit(over_steps=True)
    elif name != BEHAVIOUR and name not in scores:
        known = [BEHAVIOUR, CIRCUIT, *sorted(map(str, scores))]
        raise ValueError(
            f"around: {shown(name)} is neither behaviour nor circuit nor a score of {run.path}{nearest(name, known)}"
        )
    try:
        found = events(run, [] if name in (BEHAVIOUR, CIRCUIT) else [name], circuit=over)
    except ValueError as error:
        raise ValueError(str(error).replace("measures: ", "around: ", 1)) from None
    # The date of a behaviour may come from updates, which are no checkpoints.
    half = half_way(found[name].way) if name in found else None
    if half is None or half.between[0] is None:
        raise NothingBetweenError(f"around: {name} is not half-way between two checkpoints of {run.path}")
    first, last = half.between[0], half.between[1]
    if last - first < 2:
        raise NothingBetweenError(
            f"around: {name} is half-way between steps {first} and {last} of {run.path}; no step lies between them"
        )
    return first, last
