"""Circuits read from weights: what a head copies, and which heads read what earlier heads write.

Row vectors, ``x @ W``: ``W_OV = W_V @ W_O`` and ``W_QK = W_Q @ W_K.T``, both [d_model, d_model]; papers that multiply
from the left write the transposes. Weights are taken as they are: LayerNorm weights count only when they have been
folded (``run.model(step, processed=True)``), and each score says which was done in its attribute ``processed``.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import einops
import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.attention import DoesNotApplyError
from headway.analyze.nulls import haar_null, random_heads
from headway.data.task import Batch
from headway.models.hooked_transformer import HookedTransformer


def ov_eigenvalue(model: HookedTransformer, batch: Batch) -> xr.Dataset:
    """Whether a head copies: Re(sum λ) / sum |λ| over the eigenvalues λ of ``W_E W_OV W_U``.

    In [-1, 1]: +1 copies (each token raises its own logit), -1 anti-copies, NaN for a head whose circuit is zero.
    Computed from the [d_head, d_head] matrix ``W_O W_U W_E W_V``, which has the same nonzero eigenvalues. Elhage et al.
    2021, "A mathematical framework for transformer circuits". Null: mean 0, standard deviation from heads of Gaussian
    factors between this model's own W_E and W_U. It says nothing about whether the head is ever used.

    Raises:
        DoesNotApplyError: outputs that are not the inputs (d_vocab_out other than d_vocab).
    """
    if model.cfg.d_vocab != model.cfg.d_vocab_out:
        raise DoesNotApplyError(
            f"ov_eigenvalue needs as many outputs as inputs; this network has {model.cfg.d_vocab} and "
            f"{model.cfg.d_vocab_out}"
        )
    around = model.W_U.detach().float() @ model.W_E.detach().float()
    random_V, random_O = (W.to(around.device) for W in random_heads(model.cfg.d_model, model.cfg.d_head))
    return _ov_eigenvalue("ov_eigenvalue", model, around, _root_mean_square(random_O @ around @ random_V))


def ov_eigenvalue_residual(model: HookedTransformer, batch: Batch) -> xr.Dataset:
    """The same ratio for bare ``W_OV``, from ``W_O W_V``: whether a head copies within the residual stream.

    In [-1, 1]; another number than ov_eigenvalue, because most of the residual stream is not token directions. Null:
    mean 0, standard deviation from heads of Gaussian factors.
    """
    around = torch.eye(model.cfg.d_model, device=model.cfg.device)
    return _ov_eigenvalue(
        "ov_eigenvalue_residual", model, around, _residual_null_std(model.cfg.d_model, model.cfg.d_head)
    )


@lru_cache(maxsize=4)
def _residual_null_std(d_model: int, d_head: int) -> float:
    """Of the heads' sizes alone, and so the same at every step of a run."""
    random_V, random_O = random_heads(d_model, d_head)
    return _root_mean_square(random_O @ random_V)


def _root_mean_square(circuits: Float[Tensor, "draw d_head d_head"]) -> float:
    """The spread of their eigenvalue ratios about the mean, which is 0."""
    return eigenvalue_ratio(circuits).square().mean().sqrt().item()


def _ov_eigenvalue(
    name: str, model: HookedTransformer, around: Float[Tensor, "d_model d_model"], null_std: float
) -> xr.Dataset:
    """Score ``W_O around W_V``, where ``around`` leads from a head's output to an input."""
    W_V, W_O = model.W_V.detach().float(), model.W_O.detach().float()
    score = eigenvalue_ratio(W_O @ around @ W_V)
    return xr.Dataset(
        {
            name: (("layer", "head"), score.cpu().numpy()),
            f"{name}_null": ((), np.float32(0)),
            f"{name}_null_std": ((), np.float32(null_std)),
            f"{name}_z": (("layer", "head"), (score / null_std).cpu().numpy()),
        },
        attrs=_processed(model),
    )


def eigenvalue_ratio(matrices: Float[Tensor, "*heads n n"]) -> Float[Tensor, "*heads"]:
    """Re(sum λ) / sum |λ| over the eigenvalues of each matrix; NaN where all are zero.

    The sum of the eigenvalues of a real matrix is its trace, which is real.

    Example:
        >>> eigenvalue_ratio(torch.tensor([[3.0, 0.0], [0.0, -1.0]])).item()
        0.5
    """
    size = torch.linalg.eigvals(_finite(matrices)).abs().sum(-1)
    trace = torch.diagonal(matrices, dim1=-2, dim2=-1).sum(-1)
    return torch.where(size > 0, trace / size, torch.nan)


def _finite(matrices: Float[Tensor, "*heads n m"]) -> Float[Tensor, "*heads n m"]:
    """Zero in place of each matrix that is not all numbers: LAPACK crashes on them, and zero scores NaN."""
    numbers = matrices.isfinite().all(-1).all(-1)
    return matrices.where(numbers[..., None, None], 0.0)


def q_composition(model: HookedTransformer, batch: Batch) -> xr.Dataset:
    """How much a head's queries read what an earlier head writes; see ``k_composition``. R = ``W_QK(h2)``."""
    return _composition("q", model)


def k_composition(model: HookedTransformer, batch: Batch) -> xr.Dataset:
    """How much a head's keys read what an earlier head writes: ``‖L R‖ / (‖L‖ ‖R‖)``.

    L = ``W_OV(h1)``, R = ``W_QK(h2).T``; Frobenius norms; axes from_layer, from_head (h1), to_layer, to_head (h2); NaN
    unless h1's layer is the earlier. Elhage et al. 2021. Beside it: ``_null`` 1/sqrt(d_model), the root mean square
    under a random relative rotation; ``_null_std``, its spread; ``_z``, taken on the square, whose mean and variance
    are exact (``nulls.haar_null``); ``_ceiling``, what a circuit that matches perfectly would score with these singular
    values, which is not 1. Heads that all live in one small subspace compose with each other at a large z without
    being a circuit.
    """
    return _composition("k", model)


def v_composition(model: HookedTransformer, batch: Batch) -> xr.Dataset:
    """How much a head's values read what an earlier head writes; see ``k_composition``. R = ``W_OV(h2)``."""
    return _composition("v", model)


@dataclass(frozen=True)
class Factored:
    """A stack of matrices ``A @ B`` of small rank: A ``[heads, d_model, d_head]``, B ``[heads, d_head, d_model]``."""

    A: Float[Tensor, "heads d_model d_head"]
    B: Float[Tensor, "heads d_head d_model"]

    def left(self) -> Float[Tensor, "heads d_head d_model"]:
        """R_A @ B with A = Q R_A: as long as ``A @ B`` under any product from the right."""
        return torch.linalg.qr(self.A).R @ self.B

    def right(self) -> Float[Tensor, "heads d_model d_head"]:
        """A @ R_B.T with B.T = Q R_B: as long as ``A @ B`` under any product from the left."""
        return self.A @ einops.rearrange(torch.linalg.qr(self.B.mT).R, "heads i j -> heads j i")

    def singular_values(self) -> Float[Tensor, "heads d_head"]:
        """The nonzero singular values of ``A @ B``, largest first."""
        return torch.linalg.svdvals(_finite(torch.linalg.qr(self.A).R @ torch.linalg.qr(self.B.mT).R.mT))


def _composition(kind: Literal["q", "k", "v"], model: HookedTransformer) -> xr.Dataset:
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    W_Q, W_K, W_V, W_O = (
        einops.rearrange(W.detach().float(), "layer head a b -> (layer head) a b")
        for W in (model.W_Q, model.W_K, model.W_V, model.W_O)
    )
    writes = Factored(W_V, W_O)
    reads = {"q": Factored(W_Q, W_K.mT), "k": Factored(W_K, W_Q.mT), "v": writes}[kind]
    L, R = writes.left(), reads.right()
    product = einops.einsum(L, R, "h1 i d_model, h2 d_model j -> h1 h2 i j")
    s, t = writes.singular_values(), reads.singular_values()
    length = torch.linalg.vector_norm(s, dim=-1)[:, None] * torch.linalg.vector_norm(t, dim=-1)[None, :]
    score = einops.reduce(product**2, "h1 h2 i j -> h1 h2", "sum").sqrt() / length
    ceiling = einops.einsum(s**2, t**2, "h1 i, h2 i -> h1 h2").sqrt() / length
    mean, std = haar_null(s, t, _free_dimensions(model))
    z = (score**2 - mean) / std.where(std > 0, torch.nan)

    earlier = torch.arange(layers)[:, None] < torch.arange(layers)[None, :]
    pairs = einops.repeat(earlier, "l1 l2 -> (l1 h1) (l2 h2)", h1=heads, h2=heads).to(score.device)

    def by_head(values: Float[Tensor, "h1 h2"]) -> tuple[tuple[str, ...], np.ndarray]:
        return ("from_layer", "from_head", "to_layer", "to_head"), einops.rearrange(
            values.where(pairs, torch.nan).cpu().numpy(), "(l1 h1) (l2 h2) -> l1 h1 l2 h2", h1=heads, h2=heads
        )

    name = f"{kind}_composition"
    root = mean.sqrt()
    return xr.Dataset(
        {
            name: by_head(score),
            f"{name}_null": ((), root.cpu().numpy()),
            f"{name}_null_std": by_head(std / (2 * root)),
            f"{name}_z": by_head(z),
            f"{name}_ceiling": by_head(ceiling),
        },
        attrs=_processed(model),
    )


def _free_dimensions(model: HookedTransformer) -> int:
    """d_model, or one less where weights have been centred: then nothing lives along the all-ones direction."""
    written = model.W_O.detach().float()
    centred = written.mean(-1).abs().max() <= 1e-5 * written.abs().max()
    return model.cfg.d_model - int(centred)


def _processed(model: HookedTransformer) -> dict[str, bool]:
    return {"processed": model.cfg.normalization_type == "LNPre"}
