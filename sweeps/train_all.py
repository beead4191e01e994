"""The runs of a sweep, trained: what is finished is skipped, and what stopped goes on."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from headway.checkpoints.files import holds_run
from headway.checkpoints.recipe import Recipe
from headway.checkpoints.run import Run
from headway.sweeps.display import ShowRuns
from headway.sweeps.each import InterruptedJobError, Outcome, SkippedError, Workers, each
from headway.sweeps.plan import check_folder


@dataclass(frozen=True)
class Place:
    """One run of a sweep: its recipe and its directory."""

    recipe: Recipe
    path: Path


def train_one(place: Place) -> None:
    """Train the run of a place, or go on with it.

    Raises:
        SkippedError: it is finished, with its scores and its page.
        InterruptedJobError: it was asked to end; the step it stopped at is kept.
    """
    from headway.train import StoppedError, is_complete, resume, train

    try:
        if not holds_run(place.path):
            train(**vars(place.recipe), out=place.path, progress=False)
        elif is_complete(Run(place.path)):
            raise SkippedError("finished")
        else:
            resume(place.path, task=type(place.recipe.task), trust=True, progress=False)
    except StoppedError as error:
        raise InterruptedJobError(str(error)) from None


def check_all(recipes: Mapping[str, Recipe], out: Path) -> None:
    """Check that these runs can be trained, before the first one is: each kind of them once, whatever its seeds.

    Raises:
        ValueError: hardware that is not to be had, a network that the task does not fit or memory does not hold, a
            directory that holds other things.
    """
    from headway.checkpoints.memory import check_memory
    from headway.train import check_first_batch, check_hardware

    check_folder(out, recipes)
    for recipe in recipes.values():
        if recipe.trainer.devices > 1:
            raise ValueError(
                f"trainer.devices: {recipe.trainer.devices} is not valid for many runs, which share out the devices"
            )
    kinds: dict[str, Recipe] = {}
    for recipe in recipes.values():
        kinds.setdefault(replace(recipe, seed=0).to_yaml(), recipe)
    for trainer in {recipe.trainer for recipe in kinds.values()}:
        check_hardware(trainer)
    for recipe in kinds.values():
        check_memory(recipe)
        check_first_batch(recipe)


def train_all(
    recipes: Mapping[str, Recipe], out: str | Path, workers: Workers | None = None, quiet: bool = False
) -> tuple[dict[str, Outcome], signal.Signals | None]:
    """Train many runs beside each other, each in its own directory of ``out``, and say how each ended.

    Args:
        recipes: A recipe for each run, by the name of its directory; ``headway.sweeps.plan`` makes them.
        out: Their directory. Runs that it holds are skipped if they are finished, and go on if they are not.
        workers: Where they are trained: a ``Pool``, or ``Ray``. A pool that shares the cores of this machine if None.
        quiet: Show nothing.

    Raises:
        ValueError: a directory that holds other things, or another run of one of the names.

    Example:
        >>> from headway.recipes import RECIPES
        >>> from headway.sweeps.plan import seeded
        >>> train_all(seeded(RECIPES["induction"], range(100)), "runs/many")  # doctest: +SKIP
    """
    from headway.sweeps.pool import Pool, cores

    out = Path(out).expanduser()
    check_folder(out, recipes)
    places = {name: Place(recipe, out.absolute() / name) for name, recipe in recipes.items()}
    display = ShowRuns(len(places), lambda name: share_kept(places[name]), quiet)
    if workers is not None:
        with display:
            return each(train_one, places, workers, display)
    with Pool(min(len(places), cores())) as pool, display:
        return each(train_one, places, pool, display)


def share_kept(place: Place) -> float:
    """Return how far a run is: the last step that it has kept, as a share of all."""
    try:
        steps = Run(place.path).steps
    except ValueError:
        return 0.0
    return (steps[-1] if steps else 0) / place.recipe.steps
