"""Files are whole or not there: whatever ends a process, whatever is full, wherever a link leads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from full_disk import files_of_at_most
from toy_studies import made_up_study
from toys import TOKENS, Train

from headway.__main__ import main
from headway.analyze import LIVE, measure
from headway.analyze.studies.result import StudyResult
from headway.checkpoints import Run
from headway.checkpoints.files import SEAL, NotWrittenError, write_all, write_whole
from headway.checkpoints.lock import FOLDERS, writing
from headway.checkpoints.scores import read_file, write_scores
from headway.data.parts import remove_parts


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "not" / "there" / "note.txt"
    write_whole(path, "first ä")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, b"second")
    with files_of_at_most(2003), pytest.raises(NotWrittenError, match=r"note\.txt cannot be written"):
        write_whole(path, b"second" * 1009)
    assert names(path.parent) == {"note.txt"}
    assert path.read_text(encoding="utf-8") == "first ä"


def test_of_files_that_are_written_together_none_is_there_if_one_does_not_fit(tmp_path: Path):
    with files_of_at_most(2003), pytest.raises(NotWrittenError, match=r"second cannot be written"):
        write_all({tmp_path / "first": "1", tmp_path / "second": "2" * 5003, tmp_path / "third": "3"})
    assert names(tmp_path) == set()
    write_all({tmp_path / "first": "1", tmp_path / "second": b"2"})
    assert [(tmp_path / name).read_text() for name in ("first", "second")] == ["1", "2"]


def test_a_link_in_place_of_the_file_or_of_its_part_is_not_followed(tmp_path: Path):
    (tmp_path / "mine").write_text("mine")
    for name in ("note", f".note.{os.getpid()}.part"):
        (tmp_path / name).symlink_to(tmp_path / "mine")
    write_whole(tmp_path / "note", "theirs")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "note").read_text() == "theirs"


@pytest.mark.parametrize("folder", ["scores", "scores/step-00000005", "weights"])
def test_a_link_that_leads_out_of_a_run_is_not_followed(folder: str, trained: Train, tmp_path: Path):
    run = trained(TOKENS, tmp_path / "run")
    outside = tmp_path / "outside"
    (run.path / folder).rename(outside)
    (run.path / folder).symlink_to(outside)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"is a link that leads out of the run; nothing is written there"):
        run.keep(5, run.model(17)) if folder == "weights" else measure(run, LIVE, steps=[5], overwrite=True)
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("folder", ["scores", "weights"])
def test_a_link_to_another_run_is_not_followed_either(folder: str, trained: Train, tmp_path: Path):
    run, other = trained(TOKENS, tmp_path / "run"), trained(TOKENS, tmp_path / "other")
    shutil.rmtree(run.path / folder)
    (run.path / folder).symlink_to(other.path)
    before = {path: path.read_bytes() for path in other.path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"is a link that leads out of the run; nothing is written there"):
        run.keep(5, other.model(17)) if folder == "weights" else write_whole(run.path / "scores/step-5/loss", b"")
    assert {path: path.read_bytes() for path in other.path.rglob("*") if path.is_file()} == before


def test_a_link_within_a_run_is_the_user_s(trained: Train, tmp_path: Path):
    run = trained(TOKENS, tmp_path / "run")
    (run.path / "scores").rename(run.path / "elsewhere")
    (run.path / "scores").symlink_to("elsewhere")
    assert "loss" not in measure(run, LIVE, steps=[5], overwrite=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_lies_behind_a_link_is_not_cleared(folder: str, tmp_path: Path):
    (tmp_path / "mine" / "deeper").mkdir(parents=True)
    mine = [tmp_path / "mine" / name for name in (".a.4194305.part", "deeper/.b.4194305.part")]
    for path in mine:
        path.touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / folder).symlink_to(tmp_path / "mine")
    with writing(tmp_path / "run"):
        pass
    assert all(path.exists() for path in mine)


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    parts = [tmp_path / "weights" / f".step.safetensors.{process}.part" for process in (dead.pid, os.getpid())]
    parts[0].parent.mkdir()
    for part in parts:
        part.touch()
    half_a_log = tmp_path / f".log.{dead.pid}.part"
    half_a_log.mkdir()
    (half_a_log / "events").touch()
    remove_parts(tmp_path, ["weights"])
    assert [part.exists() for part in (*parts, half_a_log)] == [False, True, False]


def test_what_other_programs_have_half_written_is_theirs(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    theirs = [tmp_path / ".movie.mkv.part", tmp_path / ".download.part", tmp_path / "photos" / f".a.{dead.pid}.part"]
    theirs[-1].parent.mkdir()
    for path in theirs:
        path.touch()
    with writing(tmp_path):
        pass
    assert all(path.exists() for path in theirs)


def test_a_page_takes_the_place_of_one_that_was_half_written(trained: Train, tmp_path: Path):
    run = trained(TOKENS, tmp_path / "run")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (run.path / f".report.html.{dead.pid}.part").write_text("<html>")
    (run.path / f".other.html.{dead.pid}.part").write_text("<html>")
    main(["report", str(run.path)])
    assert {name for name in names(run.path) if name.endswith(".part")} == {f".other.html.{dead.pid}.part"}


@pytest.mark.parametrize("how", ["a zero", "cut off", "longer", "empty"])
def test_a_study_whose_file_was_altered_is_refused_before_it_is_read(how: str, tmp_path: Path):
    path = tmp_path / "study.nc"
    made_up_study().write(path)
    written = path.read_bytes()
    middle = written.index(b"OHDR")
    altered = {
        "a zero": written[:middle] + b"\0" + written[middle + 1 :],
        "cut off": written[: len(written) // 2],
        "longer": written[:middle] + b"\0" + written[middle:],
        "empty": b"",
    }
    path.write_bytes(altered[how])
    with pytest.raises(ValueError, match=r"study: .*study\.nc is damaged"):
        StudyResult.read(path)


def test_a_study_without_a_checksum_is_one_of_an_older_version(tmp_path: Path):
    made_up_study().write(tmp_path / "new.nc")
    (tmp_path / "old.nc").write_bytes((tmp_path / "new.nc").read_bytes().rpartition(SEAL)[0])
    old, new = (StudyResult.read(tmp_path / name).to_tree() for name in ("old.nc", "new.nc"))
    xr.testing.assert_identical(old, new)
    with xr.open_datatree(tmp_path / "new.nc", engine="h5netcdf") as plain:
        xr.testing.assert_identical(plain.load(), new)


def test_training_on_a_full_disk_ends_in_one_line_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    TOKENS.save(tmp_path / "config.yaml")
    arguments = ["train", "--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]
    with files_of_at_most(20_011), pytest.raises(SystemExit) as end:  # weights have 12 kB, resume.ckpt 60
        main(arguments)
    assert end.value.code == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "resume.ckpt cannot be written (File too large); go on with: headway train --resume" in said
    assert not any(name.endswith(".part") for name in names(tmp_path))


def test_measuring_on_a_full_disk_ends_in_one_line(trained: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = trained(TOKENS, tmp_path / "run")
    before = run.scores.load()
    with files_of_at_most(2003), pytest.raises(SystemExit) as end:
        main(["measure", str(run.path), "--only", "attention", "--overwrite"])
    assert end.value.code == 1
    assert "attention.safetensors cannot be written" in capsys.readouterr().err.splitlines()[-1]
    assert Run(run.path).scores.equals(before)


def test_a_study_on_a_full_disk_does_not_end_the_process(tmp_path: Path):
    result = made_up_study()
    with files_of_at_most(2003), pytest.raises(NotWrittenError):
        result.write(tmp_path / "study.nc")
    assert names(tmp_path) == set()


def test_the_same_scores_are_the_same_bytes_in_any_process(tmp_path: Path):
    scores = xr.Dataset(
        {"a": ("head", np.arange(3.0), {"units": "nats"}), "b": ((), 2.0)}, coords={"head": list("xyz")}
    )
    paths = [tmp_path / str(number) for number in range(13)]
    for path in paths:
        write_scores(path, scores)
    assert len({path.read_bytes() for path in paths}) == 1
    xr.testing.assert_identical(read_file(paths[0]), scores)
    # The order of variables is not part of what they say.
    write_scores(tmp_path / "other", scores[["b", "a"]])
    assert (tmp_path / "other").read_bytes() == paths[0].read_bytes()
