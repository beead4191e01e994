"""How well the network does, position by position."""

from collections.abc import Sequence

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from headway.analyze.network.forward import forward_pass
from headway.analyze.network.requirements import DoesNotApplyError, check_targets
from headway.data.task import Batch, masked_mean
from headway.models.convert import Model


def loss(model: Model, batch: Batch) -> xr.Dataset:
    """The task's loss: ``loss``, ``loss_by_position`` [pos], and ``loss_<part>`` for each of the task's parts.

    Nats for tokens, mean squared error for vectors. Means over the positions that count; a position or part where
    none counts is NaN. The task's baselines say what it means.

    Raises:
        ValueError: a batch made by hand, whose task is not known.
    """
    return by_part("loss", loss_by_position(model, batch), batch)


def accuracy(model: Model, batch: Batch) -> xr.Dataset:
    """How often the most likely token is the target: ``accuracy``, and ``accuracy_<part>`` for the task's parts.

    In [0, 1], over the positions that count. Of several tokens that are most likely, the first is taken.

    Raises:
        DoesNotApplyError: targets that are vectors.
    """
    if batch.targets.is_floating_point():
        raise DoesNotApplyError("accuracy needs tokens to be predicted; the targets of this batch are vectors")
    output = forward_pass(model, batch).output
    check_targets(output, batch)
    return by_part("accuracy", (output.argmax(-1) == batch.targets).float(), batch)


def in_context(
    model: Model, batch: Batch, early: Sequence[int] | None = None, late: Sequence[int] | None = None
) -> xr.Dataset:
    """What the network learns from what it has read: loss at late positions minus loss at early ones.

    Negative where more context helps. By default, on a task whose parts are ``first`` and ``repeats`` (repeated
    segments), ``repeats``, which begin at the second token of the second copy, minus ``first``; on others the last
    quarter of the positions minus the first quarter. Olsson et al. 2022 take positions 500 and 50.

    Args:
        model: The network.
        batch: Sequences of a task.
        early: Positions to compare with.
        late: Positions whose loss is taken.

    Raises:
        ValueError: positions that do not exist, or of which none counts.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> round(in_context(*composing_pair("k")).in_context.item(), 1)  # no loss on repeats, ln(12) and more before
        -9.7
    """
    each = loss_by_position(model, batch)
    length = each.shape[1]
    parts = batch.task.parts(batch) if batch.task is not None else {}
    if early is None and late is None and {"first", "repeats"} <= parts.keys():
        masks = {"late": parts["repeats"], "early": parts["first"]}
    else:
        quarter = max(1, length // 4)
        chosen = {
            "late": range(length - quarter, length) if late is None else late,
            "early": range(quarter) if early is None else early,
        }
        masks = {name: _position_mask(name, positions, batch) for name, positions in chosen.items()}
    means = {name: masked_mean(each, mask & batch.mask) for name, mask in masks.items()}
    for name, mean in means.items():
        if mean.isnan():
            raise DoesNotApplyError(f"in_context needs positions whose loss counts; of the {name} ones none does")
    return xr.Dataset({"in_context": ((), (means["late"] - means["early"]).cpu().numpy())})


def loss_by_position(model: Model, batch: Batch) -> Float[Tensor, "batch pos"]:
    """The task's loss at every position of every sequence; a ValueError for a batch whose task is not known."""
    return task_loss(forward_pass(model, batch).output, batch)


def task_loss(output: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> Float[Tensor, "batch pos"]:
    """The loss of any output on this batch; a ValueError for a batch whose task is not known."""
    if batch.task is None:
        raise ValueError("batch: its task is None, so its loss is not defined; take a batch from run.batch() or a task")
    check_targets(output, batch)
    return batch.task.loss(output.float() if output.itemsize < 4 else output, batch)


def by_part(name: str, each: Float[Tensor, "batch pos"], batch: Batch) -> xr.Dataset:
    """Means of a number a position: ``<name>``, ``<name>_by_position``, and ``<name>_<part>`` for the task's parts."""
    counted = batch.mask
    scores = {
        name: ((), masked_mean(each, counted).cpu().numpy()),
        f"{name}_by_position": (("pos",), (each.where(counted, 0).sum(0) / counted.sum(0)).cpu().numpy()),
    }
    for part, mask in (batch.task.parts(batch) if batch.task is not None else {}).items():
        scores[f"{name}_{part}"] = ((), masked_mean(each, mask & counted).cpu().numpy())
    return xr.Dataset(scores)


def mean_loss(output: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> Float[Tensor, ""]:
    """The task's loss of any output, over the positions that count."""
    return masked_mean(task_loss(output, batch), batch.mask)


def _position_mask(name: str, positions: Sequence[int], batch: Batch) -> Bool[Tensor, "batch pos"]:
    mask = torch.zeros_like(batch.mask)
    for position in positions:
        if not 0 <= position < mask.shape[1]:
            raise ValueError(f"{name}: position {position} does not exist; positions are 0 to {mask.shape[1] - 1}")
        mask[:, position] = True
    return mask
