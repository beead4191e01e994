"""``headway audit``: whether the checkpoints of runs are what their names say."""

import sys

from headway.commands.arguments import checked_directory


def audit_command(arguments: list[str]) -> None:
    """Print the faults of each run; exit with status 1 if there are some."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="headway audit RUN [RUN ...]", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("runs", nargs="+", help="directories of runs, or of sweeps, which stand for all of their runs")
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from headway.options import parse

    paths = [checked_directory("run", path) for path in parse(parser, arguments).runs]

    from headway.analyze.formation.over_runs import runs_inside

    runs = runs_inside(paths)
    for run in runs:
        _ = run.config

    from headway.checkpoints.audit import audit

    faults = 0
    for run in runs:
        found = audit(run)
        faults += len(found)
        count = "no fault" if not found else "1 fault" if len(found) == 1 else f"{len(found)} faults"
        print("\n  ".join([f"{run.path}: {count} in {len(run.steps)} checkpoints", *map(str, found)]))
    if faults:
        sys.exit(1)
