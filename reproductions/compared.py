"""Published numbers beside ours, and the verdict on them."""

import math
from dataclasses import dataclass

import numpy as np

from headway.analyze.formation.intervals import FEWEST, Estimate, median, share
from headway.reproductions.reproduction import Published


@dataclass(frozen=True)
class Compared:
    """A published number beside ours, one for each run."""

    published: Published
    ours: np.ndarray

    @property
    def n(self) -> int:
        """The number of runs."""
        return len(self.ours)

    @property
    def estimate(self) -> Estimate:
        """The median over runs with its bootstrap interval."""
        return median(self.ours)

    @property
    def distance(self) -> float:
        """For ``is``: the distance of the published number from the range of ours, positive if ours are higher.

        A run that does not reach a step does not widen the range.

        Example:
            >>> from headway.reproductions.numbers import TrainingLoss
            >>> Compared(Published(TrainingLoss(5), 2.0), np.array([3.0, 4.0, 6.0])).distance
            1.0
        """
        reached = self.ours[np.isfinite(self.ours)]
        if not len(reached):
            return math.inf
        low, high, value = reached.min(), reached.max(), self.published.value
        return float(low - value if value < low else min(0.0, high - value))

    @property
    def holding(self) -> int:
        """For a bound: the number of runs that satisfy it."""
        above = self.ours > self.published.value
        return int(above.sum() if self.published.relation == "above" else (self.ours < self.published.value).sum())

    @property
    def agrees(self) -> bool | None:
        """True if ours agree with what was published, and None with fewer than three runs."""
        if self.n < FEWEST:
            return None
        if self.published.relation == "is":
            return abs(self.distance) <= self.published.within
        return self.holding == self.n

    @property
    def verdict(self) -> str:
        """The verdict in words.

        Example:
            >>> from headway.reproductions.numbers import TrainingLoss
            >>> bound = Published(TrainingLoss(5), 2.0, "above")
            >>> Compared(bound, np.array([3.0, 4.0, 6.0])).verdict
            'holds in 3 of 3 runs [44, 100 %]'
            >>> Compared(Published(TrainingLoss(5), 2.0), np.array([3.0, 4.0, 6.0])).verdict
            'differs: ours are higher, by 1 or more'
        """
        if self.agrees is None:
            return f"no verdict: {self.n} of the {FEWEST} runs that it takes"
        if self.published.relation != "is":
            _, low, high, _ = share(self.holding, self.n)
            return f"holds in {self.holding} of {self.n} runs [{100 * low:.0f}, {100 * high:.0f} %]"
        missing = int((~np.isfinite(self.ours)).sum())
        never = f"not reached in {missing} of {self.n} runs"
        if missing == self.n:
            return f"differs: {never}"
        beside = f"; {never}" if missing else ""
        apart = f"{abs(self.distance):.2g}"
        if self.agrees:
            return f"agrees{f', {apart} outside the range of our runs' if self.distance else ''}{beside}"
        return f"differs: ours are {'higher' if self.distance > 0 else 'lower'}, by {apart} or more{beside}"
