"""The interface of a task: it samples batches, defines the loss, and gives baselines to compare with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import einops
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.data.seeds import generator


class Batch(NamedTuple):
    """Input sequences, the target at each position, and the positions that count.

    ``inputs`` are tokens ``[batch, pos]`` or vectors ``[batch, pos, d_vocab]``; ``targets`` likewise, and
    ``targets[b, q]`` is the target at position q. ``mask[b, q]`` is True where the loss counts. ``info`` holds what
    the task knows about each sequence (its period, its coefficients); ``task`` is the task that drew the batch, or
    None for a batch made by hand.
    """

    inputs: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_vocab"]
    targets: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_vocab_out"]
    mask: Bool[Tensor, "batch pos"]
    info: Mapping[str, Tensor] = {}
    task: Task | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch with its tensors on ``device``."""
        return self._replace(
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
            mask=self.mask.to(device),
            info={name: value.to(device) for name, value in self.info.items()},
        )

    def first(self, count: int) -> Batch:
        """Return the first ``count`` sequences, or all if there are fewer."""
        return self.at(slice(count))

    def at(self, sequences: list[int] | slice) -> Batch:
        """Return the sequences of these numbers."""
        return self._replace(
            inputs=self.inputs[sequences],
            targets=self.targets[sequences],
            mask=self.mask[sequences],
            info={name: value[sequences] for name, value in self.info.items()},
        )


class Behaviour(NamedTuple):
    """The number that shows what a task is about: the loss on a part, and the baselines between which it lies.

    ``part`` is a name among ``Task.parts``; None stands for all positions that count. ``chance`` and ``floor`` are
    names among ``Task.baselines``: the loss on this part of a network that does not know the answer, and of one that
    does; None where the task knows no such loss.
    """

    part: str | None = None
    chance: str | None = None
    floor: str | None = None


@dataclass(frozen=True)
class Task(ABC):
    """A distribution over sequences, with the loss that a network is trained on.

    The fields of a subclass are its configuration and are written to the run's config.yaml. A subclass defines
    ``d_vocab``, ``n_ctx``, ``sample`` and ``baselines``, and ``input_type`` if its inputs are vectors. ``behaviour``
    and ``twin`` tell the search for circuits which loss shows that the task is solved, and what hides the answer.

    Example:
        A custom task, counting upwards modulo 7:

        >>> @dataclass(frozen=True)
        ... class Counting(Task):
        ...     d_vocab, n_ctx = 7, 5
        ...     def sample(self, generator, batch_size):
        ...         start = torch.randint(7, (batch_size, 1), generator=generator)
        ...         tokens = (start + torch.arange(6)) % 7
        ...         return Batch(tokens[:, :-1], tokens[:, 1:], torch.ones(batch_size, 5, dtype=torch.bool))
        ...     def baselines(self):
        ...         return {"chance": math.log(7)}
        >>> Counting().batch(seed=0, index=3, batch_size=2).inputs.shape
        torch.Size([2, 5])
    """

    input_type: ClassVar[Literal["tokens", "vectors"]] = "tokens"
    bos_token: ClassVar[int | None] = None
    behaviour: ClassVar[Behaviour] = Behaviour()
    options_added_later: ClassVar[tuple[str, ...]] = ()
    """Fields that the config.yaml of an older run may lack; it lacks no other."""

    @property
    @abstractmethod
    def d_vocab(self) -> int:
        """Number of tokens, or dimension of a vector: the smallest d_vocab that a network needs."""

    @property
    @abstractmethod
    def n_ctx(self) -> int:
        """Length of the longest input sequence: the smallest n_ctx that a network needs."""

    @abstractmethod
    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw a batch, with ``generator`` as the only source of randomness."""

    @abstractmethod
    def baselines(self) -> dict[str, float]:
        """Return losses to compare with, by name: chance, floors, oracles. They have the units of ``loss``."""

    @property
    def tokenizer_json(self) -> bytes | None:
        """The tokenizer file, which a run saves; None if the tokens of this task stand for no strings."""
        return None

    @property
    def tokenizer_hash(self) -> str | None:
        """SHA-256 hash of the tokenizer file; None if there is none."""
        return None

    @property
    def outside_files(self) -> str | None:
        """The files that this task would read besides those of its run, in words; None if it reads none of the user's.

        A run from somebody else reads it only if the user says so.
        """
        return None

    def resolved(self) -> Task:
        """Return the same task with every field set that its batches depend on, as config.yaml holds it.

        Raises:
            ValueError: data that the task needs are missing.
        """
        return self

    def labels(self, batch: Batch) -> list[list[str]]:
        """Return axis labels for plots: one string for each position of each sequence."""
        if self.input_type == "vectors":
            return [[f"x{q}" for q in range(batch.inputs.shape[1])] for _ in batch.inputs]
        return [["BOS" if token == self.bos_token else str(token) for token in row] for row in batch.inputs.tolist()]

    def loss(self, output: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> Float[Tensor, "batch pos"]:
        """Return the loss at each position: cross-entropy in nats for tokens, mean squared error for vectors."""
        if batch.targets.is_floating_point():
            return einops.reduce((output - batch.targets) ** 2, "batch pos d_vocab_out -> batch pos", "mean")
        # One row for each prediction, because a softmax over an axis that is not the last is slow.
        return F.cross_entropy(output.flatten(0, 1), batch.targets.flatten().long(), reduction="none").view_as(
            batch.targets
        )

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
        """Return named sets of positions whose loss is reported separately, such as first occurrences and repeats."""
        return {}

    def twin(self, batch: Batch, generator: torch.Generator) -> Batch | None:
        """Return sequences of this task from which the targets of ``batch`` cannot be told; None if there are none.

        Only ``inputs`` differ from those of ``batch``. A twin leaves a network ignorant, so that its loss is about that
        of chance, or less: a sequence that has another answer would mislead it, and so would one of a kind that it has
        never met. None means that every sequence tells its answer, or that the task does not know a twin.

        Example:
            >>> from headway.data.repeated_tokens import RepeatedTokens
            >>> task = RepeatedTokens(n_tokens=7, length=6, period_min=3, period_max=3, late_start=0.0)
            >>> twin = task.twin(task.batch(seed=0, index=0, batch_size=1), torch.Generator().manual_seed(0))
            >>> len(set(twin.inputs[0].tolist()))  # nothing repeats
            6
        """
        return None

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """Return training batch number ``index``, which depends only on (seed, index)."""
        return self._batch(generator("data", seed, index), batch_size)

    def training_batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """Return training batch number ``index``, and refuse one of which no position counts: it has no mean loss."""
        batch = self.batch(seed, index, batch_size)
        if not batch.mask.any():
            raise ValueError(f"task: no position of batch {index} counts; its mask must be True somewhere")
        return batch

    def evaluation_batch(self, seed: int, batch_size: int) -> Batch:
        """Return the fixed batch on which a run is scored; it is unrelated to every training batch."""
        return self._batch(generator("evaluation", seed), batch_size)

    def _batch(self, generator: torch.Generator, batch_size: int) -> Batch:
        batch = self.sample(generator, batch_size)
        if not isinstance(batch, Batch):
            raise TypeError(f"{type(self).__name__}.sample returned a {type(batch).__name__}; it must return a Batch")
        return batch._replace(task=self)


def masked_mean(loss: Float[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """Return the mean of ``loss`` over the positions where ``mask`` is True; NaN if there are none.

    Example:
        >>> masked_mean(torch.tensor([[1.0, 3.0]]), torch.tensor([[True, False]])).item()
        1.0
    """
    return loss.where(mask, 0).sum() / mask.sum()
