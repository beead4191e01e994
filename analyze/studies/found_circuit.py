"""The heads of a study beside those of the circuit that was found without looking at any score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from headway.analyze.circuits.circuit import Circuit
from headway.analyze.circuits.find import NothingToExplainError, find_nodes
from headway.analyze.circuits.intervals import Interval, paired_bootstrap
from headway.analyze.circuits.kept import Pass
from headway.analyze.circuits.nodes import NodePatching
from headway.analyze.circuits.of_run import resolve
from headway.analyze.circuits.replacement import Replacement, default_replacement
from headway.analyze.measures.descriptions import LEAST_KNOWN
from headway.analyze.studies.heads import listed
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Figure, Section, table
from headway.checkpoints.run import Run
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model, evaluating

TITLE = "The circuit that was found"
# A search takes some hundred forward passes for each order in which nodes are removed.
MOST_NODES = 64
NOT_MEASURED = "Not measured: no circuit of this behaviour is stored with the network"


def found_circuit_section(network: LoadedModel, heads: Sequence[Head]) -> Section:
    """Compare the heads that a study chose, by thresholds of its scores, with those of the stored circuit.

    The circuit is that of the checkpoint of the study, or the last one that was found. Both sets of heads are judged on
    the sequences, and under the replacement, of the stored circuit, with embeddings and MLPs in place.
    """
    if network.run is None:
        return Section(TITLE, f"{NOT_MEASURED}.", ())
    try:
        scores = _stored(network.run, network.step)
    except ValueError as error:
        return Section(TITLE, f"{NOT_MEASURED} ({str(error).removeprefix('circuit: ')}).", ())
    asked = scores.known.attrs
    part, _, batch = resolve(network.run, asked["part"] or "all", asked["replacement"], asked["sequences"])
    compared = _Compared(network.model, batch, part, asked["replacement"], asked["seed"])
    removed = "headway circuit removes edges one at a time and looks at no score of heads"
    return compared.section(Circuit(scores), heads, f"found at step {asked['step']}", removed)


def searched_nodes_section(model: Model, batch: Batch, heads: Sequence[Head]) -> Section:
    """Compare the heads that a study chose with the nodes that carry the behaviour of a batch, searched here.

    It is for a behaviour that is not that of the run's task, so that no circuit of it is stored.
    """
    nodes = model.cfg.n_layers * (model.cfg.n_heads + 1)
    if nodes > MOST_NODES:
        return Section(TITLE, f"Not measured: {nodes} heads and MLPs are too many to search here.", ())
    try:
        found = find_nodes(model, batch)
    except NothingToExplainError as error:
        return Section(TITLE, f"Not measured: {error}.", ())
    compared = _Compared(model, batch, None, default_replacement(batch), 0)
    removed = (
        "Heads and MLPs are removed one at a time, and no score of them is looked at (as by headway circuit --nodes)"
    )
    return compared.section(found, heads, "found on these prompts", removed)


@dataclass(frozen=True)
class _Compared:
    """Sets of heads of a network, judged on one behaviour under one replacement."""

    model: Model
    batch: Batch
    part: str | None
    replacement: Replacement
    seed: int

    def section(self, circuit: Circuit, heads: Sequence[Head], named: str, removed: str) -> Section:
        found = [Head.named(node) for node in circuit.nodes if node.startswith("L")]
        mlps = [node for node in circuit.nodes if node.startswith("MLP")]
        more, fewer = ([head for head in a if head not in b] for a, b in ((found, heads), (heads, found)))
        difference = (
            f"besides, it has {listed(more)}; it lacks {listed(fewer)}" if more or fewer else "they are the same"
        )
        rows = {"this study": tuple(heads), named: tuple(found)}
        shares = self._shares(list(rows.values()))
        beside = f" MLPs of the circuit: {', '.join(mlps)}." if mlps else ""
        return Section(
            TITLE,
            f"{removed}. Compared with the heads of this study: {difference}.{beside} {self._controls(circuit)}",
            (
                Figure(
                    "Heads of the study and of the circuit",
                    table(
                        "heads of",
                        rows,
                        heads=[listed(each) for each in rows.values()],
                        **shares,
                    ),
                    "table",
                    f"faithfulness: share of what all heads know that these keep alone, with the others replaced "
                    f"({self.replacement}); necessity: share that is lost without them. Embeddings and MLPs stay. "
                    "low, high: 95 % intervals, by a paired bootstrap over sequences.",
                ),
            ),
        )

    def _controls(self, circuit: Circuit) -> str:
        controls = circuit.scores.control_faithfulness.values
        alone = float(circuit.scores.faithfulness)
        return (
            f"The circuit keeps {100 * alone:.1f} % of what is known; of {len(controls)} random ones of its size the "
            f"median keeps {100 * float(np.median(controls)):.1f} %, the best {100 * controls.max():.1f} %."
        )

    def _shares(self, sets: Sequence[Sequence[Head]]) -> dict[str, list[float]]:
        """Return faithfulness and necessity of sets of heads with their intervals, by the name of the column.

        They are those of ``headway.analyze.circuits.faithfulness``: all heads, and no other nodes, are replaced.
        """
        with torch.no_grad(), evaluating(self.model):
            patching = NodePatching(self.model, self.batch, self.part, self.replacement, self.seed)
            heads = np.array([node.startswith("L") for node in patching.nodes])
            inside = [np.isin(patching.nodes, [str(head) for head in each]) for each in sets]
            clean, none = patching.sums(patching.clean), patching.sums(Pass(~heads))
            kept = np.stack([patching.sums(Pass(each | ~heads)) for each in inside])
            lost = np.stack([patching.sums(Pass(~each)) for each in inside])

        def shares(mean: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
            best, worst = mean(clean)[:, None], mean(none)[:, None]
            known = np.where(worst - best >= np.maximum(LEAST_KNOWN * worst, 1e-300), worst - best, np.nan)
            return {"faithfulness": (worst - mean(kept)) / known, "necessity": (mean(lost) - best) / known}

        return _columns(paired_bootstrap(shares, patching.counts, self.seed))


def _columns(found: Mapping[str, Interval]) -> dict[str, list[float]]:
    """Return numbers and the two ends of their intervals, a column each."""
    return {
        f"{name}{end}": values.round(6).tolist()
        for name, interval in found.items()
        for end, values in (("", interval.value), (", low", interval.low), (", high", interval.high))
    }


def _stored(run: Run, step: int | None) -> xr.Dataset:
    part = run.task.behaviour.part or "all"
    there = [at for at, name, _ in run.circuits if name == part]
    return run.circuit(step if step in there else None, part)
