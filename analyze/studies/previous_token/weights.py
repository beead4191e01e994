"""Weights between tokens: the unembedding, QK circuits, and the best keys of a query."""

from itertools import combinations

import einops
import torch
import xarray as xr

from headway.analyze.measures.attribution import qk_attribution, reads, score_given_keys
from headway.analyze.network.axes import HEAD
from headway.analyze.network.interventions import heads_except
from headway.analyze.network.structure import Structure
from headway.analyze.network.vocabulary import VocabularyCircuit
from headway.analyze.network.weights import weight
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Figure, Section, table
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model


def vocabulary_section(network: LoadedModel) -> Section:
    """The unembedding with LayerNorm folded, and QK circuits between tokens."""
    model, folded = network.model, network.folded
    spectra = torch.stack([torch.linalg.svdvals(weight(each, "W_U")) for each in (model, folded)])
    heads, every = heads_except(model), torch.arange(len(weight(folded, "W_E")))
    maps = (
        torch.stack([VocabularyCircuit.qk(folded, head).rows(every) for head in heads])
        / Structure(model.cfg).score_divisor
    )
    scores = einops.rearrange(maps, "(layer head) query key -> layer head query key", layer=model.cfg.n_layers)
    return Section(
        "Tokens",
        "With the weights of LayerNorm folded and its scales left out, from token embeddings alone: contributions of "
        "earlier layers, such as a position, are left out.",
        (
            Figure("W_U, folded", xr.Dataset({"W_U": (("d_model", "token"), weight(folded, "W_U").numpy())}), "maps"),
            Figure(
                "Singular values of W_U",
                xr.Dataset({"singular_value": (("W_U", "number"), spectra.numpy())}, {"W_U": ["unfolded", "folded"]}),
                "lines",
            ),
            Figure(
                "QK circuit of each head",
                xr.Dataset({"score": ((*HEAD, "query_token", "key_token"), scores.numpy())}),
                "maps",
                "W_E W_Q W_K.T W_E.T / sqrt(d_head); token 0 is BOS.",
            ),
            Figure(
                "Scores in the QK circuits",
                table(
                    "head",
                    map(str, heads),
                    with_itself=maps.diagonal(dim1=-2, dim2=-1).mean(-1),
                    with_bos=maps[..., 0].mean(-1),
                    mean=maps.mean((-1, -2)),
                    spread=maps.std((-1, -2)),
                ),
                "table",
                "Mean score of a token with itself and with BOS; mean and standard deviation (spread) of all scores.",
            ),
        ),
    )


def keys_section(model: Model, batch: Batch, top: int) -> Section:
    """The best keys of a query, among all tokens and among the tokens of a sequence, alone and in pairs."""
    few = batch.first(1)
    row = few.inputs[0]
    figures = []
    queries = row[1 : top + 1]
    for head in heads_except(model):
        best = VocabularyCircuit.qk(model, head).top(queries, top)
        found = {
            "key": (("query", "rank"), best.columns.numpy()),
            "score": (("query", "rank"), best.values.numpy() / Structure(model.cfg).score_divisor),
        }
        names = {"query": [f"token {token}" for token in queries.tolist()], "rank": range(1, top + 1)}
        figures += [
            Figure(
                f"Best keys of {head}, by query token",
                xr.Dataset(found, names),
                "table",
                "The largest entries in the row of W_E W_Q W_K.T W_E.T / sqrt(d_head), with LayerNorm folded and its "
                "scales left out.",
            ),
            _combinations(model, few, head, top),
        ]
    terms = qk_attribution(model, batch)
    figures.append(
        Figure(
            "Pairs of components in the score",
            xr.Dataset({"spread": terms.qk_attribution}),
            "maps",
            "Standard deviation, over all queries and keys, of the contribution of each pair to the attention score.",
        )
    )
    return Section(
        "Keys and combinations of keys",
        "Scores are linear in the key, so that scores of several keys add up; attention is not, because of the "
        "softmax.",
        tuple(figures),
    )


def _combinations(model: Model, few: Batch, head: Head, top: int) -> Figure:
    """Table of the best keys, and the best pairs of keys, of the last query of one sequence, from actual scores."""
    query = few.inputs.shape[1] - 1
    keys = list(range(query + 1))
    whole = score_given_keys(model, few, head, keys)
    scores = whole(reads(model, few, head.layer))[0, query]
    names = [f"{k}: {token}" for k, token in enumerate(few.inputs[0].tolist())]
    # Of equal tokens, the one with the largest score.
    first = {few.inputs[0, key].item(): key for key in sorted(keys, key=lambda key: scores[key].item())}
    keys = sorted(first.values())
    summed = {some: scores[list(some)].sum().item() for size in (1, 2) for some in combinations(keys, size)}
    rows = [
        some
        for size in (1, 2)
        for some in sorted((some for some in summed if len(some) == size), key=lambda some: -summed[some])[:top]
    ]
    pattern = scores.softmax(-1)
    return Figure(
        f"Combinations of keys for {head} at position {query}",
        table(
            "keys",
            [" + ".join(names[key] for key in each) for each in rows],
            score=[summed[each] for each in rows],
            attention=[pattern[list(each)].sum().item() for each in rows],
        ),
        "table",
        "The best keys and the best pairs of keys (position: token) of the first sequence, with the sums of their "
        "scores and of their attention.",
    )
