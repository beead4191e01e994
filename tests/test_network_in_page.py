"""The weights and sequences that a page is given, and when it is given none."""

import json
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
import xarray as xr
from random_networks import KINDS, SIZES, network
from toys import NO_POSITIONS, PADDED, TOKENS, VECTORS, Counting, Draws, Train, untrained_run

from headway.analyze.measures.evaluation_sequences import evaluation_sequences
from headway.analyze.report import network_in_page, write_report
from headway.analyze.report.network_in_page import (
    COMPUTED,
    NUMBERS,
    ONLY_TRAINED_WITH,
    NoNetworkError,
    by_importance,
    check_computed,
)
from headway.analyze.report.tokenizer_in_page import tokenizer_in_page
from headway.checkpoints import Run
from headway.checkpoints.scores import evaluation_file, read_file, write_scores
from headway.data.task import Task
from headway.data.tokenizer import train_bpe
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
    assert (network_of(whole)["steps"], network_of(whole)["fewer"]) == (run.steps, "")
    for room, steps in ((len(weights) + 1, run.steps), (2.9, [0, run.steps[-1]]), (1.9, run.steps[-1:]), (0.9, None)):
        monkeypatch.setattr("headway.analyze.report.network_in_page.FITTING", bare + room * one)
        page = write_report(run)
        assert network_of(page).get("steps") == steps
        assert page.stat().st_size < bare + room * one
        if steps and steps != run.steps:
            fewer = f"{len(steps)} of {len(run.steps)} checkpoints; headway report {run.path} --with-weights takes all"
            assert fewer in network_of(page)["fewer"]
    assert "The weights of no checkpoint fit into" in network_of(page)["why"]
    first, second = (write_report(run, weights="all").read_bytes() for _ in range(2))
    assert first == second


def test_a_page_of_the_size_that_is_asked_for_has_the_last_checkpoint_or_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch
):
    page = run.report_file
    whole = write_report(run, weights="all").read_text()
    weights = network_of(page)["weights"]
    megabytes = (page.stat().st_size - sum(map(len, weights)) + 2.9 * len(weights[-1])) / 1e6
    page.unlink()
    for too_small in (megabytes / 2, "all"):
        if too_small == "all":
            monkeypatch.setattr("headway.analyze.report.network_in_page.LARGEST", int(megabytes * 5e5))
        with pytest.raises(
            ValueError,
            match=rf"^weights: {too_small!r} is not valid for this page, which has .* must be (at least|none)",
        ):
            write_report(run, weights=too_small)
        assert not page.exists()
    monkeypatch.undo()
    said = rf"^weights: This page has the weights of 2 of {len(run.steps)} checkpoints\.$"
    for weights in (megabytes, "all"):
        if weights == "all":
            monkeypatch.setattr("headway.analyze.report.network_in_page.LARGEST", 1e6 * megabytes)
        with pytest.warns(UserWarning, match=said):
            assert network_of(write_report(run, weights=weights))["steps"] == [0, run.steps[-1]]
        assert page.stat().st_size < 1e6 * megabytes
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"^weights: 101 is not valid; it must be .* in MB, at most 100$"):
        write_report(run, weights=101)
    with pytest.raises(ValueError, match=r"^weights: 'all' is not valid for 6 runs"):
        write_report([run] * 6, weights="all")
    assert write_report(run, weights=100).read_text() == whole


def test_a_page_without_a_network_says_why(run: Run):
    assert "written without weights" in network_of(write_report(run, weights="none"))["why"]
    assert "when training ends" in network_of(write_report(run, live=True))["why"]
    with pytest.raises(ValueError, match=r"^weights: 'some' is not valid; it must be one of fitting, all, none, "):
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


@dataclass
class Multiplied(ModelConfig):
    """A configuration with an option that nobody has thought of yet."""

    residual_multiplier: float = 1.0


def test_the_page_computes_or_refuses_every_value_of_every_option():
    kinds = [network(**kind).cfg for kind in KINDS]
    types = get_type_hints(ModelConfig)
    for each in fields(ModelConfig):
        if not each.init or each.name in ONLY_TRAINED_WITH:
            continue
        # The browser tests run all of these kinds.
        run_there = {getattr(kind, each.name) for kind in kinds}
        values = values_of(types[each.name])
        if not values:
            assert each.name in NUMBERS
            # Sizes are primes that differ, and any other number is there twice.
            assert each.name in SIZES or len(run_there) > 1, each.name
        for value in values - run_there:
            with pytest.raises(NoNetworkError, match=f"^The page cannot run networks with {each.name} {value}"):
                check_computed(replace(kinds[0], **{each.name: value}))
    sizes = kinds[0].to_dict()
    check_computed(Multiplied(**sizes))
    with pytest.raises(NoNetworkError, match=r"^The page cannot run networks with residual_multiplier 0\.5\.$"):
        check_computed(Multiplied(**sizes, residual_multiplier=0.5))


def values_of(kind: Any) -> set:
    """The values of a type that has few; a number has none."""
    if kind is bool:
        return {True, False}
    if get_origin(kind) is Literal:
        return set(get_args(kind))
    some = [values_of(each) | ({None} if each is type(None) else set()) for each in get_args(kind)]
    return set.union(*some) if some and any(get_origin(each) is Literal for each in get_args(kind)) else set()


def test_an_option_that_the_page_does_not_compute_is_named(monkeypatch: pytest.MonkeyPatch, run: Run):
    known = {*COMPUTED, *NUMBERS, *ONLY_TRAINED_WITH}
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
    assert found.targets.attrs == {"shift": shift, "loss": loss, "outputs_are_inputs": True}
    assert torch.equal(torch.tensor(found.inputs.values), batch.inputs.to(torch.tensor(found.inputs.values).dtype))
    for name, mask in task.parts(batch).items():
        assert (found[f"part_{name}"].values == (mask & batch.mask).numpy()).all()


def test_sequences_have_no_padding_and_no_answer_that_the_network_cannot_give(tmp_path: Path):
    run = untrained_run(tmp_path / "run", PADDED)
    sequences, batch = network_of(write_report(run))["sequences"], run.batch()
    assert batch.attention_mask is not None
    for at, (row, real) in enumerate(zip(batch.inputs, batch.attention_mask, strict=True)):
        assert sequences["inputs"][at] == row[real].tolist()
        answers = [None] * (len(row[real]) - 1) + [int(batch.targets[at][batch.mask[at]])]
        assert sequences["targets"][at] == answers
        assert sequences["mask"][at] == [int(answer is not None) for answer in answers]
    stored = read_file(evaluation_file(run.path)).load()
    stored["attention_mask"] = stored.attention_mask[:, ::-1].drop_vars("pos", errors="ignore")
    write_scores(evaluation_file(run.path), stored, checksum=True)
    assert "not those of its network" in network_of(write_report(run))["why"]


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("normalizer", {"type": "Lowercase"}),
        ("pre_tokenizer", None),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}),
        ("model", {"type": "WordLevel"}),
        ("model", {"end_of_word_suffix": "</w>"}),
        ("model", {"vocab": {"a": 0}}),
        ("model", {"vocab": None}),
    ],
    ids=str,
)
def test_a_tokenizer_that_the_page_does_not_compute_is_left_out(tmp_path: Path, part: str, changed: dict | None):
    bpe = train_bpe(["x = a if b else c"] * 2, n_tokens=267)
    run = Run.create(tmp_path / "run", TOKENS)
    inputs = xr.DataArray([[0, 3, 5], [0, 7, 2]], dims=("batch", "pos"))
    assert tokenizer_in_page(run, inputs, 267) is None
    path = run.path / "tokenizer.json"
    path.write_text(bpe.to_str())
    found = tokenizer_in_page(run, inputs, 267)
    assert found is not None
    assert found["start"] == [0]
    assert found["pieces"][0] == ""
    assert [bpe.token_to_id(found["pieces"][left] + found["pieces"][right]) for left, right, _ in found["merges"]] == [
        merged for *_, merged in found["merges"]
    ]
    # A token of the network's that the tokenizer lacks is no text; of one that the network lacks there is no row.
    assert tokenizer_in_page(run, inputs, 266) is None
    other = tokenizer_in_page(run, inputs + 1, 269)
    assert other is not None
    assert (other["start"], other["pieces"][267:]) == ([], ["", ""])
    run.config["task"]["tokenizer_hash"] = "0" * 64  # that of another file
    assert tokenizer_in_page(run, inputs, 267) is None
    del run.config["task"]["tokenizer_hash"]
    file = json.loads(path.read_text())
    file[part] = file[part] | changed if part == "model" and changed is not None else changed
    path.write_text(json.dumps(file))
    assert tokenizer_in_page(run, inputs, 267) is None


def test_a_run_keeps_its_evaluation_batch(run: Run):
    stored, batch = read_file(evaluation_file(run.path)), run.batch()
    assert (stored.inputs.values == batch.inputs.numpy()).all()
    assert (stored.targets.values == batch.targets.numpy()).all()
    assert stored.inputs.attrs["labels"][:2] == ["BOS", "1"]
