"""What is shown of a run: its scores at whole steps, sorted by the figure they belong to. Nothing here draws."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from headway.analyze import LIVE, MEASURES
from headway.analyze.formation.dates import formed_from
from headway.analyze.formation.induction import induction_circuits
from headway.analyze.formation.roles import roles
from headway.analyze.formation.strongest import what_formed
from headway.analyze.network.axes import HEAD, PAIR
from headway.analyze.studies.result import StudyResult
from headway.checkpoints import Run
from headway.checkpoints.scores import ScoreFile, joined, read_arrays, score_files
from headway.data.task import Task

ATTENTION = ("layer", "head", "batch", "query", "key")
# What the patterns of a page may take, in bytes, before they are deflated.
MOST_ATTENTION = 24_000_000


class Score(NamedTuple):
    """One number for each head or pair at each step, with what it is when nothing has formed (None where unknown)."""

    measure: str
    label: str
    values: xr.DataArray
    null: xr.DataArray | None
    low: xr.DataArray | None
    high: xr.DataArray | None
    z: xr.DataArray | None
    ceiling: xr.DataArray | None


class Definition(NamedTuple):
    """What a measure says, the values it can take, and what it is when nothing has formed."""

    summary: str
    range: str
    null: str


class Damaged(NamedTuple):
    """A study whose file cannot be read, and why."""

    study: str
    step: int | None
    why: str


@dataclass(frozen=True)
class StoredScores:
    """The scores of a run, as read from disk at one moment.

    Args:
        run: The run.
        scores: Its scores at the steps that are whole; no variable at all where nothing has been scored.
        measures: The measures that these are scores of, ours first.
        left_out: The steps that are not whole, each with the reason.
    """

    run: Run
    scores: xr.Dataset
    measures: list[str]
    left_out: dict[int, str]

    @classmethod
    def of(cls, run: Run) -> "StoredScores":
        """Read a run's scores; a step that is half-written is left out, with the reason.

        A step is half-written if one of its files is damaged, or if it lacks a measure that runs have while they train
        and that at least half of this run's steps have.
        """
        read: dict[tuple[int, str], ScoreFile] = {}
        left_out: dict[int, str] = {}
        for (step, measure), path in score_files(run.path).items():
            try:
                read[step, measure] = read_arrays(path)
            except ValueError as error:
                left_out[step] = str(error)
        steps = {step for step, _ in read}
        common = Counter(measure for _, measure in read)
        for step in sorted(steps - left_out.keys()):
            expected = [each.name for each in LIVE if 2 * common[each.name] >= len(steps)]
            missing = [name for name in expected if (step, name) not in read]
            if missing:
                left_out[step] = f"{', '.join(missing)} not scored; headway measure {run.path} does it"
        whole = {(step, measure): values for (step, measure), values in read.items() if step not in left_out}
        ours, measured = [each.name for each in MEASURES], {measure for _, measure in whole}
        measures = [name for name in ours if name in measured] + sorted(measured.difference(ours))
        scores = joined({key: values for key, values in whole.items() if key[1] in ours})
        model = run.recipe.model
        of_model = dict.fromkeys(HEAD[:1] + PAIR[::2], model.n_layers) | dict.fromkeys(
            HEAD[1:] + PAIR[1::2], model.n_heads
        )
        sizes = {**of_model, **scores.sizes}
        own = _of_sizes(joined({key: file for key, file in whole.items() if key[1] not in ours}), sizes)
        return cls(run, scores.merge(own, join="outer"), measures, dict(sorted(left_out.items())))

    @property
    def steps(self) -> list[int]:
        """The steps that are shown, in order."""
        return self.scores.step.values.tolist() if "step" in self.scores else []

    def index(self, step: int | None) -> int:
        """Where a step is among those shown, the last for None; a ValueError that names the nearest if it is none."""
        if not self.steps:
            raise ValueError(f"run: {self.run.path} has no scores; headway measure {self.run.path} makes them")
        step = self.steps[-1] if step is None else step
        if step not in self.steps:
            nearest = min(self.steps, key=lambda shown: abs(shown - step))
            raise ValueError(
                f"step: {step} is not among those with scores; nearest is {nearest}, all are "
                f"{', '.join(map(str, self.steps))}"
            )
        return self.steps.index(step)

    @property
    def sentences(self) -> list[str]:
        """What formed: the loss, the circuits, and the strongest head or pair of each kind."""
        if not self.steps:
            return []
        ends = {
            name.replace("loss", "").replace("_", " on ", 1).replace("_", " "): (values.values[0], values.values[-1])
            for name, values in self.losses.items()
        }
        falls = [f"{on} from {a:.3g} to {b:.3g}" for on, (a, b) in ends.items() if np.isfinite([a, b]).all()]
        said = []
        if falls and len(self.steps) > 1:
            said = [f"Between steps {self.steps[0]} and {self.steps[-1]} the loss went{','.join(falls)}."]
        said += [circuit.sentence for circuit in induction_circuits(self.scores)]
        return said + [each.sentence for each in what_formed(self.scores)]

    @property
    def unit(self) -> str:
        """What the loss is measured in."""
        task = self.run.task
        if type(task).loss is not Task.loss:
            return "units of the task's own"
        return "squared error" if task.input_type == "vectors" else "nats"

    @property
    def losses(self) -> dict[str, xr.DataArray]:
        """The evaluation loss [step], and that of each of the task's parts."""
        return {
            name: values
            for name, values in self._of_axes()
            if name == "loss" or (name.startswith("loss_") and name not in self.measures)
        }

    @property
    def numbers(self) -> dict[str, xr.DataArray]:
        """Every other score of how well the network does: accuracy and that of the task's parts, in_context."""
        return {name: values for name, values in self._of_axes() if name.startswith(("accuracy", "in_context"))}

    @property
    def heads(self) -> tuple[int, int]:
        """How many layers, and how many heads in each."""
        model = self.run.recipe.model
        return model.n_layers, model.n_heads

    @cached_property
    def attention(self) -> xr.DataArray | None:
        """Patterns [step, layer, head, batch, query, key] of as many sequences and positions as a page can hold."""
        if "attention" not in self.scores or self.scores.attention.dims != ("step", *ATTENTION):
            return None
        whole = self.scores.attention
        patterns = whole.sizes["step"] * whole.sizes["layer"] * whole.sizes["head"]
        length = min(whole.sizes["query"], int((MOST_ATTENTION / patterns) ** 0.5))
        sequences = min(whole.sizes["batch"], max(1, MOST_ATTENTION // (patterns * length**2)))
        return whole.isel(batch=slice(sequences), query=slice(length), key=slice(length))

    @cached_property
    def tokens(self) -> list[list[str]]:
        """What stands at each position of the sequences whose attention is shown."""
        if self.attention is None:
            return []
        patterns = self.attention
        labels = self.run.task.labels(self.run.batch().first(patterns.sizes["batch"]))
        # A task of one's own may name fewer positions than there are, or by numbers.
        length = patterns.sizes["query"]
        return [[*map(str, row[:length]), *[""] * (length - len(row))] for row in labels]

    @property
    def roles(self) -> xr.Dataset | None:
        """``analyze.formation.roles``, or None where attention has not been scored."""
        try:
            return roles(self.scores)
        except ValueError:
            return None

    @property
    def spectra(self) -> dict[str, xr.DataArray]:
        """Eigenvalues [step, layer, head, eigenvalue], by measure."""
        return {
            measure: self.scores[f"{measure}_spectrum"]
            for measure in self.measures
            if f"{measure}_spectrum" in self.scores and self.scores[measure].dims == ("step", *HEAD)
        }

    @property
    def per_head(self) -> list[Score]:
        """Every score of heads."""
        return list(self._scores_of(HEAD))

    @property
    def per_pair(self) -> list[Score]:
        """Every score of pairs of heads."""
        return list(self._scores_of(PAIR))

    @property
    def not_shown(self) -> list[str]:
        """Measures of one's own for which no figure has the axes."""
        ours = {each.name for each in MEASURES}
        shown = {score.measure for score in (*self.per_head, *self.per_pair)}
        return [name for name in self.measures if name not in ours | shown]

    def formed(self, pairs: Score) -> xr.DataArray:
        """The step from which on each pair is above its band for good; NaN for never, or where there is no band."""
        if pairs.low is None or pairs.high is None:
            return xr.full_like(pairs.values.isel(step=-1, drop=True), np.nan)
        return formed_from(self.scores, pairs.measure)

    @property
    def attributions(self) -> dict[str, xr.DataArray]:
        """Direct attribution [step, component], by part of the task ("" for all positions)."""
        return {
            name.removeprefix("direct_attribution").removeprefix("_"): values
            for name, values in self._of_axes(("step", "component"))
            if name.startswith("direct_attribution")
        }

    @property
    def studies(self) -> list[StudyResult | Damaged]:
        """Every study of this run, at the last step at which it was made."""
        return [read_study(self.run.study_file(study, step), step) for study, step in sorted(self.run.studies.items())]

    @property
    def definitions(self) -> dict[str, Definition]:
        """What the measures say whose scores are shown; those of one's own say so."""
        ours = {each.name: Definition(each.summary.replace("``", ""), each.range, each.null) for each in MEASURES}
        return {name: ours.get(name, Definition("A measure of your own.", "", "")) for name in self.measures}

    def _of_axes(self, axes: tuple[str, ...] = ("step",)) -> Iterator[tuple[str, xr.DataArray]]:
        for name, values in self.scores.data_vars.items():
            if values.dims == axes:
                yield str(name), values

    def _scores_of(self, axes: tuple[str, ...]) -> Iterator[Score]:
        for measure in self.measures:
            values = self.scores.get(measure)
            if values is None or values.dtype.kind not in "fiub":
                continue
            others = [axis for axis in values.dims if axis not in ("step", *axes)]
            if not set(axes) <= set(values.dims) or len(others) > 1:
                continue
            # A score of several circuits of a head is several scores.
            for label in values[others[0]].values if others else [None]:
                at = {} if label is None else {others[0]: label}
                beside = {
                    part: self.scores[f"{measure}_{part}"].sel(at).transpose("step", *axes)
                    for part in ("null", "low", "high", "z", "ceiling")
                    if f"{measure}_{part}" in self.scores and self.scores[f"{measure}_{part}"].dims == values.dims
                }
                yield Score(
                    measure,
                    measure if label is None else f"{measure}, {label}",
                    values.sel(at).transpose("step", *axes),
                    *(beside.get(part) for part in ("null", "low", "high", "z", "ceiling")),
                )


def read_study(path: Path, step: int | None = None) -> StudyResult | Damaged:
    """A study from its file, or what is wrong with that; ``step`` is of a run, where it was made."""
    try:
        return StudyResult.read(path)
    # What HDF5 says of a damaged file depends on what is damaged; no page must end for it.
    except Exception as error:
        why = str(error) if isinstance(error, ValueError) else f"{path} is damaged ({error})"
        return Damaged(path.stem, step, why)


def _of_sizes(own: xr.Dataset, sizes: Mapping[Hashable, int]) -> xr.Dataset:
    """What has as many heads, sequences and so on as there are; joined with the rest, others would pad everything."""
    fits = [
        name
        for name, values in own.data_vars.items()
        if all(sizes.get(axis, size) == size for axis, size in values.sizes.items())
    ]
    return own[fits]
