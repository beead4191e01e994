"""The heads of a study beside those of the circuit that ``headway circuit`` found in the same run."""

from collections.abc import Sequence

import xarray as xr

from headway.analyze.circuits.circuit import Circuit
from headway.analyze.circuits.faithfulness import faithfulness, necessity
from headway.analyze.circuits.of_run import resolve
from headway.analyze.circuits.replacement import Replacement, other_sequences
from headway.analyze.network.interventions import Kind
from headway.analyze.studies.heads import listed
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Figure, Section, table
from headway.checkpoints.run import Run
from headway.data.task import Batch
from headway.models.config import Head

TITLE = "The circuit that was found"
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
    asked, nodes = scores.known.attrs, Circuit(scores).nodes
    found = [Head.named(node) for node in nodes if node.startswith("L")]
    mlps = [node for node in nodes if node.startswith("MLP")]
    more, fewer = ([head for head in a if head not in b] for a, b in ((found, heads), (heads, found)))
    difference = f"besides, it has {listed(more)}; it lacks {listed(fewer)}" if more or fewer else "they are the same"
    rows = {"this study": tuple(heads), f"found at step {asked['step']}": tuple(found)}
    kept, lost = _shares(network, asked, list(rows.values()))
    beside = f" MLPs of the circuit: {', '.join(mlps)}." if mlps else ""
    return Section(
        TITLE,
        f"headway circuit removes edges one at a time and looks at no score of heads. Compared with the heads of this "
        f"study: {difference}.{beside}",
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
                f"({asked['replacement']}); necessity: share that is lost without them. Embeddings and MLPs stay.",
            ),
        ),
    )


def _stored(run: Run, step: int | None) -> xr.Dataset:
    part = run.task.behaviour.part or "all"
    there = [at for at, name, _ in run.circuits if name == part]
    return run.circuit(step if step in there else None, part)


def _shares(network: LoadedModel, asked: dict, sets: Sequence[Sequence[Head]]) -> tuple[list[float], list[float]]:
    """Return faithfulness and necessity of sets of heads."""
    assert network.run is not None
    replacement: Replacement = asked["replacement"]
    part, _, batch = resolve(network.run, asked["part"] or "all", replacement, asked["sequences"])
    kind, reference = _as_ablation(batch, replacement, asked["seed"])
    given = (network.model, batch)
    return (
        [faithfulness(*given, heads, kind, part, reference) for heads in sets],
        [necessity(*given, heads, kind, part, reference) for heads in sets],
    )


def _as_ablation(batch: Batch, replacement: Replacement, seed: int) -> tuple[Kind, Batch | None]:
    """Return the kind of ablation, and the batch it takes activations from, that stand for a replacement."""
    if replacement == "twin":
        return "resample", other_sequences(batch, replacement, seed)
    return replacement, None
