"""Sequences of the task of one length, or of one coefficient."""

from dataclasses import replace

import einops
import torch
from torch import Tensor

from headway.analyze.studies.loading import LoadedModel
from headway.data.affine_recurrence import AffineRecurrence
from headway.data.task import Batch


def task_of(network: LoadedModel | Batch) -> AffineRecurrence:
    """The task of a network, or of a batch."""
    assert isinstance(network.task, AffineRecurrence)
    return network.task


def sequences_of(network: LoadedModel, count: int, length: int, c: float | None = None, draw: int = 0) -> Batch:
    """Sequences of one length, and if asked for of one coefficient; another ``draw`` gives others."""
    bounds = {} if c is None else {"c_min": float(c), "c_max": float(c)}
    task = replace(task_of(network), length_min=length, length_max=length, **bounds)
    return task.evaluation_batch(network.eval_seed + draw, count)


def known_of(name: str, batch: Batch) -> Tensor:
    """What the task knows of each sequence, at each of its positions."""
    return einops.repeat(batch.info[name], "batch entry -> batch pos entry", pos=batch.inputs.shape[1])


def last_position(batch: Batch) -> Tensor:
    """The position that has seen most; one of each sequence, since more of the same would tell a probe little."""
    where = torch.zeros_like(batch.mask)
    where[:, -1] = True
    return where


def n_vectors(batch: Batch) -> int:
    """How many vectors a sequence has, with the last, which is not read."""
    return batch.inputs.shape[1] + 1
