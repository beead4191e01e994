"""More checkpoints within a part of training that is over: that part is trained again, from a state that was kept."""

from collections.abc import Collection, Sequence
from pathlib import Path

import lightning as L
import numpy as np
import torch

from headway.analyze import LIVE, Measure, measure
from headway.analyze.circuits.of_run import complete_over_steps
from headway.analyze.measures.run_nulls import Nulls
from headway.analyze.report.live import refresh_page
from headway.analyze.report.tensorboard import mend_log
from headway.checkpoints.callback import AtCheckpoints
from headway.checkpoints.lock import writing
from headway.checkpoints.resuming import check_state_file
from headway.checkpoints.run import Run
from headway.checkpoints.scores import score_files
from headway.data.task import Task
from headway.models.hooked_transformer import HookedTransformer
from headway.models.lightning_module import TrainingModule
from headway.train import StopAtSignal, StoppedError, fit, threads_of, training_module


def densify(
    path: str | Path,
    between: tuple[int, int],
    steps: int = 20,
    measures: Sequence[Measure] | None = None,
    from_start: bool = False,
    inexact: bool = False,
    task: type[Task] | str | None = None,
    trust: bool = False,
    progress: bool = True,
) -> list[int]:
    """Keep and score further checkpoints between two of a run, and return their steps; none if all are kept already.

    Training goes on from the last state that was kept at or before the first of the two (``schedule.state_every``),
    with the same batches. At the second it must have the weights that the run has kept, to the last bit; then the new
    checkpoints are those of the run, at which circuits that were followed over training are evaluated too. The same
    call after one that was killed does what is left: scores, circuits, TensorBoard's files, the page.

    Args:
        path: Directory of the run.
        between: Two checkpoints.
        steps: How many further checkpoints lie between them, evenly in log(step); fewer if there are fewer steps.
        measures: What is scored there; the live ones of MEASURES if None.
        from_start: Begin at step 0, whose state follows from the recipe, where none was kept.
        inexact: Keep checkpoints whose training ends with other weights, as on hardware that rounds differently.
        task: The class of the run's task or its import path, as of ``Run``.
        trust: Import whatever task the run names, as of ``Run``.
        progress: Show a progress bar.

    Raises:
        ValueError: steps that have no checkpoint, no step between them, no state before them, a damaged null, or other
            weights at the end; nothing is kept then.
        StoppedError: Ctrl-C, SIGTERM or SIGHUP; nothing is kept either.

    Example:
        >>> densify("runs/induction", (142, 179), steps=20)  # doctest: +SKIP
    """
    run = Run(path, task, trust)
    if run.imported is not None:
        raise ValueError(f"densify: {run.path} was imported; its training cannot be repeated")
    first, last = map(run.check_step, between)
    measures = LIVE if measures is None else measures
    new = dense_steps(first, last, steps, set(run.steps) - _unscored(run, first, last, measures))
    if new:
        _ = run.task  # whose code, or whose files, may need the user's word
    with writing(run.path):
        if new:
            begin = _state_before(run, first, from_start)
            Nulls(run, measures, run.batch()).check()  # nothing is kept if what is kept cannot be scored
            module = _trained_again(run, new, last, begin, inexact, progress)
            with threads_of(run.recipe, module.model):
                measure(run, measures, new)
        complete_over_steps(run)
        mend_log(run, run.steps[-1])
        refresh_page(run)
    return new


def _trained_again(
    run: Run, new: list[int], last: int, begin: Path | None, inexact: bool, progress: bool
) -> TrainingModule:
    """Train up to step ``last`` from a state, and make checkpoints of the run of what is new on the way."""
    module = training_module(run.recipe)
    stop, kept = StopAtSignal(), _KeepWeights(run, new)
    with threads_of(run.recipe, module.model):
        reached = fit(run.recipe, module, [stop, kept], last, begin, progress=progress)
    if stop.asked is not None:
        raise StoppedError(reached, stop.asked)
    difference = _difference(module.model, run.model(last))
    if difference and not inexact:
        raise ValueError(
            f"densify: the weights at step {last} are not those that were kept: they differ by up to "
            f"{difference:.2g}; --inexact keeps the new checkpoints all the same"
        )
    kept.write()
    return module


def dense_steps(first: int, last: int, count: int, kept: Collection[int]) -> list[int]:
    """Return ``count`` steps between two others, evenly in log(step), without those that are kept already.

    Raises:
        ValueError: no step lies between.

    Example:
        >>> dense_steps(10, 20, 4, kept=[10, 15, 20])
        [12, 13, 17]
    """
    if not 1 <= count <= 10_000:
        raise ValueError(f"steps: {count} is not valid; it must be from 1 to 10,000")
    if last - first < 2:
        raise ValueError(f"between: no step lies between {first} and {last}; the second must be larger by 2 or more")
    spaced = np.expm1(np.linspace(np.log1p(first), np.log1p(last), count + 2))[1:-1]
    return sorted({round(float(step)) for step in spaced} - {*kept, first, last})


def _unscored(run: Run, first: int, last: int, measures: Sequence[Measure]) -> set[int]:
    """Return the checkpoints in between without the scores of the first: a command was killed that had kept them."""
    scored: dict[int, set[str]] = {}
    for step, name in score_files(run.path):
        scored.setdefault(step, set()).add(name)
    needed = {each.name for each in measures} & scored.get(first, set())
    return {step for step in run.steps if first < step < last and needed - scored.get(step, set())}


def _state_before(run: Run, first: int, from_start: bool) -> Path | None:
    """Return the file of the last state that was kept up to a step; None for the start."""
    states = [step for step in run.steps if step <= first and run.state_file(step).exists()]
    if states:
        file = run.state_file(states[-1])
        if check_state_file(run, file) != states[-1]:
            raise ValueError(f"densify: {file} is of another step; it was altered")
        return file
    if not from_start and first > 0:
        raise ValueError(
            f"densify: no state of training was kept before step {first}; --from_start trains the {first} steps before "
            "it again, and runs with --schedule.state_every keep some"
        )
    return None


class _KeepWeights(AtCheckpoints):
    """Keep weights in memory, until it is known that they are those of the run."""

    def __init__(self, run: Run, steps: list[int]):
        super().__init__(run, steps)
        self.kept: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep nothing at the start, which the run has."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep nothing at the end, which the run has."""

    def at_checkpoint(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """Keep the weights of a new checkpoint."""
        weights = module.model.state_dict()
        self.kept[step] = {name: value.detach().cpu().clone() for name, value in weights.items()}

    def write(self) -> None:
        """Make them checkpoints of the run, but for those that it has."""
        model, there = HookedTransformer(self.run.recipe.model), self.run.steps
        for step, weights in self.kept.items():
            if step in there:
                continue
            model.load_state_dict(weights)
            self.run.keep(step, model)


def _difference(model: HookedTransformer, kept: HookedTransformer) -> float:
    """Return the largest difference between two networks' weights."""
    theirs = kept.state_dict()
    return max(
        float((value.detach().float().cpu() - theirs[name]).abs().max()) for name, value in model.state_dict().items()
    )
