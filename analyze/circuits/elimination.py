"""Backward elimination: edges leave a network one at a time, as long as the rest does what the network does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from headway.analyze.circuits.kept import Pass, Patching, without
from headway.data.seeds import generator


@dataclass(frozen=True)
class Limits:
    """Losses of the behaviour that are allowed: of one edge more, and of all together."""

    by_one: float
    most: float


@dataclass(frozen=True)
class Elimination:
    """Edges that have left, in this order, and the forward pass of those that stay."""

    left: Pass
    removed: tuple[int, ...]


def eliminate(
    patching: Patching,
    start: Pass,
    order: Sequence[int],
    limits: Limits,
    advance: Callable[[int], None] = lambda count: None,
) -> Elimination:
    """Try the edges in this order, over and over until none leaves.

    An edge leaves if the loss of the rest rises by at most ``limits.by_one``, to at most ``limits.most``. Redundant
    parts so leave until one of them is needed; which one it is depends on the order.

    Args:
        patching: The network.
        start: A pass that keeps every edge of ``order``, from which they leave.
        order: Numbers of edges.
        limits: How much may be lost.
        advance: Called with the number of edges that the first sweep has tried.
    """
    left, loss, removed = start, mean_loss(patching, start), []
    # The edges that were tried since one has left: their losses are known.
    tried: set[int] = set()
    for sweep in range(len(order) + 1):
        before = len(removed)
        for edge in order:
            if sweep == 0:
                advance(1)
            if not left.kept[edge] or edge in tried:
                continue
            tried.add(edge)
            trial = patching.run(without(left.kept, [edge]), left)
            risen = loss if trial.has_output_of(left) else mean_loss(patching, trial)
            if risen <= min(loss + limits.by_one, limits.most) or risen <= loss:
                left, loss = trial, risen
                removed.append(edge)
                tried.clear()
        if len(removed) == before:
            break
    return Elimination(left, tuple(removed))


def orders(effects: Float[np.ndarray, "edge"], count: int, seed: int) -> list[list[int]]:
    """Return orders in which edges are tried: smallest effect first, from the output backwards, and random ones."""
    edges = len(effects)
    chosen = [np.argsort(effects, kind="stable").tolist(), list(range(edges))[::-1]]
    draws = np.random.default_rng(generator_seed(seed))
    chosen += [draws.permutation(edges).tolist() for _ in range(count - 2)]
    return chosen[:count]


def generator_seed(seed: int) -> int:
    """Return the seed of numpy's draws that belong to a search; no other stream gives the same."""
    return int(torch.randint(2**62, (), generator=generator("control", seed)))


def mean_loss(patching: Patching, run: Pass) -> float:
    """Return the mean loss of the behaviour in one forward pass."""
    return float(patching.sums(run).sum() / patching.counts.sum())
