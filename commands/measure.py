"""``headway measure``: scores of runs at their checkpoints."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from headway.commands.arguments import add_trust, checked_directory
from headway.commands.many import add_workers, for_each, say_stale

if TYPE_CHECKING:
    from headway.analyze import Measure


def measure_command(arguments: list[str]) -> None:
    """Score runs at their kept steps."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="headway measure RUN [RUN ...] [options]", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("runs", nargs="+", help="directory of the run; several are scored beside each other")
    parser.add_argument("--only", help="measures, separated by commas; all if not given; package.module:name is yours")
    parser.add_argument("--at", help="kept steps, separated by commas; all if not given")
    parser.add_argument("--overwrite", action="store_true", help="compute again what is there")
    add_trust(parser)
    add_workers(parser)
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from functools import partial

    from headway.options import parse, shown

    options = parse(parser, arguments)
    paths = [checked_directory("run", run) for run in options.runs]
    if options.at is not None and not re.fullmatch(r"-?[0-9]{1,18}(,-?[0-9]{1,18})*", options.at):
        raise ValueError(f"at: {shown(options.at)} is not valid; it must be steps separated by commas")
    steps = None if options.at is None else [int(step) for step in options.at.split(",")]
    job = partial(measure_run, options.task, options.trust, options.only, steps, options.overwrite)
    if len(paths) > 1:
        for_each(job, paths, options, "scored")
        say_stale(paths)
        return
    inapplicable, scored = job(paths[0], progress=True)
    for line in reasons(inapplicable):
        print(line)
    print(f"{paths[0] / 'scores'} holds {', '.join(scored)}")
    say_stale(paths)


def reasons(inapplicable: dict[str, str]) -> list[str]:
    """Return one line for all measures that do not apply for the same reason.

    Example:
        >>> reasons({name: f"{name} needs vectors" for name in ("linearity", "ov_scatter")})
        ['linearity, ov_scatter do not apply: each needs vectors']
    """
    names: dict[str, list[str]] = {}
    for name, reason in inapplicable.items():
        # A reason begins with the name of the measure, which the line has already.
        names.setdefault(re.sub(rf"^{re.escape(name)}\b", "{each}", reason), []).append(name)
    lines = []
    for reason, some in names.items():
        do, each = ("does", "it") if len(some) == 1 else ("do", "each")
        lines.append(f"{', '.join(some)} {do} not apply: {reason.replace('{each}', each)}")
    return lines


def measure_run(
    task: str | None,
    trust: bool,
    only: str | None,
    steps: list[int] | None,
    overwrite: bool,
    path: Path,
    progress: bool = False,
) -> tuple[dict[str, str], list[str]]:
    """Score one run, and write its page again if it has one.

    Return the measures that do not apply, with the reasons, and the names of the others.
    """
    from headway.analyze import MEASURES
    from headway.checkpoints import Run

    run = Run(path, task, trust)
    for step in steps or ():
        run.check_step(step)
    wanted = MEASURES if only is None else [_measure(name) for name in dict.fromkeys(only.split(","))]

    from headway.analyze import measure

    inapplicable = measure(run, wanted, steps, overwrite, progress=progress)
    if run.report_file.exists():
        from headway.analyze.report.live import refresh_page

        refresh_page(run)
    return inapplicable, [each.name for each in wanted if each.name not in inapplicable]


def _measure(name: str) -> "Measure":
    """One of ours by its name, or a function of the user's by its import path."""
    from headway.analyze import MEASURES, Measure
    from headway.checkpoints.imports import imported
    from headway.options import nearest

    ours = {each.name: each for each in MEASURES}
    if ":" not in name:
        if name not in ours:
            raise ValueError(f"only: {name!r} is not a measure (headway measures lists them){nearest(name, ours)}")
        return ours[name]
    function = imported("only", name, "the name of a measure, or package.module:function")
    if not _takes_two(function):
        raise ValueError(f"only: {name!r} is not a function (model, batch)")
    found = function if isinstance(function, Measure) else Measure(function)  # pyright: ignore[reportArgumentType]
    if found.name in ours:
        raise ValueError(f"only: {name!r} has the name of a measure of ours; give it another")
    return found


def _takes_two(function: object) -> bool:
    """Return whether a function can be called with a model and a batch, and with these alone."""
    from inspect import signature

    try:
        signature(function).bind(None, None)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False
    return True
