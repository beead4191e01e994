"""``headway reproduce``: published toys trained again, with what was published beside ours."""

import sys

from headway.commands import many
from headway.commands.arguments import checked_directory

REPRODUCE_USAGE = """\
usage: headway reproduce NAME [--seeds 0:10] [options]

published toys (minutes on one core for each seed, and seeds if none are given):
{}

Trains the published configuration over seeds, compares it with what was published, and writes a page.
headway reproduce NAME --help lists the options.
"""


def reproduce_command(arguments: list[str]) -> None:
    """Train a published toy over seeds, and print what was published beside ours."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(REPRODUCE_USAGE.format("\n".join(_lines())), end="")
        return
    name, *rest = arguments

    from jsonargparse import ArgumentParser

    from headway.options import parse
    from headway.reproductions.published import REPRODUCTIONS, find_reproduction

    if name.startswith("-"):
        raise ValueError(f"reproduction: none given before the options; it must be one of {', '.join(REPRODUCTIONS)}")
    found = find_reproduction(name)
    usage = f"headway reproduce {name} [options]"
    parser = ArgumentParser(usage=usage, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--seeds", type=str | None, help=f"such as 0:10; 0:{found.seeds} if not given")
    parser.add_argument("--out", type=str | None, help="directory of the runs; runs/reproduce/NAME if not given")
    many.add_workers(parser)
    many.add_together(parser)
    if {"-h", "--help"} & set(rest):
        parser.print_help()
        return
    options = parse(parser, rest)

    from headway.checkpoints.run import Run
    from headway.reproductions.reproduce import STUDY, compare, folder_of, recipes_of

    recipes = recipes_of(name, options.seeds)
    out = folder_of(name, None if options.out is None else checked_directory("out", options.out))
    many.train_many(recipes, out, options)

    from rich.console import Console

    from headway.analyze.report.console import print_study

    result = compare(name, [Run(out / run) for run in recipes], out)
    print_study(result, Console(width=None if sys.stdout.isatty() else 160))
    print(f"\nFigures as data: {out / f'{STUDY}.nc'}\nPage: {out / f'{STUDY}.html'}")


def _lines() -> list[str]:
    from headway.reproductions.published import REPRODUCTIONS

    names = max(map(len, REPRODUCTIONS))
    return [
        f"  {name:{names}}  {each.minutes:5.3g} min × {each.seeds:3}  {each.source}"
        for name, each in REPRODUCTIONS.items()
    ]
