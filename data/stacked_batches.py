"""Batches of several seeds of one task at once, with an axis for the seeds in front."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.data.task import Batch, Task


class StackedBatch(NamedTuple):
    """One batch of each member; if ``padded``, with zeros up to the longest, at which ``mask`` is False.

    ``attention_mask`` is False at these and at the padding of each batch; None if there is neither. ``refused`` says by
    its place which member has no valid batch, and why; another batch stands there.
    """

    inputs: Int[Tensor, "member batch pos"] | Float[Tensor, "member batch pos d_vocab"]
    targets: Int[Tensor, "member batch pos"] | Float[Tensor, "member batch pos d_vocab_out"]
    mask: Bool[Tensor, "member batch pos"]
    info: Mapping[str, Tensor]
    padded: bool
    attention_mask: Bool[Tensor, "member batch pos"] | None
    refused: Mapping[int, ValueError] = MappingProxyType({})

    def to(self, device: torch.device | str) -> StackedBatch:
        """Return the same batch with its tensors on ``device``."""
        info = {name: value.to(device) for name, value in self.info.items()}
        return self._replace(
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
            mask=self.mask.to(device),
            info=info,
            attention_mask=None if self.attention_mask is None else self.attention_mask.to(device),
        )


@dataclass(frozen=True)
class StackedBatches:
    """The training batches ``first`` to ``last - 1`` of a task for several seeds, in order.

    The length is ``last``, that of the whole run, because a Trainer that resumes a run continues its count.
    """

    task: Task
    seeds: Sequence[int]
    batch_size: int
    first: int
    last: int

    def __iter__(self) -> Iterator[StackedBatch]:
        valid: Batch | None = None
        for index in range(self.first, self.last):
            batches: dict[int, Batch] = {}
            refused: dict[int, ValueError] = {}
            for place, seed in enumerate(self.seeds):
                try:
                    batches[place] = valid = self.task.training_batch(seed, index, self.batch_size)
                except ValueError as error:
                    refused[place] = error
            if valid is None:
                raise refused[0]
            yield stacked([batches.get(place, valid) for place in range(len(self.seeds))])._replace(refused=refused)

    def __len__(self) -> int:
        return self.last


def stacked(batches: Sequence[Batch]) -> StackedBatch:
    """Return batches of several members as one.

    Example:
        >>> from headway.data.previous_token import PreviousToken
        >>> task = PreviousToken(length=5)
        >>> stacked([task.batch(seed, index=0, batch_size=2) for seed in range(3)]).inputs.shape
        torch.Size([3, 2, 5])
    """
    padded = len({batch.mask.shape for batch in batches}) > 1
    hides = padded or any(batch.attention_mask is not None for batch in batches)
    return StackedBatch(
        inputs=_padded([batch.inputs for batch in batches]),
        targets=_padded([batch.targets for batch in batches]),
        mask=_padded([batch.mask for batch in batches]),
        info={name: _padded([batch.info[name] for batch in batches]) for name in batches[0].info},
        padded=padded,
        attention_mask=_padded([batch.real for batch in batches]) if hides else None,
    )


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors along a new first axis, each with zeros after its end up to the largest size of every axis."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    if all(list(tensor.shape) == shape for tensor in tensors):
        return torch.stack(list(tensors))
    padded = tensors[0].new_zeros(len(tensors), *shape)
    for member, tensor in zip(padded, tensors, strict=True):
        member[tuple(map(slice, tensor.shape))] = tensor
    return padded
