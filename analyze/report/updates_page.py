"""The data from which the page draws every update of a run: training loss, gradient norm and learning rate."""

from typing import Any

import numpy as np

from headway.analyze.report.packed import Packed
from headway.analyze.report.stored import StoredScores

# Points of a curve; of a longer run each is a group of neighbouring updates.
MOST_UPDATES = 2000
LABELS = {"loss": "training loss", "gradient_norm": "gradient norm, before clipping", "lr": "learning rate"}


def updates_data(stored: StoredScores, packed: Packed) -> dict[str, Any] | None:
    """Return the mean, the smallest and the largest number of each group of updates; None of a run without any.

    Arrays are [3, group], or [1, update] of a run of few; ``steps`` are the last updates of the groups.
    """
    if not any(stored.run.path.glob("events.out.tfevents.*")):
        return None
    training = stored.training
    steps = training.step.values
    if not steps.size:
        return None
    starts = group_starts(steps, MOST_UPDATES)
    curves = {label: grouped(training[name].values, starts) for name, label in LABELS.items()}
    return {
        "steps": steps[np.append(starts[1:], steps.size) - 1].tolist(),
        "updates": int(steps.size),
        "curves": [{"label": label, "values": packed.add(values)} for label, values in curves.items()],
    }


def group_starts(steps: np.ndarray, most: int) -> np.ndarray:
    """Return where groups of updates begin, at most ``most``: as the page's axis has them, evenly in log(1 + step).

    Example:
        >>> group_starts(np.arange(1, 6), 9).tolist(), group_starts(np.arange(1, 101), 5).tolist()
        ([0, 1, 2, 3, 4], [0, 2, 6, 15, 39])
    """
    if steps.size <= most:
        return np.arange(steps.size)
    at = np.log1p(steps - steps[0])
    _, starts = np.unique(np.floor(at / at[-1] * (most - 1e-9)), return_index=True)
    return starts


def grouped(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return mean, smallest and largest number of each group, [3, group]; the numbers themselves if each is a group.

    Example:
        >>> grouped(np.array([1.0, 3.0, 5.0]), np.array([0, 1])).tolist()
        [[1.0, 4.0], [1.0, 3.0], [1.0, 5.0]]
    """
    if starts.size == values.size:
        return values[None]
    sizes = np.diff(np.append(starts, values.size))
    return np.stack(
        [
            np.add.reduceat(values, starts) / sizes,
            np.minimum.reduceat(values, starts),
            np.maximum.reduceat(values, starts),
        ]
    )
