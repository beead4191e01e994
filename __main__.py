"""The command ``headway``. Each subcommand imports what it needs and no more."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, replace
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from headway.analyze import Measure
    from headway.checkpoints import Recipe, Run

USAGE = """\
usage: headway COMMAND ...

  train RECIPE [options]     train a toy, keep its checkpoints, score its heads (also: python train.py RECIPE)
  measures                   list what can be scored
  measure RUN [options]      score a run at its kept steps; what is there is not computed again
  circuit RUN [options]      find the edges that carry the behaviour of a run, and follow them over training
  study STUDY RUN [RUN ...]  a whole story of a run: its tables, its figures, and which claims hold
  text RUN STRING [options]  type a string into a network that has a tokenizer: what comes next, and why
  report RUN [RUN ...]       write the page that shows what formed; several runs beside each other
  plot RUN FIGURE [options]  one figure of that page as PNG, SVG or PDF

headway COMMAND --help says more; headway --version prints the version.
"""

# Written out, because importing the recipes takes seconds; a test holds it to them.
RECIPE_LINES = {
    "induction": "A segment of distinct random tokens, repeated until the sequence is full.",
    "fuzzy-induction": "Random tokens, followed by their synonyms: [A] [B] … [A*] [B*], as in Olsson et al. 2022.",
    "indirect-object": "Sentences with two names, one of which is repeated; the answer at the end is the other one.",
    "text": "Windows of text files: BOS, followed by consecutive tokens of one file.",
    "previous-token": "Random tokens after BOS; the target at each position is the previous token.",
    "affine-recurrence": "Vectors that follow an affine recurrence, a new one in each sequence (arXiv 2410.17438).",
}
_RECIPES = "\n".join(f"  {name:21} {line}" for name, line in RECIPE_LINES.items())
TRAIN_USAGE = f"""\
usage: headway train RECIPE [options]   (also: python train.py RECIPE [options])

recipes:
{_RECIPES}

  --config FILE         the recipe of an earlier run (its config.yaml)
  --task MODULE:CLASS   a task of your own, with the sizes of RECIPE (induction if none is given)
  --resume RUN          go on with a run where it stopped
  --trust               with --config or --resume: import the task that it names, and read the corpus that it names
  --live                write the run's page at every kept step, and not only at the end

headway train RECIPE --help lists the options of that recipe. Sizes of the network that the task decides (model.n_ctx,
model.d_vocab, model.input_type) follow the task's options unless they are given.
"""


STUDY_USAGE = """\
usage: headway study STUDY RUN [RUN ...] [options]   (some take the name of a language model in place of RUN)

studies:
{}

headway study STUDY --help lists the options of that study.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand. Bad input is one line on stderr and exit code 2; a run that diverges is exit code 1."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # A terminal may not have every letter.
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    # A task of one's own may stand in the folder one works in.
    sys.path.append(os.getcwd())
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": train_command,
        "measures": measures_command,
        "measure": measure_command,
        "circuit": circuit_command,
        "study": study_command,
        "text": text_command,
        "report": report_command,
        "plot": plot_command,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    if arguments[0] == "--version":
        from headway import __version__

        print(f"headway {__version__}")
        return
    command, *rest = arguments
    if command not in commands:
        from headway.options import nearest

        fail(f"command: {command!r} is not one of {', '.join(commands)}{nearest(command, commands)}")
    try:
        commands[command](rest)
    except OSError as error:
        from headway.checkpoints.files import NotWrittenError

        if isinstance(error, NotWrittenError):
            fail(f"{error.strerror}; what was there is whole; when it can be, give the same command again", code=1)
        fail(str(error))
    except ValueError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped", code=130)


def fail(message: str, code: int = 2) -> NoReturn:
    """Say what is wrong in one line, and end."""
    print(f"headway: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def train_command(arguments: list[str]) -> None:
    """Train, or go on with, a run; then say what formed."""
    from argparse import ArgumentError
    from argparse import ArgumentParser as PlainParser

    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    if name is None and {"-h", "--help"} & set(arguments):
        print(TRAIN_USAGE, end="")
        return
    first = PlainParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config")
    first.add_argument("--resume")
    first.add_argument("--task")
    first.add_argument("--live", action="store_true")
    first.add_argument("--trust", action="store_true")
    try:
        chosen, rest = first.parse_known_args(arguments)
    except ArgumentError as error:
        raise ValueError(str(error).replace("argument --", "")) from None
    if chosen.resume is not None:
        if rest or any(given is not None for given in (name, chosen.config)):
            raise ValueError("resume: a run goes on as it was; no recipe or option can be given beside --resume")
        _resume(_directory("resume", chosen.resume), chosen.live, chosen.task, chosen.trust)
        return
    out, base = _base_recipe(name, chosen.config, chosen.task, chosen.trust)
    _train(out, base, rest, chosen.live, trust=chosen.config is None or chosen.trust)


def _base_recipe(name: str | None, config: str | None, task_path: str | None, trust: bool) -> "tuple[str, Recipe]":
    """Return what the options change: the name of the run's directory, and a recipe."""
    from headway.options import nearest

    if config is not None and name is not None:
        raise ValueError("config: a config is a recipe; no other can be given beside --config")
    recipes = ", ".join(RECIPE_LINES)
    if name is None and task_path is None and config is None:
        raise ValueError(f"recipe: none given before the options; it must be one of {recipes}")
    if name is not None and name not in RECIPE_LINES:
        raise ValueError(f"recipe: {name!r} is not one of {recipes}{nearest(name, RECIPE_LINES)}")

    from headway.checkpoints.recipe import Recipe, task_class
    from headway.recipes import RECIPES

    if config is not None:
        task = None if task_path is None else task_class(task_path)
        path = _path("config", config)
        return path.resolve().parent.name, Recipe.load(path, task, trust)
    base = RECIPES[name or "induction"]
    if task_path is None:
        return name or "induction", base
    kind = task_class(task_path)
    needed = [f.name for f in fields(kind) if f.init and f.default is MISSING and f.default_factory is MISSING]
    if needed:
        raise ValueError(f"task: {task_path!r} needs a default for {', '.join(needed)}")
    try:
        task = kind()
    except ValueError as error:
        raise ValueError(f"task.{error}") from None
    fitted = {"n_ctx": task.n_ctx, "d_vocab": task.d_vocab, "d_vocab_out": -1, "input_type": task.input_type}
    model = type(base.model)(**{**base.model.as_given(), **fitted})
    return type(task).__name__, replace(base, task=task, model=model)


def _train(name: str, base: "Recipe", rest: list[str], live: bool, trust: bool) -> None:
    """Read the options over ``base``, and train; files that it names are read if ``trust``, or named in ``rest``."""
    from headway.checkpoints.recipe import Recipe
    from headway.options import parse

    kind = type(base.task)
    parser = Recipe.parser(kind)
    parser.usage = f"headway train {name} [options]"
    parser.set_defaults(base.defaults())
    parser.add_argument("--out", default=str(Path("runs") / name), help="directory of the run")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is there")
    parser.add_argument("--live", action="store_true", help="write the run's page at every kept step")
    options = parse(parser, rest)
    given = {argument.partition("=")[0] for argument in rest}
    following = [size for size in base.sizes_of_task if f"--model.{size}" not in given]
    recipe = Recipe.from_options(kind, options, following)
    out = _directory("out", options.out)
    if recipe.task.outside_files is not None and recipe.task.outside_files == base.task.outside_files and not trust:
        raise ValueError(f"config: this recipe reads {base.task.outside_files}; say --trust to let it")

    from headway.train import train

    _until_it_stops(lambda: train(**vars(recipe), out=out, overwrite=options.overwrite, live=live), out)


def _add_trust(parser: "ArgumentParser") -> None:
    parser.add_argument("--task", type=str | None, help="the run's task, package.module:Class, if it is not Headway's")
    parser.add_argument(
        "--trust", action="store_true", help="import the task that the run names, and read the corpus that it names"
    )


def _directory(option: str, path: str) -> Path:
    return _path(option, path, "a directory")


def _path(option: str, path: str, kind: str = "a file") -> Path:
    """Return a path as given; a ValueError for what no file system takes: nothing, NUL, a name of 256 bytes."""
    if not path or "\0" in path or any(len(os.fsencode(part)) > 255 for part in path.split("/")):
        from headway.options import shown

        raise ValueError(f"{option}: {shown(path)} is not valid; it must be {kind}")
    return Path(path).expanduser()


def _resume(path: Path, live: bool, task: str | None, trust: bool) -> None:
    from headway.checkpoints import Run

    if Run(path).finished:
        print(f"{path} is finished; there is nothing to do.")

    from headway.train import resume

    _until_it_stops(lambda: resume(path, live=live, task=task, trust=trust), path)


def _until_it_stops(go: "Callable[[], Run]", path: Path) -> None:
    """Train, and print the run's summary, or why it ended before its last step."""
    from headway.analyze.report.summary import summary
    from headway.checkpoints.files import NotWrittenError
    from headway.models.lightning_module import DivergedError
    from headway.train import StoppedError

    try:
        run = go()
    except DivergedError as error:
        fail(f"{error}; what was kept before that is in {path}", code=1)
    except NotWrittenError as error:
        fail(f"{error.strerror}; go on with: headway train --resume {path}", code=1)
    except StoppedError as error:
        fail(f"{error}; go on with: headway train --resume {path}", code=128 + error.signal)
    print(f"\n{summary(run, progress=True)}")


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


def measure_command(arguments: list[str]) -> None:
    """Score a run at its kept steps."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="headway measure RUN [options]", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("run", help="directory of the run")
    parser.add_argument("--only", help="measures, separated by commas; all if not given; package.module:name is yours")
    parser.add_argument("--at", help="kept steps, separated by commas; all if not given")
    parser.add_argument("--overwrite", action="store_true", help="compute again what is there")
    _add_trust(parser)
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from re import fullmatch

    from headway.analyze import MEASURES
    from headway.checkpoints import Run
    from headway.options import parse, shown

    options = parse(parser, arguments)
    run = Run(_directory("run", options.run), options.task, options.trust)
    if options.at is not None and not fullmatch(r"-?[0-9]{1,18}(,-?[0-9]{1,18})*", options.at):
        raise ValueError(f"at: {shown(options.at)} is not valid; it must be steps separated by commas")
    steps = None if options.at is None else [int(step) for step in options.at.split(",")]
    for step in steps or ():
        run.check_step(step)
    wanted = MEASURES if options.only is None else [_measure(name) for name in dict.fromkeys(options.only.split(","))]

    from headway.analyze import measure

    inapplicable = measure(run, wanted, steps, options.overwrite, progress=True)
    for name, reason in inapplicable.items():
        print(f"{name} does not apply: {reason}")
    print(f"{run.path / 'scores'} holds {', '.join(each.name for each in wanted if each.name not in inapplicable)}")


def circuit_command(arguments: list[str]) -> None:
    """Find the edges that carry a behaviour, at the last checkpoint and at earlier ones."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="headway circuit RUN [options]", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("run", help="directory of the run, or name of a language model (with --task indirect-object)")
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
    _add_trust(parser)
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from re import fullmatch

    from headway.analyze.circuiting import circuit, is_language_model
    from headway.checkpoints import Run
    from headway.options import parse, shown

    options = vars(parse(parser, arguments))
    path, task, trust, at = (options.pop(name) for name in ("run", "task", "trust", "at"))
    directory = _directory("run", path)
    run = None if is_language_model(path, task) else Run(directory, task, trust)
    if at not in ("last", "all"):
        if not fullmatch("[0-9]{1,18}", at):
            raise ValueError(f"at: {shown(at)} is not valid; it must be a checkpoint, last or all")
        at = int(at) if run is None else run.check_step(int(at))

    from headway.analyze.report.circuit_lines import circuit_lines

    found = circuit(path if run is None else run, at=at, task=None if run else task, progress=True, **options)
    over = None
    if run is not None and at in ("last", "all"):
        asked = found.scores.known.attrs
        over = run.circuit(None, asked["part"] or "all", asked["replacement"], True, nodes=not found.has_edges)
    print("\n".join(circuit_lines(found.scores, over)))
    print(f"\nNumbers: {found.file}" + ("" if run is None else f"\nPage: {run.report_file}"))


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

    usage = f"headway study {name} RUN{' [RUN ...]' if chosen.takes_runs else ''} [options]"
    parser = ArgumentParser(usage=usage, allow_abbrev=False, exit_on_error=False)
    of_what = "directory of the run" + (", or name of a language model" if chosen.takes_models else "")
    others = "; further runs to compare with" if chosen.takes_runs else ""
    parser.add_argument("runs", nargs="+" if chosen.takes_runs else 1, help=f"{of_what}{others}")
    parser.add_argument("--at", type=int | None, help="the checkpoint; the last one if not given")
    parser.add_class_arguments(chosen.option_type, as_group=False, skip={"pair"})
    if hasattr(chosen.option_type, "pair"):
        text = "two tokens whose entry in the OV circuits is ranked; may be given several times"
        parser.add_argument("--pair", nargs=2, action="append", default=[], metavar=("SRC", "DST"), help=text)
    if chosen.takes_models:
        parser.add_argument("--out", type=str | None, help="directory for a language model; runs/NAME if not given")
    parser.add_argument("--overwrite", action="store_true", help="run it again if its file exists")
    _add_trust(parser)
    if {"-h", "--help"} & set(rest):
        parser.print_help()
        return
    options = vars(parse(parser, rest))
    runs, at, overwrite, out = (options.pop(each, None) for each in ("runs", "at", "overwrite", "out"))
    task, trust = options.pop("task"), options.pop("trust")
    path = _path("run", runs[0], "a run or a language model" if chosen.takes_models else "a directory")
    run = runs[0] if chosen.takes_models else path  # the name of a language model is no path
    further = [_directory("run", other) for other in runs[1:]]
    out = None if out is None else _directory("out", out)
    # Wrong options fail before torch is imported.
    chosen.given(options)

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


def text_command(arguments: list[str]) -> None:
    """Say what a network makes of a string, and write the page that shows it."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="headway text RUN STRING [options]", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("run", help="directory of a run whose tokens are text, or name of a language model")
    parser.add_argument("string", help="what is typed; - reads it from where a pipe comes in")
    parser.add_argument("--at", type=int | None, help="the kept step of a run; the last one if not given")
    parser.add_argument("--top", type=int, default=5, help="how many of the likeliest next tokens are shown")
    parser.add_argument("--position", type=int | None, help="what is explained, from 0, BOS; the last if not given")
    parser.add_argument("--token", help="whose logit is explained there; the next if there is one, else the likeliest")
    parser.add_argument("--out", help="the file; text.html in the run, or of a language model in runs/NAME")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is not a page of Headway")
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from headway.options import parse

    options = parse(parser, arguments)
    if options.top < 1:
        raise ValueError(f"top: {options.top} is not valid; it must be at least 1")

    from rich.console import Console

    from headway.analyze.report.console import print_prompt
    from headway.analyze.report.page import check_page, write_prompt_page
    from headway.analyze.studies.loading import LoadedModel, open_run_or_model
    from headway.analyze.tools.prompt import run_prompt
    from headway.checkpoints import Run
    from headway.checkpoints.files import holds_run
    from headway.data.tokenizer import check_utf8

    string = _typed() if options.string == "-" else options.string
    check_utf8("string", string)
    _path("run", options.run, "a run or a language model")
    studied = open_run_or_model(options.run)
    if isinstance(studied, Run):
        folder = studied.path
    else:
        folder = Path("runs") / Path(options.run).name
        if options.out is None and holds_run(folder):
            raise ValueError(f"out: {folder} holds a run; give another file")
    subject = LoadedModel.of(studied, options.at)
    shown = run_prompt(subject.model, string, options.position, options.token)
    step = [] if subject.step is None else [("step", str(subject.step))]
    out = check_page(folder / "text.html" if options.out is None else _path("out", options.out), options.overwrite)
    about = [("model", subject.name), *step, ("string", string)]
    page = write_prompt_page(shown, subject.model, about, out, options.top, options.overwrite)
    print_prompt(shown, Console(width=None if sys.stdout.isatty() else 160), options.top)
    print(f"\nThe page that shows it, at every position: {page}")


def _typed() -> str:
    """Return the text that comes through a pipe."""
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"string: what is typed is not valid; it must be UTF-8 ({error.reason})") from None


def report_command(arguments: list[str]) -> None:
    """Write the page of one run or several."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="headway report RUN [RUN ...] [options]", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("runs", nargs="+", help="directories of runs")
    parser.add_argument("--out", help="the file; report.html in the run, or for several in the folder they lie in")
    parser.add_argument("--live", action="store_true", help="write it again at every step that runs score, to the end")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is not a page of Headway")
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from headway.checkpoints import Run
    from headway.options import parse

    options = parse(parser, arguments)
    runs = [Run(_directory("run", path)) for path in options.runs]

    from headway.analyze.report import write_report
    from headway.analyze.report.live import watch
    from headway.analyze.report.page import check_page, page_of

    out = page_of(runs) if options.out is None else _path("out", options.out)
    check_page(out, options.overwrite)
    for run in runs:
        _ = run.config
    if options.live:
        print("Watching, until all runs are finished.", flush=True)
    print((watch if options.live else write_report)(runs, out, options.overwrite))


def plot_command(arguments: list[str]) -> None:
    """Draw one figure of the page into a file."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="headway plot RUN FIGURE [options]", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("run", help="directory of the run")
    parser.add_argument(
        "figure", help="loss, network, circuit, diagram, attention, eigenvalues, heads, composition or attribution"
    )
    parser.add_argument("--at", type=int | None, help="the step; the last one with scores if not given")
    parser.add_argument("--layer", type=int | None, help="one layer; all if not given")
    parser.add_argument("--head", type=int | None, help="one head of each of these layers; all if not given")
    parser.add_argument("--sequence", type=int | None, help="which sequence of the evaluation batch, from 0")
    parser.add_argument("--measure", help="which measure, of a figure that can show several")
    parser.add_argument("--out", help="a .png, .svg or .pdf file; FIGURE.svg if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is not a figure of Headway")
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from headway.checkpoints import Run
    from headway.options import parse

    options = parse(parser, arguments)
    run = Run(_directory("run", options.run))

    from headway.analyze.report.figures.plot import check_figure, draw, save

    out = Path(f"{options.figure}.svg") if options.out is None else _path("out", options.out)
    if options.out is not None:
        check_figure(out, options.overwrite)

    figure = draw(
        run,
        options.figure,
        at=options.at,
        layer=options.layer,
        head=options.head,
        sequence=options.sequence,
        measure=options.measure,
    )
    print(save(figure, out, options.overwrite))


def _measure(name: str) -> "Measure":
    """One of ours by its name, or a function of the user's by its import path."""
    from headway.analyze import MEASURES, Measure
    from headway.checkpoints.imports import imported
    from headway.options import nearest

    ours = {each.name: each for each in MEASURES}
    if ":" not in name:
        if name not in ours:
            raise ValueError(f"only: {name!r} is not a measure (headway measures lists them){nearest(name, ours)}")
        return ours[name]
    function = imported("only", name, "the name of a measure, or package.module:function")
    if not _takes_two(function):
        raise ValueError(f"only: {name!r} is not a function (model, batch)")
    found = function if isinstance(function, Measure) else Measure(function)  # pyright: ignore[reportArgumentType]
    if found.name in ours:
        raise ValueError(f"only: {name!r} has the name of a measure of ours; give it another")
    return found


def _takes_two(function: object) -> bool:
    """Return whether a function can be called with a model and a batch, and with these alone."""
    from inspect import signature

    try:
        signature(function).bind(None, None)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False
    return True


if __name__ == "__main__":
    main()
