"""Fuzzy induction: every number of induction under the equivalence of synonyms."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from headway.analyze.measures.attention import prefix_matching
from headway.analyze.measures.attention import previous_token as previous_token_score
from headway.analyze.measures.loss import accuracy, loss
from headway.analyze.studies.figures import predictions_of_first
from headway.analyze.studies.induction.circuit import (
    CircuitNumbers,
    find_circuit,
    parts_of,
)
from headway.analyze.studies.induction.options import Options
from headway.analyze.studies.induction.sequences import Sequences, in_synonyms, own_repeats
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Figure, Section
from headway.checkpoints.run import Run


def fuzzy_section(
    network: LoadedModel,
    main: Sequences,
    fuzzy: Sequences,
    told: str,
    others: Sequence[Run],
    options: Options,
) -> Section:
    """Every quantity of induction under the equivalence of synonyms, beside equality, and beside other networks."""
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
    told += " The heads: " + "; ".join(f"{each} ({name})" for name, each in circuits.items() if each) + "."
    repeats = parts_of(fuzzy.batch)["repeats"][0].nonzero().flatten().tolist()
    return Section(
        "Fuzzy induction",
        f"After [A] [B] … [A*], is it [B*]? Sequences of random tokens that are followed by their synonyms. {told} "
        "Attention is to what followed the synonym of the current token, what is said right is the synonym of what "
        "stands there, and tokens match that are synonyms.",
        (
            Figure(
                "Induction, and fuzzy induction",
                xr.Dataset(
                    {"value": (("of repeats", "network"), np.array([list(row.values()) for row in found.values()]).T)},
                    {"of repeats": list(next(iter(found.values()))), "network": list(found)},
                ),
                "table",
                "equal: sequences whose copies are equal. lost without: the share of what repeats tell that is lost "
                "without the previous-token and induction heads; but: without all others; keys: with the keys of the "
                "induction heads reading what previous-token heads write on other sequences. – where a network knows "
                "nothing that could be lost.",
            ),
            predictions_of_first(
                "A sequence with synonyms",
                network,
                fuzzy.batch,
                repeats,
                "The synonyms that can be told, of the first sequence.",
            ),
        ),
    )


def _quantities(network: LoadedModel, sequences: Sequences, options: Options) -> dict[str, float]:
    """The numbers of induction, on sequences whose copies are equal or synonyms."""
    model, batch = network.model, sequences.batch
    losses = loss(model, batch)
    after = prefix_matching(model, batch, sequences.same)
    numbers = {
        "loss on new tokens": losses.loss_first.item(),
        "loss on repeats": losses.loss_repeats.item(),
        "accuracy on repeats": accuracy(model, batch).accuracy_repeats.item(),
        "previous_token, best head": previous_token_score(model, batch).previous_token.max().item(),
        "prefix_matching, best head": after.prefix_matching.max().item(),
        "chance of that": after.prefix_matching_chance.item(),
    }
    found = CircuitNumbers.of(network, sequences, find_circuit(model, sequences, options))
    return numbers | {
        "tokens that the induction heads say most (OV)": found.copies,
        "tokens that are their own best key (K-composition)": found.matches,
        "share of the right logit that induction heads add": found.adds,
        "lost without the circuit": found.without,
        "lost without all others": found.alone,
        "lost with keys from other sequences": found.through_keys,
    }
