"""Which steps of a run are kept."""

from dataclasses import dataclass

import numpy as np

MAX_COUNT = 10_000


@dataclass(frozen=True)
class Schedule:
    """Kept steps: 0 ∪ log-spaced ∪ linearly spaced ∪ explicit ∪ last.

    Circuits form early and fast, so most kept steps are spaced evenly in log(step); the linear ones watch the rest.

    Args:
        log: How many steps to space evenly in log(step) from 1 to the last; those that round alike are one.
        linear: How many steps to space evenly from 0 (itself not counted) to the last.
        at: Further steps, by number; none may come after the last.

    Raises:
        ValueError: a negative count or step.

    Example:
        >>> Schedule(log=4, linear=2, at=(7,)).steps(1000)
        [0, 1, 7, 10, 100, 500, 1000]
    """

    log: int = 32
    linear: int = 12
    at: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(self.at))  # a list is as good
        for name in ("log", "linear"):
            if not 0 <= getattr(self, name) <= MAX_COUNT:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; 0 to {MAX_COUNT} steps can be kept")
        for step in self.at:
            if step < 0:
                raise ValueError(f"at: {step} is not valid; a step is 0 or more")

    def steps(self, last: int) -> list[int]:
        """The kept steps of a run of ``last`` steps, in order; a ValueError if a step of ``at`` comes after them."""
        for step in self.at:
            if step > last:
                raise ValueError(f"schedule.at: {step} is not valid; the last step is {last}")
        kept = {0, last, *self.at}
        kept.update(round(float(step)) for step in np.geomspace(1, max(last, 1), self.log))
        kept.update(round(float(step)) for step in np.linspace(0, last, self.linear + 1))
        return sorted(step for step in kept if step <= last)
