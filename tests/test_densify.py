"""More checkpoints of a part of training: those that a denser schedule would have kept."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from kills import logged
from toys import LOG4, NO_POSITIONS, TOKENS, VECTORS, Train, run_of_ways

from headway.__main__ import main
from headway.analyze.report.live import page_is_new
from headway.checkpoints import Recipe, Run
from headway.checkpoints.schedule import Schedule
from headway.checkpoints.scores import score_file
from headway.commands.densify import around_event, densify_one_of_many, densify_run
from headway.replay import dense_steps, densify
from headway.sweeps.each import SkippedError

SPARSE = Schedule(log=0, linear=2, at=(5,), state_every=2)  # 0, 5, 8, 17; states at 0 and 8


@pytest.mark.parametrize("recipe", [TOKENS, NO_POSITIONS, VECTORS], ids=["tokens", "no positions", "vectors"])
def test_new_checkpoints_are_those_of_a_denser_schedule(recipe: Recipe, trained: Train, tmp_path: Path):
    sparse = trained(replace(recipe, schedule=SPARSE), tmp_path / "sparse")
    dense = trained(replace(recipe, schedule=replace(SPARSE, at=(5, 11, 13, 16))), tmp_path / "dense")
    new = densify(sparse.path, (8, 17), steps=500, progress=False)
    assert new == [9, 10, 11, 12, 13, 14, 15, 16]
    for step in (11, 13, 16):
        assert sparse.weights_file(step).read_bytes() == dense.weights_file(step).read_bytes()
    scores = sparse.scores.sel(step=[11, 13, 16]).load()
    assert scores.equals(dense.scores.sel(step=[11, 13, 16]).load())
    assert sparse.training.equals(dense.training)
    assert sparse.finished
    assert list(sparse.path.parent.glob(".*")) == []


def test_training_begins_at_the_last_state_before_the_interval(trained: Train, tmp_path: Path):
    run = trained(replace(TOKENS, schedule=SPARSE), tmp_path / "run")
    assert [step for step in run.steps if run.state_file(step).exists()] == [0, 8]
    assert densify(run.path, (5, 8), steps=3, progress=False) == [6, 7]
    run.state_file(0).unlink()
    with pytest.raises(ValueError, match="no state of training was kept before step 5; --from_start trains"):
        densify(run.path, (5, 17), progress=False)


def test_from_the_start_needs_no_state(trained: Train, tmp_path: Path):
    run = trained(TOKENS, tmp_path / "run")
    dense = trained(replace(TOKENS, schedule=replace(TOKENS.schedule, at=(5, 10, 13))), tmp_path / "dense")
    with pytest.raises(ValueError, match="no state of training was kept"):
        densify(run.path, (8, 17), progress=False)
    new = densify(run.path, (8, 17), steps=500, from_start=True, progress=False)
    assert set(new) >= {10, 13}
    for step in (10, 13):
        assert run.weights_file(step).read_bytes() == dense.weights_file(step).read_bytes()


def test_other_weights_at_the_end_are_refused_and_nothing_is_kept(trained: Train, tmp_path: Path):
    run = trained(replace(TOKENS, schedule=SPARSE), tmp_path / "run")
    model = run.model(17)
    with torch.no_grad():
        model.W_U[0, 0] += 0.25
    run.keep(17, model)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(
        ValueError, match=r"weights at step 17 are not those that were kept: they differ by up to 0\.25"
    ):
        densify(run.path, (8, 17), progress=False)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert densify(run.path, (8, 17), steps=2, inexact=True, progress=False) == [10, 13]


def test_a_damaged_null_is_refused_before_anything_is_kept(trained: Train, tmp_path: Path):
    run = trained(replace(TOKENS, schedule=SPARSE), tmp_path / "run")
    score_file(run.path, None, "first_token").write_bytes(b"")
    with pytest.raises(ValueError, match=r"first_token.safetensors is damaged"):
        densify(run.path, (8, 17), steps=3, progress=False)
    assert run.steps == [0, 5, 8, 17]


def test_the_same_command_goes_on_after_it_was_killed_between_two_scores(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, run = (trained(replace(TOKENS, schedule=SPARSE), tmp_path / name) for name in ("whole", "run"))
    assert densify(whole.path, (8, 17), steps=3, progress=False) == [10, 12, 14]

    def killed(file: Path, target: Path) -> Path:
        if str(target).endswith("step-00000012/k_composition.safetensors"):
            raise KeyboardInterrupt
        return rename(file, target)

    rename = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            densify(run.path, (8, 17), steps=3, progress=False)
    assert run.steps == whole.steps
    assert set(densify(run.path, (8, 17), steps=3, progress=False)) <= {10, 12, 14}
    again, expected = ({path.relative_to(each.path): path.read_bytes() for path in each.path.rglob("*.safetensors")}
                       for each in (run, whole))  # fmt: skip
    assert again == expected


def test_the_same_command_writes_the_log_and_the_page_after_it_was_killed_before_them(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    run = trained(replace(TOKENS, schedule=SPARSE), tmp_path / "run")
    command = ["densify", str(run.path), "--between", "8", "17", "--steps", "3"]
    for killed in ("mend_log", "refresh_page"):
        with monkeypatch.context() as patch:
            patch.setattr(f"headway.replay.{killed}", interrupted)
            with pytest.raises(KeyboardInterrupt):
                densify(run.path, (8, 17), steps=3, progress=False)
        assert not page_is_new(run)
    main(command)
    assert "has every checkpoint that this asks for already" in capsys.readouterr().out
    assert page_is_new(run)
    assert {10, 12, 14} <= {step for step, _ in logged(run)["loss/loss"]}
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in run.path.rglob("*") if path.is_file()}
    main(command)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in before} == before


def test_steps_lie_evenly_in_their_logarithm():
    steps = dense_steps(100, 1000, 23, kept=[])
    ratios = np.diff(np.log1p(steps))
    assert len(steps) == 23
    assert ratios.max() - ratios.min() < 2 / 100  # whole steps


@pytest.mark.parametrize(
    ("between", "steps", "said"),
    [
        ((17, 8), 3, "between: no step lies between"),
        ((8, 8), 3, "between: "),
        ((8, 17), 0, "steps: 0"),
        ((8, 9), 3, "step: 9"),
    ],
)
def test_an_interval_that_is_none_is_refused(
    between: tuple[int, int], steps: int, said: str, trained: Train, tmp_path: Path
):
    run = trained(TOKENS, tmp_path / "run")
    with pytest.raises(ValueError, match=f"^{said}"):
        densify(run.path, between, steps, progress=False)


def test_the_command_densifies_between_two_checkpoints(
    trained: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = trained(replace(TOKENS, schedule=replace(SPARSE, state_every=1)), tmp_path / "run")
    for wrong, said in ((["--around", "nothing"], "around: 'nothing' is neither"), ([], "between: give either")):
        with pytest.raises(SystemExit) as end:
            main(["densify", str(run.path), *wrong])
        assert end.value.code == 2
        assert said in capsys.readouterr().err
    main(["densify", str(run.path), "--between", "5", "8", "--steps", "1"])
    assert "has 1 more checkpoints: 6" in capsys.readouterr().out
    assert Run(run.path).steps == [0, 5, 6, 8, 17]


def test_around_an_event_lie_the_checkpoints_between_which_it_is_half_way(tmp_path: Path):
    ways = {"behaviour": [0, 0, 0.2, 0.9, 1, 1], "previous_token": [0, 0.6, 0.8, 1, 1, 1]}
    run = run_of_ways(tmp_path / "run", ways)
    assert around_event(run, "behaviour") == (LOG4[2], LOG4[3])
    assert around_event(run, "loss_repeats") == (LOG4[2], LOG4[3])
    assert around_event(run, "previous_token") == (LOG4[0], LOG4[1])
    steps = [0, 3, 4, 5, 6, 7]
    exact = run_of_ways(tmp_path / "exact", {**ways, "k_composition": [0.0] * 6}, steps=steps)
    for name, said in (
        ("previous_token", None),
        ("behaviour", "half-way between steps 4 and 5 of .*; no step lies between them"),
        ("k_composition", "is not half-way between two checkpoints"),
    ):
        if said is None:
            assert around_event(exact, name) == (0, 3)
            continue
        # Of many runs this one is left out, and no failure.
        with pytest.raises(SkippedError, match=f"^around: {name} is {said.removeprefix('is ')}"):
            densify_one_of_many(partial(densify_run, None, name, 5, True, False, None, False), exact.path)
    for name, said in (
        ("behavior", "around: 'behavior' is neither behaviour nor circuit nor a score of .*.*'behaviour'"),
        ("circuit", "circuit: it has not been found"),
    ):
        with pytest.raises(ValueError, match=said):
            around_event(run, name)
