"""Effective ranks of W_OV and W_QK."""

from collections.abc import Callable

import torch
import xarray as xr
from torch import Tensor

from headway.analyze.network.axes import HEAD
from headway.analyze.network.requirements import needs_content_scores, needs_direct_writes
from headway.analyze.network.weights import layer_norm, ov, qk
from headway.data.task import Batch
from headway.models.convert import Model


def rank_95(model: Model, batch: Batch) -> xr.Dataset:
    """Smallest number of singular values that hold 95 % of the sum of their squares.

    The smallest k with ``s_1² + ... + s_k² >= .95 sum s²``, for W_OV and W_QK (axis ``circuit``); in 1..d_head, NaN for
    a zero circuit. Null: fresh initialisations. It does not show which directions inputs use: small singular values
    count as little even if all inputs lie along them.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads).
    """

    def rank(s: Tensor) -> Tensor:
        share = (s**2).cumsum(-1) / (s**2).sum(-1, keepdim=True)
        # A share of exactly .95 counts in spite of rounding.
        return 1 + (share < 0.95 - 1e-6).sum(-1).float()

    return _rank("rank_95", model, rank)


def rank_entropy(model: Model, batch: Batch) -> xr.Dataset:
    """Effective rank ``exp(H(s / sum s))`` of the singular values s (Roy and Vetterli 2007).

    For W_OV and W_QK (axis ``circuit``); in [1, d_head], NaN for a zero circuit. Null: fresh initialisations. It does
    not show which directions inputs use.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads).
    """
    return _rank("rank_entropy", model, lambda s: torch.special.entr(s / s.sum(-1, keepdim=True)).sum(-1).exp())


def rank_stable(model: Model, batch: Batch) -> xr.Dataset:
    """Stable rank ``‖W‖_F² / ‖W‖_2²``: the sum of the squared singular values over the largest of them.

    For W_OV and W_QK (axis ``circuit``); in [1, d_head], NaN for a zero circuit. Null: fresh initialisations. Rudelson
    and Vershynin 2007. It does not show which directions inputs use.

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
    needs_content_scores(name, model)
    needs_direct_writes(name, model)
    circuits = {"OV": ov(model), "QK": qk(model)}
    ranks = []
    for circuit in circuits.values():
        s = circuit.singular_values
        ranks.append(rank(s).where(s.sum(-1) > 0, torch.nan))
    values = torch.stack(ranks).unflatten(1, (model.cfg.n_layers, model.cfg.n_heads)).cpu().numpy()
    axes = ("circuit", *HEAD)
    return xr.Dataset({name: (axes, values, layer_norm(model))}, coords={"circuit": list(circuits)})
