"""Helpers of studies for heads: names, the best head, scores from chance."""

from collections.abc import Iterable
from itertools import product

import einops
import numpy as np
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from headway.models.config import Head


def listed(heads: Iterable[Head]) -> str:
    """Return heads as text, ``none`` for no heads.

    Example:
        >>> listed([Head(0, 3), Head(1, 2)]), listed([])
        ('L0H3, L1H2', 'none')
    """
    return ", ".join(map(str, heads)) or "none"


def best_head(scores: Float[np.ndarray, "layer head"]) -> Head:
    """Return the head with the largest score.

    Example:
        >>> best_head(np.array([[0.1, 0.2], [0.5, 0.3]]))
        Head(layer=1, head=0)
    """
    layer, head = np.unravel_index(scores.argmax(), scores.shape)
    return Head(int(layer), int(head))


def heads_above(scores: Float[np.ndarray, "layer head"], threshold: float) -> list[Head]:
    """Return the heads whose score is above a threshold.

    Example:
        >>> heads_above(np.array([[0.1, 0.2], [0.5, 0.3]]), 0.25)
        [Head(layer=1, head=0), Head(layer=1, head=1)]
    """
    return [Head(int(layer), int(head)) for layer, head in np.argwhere(scores > threshold)]


def way_from_chance(scores: xr.Dataset, name: str) -> xr.DataArray:
    """Return the scores of an attention measure from chance (0) to all attention (1): (score - chance) / (1 - chance).

    Example:
        >>> attention = xr.DataArray([[1.0, 0.2]], dims=("layer", "head"))
        >>> scores = xr.Dataset({"first_token": attention, "first_token_chance": 0.2})
        >>> way_from_chance(scores, "first_token").values.tolist()
        [[1.0, 0.0]]
    """
    chance = scores[f"{name}_chance"]
    return (scores[name] - chance) / (1 - chance)


def mean_where(terms: xr.DataArray, where: Bool[Tensor, "batch pos"]) -> xr.DataArray:
    """Return the mean of terms [..., batch, pos] over some positions of all sequences."""
    return terms.where(xr.DataArray(where.numpy(), dims=("batch", "pos"))).mean(("batch", "pos"))


def writes_by_reads(scores: xr.DataArray) -> xr.DataArray:
    """Return scores of pairs of heads as [writes, reads], with the heads of all layers on one axis.

    Example:
        >>> axes = ("from_layer", "from_head", "to_layer", "to_head")
        >>> scores = xr.DataArray(np.zeros((2, 3, 2, 3)), dims=axes)
        >>> writes_by_reads(scores).sel(writes="L0H2", reads="L1H0").item()
        0.0
    """
    layers, heads = scores.sizes["from_layer"], scores.sizes["from_head"]
    names = [str(Head(*each)) for each in product(range(layers), range(heads))]
    flat = einops.rearrange(scores.values, "l1 h1 l2 h2 -> (l1 h1) (l2 h2)")
    return xr.DataArray(flat, dims=("writes", "reads"), coords={"writes": names, "reads": names})
