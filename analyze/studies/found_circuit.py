"""The heads of a study beside those of the circuit that was found without looking at any score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from headway.analyze.circuits.circuit import Circuit
from headway.analyze.circuits.faithfulness import faithfulness, necessity
from headway.analyze.circuits.find import NothingToExplainError, find_nodes
from headway.analyze.circuits.of_run import resolve
from headway.analyze.circuits.replacement import Replacement, default_replacement, other_sequences
from headway.analyze.network.interventions import Kind
from headway.analyze.studies.heads import listed
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Figure, Section, table
from headway.checkpoints.run import Run
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model

TITLE = "The circuit that was found"
# A search takes some hundred forward passes for each order in which nodes are removed.
MOST_NODES = 64
# Random sets of as many nodes.
CONTROLS = 19
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
        found = find_nodes(model, batch, n_controls=CONTROLS)
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
        kept, lost = self._shares(list(rows.values()))
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
                        faithfulness=kept,
                        necessity=lost,
                    ),
                    "table",
                    f"faithfulness: share of what all heads know that these keep alone, with the others replaced "
                    f"({self.replacement}); necessity: share that is lost without them. Embeddings and MLPs stay.",
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

    def _shares(self, sets: Sequence[Sequence[Head]]) -> tuple[list[float], list[float]]:
        """Return faithfulness and necessity of sets of heads."""
        kind, reference = _as_ablation(self.batch, self.replacement, self.seed)
        given = (self.model, self.batch)
        return (
            [faithfulness(*given, heads, kind, self.part, reference) for heads in sets],
            [necessity(*given, heads, kind, self.part, reference) for heads in sets],
        )


def _stored(run: Run, step: int | None) -> xr.Dataset:
    part = run.task.behaviour.part or "all"
    there = [at for at, name, _ in run.circuits if name == part]
    return run.circuit(step if step in there else None, part)


def _as_ablation(batch: Batch, replacement: Replacement, seed: int) -> tuple[Kind, Batch | None]:
    """Return the kind of ablation, and the batch it takes activations from, that stand for a replacement."""
    if replacement == "twin":
        return "resample", other_sequences(batch, replacement, seed)
    return replacement, None
