"""The scores of a run as its files hold them, sorted by the figure they belong to; nothing here draws.

What is shown of a score follows from its axes and its attributes, never from its name; neither the network nor the code
of the task is needed. Measures are never put into one Dataset, so that an axis of one cannot meet that of another.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from headway.analyze import LIVE, MEASURES
from headway.analyze.formation.induction import InductionCircuit, induction_circuits
from headway.analyze.formation.induction import sentences as induction_sentences
from headway.analyze.formation.roles import ROLES, roles
from headway.analyze.formation.strongest import LABELS, Formed, what_formed
from headway.analyze.measures.descriptions import PART, SCORE
from headway.analyze.network.axes import HEAD, PAIR
from headway.analyze.report.attributes import complete, limits
from headway.analyze.report.figure_data import (
    Attribution,
    Curves,
    Definition,
    Loss,
    NotShown,
    Positions,
    Score,
    Spectrum,
)
from headway.analyze.report.found_circuits import FoundCircuits, found_circuits
from headway.analyze.studies.result import StudyResult
from headway.checkpoints import Run
from headway.checkpoints.scores import ScoreFile, over_steps, score_files

ATTENTION = (*HEAD, "batch", "query", "key")
COMPONENT = ("component",)
LAYER = ("layer",)
POSITION = ("pos",)
# The entries of the patterns that are read for a page, which may then have fewer.
MOST_ATTENTION = 24_000_000
# Entries of an axis beyond those of a figure: each is a chart of its own.
MOST_ENTRIES = 8
# Roles of variables that are drawn beside their score, and of others that are not drawn for themselves.
BESIDE = ("null", "low", "high", "z", "ceiling")
NOT_ALONE = (*BESIDE, "null_std", "chance", "clean", "known", "spectrum", "best")


class Damaged(NamedTuple):
    """A study whose file cannot be read, and why."""

    study: str
    step: int | None
    why: str


class Variable(NamedTuple):
    """A stored variable, ``step`` first, with all of its attributes."""

    measure: str
    name: str
    values: xr.DataArray
    attributes: Mapping[str, Any]

    @property
    def role(self) -> str:
        """Its role beside the score of its measure: ``measures.descriptions.role``."""
        return self.attributes["role"]

    @property
    def axes(self) -> tuple[str, ...]:
        """Its axes but for ``step``."""
        return tuple(str(axis) for axis in self.values.dims[1:])


@dataclass(frozen=True)
class StoredScores:
    """The scores of a run, as read from disk at one moment.

    Args:
        run: The run.
        steps: The steps that are shown, in order: those whose scores are complete.
        variables: The scores at these steps, by measure and name, ours first; NaN where a step lacks a measure.
        left_out: The steps whose scores are not complete, each with the reason.
        lacking: The measures whose files lack attributes that figures need, because an older Headway wrote them.
    """

    run: Run
    steps: list[int]
    variables: dict[str, dict[str, Variable]]
    left_out: dict[int, str]
    lacking: list[str]

    @classmethod
    def of(cls, run: Run) -> "StoredScores":
        """Read the scores of a run; a step that is half-written is left out, with the reason.

        A step is half-written if one of its files is damaged, or if it lacks a measure that runs have while they train
        and that at least half of this run's steps have.
        """
        files, left_out = _read(run)
        by_measure: dict[str, dict[int, ScoreFile]] = defaultdict(dict)
        for (step, measure), file in files.items():
            if step not in left_out:
                by_measure[measure][step] = file
        ours = [each.name for each in MEASURES]
        ordered = [name for name in ours if name in by_measure] + sorted(by_measure.keys() - set(ours))
        steps = sorted({step for step, _ in files} - left_out.keys())
        needed = {"loss": "baselines", "attention": "tokens"}
        stored = {name: _attributes(by_measure[name]) for name in ordered}
        lacking = [name for name in needed if needed[name] not in stored.get(name, {}).get(name, {needed[name]: None})]
        variables = {name: _variables(name, by_measure[name], stored[name], steps, run) for name in ordered}
        return cls(run, steps, variables, dict(sorted(left_out.items())), lacking)

    def index(self, step: int | None) -> int:
        """Return the index of a step among those shown; of the last one for None.

        Raises:
            ValueError: a run without scores, a step whose scores are not complete, with the reason, or one that has
                none; then the nearest that has scores is named.
        """
        asked = max(self.left_out, default=None) if step is None and not self.steps else step
        if asked in self.left_out:
            raise ValueError(f"step: {asked} is left out: {self.left_out[asked]}")
        if not self.steps:
            raise ValueError(f"run: {self.run.path} has no scores yet; headway measure {self.run.path} computes them")
        step = self.steps[-1] if step is None else step
        if step not in self.steps:
            nearest = min(self.steps, key=lambda scored: abs(scored - step))
            raise ValueError(
                f"step: {step} is not among those with scores; nearest is {nearest}, all are "
                f"{', '.join(map(str, self.steps))}"
            )
        return self.steps.index(step)

    @property
    def measures(self) -> list[str]:
        """The measures of which there are scores, ours first."""
        return list(self.variables)

    @property
    def heads(self) -> tuple[int, int]:
        """The number of layers, and of heads in each."""
        return self.run.config["model"]["n_layers"], self.run.config["model"]["n_heads"]

    @property
    def sentences(self) -> list[str]:
        """Sentences on what formed: the loss, induction circuits, and the strongest head or pair of each kind.

        Where a circuit has been found, the signatures of its heads stand beside it, and are not said again.
        """
        if not self.steps:
            return []
        ends = [(each.label, *each.values.values[[0, -1]]) for each in self.losses]
        falls = [f"{label} from {first:.3g} to {last:.3g}" for label, first, last in ends if np.isfinite(first + last)]
        known = [f"From step {self.steps[0]} to step {self.steps[-1]}: {', '.join(falls)}."] if falls else []
        found = self.run.circuits or self.run.node_circuits
        return [
            *(known if len(self.steps) > 1 else []),
            *([] if found else induction_sentences(self._circuits)),
            *(
                each.dates if found and each.formed and each.measure in ROLES else each.sentence
                for each in self._formed
            ),
        ]

    @property
    def dates(self) -> list[int]:
        """The steps that the sentences name, each with the checkpoint before it, in the order of the sentences."""
        before = dict(zip(self.steps[1:], self.steps, strict=False))
        named = [step for each in self._formed if each.since for step in each.since if step is not None]
        named += [step for each in self._circuits for step in (each.since, before.get(each.since)) if step is not None]
        return list(dict.fromkeys(named))

    @cached_property
    def training(self) -> xr.Dataset:
        """The numbers of every update, as of ``Run``, which reads TensorBoard's files each time."""
        return self.run.training

    @cached_property
    def _circuits(self) -> list[InductionCircuit]:
        return induction_circuits(self.formation)

    @cached_property
    def _formed(self) -> list[Formed]:
        return what_formed(self.formation)

    @cached_property
    def formation(self) -> xr.Dataset:
        """The scores that ``analyze.formation`` goes by; all of them have the axes of heads or pairs."""
        measures = [self.variables.get(name, {}) for name in dict.fromkeys((*ROLES, *LABELS))]
        variables = {name: each.values.variable for found in measures for name, each in found.items()}
        return xr.Dataset(variables, {"step": self.steps})

    @cached_property
    def roles(self) -> xr.Dataset | None:
        """``analyze.formation.roles``, or None where attention has not been scored."""
        try:
            return roles(self.formation)
        except ValueError:
            return None

    @property
    def losses(self) -> list[Loss]:
        """The evaluation loss, and that of each of the task's parts."""
        return [Loss(self._label(each), each.values, each.role == SCORE) for each in self._by_figure["loss"]]

    @property
    def loss_units(self) -> str:
        """The units of the loss; empty if they are not known."""
        return next((each.attributes["units"] for each in self._by_figure["loss"]), "")

    @property
    def baselines(self) -> dict[str, float]:
        """Losses to compare with, by name."""
        stored = next((each.attributes["baselines"] for each in self._by_figure["loss"]), {})
        return {name: value for name, value in stored.items() if np.isfinite(value)}

    @property
    def curves(self) -> list[Curves]:
        """Every other score of the network, together with its parts, and every score of layers."""
        found: dict[str, Curves] = {}
        for each in self._by_figure["network"]:
            null = self._beside(each).get("null")
            for entry, values in _entries(each, LAYER):
                # The parts of a score of the network are lines of its chart.
                name = each.name if "layer" in values.dims else each.measure
                label = name if entry is None else f"{name}, {entry}"
                if label not in found:
                    of_network = None if null is None or null.dims != ("step",) else null
                    ends = limits(each.attributes)
                    found[label] = Curves(each.measure, label, {}, of_network, each.attributes["units"], ends)
                if "layer" in values.dims:
                    lines = {f"layer {layer}": values.isel(layer=layer) for layer in range(values.sizes["layer"])}
                else:
                    lines = {self._label(each): values}
                found[label].lines.update(lines)
        return list(found.values())

    @property
    def positions(self) -> list[Positions]:
        """Losses and other scores of the network at each position [step, pos]."""
        found = self._by_figure["positions"]
        return [Positions(self._label(each), each.values, self._units(each)) for each in found]

    def _units(self, variable: Variable) -> str:
        score = self.variables[variable.measure].get(variable.measure, variable)
        return variable.attributes["units"] or score.attributes["units"]

    @property
    def whole_attention(self) -> xr.DataArray | None:
        """Patterns [step, layer, head, batch, query, key] of all sequences whose patterns are kept."""
        return next((each.values for each in self._by_figure["attention"]), None)

    def attention(self, at: Sequence[int]) -> xr.DataArray | None:
        """The same at some of the steps, by their places: of as many sequences and positions as a page can hold."""
        whole = self.whole_attention
        if whole is None:
            return None
        patterns = len(at) * whole.sizes["layer"] * whole.sizes["head"]
        length = min(whole.sizes["query"], int((MOST_ATTENTION / patterns) ** 0.5))
        sequences = min(whole.sizes["batch"], max(1, MOST_ATTENTION // (patterns * length**2)))
        return whole.isel(step=list(at), batch=slice(sequences), query=slice(length), key=slice(length))

    @property
    def tokens(self) -> list[list[str]]:
        """The token at each position of the same sequences; its number where the file has no tokens."""
        if self.whole_attention is None:
            return []
        sequences, length = self.whole_attention.sizes["batch"], self.whole_attention.sizes["query"]
        tokens = self._by_figure["attention"][0].attributes.get("tokens")
        if tokens is None or [len(row) for row in tokens] != [length] * sequences:
            return [[str(position) for position in range(length)]] * sequences
        return tokens

    @property
    def descriptions(self) -> list[str]:
        """A few words on each of the same sequences; empty where the file has none."""
        count = 0 if self.whole_attention is None else self.whole_attention.sizes["batch"]
        found = self._by_figure["attention"][0].attributes.get("descriptions") if count else None
        return found if isinstance(found, list) and len(found) == count else [""] * count

    @property
    def spectra(self) -> list[Spectrum]:
        """Eigenvalues of heads, by measure."""
        return [
            Spectrum(each.measure, self._beside(each)["spectrum"], each.values)
            for each in self._by_figure["heads"]
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
        """Direct contribution of each component to the output, on all positions and on each of the task's parts."""
        return [
            Attribution(self._label(each), each.values, each.attributes["units"])
            for each in self._by_figure["attribution"]
        ]

    @property
    def not_shown(self) -> list[NotShown]:
        """Scores whose axes no figure has."""
        return [NotShown(each.measure, each.name, each.axes) for each in self._by_figure[""]]

    @property
    def definitions(self) -> dict[str, Definition]:
        """The definition of each measure."""
        found = {}
        for measure, variables in self.variables.items():
            for each in variables.values():
                if each.role == SCORE:
                    found[measure] = Definition(*(each.attributes[part] for part in ("description", "range", "null")))
        return found

    @cached_property
    def circuits(self) -> list[FoundCircuits]:
        """Circuits that have been found, by behaviour and replacement."""
        return found_circuits(self.run)

    @property
    def studies(self) -> list[StudyResult | Damaged]:
        """Every study of this run, at the last step at which it was made."""
        return [read_study(self.run.study_file(study, step), step) for study, step in sorted(self.run.studies.items())]

    @cached_property
    def _by_figure(self) -> Mapping[str, list[Variable]]:
        """Every variable that is drawn for itself, by the figure that has its axes; "" for none."""
        found: dict[str, list[Variable]] = defaultdict(list)
        for variables in self.variables.values():
            alone = [each for each in variables.values() if each.role not in NOT_ALONE]
            for each in alone or variables.values():
                figure = self._figure(each)
                # Of patterns there is one figure.
                found["" if figure == "attention" and found["attention"] else figure].append(each)
        return found

    def _figure(self, variable: Variable) -> str:
        axes, values = variable.axes, variable.values
        layers, heads = self.heads
        sizes = {axis: layers if axis.endswith("layer") else heads for axis in (*HEAD, *PAIR)}
        if values.dtype.kind not in "fiub" or any(values.sizes[axis] != sizes[axis] for axis in sizes if axis in axes):
            return ""
        if axes == () and "baselines" in variable.attributes:
            return "loss"
        whole = {ATTENTION: "attention", COMPONENT: "attribution"}
        if axes in whole:
            return whole[axes]
        if variable.role == "by_position":
            return "positions" if axes == POSITION else ""
        of_network = LAYER if "layer" in axes else ()
        for figure, own in {"composition": PAIR, "heads": HEAD, "network": of_network}.items():
            others = set(axes) - set(own)
            few = len(others) < 2 and all(values.sizes[axis] <= MOST_ENTRIES for axis in others)
            if few and set(own) <= set(axes) and not others & sizes.keys():
                return figure
        return ""

    def _label(self, variable: Variable) -> str:
        """The name in words; that of a part as "loss on repeats"."""
        name = variable.attributes["long_name"]
        score = self.variables[variable.measure].get(variable.measure)
        start = "" if score is None else f"{score.attributes['long_name']} "
        is_part = variable.role == PART and start and name.startswith(start)
        return f"{start}on {name.removeprefix(start)}" if is_part else name

    def _beside(self, variable: Variable) -> dict[str, xr.DataArray]:
        """Return the variables beside a score, by role; a part of a score has none."""
        if variable.role != SCORE:
            return {}
        return {each.role: each.values for each in self.variables[variable.measure].values() if each.role in NOT_ALONE}

    def _scores(self, figure: str, axes: tuple[str, ...]) -> Iterator[Score]:
        for each in self._by_figure[figure]:
            beside = {
                role: dict(_entries(each._replace(values=values.broadcast_like(each.values)), axes))
                for role, values in self._beside(each).items()
                if role in BESIDE and set(values.dims) <= set(each.values.dims)
            }
            for entry, values in _entries(each, axes):
                label = each.name if entry is None else f"{each.name}, {entry}"
                of_entry = {role: entries[entry] for role, entries in beside.items()}
                yield Score(each.measure, each.name, label, values, limits(each.attributes), **of_entry)


def spread(steps: Sequence[int], most: int, dates: Sequence[int] = ()) -> list[int]:
    """Return the places of at most ``most`` steps: the first, the last, ``dates``, and others as a schedule has them.

    Half of them are spaced evenly in log(1 + step), and up to a quarter evenly in step.

    Args:
        steps: Steps in order.
        most: How many places there may be, at least 8.
        dates: Steps to have among them, as far as they are half of ``most`` or less.

    Example:
        >>> steps = range(1000)
        >>> spread(steps, 8, dates=[321])
        [0, 9, 99, 321, 999]
        >>> spread([0, 5, 17], 8)
        [0, 1, 2]
    """
    if len(steps) <= most:
        return list(range(len(steps)))
    first, last, named = steps[0], steps[-1], list(dates)[: most // 2]
    wanted = [
        *np.expm1(np.linspace(np.log1p(first), np.log1p(last), most // 2)),
        *np.linspace(first, last, min(most // 4, most // 2 - len(named))),
        *named,
    ]
    known = np.asarray(steps)
    return sorted({int(np.abs(known - step).argmin()) for step in wanted})


def read_study(path: Path, step: int | None = None) -> StudyResult | Damaged:
    """A study from its file, or what is wrong with that; ``step`` is of a run, where it was made."""
    try:
        return StudyResult.read(path)
    # HDF5 raises many kinds of errors for a damaged file; none of them may keep the page from being written.
    except Exception as error:
        why = str(error) if isinstance(error, ValueError) else f"{path} is damaged ({error})"
        return Damaged(path.stem, step, why)


def _read(run: Run) -> tuple[dict[tuple[int, str], ScoreFile], dict[int, str]]:
    """The files of all scores by step and measure, and the steps that are not complete, each with the reason."""
    files: dict[tuple[int, str], ScoreFile] = {}
    left_out: dict[int, str] = {}
    for (step, measure), path in score_files(run.path).items():
        try:
            files[step, measure] = ScoreFile.open(path)
        except ValueError as error:
            left_out[step] = str(error)
    steps, common = {step for step, _ in files}, Counter(measure for _, measure in files)
    expected = [each.name for each in LIVE if 2 * common[each.name] >= len(steps)]
    for step in steps - left_out.keys():
        missing = [name for name in expected if (step, name) not in files]
        if missing:
            left_out[step] = f"{', '.join(missing)} not scored; headway measure {run.path} does it"
    return files, left_out


def _attributes(files: Mapping[int, ScoreFile]) -> dict[str, dict[str, Any]]:
    """The stored attributes of each variable of a measure; the last step has the last word."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    layouts = [file.layout for _, file in sorted(files.items())]
    # Those of neighbours are mostly one object.
    for layout, before in zip(layouts, [None, *layouts], strict=False):
        if layout is not before:
            for name, attributes in layout.attributes.items():
                found[name] |= attributes
    return found


def _variables(
    measure: str, files: Mapping[int, ScoreFile], stored: Mapping[str, Mapping[str, Any]], steps: list[int], run: Run
) -> dict[str, Variable]:
    """The variables of one measure at all steps, its score first."""
    scores = over_steps(files, steps)
    names = sorted(map(str, scores.data_vars), key=lambda name: (name != measure, name))
    return {
        name: Variable(
            measure, name, scores[name].transpose("step", ...), complete(measure, name, stored[name], run.config)
        )
        for name in names
    }


def _entries(variable: Variable, axes: tuple[str, ...]) -> list[tuple[str | None, xr.DataArray]]:
    """The values [step, *axes] of each entry of the one axis that the figure does not have, with its label.

    One entry without a label if there is no such axis. The values have labels along no axis but ``step``.
    """
    values = variable.values
    others = [axis for axis in variable.axes if axis not in axes]
    wanted = ("step", *(axis for axis in axes if axis in variable.axes))
    step = {"step": values.coords["step"]}

    def of_entry(at: dict[str, int]) -> xr.DataArray:
        entry = values.variable[at].transpose(*wanted)
        return xr.DataArray(entry.values, step, wanted)

    if not others:
        return [(None, of_entry({}))]
    (axis,) = others
    labels = values[axis].values.tolist() if axis in values.coords else range(values.sizes[axis])
    names = [label if isinstance(label, str) else f"{axis} {label}" for label in labels]
    return [(name, of_entry({axis: at})) for at, name in enumerate(names)]
