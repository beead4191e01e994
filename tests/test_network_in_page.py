"""The weights and sequences that a page is given, and when it is given none."""

import json
import re
from pathlib import Path

import pytest
import torch
from toys import NO_POSITIONS, TOKENS, VECTORS, Counting, Draws, Train

from headway.analyze.measures.evaluation_sequences import evaluation_sequences
from headway.analyze.report import network_in_page, write_report
from headway.analyze.report.network_in_page import COMPUTED, ONLY_TRAINED_WITH, SIZES, by_importance
from headway.checkpoints import Run
from headway.checkpoints.scores import evaluation_file, read_file
from headway.data.task import Task
from headway.models.config import ModelConfig


def network_of(page: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])["runs"][0]["network"]


@pytest.fixture
def run(trained: Train, tmp_path: Path) -> Run:
    return trained(TOKENS, tmp_path / "run")


def test_a_page_has_as_many_checkpoints_as_fit_and_is_the_same_each_time(run: Run, monkeypatch: pytest.MonkeyPatch):
    whole = write_report(run, weights="all")
    weights = network_of(whole)["weights"]
    bare, one = whole.stat().st_size - sum(map(len, weights)), len(weights[-1])
    assert network_of(whole)["steps"] == run.steps
    for room, steps in ((len(weights) + 1, run.steps), (2.9, [0, run.steps[-1]]), (1.9, run.steps[-1:]), (0.9, None)):
        monkeypatch.setattr("headway.analyze.report.page.MOST_BYTES", bare + room * one)
        page = write_report(run)
        assert network_of(page).get("steps") == steps
        assert page.stat().st_size < bare + room * one
    assert "larger than 3 MB" in network_of(page)["why"]
    first, second = (write_report(run, weights="all").read_bytes() for _ in range(2))
    assert first == second


def test_a_page_without_a_network_says_why(run: Run):
    assert "written without weights" in network_of(write_report(run, weights="none"))["why"]
    assert "when training ends" in network_of(write_report(run, live=True))["why"]
    with pytest.raises(ValueError, match=r"^weights: 'some' is not valid; it must be one of fitting, all, none$"):
        write_report(run, weights="some")  # pyright: ignore[reportArgumentType]
    path = evaluation_file(run.path)
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    assert "is damaged" in network_of(write_report(run))["why"]
    path.unlink()
    assert f"headway measure {run.path} does" in network_of(write_report(run))["why"]
    path.write_bytes(content)
    for step in run.steps[:-1]:
        run.weights_file(step).write_bytes(b"")
    assert network_of(write_report(run))["steps"] == run.steps[-1:]


def test_an_option_that_the_page_does_not_compute_is_named(monkeypatch: pytest.MonkeyPatch, run: Run):
    known = {*COMPUTED, *SIZES, *ONLY_TRAINED_WITH}
    assert known <= set(ModelConfig.__dataclass_fields__)
    monkeypatch.setattr(network_in_page, "COMPUTED", {**COMPUTED, "normalization_type": ("LNPre",)})
    assert network_of(write_report(run))["why"] == "The page cannot run networks with normalization_type LN."


def test_every_step_is_there_once_and_the_ends_and_dates_come_first():
    steps = [*range(0, 1000, 7)]
    found = list(by_importance(steps, dates=[21, 5]))
    assert found[:3] == [994, 0, 21]
    assert sorted(found) == steps


@pytest.mark.parametrize(
    ("task", "shift", "loss"),
    [
        (TOKENS.task, 1, "cross-entropy"),
        (NO_POSITIONS.task, -1, "cross-entropy"),
        (VECTORS.task, 1, "squared error"),
        (Counting(), 1, "cross-entropy"),
        (Draws(), 1, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_sequences_say_how_answers_follow_from_inputs_and_which_loss_counts(task: Task, shift: int, loss: str | None):
    batch, state = task.evaluation_batch(seed=0, batch_size=13), torch.get_rng_state()
    found = evaluation_sequences(batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.targets.attrs == {"shift": shift, "loss": loss}
    assert torch.equal(torch.tensor(found.inputs.values), batch.inputs.to(torch.tensor(found.inputs.values).dtype))
    for name, mask in task.parts(batch).items():
        assert (found[f"part_{name}"].values == (mask & batch.mask).numpy()).all()


def test_a_run_keeps_its_evaluation_batch(run: Run):
    stored, batch = read_file(evaluation_file(run.path)), run.batch()
    assert (stored.inputs.values == batch.inputs.numpy()).all()
    assert (stored.targets.values == batch.targets.numpy()).all()
    assert stored.inputs.attrs["labels"][:2] == ["BOS", "1"]
