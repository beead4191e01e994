"""Patching: a network on a batch, of which some parts are kept while the others carry replaced activations."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from headway.analyze.circuits.replacement import Replacement, default_replacement, other_sequences
from headway.analyze.measures.loss import task_loss
from headway.analyze.network.requirements import DoesNotApplyError, NotNumbersError, check_batch
from headway.data.task import Batch
from headway.models.convert import Model

# An entry for each edge, or for each node where nodes have no edges.
Kept = Bool[np.ndarray, "edge"]


@dataclass(frozen=True)
class Pass:
    """One forward pass with some parts kept."""

    kept: Kept

    def has_output_of(self, other: "Pass") -> bool:
        """Return whether the output is known to be that of the other pass."""
        return bool((self.kept == other.kept).all())


class Patching(ABC):
    """A network as a search for circuits needs it: forward passes in which some parts are kept and the others replaced.

    Args:
        model: The network.
        batch: Sequences of a task.
        part: The part of the task whose loss is the behaviour; all positions in the mask if None.
        replacement: What stands in; ``twin`` where the task draws one if None, else ``position_mean``.
        seed: Seed of the sequences whose activations stand in.

    Attributes:
        nodes: Names of the nodes, without the output.
        names: Names of the parts, in the order of ``Kept``.
        edges_from: The numbers of the parts through which others read each node.
        clean: The pass with everything kept.
        none: The pass with everything replaced.
        other: The sequences whose activations stand in; the batch itself where means or zeros do.
        mask: The positions of the behaviour.
        counts: How many they are in each sequence.
    """

    nodes: tuple[str, ...]
    names: list[str]
    edges_from: Mapping[str, list[int]]
    clean: Any
    none: Any

    def __init__(
        self,
        model: Model,
        batch: Batch,
        part: str | None = None,
        replacement: Replacement | None = None,
        seed: int = 0,
    ):
        check_batch(model, batch)
        self.model, self.batch, self.part = model, batch, part
        self.replacement: Replacement = default_replacement(batch) if replacement is None else replacement
        self.other = other_sequences(batch, self.replacement, seed)
        self.mask = part_mask(batch, part)
        self.counts = self.mask.sum(1).cpu().numpy().astype(float)

    @abstractmethod
    def run(self, kept: Kept, base: Any, whole: bool = False) -> Any:
        """Return the pass with these parts kept, computing no more than what differs from an earlier pass."""

    @abstractmethod
    def sums(self, run: Any) -> Float[np.ndarray, "batch"]:
        """Return the loss of each sequence, summed over the positions of the behaviour."""

    @abstractmethod
    def edges_of(self, node: str) -> list[int]:
        """Return the numbers of the parts that belong to a node: what it reads, and what reads it."""

    @abstractmethod
    def edges_between(self, node: str, among: Iterable[str]) -> Kept:
        """Return the parts between a node and some nodes, the embedding and positions, and the output."""

    @abstractmethod
    def control(self, circuit: Kept, draws: np.random.Generator) -> Kept:
        """Return a random circuit of the size and shape of this one."""

    def summed(self, output: Float[Tensor, "batch pos d_vocab_out"]) -> Float[np.ndarray, "batch"]:
        """Return the loss of each sequence for an output, summed over the positions of the behaviour."""
        sums = task_loss(output, self.batch).where(self.mask, 0).sum(1).double().cpu().numpy()
        if not np.isfinite(sums).all():
            raise NotNumbersError("output with these activations replaced")
        return sums


def part_mask(batch: Batch, part: str | None) -> Bool[Tensor, "batch pos"]:
    """Return the positions of a part of the task; those in the mask if ``part`` is None.

    Raises:
        ValueError: a batch without a task, a part that it does not have or that has no position in the batch.
    """
    if batch.task is None:
        raise ValueError("batch: its task is None, so its loss is undefined; take a batch from run.batch() or a task")
    if part is None:
        return batch.mask
    parts = batch.task.parts(batch)
    if part not in parts:
        there = f"it has {', '.join(parts)}" if parts else "it has no parts"
        raise ValueError(f"part: {part!r} is not a part of this task; {there}")
    mask = parts[part] & batch.mask
    if not mask.any():
        raise DoesNotApplyError(f"part: {part!r} has no position in this batch")
    return mask


def chance_of(batch: Batch, part: str | None) -> float:
    """Return the loss of a network that does not know the answer; NaN where the task gives none for this part.

    Example:
        >>> from headway.models.handmade import TASK
        >>> batch = TASK.evaluation_batch(seed=0, batch_size=3)
        >>> round(chance_of(batch, "repeats"), 2), chance_of(batch, "first")
        (2.48, nan)
    """
    task = batch.task
    if task is None or task.behaviour.chance is None or part != task.behaviour.part:
        return float("nan")
    return task.baselines()[task.behaviour.chance]


def without(kept: Kept, parts: Sequence[int]) -> Kept:
    """Return the same circuit without some parts, given by their numbers."""
    left = kept.copy()
    left[list(parts)] = False
    return left
