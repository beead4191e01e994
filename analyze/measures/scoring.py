"""Scoring of a run: every measure at every checkpoint, each number computed once."""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import xarray as xr
from tqdm import tqdm

from headway.analyze.measures.attention import STORED_SEQUENCES
from headway.analyze.measures.evaluation_sequences import described, evaluation_sequences
from headway.analyze.measures.measure import Function, Measure
from headway.analyze.measures.nulls import beside_null
from headway.analyze.measures.run_nulls import Nulls
from headway.analyze.measures.variety import varied_sequences
from headway.analyze.network.forward import shared_forward_pass
from headway.analyze.network.requirements import DoesNotApplyError
from headway.checkpoints.files import write_all
from headway.checkpoints.lock import writing
from headway.checkpoints.run import Run
from headway.checkpoints.scores import WEIGHTS, ScoreFile, content_of, evaluation_file, score_file, write_scores
from headway.checkpoints.weights import arrays_of, hash_of
from headway.data.no_task import NoBatch, NoTaskError
from headway.data.task import Batch
from headway.models.convert import Model, evaluating

# What stands for a token of padding.
PADDING = "pad"


def measure(
    run: Run | str | Path,
    measures: Iterable[Measure | Function],
    steps: Sequence[int] | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, str]:
    """Score a run at its checkpoints (all of them if ``steps`` is None) and store the scores in its folder.

    Stored scores are computed again only with ``overwrite``, so an interrupted call continues where it stopped. Your
    own function is scored, stored and loaded like a built-in measure: ``measure(run, [my_function])``, then
    ``run.scores.my_function``. ``progress`` shows a progress bar.

    Returns:
        The measures that do not apply to this run, each with the reason.

    Raises:
        ValueError: a step without a checkpoint, or a run without checkpoints.
    """
    run = run if isinstance(run, Run) else Run(run)
    wanted = [each if isinstance(each, Measure) else Measure(each) for each in measures]
    batch = run.batch()
    if not run.steps:
        raise ValueError(f"run: {run.path} has no checkpoint yet; train it first")
    steps = run.steps if steps is None else steps
    for step in steps:
        run.check_step(step)
    scorer = Scorer(run, wanted, batch)
    with writing(run.path):
        _score(scorer, steps, overwrite, progress)
    return scorer.inapplicable


def _score(scorer: "Scorer", steps: Sequence[int], overwrite: bool, progress: bool) -> None:
    run = scorer.run
    scorer.store_sequences()
    for step in tqdm(steps, desc="checkpoints", unit="step", disable=None if progress else True):
        missing = [each for each in scorer.measures if overwrite or not scorer.is_there(step, each)]
        if missing:
            scorer.score(step, run.model(step), missing)


@contextmanager
def _stored_together() -> Iterator[Callable[[Path, xr.Dataset], None]]:
    """Give a function that stores scores: together at the end, however it comes, or each second where they take long.

    A disk is waited for as long as a cheap measure takes, and what is stored is not computed again.
    """
    unwritten: dict[Path, bytes] = {}
    written = time.monotonic()

    def write() -> None:
        nonlocal written
        write_all(unwritten)
        unwritten.clear()
        written = time.monotonic()

    def store(path: Path, scores: xr.Dataset) -> None:
        unwritten[path] = content_of(scores)
        if time.monotonic() - written > 1:
            write()

    try:
        yield store
    finally:
        write()


class Scorer:
    """Score the checkpoints of one run, and store the scores in its folder.

    Args:
        run: The run.
        measures: The measures; one that does not apply at some step is dropped, with its reason in ``inapplicable``.
        batch: The run's evaluation batch.
    """

    def __init__(self, run: Run, measures: Sequence[Measure], batch: Batch):
        self.run, self.batch = run, batch
        self.measures = list(measures)
        self.inapplicable: dict[str, str] = {}
        self.nulls = Nulls(run, self.measures, batch)

    @property
    def has_nulls(self) -> bool:
        """True if fresh networks can be drawn, and scored on the sequences of a task."""
        return self.run.has_initialiser and not isinstance(self.batch, NoBatch)

    @cached_property
    def sequences(self) -> list[int]:
        """The sequences of the evaluation batch whose attention is stored."""
        return varied_sequences(self.batch, STORED_SEQUENCES)

    def is_there(self, step: int, measure: Measure) -> bool:
        """Return whether a step has scores of a measure; of attention, on the same sequences.

        An older Headway stored attention on the first sequences. Patterns of different sequences must not stand beside
        each other, as the checkpoints of one head.
        """
        path = score_file(self.run.path, step, measure.name)
        if measure.name != "attention" or not path.exists():
            return path.exists()
        try:
            stored = ScoreFile.open(path).layout.attributes.get("attention", {})
        except ValueError:  # whoever reads it says so
            return True
        return stored.get("sequences", list(range(len(self.sequences)))) == self.sequences

    def score(self, step: int, model: Model, measures: Sequence[Measure] | None = None) -> dict[str, xr.Dataset]:
        """Score one model by all measures, or by those given, store the scores, and return them by measure."""
        self.store_sequences()
        batch, weights = self.batch.to(model.W_E.device), hash_of(arrays_of(model))
        scored: dict[str, xr.Dataset] = {}
        with evaluating(model), shared_forward_pass(), _stored_together() as store:
            for each in self.measures if measures is None else measures:
                try:
                    scores = each(model, batch)
                except (DoesNotApplyError, NoTaskError) as reason:
                    self.inapplicable[each.name] = str(reason)
                    continue
                if each.fresh_null and self.has_nulls:
                    beside = beside_null(each.name, scores[each.name], self.nulls[each.name])
                    scores = each.described(xr.Dataset({**scores.variables, **beside.variables}), batch)
                for name, attributes in self._task_attributes.items():
                    if name in scores:
                        scores[name].attrs |= attributes
                scores.attrs[WEIGHTS] = weights
                store(score_file(self.run.path, step, each.name), scores)
                scored[each.name] = scores
        self.measures = [each for each in self.measures if each.name not in self.inapplicable]
        return scored

    def store_sequences(self) -> None:
        """Store the evaluation batch in the run's folder, where a page finds it without the task's code."""
        path = evaluation_file(self.run.path)
        if not path.exists() and not isinstance(self.batch, NoBatch):
            write_scores(path, evaluation_sequences(self.batch), checksum=True)

    @cached_property
    def _task_attributes(self) -> dict[str, dict[str, Any]]:
        """Attributes that the task adds, by variable: baselines and behaviour of losses, tokens of the attention."""
        if isinstance(self.batch, NoBatch):
            return {}
        parts = self.batch.task.parts(self.batch) if self.batch.task is not None else {}
        task = self.run.task
        # A user's baselines may be numpy's numbers, which no file of attributes holds.
        baselines = {name: float(value) for name, value in task.baselines().items()}
        part, chance, floor = task.behaviour
        # Kept, so that what the task is about is known without its code.
        behaviour = {"part": part, "chance": baselines.get(chance or ""), "floor": baselines.get(floor or "")}
        of_losses = {"baselines": baselines, "behaviour": behaviour}
        losses = dict.fromkeys(("loss", *(f"loss_{part}" for part in parts)), of_losses)
        # What has baselines is drawn beside the loss.
        losses["training_loss"] = {"baselines": baselines}
        stored = self.batch.at(self.sequences)
        length = stored.inputs.shape[1]
        try:
            labels = task.labels(stored)
        except Exception as error:  # a run must not end because its user's task cannot label tokens
            warnings.warn(f"scores: attention has no tokens ({type(error).__name__}: {error})", stacklevel=2)
            return {**losses, "attention": {"sequences": self.sequences, "descriptions": described(stored)}}
        # A user's task may label fewer positions than there are, or label them by numbers.
        tokens = [[*map(str, row[:length]), *[""] * (length - len(row))] for row in labels]
        tokens = [
            [token if is_real else PADDING for token, is_real in zip(row, real, strict=True)]
            for row, real in zip(tokens, stored.real.tolist(), strict=True)
        ]
        words = {"tokens": tokens, "descriptions": described(stored)}
        return {**losses, "attention": {**words, "sequences": self.sequences}}
