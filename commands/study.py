"""``headway study``: a question about a run, with the claims that answer it."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from headway.commands.arguments import add_trust, checked_directory, checked_path
from headway.commands.many import OF_MANY, add_workers, for_each, say_stale

STUDY_USAGE = """\
usage: headway study STUDY RUN [RUN ...] [options]   (some take the name of a language model in place of RUN)

studies:
{}

headway study STUDY --help lists the options of that study.
"""


def study_command(arguments: list[str]) -> None:
    """Run a study, print its tables and claims, and write it to disk."""
    from headway.analyze.studies import STUDIES, find_study

    if not arguments or arguments[0] in ("-h", "--help"):
        print(STUDY_USAGE.format("\n".join(f"  {each.name:<20}  {each.question}" for each in STUDIES.values())), end="")
        return
    name, *rest = arguments
    chosen = find_study(name)

    from jsonargparse import ArgumentParser

    from headway.options import parse

    usage = f"headway study {name} RUN [RUN ...] [options]"
    parser = ArgumentParser(usage=usage, allow_abbrev=False, exit_on_error=False)
    of_what = "directory of the run" + (", or name of a language model" if chosen.takes_models else "")
    others = "further runs to compare with" if chosen.takes_runs else "several are studied beside each other"
    parser.add_argument("runs", nargs="+", help=f"{of_what}; {others}")
    if chosen.takes_runs:
        parser.add_argument("--each", action="store_true", help="study each of the runs by itself")
    parser.add_argument("--at", type=int | None, help="the checkpoint; the last one if not given")
    parser.add_class_arguments(chosen.option_type, as_group=False, skip={"pair"})
    if hasattr(chosen.option_type, "pair"):
        text = "two tokens whose entry in the OV circuits is ranked; may be given several times"
        parser.add_argument("--pair", nargs=2, action="append", default=[], metavar=("SRC", "DST"), help=text)
    if chosen.takes_models:
        parser.add_argument("--out", type=str | None, help="directory for a language model; runs/NAME if not given")
    parser.add_argument("--overwrite", action="store_true", help="run it again if its file exists")
    add_trust(parser)
    add_workers(parser)
    if {"-h", "--help"} & set(rest):
        parser.print_help()
        return
    parsed = parse(parser, rest)
    options = {option: value for option, value in vars(parsed).items() if option not in OF_MANY}
    runs, at, overwrite, out = (options.pop(each, None) for each in ("runs", "at", "overwrite", "out"))
    task, trust = options.pop("task"), options.pop("trust")
    path = checked_path("run", runs[0], "a run or a language model" if chosen.takes_models else "a directory")
    run = runs[0] if chosen.takes_models else path  # the name of a language model is no path
    further = [checked_directory("run", other) for other in runs[1:]]
    out = None if out is None else checked_directory("out", out)
    # Wrong options fail before torch is imported.
    chosen.given(options)
    if further and (not chosen.takes_runs or parsed.each):
        from headway.analyze.studies.runner import check_source, with_sequences
        from headway.checkpoints import Run

        for each in (path, *further):
            check_source(chosen, with_sequences(chosen, Run(each, task, trust)))
        job = partial(study_run, name, at, bool(overwrite), task, trust, options)
        for_each(job, [path, *further], parsed, "studied")
        say_stale([path, *further])
        return

    from rich.console import Console

    from headway.analyze.report.console import print_study
    from headway.analyze.studying import study, study_files

    files = study_files(name, run, at, out)
    there = files.result.exists() and not overwrite
    result = study(name, run, further, at, bool(overwrite), out, task, trust, progress=True, **options)
    if there:
        print(f"{files.result} exists; --overwrite runs it again.\n")
    print_study(result, Console(width=None if sys.stdout.isatty() else 160))
    print(f"\nFigures as data: {files.result}\nPage: {files.page}")
    if files.page.parent == path:
        say_stale([path])


def study_run(
    name: str, at: int | None, overwrite: bool, task: str | None, trust: bool, options: dict[str, Any], path: Path
) -> None:
    """Study one run of many."""
    from headway.analyze.studying import study

    study(name, path, at=at, overwrite=overwrite, task=task, trust=trust, **options)
