"""Modular addition: a network that generalises computes it with a few Fourier frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from headway.data.finite import FiniteTask
from headway.data.task import IGNORED, Batch, Behaviour


@dataclass(frozen=True)
class ModularAddition(FiniteTask):
    """Two numbers and an equals sign; the answer is their sum modulo p (Nanda et al. 2023).

    The inputs are a, b and the token p, which stands for "="; the target at position 2 is (a + b) mod p, one of p
    classes. There are p² sequences, of which a share is held out. See arXiv 2301.05217.

    Args:
        p: the modulus
        held_out: share of the pairs that is held out from training
        split_seed: seed of the choice of these pairs

    Raises:
        ValueError: if a field is out of range.

    Example:
        >>> task = ModularAddition(p=7, held_out=0.5)
        >>> task.n_sequences, task.d_vocab, task.d_vocab_out
        (Counts(training=25, held_out=24), 8, 7)
        >>> batch = task.evaluation_batch(seed=0, batch_size=2)
        >>> bool((batch.targets[:, -1] == batch.inputs[:, :2].sum(1) % 7).all())
        True
    """

    behaviour: ClassVar[Behaviour] = Behaviour(None, "chance", "floor")

    p: int = 53

    def __post_init__(self) -> None:
        """Refuse a modulus without sums, and a split with nothing in one half."""
        if not 2 <= self.p <= 1024:
            raise ValueError(f"p: {self.p} is not valid; it must be from 2 to 1024")
        super().__post_init__()

    @property
    def d_vocab(self) -> int:
        """Number of tokens: p numbers and the equals sign."""
        return self.p + 1

    @property
    def d_vocab_out(self) -> int:
        """Number of sums modulo p."""
        return self.p

    @property
    def outputs_are_inputs(self) -> bool:
        """True: sum i stands for the token of the number i."""
        return True

    @property
    def n_ctx(self) -> int:
        """Number of tokens in a sequence: a, b and the equals sign."""
        return 3

    def sequences(self) -> Batch:
        """Return all p² sequences; that of (a, b) has the number a p + b."""
        numbers = torch.arange(self.p)
        inputs = torch.cartesian_prod(numbers, numbers, torch.tensor([self.p]))
        targets = torch.full_like(inputs, IGNORED)
        targets[:, -1] = inputs[:, :2].sum(1) % self.p
        return Batch(inputs, targets, targets != IGNORED, task=self)

    def labels(self, batch: Batch) -> list[list[str]]:
        """Return the number at each position, and an equals sign.

        Example:
            >>> task = ModularAddition(p=7)
            >>> task.labels(task.sequences().at([9]))
            [['1', '2', '=']]
        """
        return [["=" if token == self.p else str(token) for token in row] for row in batch.inputs.tolist()]

    def baselines(self) -> dict[str, float]:
        """Return cross-entropies in nats at the last position: ``chance``, ln p, a uniform guess; ``floor``, 0.

        A number alone tells nothing of its sum with another that is unknown, so there is no floor between them.

        Example:
            >>> {name: round(nats, 3) for name, nats in ModularAddition().baselines().items()}
            {'chance': 3.97, 'floor': 0.0}
        """
        return {"chance": math.log(self.p), "floor": 0.0}
