"""Tasks in the tokens of another vocabulary, such as that of a language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.data.task import IGNORED, Batch, Behaviour, Counts, Task


@dataclass(frozen=True)
class Renamed(Task):
    """A task whose tokens have other numbers.

    The draws, the mask, the parts, the loss and the baselines are those of the original task.

    Args:
        task: The original task; its inputs and targets are tokens.
        tokens: The new number of each token of the task, in the order of the task's tokens.

    Raises:
        ValueError: the tokens of the task do not each have a number of their own.

    Example:
        >>> from headway.data.repeated_tokens import RepeatedTokens
        >>> task = Renamed(RepeatedTokens(n_tokens=3, length=5, period_min=3, period_max=3), (50, 7, 8, 9))
        >>> sorted(task.batch(seed=0, index=0, batch_size=1).inputs[0, :4].tolist())  # BOS and three others
        [7, 8, 9, 50]
    """

    task: Task
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse numbers that do not distinguish the tokens."""
        if not self.task.outputs_are_inputs:
            raise ValueError(f"task: {type(self.task).__name__} is not valid; its outputs must stand for its tokens")
        if len(self.tokens) != self.task.d_vocab or len(set(self.tokens)) < len(self.tokens) or min(self.tokens) < 0:
            raise ValueError(
                f"tokens: {len(set(self.tokens))} different numbers are not valid; "
                f"there must be one for each of the {self.task.d_vocab} tokens of the task"
            )

    @property
    def bos_token(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The new number of the task's BOS; None if it has no BOS."""
        return None if self.task.bos_token is None else self.tokens[self.task.bos_token]

    @property
    def attention_dir(self) -> Literal["causal", "bidirectional"] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The direction of attention that the task needs."""
        return self.task.attention_dir

    @property
    def behaviour(self) -> Behaviour:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The behaviour of the task."""
        return self.task.behaviour

    @property
    def d_vocab(self) -> int:
        """The largest of the numbers plus 1."""
        return max(self.tokens) + 1

    @property
    def n_ctx(self) -> int:
        """Length of the longest input sequence of the task."""
        return self.task.n_ctx

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw a batch from the task and renumber its tokens."""
        return _renumbered(self.task.sample(generator, batch_size), torch.tensor(self.tokens))

    def sample_held_out(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw a held-out batch from the task and renumber its tokens."""
        return _renumbered(self.task.sample_held_out(generator, batch_size), torch.tensor(self.tokens))

    @property
    def holds_out(self) -> bool:
        """Return whether the task holds out sequences."""
        return self.task.holds_out

    @property
    def n_sequences(self) -> Counts | None:
        """The numbers of sequences of the task."""
        return self.task.n_sequences

    def twin(self, batch: Batch, generator: torch.Generator) -> Batch | None:
        """Return the twin that the task draws, with its tokens renumbered; None if the task draws none."""
        numbers = torch.tensor(self.tokens, device=batch.inputs.device)
        original = torch.zeros(self.d_vocab, dtype=torch.long, device=numbers.device)
        original[numbers] = torch.arange(len(numbers), device=numbers.device)
        twin = self.task.twin(_renumbered(batch, original), generator)
        return None if twin is None else batch._replace(inputs=numbers[twin.inputs])

    def loss(self, output: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> Float[Tensor, "batch pos"]:
        """Return the loss of the task."""
        return self.task.loss(output, batch)

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
        """Return the parts of the task."""
        return self.task.parts(batch)

    def descriptions(self, batch: Batch) -> list[str]:
        """Return the words of the task on each sequence."""
        return self.task.descriptions(batch)

    def baselines(self) -> dict[str, float]:
        """Return the baselines of the task."""
        return self.task.baselines()


def _renumbered(batch: Batch, numbers: Int[Tensor, " token"]) -> Batch:
    """Return a batch with other numbers for its tokens; a target that is no token is one that nothing reads."""
    is_token = (batch.targets >= 0) & (batch.targets < len(numbers))
    targets = numbers[batch.targets.where(is_token, 0)].where(is_token, IGNORED)
    return batch._replace(inputs=numbers[batch.inputs], targets=targets)
