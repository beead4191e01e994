"""Q-, K- and V-composition scores of pairs of heads, from their weights."""

from typing import Literal

import einops
import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.measures.nulls import Null, haar_null
from headway.analyze.measures.pairs import by_pair, pairs_of_layers, scores_of_pairs
from headway.analyze.measures.scales import SQUARE
from headway.analyze.network.axes import PAIR
from headway.analyze.network.requirements import needs_content_scores, needs_direct_writes, needs_layers
from headway.analyze.network.weights import ov, qk
from headway.data.task import Batch
from headway.models.convert import Model


def q_composition(model: Model, batch: Batch) -> xr.Dataset:
    """Q-composition: overlap of a head's query weights with the output weights of an earlier head.

    ``‖L R‖ / (‖L‖ ‖R‖)`` with L = ``W_OV(h1)``, R = ``W_QK(h2)``; range, null, ceiling and limits as in
    ``k_composition``.

    Raises:
        DoesNotApplyError: one layer, attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads).
    """
    return _composition("q", model)


def k_composition(model: Model, batch: Batch) -> xr.Dataset:
    """K-composition: overlap of a head's key weights with the output weights of an earlier head.

    ``‖L R‖ / (‖L‖ ‖R‖)`` with L = ``W_OV(h1)``, R = ``W_QK(h2).T``, Frobenius norms; axes from_layer, from_head (h1),
    to_layer, to_head (h2); NaN unless h1 is in an earlier layer. In [0, ceiling]: ``_ceiling`` is the score of a
    perfectly aligned pair with these singular values, 1 only for rank 1. Null: ``_null`` 1/sqrt(d_model), the root mean
    square under a random relative rotation, with spread ``_null_std``; ``_z`` is computed on the square, whose moments
    are exact (``nulls.haar_null``). Elhage et al. 2021. It does not show that h2 attends to what h1 writes: heads that
    share one small subspace compose at a large z without a circuit, and the score ignores the size of the output.

    Raises:
        DoesNotApplyError: one layer, attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads).
    """
    return _composition("k", model)


def v_composition(model: Model, batch: Batch) -> xr.Dataset:
    """V-composition: overlap of a head's value weights with the output weights of an earlier head.

    ``‖L R‖ / (‖L‖ ‖R‖)`` with L = ``W_OV(h1)``, R = ``W_OV(h2)``; range, null, ceiling and limits as in
    ``k_composition``.

    Raises:
        DoesNotApplyError: one layer.
    """
    return _composition("v", model)


def _composition(kind: Literal["q", "k", "v"], model: Model) -> xr.Dataset:
    name = f"{kind}_composition"
    needs_layers(name, model)
    needs_direct_writes(name, model)
    if kind != "v":
        needs_content_scores(name, model)
    writes = ov(model)
    reads = {"q": qk, "k": lambda model: qk(model).transposed(), "v": ov}[kind](model)
    L, R = writes.left(), reads.right()
    s, t = writes.singular_values, reads.singular_values
    length = torch.linalg.vector_norm(s, dim=-1)[:, None] * torch.linalg.vector_norm(t, dim=-1)[None, :]
    heads = model.cfg.n_heads

    def of_layer(layer: int) -> Tensor:
        # One product of the small factors for all pairs, instead of products of [d_model, d_model] matrices.
        left = einops.rearrange(L[layer * heads : (layer + 1) * heads], "h1 i d_model -> (h1 i) d_model")
        right = einops.rearrange(R[(layer + 1) * heads :], "h2 d_model j -> d_model (h2 j)")
        square = einops.reduce((left @ right).square_(), "(h1 i) (h2 j) -> h1 h2", "sum", h1=heads, j=R.shape[-1])
        return square.unflatten(1, (-1, heads))

    # The score of a zero circuit is NaN.
    lengths = by_pair(model, length.where(length > 0, torch.nan))
    score = np.sqrt(pairs_of_layers(model, of_layer)) / lengths
    mean, std, skewness = (by_pair(model, moment) for moment in haar_null(s, t, _free_dimensions(writes.B)))
    # A gamma distribution of this skewness has this kurtosis.
    scores = scores_of_pairs(name, model, score, Null(mean, std, skewness, 1.5 * skewness**2, scale=SQUARE))
    ceiling = by_pair(model, einops.einsum(s**2, t**2, "h1 i, h2 i -> h1 h2").sqrt()) / lengths
    scores[f"{name}_ceiling"] = (PAIR, ceiling.astype("float32"))
    return scores


def _free_dimensions(W_O: Float[Tensor, "heads d_head d_model"]) -> int:
    """Return d_model, or d_model - 1 if weights are centred and so have no part along the all-ones direction."""
    centred = W_O.mean(-1).abs().max() <= 1e-5 * W_O.abs().max()
    return W_O.shape[-1] - int(centred)
