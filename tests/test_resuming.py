"""A run goes on from what it was, or says in one line why it cannot; its log is that of an undisturbed run."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter
from toys import TOKENS, Train

from headway.__main__ import main
from headway.analyze.report.tensorboard import MENDED
from headway.checkpoints import Run
from headway.checkpoints.resuming import digest
from headway.models.hooked_transformer import HookedTransformer
from headway.models.lightning_module import TrainingModule
from headway.train import resume, train


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def begin_again(run: Run, step: int) -> Run:
    """The run as it was when it had kept ``step`` and nothing later, but for resume.ckpt and the log."""
    for later in run.steps:
        if later > step:
            run.weights_file(later).unlink()
            shutil.rmtree(run.path / "scores" / f"step-{later:08d}")
    return Run(run.path)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was killed after its checkpoint of step 8, and had trained two steps more."""

    def die(module: TrainingModule, index: int, optimizer: Optimizer) -> torch.Tensor:
        if module.global_step == 10:
            raise ZeroDivisionError
        return step(module, index, optimizer)

    step = TrainingModule.loss_and_gradient
    out = tmp_path_factory.mktemp("runs") / "killed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "loss_and_gradient", die)
        with pytest.raises(ZeroDivisionError):
            train(**vars(TOKENS), out=out)
    return Run(out)


@pytest.fixture
def stopped(killed: Run, tmp_path: Path) -> Run:
    """A copy of that run, which a test may change."""
    return Run(shutil.copytree(killed.path, tmp_path / "stopped"))


def test_a_resume_file_of_an_earlier_moment_is_refused(
    stopped: Run, trained: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    whole = trained(TOKENS, tmp_path / "whole")
    early = begin_again(trained(TOKENS, tmp_path / "early"), 5)
    shutil.copy(stopped.resume_file, early.resume_file)  # of step 8
    refused(early, capsys)
    shutil.copy(whole.resume_file, stopped.resume_file)  # of step 17
    refused(stopped, capsys)


def refused(run: Run, capsys: pytest.CaptureFixture[str], about: str | None = None) -> None:
    before = contents(run.path)
    with pytest.raises(SystemExit) as end:
        main(["train", "--resume", str(run.path)])
    assert end.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"headway: resume: {run.resume_file if about is None else about}")
    assert "headway train --config" in said
    assert contents(run.path) == before


def test_a_last_step_that_is_cut_off_is_not_the_end(trained: Train, tmp_path: Path):
    run = trained(TOKENS, tmp_path / "run")
    last = run.weights_file(17)
    assert run.finished
    last.write_bytes(last.read_bytes()[:-1])
    assert not run.finished
    last.write_bytes(b"")
    assert not run.finished


def logged(run: Run) -> dict[str, list[tuple[int, Any]]]:
    """Every number and picture of the log, by tag, with its step, and the steps of what else it holds."""
    events = EventAccumulator(str(run.path), size_guidance={"scalars": 0, "images": 0}).Reload()
    tags = events.Tags()
    numbers = {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in tags["scalars"]}
    texts = {tag: [(each.step, None) for each in events.Tensors(tag)] for tag in tags["tensors"]}
    images = {tag: [(each.step, each.encoded_image_string) for each in events.Images(tag)] for tag in tags["images"]}
    return numbers | images | texts


@pytest.mark.parametrize(
    "lost", ["nothing", "the scores of its last step", "the log of its last step", "the whole log"]
)
def test_the_log_of_a_run_that_goes_on_is_that_of_an_undisturbed_one(
    lost: str, stopped: Run, trained: Train, tmp_path: Path
):
    whole = trained(TOKENS, tmp_path / "whole")
    if lost == "the scores of its last step":
        shutil.rmtree(stopped.path / "scores" / "step-00000008")
    for path in stopped.path.glob("events*"):
        if lost == "the log of its last step":
            path.write_bytes(path.read_bytes()[: -path.stat().st_size // 5])
        if lost == "the whole log":
            path.unlink()
    again = resume(stopped.path)
    # TensorBoard reads files by name: first what was before, whatever else was written in the same second.
    assert min(again.path.glob("events*")).name == MENDED
    expected, found = logged(whole), logged(again)
    if lost in ("nothing", "the scores of its last step"):
        xr.testing.assert_identical(again.training, whole.training)
        assert found == expected
    # Updates whose log was destroyed are lost; scores are shown again, each once.
    assert found.keys() == expected.keys()
    scores = expected.keys() - {"loss/train", "optimiser/gradient_norm", "optimiser/lr"}
    assert {tag: found[tag] for tag in scores} == {tag: expected[tag] for tag in scores}


def test_a_log_that_ends_before_the_first_scores_is_completed(trained: Train, tmp_path: Path):
    whole, run = trained(TOKENS, tmp_path / "whole"), trained(TOKENS, tmp_path / "run")
    (log,) = run.path.glob("events*")
    events = list(LegacyEventFileLoader(str(log)).Load())
    first = next(at for at, event in enumerate(events) if any(value.HasField("image") for value in event.summary.value))
    log.unlink()
    with SummaryWriter(str(run.path)) as writer:
        for event in (*events[: first - 1], *events[first + 1 :]):
            if event.summary.value:
                writer._get_file_writer().add_event(event, event.step)
    assert logged(Run(run.path)) != logged(whole)
    assert logged(resume(run.path)) == logged(whole)


DEATHS = {
    "before resume.ckpt of its first step": ("resume.ckpt", 1),
    "between two scores of its first step": ("step-00000000/k_composition.safetensors", 1),
    "before resume.ckpt of step 8": ("resume.ckpt", TOKENS.schedule.steps(TOKENS.steps).index(8) + 1),
    "between two scores of step 8": ("step-00000008/k_composition.safetensors", 1),
    "before resume.ckpt of its last step": ("resume.ckpt", len(TOKENS.schedule.steps(TOKENS.steps))),
    "between two scores of its last step": ("step-00000017/k_composition.safetensors", 1),
}


@pytest.mark.parametrize("death", DEATHS)
def test_wherever_a_run_died_its_log_is_that_of_an_undisturbed_one(
    death: str, trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    end, nth = DEATHS[death]
    writes = iter(range(1, nth + 1))

    def renamed(path: Path, target: Path) -> Path:
        if str(target).endswith(end) and next(writes) == nth:
            raise ZeroDivisionError
        return rename(path, target)

    rename = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", renamed)
        patch.setattr("headway.models.lightning_module.TrainingModule.on_train_end", lambda _: None)
        with pytest.raises(ZeroDivisionError):
            train(**vars(TOKENS), out=tmp_path / "run")
    again, whole = resume(tmp_path / "run"), trained(TOKENS, tmp_path / "whole")
    assert (again.steps, again.finished) == (whole.steps, True)
    xr.testing.assert_identical(again.training, whole.training)
    assert logged(again) == logged(whole)
    for folder in ("weights", "scores"):
        assert list(contents(again.path / folder).values()) == list(contents(whole.path / folder).values())


def test_a_run_with_other_initial_weights_and_no_resume_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = Run.create(tmp_path / "run", TOKENS)
    run.keep(0, HookedTransformer(TOKENS.model, seed=TOKENS.seed + 1))
    refused(run, capsys)


def test_a_run_that_died_before_its_first_checkpoint_begins(tmp_path: Path, trained: Train):
    run = Run.create(tmp_path / "begun", replace(TOKENS))
    xr.testing.assert_identical(resume(run.path).scores, trained(TOKENS, tmp_path / "whole").scores)


def test_a_run_that_an_earlier_version_began_goes_on(stopped: Run, tmp_path: Path, trained: Train):
    """Lightning made its updates then, and counted them elsewhere."""
    checkpoint = torch.load(stopped.resume_file, weights_only=True)
    loops = checkpoint["loops"]["fit_loop"]
    loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"] = {
        "ready": 8,
        "completed": 8,
    }
    none = {"ready": 0, "completed": 0}
    loops["epoch_loop.manual_optimization.optim_step_progress"] = {"total": none, "current": none}
    torch.save({**checkpoint, "digest": digest(checkpoint)}, stopped.resume_file)
    again, whole = resume(stopped.path), trained(TOKENS, tmp_path / "whole")
    xr.testing.assert_identical(again.training, whole.training)
    assert list(contents(again.path / "weights").values()) == list(contents(whole.path / "weights").values())


def test_a_run_that_has_lost_a_checkpoint_says_so(stopped: Run, capsys: pytest.CaptureFixture[str]):
    stopped.weights_file(4).unlink()
    refused(stopped, capsys, about="the weights of step 4 are missing")


def test_a_run_whose_resume_file_has_no_digest_goes_on(stopped: Run, tmp_path: Path, trained: Train):
    """A file without a digest, as earlier versions wrote it, is taken where it is what the recipe makes of it."""
    checkpoint = torch.load(stopped.resume_file, weights_only=True)
    del checkpoint["digest"]
    torch.save(checkpoint, stopped.resume_file)
    again, whole = resume(stopped.path), trained(TOKENS, tmp_path / "whole")
    assert list(contents(again.path / "weights").values()) == list(contents(whole.path / "weights").values())
