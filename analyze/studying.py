"""Run a study, write it to disk, and write the page that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.analyze.studies import find_study
from headway.analyze.studies.study import is_model_name

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from headway.analyze.studies.result import StudyResult
    from headway.checkpoints.run import Run
    from headway.data.task import Task


@dataclass(frozen=True)
class StudyFiles:
    """The file of a study, and the page that shows it."""

    result: Path
    page: Path


def study(
    name: str,
    run: Run | TransformerBridge | str | Path,
    others: Sequence[Run | str | Path] = (),
    at: int | None = None,
    overwrite: bool = False,
    out: str | Path | None = None,
    task: type[Task] | str | None = None,
    trust: bool = False,
    progress: bool = False,
    **options: Any,
) -> StudyResult:
    """Run a study of a run or a language model, write it to disk, and write the page that shows it.

    If the file of the study exists at this checkpoint, it is read and nothing runs, unless ``overwrite``.

    Args:
        name: One of STUDIES, such as ``induction``.
        run: A run or its directory; or, for studies that accept them, a language model or its name.
        others: Further runs to compare with, for studies that accept them.
        at: The checkpoint; the last one if None.
        overwrite: Run it again if its file exists.
        out: The directory for a language model; ``runs/NAME`` if None. A study of a run is written to the run.
        task: The class of the task of a run that is given by its directory, or its import path, as of ``Run``.
        trust: Import whatever task such a run names, as of ``Run``.
        progress: Show a progress bar over the checkpoints.
        options: The options of the study; ``headway study NAME --help`` lists them.

    Raises:
        ValueError: a study, an option, a run or a checkpoint that does not exist, a run of another task, options that
            differ from the defaults while the file exists.

    Example:
        >>> result = study("induction", "runs/induction", sequences=32)  # doctest: +SKIP
        >>> [claim.says for claim in result.claims if claim.holds]  # doctest: +SKIP
    """
    found = find_study(name)
    chosen = found.given(options)
    files = study_files(name, run, at, out)

    from headway.analyze.report.live import report_if_possible
    from headway.analyze.studies.result import StudyResult
    from headway.checkpoints.files import holds_run, written_after
    from headway.checkpoints.run import Run

    further = [other if isinstance(other, Run) else Run(other, task, trust) for other in others]
    if files.result.exists() and not overwrite:
        changed = ", ".join(found.changed(chosen)) or ("these runs" if others else "")
        if changed:
            raise ValueError(f"study: {files.result} exists; --overwrite runs it again, with {changed}")
        result = StudyResult.read(files.result)
        # A command that was killed after this file has not written the page.
        if holds_run(files.page.parent) and not written_after(files.page, [files.result]):
            report_if_possible(Run(files.page.parent))
        return result

    from headway.analyze.report.page import write_studies
    from headway.analyze.studies.runner import run_study
    from headway.checkpoints.lock import writing
    from headway.models.convert import load_bridge

    if isinstance(run, str | Path):
        is_model = found.takes_models and is_model_name(str(run))
        run = load_bridge(str(run)) if is_model else Run(run, task, trust)
    with writing(run.path) if isinstance(run, Run) else nullcontext():
        result = run_study(found, run, chosen, further, at, progress)
        result.write(files.result)
    if isinstance(run, Run):
        report_if_possible(run)
    else:
        write_studies(files.page.parent, run)
    return result


def study_files(
    name: str, run: Run | TransformerBridge | str | Path, at: int | None = None, out: str | Path | None = None
) -> StudyFiles:
    """Return the paths that ``study`` writes to; the arguments are those of ``study``.

    Raises:
        ValueError: a run or a checkpoint that does not exist, a checkpoint of a language model, an ``out`` that is not
            valid.
    """
    from headway.checkpoints.run import Run

    found = find_study(name)
    if isinstance(run, str | Path) and not (found.takes_models and is_model_name(str(run))):
        run = Run(run)
    if isinstance(run, Run):
        if out is not None:
            raise ValueError(f"out: {str(out)!r} is not valid; a study of a run is written to the run")
        return StudyFiles(run.study_file(name, run.check_step(at)), run.report_file)
    if not isinstance(run, str | Path):
        check_is_bridge(run)
    if at is not None:
        raise ValueError(f"at: {at} is not valid; a language model has no checkpoints here")
    folder = model_folder(run, out)
    return StudyFiles(folder / "studies" / f"{name}.nc", folder / "report.html")


def check_is_bridge(model: Any) -> None:
    """Refuse a value that is given in place of a run and is no TransformerBridge."""
    from headway.checkpoints.run import not_a_run
    from headway.models.convert import is_bridge

    if not is_bridge(model):
        raise not_a_run(model)


def model_folder(model: TransformerBridge | str | Path, out: str | Path | None = None) -> Path:
    """Return the directory of a language model, ``runs/NAME`` if ``out`` is None.

    Raises:
        ValueError: a directory that is not valid.
    """
    from headway.checkpoints.files import holds_run

    name = str(model if isinstance(model, str | Path) else model.cfg.model_name)
    folder = Path("runs") / Path(name).name if out is None else Path(out).expanduser()
    if holds_run(folder):
        raise ValueError(f"out: {folder} holds a run; give another directory")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out: {folder} is a file; it must be a directory")
    return folder
