"""``headway densify``: more checkpoints within a part of training that is over."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from headway.commands.arguments import add_trust, checked_directory
from headway.commands.many import add_workers, for_each

if TYPE_CHECKING:
    from headway.checkpoints import Run


def densify_command(arguments: list[str]) -> None:
    """Train a part of runs again, and keep and score more checkpoints there."""
    from jsonargparse import ArgumentParser

    usage = "headway densify RUN [RUN ...] (--between FIRST LAST | --around MEASURE) [options]"
    parser = ArgumentParser(usage=usage, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("runs", nargs="+", help="directory of the run; several are trained beside each other")
    parser.add_argument("--between", type=int, nargs=2, metavar=("FIRST", "LAST"), help="two checkpoints")
    parser.add_argument(
        "--around",
        type=str | None,
        help="the two between which the strongest head of a measure is half-way",
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
        raise ValueError("between: give either two checkpoints, or --around a measure")
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
        for_each(job, paths, options, "densified")
        return
    new = job(paths[0], progress=True)
    print(f"{paths[0]} has {len(new)} more checkpoints: {', '.join(map(str, new))}")


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

    first, last = around_measure(Run(path), around) if around is not None else between or (0, 0)
    from headway.replay import densify

    return densify(path, (first, last), steps, None, from_start, inexact, task, trust, progress)


def around_measure(run: "Run", measure: str) -> tuple[int, int]:
    """The checkpoints between which the strongest head of a measure is half-way.

    Raises:
        ValueError: a measure that has no null, has not been scored, or of which no head is half-way between two.
    """
    from headway.analyze.formation.strongest import strongest

    scores = run.scores
    if f"{measure}_z" not in scores:
        there = ", ".join(sorted(name.removesuffix("_z") for name in map(str, scores) if name.endswith("_z")))
        raise ValueError(f"around: {measure!r} has no score with a null in {run.path}; there is {there or 'none'}")
    half = strongest(scores, measure).half
    if half is None or half.between[0] is None:
        raise ValueError(f"around: no head of {measure} is half-way between two checkpoints of {run.path}")
    return half.between[0], half.between[1]
