"""Writing the page again whenever something has been scored, until the runs are finished."""

import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import lightning as L

from headway.analyze.report.page import write_report
from headway.checkpoints import Run
from headway.checkpoints.callback import AtCheckpoints
from headway.checkpoints.scores import score_files
from headway.models.lightning_module import TrainingModule

SECONDS_BETWEEN_LOOKS = 0.5
# Between a step's weights and its scores, and between two files of it, may lie a slow measure. A run whose last step
# has no scores is not waited for much longer.
LOOKS_AT_THE_END, LOOKS_AT_MOST = 10, 60


class ReportWhileTraining(AtCheckpoints):
    """Writes the page of a run at each kept step, after it has been scored; an open one loads itself again."""

    def at_checkpoint(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """The page says that it is live, so that it is looked at again."""
        report_if_possible(self.run, live=True)


def report_if_possible(run: Run, live: bool = False) -> None:
    """Write the page of a run, or warn why it cannot be written: no training run may end for its page."""
    try:
        write_report(run, live=live)
    except Exception as error:  # a task of one's own may raise anything where it names its tokens
        warnings.warn(f"report: no page was written ({type(error).__name__}: {error})", stacklevel=2)


def watch(runs: Sequence[Run], out: Path | None = None, overwrite: bool = False) -> Path:
    """Write the page of runs that go on in other processes at each step they score, and once more when they are done.

    However it ends, unless it is killed, the last page that is written is no longer live.
    """
    written = seen = None
    looks = 0  # at which nothing was new
    try:
        while not all(run.finished and looks >= _looks(run) for run in runs):
            now = [(run.finished, *score_files(run.path)) for run in runs]
            looks = looks + 1 if now == seen else 0
            # A step whose files are still coming in is waited for.
            if looks and now != written:
                write_report(runs, out, overwrite, live=True)
                written = now
            seen = now
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        path = write_report(runs, out, overwrite)
    return path


def _looks(run: Run) -> int:
    """How often nothing may be new before a finished run is done with."""
    scored = [step for step, _ in score_files(run.path)]
    return LOOKS_AT_THE_END if not scored or scored[-1] == run.recipe.steps else LOOKS_AT_MOST
