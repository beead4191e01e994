"""Published toys: their configurations exist, the numbers are read from runs, and verdicts say what they should."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor
from toys import PARTLY, handmade_run

from headway.__main__ import main
from headway.analyze.measures import LIVE
from headway.analyze.measures.scoring import measure
from headway.analyze.studies.result import StudyResult
from headway.checkpoints import Run
from headway.data.brackets import Brackets
from headway.data.task import Batch
from headway.models.handmade import composing_pair, known_chain
from headway.reproductions import reproduce as reproducing
from headway.reproductions.compared import Compared
from headway.reproductions.numbers import (
    FirstStep,
    ForGood,
    FreshBatches,
    FreshErrors,
    FreshScore,
    LossAbove,
    LossBetween,
    Score,
    ScoreAt,
    ShareNear,
    TrainingLoss,
)
from headway.reproductions.published import REPRODUCTIONS, find_reproduction
from headway.reproductions.reproduction import Published, Reproduction

NUMBER = TrainingLoss(7)


def compared(ours: list[float], relation: str = "is", value: float = 2.0, within: float = 0.0) -> Compared:
    return Compared(Published(NUMBER, value, relation, within), np.array(ours))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_every_configuration_is_a_recipe_whose_checkpoints_hold_its_numbers(name: str):
    found = REPRODUCTIONS[name]
    recipes = reproducing.recipes_of(name)
    assert len(recipes) == found.seeds
    recipe = next(iter(recipes.values()))
    for published in found.published:
        number = published.number
        if isinstance(number, ScoreAt | FreshBatches) and number.at is not None:
            assert number.at in recipe.schedule.steps(recipe.steps)
        if isinstance(number, TrainingLoss):
            assert number.at < recipe.steps


def test_a_published_number_within_the_range_of_our_runs_agrees():
    assert compared([1.0, 3.0, 5.0]).agrees
    assert compared([3.0, 5.0, 7.0]).agrees is False
    assert compared([3.0, 5.0, 7.0], within=1.0).agrees
    assert "higher, by 1 or more" in compared([3.0, 5.0, 7.0]).verdict
    assert "lower, by 0.5 or more" in compared([-1.0, 1.0, 1.5]).verdict


def test_a_bound_must_hold_in_every_run():
    assert compared([3.0, 5.0, 7.0], "above").agrees
    assert compared([1.0, 5.0, 7.0], "above").agrees is False
    assert compared([1.0, 1.5, 1.75], "below").agrees
    assert "2 of 3" in compared([1.0, 5.0, 7.0], "above").verdict


def test_a_run_that_never_gets_there_breaks_a_bound_on_the_step():
    assert compared([1.0, 1.5, math.inf], "below").holding == 2


@pytest.mark.parametrize("relation", ["is", "above", "below"])
def test_two_runs_give_no_verdict(relation: str):
    assert compared([2.0, 2.0], relation).agrees is None
    assert compared([2.0, 2.0], relation).verdict.startswith("no verdict: 2 of the 3 runs")


def test_scores_are_read_at_a_checkpoint_and_at_the_first_one_above_a_bound(tmp_path: Path):
    run = handmade_run(tmp_path / "run")
    measure(run, LIVE)
    loss, last = run.scores.loss, run.steps[-1]
    assert ScoreAt(Score("loss"))(run) == loss.sel(step=last).item()
    assert ScoreAt(Score("loss"), at=run.steps[0])(run) == loss.sel(step=run.steps[0]).item()
    assert FirstStep(Score("accuracy_repeats"), above=0.99)(run) == PARTLY  # unsure, and right
    heads = run.scores.previous_token.sel(step=last)
    assert ScoreAt(Score("previous_token", layer=1))(run) == heads.sel(layer=1).values.max()
    assert FirstStep(Score("loss"), above=-1.0)(run) == run.steps[0]
    assert FirstStep(Score("loss"), above=math.inf)(run) == math.inf


def test_a_share_of_updates_counts_those_between_checkpoints_too():
    run: Any = SimpleNamespace(scores={"loss": xr.DataArray([1.0, 0.5, 0.5], {"step": [0, 10, 20]}, ("step",))})
    # From 1 at 0 to 0.5 at 10: the loss is within 0.12 of 0.5 from update 8 on.
    assert ShareNear(Score("loss"), 0.5, within=0.12, before=20)(run) == 13 / 20
    assert ShareNear(Score("loss"), 0.5, within=0.12, before=10)(run) == 3 / 10
    assert FirstStep(Score("loss"), below=0.6)(run) == 10
    with pytest.raises(ValueError, match="above: -inf is not valid without below"):
        FirstStep(Score("loss"))


def test_a_dip_below_a_bound_is_not_for_good():
    dips = xr.DataArray([1.0, 0.5, 0.7, 0.5, 0.4], {"step": [0, 3, 5, 7, 11]}, ("step",))
    run: Any = SimpleNamespace(scores={"loss": dips})
    assert FirstStep(Score("loss"), below=0.6)(run) == 3
    assert ForGood(Score("loss"), below=0.6)(run) == 7
    assert ForGood(Score("loss"), below=2.0)(run) == 0
    assert ForGood(Score("loss"), above=0.45)(run) == math.inf  # it is above at first, and not at the end


def test_a_bound_that_nobody_published_is_said_to_be_a_goal():
    assert str(Published(NUMBER, 2.0)) == "2"
    assert str(Published(NUMBER, 2.0, "above")) == "> 2"
    assert str(Published(NUMBER, 2.0, "below", goal=True)) == "< 2 (our goal)"


def test_a_loss_is_compared_with_that_of_a_predictor_on_the_same_sequences():
    model, batch = known_chain()
    assert batch.task is not None
    loss = batch.task.loss(model(batch.inputs), batch)[batch.mask].mean().item()
    run: Any = SimpleNamespace(
        task=batch.task,
        batch=lambda: batch,
        scores=xr.Dataset({"loss": ("step", [1.0, loss])}, {"step": [0, 7]}),
    )
    above = LossAbove("pool").over_training(run)  # the only chain of its pool is what the network knows
    assert above.sel(step=7).item() == pytest.approx(0.0, abs=1e-6)
    assert LossAbove("unigram").over_training(run).sel(step=7).item() < -0.1
    between = LossBetween("pool", "unigram").over_training(run)
    assert between.sel(step=7).item() == pytest.approx(0.0, abs=1e-5)
    unigram = loss - LossAbove("unigram").over_training(run).sel(step=7).item()
    run.scores = xr.Dataset({"loss": ("step", [unigram, (loss + unigram) / 2])}, {"step": [0, 7]})
    assert LossBetween("pool", "unigram").over_training(run).values == pytest.approx([1.0, 0.5], abs=1e-5)
    assert FirstStep(LossBetween("pool", "unigram"), below=0.6)(run) == 7


def test_errors_on_fresh_sequences_are_counted_over_exactly_as_many_as_are_named():
    drawn: list[Batch] = []

    class Counted(Brackets):
        def batch(self, seed: int, index: int, batch_size: int) -> Batch:
            drawn.append(super().batch(seed, index, batch_size))
            return drawn[-1]

    def never_balanced(inputs: Tensor, **padding: Tensor) -> Tensor:
        return F.one_hot(torch.zeros_like(inputs), 2).float()

    run: Any = SimpleNamespace(task=Counted(max_brackets=6), model=lambda: never_balanced)
    sequences = 1031  # more than are computed at once
    wrong = FreshErrors(sequences)(run)
    assert sum(len(batch.inputs) for batch in drawn) == sequences
    assert wrong == sum(int(batch.targets[batch.mask].sum()) for batch in drawn)
    assert FreshScore("accuracy", sequences)(run) == pytest.approx(1 - wrong / sequences)
    run.model = lambda: lambda inputs, **padding: F.one_hot(drawn[-1].targets.clamp(min=0), 2).float()
    assert FreshErrors(sequences)(run) == 0


def test_a_loss_of_fresh_batches_is_that_of_its_part_at_its_checkpoint():
    induction, batch = composing_pair("k")
    outputs = induction(batch.inputs).shape[-1]
    networks = {7: lambda inputs, **padding: torch.zeros(*inputs.shape, outputs), "last": induction}
    run: Any = SimpleNamespace(task=batch.task, model=networks.get, recipe=SimpleNamespace(batch_size=5))
    assert FreshBatches("repeats", at=7, batches=3)(run) == pytest.approx(math.log(outputs))
    assert FreshBatches("repeats", at=None, batches=3)(run) == pytest.approx(0.0, abs=1e-2)
    assert FreshBatches("first", at=None, batches=3)(run) > math.log(2)


def test_a_step_that_no_run_reaches_is_said_to_be_never_reached():
    assert compared([math.inf] * 3).verdict == "differs: not reached in 3 of 3 runs"
    assert (
        compared([3.0, 4.0, math.inf]).verdict == "differs: ours are higher, by 1 or more; not reached in 1 of 3 runs"
    )
    assert compared([1.0, 3.0, math.inf]).verdict == "agrees; not reached in 1 of 3 runs"
    assert not compared([1.0, 1.5, math.inf]).agrees  # a step that is not reached is not one that comes late


def test_a_name_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"reproduction: 'inductoin' is not one of .* nearest is 'induction'"):
        find_reproduction("inductoin")


@pytest.mark.whole
def test_a_reproduction_trains_compares_and_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    small = {
        "steps": 3, "batch_size": 2, "eval_batch_size": 2, "model.d_model": 12, "model.d_head": 3,
        "task.length": 11, "task.period_max": 5,
    }  # fmt: skip
    published = (
        Published(TrainingLoss(0, width=0), math.log(64), within=1.0),
        Published(ScoreAt(Score("loss")), 0.1, "below"),
    )
    toy = Reproduction("induction", small, "nobody", published, minutes=0.1, seeds=3)
    monkeypatch.setitem(REPRODUCTIONS, "toy", toy)
    out = tmp_path / "toy"
    main(["reproduce", "toy", "--out", str(out), "--workers", "1"])
    printed = capsys.readouterr().out
    assert "holds in 0 of 3" in printed
    assert "agrees" in printed
    figures = {figure.title: figure.data for figure in StudyResult.read(out / "reproduction.nc").sections[0].figures}
    rows = figures["Published and ours"]
    firsts = [Run(out / f"seed-{seed:03d}").training.loss.values[0] for seed in range(3)]
    assert rows.ours.values[0] == np.median(firsts)
    assert figures["Each run"].number_0.sel(seed=[0, 1, 2]).values.tolist() == firsts
    assert "nobody" in (out / "reproduction.html").read_text(encoding="utf-8")
    main(["reproduce", "toy", "--out", str(out), "--workers", "1"])  # beside its own files
    assert "3 finished before" in capsys.readouterr().out
