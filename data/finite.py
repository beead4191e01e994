"""Tasks whose sequences can be listed: some are trained on, the others are held out."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

import torch

from headway.data.seeds import check_seed, generator
from headway.data.task import Batch, Counts, Task


@dataclass(frozen=True)
class FiniteTask(Task):
    """A task whose sequences are few enough to list: a fixed random share of them is held out from training.

    A subclass defines ``sequences`` in place of ``sample``. A batch is drawn without repeats; one as large as the
    training set is the training set, in the same order at every step (full-batch training). Which sequences are held
    out follows from ``split_seed`` alone, so that runs with different seeds are trained on the same ones.

    Args:
        held_out: share of the sequences that is held out from training
        split_seed: seed of the choice of these sequences

    Raises:
        ValueError: if a field is out of range, or if nothing is left to train on, or nothing is held out.

    Example:
        Addition modulo 5: the sum of tokens 0 and 1, read at position 1.

        >>> @dataclass(frozen=True)
        ... class Adding(FiniteTask):
        ...     d_vocab, n_ctx = 5, 2
        ...     def sequences(self):
        ...         inputs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
        ...         targets = torch.stack([torch.full((25,), -100), inputs.sum(1) % 5], dim=1)
        ...         return Batch(inputs, targets, torch.tensor([[False, True]]).expand(25, 2))
        ...     def baselines(self):
        ...         return {"chance": math.log(5)}
        >>> task = Adding(held_out=0.4)
        >>> task.n_sequences
        Counts(training=15, held_out=10)
        >>> full = task.training_batch(seed=0, index=0, batch_size=15)
        >>> bool((full.inputs == task.training_batch(seed=1, index=7, batch_size=15).inputs).all())
        True
    """

    held_out: float = field(default=0.5, kw_only=True)
    split_seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse a split with nothing in one half. A subclass that checks its own fields does so first."""
        check_seed("split_seed", self.split_seed)
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out: {self.held_out} is not valid; it must be a share, above 0 and below 1")
        if 0 in self.n_sequences:
            total, half = sum(self.n_sequences), "to train on" if self.n_sequences.training == 0 else "held out"
            raise ValueError(
                f"held_out: {self.held_out} is not valid; of {total} sequences it leaves none {half}; it must leave "
                "at least one in each half"
            )

    @abstractmethod
    def sequences(self) -> Batch:
        """Return every sequence of the task, always in the same order."""

    @property
    def n_sequences(self) -> Counts:
        """The numbers of sequences to train on and held out."""
        training, held_out = self._halves
        return Counts(len(training.inputs), len(held_out.inputs))

    @cached_property
    def _halves(self) -> tuple[Batch, Batch]:
        """The sequences to train on and those held out, each in a random order."""
        every = self.sequences()
        total = len(every.inputs)
        order = torch.randperm(total, generator=generator("split", self.split_seed))
        halves = order.split([total - round(self.held_out * total), round(self.held_out * total)])
        return tuple(every.at(half) for half in halves)  # pyright: ignore[reportReturnType]

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw different sequences of the training set; all of them, in a fixed order, if ``batch_size`` is its size.

        Raises:
            ValueError: a batch that is larger than the training set.
        """
        return _draw(self._halves[0], "to train on", generator, batch_size)

    def sample_held_out(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw different sequences of the held-out set; all of them if ``batch_size`` is its size.

        Raises:
            ValueError: a batch that is larger than the held-out set.
        """
        return _draw(self._halves[1], "held out", generator, batch_size)

    def seen_batch(self, seed: int, batch_size: int) -> Batch:
        """Return a fixed batch of sequences to train on; all of them if there are fewer than ``batch_size``."""
        return super().seen_batch(seed, min(batch_size, self.n_sequences.training))


def _draw(half: Batch, which: str, generator: torch.Generator, batch_size: int) -> Batch:
    total = len(half.inputs)
    if batch_size > total:
        raise ValueError(f"batch_size: {batch_size} is not valid; there are only {total} sequences {which}")
    return half if batch_size == total else half.at(torch.randperm(total, generator=generator)[:batch_size])
