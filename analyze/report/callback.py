"""Writing the page of a run while it trains."""

import lightning as L

from headway.analyze.report.live import report_if_possible
from headway.checkpoints.callback import AtCheckpoints
from headway.models.lightning_module import TrainingModule


class ReportWhileTraining(AtCheckpoints):
    """Writes the page of a run at each checkpoint, after it has been scored; an open page loads itself again."""

    def at_checkpoint(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """The page is marked as live, so that a browser loads it again."""
        report_if_possible(self.run, live=True)
