"""Circuits of a run: found at a checkpoint, followed over all of them, and kept with the run."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import torch
import xarray as xr

from headway.analyze.circuits.circuit import Circuit, described
from headway.analyze.circuits.evaluation import evaluate, evaluate_together, numbers, with_intervals
from headway.analyze.circuits.find import search
from headway.analyze.circuits.groups import Parts
from headway.analyze.circuits.intervals import Interval
from headway.analyze.circuits.kept import Patching
from headway.analyze.circuits.nodes import NodePatching
from headway.analyze.circuits.patching import EdgePatching
from headway.analyze.circuits.replacement import Replacement, default_replacement
from headway.analyze.circuits.signatures import signatures
from headway.analyze.measures.descriptions import loss_units
from headway.analyze.network.forward import shared_forward_pass
from headway.checkpoints.run import Run
from headway.checkpoints.scores import WEIGHTS, read_circuit, write_scores
from headway.checkpoints.weights import arrays_of, hash_of
from headway.data.task import Batch, Task
from headway.models.convert import Model, evaluating

# A part is judged under this replacement too, or under the second one if the first was asked for.
SECOND: tuple[Replacement, Replacement] = ("position_mean", "resample")
# Circuits are also found at the first checkpoints at which these shares of what is known at last are known.
EARLIER = (0.1, 0.25, 0.5, 0.75)


def circuit_at(
    run: Run,
    step: int,
    part: str | None,
    replacement: Replacement,
    batch: Batch,
    *,
    seed: int = 0,
    n_orders: int = 3,
    n_controls: int = 100,
    advance: Callable[[int], None] = lambda count: None,
    patched: type[Patching] = EdgePatching,
) -> Circuit:
    """Find the circuit at a checkpoint, judge it under a second replacement, name its heads, and write it to the run.

    The circuit is one of edges, or of nodes if ``patched`` is ``NodePatching``.
    """
    model = run.model(step)
    found = circuit_of(model, part, replacement, batch, seed, n_orders, n_controls, advance, patched)
    found.scores["known"].attrs["step"] = step
    found.scores.attrs[WEIGHTS] = hash_of(arrays_of(model))
    _forget_over_steps(run, step, part, replacement, nodes=not found.has_edges)
    return found.save(run.circuit_file(step, part, replacement, nodes=not found.has_edges))


def _forget_over_steps(run: Run, step: int, part: str | None, replacement: Replacement, nodes: bool) -> None:
    """Remove the numbers at every checkpoint of a circuit of this step, in whose place another one comes."""
    try:
        of = run.circuit(part=part or "all", replacement=replacement, over_steps=True, nodes=nodes).known.attrs["step"]
    except (ValueError, KeyError):  # there are none, or they are damaged
        return
    if of == step:
        run.circuit_file(None, part, replacement, nodes).unlink()


def circuit_of(
    model: Model,
    part: str | None,
    replacement: Replacement,
    batch: Batch,
    seed: int,
    n_orders: int,
    n_controls: int,
    advance: Callable[[int], None],
    patched: type[Patching],
) -> Circuit:
    """Find the circuit of a network, judge it under a second replacement, and name its heads.

    Besides the numbers of ``find_circuit`` the Dataset has those of ``evaluate`` under the second replacement, named
    ``second_...``, and those of ``evaluate_together`` under both, of parts that are alike; ``node_in_circuit`` has the
    attribute ``names``, a name for each head that has a signature.
    """
    found = search(patched, model, batch, part, replacement, seed, n_orders, n_controls, advance)
    second = SECOND[1] if replacement == SECOND[0] else SECOND[0]
    scores = xr.merge([found.scores, _under(second, model, batch, part, found, seed)], combine_attrs="override")
    with shared_forward_pass():
        names = signatures(model, batch)
    scores["node_in_circuit"].attrs["names"] = {node: list(each) for node, each in names.items()}
    scores["known"].attrs["second"] = second
    scores = _with_groups(scores, model, batch, part, (replacement, second), seed, patched)
    return replace(found, scores=described(scores, loss_units(batch)))


def over_steps(
    run: Run, circuit: Circuit, batch: Batch, seed: int = 0, advance: Callable[[int], None] = lambda count: None
) -> xr.Dataset:
    """Evaluate one circuit at every checkpoint, and write the numbers to the run: those of ``evaluate`` by step."""
    scores = _at_steps(run, circuit, batch, run.steps, seed, advance)
    _write_over_steps(run, circuit, scores)
    return scores


def complete_over_steps(run: Run) -> None:
    """Evaluate the circuits that were followed over training at the checkpoints that have been added since.

    Those that cannot be, because their files are damaged or of other sequences than the evaluation batch, stay as they
    are, with a warning.
    """
    for nodes in (False, True):
        for step, part, replacement in run.node_circuits if nodes else run.circuits:
            file = run.circuit_file(None, part, replacement, nodes)
            if not file.exists():
                continue
            try:
                over = read_circuit(file)
                added = sorted({*run.steps} - {*over.step.values.tolist()})
                if over.known.attrs["step"] != step or not added:
                    continue
                circuit = Circuit.load(run.circuit_file(step, part, replacement, nodes))
                batch = run.batch().first(over.known.attrs["sequences"])
                found = _at_steps(run, circuit, batch, added, over.known.attrs["seed"])
                whole = xr.concat([over, found], "step", combine_attrs="override").sortby("step")
                _write_over_steps(run, circuit, whole)
            except (ValueError, KeyError) as error:
                warnings.warn(f"circuit: {file} has no numbers at the new checkpoints ({error})", stacklevel=2)


def _at_steps(
    run: Run,
    circuit: Circuit,
    batch: Batch,
    steps: Sequence[int],
    seed: int,
    advance: Callable[[int], None] = lambda count: None,
) -> xr.Dataset:
    """Return the numbers of ``evaluate`` of one circuit at some checkpoints, axis ``step``."""
    asked = circuit.scores.known.attrs
    part, replacement = asked["part"] or None, asked["replacement"]
    rows: list[dict[str, Interval]] = []
    nodes: list[str] = []
    for step in steps:
        patching = _patching(run.model(step), batch, part, replacement, circuit, seed)
        with torch.no_grad():
            rows.append(numbers(patching, circuit.kept, circuit.reach, seed))
        nodes = list(patching.nodes)
        advance(1)
    over = {name: Interval(*map(np.stack, zip(*(row[name] for row in rows), strict=True))) for name in rows[0]}
    axes = {name: ("step", "node") if name == "effect" else ("step",) for name in over}
    scores = with_intervals(over, axes).assign_coords(step=list(steps), node=nodes)
    scores["known"].attrs |= asked
    return described(scores, loss_units(batch))


def _write_over_steps(run: Run, circuit: Circuit, scores: xr.Dataset) -> None:
    asked = circuit.scores.known.attrs
    file = run.circuit_file(None, asked["part"] or None, asked["replacement"], nodes=not circuit.has_edges)
    write_scores(file, scores, checksum=True)


def earlier_steps(over: xr.Dataset) -> list[int]:
    """Return the first checkpoints at which shares of what is known at last are known (EARLIER), before the last.

    Example:
        >>> known = xr.Dataset({"known": ("step", [0.0, 0.2, 1.0, 3.0, 4.0])}, {"step": [0, 10, 100, 200, 300]})
        >>> earlier_steps(known)
        [100, 200]
    """
    known = over.known.values
    reached = [np.flatnonzero(known >= share * known[-1]) for share in EARLIER]
    found = {int(over.step.values[places[0]]) for places in reached if places.size}
    return sorted(found - {int(over.step.values[-1])})


def resolve(
    run: Run, part: str | None, replacement: str | None, sequences: int
) -> tuple[str | None, Replacement, Batch]:
    """Return the behaviour, the replacement and the batch; by default what the task says.

    ``all`` names every position that counts, also where the task is about one part.
    """
    return resolve_of(run.task, run.batch().first(sequences), part, replacement)


def resolve_of(
    task: Task, batch: Batch, part: str | None, replacement: str | None
) -> tuple[str | None, Replacement, Batch]:
    """Return the same for a batch of a task."""
    chosen = task.behaviour.part if part is None else None if part == "all" else part
    if replacement is not None and replacement not in get_args(Replacement):
        raise ValueError(f"replace: {replacement!r} is not one of {', '.join(get_args(Replacement))}")
    return chosen, replacement or default_replacement(batch), batch  # pyright: ignore[reportReturnType]


def _under(
    second: Replacement, model: Model, batch: Batch, part: str | None, circuit: Circuit, seed: int
) -> xr.Dataset:
    found = _evaluated(model, batch, part, second, circuit, seed)
    return found.rename({name: f"second_{name}" for name in found.data_vars})


def _with_groups(
    scores: xr.Dataset,
    model: Model,
    batch: Batch,
    part: str | None,
    kinds: tuple[Replacement, Replacement],
    seed: int,
    patched: type[Patching],
) -> xr.Dataset:
    """Return a circuit's numbers with the effects of parts that are replaced together, under both replacements.

    Which parts have one verdict follows from the effects of groups, and such parts are judged together too.
    """
    with torch.no_grad(), evaluating(model):
        patchings = [patched(model, batch, part, kind, seed) for kind in kinds]
        groups = Parts(scores).together
        judged = _judged(scores, patchings, groups, seed)
        more = [each for each in Parts(judged).together if each not in groups]
        return _judged(scores, patchings, [*groups, *more], seed) if more else judged


def _judged(
    scores: xr.Dataset, patchings: Sequence[Patching], groups: Sequence[Sequence[str]], seed: int
) -> xr.Dataset:
    """Return a circuit's numbers with the effects of groups under two replacements."""
    first, second = (evaluate_together(patching, groups, seed) for patching in patchings)
    return scores.merge(first).merge(second.rename({name: f"second_{name}" for name in second.data_vars}))


def _evaluated(
    model: Model, batch: Batch, part: str | None, replacement: Replacement, circuit: Circuit, seed: int
) -> xr.Dataset:
    with torch.no_grad(), evaluating(model):
        return evaluate(_patching(model, batch, part, replacement, circuit, seed), circuit.kept, circuit.reach, seed)


def _patching(
    model: Model, batch: Batch, part: str | None, replacement: Replacement, circuit: Circuit, seed: int
) -> Patching:
    return (EdgePatching if circuit.has_edges else NodePatching)(model, batch, part, replacement, seed)
