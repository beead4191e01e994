"""``headway circuit``: the edges that carry a behaviour of a run."""

from headway.commands.arguments import add_trust, checked_directory


def circuit_command(arguments: list[str]) -> None:
    """Find the edges that carry a behaviour, at the last checkpoint and at earlier ones."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="headway circuit RUN [options]", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("run", help="directory of the run")
    parser.add_argument("--part", help="the behaviour: a part of the task, or all; what the task is about if not given")
    parser.add_argument("--at", default="last", help="a checkpoint; last, with a few earlier ones; or all")
    parser.add_argument(
        "--replace",
        help="what stands in for edges that are not kept: twin (the default where the task draws one), position_mean "
        "(the default elsewhere), resample, mean, zero",
    )
    parser.add_argument("--sequences", type=int, default=64, help="number of sequences of the evaluation batch")
    parser.add_argument("--orders", type=int, default=3, help="number of orders in which edges are removed")
    parser.add_argument("--controls", type=int, default=100, help="number of random circuits of the same size")
    parser.add_argument("--max_edges", type=int, default=3000, help="the largest network that is searched")
    parser.add_argument("--seed", type=int, default=0, help="seed of twins, orders, controls and intervals")
    add_trust(parser)
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from re import fullmatch

    from headway.checkpoints import Run
    from headway.options import parse, shown

    options = vars(parse(parser, arguments))
    run = Run(checked_directory("run", options.pop("run")), options.pop("task"), options.pop("trust"))
    at = options.pop("at")
    if at not in ("last", "all"):
        if not fullmatch("[0-9]{1,18}", at):
            raise ValueError(f"at: {shown(at)} is not valid; it must be a checkpoint, last or all")
        at = run.check_step(int(at))

    from headway.analyze.circuiting import circuit
    from headway.analyze.report.circuit_lines import circuit_lines

    found = circuit(run, at=at, progress=True, **options)
    asked = found.scores.known.attrs
    part = asked["part"] or "all"
    over = run.circuit(part=part, replacement=asked["replacement"], over_steps=True) if at in ("last", "all") else None
    print("\n".join(circuit_lines(found.scores, over)))
    print(f"\nNumbers: {run.circuit_file(asked['step'], asked['part'], asked['replacement'])}\nPage: {run.report_file}")
