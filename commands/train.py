"""``headway train``: a run from a recipe, from an earlier run's config, or the rest of a run that stopped."""

from collections.abc import Callable, Collection
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from headway.commands.arguments import checked_directory, checked_path
from headway.commands.failure import fail
from headway.commands.many import add_together, add_workers, train_many

if TYPE_CHECKING:
    from headway.checkpoints import Recipe, Run

# Written out, because importing the recipes takes seconds; a test holds it to them.
RECIPE_LINES = {
    "induction": "A segment of distinct random tokens, repeated until the sequence is full.",
    "fuzzy-induction": "Random tokens, followed by their synonyms: [A] [B] … [A*] [B*], as in Olsson et al. 2022.",
    "indirect-object": "Sentences with two names, one of which is repeated; the answer at the end is the other one.",
    "markov-chains": "Tokens of a Markov chain, a new one in each sequence (Edelman et al. 2024, arXiv 2402.11004).",
    "maximum": "A few random tokens; the answer at the last position is the largest of them (Gross et al. 2024).",
    "modular-addition": "Two numbers and an equals sign; the answer is their sum modulo p (Nanda et al. 2023).",
    "brackets": "Strings of brackets, half of them balanced; the class of a string is read at its first position.",
    "linear-regression": "Pairs of a vector and a number, its linear function; the answer at a vector is its number.",
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
  --seeds 0:100         many runs beside each other, one for each seed, in directories of --out (see headway sweep)
  --together 64         with --seeds: up to so many of them in one process, which is worth it on an accelerator only

headway train RECIPE --help lists the options of that recipe. Sizes of the network that the task decides (model.n_ctx,
model.d_vocab, model.d_vocab_out, model.input_type, model.attention_dir) follow the task unless they are given.
"""


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
        _resume(checked_directory("resume", chosen.resume), chosen.live, chosen.task, chosen.trust)
        return
    out, base = base_recipe(name, chosen.config, chosen.task, chosen.trust)
    _train(out, base, rest, chosen.live, trust=chosen.config is None or chosen.trust)


def base_recipe(name: str | None, config: str | None, task_path: str | None, trust: bool) -> "tuple[str, Recipe]":
    """Return what options change: the name of the run's directory, and the recipe of a name, a config, or a task."""
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
        path = checked_path("config", config)
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
    fitted = {
        "n_ctx": task.n_ctx,
        "d_vocab": task.d_vocab,
        "d_vocab_out": task.d_vocab_out,
        "input_type": task.input_type,
        "attention_dir": task.attention_dir or base.model.attention_dir,
    }
    try:
        model = type(base.model)(**{**base.model.as_given(), **fitted})
    except ValueError as error:
        raise ValueError(f"task: {task_path!r} does not fit any network ({error})") from None
    # A set of sequences may be smaller than the batches of another task.
    training, held_out = task.n_sequences or (base.batch_size, base.eval_batch_size)
    batch_sizes = {
        "batch_size": min(base.batch_size, training),
        "eval_batch_size": min(base.eval_batch_size, held_out),
    }
    return type(task).__name__, replace(base, task=task, model=model, **batch_sizes)


def check_used(recipe: "Recipe", given: Collection[str]) -> None:
    """A ValueError for an option of the command line that this recipe has no use for.

    Files may hold such options: config.yaml holds every one, and in a sweep other runs may use it.
    """
    model, optim = recipe.model, recipe.optim
    for without, unused, options in (
        (model.attn_only, "attn_only True", ("model.d_mlp", "model.act_fn")),
        (model.positional_embedding_type != "rotary",
         f"positional_embedding_type {model.positional_embedding_type}", ("model.rotary_dim", "model.rotary_base")),
        (model.normalization_type is None, "normalization_type null", ("model.eps",)),
        (not model.use_attn_scale, "use_attn_scale False", ("model.attn_scale",)),
        (not model.init_mode.startswith("gpt2"), f"init_mode {model.init_mode}", ("model.initializer_range",)),
        (optim.optimizer == "SGD", "optimizer SGD", ("optim.betas",)),
        (optim.optimizer != "SGD", f"optimizer {optim.optimizer}", ("optim.momentum",)),
    ):  # fmt: skip
        for option in options:
            if without and f"--{option}" in given:
                raise ValueError(f"{option}: it is not used with {unused}; change that too, or leave it out")


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
    parser.add_argument("--seeds", type=str | None, help="many runs, one for each seed: 0:100, or 3,5,11")
    add_workers(parser)
    add_together(parser)
    options = parse(parser, rest)
    given = {argument.partition("=")[0] for argument in rest}
    following = [option for option in base.sizes_of_task if f"--{option}" not in given]
    recipe = Recipe.from_options(kind, options, following)
    check_used(recipe, given)
    out = checked_directory("out", options.out)
    if recipe.task.outside_files is not None and recipe.task.outside_files == base.task.outside_files and not trust:
        raise ValueError(f"config: this recipe reads {base.task.outside_files}; say --trust to let it")

    if options.seeds is not None:
        for option in ("--seed", "--overwrite", "--live"):
            if option in given or (option == "--live" and live):
                raise ValueError(f"{option[2:]}: it cannot be given beside --seeds")
        from headway.sweeps.plan import read_seeds, seeded

        out = out if "--out" in given else out.with_name(f"{out.name}-seeds")
        train_many(seeded(recipe, read_seeds(options.seeds)), out, options)
        return
    for option in ("--workers", "--threads_each", "--on", "--address", "--gpus_each", "--together"):
        if option in given:
            raise ValueError(f"{option[2:]}: it is for many runs; give --seeds too")

    from headway.train import train

    _until_it_stops(lambda: train(**vars(recipe), out=out, overwrite=options.overwrite, live=live), out)


def _resume(path: Path, live: bool, task: str | None, trust: bool) -> None:
    from headway.checkpoints import Run

    run = Run(path)
    if run.imported is None and run.finished:
        print(f"{path} is finished; there is nothing to do.")

    from headway.train import resume

    _until_it_stops(lambda: resume(path, live=live, task=task, trust=trust), path)


def _until_it_stops(go: "Callable[[], Run]", path: Path) -> None:
    """Train, and print the run's summary, or why it ended before its last step."""
    from headway.analyze.report.summary import summary
    from headway.checkpoints.files import holds_run
    from headway.models.lightning_module import DivergedError
    from headway.processes import DiedError, SignalledError
    from headway.train import FailedError, StoppedError

    try:
        run = go()
    except (DivergedError, FailedError) as error:
        fail(f"{error}; what was kept before that is in {path}", code=1)
    except DiedError as error:
        fail(f"{error}; go on with: headway train --resume {path}", code=1)
    except OSError as error:  # also of TensorBoard's files, which other code writes
        fail(f"{error.strerror or error}; go on with: headway train --resume {path}", code=1)
    except StoppedError as error:
        fail(f"{error}; go on with: headway train --resume {path}", code=128 + error.signal)
    except SignalledError as error:  # before the first update, or after the last
        if not holds_run(path):
            raise
        fail(f"stopped; go on with: headway train --resume {path}", code=128 + error.signal)
    print(f"\n{summary(run, progress=True)}")
