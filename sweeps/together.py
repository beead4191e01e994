"""Runs that differ in their seed alone, trained as one stack in one process: worth it on an accelerator."""

import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from headway.checkpoints.files import holds_run
from headway.checkpoints.lock import writing
from headway.checkpoints.recipe import Recipe
from headway.checkpoints.run import Run
from headway.models.config import DROPOUTS
from headway.sweeps.display import ShowRuns
from headway.sweeps.each import Outcome, OutcomesOfRuns, Workers, each
from headway.sweeps.plan import check_folder
from headway.sweeps.train_all import Place, share_kept

if TYPE_CHECKING:
    from headway.models.stacked_module import StackedModule

# Each member holds a few files open.
MOST_MEMBERS = 256


def stacks_of(places: Mapping[str, Place], together: int) -> dict[str, dict[str, Place]]:
    """Return runs in groups of up to ``together`` that differ in their seed alone, by the names of first and last.

    Example:
        >>> from headway.recipes import RECIPES
        >>> from headway.sweeps.plan import seeded
        >>> runs = seeded(RECIPES["induction"], range(5))
        >>> list(stacks_of({name: Place(recipe, Path(name)) for name, recipe in runs.items()}, 2))
        ['seed-000 to seed-001', 'seed-002 to seed-003', 'seed-004']
    """
    kinds: dict[str, dict[str, Place]] = {}
    for name, place in places.items():
        kinds.setdefault(_but_for_its_seed(place.recipe), {})[name] = place
    stacks: dict[str, dict[str, Place]] = {}
    for runs in kinds.values():
        names = list(runs)
        for first in range(0, len(names), together):
            chosen = names[first : first + together]
            title = chosen[0] if len(chosen) == 1 else f"{chosen[0]} to {chosen[-1]}"
            stacks[title] = {name: runs[name] for name in chosen}
    return stacks


def check_together(recipes: Mapping[str, Recipe], together: int) -> None:
    """Check that these runs can be trained ``together`` at a time, before the first one is.

    Raises:
        ValueError: a number of members that is not valid, a recipe that cannot be stacked, more than memory holds.
    """
    from headway.checkpoints.memory import check_memory

    if not 1 <= together <= MOST_MEMBERS:
        raise ValueError(f"together: {together} is not valid; it must be from 1 to {MOST_MEMBERS}")
    stacks = stacks_of({name: Place(recipe, Path(name)) for name, recipe in recipes.items()}, together)
    largest: dict[str, dict[str, Place]] = {}
    for stack in stacks.values():
        largest.setdefault(_but_for_its_seed(next(iter(stack.values())).recipe), stack)
    for stack in largest.values():
        members = [place.recipe for place in stack.values()]
        check_stackable(members[0])
        check_memory(members[0], len(members))
        check_losses(members[:2])


def check_stackable(recipe: Recipe) -> None:
    """Refuse options of a run that a stack cannot have.

    Raises:
        ValueError: dropout, accumulated gradients, a compiled forward pass, or half precision with a scaled loss.
    """
    for name in DROPOUTS:
        if getattr(recipe.model, name):
            raise ValueError(
                f"model.{name}: {getattr(recipe.model, name)} is not valid with together, because the dropout of a "
                "member would not be that of its run alone; it must be 0"
            )
    if recipe.optim.accumulate > 1:
        raise ValueError(
            f"optim.accumulate: {recipe.optim.accumulate} is not valid with together; a stack computes whole batches"
        )
    if recipe.compile:
        raise ValueError("compile: True is not valid with together; a stack is not compiled")
    if recipe.trainer.precision == "16-mixed":
        raise ValueError(
            "trainer.precision: 16-mixed is not valid with together, because one scale of the loss would serve all "
            "members; it must be 32-true or bf16-mixed"
        )


def check_losses(recipes: Sequence[Recipe]) -> None:
    """Check that a stack gives the losses that its members have alone, on their first batches.

    Raises:
        ValueError: a loss that decides by values which differ between members, or draws numbers, and such.
    """
    from headway.data.stacked_batches import stacked
    from headway.data.task import masked_mean
    from headway.models.stacked_module import StackedModule
    from headway.train import training_module

    members = [training_module(recipe) for recipe in recipes]
    batches = [member.task.batch(member.seed, 0, member.batch_size) for member in members]
    task = type(members[0].task).__name__
    try:
        losses = StackedModule(members).losses_of(stacked(batches))
        losses.sum().backward()
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"together: {task} cannot be trained for several seeds at once ({reason})") from None
    with torch.no_grad():
        pairs = zip(members, batches, strict=True)
        alone = [
            masked_mean(each.task.loss(each.model(batch.inputs, **batch.padding), batch), batch.mask)
            for each, batch in pairs
        ]
    if not torch.allclose(losses.detach(), torch.stack(alone), rtol=1e-3, equal_nan=True):
        raise ValueError(
            f"together: {task} cannot be trained for several seeds at once, because its loss is {losses.tolist()} in "
            f"the first batches and {torch.stack(alone).tolist()} of the same runs alone"
        )


def train_stacks(
    recipes: Mapping[str, Recipe], out: str | Path, together: int, workers: Workers, quiet: bool = False
) -> tuple[dict[str, Outcome], signal.Signals | None]:
    """Train runs of which up to ``together`` differ in their seed alone as one stack, and say how each ended.

    Each is an ordinary run in its own directory of ``out``, with weights, scores and log; ``train_all`` then finds the
    circuits and writes the pages. Runs that are finished are left as they are.

    Args:
        recipes: A recipe for each run, by the name of its directory.
        out: Their directory.
        together: The most members of a stack; ``check_together`` says which runs can be stacked.
        workers: Where stacks are trained, one on each worker at a time.
        quiet: Show nothing.

    Raises:
        ValueError: a directory that holds other things, or another run of one of the names.

    Example:
        >>> from headway.recipes import RECIPES
        >>> from headway.sweeps.plan import seeded
        >>> from headway.sweeps.pool import Pool
        >>> with Pool(1) as pool:  # doctest: +SKIP
        ...     train_stacks(seeded(RECIPES["induction"], range(64)), "runs/many", 64, pool)
    """
    out = Path(out).expanduser()
    check_folder(out, recipes)
    stacks = stacks_of({name: Place(recipe, out.absolute() / name) for name, recipe in recipes.items()}, together)
    display = ShowRuns(len(stacks), lambda title: min(map(share_kept, stacks[title].values())), quiet)
    with display:
        ended, asked = each(train_stack, stacks, workers, display)
    outcomes: dict[str, Outcome] = {}
    for title, stack in stacks.items():
        whole = ended[title]
        for name in stack:
            outcomes[name] = replace(whole.of_runs.get(name, whole), warnings=whole.warnings, of_runs={})
    return {name: outcomes[name] for name in recipes}, asked


def train_stack(places: Mapping[str, Place]) -> OutcomesOfRuns:
    """Train the runs of a stack that are not finished, and say how each ended; ``train_one`` then completes them.

    Runs that have kept checkpoints go on together from the last, each with others that have kept the same step. A run
    whose loss is not finite, or whose batch is not valid, ends, and the others go on.
    """
    from headway.analyze import LIVE
    from headway.train import step_to_go_on_from

    outcomes = OutcomesOfRuns()
    stacks: dict[int | None, dict[str, Run]] = {}
    with ExitStack() as locks:
        for name, place in places.items():
            try:
                locks.enter_context(writing(place.path))
                run = _opened(place)
                if run.finished:
                    outcomes[name] = Outcome("finished")
                    continue
                stacks.setdefault(step_to_go_on_from(run, LIVE), {})[name] = run
            except ValueError as error:
                outcomes[name] = Outcome("failed", str(error))
        for after, runs in stacks.items():
            if any(outcome.state == "stopped" for outcome in outcomes.values()):
                outcomes.update(dict.fromkeys(runs, Outcome("stopped", "not started")))
            else:
                outcomes.update(zip(runs, _fit_stack(list(runs.values()), after), strict=True))
    return OutcomesOfRuns({name: outcomes[name] for name in places})


def _opened(place: Place) -> Run:
    if holds_run(place.path):
        return Run(place.path, type(place.recipe.task), trust=True)
    return Run.create(place.path, replace(place.recipe, task=place.recipe.task.resolved()))


def _fit_stack(runs: Sequence[Run], after: int | None) -> list[Outcome]:
    """Train runs from the checkpoint of step ``after``, or from the beginning, and say how each ended."""
    from headway.analyze import LIVE
    from headway.analyze.report.live import report_if_possible
    from headway.analyze.report.tensorboard import RunLogger
    from headway.checkpoints.stacked import MemberFiles, MembersAtCheckpoints
    from headway.models.stacked_module import StackedModule
    from headway.train import StopAtSignal, callbacks_at_checkpoints, fit, threads_of, training_module

    recipe = runs[0].recipe
    members = [training_module(run.recipe) for run in runs]
    stack, stop, loggers = StackedModule(members), StopAtSignal(), [RunLogger(run) for run in runs]
    at_checkpoints = MembersAtCheckpoints(
        recipe.schedule.steps(recipe.steps), [callbacks_at_checkpoints(run, LIVE) for run in runs], loggers
    )
    begin = None if after is None else runs[0].resume_file
    with threads_of(recipe, members[0].model, len(members)):
        try:
            callbacks = [stop, at_checkpoints]
            reached = fit(recipe, stack, callbacks, recipe.steps, begin, progress=False, files=MemberFiles(runs))
        finally:
            for logger, run in zip(loggers, runs, strict=True):
                logger.finalize("success")
                if not run.finished:
                    report_if_possible(run)
    return [_outcome(stack, place, run, reached) for place, run in enumerate(runs)]


def _outcome(stack: "StackedModule", place: int, run: Run, reached: int) -> Outcome:
    if place in stack.ended:
        error = stack.ended[place]
        return Outcome("failed", str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")
    return Outcome("finished") if run.finished else Outcome("stopped", f"stopped at step {reached}")


def _but_for_its_seed(recipe: Recipe) -> str:
    return str(replace(recipe, seed=0).to_dict())
