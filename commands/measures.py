"""``headway measures``: the list of what can be scored."""

import sys


def measures_command(arguments: list[str]) -> None:
    """List MEASURES."""
    if {"-h", "--help"} & set(arguments):
        print("usage: headway measures   (what can be scored, with its range and its null)")
        return
    if arguments:
        raise ValueError(f"measures: takes no argument, got {arguments[0]!r}")
    from rich.console import Console
    from rich.table import Table

    from headway.analyze import MEASURES

    table = Table("measure", "what it says", "range", "null", box=None, padding=(0, 2, 0, 0))
    for each in MEASURES:
        table.add_row(
            each.name + ("" if each.live else " *"), each.summary.replace("``", ""), each.range, each.null or "none"
        )
    # Into a pipe one line each; in a terminal as wide as that is.
    Console(width=None if sys.stdout.isatty() else 400).print(table, soft_wrap=False, highlight=False, markup=False)
    print("* not while training: headway measure RUN computes it afterwards")
