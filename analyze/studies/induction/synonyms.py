"""Fuzzy induction: the measures of induction with synonyms as equal tokens."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from headway.analyze.measures.attention import prefix_matching
from headway.analyze.measures.attention import previous_token as previous_token_score
from headway.analyze.measures.loss import accuracy, loss
from headway.analyze.studies.figures import predictions_of_first
from headway.analyze.studies.induction.circuit import CircuitNumbers, find_circuit, parts_of
from headway.analyze.studies.induction.options import Options
from headway.analyze.studies.induction.sequences import Sequences, in_synonyms, own_repeats
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Figure, Section
from headway.checkpoints.run import Run


def fuzzy_section(
    network: LoadedModel, main: Sequences, fuzzy: Sequences, source: str, others: Sequence[Run], options: Options
) -> Section:
    """Measures of induction with synonyms as equal tokens, beside plain induction, and beside other networks."""
    networks = {f"{network.name}, synonyms": (network, fuzzy)}
    if not torch.equal(main.synonyms, fuzzy.synonyms):
        networks = {f"{network.name}, equal": (network, main)} | networks
    for other in map(LoadedModel.of, others):
        synonyms = in_synonyms(other, own_repeats(other))
        if synonyms is not None:
            sequences = synonyms.sequences(other.eval_seed, len(fuzzy.batch.inputs))
            networks[f"{other.name}, synonyms"] = (other, sequences)
    found = {name: _quantities(*each, options) for name, each in networks.items()}
    circuits = {name: find_circuit(each.model, some, options) for name, (each, some) in networks.items()}
    source += " Circuits: " + "; ".join(f"{each} ({name})" for name, each in circuits.items() if each) + "."
    repeats = parts_of(fuzzy.batch)["repeats"][0].nonzero().flatten().tolist()
    return Section(
        "Fuzzy induction",
        f"[A] [B] … [A*] → [B*]: sequences of random tokens, followed by their synonyms. {source} prefix_matching is "
        "attention to what followed the synonym of the current token, the right answer is the synonym of the token "
        "there, and synonyms count as equal tokens.",
        (
            Figure(
                "Induction and fuzzy induction",
                xr.Dataset(
                    {"value": (("measure", "network"), np.array([list(row.values()) for row in found.values()]).T)},
                    {"measure": list(next(iter(found.values()))), "network": list(found)},
                ),
                "table",
                "equal: sequences with equal copies. lost: (loss - clean) / (loss with all heads replaced by their "
                "means - clean), for the circuit replaced, for all other heads replaced, and for induction heads "
                "whose keys read the previous-token heads on other sequences. –: the network knows less than a tenth "
                "of its loss.",
            ),
            predictions_of_first(
                "A sequence with synonyms",
                network,
                fuzzy.batch,
                repeats,
                "The positions of the first sequence whose token is determined.",
            ),
        ),
    )


def _quantities(network: LoadedModel, sequences: Sequences, options: Options) -> dict[str, float]:
    """Measures of induction, on sequences whose copies are equal or synonyms."""
    model, batch = network.model, sequences.batch
    losses = loss(model, batch)
    after = prefix_matching(model, batch, sequences.same)
    numbers = {
        "loss on new tokens": losses.loss_first.item(),
        "loss on repeats": losses.loss_repeats.item(),
        "accuracy on repeats": accuracy(model, batch).accuracy_repeats.item(),
        "previous_token, best head": previous_token_score(model, batch).previous_token.max().item(),
        "prefix_matching, best head": after.prefix_matching.max().item(),
        "chance of prefix_matching": after.prefix_matching_chance.item(),
    }
    found = CircuitNumbers.of(network, sequences, find_circuit(model, sequences, options))
    return numbers | {
        "share of tokens that the induction heads copy (OV)": found.copying,
        "share of tokens that match themselves (K-composition)": found.token_matching,
        "share of the right logit from the induction heads": found.direct_attribution,
        "lost without the circuit": found.without,
        "lost without all other heads": found.alone,
        "lost with keys from other sequences": found.through_keys,
    }
