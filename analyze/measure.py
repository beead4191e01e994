"""Measuring a run: every measure at every kept step, each number computed once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import xarray as xr
from tqdm import tqdm

from headway.analyze.applies import DoesNotApplyError
from headway.analyze.forward import seen_once
from headway.analyze.nulls import PLAIN, Null, Scale, beside_null, fresh_initialisations
from headway.checkpoints.run import Run
from headway.checkpoints.scores import read_file, score_file, write_scores
from headway.data.task import Batch
from headway.models.convert import Model

# Of a network: a HookedTransformer in a run; ours take a bridge as well.
Function = Callable[[Any, Batch], xr.Dataset | xr.DataArray]


# The null that is computed here, once a run; a measure with a null of its own returns it beside its score.
FRESH = "fresh initialisations"


@dataclass(frozen=True)
class Measure:
    """A function that scores a network on a batch, with what its number can be and what it is when nothing has formed.

    Args:
        function: ``(model, batch)`` to a DataArray, or to a Dataset in which the score has the function's name.
        range: The values that the score can take.
        null: What the score is when nothing has formed; FRESH has it computed for each run.
        scale: On what scale of the score that null has the tails of a gamma distribution.
        live: Whether it is cheap enough to run at every kept step of a training run.
    """

    function: Function
    range: str = ""
    null: str = ""
    scale: Scale = PLAIN
    live: bool = True

    @property
    def name(self) -> str:
        """The function's name, which is the score's; of a partial, that of the function with its options."""
        return getattr(self.function, "func", self.function).__name__

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (getattr(self.function, "func", self.function).__doc__ or "").strip().partition("\n")[0]

    @property
    def fresh_null(self) -> bool:
        """Whether fresh initialisations are its null."""
        return self.null == FRESH

    def __call__(self, model: Model, batch: Batch) -> xr.Dataset:
        """The scores of ``model`` on ``batch``, as a Dataset."""
        scores = self.function(model, batch)
        if isinstance(scores, xr.DataArray):
            scores = scores.to_dataset(name=self.name)
        if not isinstance(scores, xr.Dataset):
            raise ValueError(
                f"{self.name}: it gave a {type(scores).__name__}; it must give an xarray Dataset or DataArray"
            )
        for variable in scores.data_vars:
            if variable != self.name and not str(variable).startswith(f"{self.name}_"):
                raise ValueError(
                    f"{self.name}: its variable {variable!r} may be another measure's; "
                    f"call it {self.name!r}, or {self.name}_ and more"
                )
        return scores


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
    with seen_once():
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
