"""NoTask: the task of a run that was imported without one. Its batch holds nothing, and says so where it is read."""

from dataclasses import dataclass
from typing import Literal, NoReturn

import torch

from headway.data.task import Batch, Task


class NoTaskError(ValueError):
    """Sequences are asked for, and the run has no task that draws them."""

    def __init__(self) -> None:
        super().__init__(
            "task: this run was imported without a task, so that it has no sequences; import it with --task, or give a "
            "batch of your own in Python"
        )


class NoBatch(Batch):
    """A batch without sequences: measures of weights do not read it, and whatever does raises a NoTaskError."""

    @property
    def inputs(self) -> NoReturn:  # pyright: ignore[reportIncompatibleVariableOverride]
        """There are none."""
        raise NoTaskError

    @property
    def targets(self) -> NoReturn:  # pyright: ignore[reportIncompatibleVariableOverride]
        """There are none."""
        raise NoTaskError

    @property
    def outputs_are_inputs(self) -> bool:
        """True: nothing is known to the contrary."""
        return True

    @property
    def mask(self) -> NoReturn:  # pyright: ignore[reportIncompatibleVariableOverride]
        """There is none."""
        raise NoTaskError

    def to(self, device: torch.device | str) -> "NoBatch":
        """Return the same batch, which has no tensors."""
        return self


@dataclass(frozen=True)
class NoTask(Task):
    """No task: what a network takes, and nothing of what it was trained on.

    Args:
        d_vocab: Number of tokens, or dimension of a vector.
        n_ctx: Length of the longest input sequence.
        input_type: tokens or vectors.

    Example:
        >>> NoTask(d_vocab=13, n_ctx=7).evaluation_batch(seed=0, batch_size=2).task.n_ctx
        7
    """

    d_vocab: int = 1  # pyright: ignore[reportIncompatibleMethodOverride]
    n_ctx: int = 1  # pyright: ignore[reportIncompatibleMethodOverride]
    input_type: Literal["tokens", "vectors"] = "tokens"  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def d_vocab_out(self) -> int:
        """The least that a network can have: of its outputs nothing is known."""
        return 1

    @property
    def outputs_are_inputs(self) -> bool:
        """True: nothing is known to the contrary."""
        return True

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Refuse: there is nothing to draw."""
        raise NoTaskError

    def evaluation_batch(self, seed: int, batch_size: int) -> Batch:
        """Return a batch that holds nothing."""
        nothing = torch.zeros(0, 0, dtype=torch.long)
        return NoBatch(nothing, nothing, nothing.bool(), {}, self)

    def baselines(self) -> dict[str, float]:
        """Return none."""
        return {}
