"""The runner of studies: it loads a network, has the study answer its question, and asks every earlier checkpoint."""

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
from headway.checkpoints.run import Run


@dataclass(frozen=True)
class Findings:
    """What a study says of one network, and what is to be asked of every checkpoint of its run.

    Args:
        sections: The figures and tables of the network.
        claims: The claims of a network, with their numbers.
        measured: Numbers of a network that are drawn over the checkpoints; None for none.
        formed: What the section on the checkpoints says of itself.
    """

    sections: Iterable[Section]
    claims: Callable[[LoadedModel], Claims]
    measured: Callable[[LoadedModel], xr.Dataset] | None = None
    formed: str = "The claims at each kept step up to this one."

    def ask(self, network: LoadedModel) -> tuple[Claims, xr.Dataset | None]:
        """The claims of a network, and what is measured of it."""
        return self.claims(network), None if self.measured is None else self.measured(network)


def run_study(
    study: Study,
    source: Run | TransformerBridge,
    options: Any = None,
    others: Sequence[Run] = (),
    at: int | None = None,
    progress: bool = False,
) -> StudyResult:
    """Make a study, without writing it to disk; ``headway.study`` writes it too.

    Args:
        study: One of STUDIES.
        source: A run of one of its tasks, or a language model if it takes those.
        options: Its options; the defaults if not given.
        others: Further runs, if it takes those.
        at: The checkpoint; the last one if not given.
        progress: Show a bar while going through the checkpoints.

    Raises:
        ValueError: a run of another task, a step that was not kept, a network or options that the study refuses.
    """
    check_source(study, source, others)
    options = study.given({}) if options is None else options
    network = LoadedModel.of(source, at)
    make = imported(study.function)
    with shared_forward_pass():
        findings = make(network, options, others) if study.takes_runs else make(network, options)
        sections, found = list(findings.sections), findings.ask(network)
    if network.run is not None and network.step is not None:
        asked = {step: _ask(findings, network.run, step) for step in _before(network.run, network.step, progress)}
        figures = over_checkpoints(asked | {network.step: found})
        sections.append(Section("How it formed", findings.formed, figures))
    return StudyResult(study.name, network.name, network.step, tuple(sections), found[0])


def check_source(study: Study, source: Run | TransformerBridge, others: Sequence[Run] = ()) -> None:
    """Refuse, with a ValueError, what the study does not take: a task, a language model, further runs, a run twice."""
    if others and not study.takes_runs:
        raise ValueError(f"others: {study.name} is a study of one run; {len(others)} more were given")
    if not isinstance(source, Run) and not study.takes_models:
        raise ValueError(f"run: {study.name} takes no language model; it needs a run of {study.task_names}")
    tasks, runs = (
        tuple(imported(path) for path in study.tasks),
        [run for run in (source, *others) if isinstance(run, Run)],
    )
    paths = [run.path.resolve() for run in runs]
    for run in runs:
        if not isinstance(run.task, tasks):
            task = type(run.task).__name__
            raise ValueError(f"run: {run.path} is of the task {task}; {study.name} needs {study.task_names}")
        if paths.count(run.path.resolve()) > 1:
            raise ValueError(f"run: {run.path} is given twice")


def _before(run: Run, last: int, progress: bool) -> Iterable[int]:
    steps = [step for step in run.steps if step < last]
    return tqdm(steps, desc="how it formed", unit="step", disable=None if progress else True)


def _ask(findings: Findings, run: Run, step: int) -> tuple[Claims, xr.Dataset | None]:
    with shared_forward_pass():
        return findings.ask(LoadedModel.of(run, step))


def over_checkpoints(asked: Mapping[int, tuple[Claims, xr.Dataset | None]]) -> tuple[Figure, ...]:
    """When each claim came to hold: a table, the numbers of the claims as lines, and what was measured as lines.

    ``asked`` has the claims and what was measured at each step, in order. ``since`` is the step from which on a claim
    holds for good, NaN if it does not hold at the last.
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
            "When each claim came to hold",
            formed,
            "table",
            "The kept step from which on the number of a claim is on the right side of its bound for good.",
        ),
        Figure(
            "The numbers that decide the claims, over training",
            xr.Dataset(lines, {"step": steps}),
            "lines",
            "One panel a claim; it says what the number is and what it must be.",
            "x",
        ),
        *([Figure("Measures, over training", _along(measured, steps), "lines", "", "x")] if measured else []),
    )


def _along(measured: Sequence[xr.Dataset], steps: Sequence[int]) -> xr.Dataset:
    """What was measured at each step, with the steps as the last axis."""
    together = xr.concat(measured, dim=xr.Variable("step", list(steps)), join="outer")
    return together.transpose(..., "step")
