"""Sequences of the task with another first token, and activations on them."""

import einops
import torch
from jaxtyping import Float
from torch import Tensor

from headway.checkpoints.run import Run
from headway.data.previous_token import PreviousToken
from headway.data.task import Batch
from headway.models.config import ModelConfig
from headway.models.convert import Model, evaluating


def task_of(run: Run | Batch) -> PreviousToken:
    """Return the task of a run or a batch."""
    assert isinstance(run.task, PreviousToken)
    return run.task


def task_for(cfg: ModelConfig) -> PreviousToken:
    """Return the task for a network of which no task is known."""
    return PreviousToken(n_tokens=cfg.d_vocab - 1, length=cfg.n_ctx)


def after_first(batch: Batch, count: int) -> Batch:
    """Return the sequences after the first ``count``."""
    return batch._replace(inputs=batch.inputs[count:], targets=batch.targets[count:], mask=batch.mask[count:], info={})


def with_another_first(batch: Batch) -> Batch:
    """Replace BOS by the first random token of another sequence."""
    inputs, targets = batch.inputs.clone(), batch.targets.clone()
    inputs[:, 0] = targets[:, 1] = batch.inputs.roll(1, 0)[:, 1]
    return batch._replace(inputs=inputs, targets=targets)


def without_first(batch: Batch) -> Batch:
    """Remove position 0; the new first position has no previous token, and is masked."""
    mask = batch.mask[:, 1:].clone()
    mask[:, 0] = False
    return batch._replace(inputs=batch.inputs[:, 1:], targets=batch.targets[:, 1:], mask=mask)


def every_activation(model: Model, batch: Batch) -> dict[str, Tensor]:
    """Run the network and return every activation."""
    with torch.no_grad(), evaluating(model):
        return model.run_with_cache(batch.inputs, return_cache_object=False)[1]


def position_target(batch: Batch) -> Float[Tensor, "batch pos 1"]:
    """Return the position of each token, as the target of a probe."""
    rows, length = batch.inputs.shape
    return einops.repeat(torch.arange(float(length)), "pos -> batch pos 1", batch=rows)
