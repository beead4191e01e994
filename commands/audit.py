"""``headway audit``: whether the checkpoints of runs are what their names say."""

import sys

from headway.commands.arguments import checked_directory


def audit_command(arguments: list[str]) -> None:
    """Print the faults of each run or folder of weights; exit with status 1 if there are some."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="headway audit RUN|FOLDER ...", allow_abbrev=False, exit_on_error=False)
    text = "directories of runs; of sweeps, which stand for all of their runs; or of weights that another program wrote"
    parser.add_argument("runs", nargs="+", help=text)
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from headway.options import parse

    paths = [checked_directory("run", path) for path in parse(parser, arguments).runs]

    from headway.analyze.formation.over_runs import runs_inside
    from headway.checkpoints.audit import audit, holds_weight_files
    from headway.checkpoints.run import Run

    given = [each for path in paths for each in ([path] if holds_weight_files(path) else runs_inside([path]))]
    for each in given:
        if isinstance(each, Run):
            _ = each.config

    faults = 0
    for each in given:
        if isinstance(each, Run):
            where, checkpoints, found = each.path, len(each.steps), audit(each)
        else:
            from headway.checkpoints.audit_of_files import faults_of_files

            where, (checkpoints, found) = each, faults_of_files(each)
        faults += len(found)
        count = "no fault" if not found else "1 fault" if len(found) == 1 else f"{len(found)} faults"
        print("\n  ".join([f"{where}: {count} in {checkpoints} checkpoints", *map(str, found)]))
    if faults:
        sys.exit(1)
