"""Writing the page of runs again when there is more to show, also while they train in other processes."""

import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from headway.analyze.report.network_in_page import Weights
from headway.analyze.report.page import is_page, write_report
from headway.checkpoints import Run
from headway.checkpoints.files import written_after
from headway.checkpoints.scores import score_files

SECONDS_BETWEEN_LOOKS = 0.5
# A slow measure may lie between the weights of a step and its scores, or between two files of scores. A finished run
# whose last step has no scores is watched for LOOKS_AT_MOST looks.
LOOKS_AT_THE_END, LOOKS_AT_MOST = 10, 60


def report_if_possible(run: Run, live: bool = False) -> None:
    """Write the page of a run, or warn why it cannot be written: a failure of the page must not end a training run."""
    try:
        write_report(run, live=live)
    except Exception as error:
        warnings.warn(f"report: no page was written ({type(error).__name__}: {error})", stacklevel=2)


def page_is_new(run: Run) -> bool:
    """Return whether the page of a run was written after everything that it shows."""
    shown = [
        *score_files(run.path).values(),
        *run.path.glob("events.out.tfevents.*"),
        *run.path.glob("studies/*/*.nc"),
        *run.path.glob("circuits/**/*.safetensors"),
    ]
    return written_after(run.report_file, shown)


def refresh_page(run: Run) -> None:
    """Write the page of a run, if it is not newer than everything that it shows."""
    if not page_is_new(run):
        report_if_possible(run)


def stale_pages(runs: Sequence[Run]) -> list[str]:
    """Return a sentence on each page of several runs, beside these, that is older than the page of one of them."""
    said = []
    for folder in dict.fromkeys(run.path.parent for run in runs):
        page = folder / "report.html"
        own = [run.report_file for run in runs if run.path.parent == folder and run.report_file.exists()]
        if page.is_file() and not written_after(page, own) and is_page(page):
            said.append(f"{page} is older than these; headway report with its runs writes it again")
    return said


def watch(runs: Sequence[Run], out: Path | None = None, overwrite: bool = False, weights: Weights = "fitting") -> Path:
    """Write the page of runs at each step that they score, and once more when all are finished; give its path.

    However it ends, unless it is killed, the last page that it writes is not live, and has ``weights``.
    """
    written = seen = None
    shown: list[set[int]] = [set() for _ in runs]  # the steps that were whole when the last page was written
    looks = 0  # at which nothing was new
    try:
        while not all(run.finished and looks >= _looks(run) for run in runs):
            now = [(run.finished, *score_files(run.path)) for run in runs]
            looks = looks + 1 if now == seen else 0
            # A step whose files are still coming in is waited for, until the next begins: steps may come faster than
            # one looks, so that there is never a look without anything new.
            whole = [_scored(run)[:-1] for run in runs]
            if now != written and (looks or any(set(steps) - shown for steps, shown in zip(whole, shown, strict=True))):
                shown = [set(_scored(run)) if looks else set(steps) for run, steps in zip(runs, whole, strict=True)]
                write_report(runs, out, overwrite, live=True)
                written = now
            seen = now
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        try:
            path = write_report(runs, out, overwrite, weights=weights)
        except ValueError:
            # A page that is live for ever would be worse than one without weights.
            write_report(runs, out, overwrite, weights="none")
            raise
    return path


def _scored(run: Run) -> list[int]:
    return sorted({step for step, _ in score_files(run.path)})


def _looks(run: Run) -> int:
    """The number of looks without anything new after which a finished run is not watched any longer."""
    scored = _scored(run)
    return LOOKS_AT_THE_END if not scored or scored[-1] == run.steps[-1] else LOOKS_AT_MOST
