"""The runner of studies: it loads a network, calls the study, and evaluates the claims at every earlier checkpoint."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from tqdm import tqdm
from transformer_lens.model_bridge import TransformerBridge

from headway.analyze.formation.dates import held_from
from headway.analyze.network.forward import shared_forward_pass
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Claims, Figure, Section, StudyResult, table
from headway.analyze.studies.study import Study, imported
from headway.checkpoints.memory import check_drawn, check_scored
from headway.checkpoints.run import Run
from headway.checkpoints.weights import arrays_of, hash_of
from headway.data.no_task import NoTask


@dataclass(frozen=True)
class Findings:
    """The findings of a study on one network, and what the runner evaluates at every checkpoint.

    Args:
        sections: Figures and tables of the network.
        claims: The function from a network to its claims.
        measured: The function from a network to measures, which are drawn over the checkpoints; None for none.
        formed: The text of the section on the checkpoints.
    """

    sections: Iterable[Section]
    claims: Callable[[LoadedModel], Claims]
    measured: Callable[[LoadedModel], xr.Dataset] | None = None
    formed: str = "The claims at each checkpoint up to this one."

    def ask(self, network: LoadedModel) -> tuple[Claims, xr.Dataset | None]:
        """Return the claims and the measures of a network."""
        return self.claims(network), None if self.measured is None else self.measured(network)


def run_study(
    study: Study,
    source: Run | TransformerBridge,
    options: Any = None,
    others: Sequence[Run] = (),
    at: int | None = None,
    progress: bool = False,
) -> StudyResult:
    """Run a study without writing it to disk; ``headway.study`` also writes it.

    Args:
        study: One of STUDIES.
        source: A run of one of its tasks, or a language model if the study accepts them.
        options: Its options; the defaults if None.
        others: Further runs to compare with, if the study accepts them.
        at: The checkpoint; the last one if None.
        progress: Show a progress bar over the checkpoints.

    Raises:
        ValueError: a run of another task, a checkpoint that the run does not have, options that do not fit the network.
    """
    source = with_sequences(study, source)
    check_source(study, source, others)
    options = study.given({}) if options is None else options
    network = LoadedModel.of(source, at)
    if network.run is not None:
        _check_sequences(options, network.run)
    make = imported(study.function)
    with shared_forward_pass():
        findings = make(network, options, others) if study.takes_runs else make(network, options)
        sections, found = list(findings.sections), findings.ask(network)
    if network.run is not None and network.step is not None:
        asked = {step: _ask(findings, network.run, step) for step in _before(network.run, network.step, progress)}
        figures = over_checkpoints(asked | {network.step: found})
        sections.append(Section("Over training", findings.formed, figures))
    weights = None if network.run is None else hash_of(arrays_of(network.model))
    return StudyResult(study.name, network.name, network.step, tuple(sections), found[0], weights)


def with_sequences(study: Study, source: Run | TransformerBridge) -> Run | TransformerBridge:
    """Return a run that was imported without a task with the one that the study makes for its network.

    Raises:
        ValueError: a network that no such task fits.
    """
    if not isinstance(source, Run) or not study.makes or source.imported is None:
        return source
    if not isinstance(source.task, NoTask):
        return source
    try:
        return source.with_task(imported(study.makes)(source.recipe.model))
    except ValueError as error:
        raise ValueError(
            f"run: {study.name} makes no sequences that the network of {source.path} fits ({error})"
        ) from None


def check_source(study: Study, source: Run | TransformerBridge, others: Sequence[Run] = ()) -> None:
    """Raise a ValueError for what the study does not accept: a task, a language model, further runs, a run twice."""
    if others and not study.takes_runs:
        raise ValueError(f"others: {study.name} accepts one run; {len(others)} further runs are given")
    if not isinstance(source, Run) and not study.takes_models:
        raise ValueError(f"run: {study.name} accepts no language model; give a run of {study.task_names}")
    tasks, runs = (
        tuple(imported(path) for path in study.tasks),
        [run for run in (source, *others) if isinstance(run, Run)],
    )
    paths = [run.path.resolve() for run in runs]
    for run in runs:
        if not isinstance(run.task, tasks):
            task = type(run.task).__name__
            of = "was imported without a task" if task == NoTask.__name__ else f"is of the task {task}"
            raise ValueError(f"run: {run.path} {of}; {study.name} needs {study.task_names}")
        if paths.count(run.path.resolve()) > 1:
            raise ValueError(f"run: {run.path} is given twice")


def _check_sequences(options: Any, run: Run) -> None:
    """Refuse more sequences than this machine's memory holds."""
    if hasattr(options, "sequences"):
        positions = getattr(options, "length", run.task.n_ctx)
        check_scored("sequences", options.sequences, positions, run.recipe.model)
    if hasattr(options, "probe_sequences"):
        check_drawn("probe_sequences", options.probe_sequences, run.task)


def _before(run: Run, last: int, progress: bool) -> Iterable[int]:
    steps = [step for step in run.steps if step < last]
    return tqdm(steps, desc="checkpoints", unit="checkpoint", disable=None if progress else True)


def _ask(findings: Findings, run: Run, step: int) -> tuple[Claims, xr.Dataset | None]:
    with shared_forward_pass():
        return findings.ask(LoadedModel.of(run, step))


def over_checkpoints(asked: Mapping[int, tuple[Claims, xr.Dataset | None]]) -> tuple[Figure, ...]:
    """Return figures over the checkpoints: since when each claim holds, the numbers of the claims, and the measures.

    ``asked`` has the claims and the measures at each step, in order. ``since`` is the step from which on a claim holds
    at all later checkpoints; NaN if it does not hold at the last one.
    """
    steps, claims = list(asked), [claims for claims, _ in asked.values()]
    ends = claims[-1]
    holds = xr.DataArray([[claim.holds for claim in each] for each in claims], dims=("step", "claim"))
    numbers = np.array([[claim.number for claim in each] for each in claims])
    formed = table(
        "claim",
        [claim.says for claim in ends],
        since=held_from(holds.assign_coords(step=steps)).values,
        first=numbers[0],
        last=numbers[-1],
        needs=[claim.needs for claim in ends],
    )
    titles = {"since": "holds since step", "first": f"at step {steps[0]}", "last": f"at step {steps[-1]}"}
    for name, title in titles.items():
        formed[name].attrs["long_name"] = title
    lines = {
        f"claim_{i}": ("step", numbers[:, i], {"long_name": f"{claim.says}: {claim.measured} ({claim.needs})"})
        for i, claim in enumerate(ends)
    }
    measured = [each for _, each in asked.values() if each is not None]
    return (
        Figure(
            "Since when each claim holds",
            formed,
            "table",
            "holds since step: from this checkpoint on, the claim holds at every checkpoint.",
        ),
        Figure(
            "Numbers of the claims over training",
            xr.Dataset(lines, {"step": steps}),
            "lines",
            "One panel per claim, with the definition of its number and its bound.",
            "x",
        ),
        *([Figure("Measures over training", _along(measured, steps), "lines", "", "x")] if measured else []),
    )


def _along(measured: Sequence[xr.Dataset], steps: Sequence[int]) -> xr.Dataset:
    """Join the measures of all steps; the step is the last axis."""
    together = xr.concat(measured, dim=xr.Variable("step", list(steps)), join="outer")
    return together.transpose(..., "step")
