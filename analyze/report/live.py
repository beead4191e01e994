"""Writing the page again whenever something has been scored, until the runs are finished."""

import time
from collections.abc import Sequence
from pathlib import Path

import lightning as L

from headway.analyze.report.page import write_report
from headway.checkpoints import Run
from headway.checkpoints.callback import AtKeptSteps
from headway.checkpoints.scores import score_files
from headway.models.lightning_module import TrainingModule

SECONDS_BETWEEN_LOOKS = 0.5


class ReportWhileTraining(AtKeptSteps):
    """Writes the page of a run at each kept step, after it has been scored; an open one loads itself again."""

    def at_kept_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """The page says that it is live, so that it is looked at again."""
        write_report(self.run, live=True)


def watch(runs: Sequence[Run], out: Path | None = None, overwrite: bool = False) -> Path:
    """Write the page of runs that go on in other processes at each step they score, and once more when they are done.

    However it ends, the last page that is written is no longer live.
    """
    written = seen = None
    try:
        while True:
            now = [(run.finished, *score_files(run.path)) for run in runs]
            # A step whose files are still coming in is waited for.
            if now == seen and now != written:
                write_report(runs, out, overwrite, live=True)
                written = now
            elif now == written and all(finished for finished, *_ in now):
                break
            seen = now
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        path = write_report(runs, out, overwrite)
    return path
