"""Random seeds: each kind of randomness draws from its own stream."""

from typing import Literal

import numpy as np
import torch

Stream = Literal[
    "init", "data", "evaluation", "null", "baseline", "twin", "control", "split", "training", "pool", "dropout",
]  # fmt: skip
# New streams come last, so that the others stay as they are.
STREAMS: tuple[Stream, ...] = (
    "init", "data", "evaluation", "null", "baseline", "twin", "control", "split", "training", "pool", "dropout",
)  # fmt: skip


def generator(stream: Stream, seed: int, index: int = 0) -> torch.Generator:
    """Return a generator that depends only on (stream, seed, index), and on nothing drawn before.

    Streams separate initialisation, data, evaluation, nulls and so on: the same seed in two streams gives unrelated
    numbers, so changing one never changes another.

    Example:
        >>> a, b = generator("data", 0, 7), generator("data", 0, 7)
        >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
        True
        >>> generator("data", 0, 7).initial_seed() == generator("init", 0, 7).initial_seed()
        False
    """
    check_seed("seed", seed)
    words = np.random.SeedSequence((STREAMS.index(stream), seed, index)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> 1))


def check_seed(name: str, seed: int) -> None:
    """Refuse a ``seed`` that is negative, or so large that it would overlap the index of another seed."""
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**32:
        raise ValueError(f"{name}: {seed} is not valid; it must be a whole number from 0 to {2**32 - 1}")
