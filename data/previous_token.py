"""Previous token: output the token one position back, which takes two layers without positional embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from headway.data.task import Batch, Behaviour, Task


@dataclass(frozen=True)
class PreviousToken(Task):
    """Random tokens after BOS; the target at each position is the previous token.

    x_0 = BOS and x_q ~ U{1..n_tokens} for q = 1..length-1, with replacement; the target at q >= 1 is x_(q-1).
    Position 0 has no previous token, and its loss does not count. Without BOS, x_0 is drawn like the others.

    Args:
        n_tokens: number of tokens besides BOS, which is token 0
        length: number of tokens in a sequence, including BOS
        bos: begin each sequence with BOS

    Raises:
        ValueError: if a field is out of range.

    Example:
        >>> batch = PreviousToken(n_tokens=5, length=4).batch(seed=0, index=0, batch_size=1)
        >>> bool((batch.targets[:, 1:] == batch.inputs[:, :-1]).all())
        True
        >>> batch.mask.tolist()
        [[False, True, True, True]]
    """

    options_added_later: ClassVar = ("bos",)

    bos_token: ClassVar[int | None] = 0  # no other token is 0, with or without BOS
    behaviour: ClassVar[Behaviour] = Behaviour(None, "chance", "floor")

    n_tokens: int = 299
    length: int = 50
    bos: bool = True

    def __post_init__(self) -> None:
        """Refuse fields from which nothing can be drawn, or that leave nothing to score."""
        for name, valid, rule in (
            ("n_tokens", self.n_tokens >= 1, "at least 1"),
            ("length", self.length >= 2, "at least 2, so that a token has a previous one"),
        ):
            if not valid:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be {rule}")

    @property
    def d_vocab(self) -> int:
        """Number of tokens: BOS and the n_tokens others."""
        return self.n_tokens + 1

    @property
    def n_ctx(self) -> int:
        """Length of the inputs, including BOS."""
        return self.length

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw ``batch_size`` sequences."""
        tokens = torch.randint(1, self.n_tokens + 1, (batch_size, self.length - self.bos), generator=generator)
        inputs = F.pad(tokens, (int(self.bos), 0), value=0)
        mask = torch.ones(batch_size, self.length, dtype=torch.bool)
        mask[:, 0] = False
        return Batch(inputs, F.pad(inputs[:, :-1], (1, 0), value=0), mask)

    def baselines(self) -> dict[str, float]:
        """Return cross-entropies in nats over the positions 1..length-1.

        - ``chance``: ln(d_vocab), a uniform guess.
        - ``bos_known``: (length-2)/(length-1) ln(n_tokens), a guess that knows that only the first target is BOS;
          without BOS ln(n_tokens), a guess that knows that no target is BOS.
        - ``some_earlier_token``: mean of ln(q), a uniform guess among the tokens before position q.
        - ``floor``: 0, the previous token.

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
