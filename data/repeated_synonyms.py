"""Random tokens followed by their synonyms: predicting the synonyms takes fuzzy induction."""

import math
from dataclasses import dataclass
from typing import ClassVar

import einops
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from headway.data.repeated_tokens import permutations
from headway.data.task import Batch, Behaviour, Task


@dataclass(frozen=True)
class RepeatedSynonyms(Task):
    """Random tokens, followed by their synonyms: [A] [B] … [A*] [B*], as in Olsson et al. 2022.

    Tokens come in pairs, t and its synonym t* = t ± n_pairs. s_0 = BOS; a lead-in of l tokens; the segment r_1..r_p;
    its synonyms r_1*..r_p*; then other tokens until the sequence is full. No other pair occurs twice, so no token ever
    repeats. For each sequence the period p is uniform in period_min..period_max; a share late_start of the sequences
    has l uniform in 0..length-2p, the others have l = 0. The input at position q is s_q and its target is s_(q+1).
    ``info`` holds p as ``period`` and l as ``lead``.

    Args:
        n_pairs: number of pairs of tokens besides BOS, which is token 0
        length: number of predictions in a sequence, S in s_1..s_S
        period_min: shortest period p
        period_max: longest period p
        late_start: share of sequences that have a lead-in before the segment

    Raises:
        ValueError: if a field is out of range.

    Example:
        >>> task = RepeatedSynonyms(n_pairs=7, length=6, period_min=3, period_max=3)
        >>> tokens = task.batch(seed=0, index=0, batch_size=1).targets
        >>> bool((task.synonyms[tokens[:, :3]] == tokens[:, 3:]).all())
        True
    """

    attention_dir: ClassVar = "causal"
    bos_token: ClassVar[int | None] = 0
    behaviour: ClassVar[Behaviour] = Behaviour("repeats", "chance", "repeats_fuzzy_induction")

    n_pairs: int = 100
    length: int = 48
    period_min: int = 8
    period_max: int = 24
    late_start: float = 0.0

    def __post_init__(self) -> None:
        """Refuse fields from which nothing can be drawn, or that leave nothing to score."""
        low, high = self.period_min, self.length // 2
        for name, valid, rule in (
            ("length", self.length >= 4, "at least 4, for two tokens and their synonyms"),
            ("period_min", self.period_min >= 2, "at least 2, so that a synonym has another one before it"),
            (
                "period_max",
                low <= self.period_max <= high,
                f"at least period_min = {low} and at most half of the length, {high}",
            ),
            ("late_start", 0 <= self.late_start <= 1, "a share, from 0 to 1"),
            (
                "n_pairs",
                self.n_pairs >= self.length - low,
                f"at least {self.length - low}: no pair occurs twice, except as synonyms",
            ),
        ):
            if not valid:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be {rule}")

    @property
    def d_vocab(self) -> int:
        """Number of tokens: BOS and two for each pair."""
        return 2 * self.n_pairs + 1

    @property
    def n_ctx(self) -> int:
        """Length of the inputs s_0..s_(length-1)."""
        return self.length

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of tokens that are synonyms of each other."""
        return [(token, token + self.n_pairs) for token in range(1, self.n_pairs + 1)]

    @property
    def synonyms(self) -> Int[Tensor, "d_vocab"]:
        """The synonym of each token; BOS is its own."""
        return F.pad(torch.arange(1, self.d_vocab).roll(-self.n_pairs), (1, 0))

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw ``batch_size`` sequences, each with its own period, lead-in and tokens."""
        period = torch.randint(self.period_min, self.period_max + 1, (batch_size,), generator=generator)
        late, where = torch.rand(2, batch_size, generator=generator)
        lead = (where * (self.length - 2 * period + 1)).long() * (late < self.late_start)
        targets = self._tokens(period, lead, generator)
        return Batch(
            inputs=F.pad(targets[:, :-1], (1, 0), value=0),
            targets=targets,
            mask=torch.ones(batch_size, self.length, dtype=torch.bool),
            info={"period": period, "lead": lead},
        )

    def _tokens(
        self, period: Int[Tensor, "batch"], lead: Int[Tensor, "batch"], generator: torch.Generator
    ) -> Int[Tensor, "batch pos"]:
        """Draw s_1..s_length of sequences with these periods and lead-ins."""
        batch_size = len(period)
        pair = torch.rand(batch_size, self.n_pairs, generator=generator).argsort(dim=-1)
        side = torch.randint(2, (batch_size, self.n_pairs), generator=generator)
        distinct = 1 + pair + self.n_pairs * side
        p, start = (einops.rearrange(each, "batch -> batch 1") for each in (period, lead))
        i = torch.arange(self.length).expand(batch_size, -1)
        again = (i >= start + p) & (i < start + 2 * p)
        tokens = distinct.gather(1, torch.where(i < start + p, i, i - p))
        return torch.where(again, self.synonyms[tokens], tokens)

    def descriptions(self, batch: Batch) -> list[str]:
        """Return the period of each sequence, and the position of the first token that repeats."""
        drawn = zip(batch.info["period"].tolist(), batch.info["lead"].tolist(), strict=True)
        return [f"period {period}, from position {lead + 1}" for period, lead in drawn]

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
        """Return ``first``: s_j is of a new pair; ``repeats``: the synonym before determines s_j (l+p+2 <= j <= l+2p).

        s_j is the target. s_(l+p+1) is in neither part: its pair is not new, and the token before it is not a synonym
        of an earlier token.

        Example:
            >>> task = RepeatedSynonyms(n_pairs=7, length=6, period_min=3, period_max=3)
            >>> {name: part.int().tolist() for name, part in task.parts(task.batch(0, 0, batch_size=1)).items()}
            {'first': [[1, 1, 1, 0, 0, 0]], 'repeats': [[0, 0, 0, 0, 1, 1]]}
        """
        j = torch.arange(1, batch.targets.shape[1] + 1, device=batch.targets.device)
        p, start = (einops.rearrange(batch.info[name], "batch -> batch 1") for name in ("period", "lead"))
        return {
            "first": (j <= start + p) | (j > start + 2 * p),
            "repeats": (j >= start + p + 2) & (j <= start + 2 * p),
        }

    def twin(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return sequences of other tokens, in which all tokens are of new pairs where the original is determined.

        Their segment and its synonyms end before the part ``repeats`` of the original begins, or the synonyms begin
        after it ends. So a network sees what it knows from training, where nothing determines the next token. If no
        period allows this, all tokens are of different pairs: a sequence longer than n_pairs + 1 then holds independent
        permutations of the pairs, one after another.

        Example:
            >>> task = RepeatedSynonyms(n_pairs=20, length=24, period_min=4, period_max=12)
            >>> batch = task.batch(seed=0, index=0, batch_size=1)
            >>> twin = task.twin(batch, torch.Generator().manual_seed(0))
            >>> pairs = ((twin.inputs[0, 1:] - 1) % 20).tolist()
            >>> int(batch.info["period"]), [place for place, pair in enumerate(pairs, 1) if pair in pairs[: place - 1]]
            (10, [6, 7, 8, 9, 10])
        """
        periods = torch.arange(self.period_min, self.period_max + 1)
        p, start = (einops.rearrange(batch.info[name].cpu(), "batch -> batch 1") for name in ("period", "lead"))
        apart = (2 * periods <= start + p + 1) | (periods >= start + 2 * p)
        never = ~apart.any(1)
        chosen = periods[torch.multinomial((apart | never[:, None]).float(), 1, generator=generator)[:, 0]]
        tokens = self._tokens(chosen, torch.zeros_like(chosen), generator)[:, :-1]
        count, length = tokens.shape
        pair = permutations(self.n_pairs, count, length, generator)
        different = 1 + pair + self.n_pairs * torch.randint(2, pair.shape, generator=generator)
        inputs = torch.where(never[:, None], different, tokens)
        return batch._replace(inputs=F.pad(inputs, (1, 0), value=0).to(batch.inputs))

    def baselines(self) -> dict[str, float]:
        """Return cross-entropies in nats.

        - ``chance``: ln(2 n_pairs), a uniform guess among all tokens except BOS.
        - ``repeats_pair``: ln 2 on the part ``repeats``, a guess between the two tokens of the correct pair.
        - ``repeats_fuzzy_induction``: 0 on the part ``repeats``, fuzzy induction.

        Example:
            >>> {name: round(nats, 3) for name, nats in RepeatedSynonyms().baselines().items()}
            {'chance': 5.298, 'repeats_pair': 0.693, 'repeats_fuzzy_induction': 0.0}
        """
        return {"chance": math.log(2 * self.n_pairs), "repeats_pair": math.log(2), "repeats_fuzzy_induction": 0.0}
