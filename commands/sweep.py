"""``headway sweep``: many runs that a file describes."""

from pathlib import Path

from headway.commands.arguments import checked_directory, checked_path
from headway.commands.many import add_together, add_workers, train_many

EXAMPLE = """\
A sweep is a YAML file:

  recipe: induction                  # or config: RUN/config.yaml, or task: package.module:Class
  options: {steps: 1000}             # of every run, by the names of headway train RECIPE --help
  grid:                              # every combination of these values
    model.n_layers: [1, 2]
    model.initializer_range: [0.02, 0.05]
  runs: [{optim.lr: 0.001}, {optim.lr: 0.01, optim.warmup_steps: 50}]   # a list in place of a grid, or beside it
  seeds: 0:20                        # of every combination
"""


def sweep_command(arguments: list[str]) -> None:
    """Train every run of a sweep that is not finished yet."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="headway sweep FILE.yaml [options]", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("file", help="a YAML file, as below")
    parser.add_argument(
        "--out", type=str | None, help="directory of the runs; runs/ and the name of the file if not given"
    )
    parser.add_argument(
        "--trust", action="store_true", help="import the task, and read the corpus, that the file names"
    )
    add_workers(parser)
    add_together(parser)
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        print(f"\n{EXAMPLE}", end="")
        return

    from headway.options import parse

    options = parse(parser, arguments)
    file = checked_path("file", options.file)
    out = checked_directory("out", options.out or str(Path("runs") / file.stem))

    from headway.commands.train import RECIPE_LINES, base_recipe
    from headway.sweeps.plan import planned, read_sweep

    values = read_sweep(file)
    if all(values[each] is None for each in ("recipe", "config", "task")):
        raise ValueError(f"sweep: {file} names no recipe, config or task; a recipe is one of {', '.join(RECIPE_LINES)}")
    config = None if values["config"] is None else str(file.parent / values["config"])
    if values["task"] is not None and not options.trust:
        raise ValueError(f"sweep: {file} names the task {values['task']}; say --trust to import it")
    _, base = base_recipe(values["recipe"], config, values["task"], options.trust)
    recipes = planned(base, values)
    for name, recipe in recipes.items():
        if recipe.task.outside_files is not None and not options.trust:
            raise ValueError(f"sweep: {name} reads {recipe.task.outside_files}; say --trust to let it")
    train_many(recipes, out, options)
