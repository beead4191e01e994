"""Scoring of a network during training."""

from collections.abc import Callable, Mapping, Sequence

import lightning as L
import xarray as xr

from headway.analyze.measures.measure import Measure
from headway.analyze.measures.scoring import Scorer
from headway.analyze.network.requirements import NotNumbersError
from headway.checkpoints.callback import AtCheckpoints
from headway.checkpoints.run import Run
from headway.models.lightning_module import DivergedError, TrainingModule


class MeasureWhileTraining(AtCheckpoints):
    """Score the network on the run's evaluation batch at each checkpoint, and store the scores in the run's folder.

    Args:
        run: The run that is training.
        steps: Steps of its checkpoints.
        measures: The measures.
        log_scores: Called with the trainer, the scores by measure, and the step, after the scores are stored.
    """

    def __init__(
        self,
        run: Run,
        steps: list[int],
        measures: Sequence[Measure],
        log_scores: Callable[[L.Trainer, Mapping[str, xr.Dataset], int], None] | None = None,
    ):
        super().__init__(run, steps)
        self.scorer = Scorer(run, measures, run.batch())
        self.log_scores = log_scores

    def at_checkpoint(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """Score, store and log; a measure that does not apply at the first step is not tried again."""
        try:
            scores = self.scorer.score(step, module.model)
        except NotNumbersError as error:
            raise DivergedError(f"diverged by step {step}: {error}") from None
        if self.log_scores is not None:
            self.log_scores(trainer, scores, step)
