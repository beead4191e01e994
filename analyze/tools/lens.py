"""The logit lens: the unembedding applied to the residual stream after each layer."""

from typing import Any

import einops
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.measures.loss import task_loss
from headway.analyze.network.forward import forward_pass
from headway.data.task import Batch, masked_mean
from headway.models.convert import Model, evaluating


def lens(model: Model, batch: Batch) -> xr.Dataset:
    """Return the loss of the residual stream at each depth, decoded by ``read_out``.

    ``lens`` [point] is the loss over the positions in ``batch.mask``, ``lens_by_position`` [point, pos] the loss at
    each position, and ``lens_<part>`` [point] the loss over each part of the task, in the units of ``loss``. Point
    ``embed`` is the input of layer 0, ``after L1`` the output of layer 1; the last point is the network's own loss.
    After nostalgebraist 2020, "interpreting GPT: the logit lens". A high loss does not show that the information is
    absent: it may lie in directions that only later layers read.

    Raises:
        ValueError: a batch without a task.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> read = lens(*composing_pair("k")).lens_repeats  # the answer appears after the induction head
        >>> bool(read.sel(point="after L0") > 1), bool(read.sel(point="after L1") < 0.01)
        (True, True)
    """
    outputs = residual_outputs(model, batch)
    each = torch.stack([task_loss(output, batch) for output in outputs])
    counted = {"lens": batch.mask}
    for part, where in (batch.task.parts(batch) if batch.task is not None else {}).items():
        counted[f"lens_{part}"] = where & batch.mask
    by_position = einops.reduce(each.where(batch.mask, 0), "point batch pos -> point pos", "sum") / batch.mask.sum(0)
    scores: dict[str, Any] = {"lens_by_position": (("point", "pos"), by_position.cpu().numpy())}
    for name, where in counted.items():
        scores[name] = (("point",), torch.stack([masked_mean(loss, where) for loss in each]).cpu().numpy())
    return xr.Dataset(scores, coords={"point": points(model)})


def points(model: Model) -> list[str]:
    """Return the names of the depths at which the residual stream is read.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> points(composing_pair("k")[0])
        ['embed', 'after L0', 'after L1']
    """
    return ["embed", *(f"after L{layer}" for layer in range(model.cfg.n_layers))]


def residual_outputs(model: Model, batch: Batch) -> Float[Tensor, "point batch pos d_vocab_out"]:
    """Return ``read_out`` of the residual stream at each of ``points``; the last is the network's own output."""
    activations = forward_pass(model, batch).activations
    last = model.cfg.n_layers - 1
    stream = [activations[f"blocks.{layer}.hook_resid_pre"] for layer in range(model.cfg.n_layers)]
    return torch.stack([read_out(model, each) for each in [*stream, activations[f"blocks.{last}.hook_resid_post"]]])


def read_out(model: Model, residual: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Return ``ln_final(residual) W_U + b_U``; LayerNorm uses the mean and scale of this residual stream.

    It is not a sum over components; for such a sum, see ``attribution``, which keeps the scale of the real forward
    pass.
    """
    with torch.no_grad(), evaluating(model):
        norm = getattr(model, "ln_final", None)
        return model.unembed(residual if norm is None else norm(residual))
