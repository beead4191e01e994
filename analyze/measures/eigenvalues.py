"""Circuits read from weights: what a head copies, how wide it is, and which heads read what earlier heads write.

Row vectors, ``x @ W``: ``W_OV = W_V @ W_O`` and ``W_QK = W_Q @ W_K.T``, both [d_model, d_model]; papers that multiply
from the left write the transposes. Weights are taken as they are: a LayerNorm's weights count only when they have been
folded (``run.model(step, processed=True)``), and the attribute ``layer_norm`` of a score says whether any were left
out. The scale that a LayerNorm divides by is left out always.
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
from headway.analyze.network.requirements import needs_layers, needs_plain_scores, needs_same_outputs
from headway.analyze.network.weights import stacked, weight
from headway.data.task import Batch
from headway.models.convert import Model


def ov_eigenvalue(model: Model, batch: Batch) -> xr.Dataset:
    """Whether a head copies: Re(sum λ) / sum |λ| over the eigenvalues λ of ``W_E W_OV W_U``.

    In [-1, 1]: +1 copies (each token raises its own logit), -1 anti-copies, NaN for a head whose circuit is zero.
    Computed from the [d_head, d_head] matrix ``W_O W_U W_E W_V``, which has the same nonzero eigenvalues. Elhage et al.
    2021, "A mathematical framework for transformer circuits". The eigenvalues themselves, complex, are
    ``ov_eigenvalue_spectrum`` [layer, head, eigenvalue]. Null: mean 0, standard deviation from heads of Gaussian
    factors between this model's own W_E and W_U. It says nothing about whether the head is ever used.

    Raises:
        DoesNotApplyError: outputs that are not the inputs (d_vocab_out other than d_vocab).

    Example:
        >>> from headway.models.handmade import copying_head
        >>> ov_eigenvalue(*copying_head(sign=-1.0)).ov_eigenvalue.item()
        -1.0
    """
    needs_same_outputs("ov_eigenvalue", model)
    middle = weight(model, "W_U").float() @ weight(model, "W_E").float()
    W_V, W_O = stacked(model, "W_V"), stacked(model, "W_O")
    circuits, largest = W_O @ middle @ W_V, _product_of_lengths(W_O, middle, W_V)
    return _of_heads("ov_eigenvalue", model, circuits, largest, _random_heads(middle, model.cfg.d_head))


def ov_eigenvalue_residual(model: Model, batch: Batch) -> xr.Dataset:
    """The same ratio for bare ``W_OV``, from ``W_O W_V``: whether a head copies within the residual stream.

    In [-1, 1]; another number than ov_eigenvalue, because most of the residual stream is not token directions. Null:
    mean 0, standard deviation from heads of Gaussian factors.
    """
    W_V, W_O = stacked(model, "W_V"), stacked(model, "W_O")
    null = _residual_null(model.cfg.d_model, model.cfg.d_head)
    return _of_heads("ov_eigenvalue_residual", model, W_O @ W_V, _product_of_lengths(W_O, W_V), null)


def qk_eigenvalue(model: Model, batch: Batch) -> xr.Dataset:
    """Whether a head looks for tokens like its own: Re(sum λ) / sum |λ| over the eigenvalues of ``W_E W_QK W_E.T``.

    In [-1, 1]: +1 looks for itself, -1 looks away from itself, NaN for a circuit that is zero. From the
    [d_head, d_head] matrix ``W_K.T W_E.T W_E W_Q``, whose eigenvalues are ``qk_eigenvalue_spectrum``. Null: mean 0,
    standard deviation from heads of Gaussian factors between this model's own W_E and its transpose. Positions play
    no part in it.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads).
    """
    needs_plain_scores("qk_eigenvalue", model)
    W_E = weight(model, "W_E").float()
    middle = W_E.T @ W_E
    W_Q, W_K = stacked(model, "W_Q"), stacked(model, "W_K")
    circuits, largest = W_K.mT @ middle @ W_Q, _product_of_lengths(W_K, middle, W_Q)
    return _of_heads("qk_eigenvalue", model, circuits, largest, _random_heads(middle, model.cfg.d_head))


def qk_eigenvalue_residual(model: Model, batch: Batch) -> xr.Dataset:
    """The same ratio for bare ``W_QK``, from ``W_K.T W_Q``: whether a head looks for residual streams like its own.

    In [-1, 1]. Null: mean 0, standard deviation from heads of Gaussian factors.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads).
    """
    needs_plain_scores("qk_eigenvalue_residual", model)
    W_Q, W_K = stacked(model, "W_Q"), stacked(model, "W_K")
    null = _residual_null(model.cfg.d_model, model.cfg.d_head)
    return _of_heads("qk_eigenvalue_residual", model, W_K.mT @ W_Q, _product_of_lengths(W_K, W_Q), null)


def induction_eigenvalue(model: Model, batch: Batch) -> xr.Dataset:
    """Whether a pair of heads matches tokens by K-composition: the ratio for ``W_E W_QK(h2) W_OV(h1).T W_E.T``.

    In [-1, 1]: +1 if h2 looks for positions at which h1 has written the query's own token (an induction circuit, when
    h1 attends to the token before), -1 if it looks away from them. Axes from_layer, from_head (h1), to_layer, to_head
    (h2); NaN unless h1's layer is the earlier. From ``(W_K(h2).T W_O(h1).T) (W_V(h1).T W_E.T W_E W_Q(h2))``. Null: mean
    0, standard deviation from pairs of Gaussian factors between this model's own W_E and its transpose.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads); 1 layer.
    """
    needs_plain_scores("induction_eigenvalue", model)
    needs_layers("induction_eigenvalue", model)
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
    """Heads of Gaussian factors: ``B.T middle A``, whose trace has the variance ``d_head ‖middle‖²``."""
    A, B = (factor.to(middle.device) for factor in random_factors(2, len(middle), d_head))
    return _null_of(B.mT @ middle @ A, d_head * (middle**2).sum().item())


def _null_of(circuits: Float[Tensor, "draw n n"], trace_variance: float) -> Null:
    trace = torch.diagonal(circuits, dim1=-2, dim2=-1).sum(-1)
    return symmetric_null(eigenvalue_ratio(circuits), trace, trace_variance)


@lru_cache(maxsize=4)
def _residual_null(d_model: int, d_head: int) -> Null:
    """Of the heads' sizes alone, and so the same at every step of a run."""
    return _random_heads(torch.eye(d_model), d_head)


def eigenvalue_ratio(
    matrices: Float[Tensor, "*heads n n"], largest: Float[Tensor, "*heads"] | float = 0.0
) -> Float[Tensor, "*heads"]:
    """Re(sum λ) / sum |λ| over the eigenvalues of each matrix; NaN where all are zero.

    The sum of the eigenvalues of a real matrix is its trace, which is real. A matrix that is rounding beside the
    product of its factors' lengths, ``largest``, is zero. So are eigenvalues as large as rounding can make them: those
    of a matrix whose square is zero come out at the square root of the rounding.

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
