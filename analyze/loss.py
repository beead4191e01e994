"""How well the network does, position by position."""

import torch
import xarray as xr

from headway.analyze.attention import seen
from headway.data.task import Batch, masked_mean
from headway.models.hooked_transformer import HookedTransformer


def loss(model: HookedTransformer, batch: Batch) -> xr.Dataset:
    """The task's loss: ``loss``, ``loss_by_position`` [pos], and ``loss_<part>`` for each of the task's parts.

    Nats for tokens, mean squared error for vectors. Means over the positions that count; a position or part where
    none counts is NaN. The task's baselines say what it means.

    Raises:
        ValueError: a batch made by hand, whose task is not known.
    """
    if batch.task is None:
        raise ValueError("batch: its task is None, so its loss is not defined; take a batch from run.batch() or a task")
    with torch.no_grad():
        each = batch.task.loss(seen(model, batch).output, batch)
    counted = batch.mask
    scores = {
        "loss": ((), masked_mean(each, counted).cpu().numpy()),
        "loss_by_position": (("pos",), (each.where(counted, 0).sum(0) / counted.sum(0)).cpu().numpy()),
    }
    for part, where in batch.task.parts(batch).items():
        scores[f"loss_{part}"] = ((), masked_mean(each, where & counted).cpu().numpy())
    return xr.Dataset(scores)
