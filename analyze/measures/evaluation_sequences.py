"""The evaluation batch as a run keeps it: sequences and right answers, for readers without the task's code.

``headway report`` reads it for the network in the page, which runs on these sequences.
"""

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.checkpoints.scores import PART_MASK
from headway.data.task import Batch, Task

# The answer to a position is the input so many positions further on, in these tasks: the next token, the previous one.
SHIFTS = (1, -1)


def evaluation_sequences(batch: Batch) -> xr.Dataset:
    """Return the inputs, targets and masks of a batch, and what its task says about them.

    ``inputs`` and ``targets`` are [batch, pos], or of vectors [batch, pos, input] and [batch, pos, output]; ``mask``,
    ``part_<name>`` and, where there is padding, ``attention_mask`` are [batch, pos]. Attributes of ``inputs``:
    ``labels`` of the tokens 0 to d_vocab - 1, None where the task has no label of its own for each, and
    ``descriptions`` of the sequences, a few words each. Of ``targets``:
    ``shift``, such that the target at q is the input at q + shift wherever it counts, None if there is none;
    ``loss``: cross-entropy, squared error, or None for a loss that the task defines itself; ``outputs_are_inputs``,
    whether output i stands for input i.

    Example:
        >>> from headway.data.repeated_tokens import RepeatedTokens
        >>> task = RepeatedTokens(n_tokens=7, length=8, period_min=3, period_max=3, late_start=0.0)
        >>> found = evaluation_sequences(task.evaluation_batch(seed=0, batch_size=5))
        >>> found.inputs.dims, found.inputs.attrs["labels"][:3]
        (('batch', 'pos'), ['BOS', '1', '2'])
        >>> found.targets.attrs
        {'shift': 1, 'loss': 'cross-entropy', 'outputs_are_inputs': True}
    """
    batch = batch.to("cpu")
    axes = ("batch", "pos")
    parts = {} if batch.task is None else batch.task.parts(batch)
    found = {
        "inputs": ((*axes, "input")[: batch.inputs.ndim], _smallest(batch.inputs), _words(batch)),
        "targets": (
            (*axes, "output")[: batch.targets.ndim],
            _smallest(batch.targets),
            {"shift": _shift(batch), "loss": _loss(batch), "outputs_are_inputs": batch.outputs_are_inputs},
        ),
        "mask": (axes, batch.mask.numpy()),
        **({} if batch.attention_mask is None else {"attention_mask": (axes, batch.attention_mask.numpy())}),
        **{PART_MASK + name: (axes, (part & batch.mask).numpy()) for name, part in parts.items()},
    }
    return xr.Dataset(found)


def _smallest(values: Tensor) -> np.ndarray:
    return values.numpy().astype("float32" if values.is_floating_point() else "int32")


def _words(batch: Batch) -> dict[str, list[str] | None]:
    return {"labels": _labels(batch), "descriptions": described(batch)}


def described(batch: Batch) -> list[str]:
    """Return a few words on each sequence of a batch; nothing where its task has none."""
    nothing = [""] * len(batch.inputs)
    try:
        found = nothing if batch.task is None else [str(words) for words in batch.task.descriptions(batch)]
    except Exception:  # a run must not end because its user's task cannot describe what it has drawn
        return nothing
    return found if len(found) == len(nothing) else nothing


def _labels(batch: Batch) -> list[str] | None:
    """Return the label of every token; None if the task has none, or gives two tokens the same."""
    if batch.task is None or batch.inputs.is_floating_point():
        return None
    tokens = torch.arange(batch.task.d_vocab)[None]
    try:
        (labels,) = batch.task.labels(batch.first(1)._replace(inputs=tokens))
    except Exception:  # a user's task may label what it knows from somewhere else
        return None
    words = [str(label) for label in labels]
    return words if len(words) == len(set(words)) == batch.task.d_vocab else None


def _shift(batch: Batch) -> int | None:
    if batch.inputs.shape != batch.targets.shape:
        return None
    length = batch.inputs.shape[1]
    for shift in SHIFTS:
        low, high = max(0, -shift), min(length, length - shift)
        counted = batch.mask[:, low:high]
        same = batch.targets[:, low:high] == batch.inputs[:, low + shift : high + shift]
        if counted.any() and same[counted].all():
            return shift
    return None


def _loss(batch: Batch) -> str | None:
    """Return the name of the loss, if it is that of ``Task``: compared on an output that is nowhere right."""
    if batch.task is None:
        return None
    width = batch.targets.shape[2] if batch.targets.is_floating_point() else int(batch.targets.max()) + 1
    output: Float[Tensor, "batch pos out"] = torch.randn(
        *batch.mask.shape, width, generator=torch.Generator().manual_seed(0)
    )
    try:
        with torch.random.fork_rng(devices=[]):  # a loss may draw numbers, which training would miss
            usual = torch.equal(batch.task.loss(output, batch), Task.loss(batch.task, output, batch))
    except Exception:  # a loss of one's own may need another output
        return None
    return ("squared error" if batch.targets.is_floating_point() else "cross-entropy") if usual else None
