"""The command ``headway``. Each subcommand is a module of ``commands/``, which imports what it needs and no more."""

import importlib
import os
import re
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from headway.commands.failure import fail
from headway.processes import SignalledError, ended_by_signals

USAGE = """\
usage: headway COMMAND ...

  train RECIPE [options]     train a toy, keep its checkpoints, score its heads (also: python train.py RECIPE)
  sweep FILE.yaml [options]  train many runs beside each other: combinations of options, and seeds
  densify RUN [options]      train a part of a run again, with more checkpoints there
  import FILE... --out RUN   make a run of checkpoints that another program made: state dicts of TransformerLens
  export RUN --to KIND       write a checkpoint for TransformerLens or for the Hugging Face hub
  measures                   list what can be scored
  measure RUN [options]      score a run at its kept steps; what is there is not computed again
  circuit RUN [options]      find the edges that carry the behaviour of a run, and follow them over training
  formation RUN [RUN ...]    when what formed over many runs: medians, orders, kinds of circuit; --compare two groups
  reproduce NAME [options]   train a published toy over seeds, beside what was published
  study STUDY RUN [RUN ...]  a whole story of a run: its tables, its figures, and which claims hold
  audit RUN|FOLDER ...       whether checkpoints are what their names say, and scores of the weights that are kept
  text RUN STRING [options]  type a string into a network that has a tokenizer: what comes next, and why
  report RUN [RUN ...]       write the page that shows what formed; several runs beside each other, many as a table
  plot RUN FIGURE [options]  one figure of that page as PNG, SVG or PDF; of several runs, all over each other

headway COMMAND --help says more; headway --version prints the version.
"""

# ``headway NAME`` calls NAME_command of commands/NAME.py.
COMMANDS = (
    "train", "sweep", "densify", "import", "export", "measures", "measure", "circuit", "formation", "reproduce",
    "study", "audit", "text", "report", "plot",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand.

    Bad input is one line on stderr and exit code 2; a run that diverges or fails later is exit code 1; Ctrl-C, SIGTERM
    and SIGHUP are one line and exit code 128 + signal.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # A terminal may not have every letter.
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    if arguments[0] == "--version":
        from headway import __version__

        print(f"headway {__version__}")
        return
    command, *rest = with_negative_values(arguments)
    if command not in COMMANDS:
        from headway.options import nearest

        fail(f"command: {command!r} is not one of {', '.join(COMMANDS)}{nearest(command, COMMANDS)}")
    module = importlib.import_module(f"headway.commands.{command}")
    try:
        with ended_by_signals():
            getattr(module, f"{command}_command")(rest)
    except OSError as error:
        from headway.data.parts import NotWrittenError

        if isinstance(error, NotWrittenError):
            fail(f"{error.strerror}; what was there is whole; when it can be, give the same command again", code=1)
        fail(str(error))
    except ValueError as error:
        fail(str(error))
    except SignalledError as error:
        fail("stopped", code=128 + error.signal)
    except KeyboardInterrupt:
        fail("stopped", code=130)


def with_negative_values(arguments: Sequence[str]) -> list[str]:
    """Join values that begin with a minus and a digit to their options, because argparse takes -1:2 for an option.

    Example:
        >>> with_negative_values(["train", "induction", "--seeds", "-1:2", "--seed", "-1"])
        ['train', 'induction', '--seeds=-1:2', '--seed=-1']
    """
    joined: list[str] = []
    for argument in arguments:
        if joined and re.fullmatch(r"--[^=]+", joined[-1]) and re.fullmatch(r"-\.?\d\S*", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


if __name__ == "__main__":
    # ``python -m`` puts the working directory first, where a received folder could stand in for any optional package.
    if sys.path[0] == os.getcwd():
        del sys.path[0]
    main()
