"""The score of the head, split by what each component writes."""

import math
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from headway.analyze.measures.attribution import (
    as_scaled,
    attribute_inputs,
)
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.weights import bias, weight
from headway.analyze.studies.name_movers.fixed import query_vectors
from headway.analyze.studies.name_movers.sentences import (
    Chosen,
    Sentences,
    has_mlp,
)
from headway.analyze.studies.result import Figure, Section, table
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model

# So many components have a row of their own.
ROWS = 20


def components_section(model: Model, sentences: Sentences, chosen: Chosen) -> Section:
    """Which components the head finds on either side, and with the unembedding on the other."""
    mine = "IO" if chosen.place == "io" else "S"
    told = {
        "key side": split_score(model, sentences, chosen, "k"),
        "query side": split_score(model, sentences, chosen, "q"),
        f"key side, W_U[{mine}] as query": split_score(
            model, sentences, chosen, "k", query_vectors(model, sentences, chosen)[f"W_U[{mine}]"]
        ),
    }
    means = xr.concat([each.mean("batch") for each in told.values()], xr.Variable("side", list(told)))
    by_layer, misc = _arranged(means, chosen.head.layer, model.cfg.n_heads)
    order = np.argsort(-np.abs(means.isel(side=0).values))[:ROWS]
    most = means.isel(component=order)
    columns = {side: most.sel(side=side).values for side in told}
    figures = [
        Figure(
            "The components that matter most on the key side",
            xr.Dataset(
                {"score": (("component", "side"), np.stack(list(columns.values()), 1))},
                {"component": most.component.values, "side": list(columns)},
            ),
            "table",
            "Largest first. On the key side: the query as it is; on the query side: the key as it is.",
        ),
        Figure(
            "Embedding, positions and biases",
            xr.Dataset(
                {"score": (("component", "side"), misc.values.T)},
                {"component": misc.component.values, "side": list(told)},
            ),
            "table",
            "constant: b_K on the key side, b_Q on the query side, and what LayerNorm adds.",
        ),
        Figure(
            "The sum of all",
            table("side", told, score=[each.mean("batch").sum().item() for each in told.values()]),
            "table",
            "The first two are the mean of the head's scores.",
        ),
    ]
    if by_layer is not None:
        figures.insert(
            1,
            Figure(
                "By layer and part",
                xr.Dataset({"score": by_layer}),
                "maps",
                "Rows are layers, columns its heads, its MLP, and their biases.",
            ),
        )
    return Section(
        "Components",
        f"The score of {chosen.head} from END to {chosen.there}, mean over the first {len(sentences.batch.inputs)} "
        "sentences, split by what each component writes; with the scale of LayerNorm as it is.",
        tuple(figures),
    )


def _arranged(means: xr.DataArray, layers: int, heads: int) -> tuple[xr.DataArray | None, xr.DataArray]:
    """[side, layer, part] of what layers write; and [side, component] of everything else."""
    names = [str(name) for name in means.component.values]
    columns = [f"H{i}" for i in range(heads)] + ["MLP", "b_O", "b_out"]
    values = np.full((means.sizes["side"], layers, len(columns)), np.nan)
    for layer in range(layers):
        own = [str(Head(layer, head)) for head in range(heads)]
        for i, name in enumerate([*own, f"{layer}_mlp_out", f"{layer}_b_O", f"{layer}_b_out"]):
            if name in names:
                values[:, layer, i] = means.sel(component=name)
    rest = [name for name in names if name in ("embed", "pos_embed", "constant") or name.endswith(("_b_O", "_b_out"))]
    coords = {"side": means.side.values, "layer": [f"L{i}" for i in range(layers)], "part": columns}
    there = xr.DataArray(values, coords, ("side", "layer", "part")) if layers else None
    return there, means.sel(component=rest)


def split_score(
    model: Model, sentences: Sentences, chosen: Chosen, side: Literal["q", "k"], instead: Tensor | None = None
) -> xr.DataArray:
    """What each component adds to the score from END to the place, on the side of the query or of the key.

    [component, batch]; each b_O and b_out, and b_Q or b_K with what LayerNorm adds (``constant``), are terms of their
    own. The sum is the score, which is checked; with ``instead``, [batch, d_model], another vector on the other side.

    Raises:
        ValueError: terms that do not add up to the score.
    """
    batch, head = sentences.batch, chosen.head
    parts = attribute_inputs(model, batch, head)
    here, there = ("end", chosen.place) if side == "q" else (chosen.place, "end")
    other = "k" if side == "q" else "q"
    mine = _at(parts.sel(input=side), batch, here)
    W, b = weight(model, f"W_{other.upper()}")[head], bias(model, f"b_{other.upper()}")[head]
    if instead is None:
        opposite = xr.DataArray(_at(parts.sel(input=other), batch, there).sum("component"))
    else:
        opposite = xr.DataArray((instead @ W + b).numpy(), dims=("batch", "d_head"))
    terms = (mine * opposite).sum("d_head") / math.sqrt(model.cfg.d_head)
    terms = _with_mlp_biases(model, sentences, chosen, side, here, opposite, terms)
    if instead is None:
        scores = forward_pass(model, batch).activations[f"blocks.{head.layer}.attn.hook_attn_scores"][:, head.head]
        expected = scores[torch.arange(len(scores)), batch.info["end"], batch.info[chosen.place]].numpy()
        if not np.allclose(terms.sum("component"), expected, rtol=1e-3, atol=1e-3 * max(1.0, np.abs(terms).max())):
            raise ValueError(f"split_score: the terms do not add up to the scores of {head}")
    return terms


def _at(parts: xr.DataArray, batch: Batch, place: str) -> xr.DataArray:
    return parts.isel(pos=xr.DataArray(batch.info[place].numpy(), dims="batch"))


def _with_mlp_biases(
    model: Model,
    sentences: Sentences,
    chosen: Chosen,
    side: Literal["q", "k"],
    place: str,
    opposite: xr.DataArray,
    terms: xr.DataArray,
) -> xr.DataArray:
    """The terms with each b_out taken from its MLP's, as one of its own."""
    if not has_mlp(model):
        return terms
    W = weight(model, f"W_{side.upper()}")[chosen.head]
    own = []
    for layer in range(chosen.head.layer):
        b_out = model.blocks[layer].mlp.b_out.detach().float()
        read = sentences.at(as_scaled(model, sentences.batch, chosen.head.layer, b_out), place) @ W
        term = (xr.DataArray(read.numpy(), dims=("batch", "d_head")) * opposite).sum("d_head")
        term = term / math.sqrt(model.cfg.d_head)
        terms = xr.where(terms.component == f"{layer}_mlp_out", terms - term, terms)
        own.append(term.expand_dims(component=[f"{layer}_b_out"]))
    return xr.concat([terms, *own], "component").transpose("component", "batch")
