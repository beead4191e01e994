"""Measuring a run: every measure at every kept step, each number computed once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import xarray as xr

from headway.analyze.attention import DoesNotApplyError, seen_once
from headway.analyze.nulls import fresh_initialisations
from headway.checkpoints.run import Run
from headway.checkpoints.scores import read_file, score_file, write_scores
from headway.data.task import Batch
from headway.models.hooked_transformer import HookedTransformer

Function = Callable[[HookedTransformer, Batch], xr.Dataset | xr.DataArray]


@dataclass(frozen=True)
class Measure:
    """A function that scores a network on a batch, and whether fresh initialisations are its null.

    A function with a null of its own (from the weights) returns it beside the score.
    """

    function: Function
    fresh_null: bool = False

    @property
    def name(self) -> str:
        """The function's name, which is the score's."""
        return self.function.__name__

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    def __call__(self, model: HookedTransformer, batch: Batch) -> xr.Dataset:
        """The scores of ``model`` on ``batch``, as a Dataset."""
        scores = self.function(model, batch)
        return scores if isinstance(scores, xr.Dataset) else scores.to_dataset(name=self.name)


def measure(
    run: Run, measures: Iterable[Measure | Function], steps: Sequence[int] | None = None, overwrite: bool = False
) -> dict[str, str]:
    """Score a run at its kept steps (all of them if None) and keep the scores with it.

    What is there already is not computed again unless ``overwrite``. A function of your own is measured, stored and
    read back like ours: ``measure(run, [my_function])``, then ``run.scores.my_function``.

    Returns:
        The measures that do not apply to this run, each with the reason.

    Raises:
        ValueError: a step that was not kept, or a run that has kept none.
    """
    wanted = [each if isinstance(each, Measure) else Measure(each) for each in measures]
    batch = run.batch()
    if not run.steps:
        raise ValueError(f"run: {run.path} has kept no step yet")
    steps = run.steps if steps is None else steps
    for step in steps:
        run.check_step(step)
    nulls = Nulls(run, wanted, batch)
    inapplicable: dict[str, str] = {}
    for step in steps:
        missing = [m for m in wanted if overwrite or not score_file(run.path, step, m.name).exists()]
        if missing:
            inapplicable |= measure_step(run, step, run.model(step), batch, missing, nulls).inapplicable
    return inapplicable


class Nulls:
    """What the measures of a run give on fresh initialisations: computed once, kept with the run, held in memory."""

    def __init__(self, run: Run, measures: Sequence[Measure], batch: Batch):
        self.run, self.measures, self.batch = run, [each for each in measures if each.fresh_null], batch
        self.held: dict[str, xr.Dataset] = {}

    def __getitem__(self, name: str) -> xr.Dataset:
        """``<name>_null`` and ``<name>_null_std``; those that are missing are computed together, in one go."""
        path = score_file(self.run.path, None, name)
        if not path.exists():
            missing = {m.name: m for m in self.measures if not score_file(self.run.path, None, m.name).exists()}
            for each, null in fresh_initialisations(missing, self.run.recipe.model, self.batch).items():
                write_scores(score_file(self.run.path, None, each), null)
        if name not in self.held:
            self.held[name] = read_file(path)
        return self.held[name]


class Measured(NamedTuple):
    """The scores at one step by measure, and the measures that do not apply, each with the reason."""

    scores: dict[str, xr.Dataset]
    inapplicable: dict[str, str]


def measure_step(
    run: Run, step: int, model: HookedTransformer, batch: Batch, measures: Sequence[Measure], nulls: Nulls
) -> Measured:
    """Score one model and keep the scores."""
    measured = Measured({}, {})
    with seen_once():
        for each in measures:
            try:
                scores = each(model, batch)
            except DoesNotApplyError as reason:
                measured.inapplicable[each.name] = str(reason)
                continue
            if each.fresh_null:
                null = nulls[each.name]
                spread = null[f"{each.name}_null_std"]
                scores[f"{each.name}_z"] = (scores[each.name] - null[f"{each.name}_null"]) / spread.where(spread > 0)
            write_scores(score_file(run.path, step, each.name), scores)
            measured.scores[each.name] = scores
    return measured
