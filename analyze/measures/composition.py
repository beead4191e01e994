"""Composition scores: how much a head reads what an earlier head writes, by their weights."""

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
from headway.analyze.network.requirements import needs_layers, needs_plain_scores
from headway.analyze.network.weights import ov, qk
from headway.data.task import Batch
from headway.models.convert import Model


def q_composition(model: Model, batch: Batch) -> xr.Dataset:
    """How much a head's queries read what an earlier head writes; see ``k_composition``. R = ``W_QK(h2)``."""
    return _composition("q", model)


def k_composition(model: Model, batch: Batch) -> xr.Dataset:
    """How much a head's keys read what an earlier head writes: ``‖L R‖ / (‖L‖ ‖R‖)``.

    L = ``W_OV(h1)``, R = ``W_QK(h2).T``; Frobenius norms; axes from_layer, from_head (h1), to_layer, to_head (h2); NaN
    unless h1's layer is the earlier. Elhage et al. 2021. Beside it: ``_null`` 1/sqrt(d_model), the root mean square
    under a random relative rotation; ``_null_std``, its spread; ``_z``, taken on the square, whose mean and variance
    are exact (``nulls.haar_null``); ``_ceiling``, what a circuit that matches perfectly would score with these singular
    values, which is not 1. Heads that all live in one small subspace compose with each other at a large z without
    being a circuit.
    """
    return _composition("k", model)


def v_composition(model: Model, batch: Batch) -> xr.Dataset:
    """How much a head's values read what an earlier head writes; see ``k_composition``. R = ``W_OV(h2)``."""
    return _composition("v", model)


def _composition(kind: Literal["q", "k", "v"], model: Model) -> xr.Dataset:
    name = f"{kind}_composition"
    needs_layers(name, model)
    if kind != "v":
        needs_plain_scores(name, model)
    writes = ov(model)
    reads = {"q": qk, "k": lambda model: qk(model).transposed(), "v": ov}[kind](model)
    L, R = writes.left(), reads.right()
    s, t = writes.singular_values(), reads.singular_values()
    length = torch.linalg.vector_norm(s, dim=-1)[:, None] * torch.linalg.vector_norm(t, dim=-1)[None, :]
    heads = model.cfg.n_heads

    def of_layer(layer: int) -> Tensor:
        # One matrix product for all pairs: the product of the factors, not of the [d_model, d_model] matrices.
        left = einops.rearrange(L[layer * heads : (layer + 1) * heads], "h1 i d_model -> (h1 i) d_model")
        right = einops.rearrange(R[(layer + 1) * heads :], "h2 d_model j -> d_model (h2 j)")
        square = einops.reduce((left @ right).square_(), "(h1 i) (h2 j) -> h1 h2", "sum", h1=heads, j=R.shape[-1])
        return square.unflatten(1, (-1, heads))

    # A head whose circuit is zero composes with none.
    lengths = by_pair(model, length.where(length > 0, torch.nan))
    score = np.sqrt(pairs_of_layers(model, of_layer)) / lengths
    mean, std, skewness = (by_pair(model, moment) for moment in haar_null(s, t, _free_dimensions(writes.B)))
    # A gamma distribution of this skewness has this kurtosis.
    scores = scores_of_pairs(name, model, score, Null(mean, std, skewness, 1.5 * skewness**2, scale=SQUARE))
    ceiling = by_pair(model, einops.einsum(s**2, t**2, "h1 i, h2 i -> h1 h2").sqrt()) / lengths
    scores[f"{name}_ceiling"] = (PAIR, ceiling.astype("float32"))
    return scores


def _free_dimensions(W_O: Float[Tensor, "heads d_head d_model"]) -> int:
    """d_model, or one less where weights have been centred: then nothing lives along the all-ones direction."""
    centred = W_O.mean(-1).abs().max() <= 1e-5 * W_O.abs().max()
    return W_O.shape[-1] - int(centred)
