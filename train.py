"""One run: the place where data, models, checkpoints and analysis meet. ``python train.py RECIPE`` is the same."""

import sys

if __name__ == "__main__":
    # As a script this file is the command, and its --help need not wait for the imports below.
    from headway.__main__ import main

    main(["train", *sys.argv[1:]])
    sys.exit()


import inspect
import logging
import signal
import sys
import threading
import time
import timeit
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from headway.analyze import LIVE, Measure, measure
from headway.analyze.circuiting import circuit_at_end
from headway.analyze.measures.callback import MeasureWhileTraining
from headway.analyze.report.callback import ReportWhileTraining
from headway.analyze.report.live import page_is_new, refresh_page, report_if_possible
from headway.analyze.report.tensorboard import RunLogger, log_scores, mend_log
from headway.checkpoints.callback import AtCheckpoints, KeepCheckpoints, WholeFiles
from headway.checkpoints.lock import writing
from headway.checkpoints.memory import check_memory
from headway.checkpoints.recipe import Recipe, TrainerConfig, check_direction
from headway.checkpoints.resuming import check_resume_file
from headway.checkpoints.run import Run
from headway.checkpoints.schedule import Schedule
from headway.data.task import Batch, Task, check_positions
from headway.devices import StopTogether, other_ranks
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer
from headway.models.lightning_module import TrainingModule
from headway.models.optim import OptimConfig
from headway.processes import STOPPING, hold_back, let_through


class StoppedError(RuntimeError):
    """A run was stopped by a signal before its last step; the step it stopped at is kept."""

    def __init__(self, step: int, by: signal.Signals):
        super().__init__(f"stopped at step {step}")
        self.signal = by


class FailedError(RuntimeError):
    """A run cannot go on, because of what it met after its first update; the checkpoints kept so far stay."""


def train(
    task: Task,
    model: ModelConfig,
    out: str | Path,
    optim: OptimConfig = OptimConfig(),
    schedule: Schedule = Schedule(),
    trainer: TrainerConfig = TrainerConfig(),
    steps: int = 1500,
    batch_size: int = 64,
    seed: int = 0,
    eval_seed: int = 0,
    eval_batch_size: int = 64,
    compile: bool = False,
    measures: Sequence[Measure] | None = None,
    overwrite: bool = False,
    live: bool = False,
    progress: bool = True,
) -> Run:
    """Train a network, keep its checkpoints, score its heads at each of them, and write the page that shows them.

    Args:
        task: What the network is trained on.
        model: The network's sizes and kinds.
        out: Directory of the run.
        optim: Optimiser, learning rate, clipping.
        schedule: Which steps are kept.
        trainer: Precision and hardware.
        steps: Number of updates.
        batch_size: Sequences in each update.
        seed: Seed of the initial weights and of the training data.
        eval_seed: Seed of the fixed evaluation batch.
        eval_batch_size: Sequences in the evaluation batch.
        compile: Compile the training forward pass (torch.compile).
        measures: What is scored at each checkpoint; the live ones of MEASURES if None.
        overwrite: Replace a run that is in ``out`` already.
        live: Write the page at every kept step, and not only at the end.
        progress: Show a progress bar.

    Raises:
        ValueError: arguments that do not fit together, or an ``out`` that holds a run. Nothing on disk has changed.
        DivergedError: the loss is no longer a number; the checkpoints kept so far stay.
        FailedError: a later batch of the task is not valid; the checkpoints kept so far stay.
        DiedError: another process of a run on several devices is gone; the checkpoints kept so far stay.
        StoppedError: Ctrl-C, SIGTERM or SIGHUP; the step it stopped at is kept.

    Example:
        >>> from headway.data.previous_token import PreviousToken
        >>> run = train(PreviousToken(length=5), ModelConfig(1, 8, 5, 4, 2, 300), "runs/tiny")  # doctest: +SKIP
        >>> run.scores.previous_token.sel(step=0, layer=0, head=1)  # doctest: +SKIP
    """
    check_hardware(trainer)
    task = task.resolved()
    recipe = Recipe(
        task=task,
        model=model,
        optim=optim,
        schedule=schedule,
        trainer=trainer,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        eval_seed=eval_seed,
        eval_batch_size=eval_batch_size,
        compile=compile,
    )
    check_memory(recipe)
    check_first_batch(recipe)
    path, _ = Run.place(out, overwrite)
    recipe.to_yaml()  # refuses what a file cannot hold, before there is a directory
    with writing(path):
        run = Run.create(path, recipe, overwrite)
        _fit(run, LIVE if measures is None else measures, None, live, progress)
    return run


class _CallableModule(ModuleType):
    """The module ``headway.train``: ``headway.train(...)`` calls ``headway.train.train(...)``.

    So the name means the same whether or not somebody has imported the module.
    """

    __call__ = staticmethod(train)
    __signature__ = inspect.signature(train)


sys.modules[__name__].__class__ = _CallableModule


def resume(
    path: str | Path,
    measures: Sequence[Measure] | None = None,
    live: bool = False,
    task: type[Task] | str | None = None,
    trust: bool = False,
    progress: bool = True,
) -> Run:
    """Go on with a run where it stopped; what comes out is bit for bit what an undisturbed run would have given.

    A finished run is not trained again; a score that is missing, because the run died before it, is computed.

    Args:
        path: Directory of the run.
        measures: What is scored at each checkpoint; the live ones of MEASURES if None.
        live: Write the page at every kept step, and not only at the end.
        task: The class of the run's task or its import path, as of ``Run``.
        trust: Import whatever task the run names, as of ``Run``.
        progress: Show a progress bar.

    Raises:
        ValueError: a run that cannot go on. Nothing on disk has changed.
    """
    run, measures = Run(path, task, trust), LIVE if measures is None else measures
    if run.imported is not None:
        raise ValueError(f"resume: {run.path} was imported; it is finished, and no state of its training is there")
    with writing(run.path):
        if not run.finished:
            _ = run.task  # whose code, or whose files, may need the user's word
            check_hardware(run.recipe.trainer)
            check_memory(run.recipe)
            _fit(run, measures, step_to_go_on_from(run, measures), live, progress)
        _complete_scores(run, measures, run.steps)
        mend_log(run, run.steps[-1])
        with threads_of(run.recipe, run.model()):
            _find_circuit(run)
        refresh_page(run)
    return run


def step_to_go_on_from(run: Run, measures: Sequence[Measure]) -> int | None:
    """Complete a run up to its last whole checkpoint, and return its step; None for a run that begins.

    Raises:
        ValueError: a run that cannot go on. Nothing on disk has changed.
    """
    step = check_resume_file(run)
    if step is not None:
        # It may have died between two scores of a step, which are logged together.
        _complete_scores(run, measures, [kept for kept in run.steps if kept <= step])
    mend_log(run, step)
    return step


def _find_circuit(run: Run) -> None:
    """Find the circuit of a finished run that has none, or warn why not: training must not end in an error then.

    A run that was killed while it was written has the circuit, but not its numbers at every checkpoint.
    """
    followed = any(run.circuit_file(None, part, replacement).exists() for _, part, replacement in run.circuits)
    if followed or not run.finished:
        return
    try:
        circuit_at_end(run)
    except Exception as error:
        warnings.warn(f"circuit: none was looked for ({type(error).__name__}: {error})", stacklevel=2)


def _complete_scores(run: Run, measures: Sequence[Measure], steps: list[int]) -> None:
    """Compute the scores that are missing, with the threads of training, so that they are the same."""
    with threads_of(run.recipe, run.model(steps[-1])):
        measure(run, measures, steps)


def is_complete(run: Run) -> bool:
    """Return whether nothing is left to do for a run: it is finished, and its page shows everything that it holds."""
    return run.finished and page_is_new(run)


def _fit(run: Run, measures: Sequence[Measure], after: int | None, live: bool, progress: bool) -> None:
    """Train from the checkpoint of step ``after``, or from the beginning."""
    recipe = run.recipe
    stop = StopAtSignal()
    callbacks = [stop, *callbacks_at_checkpoints(run, measures, live)]
    module = training_module(recipe)
    with threads_of(recipe, module.model):
        try:
            begin = None if after is None else run.resume_file
            reached = fit(recipe, module, callbacks, recipe.steps, begin, RunLogger(run), progress)
        except ValueError as error:
            raise FailedError(str(error)) from error
        finally:
            _find_circuit(run)
            report_if_possible(run)  # also of a run that was stopped, or diverged
    if stop.asked is not None and not run.finished:
        raise StoppedError(reached, stop.asked)


def callbacks_at_checkpoints(run: Run, measures: Sequence[Measure], live: bool = False) -> list[AtCheckpoints]:
    """Return what keeps the checkpoints of a run that trains, scores them, and if ``live`` shows them."""
    recipe = run.recipe
    steps = recipe.schedule.steps(recipe.steps)
    return [
        KeepCheckpoints(run, steps, recipe.schedule.states(recipe.steps)),
        MeasureWhileTraining(run, steps, measures, log_scores),
        *([ReportWhileTraining(run, steps)] if live else []),
    ]


def training_module(recipe: Recipe) -> TrainingModule:
    """The Lightning module of a recipe, with its initial weights."""
    return TrainingModule(
        HookedTransformer(recipe.model, seed=recipe.seed),
        recipe.task,
        recipe.optim,
        recipe.steps,
        recipe.batch_size,
        recipe.seed,
        compile=recipe.compile,
    )


def fit(
    recipe: Recipe,
    module: L.LightningModule,
    callbacks: Sequence[L.Callback],
    last: int,
    begin: Path | None = None,
    logger: RunLogger | bool = False,
    progress: bool = True,
    files: WholeFiles | None = None,
) -> int:
    """Train a module up to a step, from Lightning's checkpoint ``begin`` or from the first; return the step reached.

    ``files`` reads and writes Lightning's checkpoints.
    """
    # Lightning saves its checkpoint in all processes of a run.
    shared = [each for each in callbacks if isinstance(each, KeepCheckpoints)]
    pauses = {last, *(step for each in callbacks if isinstance(each, AtCheckpoints) for step in each.steps)}
    if isinstance(module, TrainingModule):
        module.pauses = pauses
    with without_advice(), other_ranks(recipe, last, begin, shared, pauses) as strategy:
        trainer = trainer_of(recipe, callbacks, last, strategy, logger, progress, files)
        trainer.fit(module, ckpt_path=None if begin is None else str(begin), weights_only=True)
    return trainer.global_step


def trainer_of(
    recipe: Recipe,
    callbacks: Sequence[L.Callback],
    last: int,
    strategy: DDPStrategy | str,
    logger: RunLogger | bool = False,
    progress: bool = False,
    files: WholeFiles | None = None,
) -> L.Trainer:
    """Lightning's Trainer of a run, in one of its processes."""
    together = [StopTogether()] if recipe.trainer.devices > 1 else []
    return L.Trainer(
        accelerator=recipe.trainer.accelerator,
        devices=recipe.trainer.devices,
        strategy=strategy,
        precision=recipe.trainer.precision,
        max_steps=last,
        max_epochs=-1,
        logger=logger,
        plugins=[files or WholeFiles()],
        callbacks=[*callbacks, *together, *([LossBar()] if progress else [])],
        enable_progress_bar=progress,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


@contextmanager
def without_advice() -> Iterator[None]:
    """Lightning says nothing of hardware, worker processes, logging intervals, and checkpoints that are not its own."""
    logs = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@contextmanager
def threads_of(recipe: Recipe, model: HookedTransformer, members: int = 1) -> Iterator[None]:
    """torch's CPU threads while a run goes on: those of the recipe, or one for each GFLOP of a training step.

    Below that, threads wait for each other longer than they work. A step of a stack is that of all of its members.
    """
    before = torch.get_num_threads()
    share = max(1, before // recipe.trainer.devices)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    step = 6 * parameters * recipe.batch_size * recipe.task.n_ctx * members
    torch.set_num_threads(recipe.trainer.threads or min(share, max(1, round(step / 1e9))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_first_batch(recipe: Recipe) -> None:
    """A ValueError if the network cannot take the task's batches, or memory does not hold them."""
    task, model = recipe.task, recipe.model
    check_direction(task, model)
    try:
        network = HookedTransformer(model, seed=recipe.seed)
        for batch in (
            task.evaluation_batch(recipe.eval_seed, recipe.eval_batch_size),
            task.batch(recipe.seed, 0, recipe.batch_size),
        ):
            check_positions(batch, "task")
            if not batch.mask.any():
                raise ValueError("task: no position of its batch counts; mask must be True somewhere")
            check_targets_fit(batch, model.d_vocab_out)
        with torch.no_grad():
            task.loss(network(batch.inputs, **batch.padding), batch)  # the training batch
    except (RuntimeError, MemoryError) as error:
        said = str(error).splitlines()[0] if str(error) else "out of memory"
        raise ValueError(f"the first step cannot be taken: {said}") from error


def check_targets_fit(batch: Batch, outputs: int) -> None:
    """A ValueError for targets, where they count, that are none of the network's outputs."""
    targets = batch.targets[batch.mask]
    if targets.is_floating_point():
        if targets.ndim != 2:
            shape = tuple(batch.targets.shape)
            raise ValueError(f"task: its targets have the shape {shape}; numbers must be [batch, pos, d_vocab_out]")
        if targets.shape[1] != outputs:
            raise ValueError(f"model.d_vocab_out: {outputs} is not valid; a target of the task has {targets.shape[1]}")
    elif not 0 <= targets.min() <= targets.max() < outputs:
        raise ValueError(
            f"task: targets from {targets.min()} to {targets.max()} are not valid; "
            f"this network puts out 0 to {outputs - 1}"
        )


def check_hardware(config: TrainerConfig) -> None:
    """Refuse an accelerator or a precision that is not to be had here; warn of one that would take very long.

    Raises:
        ValueError: Lightning cannot give it, or would silently give another.
    """
    try:
        with without_advice():
            device = L.Trainer(
                accelerator=config.accelerator,
                devices=config.devices,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
            ).strategy.root_device
    except (ValueError, MisconfigurationException) as error:
        many = "" if config.devices == 1 else f" {config.devices} times"
        raise ValueError(f"trainer.accelerator: {config.accelerator!r} is not to be had here{many}: {error}") from None
    if device.type != "cpu" or config.precision == "32-true":
        return
    if config.precision == "16-mixed":
        raise ValueError("trainer.precision: '16-mixed' is not valid on a CPU; it must be 32-true or bf16-mixed")
    slowdown = bf16_slowdown()
    if slowdown > 1.5:
        warnings.warn(
            f"trainer.precision: bf16-mixed will be very slow: this CPU takes {slowdown:.0f} times as long for a "
            "matrix product in bf16 as in float32",
            stacklevel=3,
        )


def bf16_slowdown() -> float:
    """Return how much longer this CPU takes for a matrix product in bf16 than in float32: below 1 if it has bf16."""

    def seconds(dtype: torch.dtype) -> float:
        x = torch.ones(128, 128, dtype=dtype)
        return min(timeit.repeat(lambda: x @ x, number=1, repeat=5))

    return seconds(torch.bfloat16) / seconds(torch.float32)


class LossBar(TQDMProgressBar):
    """Lightning's progress bar with the loss and positions per second; steps and time left are tqdm's.

    It is drawn at most ten times a second.
    """

    drawn = 0.0

    def on_train_start(self, *others: Any) -> None:
        """Begin at the first update, or at that from which a run goes on."""
        super().on_train_start(*others)
        trainer, pl_module = self.trainer, self.trainer.lightning_module
        assert isinstance(pl_module, TrainingModule)
        bar = self.train_progress_bar
        bar.reset(total=pl_module.steps)
        bar.n = bar.initial = trainer.global_step
        bar.set_description("training")

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """A run is one pass over fresh data: it has steps and no epochs."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw the bar if its last picture is old: it takes as long as an update of a small network."""
        if time.monotonic() - self.drawn > 0.1:
            self._draw(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the last update."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        bar = self.train_progress_bar
        bar.n = trainer.global_step
        if not bar.disable:
            bar.set_postfix(self.get_metrics(trainer, pl_module))
        self.drawn = time.monotonic()

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the fields at the end of the bar: the loss, and the positions per second."""
        assert isinstance(pl_module, TrainingModule)
        bar = self.train_progress_bar
        # tqdm's own rate is of the time since the bar was last drawn.
        rate = (bar.n - bar.initial) / max(bar.format_dict["elapsed"], 1e-9)
        positions = rate * pl_module.batch_size * pl_module.task.n_ctx
        return {"loss": f"{pl_module.loss.item():.4f}", "positions/s": f"{positions:,.0f}"}


class StopAtSignal(L.Callback):
    """Ends a run after the step at which a signal came, so that it can go on from there; a second one kills it."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():  # no other may handle signals
            # Known before Lightning puts in handlers of its own, which it removes before ``teardown``.
            # What is ignored stays so, such as SIGHUP under nohup.
            handlers = {each: signal.getsignal(each) for each in STOPPING}
            self.before = {each: handler for each, handler in handlers.items() if handler != signal.SIG_IGN}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hold signals back while Lightning's handlers are there, which would end well at SIGTERM."""
        hold_back(self.before)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the signals from Lightning."""

        def ask(number: int, _frame: FrameType | None) -> None:
            self.asked = signal.Signals(number)
            # Several processes agree after each update; none may leave at another moment.
            trainer.should_stop |= trainer.world_size == 1
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

        for each in self.before:
            signal.signal(each, ask)
        let_through(self.before)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask for the end, if a signal has."""
        trainer.should_stop |= self.asked is not None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Let signals through, also where training has not begun."""
        let_through(self.before)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for each, handler in self.before.items():
            signal.signal(each, handler)
