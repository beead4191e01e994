"""Loss spikes: short excursions of the training loss, with their size."""

from typing import NamedTuple

import numpy as np
import xarray as xr

# A loss in a spike exceeds TIMES the median before it, and exceeds that median by DEVIATIONS standard deviations.
TIMES, DEVIATIONS = 1.5, 6.0
# The median is over WINDOW updates; excursions less than GAP updates apart are one spike.
WINDOW, GAP = 50, 10


class Spike(NamedTuple):
    """First and last update of a spike, the median loss before it, and the largest loss and gradient norm in it."""

    step: int
    last: int
    before: float
    peak: float
    gradient_norm: float

    @property
    def size(self) -> float:
        """Return the largest loss as a multiple of the median loss before."""
        return self.peak / self.before


def loss_spikes(training: xr.Dataset) -> list[Spike]:
    """Return the spikes of the training loss, in order.

    An update (from the 51st on) is in a spike if its loss is above 1.5 times the median of the 50 updates before it,
    and exceeds that median by more than 6 robust standard deviations (1.4826 times the median absolute deviation).
    Updates less than 10 apart are one spike. The scale of the loss has no effect; a loss that falls smoothly, or is
    merely noisy, has no spikes. A single batch that is harder than others cannot be distinguished from a spike.

    Args:
        training: ``Run.training``: loss and gradient_norm [step].

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
