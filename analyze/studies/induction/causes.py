"""Ablation of heads, and patching of paths between them."""

from itertools import product

import numpy as np
import xarray as xr

from headway.analyze.circuits.faithfulness import Known
from headway.analyze.measures.ablation import ablated_loss, ablation
from headway.analyze.measures.attention import prefix_matching
from headway.analyze.measures.loss import loss
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import hooked_forward_pass
from headway.analyze.network.interventions import Kind, heads_except, through_paths
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.studies.heads import listed
from headway.analyze.studies.induction.circuit import Circuit
from headway.analyze.studies.induction.sequences import Sequences
from headway.analyze.studies.result import Figure, Section, table
from headway.models.convert import Model

# With more heads than this, heads are replaced by their means only, which takes one forward pass per head.
MANY_HEADS = 64


def ablation_section(model: Model, sequences: Sequences, circuit: Circuit | None) -> Section:
    """Loss without each head, without the circuit, and with the circuit alone."""
    batch = sequences.batch
    kinds: tuple[Kind, ...] = ("mean", "zero") if len(heads_except(model)) <= MANY_HEADS else ("mean",)
    each = {kind: ablation(model, batch, kind).ablation_repeats.values for kind in kinds}
    figures = [
        Figure(
            "Change in loss on repeats when one head is ablated",
            xr.Dataset({"change": (("kind", *HEAD), np.stack(list(each.values())))}, {"kind": list(each)}),
            "maps",
            f"In nats. Replaced by: {' or '.join(kinds)}.",
        )
    ]
    if circuit is not None:
        known = Known.of(model, batch, part="repeats")
        without = {
            "nothing": [],
            f"the best previous-token head {circuit.previous}": [circuit.previous],
            f"previous-token heads {listed(circuit.previous_heads)}": circuit.previous_heads,
            f"the best induction head {circuit.induction}": [circuit.induction],
            f"induction heads {listed(circuit.induction_heads)}": circuit.induction_heads,
            "both": circuit.heads,
            "all but both": heads_except(model, circuit.heads),
            "all but the best two": heads_except(model, (circuit.previous, circuit.induction)),
            "all heads": heads_except(model),
        }
        left = [ablated_loss(model, batch, heads) for heads in without.values()]
        figures.append(
            Figure(
                "Loss when sets of heads are ablated",
                table(
                    "ablated",
                    without,
                    heads=[len(heads) for heads in without.values()],
                    loss_first=[each.loss_first.item() for each in left],
                    loss_repeats=[each.loss_repeats.item() for each in left],
                    lost=[known.necessity(each.loss_repeats.item()) for each in left],
                ),
                "table",
                "Heads are replaced together by their means. lost: necessity on repeats, (loss - clean) / (loss with "
                "all heads replaced - clean). The circuit is necessary if everything is lost without it (1), and "
                "sufficient if nothing is lost without all other heads (0).",
            )
        )
    return Section("Ablation", "", tuple(figures))


def paths_section(model: Model, sequences: Sequences, circuit: Circuit) -> Section:
    """Loss when later heads read, at one input, the output of the previous-token heads on other sequences."""
    batch = sequences.batch
    senders = {
        f"{circuit.previous} → {circuit.induction}": ((circuit.previous,), (circuit.induction,)),
        str(circuit): (circuit.previous_heads, circuit.induction_heads),
    }
    rows, losses, attention = [], [], []
    try:
        for (name, (a, b)), input in product(senders.items(), ("q", "k", "v")):
            with hooked_forward_pass(model, through_paths(model, batch, a, b, input)):
                losses.append(loss(model, batch).loss_repeats.item())
                score = prefix_matching(model, batch, sequences.same).prefix_matching
            rows.append(f"{name}, {input}")
            attention.append(score.values[circuit.induction])
    except DoesNotApplyError as reason:
        return Section("Path patching", f"{reason}.", ())
    known = Known.of(model, batch, part="repeats")
    whole = prefix_matching(model, batch, sequences.same).prefix_matching.values[circuit.induction]
    return Section(
        "Path patching",
        "The later heads read, at one input (q, k or v), the output of the earlier heads on other sequences; "
        "everything else is unchanged.",
        (
            Figure(
                "Loss on repeats when a path is patched",
                table(
                    "path, input",
                    ["none", *rows],
                    loss_repeats=[known.clean, *losses],
                    lost=[known.necessity(each) for each in (known.clean, *losses)],
                    prefix_matching=[whole, *attention],
                ),
                "table",
                f"lost: (loss - clean) / (loss with all heads replaced by their means - clean). prefix_matching: of "
                f"{circuit.induction}.",
            ),
        ),
    )
