"""Weights of a network, and the OV and QK circuits of its heads as low-rank factors."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from headway.analyze.network.forward import shared
from headway.analyze.network.requirements import NotNumbersError
from headway.models.bridge_versions import weight_of_bridge
from headway.models.convert import Model, is_bridge


def weight(model: Model, name: str) -> Float[Tensor, "*shape"]:
    """Return a weight by name, detached, in float32 or wider (linear algebra in half precision is inexact).

    W_K and W_V that several query heads share are repeated for each of these heads.

    Example:
        >>> from headway.models.handmade import uniform_head
        >>> weight(uniform_head()[0], "W_E").shape
        torch.Size([13, 43])

    Raises:
        ValueError: a weight with NaN or infinite entries.
    """
    value = (weight_of_bridge(model, name) if is_bridge(model) else getattr(model, name)).detach()
    if value.dtype in (torch.float16, torch.bfloat16):
        value = value.float()
    if value.ndim == 4 and value.shape[1] != model.cfg.n_heads:
        value = value.repeat_interleave(model.cfg.n_heads // value.shape[1], dim=1)
    if not value.isfinite().all():
        raise NotNumbersError(name)
    return value


def bias(model: Model, name: str) -> Float[Tensor, "*shape"]:
    """Return a bias by name, as ``weight`` does; zeros where the network of a bridge has no such bias."""
    try:
        return weight(model, name)
    except AttributeError:
        cfg = model.cfg
        shape = {"b_O": (cfg.n_layers, cfg.d_model), "b_U": (cfg.d_vocab_out,)}
        return weight(model, "W_E").new_zeros(shape.get(name, (cfg.n_layers, cfg.n_heads, cfg.d_head)))


def layer_norm(model: Model) -> dict[str, str]:
    """Return the attribute ``layer_norm`` of a score of weights: the treatment of LayerNorm's weights.

    ``weights left out`` means that a LayerNorm has weights other than 1 or biases other than 0, which act between the
    matrices that a circuit multiplies; fold them first (``run.model(step, processed=True)``, or a bridge's
    enable_compatibility_mode). Otherwise it is ``nothing left out``.
    """
    norms = [getattr(block, "ln1", None) for block in model.blocks] + [getattr(model, "ln_final", None)]
    for norm in norms:
        w, b = getattr(norm, "w", None), getattr(norm, "b", None)
        for values in (w, b):
            if isinstance(values, Tensor) and not values.isfinite().all():
                raise NotNumbersError("LayerNorm")
        if (isinstance(w, Tensor) and bool((w != 1).any())) or (isinstance(b, Tensor) and bool((b != 0).any())):
            return {"layer_norm": "weights left out"}
    return {"layer_norm": "nothing left out"}


@dataclass(frozen=True)
class Factored:
    """A stack of low-rank matrices ``A @ B``: A ``[heads, d_model, d_head]``, B ``[heads, d_head, d_model]``."""

    A: Float[Tensor, "heads d_model d_head"]
    B: Float[Tensor, "heads d_head d_model"]

    @cached_property
    def R_A(self) -> Float[Tensor, "heads d_head d_head"]:
        """The triangular factor of ``A = Q R_A``."""
        return torch.linalg.qr(self.A, mode="r").R

    @cached_property
    def R_B(self) -> Float[Tensor, "heads d_head d_head"]:
        """The triangular factor of ``B.T = Q R_B``."""
        return torch.linalg.qr(self.B.mT, mode="r").R

    def left(self) -> Float[Tensor, "heads d_head d_model"]:
        """Return ``R_A @ B``, for which ``‖R_A B X‖ = ‖A B X‖`` with any X."""
        return self.R_A @ self.B

    def right(self) -> Float[Tensor, "heads d_model d_head"]:
        """Return ``A @ R_B.T``, for which ``‖X A R_B.T‖ = ‖X A B‖`` with any X."""
        return self.A @ self.R_B.mT

    @cached_property
    def singular_values(self) -> Float[Tensor, "heads d_head"]:
        """The d_head largest singular values of ``A @ B``, in descending order; the others are 0."""
        return torch.linalg.svdvals(self.R_A @ self.R_B.mT)

    def transposed(self) -> "Factored":
        """Return ``(A @ B).T``."""
        return Factored(self.B.mT, self.A.mT)


def ov(model: Model) -> Factored:
    """Return W_V @ W_O of every head, in the order of the layers."""
    # Three measures take its factors apart, which is most of their time.
    return shared(model, ov, lambda: Factored(stacked(model, "W_V").flatten(0, 1), stacked(model, "W_O").flatten(0, 1)))


def qk(model: Model) -> Factored:
    """Return W_Q @ W_K.T of every head, in the order of the layers."""
    return Factored(stacked(model, "W_Q").flatten(0, 1), stacked(model, "W_K").flatten(0, 1).mT)


def stacked(model: Model, name: str) -> Float[Tensor, "layer head a b"]:
    """Return a weight of all heads in float32."""
    return weight(model, name).float()
