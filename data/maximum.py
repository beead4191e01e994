"""Maximum of a few tokens, read at the last position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from headway.data.task import IGNORED, Batch, Behaviour, Task


@dataclass(frozen=True)
class Maximum(Task):
    """A few random tokens; the answer at the last position is the largest of them (Gross et al. 2024).

    x_q ~ U{0..n_tokens-1} for q = 0..length-1, independent. Only the last position counts, and its target is max_q x_q.

    Args:
        n_tokens: number of tokens, which are numbers from 0 on
        length: number of tokens in a sequence

    Raises:
        ValueError: if a field is out of range.

    Example:
        >>> batch = Maximum(n_tokens=7, length=3).batch(seed=0, index=0, batch_size=5)
        >>> bool((batch.targets[:, -1] == batch.inputs.amax(1)).all())
        True
        >>> batch.mask[0].tolist()
        [False, False, True]
    """

    behaviour: ClassVar[Behaviour] = Behaviour(None, "marginal", "floor")

    n_tokens: int = 64
    length: int = 4

    def __post_init__(self) -> None:
        """Refuse fields that leave nothing to compare."""
        for name, valid in (("n_tokens", self.n_tokens >= 2), ("length", self.length >= 2)):
            if not valid:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be at least 2")

    @property
    def d_vocab(self) -> int:
        """Number of tokens."""
        return self.n_tokens

    @property
    def n_ctx(self) -> int:
        """Number of tokens in a sequence."""
        return self.length

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw ``batch_size`` sequences."""
        inputs = torch.randint(self.n_tokens, (batch_size, self.length), generator=generator)
        targets = torch.full_like(inputs, IGNORED)
        targets[:, -1] = inputs.amax(1)
        return Batch(inputs, targets, targets != IGNORED)

    def baselines(self) -> dict[str, float]:
        """Return cross-entropies in nats at the last position.

        - ``chance``: ln(n_tokens), a uniform guess.
        - ``marginal``: the entropy of the largest of ``length`` tokens, for a guess that knows how often each is.
        - ``last_token``: the same given the last token, for a guess that knows this token and no other.
        - ``floor``: 0, the maximum.

        Example:
            >>> {name: round(nats, 3) for name, nats in Maximum().baselines().items()}
            {'chance': 4.159, 'marginal': 3.523, 'last_token': 2.828, 'floor': 0.0}
        """
        # What the last token leaves open is the maximum of the others, where that is larger.
        others = _maximum_of(self.length - 1, self.n_tokens)
        given = torch.diag(others.cumsum(0)) + torch.triu(others.expand(self.n_tokens, -1), 1)
        return {
            "chance": math.log(self.n_tokens),
            "marginal": _entropy(_maximum_of(self.length, self.n_tokens)).item(),
            "last_token": _entropy(given).mean().item(),
            "floor": 0.0,
        }


def _maximum_of(count: int, n: int) -> Float[Tensor, " value"]:
    """Return the distribution of the largest of ``count`` numbers that are uniform in 0..n-1."""
    return (torch.arange(n + 1, dtype=torch.float64) / n).pow(count).diff()


def _entropy(distribution: Float[Tensor, "*shape value"]) -> Float[Tensor, "*shape"]:
    return torch.special.entr(distribution).sum(-1)
