"""Repeated random tokens: predicting the repeats takes an induction head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import einops
import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from headway.data.task import Batch, Task


@dataclass(frozen=True)
class RepeatedTokens(Task):
    """A segment of distinct random tokens, repeated until the sequence is full.

    s_0 = BOS and s_j = r_((j-1) mod p) for j = 1..length, where the period p is uniform in period_min..period_max,
    drawn for each sequence, and r_0..r_(p-1) are distinct tokens from 1..n_tokens. Position q holds s_q and is asked
    for s_(q+1). ``info["period"]`` is p.

    With one period for all (``period_min == period_max``) attending a constant distance back solves the task, and one
    layer can do that; only random periods need two layers.

    Args:
        n_tokens: how many tokens there are besides BOS, which is token 0
        length: number of predictions in a sequence, S in s_1..s_S
        period_min: shortest period p
        period_max: longest period p

    Raises:
        ValueError: if a field is out of range.

    Example:
        >>> task = RepeatedTokens(n_tokens=7, length=8, period_min=3, period_max=3)
        >>> batch = task.batch(seed=0, index=0, batch_size=1)
        >>> batch.inputs.shape, batch.info["period"].item()
        (torch.Size([1, 8]), 3)
        >>> bool((batch.targets[:, 3:] == batch.targets[:, :-3]).all())
        True
    """

    bos_token: ClassVar[int | None] = 0

    n_tokens: int = 64
    length: int = 48
    period_min: int = 6
    period_max: int = 23

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn, or has nothing to score."""
        low, high = self.period_min, self.length - 2
        for name, valid, rule in (
            ("length", self.length >= 3, "at least 3, so that something repeats"),
            ("period_min", self.period_min >= 1, "at least 1"),
            (
                "period_max",
                low <= self.period_max <= high,
                f"at least period_min = {low} and at most length - 2 = {high}, so that something repeats",
            ),
            (
                "n_tokens",
                self.n_tokens >= self.period_max,
                f"at least period_max = {self.period_max}: the tokens of a segment are distinct",
            ),
        ):
            if not valid:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be {rule}")

    @property
    def d_vocab(self) -> int:
        """BOS and the n_tokens others."""
        return self.n_tokens + 1

    @property
    def n_ctx(self) -> int:
        """Length of the inputs s_0..s_(length-1)."""
        return self.length

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw ``batch_size`` sequences, each with a period and a segment of its own."""
        period = torch.randint(self.period_min, self.period_max + 1, (batch_size,), generator=generator)
        # A random permutation of all tokens starts with a random segment without repeats.
        segment = 1 + torch.rand(batch_size, self.n_tokens, generator=generator).argsort(dim=-1)
        targets = segment.gather(1, torch.arange(self.length) % einops.rearrange(period, "batch -> batch 1"))
        return Batch(
            inputs=F.pad(targets[:, :-1], (1, 0), value=0),
            targets=targets,
            mask=torch.ones(batch_size, self.length, dtype=torch.bool),
            info={"period": period},
        )

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
        """``first``: the target s_j is new (j <= p); ``repeats``: an earlier match tells it (j >= p + 2).

        The target s_(p+1) is in neither: it is no new token, and the token before it was not seen before.

        Example:
            >>> task = RepeatedTokens(n_tokens=7, length=6, period_min=3, period_max=3)
            >>> {name: part.int().tolist() for name, part in task.parts(task.batch(0, 0, batch_size=1)).items()}
            {'first': [[1, 1, 1, 0, 0, 0]], 'repeats': [[0, 0, 0, 0, 1, 1]]}
        """
        j = torch.arange(1, batch.targets.shape[1] + 1, device=batch.targets.device)
        period = einops.rearrange(batch.info["period"], "batch -> batch 1")
        return {"first": j <= period, "repeats": j >= period + 2}

    def baselines(self) -> dict[str, float]:
        """Cross-entropies in nats.

        - ``chance``: ln(n_tokens), every token but BOS alike.
        - ``first_unseen``: on the part ``first``, for a predictor told that the target is new: ln(n_tokens - (j-1)),
          averaged over all first occurrences, so that long periods weigh more. A network that must leave room for the
          repeat to begin stays a little above it.
        - ``repeats_induction``: on the part ``repeats``, for an induction head: 0.

        Example:
            >>> {name: round(nats, 3) for name, nats in RepeatedTokens().baselines().items()}
            {'chance': 4.159, 'first_unseen': 4.026, 'repeats_induction': 0.0}
        """
        periods = range(self.period_min, self.period_max + 1)
        # j-1 tokens are used up at the j-th target, which sequences of period p >= j have.
        nats = sum(math.log(self.n_tokens - used) for period in periods for used in range(period))
        return {
            "chance": math.log(self.n_tokens),
            "first_unseen": nats / sum(periods),
            "repeats_induction": 0.0,
        }
