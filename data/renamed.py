"""The sequences of a task in the tokens of another vocabulary, such as that of a language model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headway.data.task import Batch, Task


@dataclass(frozen=True)
class Renamed(Task):
    """A task whose tokens have other numbers.

    Everything else is the task's: what is drawn, what counts, its parts, its loss and its baselines.

    Args:
        task: The task; it has tokens, and its targets are tokens too.
        tokens: What each token of the task is called, by its number there.

    Raises:
        ValueError: not one number, of its own, for each token of the task.

    Example:
        >>> from headway.data.repeated_tokens import RepeatedTokens
        >>> task = Renamed(RepeatedTokens(n_tokens=3, length=5, period_min=3, period_max=3), (50, 7, 8, 9))
        >>> sorted(task.batch(seed=0, index=0, batch_size=1).inputs[0, :4].tolist())  # BOS and three others
        [7, 8, 9, 50]
    """

    task: Task
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse tokens that could not be told apart."""
        if len(self.tokens) != self.task.d_vocab or len(set(self.tokens)) < len(self.tokens) or min(self.tokens) < 0:
            raise ValueError(
                f"tokens: {len(set(self.tokens))} different ones are not valid; "
                f"there must be one for each of the {self.task.d_vocab} tokens of the task"
            )

    @property
    def bos_token(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the task's BOS is called."""
        return None if self.task.bos_token is None else self.tokens[self.task.bos_token]

    @property
    def d_vocab(self) -> int:
        """Enough for the largest of the numbers."""
        return max(self.tokens) + 1

    @property
    def n_ctx(self) -> int:
        """The longest input sequence of the task."""
        return self.task.n_ctx

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw what the task draws."""
        batch = self.task.sample(generator, batch_size)
        names = torch.tensor(self.tokens)
        return batch._replace(inputs=names[batch.inputs], targets=names[batch.targets])

    def loss(self, output: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> Float[Tensor, "batch pos"]:
        """The task's loss."""
        return self.task.loss(output, batch)

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
        """The task's parts."""
        return self.task.parts(batch)

    def baselines(self) -> dict[str, float]:
        """The task's baselines."""
        return self.task.baselines()
