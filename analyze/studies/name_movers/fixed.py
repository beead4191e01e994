"""Attention scores of the head with keys or queries fixed, and other vectors on the other side."""

from collections.abc import Callable
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
from headway.analyze.network.forward import forward_pass, with_positions
from headway.analyze.network.structure import Structure
from headway.analyze.network.weights import weight
from headway.analyze.studies.name_movers.sentences import Chosen, Sentences, has_mlp
from headway.analyze.studies.result import Figure, Section, table
from headway.analyze.tools.copying import effective_embedding
from headway.data.seeds import generator
from headway.models.convert import Model

Side = Literal["keys", "queries"]
# Bins of a histogram.
BINS = 60


@dataclass(frozen=True)
class Fixed:
    """Attention of a head from END to a position of each sentence, with the keys or the queries fixed.

    Args:
        score: The score as a function of the free side: with the keys fixed of every key, because another query changes
            the whole row; with the queries fixed of the query at END, because another key changes one entry.
        row: The actual scores from END to all keys.
        end: The position END.
        place: The position that the head attends to.
    """

    score: AffineScore
    row: Float[Tensor, "batch key"]
    end: Int[Tensor, "batch"]
    place: Int[Tensor, "batch"]

    def rows(self, vectors: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch key"]:
        """Return the scores from END to all keys with these vectors, as the head reads them, on the free side."""
        found, keys = self.score(vectors[:, None])[:, 0], torch.arange(self.row.shape[1])
        changed = keys <= self.end[:, None] if found.shape == self.row.shape else keys == self.place[:, None]
        return torch.where(changed, found, self.row)

    def scores(self, vectors: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch"]:
        """Return the scores to the position with these vectors on the free side."""
        return self._there(self.rows(vectors))

    def attention(self, vectors: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch"]:
        """Return the attention to the position with these vectors on the free side."""
        return self._there(self.rows(vectors).softmax(-1))

    def _there(self, rows: Float[Tensor, "batch key"]) -> Float[Tensor, "batch"]:
        return rows[torch.arange(len(rows)), self.place]


def fixed(model: Model, sentences: Sentences, chosen: Chosen, side: Side) -> Fixed:
    """Return the attention as a function of the vector at END (keys fixed) or at the position (queries fixed)."""
    batch, info = sentences.batch, sentences.batch.info
    everywhere = range(batch.inputs.shape[1])
    if side == "keys":
        score = score_given_keys(model, batch, chosen.head, everywhere)
    else:
        score = score_given_queries(model, batch, chosen.head, everywhere).at(info["end"])
    scores = forward_pass(model, batch).activations[f"blocks.{chosen.head.layer}.attn.hook_attn_scores"][
        :, chosen.head.head
    ]
    return Fixed(score, sentences.at(scores, "end"), info["end"], info[chosen.place])


def query_vectors(model: Model, sentences: Sentences, chosen: Chosen) -> dict[str, Float[Tensor, "batch d_model"]]:
    """Return vectors to replace the query side, each normalized as the head reads it; ``real`` is the actual one."""
    batch, info, layer = sentences.batch, sentences.batch.info, chosen.head.layer
    directions = unembedding(model).T
    draws = torch.randint(model.cfg.d_vocab_out, (len(batch.inputs),), generator=generator("null", 0))
    other_names = _other_names(sentences)
    name = "W_U[IO]" if chosen.place == "io" else "W_U[S]"
    other = "W_U[S]" if chosen.place == "io" else "W_U[IO]"
    tokens = {
        "W_U[IO]": info["io_token"],
        "W_U[S]": info["s_token"],
        "W_U[other name]": other_names,
        "W_U[random]": draws,
    }
    vectors = {each: directions[tokens[each]] for each in (name, other, "W_U[other name]", "W_U[random]")}
    if chosen.earlier:
        mover = chosen.earlier[0]
        z = forward_pass(model, batch).activations[f"blocks.{mover.layer}.attn.hook_z"][:, :, mover.head]
        vectors[f"output of {mover}"] = sentences.at(z, "end") @ weight(model, "W_O")[mover]
    return _as_read(model, sentences, layer, vectors, "end")


def _other_names(sentences: Sentences) -> Int[Tensor, "batch"]:
    """Draw a name for each sentence that is neither IO nor S."""
    info, names = sentences.batch.info, sentences.names
    weights = ((names != info["io_token"][:, None]) & (names != info["s_token"][:, None])).float()
    return names[torch.multinomial(weights, 1, generator=generator("null", 0, index=1))[:, 0]]


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
    if has_mlp(model):
        whole, without = (vectors[f"effective embedding of {mine} {name}"] for name in ("with MLP 0", "without MLP 0"))
        vectors[f"MLP 0 alone of {mine}"] = whole - without
    last = next(reversed(kinds.items()))
    vectors[f"effective embedding of {its} {last[0]}"] = effective_embedding(model, info[other], last[1])
    return _as_read(model, sentences, layer, vectors, chosen.place)


def _as_read(
    model: Model, sentences: Sentences, layer: int, vectors: dict[str, Float[Tensor, "batch d_model"]], place: str
) -> dict[str, Float[Tensor, "batch d_model"]]:
    cache = forward_pass(model, sentences.batch).activations
    at_place = {name: sentences.at(cache[name], place) for name in [Structure(model.cfg).position_point] if name}
    read = {name: with_positions(model, as_read(model, layer, each), at_place) for name, each in vectors.items()}
    return read | {"real": sentences.at(reads(model, sentences.batch, layer), place)}


def keys_fixed_section(model: Model, sentences: Sentences, chosen: Chosen) -> Section:
    """Scores with the keys fixed and other vectors on the query side."""
    found = fixed(model, sentences, chosen, "keys")
    return Section(
        "Keys fixed",
        f"The score of {chosen.head} from END to {chosen.there} is affine in the vector at END. Each vector replaces "
        "it, after LayerNorm; W_U is the direction that raises the logit of a token. Other name: a random name that is "
        "not in the sentence; random: any token. The real vector gives the actual score.",
        _histograms(found, query_vectors(model, sentences, chosen), "Query-side vector"),
    )


def queries_fixed_section(model: Model, sentences: Sentences, chosen: Chosen) -> Section:
    """Scores with the queries fixed and other vectors on the key side."""
    found = fixed(model, sentences, chosen, "queries")
    without = "" if has_mlp(model) else " This network has no MLP 0."
    return Section(
        "Queries fixed",
        f"The score of {chosen.head} from END to {chosen.there} is affine in the vector at {chosen.there}. The "
        f"effective embedding of a token is the output of layer 0 for it alone, with and without MLP 0; MLP 0 alone is "
        f"what the MLP adds to it.{without}",
        _histograms(found, key_vectors(model, sentences, chosen), "Key-side vector"),
    )


def _histograms(found: Fixed, vectors: dict[str, Float[Tensor, "batch d_model"]], title: str) -> tuple[Figure, ...]:
    """Scores and attention for each vector, in the order of their mean scores."""
    scores = {name: found.scores(each) for name, each in vectors.items()}
    scores = dict(sorted(scores.items(), key=lambda each: each[1].mean().item()))
    attention = {name: found.attention(vectors[name]) for name in scores}
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
            "Sorted by the mean score. attention: of the whole row of END with this vector. above real: share of "
            "sentences whose score is above the real one.",
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


def two_heads_section(model: Model, sentences: Sentences, chosen: Chosen, beside: Chosen) -> Section:
    """Scores and attention of two heads with the same vectors on one side, a column for each head."""
    of, figures = (chosen, beside), []
    sides: dict[Side, Callable[..., dict[str, Tensor]]] = {"keys": query_vectors, "queries": key_vectors}
    for side, vectors in sides.items():
        pairs = [(fixed(model, sentences, each, side), vectors(model, sentences, each)) for each in of]
        shared = [name for name in pairs[0][1] if name in pairs[1][1]]
        columns = {
            "mean_score": [[found.scores(own[name]).mean().item() for found, own in pairs] for name in shared],
            "mean_attention": [[found.attention(own[name]).mean().item() for found, own in pairs] for name in shared],
            "above_real": [
                [(found.scores(own[name]) > found.scores(own["real"])).float().mean().item() for found, own in pairs]
                for name in shared
            ],
        }
        figures.append(
            Figure(
                f"{side.capitalize()} fixed",
                xr.Dataset(
                    {name: (("vector", "head"), values) for name, values in columns.items()},
                    {"vector": shared, "head": [str(each.head) for each in of]},
                ),
                "table",
                "Each head reads the vectors with the LayerNorm of its own layer.",
            )
        )
    return Section(
        "Two heads",
        f"Attention of {chosen.head} and {beside.head} from END to {chosen.there} with the same vectors in place of "
        "the query or the key. Vectors that only one of them can read are left out.",
        tuple(figures),
    )
