"""Numbers of a run that are compared with published ones, read from the files of the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.checkpoints.run import Run


@dataclass(frozen=True)
class TrainingLoss:
    """The training loss around an update: the median over the updates up to ``width`` away.

    Example:
        >>> str(TrainingLoss(400))
        'training loss at update 400'
    """

    at: int
    width: int = 10

    def __str__(self) -> str:
        return f"training loss at update {self.at:,}"

    def __call__(self, run: Run) -> float:
        """Return the number of a run."""
        # The loss of the update that made step k is that of the network before it, k - 1.
        near = slice(self.at + 1 - self.width, self.at + 1 + self.width)
        return float(run.training.loss.sel(step=near).median())


@dataclass(frozen=True)
class ScoreAt:
    """A stored score at a checkpoint, the last one if ``at`` is None; ``layer`` chooses the best head of a layer.

    Example:
        >>> str(ScoreAt("previous_token", layer=0)), str(ScoreAt("accuracy_repeats", at=500))
        ('previous_token of the best head of layer 0 at the end', 'accuracy_repeats at update 500')
    """

    score: str
    at: int | None = None
    layer: int | None = None

    def __str__(self) -> str:
        head = "" if self.layer is None else f" of the best head of layer {self.layer}"
        return f"{self.score}{head} at {'the end' if self.at is None else f'update {self.at:,}'}"

    def __call__(self, run: Run) -> float:
        """Return the number of a run."""
        values = run.scores[self.score].sel(step=run.check_step("last" if self.at is None else self.at))
        return float(values if self.layer is None else values.sel(layer=self.layer).max())


@dataclass(frozen=True)
class FirstStep:
    """The first checkpoint at which a stored score is above a bound; infinite if there is none.

    Example:
        >>> str(FirstStep("accuracy", above=0.99))
        'first checkpoint with accuracy above 0.99'
    """

    score: str
    above: float

    def __str__(self) -> str:
        return f"first checkpoint with {self.score} above {self.above:g}"

    def __call__(self, run: Run) -> float:
        """Return the number of a run."""
        values = run.scores[self.score]
        passed = values.step.values[values.values > self.above]
        return float(passed[0]) if len(passed) else math.inf


Number = TrainingLoss | ScoreAt | FirstStep
