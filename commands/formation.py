"""``headway formation``: when what formed, over many runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from headway.commands.arguments import checked_directory, checked_path

if TYPE_CHECKING:
    import xarray as xr


def formation_command(arguments: list[str]) -> None:
    """Print distributions of dates over runs, or the differences between two groups of runs."""
    from jsonargparse import ArgumentParser

    usage = "headway formation RUN [RUN ...] [options], or headway formation --compare RUNS RUNS [options]"
    parser = ArgumentParser(usage=usage, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("runs", nargs="*", help="directories of runs, or of sweeps, which stand for all of their runs")
    text = "two folders of runs, or two patterns in quotes such as 'runs/many/n_layers=2*': how they differ"
    parser.add_argument("--compare", nargs=2, metavar=("RUNS", "RUNS"), help=text)
    parser.add_argument("--measures", help="further scores, separated by commas, such as q_composition,loss_first")
    text = "the events that are looked at instead of all: behaviour, circuit, previous_token ..., separated by commas"
    parser.add_argument("--only", help=text)
    parser.add_argument(
        "--part", help="the part of the task whose loss is the behaviour, or all; as of headway circuit"
    )
    parser.add_argument("--replace", help="the replacement of the circuit, where several were used")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap and of permutations")
    parser.add_argument("--json", nargs="?", const="-", help="write numbers as JSON to this file, or print them")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is not of headway formation")
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from headway.options import parse

    options = parse(parser, arguments)
    if bool(options.runs) == bool(options.compare):
        raise ValueError("runs: give directories of runs, or two groups with --compare, one of the two")
    groups = {name: matching(name) for name in options.compare or ()} or {
        "": [checked_directory("run", path) for path in options.runs]
    }
    if options.compare and len(groups) < 2:
        raise ValueError(f"compare: {options.compare[0]} is given twice; name two groups")
    out = checked_file(options.json, options.overwrite)
    chosen = {
        "measures": split(options.measures) or (),
        "only": split(options.only),
        "part": options.part,
        "replacement": options.replace,
        "seed": options.seed,
        "progress": sys.stderr.isatty(),
    }

    from headway.analyze.formation.over_runs import formation

    found = {name: formation(paths, **chosen) for name, paths in groups.items()}
    compared = None
    if options.compare:
        from headway.analyze.formation.differences import differences

        compared = differences(*found.values(), seed=options.seed)
    if options.json == "-":
        print(as_json(found, compared))
        return
    show(found, compared)
    if out is not None:
        from headway.checkpoints.files import write_whole

        write_whole(out, as_json(found, compared) + "\n")
        print(f"\nNumbers: {out}")


def matching(pattern: str) -> list[Path]:
    """The directory of this name, or those that a pattern matches."""
    from glob import glob

    path = checked_directory("compare", pattern)
    found = [path] if path.exists() else sorted(Path(each) for each in glob(str(path)) if Path(each).is_dir())
    if not found:
        raise ValueError(f"compare: no folder matches {pattern}")
    return found


def checked_file(given: str | None, overwrite: bool) -> Path | None:
    """The file that numbers are written to, if they are."""
    if given in (None, "-"):
        return None
    from headway.analyze.formation.plain import FORMAT
    from headway.checkpoints.files import check_replaceable

    out = checked_path("json", given or "")
    try:
        return check_replaceable(out, FORMAT.encode(), "a table of formation", overwrite, within=200)
    except ValueError as error:
        raise ValueError(str(error).replace("out:", "json:", 1)) from None


def split(given: str | None) -> tuple[str, ...] | None:
    """Names with commas between them."""
    return None if given is None else tuple(dict.fromkeys(name.strip() for name in given.split(",")))


def as_json(found: "dict[str, xr.Dataset]", compared: "xr.Dataset | None") -> str:
    """The numbers of each group, and of their differences."""
    from headway.analyze.formation.plain import to_json

    return to_json({name or "runs": data for name, data in found.items()}, compared)


def show(found: "dict[str, xr.Dataset]", compared: "xr.Dataset | None") -> None:
    """Print the tables."""
    from rich.console import Console

    from headway.analyze.report.formation_table import print_differences, print_formation

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for name, data in found.items():
        print_formation(data, console, name)
        console.print()
    if compared is not None:
        print_differences(compared, list(found), console)
