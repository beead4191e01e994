"""Circuits read from weights: what a head copies, how wide it is, and which heads read what earlier heads write.

Row vectors, ``x @ W``: ``W_OV = W_V @ W_O`` and ``W_QK = W_Q @ W_K.T``, both [d_model, d_model]; papers that multiply
from the left write the transposes. Weights are taken as they are: a LayerNorm's weights count only when they have been
folded (``run.model(step, processed=True)``), and the attribute ``layer_norm`` of a score says whether any were left
out. The scale that a LayerNorm divides by is left out always.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, reduce
from operator import mul
from typing import Literal

import einops
import numpy as np
import torch
import xarray as xr
from jaxtyping import Complex, Float
from torch import Tensor

from headway.analyze.applies import (
    layer_norm,
    needs_layers,
    needs_plain_scores,
    needs_same_outputs,
    weight,
)
from headway.analyze.nulls import SQUARE, Null, beside_null, haar_null, random_factors, symmetric_null
from headway.data.task import Batch
from headway.models.convert import Model

HEAD = ("layer", "head")
PAIR = ("from_layer", "from_head", "to_layer", "to_head")


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
    around = weight(model, "W_U").float() @ weight(model, "W_E").float()
    W_V, W_O = _stack(model, "W_V"), _stack(model, "W_O")
    circuits, largest = W_O @ around @ W_V, _product_of_lengths(W_O, around, W_V)
    return _of_heads("ov_eigenvalue", model, circuits, largest, _random_heads(around, model.cfg.d_head))


def ov_eigenvalue_residual(model: Model, batch: Batch) -> xr.Dataset:
    """The same ratio for bare ``W_OV``, from ``W_O W_V``: whether a head copies within the residual stream.

    In [-1, 1]; another number than ov_eigenvalue, because most of the residual stream is not token directions. Null:
    mean 0, standard deviation from heads of Gaussian factors.
    """
    W_V, W_O = _stack(model, "W_V"), _stack(model, "W_O")
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
    around = W_E.T @ W_E
    W_Q, W_K = _stack(model, "W_Q"), _stack(model, "W_K")
    circuits, largest = W_K.mT @ around @ W_Q, _product_of_lengths(W_K, around, W_Q)
    return _of_heads("qk_eigenvalue", model, circuits, largest, _random_heads(around, model.cfg.d_head))


def qk_eigenvalue_residual(model: Model, batch: Batch) -> xr.Dataset:
    """The same ratio for bare ``W_QK``, from ``W_K.T W_Q``: whether a head looks for residual streams like its own.

    In [-1, 1]. Null: mean 0, standard deviation from heads of Gaussian factors.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads).
    """
    needs_plain_scores("qk_eigenvalue_residual", model)
    W_Q, W_K = _stack(model, "W_Q"), _stack(model, "W_K")
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
    around = W_E.T @ W_E

    def circuit(W_V: Tensor, W_O: Tensor, W_Q: Tensor, W_K: Tensor) -> Tensor:
        return (W_K.mT @ W_O.mT) @ (W_V.mT @ around @ W_Q)

    d_model, d_head = model.cfg.d_model, model.cfg.d_head
    A, B, C, D = (W.to(around.device) for W in random_factors(4, d_model, d_head))
    variance = d_head**2 * d_model * (around**2).sum().item()
    null = _null_of(circuit(A, B.mT, C, D), variance)

    def of_layer(layer: int) -> Tensor:
        W_V, W_O = (_stack(model, name)[layer, :, None, None] for name in ("W_V", "W_O"))
        W_Q, W_K = (_stack(model, name)[None, layer + 1 :] for name in ("W_Q", "W_K"))
        return eigenvalue_ratio(circuit(W_V, W_O, W_Q, W_K), _product_of_lengths(W_K, W_O, W_V, around, W_Q))

    return _of_pairs("induction_eigenvalue", model, _pairs(model, of_layer), null)


def _random_heads(around: Float[Tensor, "d_model d_model"], d_head: int) -> Null:
    """Heads of Gaussian factors: ``B.T around A``, whose trace has the variance ``d_head ‖around‖²``."""
    A, B = (factor.to(around.device) for factor in random_factors(2, len(around), d_head))
    return _null_of(B.mT @ around @ A, d_head * (around**2).sum().item())


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
    there = (length > 10 * rounding * largest) & (size > matrices.shape[-1] * rounding**0.5 * length)
    return torch.where(there, trace / size, torch.nan)


def _product_of_lengths(*factors: Tensor) -> Tensor:
    return reduce(mul, (torch.linalg.matrix_norm(factor) for factor in factors))


def rank_95(model: Model, batch: Batch) -> xr.Dataset:
    """How many directions a circuit needs: the fewest singular values that hold 95 % of the sum of their squares.

    Of W_OV and W_QK, axis ``circuit``; in 1..d_head, NaN for a circuit that is zero. Null: fresh initialisations.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads).
    """

    def rank(s: Tensor) -> Tensor:
        share = (s**2).cumsum(-1) / (s**2).sum(-1, keepdim=True)
        # Rounding must not push a share that is exactly .95 over the edge.
        return 1 + (share < 0.95 - 1e-6).sum(-1).float()

    return _rank("rank_95", model, rank)


def rank_entropy(model: Model, batch: Batch) -> xr.Dataset:
    """The effective rank ``exp(H(s / sum s))`` of the singular values s (Roy and Vetterli 2007).

    Of W_OV and W_QK, axis ``circuit``; in [1, d_head], NaN for a circuit that is zero. Null: fresh initialisations.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads).
    """
    return _rank("rank_entropy", model, lambda s: torch.special.entr(s / s.sum(-1, keepdim=True)).sum(-1).exp())


def rank_stable(model: Model, batch: Batch) -> xr.Dataset:
    """The stable rank ``‖W‖_F² / ‖W‖_2²``: the sum of the squared singular values over the largest.

    Of W_OV and W_QK, axis ``circuit``; in [1, d_head], NaN for a circuit that is zero. Null: fresh initialisations.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads).

    Example:
        >>> from headway.models.handmade import low_rank_head
        >>> model, batch = low_rank_head()  # singular values 3, 2 and 1
        >>> round(rank_stable(model, batch).rank_stable.sel(circuit="OV").item(), 3)
        1.556
    """
    return _rank("rank_stable", model, lambda s: (s**2).sum(-1) / (s**2).amax(-1))


def _rank(name: str, model: Model, rank: Callable[[Tensor], Tensor]) -> xr.Dataset:
    needs_plain_scores(name, model)
    circuits = {"OV": ov(model), "QK": qk(model)}
    ranks = []
    for circuit in circuits.values():
        s = circuit.singular_values()
        ranks.append(rank(s).where(s.sum(-1) > 0, torch.nan))
    values = torch.stack(ranks).unflatten(1, (model.cfg.n_layers, model.cfg.n_heads)).cpu().numpy()
    axes = ("circuit", *HEAD)
    return xr.Dataset({name: (axes, values, layer_norm(model))}, coords={"circuit": list(circuits)})


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


@dataclass(frozen=True)
class Factored:
    """A stack of matrices ``A @ B`` of small rank: A ``[heads, d_model, d_head]``, B ``[heads, d_head, d_model]``."""

    A: Float[Tensor, "heads d_model d_head"]
    B: Float[Tensor, "heads d_head d_model"]

    @cached_property
    def R_A(self) -> Float[Tensor, "heads d_head d_head"]:
        """The triangle of ``A = Q R_A``."""
        return torch.linalg.qr(self.A, mode="r").R

    @cached_property
    def R_B(self) -> Float[Tensor, "heads d_head d_head"]:
        """The triangle of ``B.T = Q R_B``."""
        return torch.linalg.qr(self.B.mT, mode="r").R

    def left(self) -> Float[Tensor, "heads d_head d_model"]:
        """``R_A @ B``: as long as ``A @ B`` under any product from the right."""
        return self.R_A @ self.B

    def right(self) -> Float[Tensor, "heads d_model d_head"]:
        """``A @ R_B.T``: as long as ``A @ B`` under any product from the left."""
        return self.A @ self.R_B.mT

    def singular_values(self) -> Float[Tensor, "heads d_head"]:
        """The nonzero singular values of ``A @ B``, largest first."""
        return torch.linalg.svdvals(self.R_A @ self.R_B.mT)

    def transposed(self) -> "Factored":
        """``(A @ B).T``."""
        return Factored(self.B.mT, self.A.mT)


def ov(model: Model) -> Factored:
    """W_V @ W_O of every head, in the order of the layers."""
    return Factored(_stack(model, "W_V").flatten(0, 1), _stack(model, "W_O").flatten(0, 1))


def qk(model: Model) -> Factored:
    """W_Q @ W_K.T of every head, in the order of the layers."""
    return Factored(_stack(model, "W_Q").flatten(0, 1), _stack(model, "W_K").flatten(0, 1).mT)


def subspace_overlap(spaces: Sequence[Float[Tensor, "d_model _"]]) -> Float[Tensor, "space space"]:
    """How much of a subspace lies in another, of every two: the mean squared cosine of the angles between them.

    ``‖Q_A.T Q_B‖² / min(rank_a, rank_b)``, Frobenius, Q orthonormal bases of what the columns span. In [0, 1]: 0
    orthogonal, 1 the one lies in the other; NaN beside one of zeros, which spans nothing. Columns that are combinations
    of others do not count: ranks are those of the subspaces, down to the rounding of the tensors. Null: max(rank_a,
    rank_b) / d_model, the exact mean for random subspaces. How long the columns are plays no part in it, so that two
    heads may overlap in directions that neither uses much.

    Raises:
        ValueError: another d_model, or numbers that are NaN or infinite.

    Example:
        >>> subspace_overlap([torch.eye(5)[:, :2], torch.eye(5)[:, 1:4]])[0, 1].item()  # one direction of two is shared
        0.5
    """
    for i, columns in enumerate(spaces):
        if columns.shape[0] != spaces[0].shape[0]:
            raise ValueError(
                f"spaces: the columns of {i} have {columns.shape[0]} entries; they must have those of 0, "
                f"{spaces[0].shape[0]}"
            )
        if not columns.isfinite().all():
            raise ValueError(f"spaces: {i} is not all numbers (NaN or infinite)")
    bases = [_basis(columns) for columns in spaces]
    return torch.tensor([[_overlap(one, other) for other in bases] for one in bases], dtype=torch.float64)


def _stack(model: Model, name: str) -> Float[Tensor, "layer head a b"]:
    return weight(model, name).float()


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
    lengths = _by_pair(model, length.where(length > 0, torch.nan))
    score = np.sqrt(_pairs(model, of_layer)) / lengths
    mean, std, skewness = (_by_pair(model, moment) for moment in haar_null(s, t, _free_dimensions(writes.B)))
    # A gamma distribution of this skewness has this kurtosis.
    scores = _of_pairs(name, model, score, Null(mean, std, skewness, 1.5 * skewness**2, scale=SQUARE))
    ceiling = _by_pair(model, einops.einsum(s**2, t**2, "h1 i, h2 i -> h1 h2").sqrt()) / lengths
    scores[f"{name}_ceiling"] = (PAIR, ceiling.astype("float32"))
    return scores


def _pairs(model: Model, of_layer: Callable[[int], Float[Tensor, "h1 l2 h2"]]) -> Float[np.ndarray, "l1 h1 l2 h2"]:
    """Scores of all pairs of heads, NaN unless the first is in an earlier layer; ``of_layer`` has those of one."""
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    found = torch.full((layers, heads, layers, heads), torch.nan, dtype=torch.float64)
    for layer in range(layers - 1):
        found[layer, :, layer + 1 :] = of_layer(layer)
    return found.numpy()


def _by_pair(model: Model, values: Float[Tensor, "#one #other"]) -> Float[np.ndarray, "l1 h1 l2 h2"]:
    """[all heads, all heads] as [layer, head, layer, head], NaN unless the first is in an earlier layer."""
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    whole = values.expand(layers * heads, layers * heads)
    by_head = einops.rearrange(whole, "(l1 h1) (l2 h2) -> l1 h1 l2 h2", h1=heads, h2=heads)
    return _pairs(model, lambda layer: by_head[layer, :, layer + 1 :])


def _of_heads(
    name: str,
    model: Model,
    circuits: Float[Tensor, "layer head n n"],
    largest: Float[Tensor, "layer head"],
    null: Null,
) -> xr.Dataset:
    eigenvalues = torch.linalg.eigvals(circuits)
    ratio = _ratio(circuits, eigenvalues, largest)
    scores = _with_null(name, model, xr.DataArray(ratio.cpu().numpy(), dims=HEAD), null)
    scores[f"{name}_spectrum"] = ((*HEAD, "eigenvalue"), eigenvalues.cpu().numpy())
    return scores


def _of_pairs(name: str, model: Model, score: Float[np.ndarray, "l1 h1 l2 h2"], null: Null) -> xr.Dataset:
    pairs = np.where(_by_pair(model, torch.ones(1, 1)) > 0, 0.0, np.nan)  # no null for what cannot compose
    return _with_null(name, model, xr.DataArray(score, dims=PAIR), replace(null, mean=null.mean + pairs))


def _with_null(name: str, model: Model, score: xr.DataArray, null: Null) -> xr.Dataset:
    scores = beside_null(name, score, null)
    scores[name].attrs |= layer_norm(model)
    return scores


def _free_dimensions(W_O: Float[Tensor, "heads d_head d_model"]) -> int:
    """d_model, or one less where weights have been centred: then nothing lives along the all-ones direction."""
    centred = W_O.mean(-1).abs().max() <= 1e-5 * W_O.abs().max()
    return W_O.shape[-1] - int(centred)


def _basis(columns: Float[Tensor, "d_model column"]) -> Float[Tensor, "d_model rank"]:
    """An orthonormal basis of what the columns span, in float64."""
    U, s, _ = torch.linalg.svd(columns.detach().double(), full_matrices=False)
    rounding = max(columns.shape) * torch.finfo(columns.dtype).eps
    return U[:, s > rounding * s.max()] if len(s) else U


def _overlap(one: Float[Tensor, "d_model rank_a"], other: Float[Tensor, "d_model rank_b"]) -> float:
    cosines = one.mT @ other
    return (cosines.square().sum() / min(cosines.shape)).clamp(max=1).item() if 0 not in cosines.shape else torch.nan
