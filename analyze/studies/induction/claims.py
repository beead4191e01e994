"""The claims of the study of induction, and what is measured at every checkpoint."""

from collections.abc import Callable
from itertools import product

import numpy as np
import xarray as xr

from headway.analyze.measures.ablation import ablation
from headway.analyze.measures.attention import current_token, first_token, prefix_matching
from headway.analyze.measures.attention import previous_token as previous_token_score
from headway.analyze.measures.attribution import attribute_outputs
from headway.analyze.measures.composition import k_composition
from headway.analyze.measures.loss import accuracy, loss
from headway.analyze.measures.positions import position_pattern
from headway.analyze.network.axes import HEAD
from headway.analyze.network.interventions import heads_except
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.studies.heads import best_head, mean_where, way_from_chance, writes_by_reads
from headway.analyze.studies.induction.circuit import (
    CircuitNumbers,
    better_than_chance,
    copying_share,
    find_circuit,
    matching_shares,
    parts_of,
)
from headway.analyze.studies.induction.options import Options
from headway.analyze.studies.induction.sequences import Sequences
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Claim, Claims
from headway.models.config import Head
from headway.models.convert import Model


def claims(network: LoadedModel, sequences: Sequences, fuzzy: Sequences | None, options: Options) -> Claims:
    """Return the claims on an induction circuit, with the numbers that decide them for a network.

    Necessity and faithfulness are on repeats, with heads replaced by their means. A number is NaN if the network knows
    too little, has no second layer or no positional embeddings, or if a premise of its claim fails.
    """
    model, batch = network.model, sequences.batch
    circuit = find_circuit(model, sequences, options)
    found = CircuitNumbers.of(network, sequences, circuit)
    pair, heads = "a previous-token head and an induction head", "heads"
    if circuit is not None:
        pair, heads = f"{circuit.previous} and {circuit.induction}", f"{circuit}"
    fuzzy_numbers = {"attention": np.nan, "predicts": np.nan}
    if fuzzy is not None:
        scores = prefix_matching(model, fuzzy.batch, fuzzy.same)
        best = best_head(scores.prefix_matching.values)
        fuzzy_numbers = {
            "attention": way_from_chance(scores, "prefix_matching").values[best].item(),
            "predicts": better_than_chance(model, fuzzy.batch),
        }
    predicts = Claim(
        "The network predicts repeated tokens",
        "1 - loss on repeats / loss at chance",
        better_than_chance(model, batch),
        0.5,
    )
    before = Claim(
        "An early layer has a previous-token head",
        "previous_token of the best head before the last layer, from chance (0) to all attention (1)",
        found.previous_token,
        0.5,
    )
    after = Claim(
        "A later layer has an induction head",
        "prefix_matching of the best head of a later layer, from chance (0) to all attention (1)",
        found.prefix_matching,
        0.5,
    )
    composes = Claim(
        "The keys of the induction head read the previous-token head",
        f"K-composition of {pair}, from a random pair (0) to its ceiling (1)",
        found.k_composition,
        0.5,
    ).given(before, after)
    return (
        predicts,
        before,
        Claim(
            "The previous-token head attends by position",
            "its previous_token from positions and biases alone in queries and keys, at the actual scale of LayerNorm",
            found.by_position,
            0.5,
        ).given(before),
        after,
        composes,
        Claim(
            "In their K-composition circuit, tokens match themselves",
            f"share of tokens whose best key is the token itself, in the K-composition circuit of {pair}",
            found.token_matching,
            0.5,
        ).given(composes),
        Claim(
            "The OV circuit of the induction heads copies",
            "share of tokens whose own logit is the largest in the OV circuit of the induction heads together",
            found.copying,
            0.5,
        ).given(after),
        Claim(
            "The induction heads write the right logit directly",
            "direct attribution: their share of the right logit minus the mean logit, on repeats",
            found.direct_attribution,
            0.5,
        ).given(predicts, after),
        Claim(
            "The induction heads need keys from the previous-token heads",
            "share of what the network knows that is lost if their keys read the previous-token heads on other "
            "sequences",
            found.through_keys,
            0.5,
        ).given(before, after),
        Claim("The circuit is necessary", f"necessity of {heads} on repeats", found.without, 0.9).given(before, after),
        Claim(
            "The circuit is sufficient", f"1 - faithfulness of {heads} on repeats", found.alone, 0.1, below=True
        ).given(before, after),
        Claim(
            "Induction needs positional embeddings",
            "prefix_matching of the best induction head with hook_pos_embed zero, from chance (0) to all attention (1)",
            found.no_positions,
            0.1,
            below=True,
        ).given(after),
        Claim(
            "A head attends to what followed a synonym of the current token",
            "prefix_matching with synonyms as equal tokens, best head, from chance (0) to all attention (1)",
            fuzzy_numbers["attention"],
            0.5,
        ),
        Claim(
            "The network predicts the synonyms of repeated tokens",
            "1 - loss on repeats in synonyms / loss at chance",
            fuzzy_numbers["predicts"],
            0.5,
        ),
    )


def measured(network: LoadedModel, sequences: Sequences) -> xr.Dataset:
    """Measures of heads and of pairs of heads at one checkpoint."""
    model, batch = network.model, sequences.batch
    losses, right = loss(model, batch), accuracy(model, batch)
    parts = list(parts_of(batch))
    found = {
        "loss": xr.DataArray([losses[f"loss_{part}"].item() for part in parts], {"part": parts}),
        "accuracy": xr.DataArray([right[f"accuracy_{part}"].item() for part in parts], {"part": parts}),
        "previous_token": previous_token_score(model, batch).previous_token,
        "current_token": current_token(model, batch).current_token,
        "first_token": first_token(model, batch).first_token,
        "prefix_matching": prefix_matching(model, batch, sequences.same).prefix_matching,
        "ablation_repeats": ablation(model, batch).ablation_repeats,
        "ov_top1": _by_head(model, lambda head: copying_share(network.folded, sequences, [head], 1)),
        "logit_on_repeats": mean_where(attribute_outputs(model, batch, over_mean=True), parts_of(batch)["repeats"]),
    }
    for name, measure in {
        "position_pattern": lambda: position_pattern(network.folded, batch).position_pattern,
        "k_composition": lambda: _reading(k_composition(network.folded, batch).k_composition),
        "k_composition_top1": lambda: _by_pair(model, lambda a, b: matching_shares(network.folded, sequences, a, b)[0]),
    }.items():
        try:
            found[name] = measure()
        except DoesNotApplyError:
            continue
    return xr.Dataset({name: each.drop_attrs() for name, each in found.items()})


def _reading(scores: xr.DataArray) -> xr.DataArray:
    """Return the scores [pair] of all pairs that have one."""
    flat = writes_by_reads(scores).stack(pair=("writes", "reads")).dropna("pair")
    return xr.DataArray(flat.values, {"pair": [f"{a} → {b}" for a, b in flat.pair.values]})


def _by_head(model: Model, score: Callable[[Head], float]) -> xr.DataArray:
    values = [score(head) for head in heads_except(model)]
    return xr.DataArray(np.reshape(values, (model.cfg.n_layers, -1)), dims=HEAD)


def _by_pair(model: Model, score: Callable[[Head, Head], float]) -> xr.DataArray:
    heads = heads_except(model)
    pairs = [(a, b) for a, b in product(heads, heads) if a.layer < b.layer]
    if not pairs:
        raise DoesNotApplyError("pairs of heads need two layers")
    return xr.DataArray([score(*pair) for pair in pairs], {"pair": [f"{a} → {b}" for a, b in pairs]})
