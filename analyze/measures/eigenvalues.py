"""Eigenvalue scores of OV, QK and K-composition circuits: copying and matching, read from weights.

Activations are row vectors, ``x @ W``: ``W_OV = W_V @ W_O`` and ``W_QK = W_Q @ W_K.T``, both [d_model, d_model]; papers
that multiply from the left write the transposes. The scores include the weights of a LayerNorm only if they are folded
(``run.model(step, processed=True)``); the attribute ``layer_norm`` of a score states whether any are left out. The
scale that a LayerNorm divides by is always left out.
"""

from functools import lru_cache, reduce
from operator import mul

import torch
import xarray as xr
from jaxtyping import Complex, Float
from torch import Tensor

from headway.analyze.measures.nulls import Null, random_factors, symmetric_null
from headway.analyze.measures.pairs import pairs_of_layers, scores_of_pairs, with_null
from headway.analyze.network.axes import HEAD
from headway.analyze.network.requirements import (
    needs_content_scores,
    needs_direct_writes,
    needs_layers,
    needs_same_outputs,
)
from headway.analyze.network.weights import stacked, weight
from headway.data.task import Batch
from headway.models.convert import Model


def ov_eigenvalue(model: Model, batch: Batch) -> xr.Dataset:
    """Copying score of a head: Re(sum λ) / sum |λ| over the eigenvalues λ of ``W_E W_OV W_U``.

    In [-1, 1]: +1 is copying (each token raises its own logit), -1 anti-copying, NaN a zero circuit. Computed from the
    [d_head, d_head] matrix ``W_O W_U W_E W_V``, which has the same nonzero eigenvalues; these are
    ``ov_eigenvalue_spectrum`` [layer, head, eigenvalue], complex. Null: mean 0, standard deviation from heads of
    Gaussian factors between this model's own W_E and W_U. Elhage et al. 2021, "A mathematical framework for transformer
    circuits". It does not show which tokens the head attends to, nor that the loss depends on it.

    Raises:
        DoesNotApplyError: outputs that do not stand for the inputs, such as classes.

    Example:
        >>> from headway.models.handmade import copying_head
        >>> ov_eigenvalue(*copying_head(sign=-1.0)).ov_eigenvalue.item()
        -1.0
    """
    needs_same_outputs("ov_eigenvalue", model, batch)
    needs_direct_writes("ov_eigenvalue", model)
    middle = weight(model, "W_U").float() @ weight(model, "W_E").float()
    W_V, W_O = stacked(model, "W_V"), stacked(model, "W_O")
    circuits, largest = W_O @ middle @ W_V, _product_of_lengths(W_O, middle, W_V)
    return _of_heads("ov_eigenvalue", model, circuits, largest, _random_heads(middle, model.cfg.d_head))


def ov_eigenvalue_residual(model: Model, batch: Batch) -> xr.Dataset:
    """Copying score within the residual stream: Re(sum λ) / sum |λ| over the eigenvalues λ of ``W_OV``.

    In [-1, 1], NaN for a zero circuit; from ``W_O W_V``. Null: mean 0, standard deviation from heads of Gaussian
    factors. It differs from ov_eigenvalue, because most directions of the residual stream are not token directions; it
    does not show which tokens are copied.
    """
    needs_direct_writes("ov_eigenvalue_residual", model)
    W_V, W_O = stacked(model, "W_V"), stacked(model, "W_O")
    null = _residual_null(model.cfg.d_model, model.cfg.d_head)
    return _of_heads("ov_eigenvalue_residual", model, W_O @ W_V, _product_of_lengths(W_O, W_V), null)


def qk_eigenvalue(model: Model, batch: Batch) -> xr.Dataset:
    """Token matching score of a head: Re(sum λ) / sum |λ| over the eigenvalues λ of ``W_E W_QK W_E.T``.

    In [-1, 1]: at +1 tokens attend to copies of themselves, at -1 they avoid them, NaN is a zero circuit. Computed from
    the [d_head, d_head] matrix ``W_K.T W_E.T W_E W_Q``, whose eigenvalues are ``qk_eigenvalue_spectrum``. Null: mean 0,
    standard deviation from heads of Gaussian factors between this model's own W_E and its transpose. Elhage et al. 2021
    take the same ratio of OV circuits. It does not show the effect of positions on attention.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads).
    """
    needs_content_scores("qk_eigenvalue", model)
    W_E = weight(model, "W_E").float()
    middle = W_E.T @ W_E
    W_Q, W_K = stacked(model, "W_Q"), stacked(model, "W_K")
    circuits, largest = W_K.mT @ middle @ W_Q, _product_of_lengths(W_K, middle, W_Q)
    return _of_heads("qk_eigenvalue", model, circuits, largest, _random_heads(middle, model.cfg.d_head))


def qk_eigenvalue_residual(model: Model, batch: Batch) -> xr.Dataset:
    """Matching score within the residual stream: Re(sum λ) / sum |λ| over the eigenvalues λ of ``W_QK``.

    In [-1, 1]: at +1 queries attend to residual streams like their own, NaN is a zero circuit; from ``W_K.T W_Q``.
    Null: mean 0, standard deviation from heads of Gaussian factors. It does not show whether tokens or positions match.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads).
    """
    needs_content_scores("qk_eigenvalue_residual", model)
    W_Q, W_K = stacked(model, "W_Q"), stacked(model, "W_K")
    null = _residual_null(model.cfg.d_model, model.cfg.d_head)
    return _of_heads("qk_eigenvalue_residual", model, W_K.mT @ W_Q, _product_of_lengths(W_K, W_Q), null)


def induction_eigenvalue(model: Model, batch: Batch) -> xr.Dataset:
    """Token matching by K-composition: Re(sum λ) / sum |λ| over the eigenvalues λ of ``W_E W_QK(h2) W_OV(h1).T W_E.T``.

    In [-1, 1]: at +1 h2 attends to positions where h1 has written the query's own token (an induction circuit, if h1
    attends to the previous token), at -1 it avoids them. Axes from_layer, from_head (h1), to_layer, to_head (h2); NaN
    unless h1 is in an earlier layer. Computed from ``(W_K(h2).T W_O(h1).T) (W_V(h1).T W_E.T W_E W_Q(h2))``. Null: mean
    0, standard deviation from pairs of Gaussian factors between this model's own W_E and its transpose. Elhage et al.
    2021. It does not show that h1 attends to the previous token, nor that h2 copies.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads); one layer.
    """
    needs_content_scores("induction_eigenvalue", model)
    needs_layers("induction_eigenvalue", model)
    needs_direct_writes("induction_eigenvalue", model)
    W_E = weight(model, "W_E").float()
    middle = W_E.T @ W_E

    def circuit(W_V: Tensor, W_O: Tensor, W_Q: Tensor, W_K: Tensor) -> Tensor:
        return (W_K.mT @ W_O.mT) @ (W_V.mT @ middle @ W_Q)

    d_model, d_head = model.cfg.d_model, model.cfg.d_head
    A, B, C, D = (W.to(middle.device) for W in random_factors(4, d_model, d_head))
    variance = d_head**2 * d_model * (middle**2).sum().item()
    null = _null_of(circuit(A, B.mT, C, D), variance)

    def of_layer(layer: int) -> Tensor:
        W_V, W_O = (stacked(model, name)[layer, :, None, None] for name in ("W_V", "W_O"))
        W_Q, W_K = (stacked(model, name)[None, layer + 1 :] for name in ("W_Q", "W_K"))
        return eigenvalue_ratio(circuit(W_V, W_O, W_Q, W_K), _product_of_lengths(W_K, W_O, W_V, middle, W_Q))

    return scores_of_pairs("induction_eigenvalue", model, pairs_of_layers(model, of_layer), null)


def _random_heads(middle: Float[Tensor, "d_model d_model"], d_head: int) -> Null:
    """Return the null of heads with Gaussian factors: ``B.T middle A``, with trace variance ``d_head ‖middle‖²``."""
    A, B = (factor.to(middle.device) for factor in random_factors(2, len(middle), d_head))
    return _null_of(B.mT @ middle @ A, d_head * (middle**2).sum().item())


def _null_of(circuits: Float[Tensor, "draw n n"], trace_variance: float) -> Null:
    trace = torch.diagonal(circuits, dim1=-2, dim2=-1).sum(-1)
    return symmetric_null(eigenvalue_ratio(circuits), trace, trace_variance)


@lru_cache(maxsize=4)
def _residual_null(d_model: int, d_head: int) -> Null:
    """Return the null for bare circuits, which depends on sizes alone and so is the same at every step of a run."""
    return _random_heads(torch.eye(d_model), d_head)


def eigenvalue_ratio(
    matrices: Float[Tensor, "*heads n n"], largest: Float[Tensor, "*heads"] | float = 0.0
) -> Float[Tensor, "*heads"]:
    """Return Re(sum λ) / sum |λ| over the eigenvalues λ of each matrix; NaN where all are zero.

    The eigenvalues of a real matrix add up to its trace, which is real. A matrix counts as zero if its norm is within
    rounding of 0, relative to the product of its factors' norms, ``largest``. Eigenvalues count as zero up to the
    square root of the rounding error, their size for a matrix whose square is zero.

    Example:
        >>> eigenvalue_ratio(torch.tensor([[3.0, 0.0], [0.0, -1.0]])).item()
        0.5
    """
    return _ratio(matrices, torch.linalg.eigvals(matrices), largest)


def _ratio(
    matrices: Float[Tensor, "*heads n n"],
    eigenvalues: Complex[Tensor, "*heads n"],
    largest: Float[Tensor, "*heads"] | float,
) -> Float[Tensor, "*heads"]:
    rounding = torch.finfo(matrices.dtype).eps
    length = torch.linalg.matrix_norm(matrices)
    size = eigenvalues.abs().sum(-1)
    trace = torch.diagonal(matrices, dim1=-2, dim2=-1).sum(-1)
    nonzero = (length > 10 * rounding * largest) & (size > matrices.shape[-1] * rounding**0.5 * length)
    return torch.where(nonzero, trace / size, torch.nan)


def _product_of_lengths(*factors: Tensor) -> Tensor:
    return reduce(mul, (torch.linalg.matrix_norm(factor) for factor in factors))


def _of_heads(
    name: str,
    model: Model,
    circuits: Float[Tensor, "layer head n n"],
    largest: Float[Tensor, "layer head"],
    null: Null,
) -> xr.Dataset:
    eigenvalues = torch.linalg.eigvals(circuits)
    ratio = _ratio(circuits, eigenvalues, largest)
    scores = with_null(name, model, xr.DataArray(ratio.cpu().numpy(), dims=HEAD), null)
    scores[f"{name}_spectrum"] = ((*HEAD, "eigenvalue"), eigenvalues.cpu().numpy())
    return scores
