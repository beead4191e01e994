"""Attention scores of the head with keys or queries fixed, and other vectors on the other side."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from headway.analyze.measures.attribution import (
    AffineScore,
    as_read,
    reads,
    score_given_keys,
    score_given_queries,
    unembedding,
)
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.weights import weight
from headway.analyze.studies.name_movers.sentences import Chosen, Sentences, has_mlp
from headway.analyze.studies.result import Figure, Section, table
from headway.analyze.tools.copying import effective_embedding
from headway.data.seeds import generator
from headway.models.convert import Model

# Bins of a histogram.
BINS = 60


@dataclass(frozen=True)
class Fixed:
    """The attention score of a head from END to a position of each sentence, with one side fixed."""

    score: AffineScore
    row: Float[Tensor, "batch key"]
    place: Int[Tensor, "batch"]

    def scores(self, vectors: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch"]:
        """Return the scores with these vectors, as the head reads them, on the free side."""
        return self.score(vectors[:, None])[:, 0, 0]

    def probabilities(self, scores: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Return attention with only this entry of the row of END replaced."""
        row = self.row.clone()
        row[torch.arange(len(row)), self.place] = scores
        return row.softmax(-1)[torch.arange(len(row)), self.place]


def fixed(model: Model, sentences: Sentences, chosen: Chosen, side: Literal["keys", "queries"]) -> Fixed:
    """Return the score as an affine function of the vector at END (keys fixed) or at the position (queries fixed)."""
    batch, info = sentences.batch, sentences.batch.info
    everywhere = range(batch.inputs.shape[1])
    if side == "keys":
        score = score_given_keys(model, batch, chosen.head, everywhere).at(info[chosen.place])
    else:
        score = score_given_queries(model, batch, chosen.head, everywhere).at(info["end"])
    scores = forward_pass(model, batch).activations[f"blocks.{chosen.head.layer}.attn.hook_attn_scores"][
        :, chosen.head.head
    ]
    return Fixed(score, sentences.at(scores, "end"), info[chosen.place])


def query_vectors(model: Model, sentences: Sentences, chosen: Chosen) -> dict[str, Float[Tensor, "batch d_model"]]:
    """Return vectors to replace the query side, each normalized as the head reads it; ``real`` is the actual one."""
    batch, info, layer = sentences.batch, sentences.batch.info, chosen.head.layer
    directions = unembedding(model).T
    draws = torch.randint(model.cfg.d_vocab_out, (len(batch.inputs),), generator=generator("null", 0))
    name = "W_U[IO]" if chosen.place == "io" else "W_U[S]"
    other = "W_U[S]" if chosen.place == "io" else "W_U[IO]"
    tokens = {"W_U[IO]": info["io_token"], "W_U[S]": info["s_token"], "W_U[random]": draws}
    vectors = {each: directions[tokens[each]] for each in (name, other, "W_U[random]")}
    if chosen.earlier:
        mover = chosen.earlier[0]
        z = forward_pass(model, batch).activations[f"blocks.{mover.layer}.attn.hook_z"][:, :, mover.head]
        vectors[f"output of {mover}"] = sentences.at(z, "end") @ weight(model, "W_O")[mover]
    return _as_read(model, sentences, layer, vectors, "end")


def key_vectors(model: Model, sentences: Sentences, chosen: Chosen) -> dict[str, Float[Tensor, "batch d_model"]]:
    """Return vectors to replace the key side, each normalized as the head reads it; ``real`` is the actual one."""
    info, layer = sentences.batch.info, chosen.head.layer
    token, other = ("io_token", "s_token") if chosen.place == "io" else ("s_token", "io_token")
    mine, its = ("IO", "S") if chosen.place == "io" else ("S", "IO")
    W_E = weight(model, "W_E")
    vectors = {f"W_E[{mine}]": W_E[info[token]], f"W_E[{its}]": W_E[info[other]]}
    kinds = {"without MLP 0": False} | ({"with MLP 0": True} if has_mlp(model) else {})
    for name, mlp in kinds.items():
        vectors[f"effective embedding of {mine} {name}"] = effective_embedding(model, info[token], mlp)
    last = next(reversed(kinds.items()))
    vectors[f"effective embedding of {its} {last[0]}"] = effective_embedding(model, info[other], last[1])
    return _as_read(model, sentences, layer, vectors, chosen.place)


def _as_read(
    model: Model, sentences: Sentences, layer: int, vectors: dict[str, Float[Tensor, "batch d_model"]], place: str
) -> dict[str, Float[Tensor, "batch d_model"]]:
    read = {name: as_read(model, layer, each) for name, each in vectors.items()}
    if model.cfg.positional_embedding_type == "shortformer":
        # Shortformer positions are added after LayerNorm.
        positions = sentences.at(forward_pass(model, sentences.batch).activations["hook_pos_embed"], place)
        read = {name: each + positions for name, each in read.items()}
    return read | {"real": sentences.at(reads(model, sentences.batch, layer), place)}


def keys_fixed_section(model: Model, sentences: Sentences, chosen: Chosen) -> Section:
    """Scores with the keys fixed and other vectors on the query side."""
    found = fixed(model, sentences, chosen, "keys")
    return Section(
        "Keys fixed",
        f"The score of {chosen.head} from END to {chosen.there} is affine in the vector at END. Each vector replaces "
        "it, after LayerNorm; W_U is the direction that raises the logit of a token. The real vector gives the actual "
        "score.",
        _histograms(found, query_vectors(model, sentences, chosen), "Query-side vector"),
    )


def queries_fixed_section(model: Model, sentences: Sentences, chosen: Chosen) -> Section:
    """Scores with the queries fixed and other vectors on the key side."""
    found = fixed(model, sentences, chosen, "queries")
    without = "" if has_mlp(model) else " This network has no MLP 0."
    return Section(
        "Queries fixed",
        f"The score of {chosen.head} from END to {chosen.there} is affine in the vector at {chosen.there}. The "
        f"effective embedding of a token is the output of layer 0 for it alone, with and without MLP 0.{without}",
        _histograms(found, key_vectors(model, sentences, chosen), "Key-side vector"),
    )


def _histograms(found: Fixed, vectors: dict[str, Float[Tensor, "batch d_model"]], title: str) -> tuple[Figure, ...]:
    """Scores and attention for each vector, in the order of their mean scores."""
    scores = {name: found.scores(each) for name, each in vectors.items()}
    scores = dict(sorted(scores.items(), key=lambda each: each[1].mean().item()))
    attention = {name: found.probabilities(each) for name, each in scores.items()}
    real = scores["real"]
    low, high = torch.stack(list(scores.values())).aminmax()
    figures = [
        Figure(
            f"{title}: scores and attention",
            table(
                "vector",
                scores,
                mean_score=[each.mean().item() for each in scores.values()],
                spread=[each.std().item() for each in scores.values()],
                above_real=[(each > real).float().mean().item() for each in scores.values()],
                mean_attention=[each.mean().item() for each in attention.values()],
                median_attention=[each.median().item() for each in attention.values()],
            ),
            "table",
            "Sorted by the mean score. attention: with only this entry of the row replaced before the softmax. above "
            "real: share of sentences whose score is above the real one.",
        )
    ]
    for kind, values, (start, stop) in (
        ("score", scores, (low.item(), high.item() + 1e-3)),
        ("attention", attention, (0.0, 1.0)),
    ):
        edges = np.linspace(start, stop, BINS + 1)
        counts = np.stack([np.histogram(each.numpy(), edges)[0] for each in values.values()])
        figures.append(
            Figure(
                f"{title}: histogram of {kind}s",
                xr.Dataset(
                    {"sentences": (("vector", kind), counts)},
                    {"vector": list(values), kind: (edges[1:] + edges[:-1]) / 2},
                ),
                "lines",
                f"{BINS} bins; one line per vector, in the order of their mean scores.",
            )
        )
    return tuple(figures)
