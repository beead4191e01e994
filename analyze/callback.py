"""Scoring a network while it trains: at each kept step the measures run, are stored, and are shown in TensorBoard."""

from collections.abc import Sequence

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from headway.analyze.applies import NotNumbersError
from headway.analyze.measure import Measure, Nulls, measure_step
from headway.analyze.tensorboard import show, show_run
from headway.checkpoints.callback import AtKeptSteps
from headway.checkpoints.run import Run
from headway.models.lightning_module import DivergedError, TrainingModule


class MeasureWhileTraining(AtKeptSteps):
    """Runs ``measures`` on the run's evaluation batch at each kept step."""

    def __init__(self, run: Run, steps: list[int], measures: Sequence[Measure]):
        super().__init__(run, steps)
        self.measures = list(measures)
        self.batch = run.batch()
        self.nulls = Nulls(run, self.measures, self.batch)

    def at_kept_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """Score, store, show. What does not apply at the first step is not asked again."""
        batch = self.batch.to(module.device)
        try:
            measured = measure_step(self.run, step, module.model, batch, self.measures, self.nulls)
        except NotNumbersError as error:
            raise DivergedError(f"diverged by step {step}: {error}") from None
        self.measures = [each for each in self.measures if each.name not in measured.inapplicable]
        if isinstance(trainer.logger, TensorBoardLogger):
            if step == 0:
                show_run(trainer.logger.experiment, self.run.recipe, measured.scores)
            show(trainer.logger.experiment, measured.scores, step)
