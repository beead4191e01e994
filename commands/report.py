"""``headway report``: the page of one run, of several, or of many."""

import sys
import warnings
from typing import TYPE_CHECKING

from headway.commands.arguments import checked_directory, checked_path

if TYPE_CHECKING:
    from headway.analyze.report.network_in_page import Weights


def report_command(arguments: list[str]) -> None:
    """Write the page of one run, of two to five beside each other, or of more as a table of runs."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="headway report RUN [RUN ...] [options]", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("runs", nargs="+", help="directories of runs, or of sweeps, which stand for all of their runs")
    parser.add_argument("--out", help="the file; report.html in the run, or for several in the folder they lie in")
    parser.add_argument(
        "--with-weights",
        dest="weights",
        nargs="?",
        const="all",
        default="fitting",
        metavar="MB",
        help="checkpoints whose network the page can run: as many as fit into a page of so many MB, of 3 (fitting, if "
        "not given), of 100 (all, if there is no number), or none",
    )
    parser.add_argument("--live", action="store_true", help="write it again at every step that runs score, to the end")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is not a page of Headway")
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from headway.options import parse

    options = parse(parser, arguments)
    weights = _weights(options.weights)
    paths = [checked_directory("run", path) for path in options.runs]

    from headway.analyze.formation.over_runs import runs_inside

    runs = runs_inside(paths)

    from headway.analyze.report import write_report
    from headway.analyze.report.live import watch
    from headway.analyze.report.page import check_page, check_weights, page_of

    out = page_of(runs) if options.out is None else checked_path("out", options.out)
    check_page(out, options.overwrite)
    check_weights(weights, runs)
    for run in runs:
        _ = run.config
    with warnings.catch_warnings():
        # A page that is written again and again says a thing once.
        warnings.simplefilter("once")
        warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr, flush=True)
        if options.live:
            print("Watching, until all runs are finished.", flush=True)
            path = watch(runs, out, options.overwrite, weights)
        else:
            path = write_report(runs, out, options.overwrite, weights=weights)
    print(path)


def _weights(given: str) -> "Weights":
    """Return a number as such."""
    try:
        return float(given)
    except ValueError:
        return given  # pyright: ignore[reportReturnType]  # check_weights refuses all others
