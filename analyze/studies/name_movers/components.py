"""The attention score of the head, split by component."""

from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from headway.analyze.measures.attribution import as_scaled, attribute_inputs
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.structure import Structure
from headway.analyze.network.weights import bias, weight
from headway.analyze.studies.name_movers.fixed import query_vectors
from headway.analyze.studies.name_movers.sentences import Chosen, Sentences, has_mlp
from headway.analyze.studies.result import Figure, Section, table
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model

# Components in the table.
ROWS = 20


def components_section(model: Model, sentences: Sentences, chosen: Chosen) -> Section:
    """Contributions of components to the score, on the key side, on the query side, and with W_U as query."""
    mine = "IO" if chosen.place == "io" else "S"
    splits = {
        "key side": split_score(model, sentences, chosen, "k"),
        "query side": split_score(model, sentences, chosen, "q"),
        f"key side, W_U[{mine}] as query": split_score(
            model, sentences, chosen, "k", query_vectors(model, sentences, chosen)[f"W_U[{mine}]"]
        ),
    }
    means = xr.concat([each.mean("batch") for each in splits.values()], xr.Variable("side", list(splits)))
    by_layer, misc = _arranged(means, chosen.head.layer, model.cfg.n_heads)
    order = np.argsort(-np.abs(means.isel(side=0).values))[:ROWS]
    most = means.isel(component=order)
    columns = {side: most.sel(side=side).values for side in splits}
    figures = [
        Figure(
            "Largest components on the key side",
            xr.Dataset(
                {"score": (("component", "side"), np.stack(list(columns.values()), 1))},
                {"component": most.component.values, "side": list(columns)},
            ),
            "table",
            "key side: with the actual query; query side: with the actual key.",
        ),
        Figure(
            "Embedding, positions and biases",
            xr.Dataset(
                {"score": (("component", "side"), misc.values.T)},
                {"component": misc.component.values, "side": list(splits)},
            ),
            "table",
            "constant: b_K on the key side, b_Q on the query side, with the bias of LayerNorm.",
        ),
        Figure(
            "Sum of all components",
            table("side", splits, score=[each.mean("batch").sum().item() for each in splits.values()]),
            "table",
            "key side, query side: the mean score of the head.",
        ),
    ]
    if by_layer is not None:
        figures.insert(
            1,
            Figure(
                "By layer and component",
                xr.Dataset({"score": by_layer}),
                "maps",
                "Rows: layers; columns: heads, MLP and biases of the layer.",
            ),
        )
    return Section(
        "Components",
        f"The score of {chosen.head} from END to {chosen.there}, mean over the first {len(sentences.batch.inputs)} "
        "sentences, split by component, at the actual scale of LayerNorm.",
        tuple(figures),
    )


def _arranged(means: xr.DataArray, layers: int, heads: int) -> tuple[xr.DataArray | None, xr.DataArray]:
    """Return contributions of layers [side, layer, part], and of everything else [side, component]."""
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
    """Return the contribution of each component to the score from END to the position, on the query or key side.

    [component, batch]; each b_O and b_out is a separate term, and so is ``constant``: b_Q or b_K with the bias of
    LayerNorm. The sum is the score, which is checked. ``instead`` [batch, d_model] replaces the vector on the other
    side.

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
    terms = (mine * opposite).sum("d_head") / Structure(model.cfg).score_divisor
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
    """Separate each b_out from the term of its MLP."""
    if not has_mlp(model):
        return terms
    W = weight(model, f"W_{side.upper()}")[chosen.head]
    own = []
    for layer in range(chosen.head.layer):
        b_out = model.blocks[layer].mlp.b_out.detach().float()
        read = sentences.at(as_scaled(model, sentences.batch, chosen.head.layer, b_out), place) @ W
        term = (xr.DataArray(read.numpy(), dims=("batch", "d_head")) * opposite).sum("d_head")
        term = term / Structure(model.cfg).score_divisor
        terms = xr.where(terms.component == f"{layer}_mlp_out", terms - term, terms)
        own.append(term.expand_dims(component=[f"{layer}_b_out"]))
    return xr.concat([terms, *own], "component").transpose("component", "batch")
