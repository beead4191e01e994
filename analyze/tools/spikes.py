"""Loss spikes: where training went wrong for a while, and how far."""

from typing import NamedTuple

import numpy as np
import xarray as xr

# A loss is a spike above this many times the median before it, and this many of its usual deviations.
TIMES, DEVIATIONS = 1.5, 6.0
# The median is that of so many updates; excursions closer to each other than GAP are one spike.
WINDOW, GAP = 50, 10


class Spike(NamedTuple):
    """The first and the last update of a spike, the median loss before, and the largest loss and gradient in it."""

    step: int
    last: int
    before: float
    peak: float
    gradient_norm: float

    @property
    def size(self) -> float:
        """How many times the loss before."""
        return self.peak / self.before


def loss_spikes(training: xr.Dataset) -> list[Spike]:
    """Where the training loss left what it was for something larger, in order.

    An update (from the 51st on) is in a spike if its loss is above 1.5 times the median of the 50 before it, and above
    that median by more than 6 of their deviations (1.4826 times the median distance from it). Updates less than 10
    apart are one spike. The scale of the loss plays no part; a loss that falls smoothly, or is merely noisy, has none.
    A batch that is harder than others looks the same.

    Args:
        training: ``Run.training``: loss and gradient_norm, axis step.

    Example:
        >>> steps = np.arange(1, 201)
        >>> values = np.where(steps == 120, 5.0, 1.0 + 0.01 * np.sin(steps))
        >>> training = xr.Dataset({"loss": ("step", values), "gradient_norm": ("step", values)}, {"step": steps})
        >>> [(spike.step, round(spike.size)) for spike in loss_spikes(training)]
        [(120, 5)]
    """
    values, steps = training.loss.values, training.step.values
    if len(values) <= WINDOW:
        return []
    before = np.lib.stride_tricks.sliding_window_view(values, WINDOW)[:-1]
    median = np.median(before, axis=-1)
    deviation = 1.4826 * np.median(abs(before - median[:, None]), axis=-1)
    now = values[WINDOW:]
    high = np.flatnonzero((now > TIMES * median) & (now - median > DEVIATIONS * deviation))
    found = []
    for part in np.split(high, np.flatnonzero(np.diff(high) >= GAP) + 1) if high.size else []:
        at = slice(part[0] + WINDOW, part[-1] + WINDOW + 1)
        found.append(
            Spike(
                int(steps[at][0]),
                int(steps[at][-1]),
                float(median[part[0]]),
                float(values[at].max()),
                float(training.gradient_norm.values[at].max()),
            )
        )
    return found
