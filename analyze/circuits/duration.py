"""Time that a search takes, estimated before it begins from a few of its forward passes."""

import time

import numpy as np

from headway.analyze.circuits.kept import Patching, without

# As many passes are timed, each without one part; the parts are spread evenly over the network.
TIMED = 12
# A part that leaves in an elimination takes this share of the time of one that is removed alone: nodes that reach the
# output no more are not computed again. A random circuit has most nodes computed. Both were measured on the recipes.
IN_ELIMINATION, RANDOM = 0.6, 2.5

MOST_SEQUENCES, LEAST_SEQUENCES = 64, 16
# One core makes as many multiplications in two to three minutes.
MOST_MULTIPLICATIONS = 4e12
# No machine makes more multiplications in a second, of which a pass that begins in the middle needs half.
FASTEST = 2e13


def seconds_per_pass(patching: Patching) -> float:
    """Return the mean time of a forward pass without one part of the network."""
    parts = len(patching.names)
    everything = np.ones(parts, dtype=bool)
    chosen = np.linspace(0, parts - 1, min(TIMED, parts)).round().astype(int).tolist()
    # The first loss of a process takes longer than the others.
    patching.sums(patching.none)
    start = time.perf_counter()
    for part in chosen:
        patching.sums(patching.run(without(everything, [part]), patching.clean))
    return (time.perf_counter() - start) / len(chosen)


def passes_of_search(patching: Patching, n_orders: int, n_controls: int) -> float:
    """Return the number of passes of a search, each counted by its time as one without one part of the network."""
    parts, nodes = len(patching.names), len(patching.nodes)
    # Effects of all parts; their elimination; random circuits, and those of growing size; nodes under two replacements,
    # in the circuit, and standing in.
    return parts + IN_ELIMINATION * n_orders * parts + RANDOM * (n_controls + 20) + 8 * nodes


def sequences_that_fit(weights: int, positions: int, passes: int) -> int:
    """Return the number of sequences of a search: MOST_SEQUENCES, or fewer where it would take many minutes.

    The number depends on the sizes alone, so that it is the same on every machine.

    Args:
        weights: Number of weights of the network: of multiplications at a position.
        positions: Number of positions of a sequence.
        passes: Number of forward passes.

    Example:
        >>> sequences_that_fit(50_000, 48, 524), sequences_that_fit(2_600_000, 28, 3612)
        (64, 16)
    """
    fit = MOST_MULTIPLICATIONS // (weights * positions * passes)
    return int(min(MOST_SEQUENCES, max(LEAST_SEQUENCES, fit)))


def in_words(seconds: float) -> str:
    """Return a time with two digits.

    Example:
        >>> in_words(0.2), in_words(68.3), in_words(400), in_words(16000), in_words(4e5)
        ('1 s', '68 s', '7 min', '4.4 h', '110 h')
    """
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    if seconds < 100 * 60:
        return f"{round(seconds / 60)} min"
    return f"{float(f'{seconds / 3600:.2g}'):g} h"
