"""Scores of pairs of heads: a head in a later layer reads the output of a head in an earlier layer."""

from collections.abc import Callable
from dataclasses import replace

import einops
import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.measures.nulls import Null, beside_null
from headway.analyze.network.axes import PAIR
from headway.analyze.network.weights import layer_norm
from headway.models.convert import Model


def pairs_of_layers(
    model: Model, of_layer: Callable[[int], Float[Tensor, "h1 l2 h2"]]
) -> Float[np.ndarray, "l1 h1 l2 h2"]:
    """Return scores of all pairs, NaN unless h1 is in an earlier layer; ``of_layer`` scores those of one layer's h1."""
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    scores = torch.full((layers, heads, layers, heads), torch.nan, dtype=torch.float64)
    for layer in range(layers - 1):
        scores[layer, :, layer + 1 :] = of_layer(layer)
    return scores.numpy()


def by_pair(model: Model, values: Float[Tensor, "#one #other"]) -> Float[np.ndarray, "l1 h1 l2 h2"]:
    """Reshape [all heads, all heads] to [layer, head, layer, head], NaN unless h1 is in an earlier layer."""
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    whole = values.expand(layers * heads, layers * heads)
    by_head = einops.rearrange(whole, "(l1 h1) (l2 h2) -> l1 h1 l2 h2", h1=heads, h2=heads)
    return pairs_of_layers(model, lambda layer: by_head[layer, :, layer + 1 :])


def scores_of_pairs(name: str, model: Model, score: Float[np.ndarray, "l1 h1 l2 h2"], null: Null) -> xr.Dataset:
    """Return scores of pairs with their null, which is NaN for pairs that cannot compose."""
    pairs = np.where(by_pair(model, torch.ones(1, 1)) > 0, 0.0, np.nan)
    return with_null(name, model, xr.DataArray(score, dims=PAIR), replace(null, mean=null.mean + pairs))


def with_null(name: str, model: Model, score: xr.DataArray, null: Null) -> xr.Dataset:
    """Return a score of weights with its null, and with the attribute ``layer_norm``."""
    scores = beside_null(name, score, null)
    scores[name].attrs |= layer_norm(model)
    return scores
