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
    find_circuit,
    match_shares,
    parts_of,
    says_share,
)
from headway.analyze.studies.induction.options import Options
from headway.analyze.studies.induction.sequences import Sequences
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Claim, Claims
from headway.models.config import Head
from headway.models.convert import Model


def claims(network: LoadedModel, sequences: Sequences, fuzzy: Sequences | None, options: Options) -> Claims:
    """What an induction circuit would have to do, each statement with the number that decides it in this network.

    What is lost is a share of what repeats tell: (loss on repeats - clean) / (loss on repeats with the means of all
    heads - clean); it is NaN where that is next to nothing. So is what a network does not have, a second layer or a
    table of positions.
    """
    model, batch = network.model, sequences.batch
    circuit = find_circuit(model, sequences, options)
    found = CircuitNumbers.of(network, sequences, circuit)
    pair, heads = "a previous-token head and an induction head", "heads"
    if circuit is not None:
        pair, heads = f"{circuit.previous} and {circuit.induction}", f"{circuit}"
    fuzzily = {"looks": np.nan, "says": np.nan}
    if fuzzy is not None:
        of_it = prefix_matching(model, fuzzy.batch, fuzzy.same)
        best = best_head(of_it.prefix_matching.values)
        fuzzily = {
            "looks": way_from_chance(of_it, "prefix_matching").values[best].item(),
            "says": better_than_chance(model, fuzzy.batch),
        }
    return (
        Claim(
            "It predicts what repeats",
            "1 - loss on repeats / loss of knowing nothing",
            better_than_chance(model, batch),
            0.5,
        ),
        Claim(
            "A head looks at the token before",
            "previous_token of the best head that another layer follows, from chance (0) to nothing else (1)",
            found.looks_before,
            0.5,
        ),
        Claim(
            "It finds that token by position",
            "the same by what positions and biases alone add to its queries and keys, with LayerNorm's scale as it is",
            found.by_position,
            0.5,
        ),
        Claim(
            "A later head looks at what followed the current token before",
            "prefix_matching of the best head of a later layer, from chance (0) to nothing else (1)",
            found.looks_after,
            0.5,
        ),
        Claim(
            "Its keys read what the first head writes",
            f"K-composition of {pair}, from a random pair (0) to all that their singular values allow (1)",
            found.composes,
            0.5,
        ),
        Claim(
            "So that a token finds where it was written",
            f"share of tokens whose best key is their own, in the K-composition circuit of {pair}",
            found.matches,
            0.5,
        ),
        Claim(
            "What it looks at it says",
            "share of tokens whose logit the OV circuit of the induction heads, together, raises most",
            found.copies,
            0.5,
        ),
        Claim(
            "The right token is said by these heads directly",
            "their share of its logit over the mean of all, on repeats",
            found.adds,
            0.5,
        ),
        Claim(
            "They need those keys",
            "what is lost if the keys of the induction heads read what previous-token heads write on other sequences",
            found.through_keys,
            0.5,
        ),
        Claim("The circuit is necessary", f"what is lost without {heads}, of what repeats tell", found.without, 0.9),
        Claim(
            "The circuit is sufficient",
            f"what is lost without all heads but {heads}, of what repeats tell",
            found.alone,
            0.1,
            below=True,
        ),
        Claim(
            "Without positions there is no induction",
            "prefix_matching of the best induction head with positions zero, from chance (0) to nothing else (1)",
            found.no_positions,
            0.1,
            below=True,
        ),
        Claim(
            "A head looks at what followed a synonym of the current token",
            "prefix_matching under synonyms, best head, from chance (0) to nothing else (1)",
            fuzzily["looks"],
            0.5,
        ),
        Claim(
            "It predicts the synonyms of what followed",
            "1 - loss on the synonyms / loss of knowing nothing",
            fuzzily["says"],
            0.5,
        ),
    )


def measured(network: LoadedModel, sequences: Sequences) -> xr.Dataset:
    """Every measure of heads and pairs of heads at one step."""
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
        "ov_top1": _by_head(model, lambda head: says_share(network.folded, sequences, [head], 1)),
        "logit_on_repeats": mean_where(attribute_outputs(model, batch, over_mean=True), parts_of(batch)["repeats"]),
    }
    for name, measure in {
        "position_pattern": lambda: position_pattern(network.folded, batch).position_pattern,
        "k_composition": lambda: _reading(k_composition(network.folded, batch).k_composition),
        "k_composition_top1": lambda: _by_pair(model, lambda a, b: match_shares(network.folded, sequences, a, b)[0]),
    }.items():
        try:
            found[name] = measure()
        except DoesNotApplyError:
            continue
    return xr.Dataset({name: each.drop_attrs() for name, each in found.items()})


def _reading(scores: xr.DataArray) -> xr.DataArray:
    """[pair], those that can have a score."""
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
