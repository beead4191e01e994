"""``headway import``: a run of checkpoints that another program made."""

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from headway.commands.arguments import checked_directory, checked_path

if TYPE_CHECKING:
    from headway.checkpoints import Run
    from headway.data.task import Task

MODEL, TASK = "--model.", "--task."


def import_command(arguments: list[str]) -> None:
    """Make a run of checkpoints, and print what was read, given, assumed and dropped."""
    from argparse import SUPPRESS

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        usage="headway import FILE ... --out RUN [options]", allow_abbrev=False, exit_on_error=False
    )
    text = "files of weights by TransformerLens's names, each a checkpoint; a folder of them; or a name on the hub"
    parser.add_argument("files", nargs="+", help=text)
    parser.add_argument("--out", type=str | None, help="directory of the run")
    parser.add_argument(
        "--step", type=str | None, help="the steps, separated by commas; those in the names if not given"
    )
    text = "what it was trained on: a recipe, or package.module:Class, with its options --task.NAME"
    parser.add_argument("--task", type=str | None, help=text)
    parser.add_argument("--config", type=str | None, help="a configuration of TransformerLens: JSON, or a file")
    parser.add_argument(
        "--key", type=str | None, help="the place of the weights in a file that holds more: state.model"
    )
    text = "transformer_lens, transposed, joined or joined_transposed: how matrices lie, and whether heads are joined"
    parser.add_argument("--layout", default="transformer_lens", help=text)
    parser.add_argument("--tokenizer", type=str | None, help="a file tokenizer.json, for strings")
    text = "an error if the last checkpoint has less: accuracy=1.0; or more: loss=0.1; several with commas"
    parser.add_argument("--expect", type=str | None, help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is there")

    from headway.models.config import ModelConfig

    sizes = {f.name for f in fields(ModelConfig) if f.init and f.default is MISSING}
    parser.add_class_arguments(ModelConfig, "model")
    parser.set_defaults({f"model.{name}": 1 for name in sizes})
    next(action for action in parser._actions if action.dest == "model").help = SUPPRESS
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return

    from headway.options import parse

    of_task = [each for each in arguments if each.startswith(TASK)]
    options = parse(parser, [*_without_task_options(arguments)])
    given = {each.partition("=")[0].removeprefix(MODEL) for each in arguments if each.startswith(MODEL)}
    if options.out is None:
        raise ValueError("out: is missing; give the directory of the run")
    if of_task and options.task is None:
        raise ValueError(f"{of_task[0].partition('=')[0]}: there is no such option without --task")
    expect = _expected(options.expect)
    steps = None if options.step is None else _steps(options.step)
    out = checked_directory("out", options.out)
    files = [checked_path("file", file) for file in options.files]

    from headway.checkpoints.importing import import_run

    run = import_run(
        files,
        out,
        steps=steps,
        task=None if options.task is None else _task(options.task, _task_options(arguments)),
        config=options.config,
        model={name: getattr(options.model, name) for name in given},
        key=options.key,
        layout=options.layout,
        tokenizer=options.tokenizer,
        expect=expect,
        overwrite=options.overwrite,
    )
    print(import_lines(run))


def _without_task_options(arguments: list[str]) -> list[str]:
    taken = set(_task_options(arguments, places=True))
    return [each for place, each in enumerate(arguments) if place not in taken]


def _task_options(arguments: list[str], places: bool = False) -> list[Any]:
    """The options of the task, or their places among the arguments."""
    found: list[int] = []
    for place, each in enumerate(arguments):
        if each.startswith(TASK):
            found += [place] if "=" in each or place + 1 == len(arguments) else [place, place + 1]
    return found if places else [arguments[place] for place in found]


def _task(name: str, options: list[str]) -> "Task":
    """The task of a recipe, or of an import path, with these options."""
    from dataclasses import asdict

    from jsonargparse import ArgumentParser

    from headway.checkpoints.recipe import task_class
    from headway.options import nearest, parse
    from headway.recipes import RECIPES

    if ":" not in name and name not in RECIPES:
        near = nearest(name, RECIPES)
        raise ValueError(f"task: {name!r} is not one of {', '.join(RECIPES)}, nor package.module:Class{near}")
    base = RECIPES[name].task if name in RECIPES else None
    kind = task_class(name) if base is None else type(base)
    parser = ArgumentParser(allow_abbrev=False, exit_on_error=False)
    if fields(kind):
        parser.add_class_arguments(kind, "task")
    if base is not None:
        parser.set_defaults({f"task.{option}": value for option, value in asdict(base).items()})
    parsed = parse(parser, options)
    try:
        return kind(**vars(parsed.task)) if fields(kind) else kind()
    except ValueError as error:
        raise ValueError(f"task.{error}") from None


def _steps(text: str) -> list[int]:
    from re import fullmatch

    from headway.options import shown

    if not fullmatch(r"[0-9]{1,18}(,[0-9]{1,18})*", text):
        raise ValueError(f"step: {shown(text)} is not valid; it must be steps separated by commas")
    return [int(step) for step in text.split(",")]


def _expected(text: str | None) -> dict[str, float]:
    """Read ``accuracy=1.0,loss=0.1``."""
    from headway.options import shown

    found: dict[str, float] = {}
    for each in [] if text is None else text.split(","):
        name, equals, value = each.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            equals = ""
        if not equals or not (name.startswith("accuracy") or name.startswith("loss")):
            raise ValueError(f"expect: {shown(each)} is not valid; it must be such as accuracy=1.0 or loss=0.1")
    return found


def import_lines(run: "Run") -> str:
    """Return the text that ends an import."""
    about = run.imported
    assert about is not None
    steps = list(about["sources"])
    lines = [f"{run.path}: {len(steps)} checkpoint{'' if len(steps) == 1 else 's'}, {_some(steps)}"]
    for name in ("read", "given", "assumed"):
        if about[name]:
            lines.append(f"{name:<9} {', '.join(f'{option} {value}' for option, value in about[name].items())}")
    if about["dropped"]:
        lines.append(f"{'dropped':<9} {', '.join(about['dropped'])}")
    results = about["results"]
    if not results:
        lines.append(
            "There is no task, so that nothing shows whether this is right; give --task to see loss and accuracy."
        )
        return "\n".join(lines)
    baselines = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in about["baselines"].items())
    for step in dict.fromkeys((steps[0], steps[-1])):
        numbers = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in results[step].items())
        lines.append(f"step {step}: {numbers}" + (f"  (baselines: {baselines})" if baselines else ""))
    if about["no_better_than_chance"]:
        lines.append("This is no better than chance: what is assumed, the layout or the task may be wrong.")
    return "\n".join(lines)


def _some(steps: list[str]) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
