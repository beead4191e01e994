"""One process writes a run at a time; reading is always allowed, and a dead process holds nothing."""

import errno
import fcntl
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys import TOKENS, Train

from headway.__main__ import main
from headway.checkpoints import Run, lock
from headway.checkpoints.lock import writing

HOLD = """
import json, sys
from pathlib import Path
from filelock import FileLock
run = Path(sys.argv[1])
with FileLock(run / ".lock"):
    (run / ".writer.json").write_text(json.dumps(
        {"process": 5, "host": "cluster-7", "since": "2024-05-03T01:02:03", "command": "headway train induction"}
    ))
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run(trained: Train, tmp_path: Path) -> Run:
    return trained(TOKENS, tmp_path / "run")


@pytest.fixture
def writer(run: Run) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes the run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


WRITES = {
    "train": ["train", "--config", "{run}/config.yaml", "--out", "{run}", "--overwrite"],
    "resume": ["train", "--resume", "{run}"],
    "measure": ["measure", "{run}", "--only", "loss", "--overwrite"],
    "circuit": ["circuit", "{run}"],
    "study": ["study", "induction", "{run}", "--sequences", "3"],
}


@pytest.mark.parametrize("command", WRITES)
@pytest.mark.usefixtures("writer")
def test_a_second_writer_is_told_who_holds_the_run(command: str, run: Run, capsys: pytest.CaptureFixture[str]):
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as end:
        main([argument.format(run=run.path) for argument in WRITES[command]])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"headway: run: {run.path} is being written by process 5 on cluster-7 since 2024-05-03T01:02:03 "
        "(headway train induction); wait until that has ended"
    )
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("writer")
def test_reading_is_always_allowed(run: Run):
    assert run.model(5).cfg.n_layers == 2
    assert run.scores.sizes["step"] == len(run.steps)
    main(["report", str(run.path)])


def test_a_process_that_was_killed_holds_nothing(run: Run, writer: subprocess.Popen[str]):
    (run.path / "weights" / ".half.1.part").touch()
    shutil.copy(run.path / "config.yaml", run.path / f".config.yaml.{writer.pid}.part")
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    with writing(run.path):
        assert f'"process": {writer.pid}' not in (run.path / ".writer.json").read_text()
        assert not (run.path / f".config.yaml.{writer.pid}.part").exists()
    assert not (run.path / ".writer.json").exists()


def test_a_process_may_ask_for_its_own_lock_again(run: Run):
    with writing(run.path), writing(run.path):
        pass
    with writing(run.path):
        assert (run.path / ".writer.json").exists()


@pytest.fixture(params=["ENOLCK", "EOPNOTSUPP", "EINVAL", "ENOSYS"])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks."""

    def flock(*_: object) -> None:
        raise OSError(getattr(errno, request.param), "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(lock, "LEASE", 0.6)


@pytest.mark.usefixtures("no_locks")
def test_where_a_file_system_has_no_locks_a_file_stands_for_one(run: Run):
    file = run.path / ".lock.soft"
    with writing(run.path):
        assert str(os.getpid()) in file.read_text()
        with writing(run.path):  # a process may ask for its own lock again
            pass
        assert file.exists()
    assert not file.exists()


@pytest.mark.usefixtures("no_locks")
def test_a_lock_that_a_dead_process_of_another_machine_has_left_is_taken_over(run: Run):
    file = run.path / ".lock.soft"
    with writing(run.path):
        left = file.read_bytes().replace(platform.node().encode(), b"elsewhere")
    file.write_bytes(left)
    with pytest.raises(ValueError, match="is being written by another process"), writing(run.path):
        pass
    os.utime(file, (0, 0))
    with writing(run.path):
        assert file.read_bytes() != left
