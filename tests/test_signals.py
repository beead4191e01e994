"""Signals that ask for the end: each command says so in one line and leaves nothing behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from toys import TOKENS, Train

import headway.devices
from headway.__main__ import main
from headway.checkpoints import Run
from headway.checkpoints.recipe import TrainerConfig
from headway.checkpoints.schedule import Schedule
from headway.models.lightning_module import TrainingModule
from headway.processes import STOPPING

TWO = replace(TOKENS, steps=1_000, schedule=Schedule(log=0, linear=0), trainer=TrainerConfig(devices=2))


@pytest.fixture(params=STOPPING, ids=lambda number: number.name)
def sent(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal, whose handler is given back."""
    before = [signal.getsignal(each) for each in STOPPING]
    yield request.param
    assert [signal.getsignal(each) for each in STOPPING] == before
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


def to_the_group(sent: signal.Signals) -> None:
    """Send a signal to this process and to those that it has started, as a cluster or a terminal does."""
    for process in multiprocessing.active_children():
        os.kill(process.pid or 0, sent)
    os.kill(os.getpid(), sent)


def says_on_end(arguments: list[str], sent: signal.Signals, capsys: pytest.CaptureFixture[str]) -> str:
    """The last words on stderr of a command that a signal ends."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 128 + sent
    assert not multiprocessing.active_children()
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.usefixtures("forked_not_spawned")
def test_a_signal_to_all_processes_of_a_run_ends_it_and_it_can_go_on(
    sent: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def signalled(module: TrainingModule, index: int, *arguments: Any) -> torch.Tensor:
        if index == 6:  # in this process alone, which is the first
            to_the_group(sent)
        return gradient(module, index, *arguments)

    gradient = TrainingModule.loss_and_gradient
    monkeypatch.setattr(TrainingModule, "loss_and_gradient", signalled)
    config, out = Run.create(tmp_path / "recipe", TWO).path / "config.yaml", tmp_path / "run"
    said = says_on_end(["train", "--config", str(config), "--out", str(out)], sent, capsys)
    (last,) = set(Run(out).steps) - {0}
    assert 7 <= last < 1_000
    assert said == f"headway: stopped at step {last}; go on with: headway train --resume {out}"
    assert Run(out).resume_file.exists()


@pytest.mark.usefixtures("forked_not_spawned")
def test_a_signal_while_processes_of_a_run_start_ends_all_of_them(
    sent: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def signalled(*arguments: Any, **options: Any) -> DDPStrategy:
        assert len(multiprocessing.active_children()) == 1
        to_the_group(sent)
        return DDPStrategy(*arguments, **options)

    monkeypatch.setattr(headway.devices, "DDPStrategy", signalled)
    config, out = Run.create(tmp_path / "recipe", TWO).path / "config.yaml", tmp_path / "run"
    said = says_on_end(["train", "--config", str(config), "--out", str(out)], sent, capsys)
    assert said == f"headway: stopped; go on with: headway train --resume {out}"


def test_a_process_ends_with_its_parent_and_before_it_at_no_signal(tmp_path: Path):
    (tmp_path / "parent.py").write_text(
        "import multiprocessing, os, sys, time\n"
        "from headway.processes import leave_signals_to_parent\n"
        "def child():\n"
        "    leave_signals_to_parent()\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(100)\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.get_context('spawn').Process(target=child).start()\n"
        "    time.sleep(100)\n"
    )
    parent = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    for number in STOPPING:
        os.kill(child, number)
    time.sleep(0.05)
    os.kill(child, 0)
    parent.kill()
    assert parent.stdout.read() == ""  # which ends when both have
    parent.wait()


def test_no_signal_ends_what_clears_up_after_all_processes():
    code = (
        "import os, time\n"
        "from multiprocessing import resource_tracker\n"
        "from headway.processes import STOPPING, start_resource_tracker\n"
        "start_resource_tracker()\n"
        "for number in STOPPING:\n"
        "    os.kill(resource_tracker._resource_tracker._pid, number)\n"
        "time.sleep(0.2)\n"
        "assert os.waitpid(resource_tracker._resource_tracker._pid, os.WNOHANG) == (0, 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_densify_that_gets_a_signal_says_so_and_has_added_nothing(
    sent: signal.Signals,
    trained: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def signalled(module: TrainingModule, index: int, *arguments: Any) -> torch.Tensor:
        if index == 10:
            os.kill(os.getpid(), sent)
        return gradient(module, index, *arguments)

    gradient = TrainingModule.loss_and_gradient
    run = trained(TOKENS, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "loss_and_gradient", signalled)
        command = ["densify", str(run.path), "--between", "8", "17", "--from_start", "--steps", "2"]
        said = says_on_end(command, sent, capsys)
    assert said == "headway: stopped at step 11; no checkpoint was added; the same command begins again"
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == {path: content for path, content in before.items() if path.name != ".lock"}


FORWARD = "headway.models.hooked_transformer.HookedTransformer.forward"


@pytest.mark.parametrize(
    ("command", "during"),
    [
        ("measure {run} --only loss --overwrite", FORWARD),
        ("circuit {run} --sequences 3", "headway.analyze.circuits.find.begin"),
        ("study induction {run} --sequences 3", FORWARD),
    ],
    ids=["measure", "circuit", "study"],
)
def test_a_command_that_computes_says_that_it_was_stopped_and_holds_nothing(
    command: str,
    during: str,
    sent: signal.Signals,
    trained: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def signalled(*_: Any, **__: Any) -> None:
        assert (run.path / ".writer.json").exists()
        os.kill(os.getpid(), sent)

    run = trained(TOKENS, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(during, signalled)
        said = says_on_end(command.format(run=run.path).split(), sent, capsys)
    assert said == "headway: stopped"
    assert not (run.path / ".writer.json").exists()
    assert not list(run.path.rglob("*.part"))
    main(["measure", str(run.path), "--only", "loss"])  # which takes the lock
