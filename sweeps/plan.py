"""The runs of a sweep: a recipe, what is changed in it, and seeds. Each has a name, which is that of its directory."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from headway.checkpoints.files import holds_run, read_yaml
from headway.checkpoints.recipe import Recipe
from headway.checkpoints.run import Run
from headway.data.seeds import check_seed
from headway.options import nearest, shown

# What a file of a sweep holds; ``recipe``, ``config`` and ``task`` say where it starts, as options of ``train`` do.
KEYS = ("recipe", "config", "task", "options", "grid", "runs", "seeds")
MOST_RUNS = 100_000
# What commands write beside the runs of a folder.
BESIDE_RUNS = ("report.html", "reproduction.html", "reproduction.nc")


def read_seeds(given: str | int | Sequence[int]) -> list[int]:
    """The seeds that a text names: single ones and ranges ``first:last``, without the last, with commas between.

    Raises:
        ValueError: what is no seed, an empty range, a seed that is there twice.

    Example:
        >>> read_seeds("0:3,11")
        [0, 1, 2, 11]
    """
    seeds: list[int] = []
    for part in str(given).split(",") if isinstance(given, str | int) else map(str, given):
        match = re.fullmatch(r"\s*([0-9]{1,18})(?::([0-9]{1,18}))?\s*", part)
        if not match:
            raise ValueError(
                f"seeds: {shown(part)} is not valid; it must be a number below {2**32}, or a range such as 0:100"
            )
        first, last = int(match[1]), int(match[2] or int(match[1]) + 1)
        if not 0 < last - first <= MOST_RUNS:
            raise ValueError(
                f"seeds: {part} is not valid; a range first:last, without the last, must hold 1 to {MOST_RUNS:,} seeds"
            )
        seeds += range(first, last)
    if not seeds:
        raise ValueError("seeds: there is none; it must be a number, or a range such as 0:100")
    for seed in seeds:
        check_seed("seeds", seed)
    twice = next((seed for seed, same in itertools.groupby(sorted(seeds)) if len(list(same)) > 1), None)
    if twice is not None:
        raise ValueError(f"seeds: {twice} is given twice; each run has its own")
    return seeds


def seeded(recipe: Recipe, seeds: Sequence[int], name: str = "") -> dict[str, Recipe]:
    """A recipe with each of these seeds, by name.

    Example:
        >>> from headway.recipes import RECIPES
        >>> list(seeded(RECIPES["induction"], [0, 7]))
        ['seed-000', 'seed-007']
    """
    return {f"{name}{',' if name else ''}seed-{seed:03d}": replace(recipe, seed=seed) for seed in seeds}


def read_sweep(path: Path) -> dict[str, Any]:
    """The plain values of a sweep's file, with every key.

    Raises:
        ValueError: a file that is no mapping of KEYS, or says too little.
    """
    try:
        values = read_yaml(path)
    except OSError as error:
        raise ValueError(f"sweep: {path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"sweep: {path} {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"sweep: {path} is not valid; it must be a mapping of {', '.join(KEYS)}")
    for key in values:
        if key not in KEYS:
            raise ValueError(f"sweep: {shown(key)} is not one of {', '.join(KEYS)}{nearest(str(key), KEYS)}")
    for key, kind, words in (
        ("recipe", str, "the name of a recipe"),
        ("config", str, "the path of a config.yaml"),
        ("task", str, "an import path, package.module:Class"),
        ("options", dict, "a mapping of options"),
        ("grid", dict, "a mapping of an option to a list of values"),
        ("runs", list, "a list of mappings of options"),
        ("seeds", str | int | list, "a number, a range such as 0:100, or a list"),
    ):
        if values.get(key) is not None and (not isinstance(values[key], kind) or isinstance(values[key], bool)):
            raise ValueError(f"{key}: {shown(values[key])} is not valid; it must be {words}")
    return {key: values.get(key) for key in KEYS}


def dotted(where: str, options: Mapping[Any, Any]) -> dict[str, Any]:
    """Return options by the names that a command line has; a mapping may stand for a part, as in a config.yaml.

    Raises:
        ValueError: a name that is no text, an option that is given in both ways.

    Example:
        >>> dotted("options", {"steps": 5, "model": {"n_layers": 1}})
        {'steps': 5, 'model.n_layers': 1}
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        part = value if isinstance(value, Mapping) and isinstance(name, str) and "." not in name else None
        for inner, each in ((name, value),) if part is None else part.items():
            if not isinstance(inner, str) or not inner:
                raise ValueError(f"{where}: {shown(inner)} is not valid; it must be the name of an option")
            option = inner if part is None else f"{name}.{inner}"
            if option in found:
                raise ValueError(f"{where}.{option}: it is given twice; give it once")
            found[option] = each
    return found


def settings(grid: Mapping[str, Any] | None, runs: Sequence[Any] | None) -> list[dict[str, Any]]:
    """The options of each kind of run: every combination of ``grid`` with each of ``runs``.

    Raises:
        ValueError: an option without values, a run that is no mapping, a name that is no text.

    Example:
        >>> settings({"optim.lr": [0.1, 0.2]}, [{"steps": 5}])
        [{'steps': 5, 'optim.lr': 0.1}, {'steps': 5, 'optim.lr': 0.2}]
    """
    for given in (("grid", grid), ("runs", runs)):
        if given[1] is not None and not given[1]:
            raise ValueError(f"{given[0]}: it is empty; it must name an option or more")
    grid = dotted("grid", grid or {})
    for option, options in grid.items():
        if not isinstance(options, list) or not options:
            raise ValueError(f"grid.{option}: {shown(options)} is not valid; it must be a list with a value or more")
    for options in runs or []:
        if not isinstance(options, dict) or not options:
            raise ValueError(f"runs: {shown(options)} is not valid; it must be a mapping of options")
    runs = [dotted("runs", options) for options in runs or [{}]]
    combined = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    for options in runs:
        both = next((option for option in options if option in grid), None)
        if both is not None:
            raise ValueError(f"runs.{both}: the grid gives it too; only one of them can")
    return [{**options, **point} for options in runs for point in combined]


def planned(base: Recipe, values: Mapping[str, Any]) -> dict[str, Recipe]:
    """The runs of a sweep by name: ``base`` with its common ``options``, each of its ``settings``, and each seed.

    Raises:
        ValueError: an option that does not exist or has a wrong value; two runs of one name, or with the same options.
    """
    common, kinds = dotted("options", values.get("options") or {}), settings(values.get("grid"), values.get("runs"))
    if "seed" in {*common, *(option for options in kinds for option in options)}:
        raise ValueError("seed: each run has its own; give them as seeds")
    seeds = read_seeds(0 if values.get("seeds") is None else values["seeds"])
    if len(kinds) * len(seeds) > MOST_RUNS:
        raise ValueError(f"sweep: {len(kinds) * len(seeds):,} runs are too many; a sweep has up to {MOST_RUNS:,}")
    recipes: dict[str, Recipe] = {}
    same: dict[str, str] = {}
    for options in kinds:
        both = next((option for option in options if option in common), None)
        if both is not None:
            raise ValueError(f"options.{both}: the grid or the runs give it too; only one of them can")
        name = name_of(options)
        try:
            recipe = base.changed({**common, **options})
        except ValueError as error:
            raise ValueError(f"{error} (in the run {name})" if name else str(error)) from None
        runs = seeded(recipe, seeds, name)
        twice = next((each for each in runs if each in recipes), None)
        if twice is not None:
            raise ValueError(f"sweep: {twice} is there twice; each run has its own options")
        other = same.setdefault(str(recipe.to_dict()), name)
        if other != name:
            raise ValueError(f"sweep: {name} and {other} are the same run; each has its own options")
        recipes |= runs
    return recipes


def name_of(options: Mapping[str, Any]) -> str:
    """Return the options that differ, as the name of a folder.

    Example:
        >>> name_of({"model.n_layers": 2, "optim.betas": [0.9, 0.95], "task.bos": False})
        'n_layers=2,betas=0.9-0.95,bos=false'
    """
    last = [option.rpartition(".")[2] for option in options]
    names = [short if last.count(short) == 1 else option for option, short in zip(options, last, strict=True)]
    return ",".join(f"{name}={_as_text(value)}" for name, value in zip(names, options.values(), strict=True))


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_as_text, value))
    text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^\w.+-]+", "-", text)[-60:] or "-"


def check_folder(out: Path, recipes: Mapping[str, Recipe], trust: bool = True) -> None:
    """Check that these runs can be in a folder: what is there of them must be the same runs.

    Raises:
        ValueError: a file, a run or what lies in one, a folder that holds something else, or a run of that name with
            another recipe.
    """
    file = next((each for each in (out, *out.parents) if each.exists() and not each.is_dir()), None)
    if file is not None:
        raise ValueError(f"out: {file} is a file; it must be a directory")
    if holds_run(out):
        raise ValueError(f"out: {out} is a run; runs lie beside each other in a folder, not in each other")
    for there in sorted(out.iterdir()) if out.exists() else []:
        ours = there.is_file() and there.name in BESIDE_RUNS
        if (
            not ours
            and not (there.is_dir() and (there.name in recipes or holds_run(there)))
            and not there.name.startswith(".")
        ):
            raise ValueError(f"out: {out} holds {there.name}, which is no run; it must be empty, or hold runs")
    for name, recipe in recipes.items():
        if len(name.encode()) > 255:
            raise ValueError(f"out: the name {shown(name, 60)} is too long for a folder; vary fewer options")
        if not holds_run(out / name):
            Run.place(out / name, overwrite=False)
        else:
            there = Run(out / name, type(recipe.task), trust).recipe
            changed = differences(there.to_dict(), replace(recipe, task=recipe.task.resolved()).to_dict())
            if changed:
                raise ValueError(f"out: {out / name} is another run ({'; '.join(changed)})")


def differences(there: Mapping[str, Any], here: Mapping[str, Any], part: str = "") -> list[str]:
    """Return the differences between two recipes, in words.

    Example:
        >>> differences({"steps": 5, "model": {"n_heads": 2}}, {"steps": 5, "model": {"n_heads": 3}})
        ['model.n_heads is 2 there and 3 here']
    """
    found: list[str] = []
    for name in dict.fromkeys((*there, *here)):
        old, new = there.get(name), here.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{part}{name}.")
        elif old != new:
            found.append(f"{part}{name} is {shown(old, 40)} there and {shown(new, 40)} here")
    return found
