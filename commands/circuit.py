"""``headway circuit``: the edges that carry a behaviour of a run."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from headway.commands.arguments import add_trust, checked_directory
from headway.commands.many import OF_MANY, add_workers, for_each, say_stale


def circuit_command(arguments: list[str]) -> None:
    """Find the edges that carry a behaviour, at the last checkpoint and at earlier ones."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="headway circuit RUN [RUN ...] [options]", allow_abbrev=False, exit_on_error=False)
    text = "directory of the run, or name of a language model (with --task indirect-object); several, beside each other"
    parser.add_argument("runs", nargs="+", help=text)
    parser.add_argument("--part", help="the behaviour: a part of the task, or all; what the task is about if not given")
    parser.add_argument("--at", default="last", help="a checkpoint; last, with a few earlier ones; or all")
    parser.add_argument(
        "--replace",
        help="what stands in for edges that are not kept: twin (the default where the task draws one), position_mean "
        "(the default elsewhere), resample, mean, zero",
    )
    text = "number of sequences of the evaluation batch; 64 if not given, fewer in a large network"
    parser.add_argument("--sequences", type=int | None, help=text)
    parser.add_argument("--orders", type=int, default=3, help="number of orders in which edges are removed")
    parser.add_argument("--controls", type=int, default=100, help="number of random circuits of the same size")
    parser.add_argument("--nodes", action="store_true", help="search heads and MLPs without edges: for large networks")
    parser.add_argument("--max_minutes", type=float, default=20.0, help="the longest search that begins")
    parser.add_argument("--seed", type=int, default=0, help="seed of twins, orders, controls and intervals")
    parser.add_argument("--out", type=str | None, help="directory for a language model; runs/NAME if not given")
    add_trust(parser)
    add_workers(parser)
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from re import fullmatch

    from headway.analyze.circuiting import circuit, is_language_model
    from headway.checkpoints import Run
    from headway.options import parse, shown

    parsed = parse(parser, arguments)
    options = {option: value for option, value in vars(parsed).items() if option not in OF_MANY}
    (path, *others), task, trust, at = (options.pop(name) for name in ("runs", "task", "trust", "at"))
    if others:
        paths = [checked_directory("run", run) for run in (path, *others)]
        if at not in ("last", "all"):
            raise ValueError(f"at: {shown(at)} is not valid for several runs; it must be last or all")
        for_each(partial(circuit_of_run, at, task, trust, options), paths, parsed, "searched")
        say_stale(paths)
        return
    directory = checked_directory("run", path)
    run = None if is_language_model(path, task) else Run(directory, task, trust)
    if at not in ("last", "all"):
        if not fullmatch("[0-9]{1,18}", at):
            raise ValueError(f"at: {shown(at)} is not valid; it must be a checkpoint, last or all")
        at = int(at) if run is None else run.check_step(int(at))

    from headway.analyze.report.circuit_lines import circuit_lines

    found = circuit(path if run is None else run, at=at, task=None if run else task, progress=True, **options)
    over, known = None, found.scores.known.attrs
    if run is not None and at in ("last", "all"):
        over = run.circuit(None, known["part"] or "all", known["replacement"], True, nodes=not found.has_edges)
    print("\n".join(circuit_lines(found.scores, over, known["units"])))
    print(f"\nNumbers: {found.file}" + ("" if run is None else f"\nPage: {run.report_file}"))
    if run is not None:
        say_stale([directory])


def circuit_of_run(
    at: Literal["last", "all"], task: str | None, trust: bool, options: dict[str, Any], path: Path
) -> None:
    """Find the circuit of one run of many; one that knows nothing of its behaviour has none."""
    from headway.analyze.circuiting import circuit
    from headway.analyze.circuits.find import NothingToExplainError
    from headway.checkpoints import Run
    from headway.sweeps.each import SkippedError

    try:
        circuit(Run(path, task, trust), at=at, **options)
    except NothingToExplainError as error:
        raise SkippedError(str(error)) from None
