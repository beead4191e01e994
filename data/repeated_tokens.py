"""Repeated random tokens: predicting the repeats takes an induction head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import einops
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from headway.data.task import Batch, Behaviour, Task


@dataclass(frozen=True)
class RepeatedTokens(Task):
    """A segment of distinct random tokens, repeated until the sequence is full.

    s_0 = BOS; then a lead-in of l tokens; then the segment r_0..r_(p-1) over and over: s_(l+i) = r_((i-1) mod p). All
    l + p tokens are distinct, from 1..n_tokens. For each sequence the period p is uniform in period_min..period_max; a
    share late_start of the sequences has l uniform in 0..length-2p (so that at least two copies fit), the others have
    l = 0. The input at position q is s_q and its target is s_(q+1). ``info`` holds p as ``period`` and l as ``lead``.

    With one period for all sequences (``period_min == period_max``), attending a constant distance back solves the
    task, and one layer can do that; only random periods need two layers. Without late starts, every token's first copy
    is in the first half: induction needs previous-token heads only there, and they form only there.

    Args:
        n_tokens: number of tokens besides BOS, which is token 0
        length: number of predictions in a sequence, S in s_1..s_S
        period_min: shortest period p
        period_max: longest period p
        late_start: share of sequences that have a lead-in before the segment
        only_repeats: only the repeats count, whose targets are determined; first occurrences are not trained on

    Raises:
        ValueError: if a field is out of range.

    Example:
        >>> task = RepeatedTokens(n_tokens=7, length=8, period_min=3, period_max=3, late_start=0.0)
        >>> batch = task.batch(seed=0, index=0, batch_size=1)
        >>> batch.inputs.shape, batch.info["period"].item()
        (torch.Size([1, 8]), 3)
        >>> bool((batch.targets[:, 3:] == batch.targets[:, :-3]).all())
        True
    """

    options_added_later: ClassVar = ("late_start", "only_repeats")

    attention_dir: ClassVar = "causal"
    bos_token: ClassVar[int | None] = 0
    behaviour: ClassVar[Behaviour] = Behaviour("repeats", "chance", "repeats_induction")

    n_tokens: int = 64
    length: int = 48
    period_min: int = 3
    period_max: int = 16
    late_start: float = 0.5
    only_repeats: bool = False

    def __post_init__(self) -> None:
        """Refuse fields from which nothing can be drawn, or that leave nothing to score."""
        low, high = self.period_min, self.length - 2
        for name, valid, rule in (
            ("length", self.length >= 3, "at least 3, so that something repeats"),
            ("period_min", self.period_min >= 1, "at least 1"),
            (
                "period_max",
                low <= self.period_max <= high,
                f"at least period_min = {low} and at most length - 2 = {high}, so that something repeats",
            ),
            ("late_start", 0 <= self.late_start <= 1, "a share, from 0 to 1"),
            (
                "n_tokens",
                self.n_tokens >= self._most_distinct,
                f"at least {self._most_distinct}: the tokens of a lead-in and a segment are distinct",
            ),
        ):
            if not valid:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be {rule}")

    @property
    def d_vocab(self) -> int:
        """Number of tokens: BOS and the n_tokens others."""
        return self.n_tokens + 1

    @property
    def n_ctx(self) -> int:
        """Length of the inputs s_0..s_(length-1)."""
        return self.length

    @property
    def _most_distinct(self) -> int:
        """Largest number of distinct tokens in a sequence: l + p, with l at most length - 2p."""
        with_lead_in = self.length - self.period_min if self.late_start > 0 and 2 * self.period_min < self.length else 0
        return max(self.period_max, with_lead_in)

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw ``batch_size`` sequences, each with its own period, lead-in and segment."""
        period = torch.randint(self.period_min, self.period_max + 1, (batch_size,), generator=generator)
        late, where = torch.rand(2, batch_size, generator=generator)
        room = (self.length - 2 * period).clamp(min=0) + 1
        lead = (where * room).long() * (late < self.late_start)
        # A random permutation of all tokens begins with a random lead-in and segment without repeats.
        distinct = 1 + torch.rand(batch_size, self.n_tokens, generator=generator).argsort(dim=-1)
        i = torch.arange(self.length) - einops.rearrange(lead, "batch -> batch 1")
        since_start = torch.where(i < 0, i, i % einops.rearrange(period, "batch -> batch 1"))
        targets = distinct.gather(1, since_start + einops.rearrange(lead, "batch -> batch 1"))
        batch = Batch(
            inputs=F.pad(targets[:, :-1], (1, 0), value=0),
            targets=targets,
            mask=torch.ones(batch_size, self.length, dtype=torch.bool),
            info={"period": period, "lead": lead},
        )
        return batch._replace(mask=self.parts(batch)["repeats"]) if self.only_repeats else batch

    def descriptions(self, batch: Batch) -> list[str]:
        """Return the period of each sequence, and the position of the first token that repeats."""
        drawn = zip(batch.info["period"].tolist(), batch.info["lead"].tolist(), strict=True)
        return [f"period {period}, from position {lead + 1}" for period, lead in drawn]

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
        """Return ``first``: s_j is new (j <= l + p); ``repeats``: an earlier match determines s_j (j >= l + p + 2).

        s_j is the target. s_(l+p+1) is in neither part: it is not a new token, and the token before it has no earlier
        copy. With ``only_repeats`` there is no part ``first``, because none of its positions counts.

        Example:
            >>> task = RepeatedTokens(n_tokens=7, length=6, period_min=3, period_max=3, late_start=0.0)
            >>> {name: part.int().tolist() for name, part in task.parts(task.batch(0, 0, batch_size=1)).items()}
            {'first': [[1, 1, 1, 0, 0, 0]], 'repeats': [[0, 0, 0, 0, 1, 1]]}
        """
        j = torch.arange(1, batch.targets.shape[1] + 1, device=batch.targets.device)
        distinct = einops.rearrange(batch.info["lead"] + batch.info["period"], "batch -> batch 1")
        repeats = j >= distinct + 2
        return {"repeats": repeats} if self.only_repeats else {"first": j <= distinct, "repeats": repeats}

    def twin(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return sequences in which no token repeats: the tokens after BOS are a new random permutation.

        A sequence longer than n_tokens + 1 holds independent permutations, one after another: a token comes again, but
        what follows its first copy says nothing about what follows the second.

        Example:
            >>> task = RepeatedTokens(n_tokens=7, length=8, period_min=3, period_max=3, late_start=0.0)
            >>> twin = task.twin(task.batch(seed=0, index=0, batch_size=1), torch.Generator().manual_seed(0))
            >>> sorted(twin.inputs[0].tolist())
            [0, 1, 2, 3, 4, 5, 6, 7]
        """
        count, length = batch.inputs.shape
        tokens = 1 + permutations(self.n_tokens, count, length - 1, generator)
        return batch._replace(inputs=F.pad(tokens, (1, 0), value=0).to(batch.inputs))

    def baselines(self) -> dict[str, float]:
        """Return cross-entropies in nats.

        - ``chance``: ln(n_tokens), a uniform guess among all tokens except BOS.
        - ``first_unseen``: ln(n_tokens - (j-1)) on the part ``first``, a guess that knows that the target is new,
          averaged over all first occurrences, so that long periods and lead-ins weigh more. A network stays a little
          above it, because it must leave probability for the repeat to begin.
        - ``repeats_induction``: 0 on the part ``repeats``, an induction head.

        Example:
            >>> {name: round(nats, 3) for name, nats in RepeatedTokens().baselines().items()}
            {'chance': 4.159, 'first_unseen': 3.956, 'repeats_induction': 0.0}
        """
        nats = occurrences = 0.0
        for period in range(self.period_min, self.period_max + 1):
            room = max(0, self.length - 2 * period) if self.late_start > 0 else 0
            leads = range(room + 1)
            for lead in leads:
                weight = self.late_start / len(leads) + (1 - self.late_start) * (lead == 0)
                # The target number used + 1 can be none of the used tokens before it.
                nats += weight * sum(math.log(self.n_tokens - used) for used in range(lead + period))
                occurrences += weight * (lead + period)
        return {
            "chance": math.log(self.n_tokens),
            "first_unseen": nats / occurrences,
            "repeats_induction": 0.0,
        }


def permutations(n: int, batch_size: int, length: int, generator: torch.Generator) -> Int[Tensor, "batch length"]:
    """Return rows of random permutations of 0..n-1, one after another, cut off after ``length`` numbers.

    Example:
        >>> rows = permutations(3, batch_size=1, length=6, generator=torch.Generator().manual_seed(0))
        >>> sorted(rows[0, :3].tolist()), sorted(rows[0, 3:].tolist())
        ([0, 1, 2], [0, 1, 2])
    """
    order = torch.rand(batch_size, -(-length // n), n, generator=generator).argsort(dim=-1)
    return order.flatten(1)[:, :length]
