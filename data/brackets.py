"""Balanced brackets: a bidirectional network classifies whole strings, read at position 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import einops
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from headway.data.task import IGNORED, Batch, Behaviour, Task

START, PAD, END, OPEN, CLOSE = range(5)
STRINGS = ("START", "PAD", "END", "(", ")")
KINDS = ("balanced", "random", "shuffled", "flipped", "inverted")


@dataclass(frozen=True)
class Brackets(Task):
    """Strings of brackets, half of them balanced; the class of a string is read at its first position.

    A sequence is START, n brackets, END, and padding; n is even and uniform in 2..max_brackets. The target at position
    0 is 1 for a balanced string and 0 for another. The attention of a network must be bidirectional, because position 0
    reads what follows. The task follows the ARENA course, with strings of our own.

    A balanced string is uniform among those of its length. The others are of four kinds, each with probability 1/8:

    - ``random``: independent brackets, each open with probability 1/2; a balanced one has one bracket flipped.
    - ``shuffled``: as many open as closed ones in random order; a balanced one has all brackets flipped.
    - ``flipped``: a balanced string in which one bracket is flipped.
    - ``inverted``: a balanced string in which all brackets of one top-level group are flipped: )( for (). Counts are
      equal and the string ends where it began, so that only the order tells.

    ``info`` holds the index of the kind among KINDS as ``kind`` and n as ``n_brackets``.

    Args:
        max_brackets: number of brackets in the longest string

    Raises:
        ValueError: if a field is out of range.

    Example:
        >>> task = Brackets(max_brackets=6)
        >>> batch = task.batch(seed=0, index=0, batch_size=1)
        >>> batch.inputs.shape, batch.mask[0].tolist()
        (torch.Size([1, 8]), [True, False, False, False, False, False, False, False])
    """

    attention_dir: ClassVar = "bidirectional"
    bos_token: ClassVar[int | None] = START
    behaviour: ClassVar[Behaviour] = Behaviour(None, "chance", "floor")

    max_brackets: int = 40

    def __post_init__(self) -> None:
        """Refuse strings that are all of one kind, or of odd length."""
        if self.max_brackets < 2 or self.max_brackets % 2:
            raise ValueError(f"max_brackets: {self.max_brackets} is not valid; it must be even, and at least 2")

    @property
    def d_vocab(self) -> int:
        """Number of tokens: START, PAD, END and two brackets."""
        return len(STRINGS)

    @property
    def d_vocab_out(self) -> int:
        """Number of classes."""
        return 2

    @property
    def n_ctx(self) -> int:
        """Length of the longest string, with START and END."""
        return self.max_brackets + 2

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Draw ``batch_size`` strings."""

        def draw(*shape: int) -> Tensor:
            return torch.rand(batch_size, *shape, generator=generator)

        n = 2 * torch.randint(1, self.max_brackets // 2 + 1, (batch_size, 1), generator=generator)
        here = torch.arange(self.max_brackets) < n
        # Half of the kinds drawn are 0, balanced.
        kind = (torch.randint(8, (batch_size, 1), generator=generator) - 3).clamp(min=0)
        opens = _balanced(n, draw(self.max_brackets))
        one = torch.arange(self.max_brackets) == (draw(1) * n).long()
        group = _groups(opens)
        last = group.gather(1, n - 1)
        inverted = opens ^ (group == (draw(1) * (last + 1)).long())
        independent = draw(self.max_brackets) < 0.5
        # The ranks of random numbers are a random order; positions after the end come last.
        shuffled = draw(self.max_brackets).where(here, 2.0).argsort(1).argsort(1) < n // 2
        independent ^= one & is_balanced(independent, n)
        shuffled ^= is_balanced(shuffled, n)
        strings = torch.stack((opens, independent, shuffled, opens ^ one, inverted), 1)
        chosen = strings[torch.arange(batch_size), kind[:, 0]]

        tokens = torch.where(chosen, OPEN, CLOSE).where(here, PAD)
        inputs = F.pad(F.pad(tokens, (0, 1), value=PAD), (1, 0), value=START).scatter(1, n + 1, END)
        targets = torch.full_like(inputs, IGNORED)
        targets[:, 0] = (kind[:, 0] == 0).long()
        return Batch(
            inputs=inputs,
            targets=targets,
            mask=targets != IGNORED,
            info={"kind": kind[:, 0], "n_brackets": n[:, 0]},
            attention_mask=torch.arange(self.n_ctx) <= n + 1,
        )

    def descriptions(self, batch: Batch) -> list[str]:
        """Return the kind of each string."""
        return [KINDS[kind] for kind in batch.info["kind"].tolist()]

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "batch pos"]]:
        """Return position 0 of the strings of each kind.

        Example:
            >>> task = Brackets()
            >>> list(task.parts(task.batch(seed=0, index=0, batch_size=3)))
            ['balanced', 'random', 'shuffled', 'flipped', 'inverted']
        """
        first = torch.arange(batch.inputs.shape[1], device=batch.inputs.device) == 0
        kind = einops.rearrange(batch.info["kind"], "batch -> batch 1")
        return {name: (kind == number) & first for number, name in enumerate(KINDS)}

    def labels(self, batch: Batch) -> list[list[str]]:
        """Return the token at each position as a string.

        Example:
            >>> task = Brackets()
            >>> task.labels(task.batch(0, 0, batch_size=1)._replace(inputs=torch.tensor([[0, 3, 4, 2]])))
            [['START', '(', ')', 'END']]
        """
        return [[STRINGS[token] for token in row] for row in batch.inputs.tolist()]

    def baselines(self) -> dict[str, float]:
        """Return cross-entropies in nats at position 0.

        - ``chance``: ln 2, a guess that knows that half of the strings are balanced; their length tells nothing.
        - ``counts``: a guess that knows the length, and whether as many brackets are open as closed.
        - ``floor``: 0.

        Example:
            >>> {name: round(nats, 3) for name, nats in Brackets().baselines().items()}
            {'chance': 0.693, 'counts': 0.5, 'floor': 0.0}
        """
        halves = range(1, self.max_brackets // 2 + 1)
        nats = 0.0
        for half in halves:
            # Of random strings with equal counts, those balanced, one in half + 1, are flipped into unequal ones.
            random = math.comb(2 * half, half) / 4**half * half / (half + 1)
            equal = (random + 2) / 8
            nats += (math.log(2 * (0.5 + equal)) / 2 + equal * math.log((0.5 + equal) / equal)) / len(halves)
        return {"chance": math.log(2), "counts": nats, "floor": 0.0}


def is_balanced(opens: Bool[Tensor, "batch bracket"], n: Int[Tensor, "batch 1"]) -> Bool[Tensor, "batch 1"]:
    """Return True for strings whose first ``n`` brackets are balanced: never more closed than open, in the end as many.

    Example:
        >>> opens = torch.tensor([[True, False], [False, True]])
        >>> is_balanced(opens, torch.tensor([[2], [2]])).tolist()
        [[True], [False]]
    """
    height = (2 * opens.long() - 1).cumsum(1)
    after = torch.arange(opens.shape[1], device=opens.device) >= n
    return (height.masked_fill(after, 0) >= 0).all(1, keepdim=True) & (height.gather(1, n - 1) == 0)


def _balanced(n: Int[Tensor, "batch 1"], draws: Tensor) -> Bool[Tensor, "batch bracket"]:
    """Return balanced strings, each of those with n brackets equally likely, from one uniform number per bracket.

    With height h and r brackets left, a share (h + 2)(r - h) / (2 r (h + 1)) of the ways to end at 0 opens a bracket: a
    ratio of ballot numbers.
    """
    height, opens = torch.zeros(len(n)), []
    for step, draw in enumerate(draws.unbind(1)):
        left = (n[:, 0] - step).clamp(min=1)
        up = draw < (height + 2) * (left - height) / (2 * left * (height + 1))
        opens.append(up)
        height = (height + torch.where(up, 1, -1)).where(n[:, 0] > step, 0)
    return torch.stack(opens, 1)


def _groups(opens: Bool[Tensor, "batch bracket"]) -> Int[Tensor, "batch bracket"]:
    """Return the number of the top-level group of each bracket: how often the string was balanced before it."""
    closed = (2 * opens.long() - 1).cumsum(1) == 0
    return F.pad(closed[:, :-1].long().cumsum(1), (1, 0))
