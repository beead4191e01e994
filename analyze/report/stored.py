"""The scores of a run as its files hold them, sorted by the figure they belong to; nothing here draws.

What is shown of a score follows from its axes and its attributes, never from its name. Neither the network nor the code
of the task is needed. Measures are never put into one Dataset, so that an axis of one cannot meet that of another.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import yaml

from headway.analyze import LIVE, MEASURES
from headway.analyze.formation.dates import held_from
from headway.analyze.formation.induction import induction_circuits
from headway.analyze.formation.roles import ROLES, roles
from headway.analyze.formation.strongest import LABELS, what_formed
from headway.analyze.measures.descriptions import PART, SCORE
from headway.analyze.network.axes import HEAD, PAIR
from headway.analyze.report.attributes import complete, limits
from headway.analyze.studies.result import StudyResult
from headway.checkpoints import Run
from headway.checkpoints.scores import ScoreFile, joined, read_arrays, score_files

ATTENTION = ("layer", "head", "batch", "query", "key")
COMPONENT = ("component",)
LAYER = ("layer",)
# What the patterns of a page may take, in bytes, before they are deflated.
MOST_ATTENTION = 24_000_000
# Entries of one more axis than a figure has: more of them would be more charts than anybody looks at.
MOST_ENTRIES = 8
DRAWN_BESIDE = ("null", "low", "high", "z", "ceiling")
# Roles of variables that are drawn beside their score, or that repeat another number.
BESIDE = (*DRAWN_BESIDE, "null_std", "chance", "clean", "spectrum")


class Score(NamedTuple):
    """One number for each head or pair at each step, with its null, band, z and ceiling (None where unknown)."""

    measure: str
    name: str
    label: str
    values: xr.DataArray
    null: xr.DataArray | None
    low: xr.DataArray | None
    high: xr.DataArray | None
    z: xr.DataArray | None
    ceiling: xr.DataArray | None
    limits: tuple[float, float] | None

    @property
    def formed_from(self) -> xr.DataArray:
        """The step from which on each entry is above its band for good; NaN for never, or where there is no band."""
        if self.low is None or self.high is None:
            return xr.full_like(self.values.isel(step=-1, drop=True), np.nan)
        above = (self.values.values > self.high.values) & ~(self.values.values < self.low.values)
        return held_from(self.values.copy(data=above))


class Curves(NamedTuple):
    """Numbers of the whole network, or of each layer, over training: lines [step] by name, and their null."""

    measure: str
    label: str
    lines: dict[str, xr.DataArray]
    null: xr.DataArray | None
    units: str
    limits: tuple[float, float] | None


class Loss(NamedTuple):
    """An evaluation loss [step]: that of all positions, or of one of the task's parts."""

    name: str
    label: str
    values: xr.DataArray
    of_all: bool


class Spectrum(NamedTuple):
    """Eigenvalues [step, layer, head, eigenvalue] and the score [step, layer, head] that is made of them."""

    measure: str
    eigenvalues: xr.DataArray
    score: xr.DataArray


class Attribution(NamedTuple):
    """What each component adds [step, component], in ``units``."""

    measure: str
    label: str
    values: xr.DataArray
    units: str


class Definition(NamedTuple):
    """What a measure says, the values it can take, and what it is when nothing has formed."""

    summary: str
    range: str
    null: str


class NotShown(NamedTuple):
    """A variable that no figure has the axes for; ``run.scores`` has it."""

    measure: str
    name: str
    axes: tuple[str, ...]


class Damaged(NamedTuple):
    """A study whose file cannot be read, and why."""

    study: str
    step: int | None
    why: str


class Variable(NamedTuple):
    """A stored variable with all of its attributes, ``step`` first."""

    measure: str
    name: str
    values: xr.DataArray
    attributes: dict[str, Any]

    @property
    def axes(self) -> tuple[str, ...]:
        """Its axes but for ``step``."""
        return tuple(str(axis) for axis in self.values.dims[1:])


@dataclass(frozen=True)
class StoredScores:
    """The scores of a run, as read from disk at one moment.

    Args:
        run: The run.
        config: Its config.yaml.
        steps: The steps that are shown, in order: those whose scores are whole.
        measures: The scores at these steps, by measure, ours first; NaN where a step lacks a measure.
        attributes: The attributes of each variable, by measure and name.
        left_out: The steps that are not whole, each with the reason.
        lacking: The measures whose files lack attributes that figures go by: an older Headway wrote them.
    """

    run: Run
    config: dict[str, Any]
    steps: list[int]
    measures: dict[str, xr.Dataset]
    attributes: dict[tuple[str, str], dict[str, Any]]
    left_out: dict[int, str]
    lacking: list[str]

    @classmethod
    def of(cls, run: Run) -> "StoredScores":
        """Read a run's scores; a step that is half-written is left out, with the reason.

        A step is half-written if one of its files is damaged, or if it lacks a measure that runs have while they train
        and that at least half of this run's steps have.
        """
        config = _config(run)
        files: dict[tuple[int, str], ScoreFile] = {}
        left_out: dict[int, str] = {}
        for (step, measure), path in score_files(run.path).items():
            try:
                files[step, measure] = read_arrays(path)
            except ValueError as error:
                left_out[step] = str(error)
        common = Counter(measure for _, measure in files)
        scored = sorted({step for step, _ in files})
        for step in scored:
            expected = [each.name for each in LIVE if 2 * common[each.name] >= len(scored)]
            missing = [name for name in expected if (step, name) not in files]
            if missing and step not in left_out:
                left_out[step] = f"{', '.join(missing)} not scored; headway measure {run.path} does it"
        by_measure: dict[str, dict[int, ScoreFile]] = {}
        for (step, measure), file in files.items():
            if step not in left_out:
                by_measure.setdefault(measure, {})[step] = file
        ours = [each.name for each in MEASURES]
        ordered = [name for name in ours if name in by_measure] + sorted(by_measure.keys() - set(ours))
        steps = [step for step in scored if step not in left_out]
        stored = {name: _attributes(by_measure[name]) for name in ordered}
        own_task = not str(config["task"].get("class")).startswith("headway.data.")
        vectors = config["model"].get("input_type") == "vectors"
        return cls(
            run,
            config,
            steps,
            {name: _over_steps(name, by_measure[name], steps) for name in ordered},
            {
                (measure, variable): complete(measure, variable, attributes, vectors, own_task)
                for measure, of_each in stored.items()
                for variable, attributes in of_each.items()
            },
            dict(sorted(left_out.items())),
            [
                measure
                for measure, attribute in (("loss", "baselines"), ("attention", "tokens"))
                if measure in stored and attribute not in stored[measure].get(measure, {})
            ],
        )

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
    def heads(self) -> tuple[int, int]:
        """How many layers, and how many heads in each."""
        return self.config["model"]["n_layers"], self.config["model"]["n_heads"]

    @property
    def sentences(self) -> list[str]:
        """What formed: the loss, the circuits, and the strongest head or pair of each kind."""
        if not self.steps:
            return []
        found = []
        ends = [(each.label, *each.values.values[[0, -1]]) for each in self.losses]
        falls = [f"{label} from {first:.3g} to {last:.3g}" for label, first, last in ends if np.isfinite(first + last)]
        if falls and len(self.steps) > 1:
            found.append(f"From step {self.steps[0]} to step {self.steps[-1]}: {', '.join(falls)}.")
        found += [circuit.sentence for circuit in induction_circuits(self._formation)]
        return found + [each.sentence for each in what_formed(self._formation)]

    @cached_property
    def roles(self) -> xr.Dataset | None:
        """``analyze.formation.roles``, or None where attention has not been scored."""
        try:
            return roles(self._formation)
        except ValueError:
            return None

    @cached_property
    def _formation(self) -> xr.Dataset:
        """The scores that say what formed, which have the same axes."""
        return xr.Dataset(
            {
                name: variable
                for measure in dict.fromkeys((*ROLES, *LABELS))
                if measure in self.measures
                for name, variable in self.measures[measure].variables.items()
                if name not in self.measures[measure].coords
            },
            self._step,
        )

    @cached_property
    def _step(self) -> xr.Coordinates:
        return xr.Coordinates({"step": self.steps})

    @property
    def losses(self) -> list[Loss]:
        """The evaluation loss, and that of each of the task's parts."""
        return [
            Loss(each.name, self._label(each), each.values, each.attributes["role"] == SCORE)
            for each in self._of("loss")
        ]

    @property
    def loss_units(self) -> str:
        """What the loss is measured in."""
        return next((each.attributes["units"] for each in self._of("loss")), "")

    @property
    def baselines(self) -> dict[str, float]:
        """Losses to compare with, by name."""
        baselines = next((each.attributes["baselines"] for each in self._of("loss")), {})
        return {name: value for name, value in baselines.items() if np.isfinite(value)}

    @property
    def curves(self) -> list[Curves]:
        """Every other score of the network, those of the task's parts beside it, and every score of layers."""
        found: dict[str, Curves] = {}
        for each in self._of("network"):
            null, bounds = self._beside(each).get("null"), limits(each.attributes)
            others = [axis for axis in each.axes if axis not in LAYER]
            for label, at in _entries(each.values, others):
                name = each.name if label is None else f"{each.name}, {label}"
                part = each.values.isel(at)
                if "layer" in part.dims:
                    lines = {f"layer {layer}": part.isel(layer=layer) for layer in range(part.sizes["layer"])}
                else:
                    # The parts of a score are lines of its chart.
                    name = each.measure if label is None else name
                    lines = {self._label(each): part}
                if name in found:
                    found[name].lines.update(lines)
                    continue
                beside = null if null is not None and null.dims == ("step",) else None
                units = each.attributes["units"]
                found[name] = Curves(each.measure, name, lines, beside, units, bounds)
        return list(found.values())

    @cached_property
    def whole_attention(self) -> xr.DataArray | None:
        """Patterns [step, layer, head, batch, query, key] of all sequences that were kept."""
        found = self._of("attention")
        return found[0].values if found else None

    @cached_property
    def attention(self) -> xr.DataArray | None:
        """The same, of as many sequences and positions as a page can hold."""
        whole = self.whole_attention
        if whole is None:
            return None
        patterns = whole.sizes["step"] * whole.sizes["layer"] * whole.sizes["head"]
        length = min(whole.sizes["query"], int((MOST_ATTENTION / patterns) ** 0.5))
        sequences = min(whole.sizes["batch"], max(1, MOST_ATTENTION // (patterns * length**2)))
        return whole.isel(batch=slice(sequences), query=slice(length), key=slice(length))

    @cached_property
    def tokens(self) -> list[list[str]]:
        """The token at each position of the sequences that were kept; the position where the file has no tokens."""
        if self.whole_attention is None:
            return []
        sequences, length = self.whole_attention.sizes["batch"], self.whole_attention.sizes["query"]
        tokens = self._of("attention")[0].attributes.get("tokens")
        if tokens is None or [len(row) for row in tokens] != [length] * sequences:
            return [[str(position) for position in range(length)]] * sequences
        return tokens

    @property
    def spectra(self) -> list[Spectrum]:
        """Eigenvalues of heads, by measure."""
        return [
            Spectrum(each.measure, self._beside(each)["spectrum"], each.values)
            for each in self._of("heads")
            if each.axes == HEAD and "spectrum" in self._beside(each)
        ]

    @property
    def per_head(self) -> list[Score]:
        """Every score of heads."""
        return list(self._scores("heads", HEAD))

    @property
    def per_pair(self) -> list[Score]:
        """Every score of pairs of heads."""
        return list(self._scores("composition", PAIR))

    @property
    def attributions(self) -> list[Attribution]:
        """What each component adds to the output directly, on all positions and on each of the task's parts."""
        return [
            Attribution(each.measure, self._label(each), each.values, each.attributes["units"])
            for each in self._of("attribution")
        ]

    @property
    def not_shown(self) -> list[NotShown]:
        """Scores for which no figure has the axes."""
        return [NotShown(each.measure, each.name, each.axes) for each in self._of("")]

    @property
    def definitions(self) -> dict[str, Definition]:
        """What the measures say whose scores are shown."""
        found = {}
        for (measure, _), attributes in self.attributes.items():
            if measure not in found and "range" in attributes:
                found[measure] = Definition(attributes["description"], attributes["range"], attributes["null"])
        return found

    @property
    def studies(self) -> list[StudyResult | Damaged]:
        """Every study of this run, at the last step at which it was made."""
        return [read_study(self.run.study_file(study, step), step) for study, step in sorted(self.run.studies.items())]

    def _of(self, figure: str) -> list[Variable]:
        return [each for name, each in self._sorted if name == figure]

    @cached_property
    def _sorted(self) -> list[tuple[str, Variable]]:
        """Every variable that is shown for itself, with the figure of its axes; "" for none."""
        found, seen = [], set()
        for each in self._variables():
            if each.attributes["role"] in BESIDE:
                continue
            figure = self._figure(each)
            if figure == "attention" and figure in seen:
                figure = ""  # the figure shows one
            seen.add(figure)
            found.append((figure, each))
        return found

    def _variables(self) -> Iterator[Variable]:
        for measure, scores in self.measures.items():
            # The score first, and then what stands beside it.
            for name in sorted(map(str, scores.data_vars), key=lambda name: (name != measure, name)):
                values = scores[name].transpose("step", ...)
                yield Variable(measure, name, values, self.attributes[measure, name])

    def _figure(self, variable: Variable) -> str:
        axes, attributes, values = variable.axes, variable.attributes, variable.values
        layers, heads = self.heads
        sizes = dict.fromkeys((*HEAD[:1], *PAIR[::2]), layers) | dict.fromkeys((*HEAD[1:], *PAIR[1::2]), heads)
        if values.dtype.kind not in "fiub" or any(sizes.get(axis, size) != size for axis, size in values.sizes.items()):
            return ""
        if axes == () and "baselines" in attributes:
            return "loss"
        if axes == ATTENTION:
            return "attention"
        if axes == COMPONENT:
            return "attribution"
        if attributes["role"] == "by_position":
            return ""
        for figure, own in {"composition": PAIR, "heads": HEAD, "network": LAYER}.items():
            others = [axis for axis in axes if axis not in own]
            few = len(others) < 2 and all(values.sizes[axis] <= MOST_ENTRIES for axis in others)
            if few and (figure == "network" or set(own) <= set(axes)) and not sizes.keys() & set(others):
                return figure
        return ""

    def _label(self, variable: Variable) -> str:
        """The name in words, as "loss on repeats" for the part of a score."""
        name, whole = variable.attributes["long_name"], self.attributes.get((variable.measure, variable.measure), {})
        start = whole.get("long_name", "")
        if variable.attributes["role"] != PART or not name.startswith(f"{start} "):
            return name
        return f"{start} on {name.removeprefix(start).strip()}"

    def _beside(self, variable: Variable) -> dict[str, xr.DataArray]:
        """What stands beside a score, by role; nothing beside a part of it."""
        if variable.attributes["role"] != SCORE:
            return {}
        scores = self.measures[variable.measure]
        return {
            self.attributes[variable.measure, str(name)]["role"]: scores[name].transpose("step", ...)
            for name in scores.data_vars
            if self.attributes[variable.measure, str(name)]["role"] not in (SCORE, PART)
        }

    def _scores(self, figure: str, axes: tuple[str, ...]) -> Iterator[Score]:
        for each in self._of(figure):
            others = [axis for axis in each.axes if axis not in axes]
            beside = {
                role: _spread(values, each.values)
                for role, values in self._beside(each).items()
                if role in DRAWN_BESIDE and set(values.dims) <= set(each.values.dims)
            }
            for label, at in _entries(each.values, others):

                def part(values: xr.DataArray, at: dict[str, int] = at) -> xr.DataArray:
                    entry = values.variable[at].transpose("step", *axes)
                    return xr.DataArray(entry.values, self._step, entry.dims)

                yield Score(
                    each.measure,
                    each.name,
                    each.name if label is None else f"{each.name}, {label}",
                    part(each.values),
                    *(
                        part(beside[role]) if role in beside else None
                        for role in ("null", "low", "high", "z", "ceiling")
                    ),
                    limits(each.attributes),
                )


def read_study(path: Path, step: int | None = None) -> StudyResult | Damaged:
    """A study from its file, or what is wrong with that; ``step`` is of a run, where it was made."""
    try:
        return StudyResult.read(path)
    # What HDF5 says of a damaged file depends on what is damaged; no page must end for it.
    except Exception as error:
        why = str(error) if isinstance(error, ValueError) else f"{path} is damaged ({error})"
        return Damaged(path.stem, step, why)


def _config(run: Run) -> dict[str, Any]:
    """The values of config.yaml."""
    return yaml.safe_load((run.path / "config.yaml").read_text())


def _attributes(files: dict[int, ScoreFile]) -> dict[str, dict[str, Any]]:
    """The attributes of each variable, from its last file that says most."""
    found: dict[str, dict[str, Any]] = {}
    for _, file in sorted(files.items()):
        for name, attributes in file.attributes.items():
            found[name] = found.get(name, {}) | attributes
    return found


def _over_steps(measure: str, files: dict[int, ScoreFile], steps: list[int]) -> xr.Dataset:
    """The scores of one measure at all steps."""
    scores = joined({(step, measure): file for step, file in files.items()})
    return scores if len(files) == len(steps) else scores.reindex(step=steps)


def _entries(values: xr.DataArray, others: list[str]) -> list[tuple[str | None, dict[str, int]]]:
    """The label and the place of each entry of one more axis than a figure has; one entry if there is no such axis."""
    if not others:
        return [(None, {})]
    (axis,) = others
    numbered = values[axis].values.tolist() if axis in values.coords else range(values.sizes[axis])
    return [(label if isinstance(label, str) else f"{axis} {label}", {axis: at}) for at, label in enumerate(numbered)]


def _spread(beside: xr.DataArray, score: xr.DataArray) -> xr.DataArray:
    """What stands beside a score, over all axes of it."""
    return beside if set(beside.dims) == set(score.dims) else beside.broadcast_like(score)
