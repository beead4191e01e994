"""Loss and accuracy, overall, by position and by part of the task."""

from collections.abc import MutableMapping, Sequence

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from headway.analyze.network.forward import forward_pass
from headway.analyze.network.interventions import output_with
from headway.analyze.network.requirements import DoesNotApplyError, check_targets
from headway.data.task import Batch, masked_mean
from headway.models.convert import Model

# Sequences that a network is trained on, by the inputs of the evaluation batch beside which they are scored.
_seen_batches: MutableMapping[Tensor, Batch] = WeakTensorKeyDictionary()


def loss(model: Model, batch: Batch) -> xr.Dataset:
    """Mean loss of the task, over the positions in the batch's mask.

    ``loss``, ``loss_by_position`` [pos], and ``loss_<part>`` for each part of the task; 0 or more, in nats for tokens
    (cross-entropy) and squared error for vectors; NaN for a position or part that is not in the mask. Null: the task's
    baselines (chance, floors, oracles). It does not show which circuit makes the predictions.

    Raises:
        ValueError: a batch without a task.
    """
    return by_part("loss", loss_by_position(model, batch), batch)


def accuracy(model: Model, batch: Batch) -> xr.Dataset:
    """Share of positions where the most likely token is the target.

    ``mean(argmax output == target)`` over the positions in the batch's mask, in [0, 1]: ``accuracy``,
    ``accuracy_by_position`` [pos], and ``accuracy_<part>`` for each part of the task. Of equally likely tokens the
    first counts. Null: the task's baselines. It does not show how confident a prediction is.

    Raises:
        DoesNotApplyError: targets that are vectors.
    """
    return by_part("accuracy", _right("accuracy", forward_pass(model, batch).output, batch), batch)


def training_loss(model: Model, batch: Batch) -> xr.Dataset:
    """Mean loss on sequences that the network is trained on, where the task holds others out.

    ``training_loss``, 0 or more, in the units of ``loss``, over the positions in the mask of ``Task.seen_batch``: as
    many sequences of the training set as the batch has, always the same; all of them if there are no more. The
    difference to ``loss``, on held-out sequences, is what the network has memorised. Null: the task's baselines. It
    does not show the loss of a training step, whose batch is another one.

    Raises:
        DoesNotApplyError: a task that holds out no sequences.
        ValueError: a batch without a task.
    """
    seen = _seen("training_loss", batch)
    return xr.Dataset({"training_loss": ((), mean_loss(output_with(model, seen, []), seen).cpu().numpy())})


def training_accuracy(model: Model, batch: Batch) -> xr.Dataset:
    """Share of positions where the most likely token is the target, on sequences that the network is trained on.

    ``training_accuracy``, in [0, 1], on the sequences of ``training_loss``; ``accuracy`` is that on held-out ones.
    Null: the task's baselines. It does not show how confident a prediction is.

    Raises:
        DoesNotApplyError: a task that holds out no sequences, targets that are numbers.
        ValueError: a batch without a task.
    """
    seen = _seen("training_accuracy", batch)
    right = _right("training_accuracy", output_with(model, seen, []), seen)
    return xr.Dataset({"training_accuracy": ((), masked_mean(right, seen.mask).cpu().numpy())})


def in_context(
    model: Model, batch: Batch, early: Sequence[int] | None = None, late: Sequence[int] | None = None
) -> xr.Dataset:
    """In-context learning score: loss at late positions minus loss at early positions.

    Any number; negative if more context helps, null 0. Units are those of the loss. By default it is, on a task with
    the parts ``first`` and ``repeats`` (repeated segments), the loss on ``repeats``, which begin at the second token of
    the second copy, minus the loss on ``first``; on other tasks it is the loss on the last quarter of the positions
    minus the loss on the first quarter. Olsson et al. 2022 use positions 500 and 50. It does not show that induction
    heads are the cause: anything that uses the context lowers it.

    Args:
        model: The network.
        batch: Sequences of a task.
        early: Early positions.
        late: Late positions.

    Raises:
        DoesNotApplyError: no early or no late position in the batch's mask.
        ValueError: a position that does not exist, or a batch without a task.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> round(in_context(*composing_pair("k")).in_context.item(), 1)  # no loss on repeats, ln(12) and more before
        -9.7
    """
    each = loss_by_position(model, batch)
    parts = batch.task.parts(batch) if batch.task is not None else {}
    if early is None and late is None and {"first", "repeats"} <= parts.keys():
        masks = {"late": parts["repeats"], "early": parts["first"]}
    else:
        masks = {
            "late": _ends(batch)[1] if late is None else _position_mask("late", late, batch),
            "early": _ends(batch)[0] if early is None else _position_mask("early", early, batch),
        }
    means = {name: masked_mean(each, mask & batch.mask) for name, mask in masks.items()}
    for name, mean in means.items():
        if mean.isnan():
            raise DoesNotApplyError(f"in_context needs {name} positions that are in the mask; this batch has none")
    return xr.Dataset({"in_context": ((), (means["late"] - means["early"]).cpu().numpy())})


def _right(measure: str, output: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> Float[Tensor, "batch pos"]:
    """Return 1 where the most likely token is the target, and 0 elsewhere."""
    if batch.targets.is_floating_point():
        raise DoesNotApplyError(f"{measure} needs targets that are tokens; the targets of this batch are vectors")
    check_targets(output, batch)
    return (output.argmax(-1) == batch.targets).float()


def _seen(measure: str, batch: Batch) -> Batch:
    """Return as many sequences that the network is trained on; a run scores the same ones at each checkpoint."""
    if batch.task is None:
        raise _no_task()
    if not batch.task.holds_out:
        raise DoesNotApplyError(
            f"{measure} needs a task that holds out sequences; that of this batch draws new ones at each step"
        )
    known = _seen_batches.get(batch.inputs)
    if known is None or known.task is not batch.task:
        known = batch.task.seen_batch(0, len(batch.inputs)).to(batch.inputs.device)
        _seen_batches[batch.inputs] = known
    return known


def _no_task() -> ValueError:
    return ValueError("batch: its task is None, so its loss is undefined; take a batch from run.batch() or from a task")


def loss_by_position(model: Model, batch: Batch) -> Float[Tensor, "batch pos"]:
    """Return the task's loss at every position of every sequence; raise ValueError for a batch without a task."""
    return task_loss(forward_pass(model, batch).output, batch)


def task_loss(output: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> Float[Tensor, "batch pos"]:
    """Return the task's loss of any output on this batch; raise ValueError for a batch without a task."""
    if batch.task is None:
        raise _no_task()
    check_targets(output, batch)
    return batch.task.loss(output.float() if output.itemsize < 4 else output, batch)


def by_part(name: str, each: Float[Tensor, "batch pos"], batch: Batch) -> xr.Dataset:
    """Return means over the mask: ``<name>``, ``<name>_by_position``, and ``<name>_<part>`` for the task's parts."""
    counted = batch.mask
    scores = {
        name: ((), masked_mean(each, counted).cpu().numpy()),
        f"{name}_by_position": (("pos",), (each.where(counted, 0).sum(0) / counted.sum(0)).cpu().numpy()),
    }
    for part, mask in (batch.task.parts(batch) if batch.task is not None else {}).items():
        scores[f"{name}_{part}"] = ((), masked_mean(each, mask & counted).cpu().numpy())
    return xr.Dataset(scores)


def mean_loss(output: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> Float[Tensor, ""]:
    """Return the task's mean loss of any output, over the positions in the mask."""
    return masked_mean(task_loss(output, batch), batch.mask)


def _ends(batch: Batch) -> tuple[Bool[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Return the first and the last quarter of the positions of each sequence, at least one each."""
    length = batch.real.sum(1, keepdim=True)
    quarter = (length // 4).clamp(min=1)
    pos = torch.arange(batch.mask.shape[1], device=length.device)
    return pos < quarter, (pos >= length - quarter) & (pos < length)


def _position_mask(name: str, positions: Sequence[int], batch: Batch) -> Bool[Tensor, "batch pos"]:
    mask = torch.zeros_like(batch.mask)
    for position in positions:
        if not 0 <= position < mask.shape[1]:
            raise ValueError(f"{name}: position {position} does not exist; positions are 0 to {mask.shape[1] - 1}")
        mask[:, position] = True
    return mask
