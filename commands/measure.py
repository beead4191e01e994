"""``headway measure``: scores of a run at its checkpoints."""

from typing import TYPE_CHECKING

from headway.commands.arguments import add_trust, checked_directory

if TYPE_CHECKING:
    from headway.analyze import Measure


def measure_command(arguments: list[str]) -> None:
    """Score a run at its kept steps."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="headway measure RUN [options]", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("run", help="directory of the run")
    parser.add_argument("--only", help="measures, separated by commas; all if not given; package.module:name is yours")
    parser.add_argument("--at", help="kept steps, separated by commas; all if not given")
    parser.add_argument("--overwrite", action="store_true", help="compute again what is there")
    add_trust(parser)
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from re import fullmatch

    from headway.analyze import MEASURES
    from headway.checkpoints import Run
    from headway.options import parse, shown

    options = parse(parser, arguments)
    run = Run(checked_directory("run", options.run), options.task, options.trust)
    if options.at is not None and not fullmatch(r"-?[0-9]{1,18}(,-?[0-9]{1,18})*", options.at):
        raise ValueError(f"at: {shown(options.at)} is not valid; it must be steps separated by commas")
    steps = None if options.at is None else [int(step) for step in options.at.split(",")]
    for step in steps or ():
        run.check_step(step)
    wanted = MEASURES if options.only is None else [_measure(name) for name in dict.fromkeys(options.only.split(","))]

    from headway.analyze import measure

    inapplicable = measure(run, wanted, steps, options.overwrite, progress=True)
    for name, reason in inapplicable.items():
        print(f"{name} does not apply: {reason}")
    print(f"{run.path / 'scores'} holds {', '.join(each.name for each in wanted if each.name not in inapplicable)}")


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
