"""The schedule of checkpoints of a run."""

from dataclasses import dataclass

import numpy as np

MAX_COUNT = 10_000


@dataclass(frozen=True)
class Schedule:
    """Steps with a checkpoint: 0 ∪ log-spaced ∪ linearly spaced ∪ explicit ∪ last.

    Circuits form early and fast, so most checkpoints are spaced evenly in log(step); the linear ones cover the rest.

    Args:
        log: Number of checkpoints spaced evenly in log(step) from 1 to the last step; equal rounded steps count once.
        linear: Number of checkpoints spaced evenly from 0 (not counted) to the last step.
        at: Steps of further checkpoints, up to the last step.
        state_every: Keep the state of training at every this many checkpoints, three times as large as the weights, so
            that ``headway densify`` can begin there; 0 keeps that of the last checkpoint alone.

    Raises:
        ValueError: a count is negative or above 10,000, or a step is negative.

    Example:
        >>> Schedule(log=4, linear=2, at=(7,)).steps(1000)
        [0, 1, 7, 10, 100, 500, 1000]
    """

    log: int = 32
    linear: int = 12
    at: tuple[int, ...] = ()
    state_every: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(self.at))  # a list is valid too
        for name in ("log", "linear", "state_every"):
            if not 0 <= getattr(self, name) <= MAX_COUNT:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be 0 to {MAX_COUNT}")
        for step in self.at:
            if step < 0:
                raise ValueError(f"at: {step} is not valid; it must be 0 or more")

    def steps(self, last: int) -> list[int]:
        """Return the checkpoints of a run of ``last`` steps, in order; raise a ValueError if ``at`` exceeds it."""
        for step in self.at:
            if step > last:
                raise ValueError(f"schedule.at: {step} is not valid; it must be 0 to {last}, the last step")
        steps = {0, last, *self.at}
        steps.update(round(float(step)) for step in np.geomspace(1, max(last, 1), self.log))
        steps.update(round(float(step)) for step in np.linspace(0, last, self.linear + 1))
        return sorted(step for step in steps if step <= last)

    def states(self, last: int) -> list[int]:
        """Return the checkpoints at which the state of training is kept too.

        Example:
            >>> Schedule(log=4, linear=2, at=(7,), state_every=3).states(1000)
            [0, 10, 1000]
        """
        return self.steps(last)[:: self.state_every] if self.state_every else []
