"""Measuring a run: every measure at every checkpoint, each number computed once."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import xarray as xr
from tqdm import tqdm

from headway.analyze.measures.measure import Function, Measure
from headway.analyze.measures.nulls import Null, beside_null, fresh_initialisations
from headway.analyze.network.forward import shared_forward_pass
from headway.analyze.network.requirements import DoesNotApplyError
from headway.checkpoints.run import Run
from headway.checkpoints.scores import read_file, score_file, write_scores
from headway.data.task import Batch
from headway.models.convert import Model


def measure(
    run: Run,
    measures: Iterable[Measure | Function],
    steps: Sequence[int] | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, str]:
    """Score a run at its kept steps (all of them if None) and keep the scores with it.

    What is there already is not computed again unless ``overwrite``, so a call that was interrupted goes on where it
    stopped. A function of your own is measured, stored and read back like ours: ``measure(run, [my_function])``, then
    ``run.scores.my_function``. ``progress`` shows a bar.

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
    for step in tqdm(steps, desc="kept steps", unit="step", disable=None if progress else True):
        missing = [
            each
            for each in wanted
            if each.name not in inapplicable and (overwrite or not score_file(run.path, step, each.name).exists())
        ]
        if missing:
            inapplicable |= measure_step(run, step, run.model(step), batch, missing, nulls).inapplicable
    return inapplicable


class Nulls:
    """What the measures of a run give on fresh initialisations: computed once, kept with the run, held in memory."""

    def __init__(self, run: Run, measures: Sequence[Measure], batch: Batch):
        self.run, self.measures, self.batch = run, [each for each in measures if each.fresh_null], batch
        self.held: dict[str, Null] = {}

    def __getitem__(self, name: str) -> Null:
        """The null of one measure; those that are missing are computed together, in one go."""
        scales = {each.name: each.scale for each in self.measures}
        path = score_file(self.run.path, None, name)
        if not path.exists():
            missing = {m.name: m for m in self.measures if not score_file(self.run.path, None, m.name).exists()}
            drawn = fresh_initialisations(missing, scales, self.run.recipe.model, self.batch)
            for each, null in drawn.items():
                write_scores(score_file(self.run.path, None, each), null.to_dataset())
        if name not in self.held:
            try:
                self.held[name] = Null.from_dataset(read_file(path), scales[name])
            except TypeError:
                raise ValueError(f"scores: {path} holds no null; remove it and measure again") from None
        return self.held[name]


class Measured(NamedTuple):
    """The scores at one step by measure, and the measures that do not apply, each with the reason."""

    scores: dict[str, xr.Dataset]
    inapplicable: dict[str, str]


def measure_step(
    run: Run, step: int, model: Model, batch: Batch, measures: Sequence[Measure], nulls: Nulls
) -> Measured:
    """Score one model and keep the scores."""
    measured = Measured({}, {})
    with shared_forward_pass():
        for each in measures:
            try:
                scores = each(model, batch)
            except DoesNotApplyError as reason:
                measured.inapplicable[each.name] = str(reason)
                continue
            if each.fresh_null:
                beside = beside_null(each.name, scores[each.name], nulls[each.name])
                scores = xr.Dataset({**scores.variables, **beside.variables})
            write_scores(score_file(run.path, step, each.name), scores)
            measured.scores[each.name] = scores
    return measured
