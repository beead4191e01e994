"""The previous token: say what stood one position before, which without positions takes two layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from headway.data.task import Batch, Task


@dataclass(frozen=True)
class PreviousToken(Task):
    """Random tokens after BOS; the answer at each position is the token one position before.

    x_0 = BOS and x_q ~ U{1..n_tokens} for q = 1..length-1, with replacement; the target at q >= 1 is x_(q-1).
    Position 0 has nothing before it: its loss does not count. Without BOS x_0 is drawn like the others.

    Args:
        n_tokens: how many tokens there are besides BOS, which is token 0
        length: number of tokens in a sequence, with BOS
        bos: whether position 0 holds BOS

    Raises:
        ValueError: if a field is out of range.

    Example:
        >>> batch = PreviousToken(n_tokens=5, length=4).batch(seed=0, index=0, batch_size=1)
        >>> bool((batch.targets[:, 1:] == batch.inputs[:, :-1]).all())
        True
        >>> batch.mask.tolist()
        [[False, True, True, True]]
    """

    bos_token: ClassVar[int | None] = 0  # no other token is 0, with or without BOS

    n_tokens: int = 299
    length: int = 50
    bos: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn, or has nothing to score."""
        for name, valid, rule in (
            ("n_tokens", self.n_tokens >= 1, "at least 1"),
            ("length", self.length >= 2, "at least 2, so that a token has one before it"),
        ):
            if not valid:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be {rule}")

    @property
    def d_vocab(self) -> int:
        """BOS and the n_tokens others."""
        return self.n_tokens + 1

    @property
    def n_ctx(self) -> int:
        """Length of the inputs, with BOS."""
        return self.length

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw ``batch_size`` sequences."""
        tokens = torch.randint(1, self.n_tokens + 1, (batch_size, self.length - self.bos), generator=generator)
        inputs = F.pad(tokens, (int(self.bos), 0), value=0)
        mask = torch.ones(batch_size, self.length, dtype=torch.bool)
        mask[:, 0] = False
        return Batch(inputs, F.pad(inputs[:, :-1], (1, 0), value=0), mask)

    def baselines(self) -> dict[str, float]:
        """Cross-entropies in nats, over the positions 1..length-1.

        - ``chance``: ln(d_vocab), knowing nothing.
        - ``bos_known``: (length-2)/(length-1) ln(n_tokens), knowing that the first answer is BOS and no other is;
          without BOS ln(n_tokens), knowing that no answer is.
        - ``some_earlier_token``: mean of ln(q), the tokens before position q all alike.
        - ``floor``: 0.

        Example:
            >>> {name: round(nats, 3) for name, nats in PreviousToken().baselines().items()}
            {'chance': 5.704, 'bos_known': 5.584, 'some_earlier_token': 2.95, 'floor': 0.0}
        """
        scored = self.length - 1
        return {
            "chance": math.log(self.d_vocab),
            "bos_known": (scored - self.bos) / scored * math.log(self.n_tokens),
            "some_earlier_token": math.fsum(math.log(q) for q in range(1, self.length)) / scored,
            "floor": 0.0,
        }
