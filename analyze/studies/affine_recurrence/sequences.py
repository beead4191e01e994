"""Sequences of the task of one length, or of one coefficient."""

from dataclasses import replace

import einops
import torch
from torch import Tensor

from headway.analyze.studies.loading import LoadedModel
from headway.data.affine_recurrence import AffineRecurrence
from headway.data.task import Batch
from headway.models.config import ModelConfig


def task_of(network: LoadedModel | Batch) -> AffineRecurrence:
    """Return the task of a network or a batch."""
    assert isinstance(network.task, AffineRecurrence)
    return network.task


def task_for(cfg: ModelConfig) -> AffineRecurrence:
    """Return the task for a network of which no task is known."""
    return AffineRecurrence(d_vector=cfg.d_vocab, length_max=cfg.n_ctx + 1)


def sequences_of(network: LoadedModel, count: int, length: int, c: float | None = None, draw: int = 0) -> Batch:
    """Draw sequences of one length, and of one coefficient if ``c`` is given; each ``draw`` gives others."""
    bounds = {} if c is None else {"c_min": float(c), "c_max": float(c)}
    task = replace(task_of(network), length_min=length, length_max=length, **bounds)
    return task.evaluation_batch(network.eval_seed + draw, count)


def known_of(name: str, batch: Batch) -> Tensor:
    """Return ``batch.info[name]`` at each position, as the target of a probe."""
    return einops.repeat(batch.info[name], "batch entry -> batch pos entry", pos=batch.inputs.shape[1])


def last_position(batch: Batch) -> Tensor:
    """Return a mask of the last position, since positions of one sequence are not independent samples."""
    where = torch.zeros_like(batch.mask)
    where[:, -1] = True
    return where


def n_vectors(batch: Batch) -> int:
    """Return the number of vectors in a sequence, with the last, which is a target only."""
    return batch.inputs.shape[1] + 1
