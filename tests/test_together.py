"""Runs that are trained as one stack: each is, to rounding, the run that it would be alone."""

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import pytest
import torch
import xarray as xr
from random_networks import assert_close
from threads import Threads
from torch import Tensor
from toys import (
    NO_POSITIONS,
    TOKENS,
    VECTORS,
    Counting,
    CountsNothing,
    CountsNothingLater,
    Draws,
    HoldsZero,
    Spikes,
    Spoilt,
    Train,
)

from headway.__main__ import main
from headway.checkpoints import Recipe, Run
from headway.checkpoints.recipe import TrainerConfig
from headway.checkpoints.schedule import Schedule
from headway.checkpoints.stacked import of_member, of_stack
from headway.data.stacked_batches import StackedBatches, stacked
from headway.data.task import Batch, masked_mean
from headway.models.config import ModelConfig
from headway.models.lightning_module import DivergedError, TrainingModule
from headway.models.optim import OptimConfig
from headway.models.stacked_module import StackedModule, clip_each
from headway.sweeps.each import Outcome, OutcomesOfRuns, guarded
from headway.sweeps.plan import seeded
from headway.sweeps.together import check_together, train_stack, train_stacks
from headway.sweeps.train_all import Place
from headway.train import StoppedError, fit, resume, train, training_module

SEEDS = (3, 5, 11)
SHORTFORMER = replace(TOKENS, model=replace(TOKENS.model, positional_embedding_type="shortformer"))
RELATIVE = replace(TOKENS, model=replace(TOKENS.model, positional_embedding_type="relative", tie_word_embeddings=True))
ROTARY = replace(
    TOKENS,
    model=replace(
        TOKENS.model, positional_embedding_type="rotary", rotary_dim=4, normalization_type="RMS", biases=False
    ),
)
KINDS = {
    "LN": TOKENS,
    "shortformer": SHORTFORMER,
    "MLPs": NO_POSITIONS,
    "vectors": VECTORS,
    "relative, tied": RELATIVE,
    "rotary, RMS, no biases": ROTARY,
}
OPTIMIZERS = {
    "AdamW": TOKENS.optim,
    "Adam": OptimConfig(optimizer="Adam", lr=0.01, weight_decay=0.1, max_grad_norm=None),
    "groups": replace(TOKENS.optim, groups={"*.b_*": {"weight_decay": 0.0}, "blocks.0.*": {"lr": 0.003}}),
    "SGD": OptimConfig(optimizer="SGD", lr=0.1, momentum=0.9, weight_decay=0.1, max_grad_norm=0.3),
}
COUNTING = replace(TOKENS, task=Counting(), model=replace(TOKENS.model, n_ctx=5, d_vocab=7, d_vocab_out=7), steps=13)


@pytest.fixture
def unscored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are trained and logged; they get no scores, no circuit and no page."""
    monkeypatch.setattr("headway.analyze.LIVE", ())
    monkeypatch.setattr("headway.train._find_circuit", lambda run: None)
    for module in ("headway.train", "headway.analyze.report.live"):
        monkeypatch.setattr(f"{module}.report_if_possible", lambda run, live=False: None)


def places_of(recipe: Recipe, folder: Path) -> dict[str, Place]:
    return {name: Place(each, folder / name) for name, each in seeded(recipe, SEEDS).items()}


def alone(place: Place, folder: Path) -> Run:
    return train(**vars(place.recipe), out=folder / place.path.name, measures=(), progress=False)


def assert_same_training(member: Run, single: Run) -> None:
    """Equal to rounding: the metrics of every update, and at every checkpoint each weight to a thousandth of lr.

    Of Adam's step, which is as large as lr wherever a gradient is, rounding of the smallest gradients reaches a part of
    lr. The gradient of b_K is nothing but rounding, because a softmax ignores what is added to all scores of a query.
    """
    assert member.steps == single.steps
    assert member.training.sizes == single.training.sizes
    xr.testing.assert_allclose(member.training, single.training, rtol=1e-4)
    for step in single.steps:
        theirs = single.model(step).state_dict()
        for name, weight in member.model(step).state_dict().items():
            if not name.endswith("b_K"):
                torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-3 * single.recipe.optim.lr)


@pytest.mark.usefixtures("unscored")
@pytest.mark.parametrize(
    ("kind", "optimizer", "compared"),
    [
        ("LN", "AdamW", SEEDS),
        *((kind, "AdamW", [5]) for kind in list(KINDS)[1:]),
        *(("LN", optimizer, [5]) for optimizer in ("Adam", "SGD", "groups")),
    ],
)
def test_a_member_of_a_stack_is_the_run_that_it_would_be_alone(
    kind: str, optimizer: str, compared: Sequence[int], tmp_path: Path
):
    places = places_of(replace(KINDS[kind], optim=OPTIMIZERS[optimizer]), tmp_path / "many")
    outcomes = train_stack(places)
    assert [outcome.state for outcome in outcomes.values()] == ["finished"] * len(SEEDS)
    for place in places.values():
        if place.recipe.seed in compared:
            assert_same_training(Run(place.path), alone(place, tmp_path))


def files_of(run: Run) -> set[str]:
    """The files of a run by their places in it; the log has a time in its name."""
    found = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    return {"log" if name.startswith("events") else name for name in found}


def test_each_run_of_a_stack_has_the_files_and_scores_of_a_single_one(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("headway.commands.many.chosen_workers", lambda options, count: Threads(1))
    single, many = trained(TOKENS, tmp_path / "single"), tmp_path / "many"
    config = str(single.path / "config.yaml")
    main(["train", "--config", config, "--seeds", "0:2", "--together", "2", "--out", str(many)])
    member = Run(many / "seed-000")
    assert files_of(member) == files_of(single)
    assert member.config == single.config
    xr.testing.assert_allclose(member.scores.load(), single.scores.load(), rtol=1e-2, atol=1e-3)
    assert Run(many / "seed-001").config["seed"] == 1


def test_the_end_of_a_job_for_several_runs_is_that_of_the_worst():
    def job(_: str) -> OutcomesOfRuns:
        return ended

    ended = OutcomesOfRuns(a=Outcome("finished"), b=Outcome("finished"))
    assert guarded(job, "") == Outcome("finished", of_runs=ended)
    ended["b"] = Outcome("failed", "DivergedError: diverged at step 3")
    assert guarded(job, "") == Outcome("failed", "1 of 2: b: DivergedError: diverged at step 3", of_runs=ended)
    ended["a"] = Outcome("stopped", "stopped at step 5")
    assert guarded(job, "") == Outcome("stopped", of_runs=ended)


@pytest.mark.parametrize("recipe", [TOKENS, VECTORS])
def test_the_batches_of_a_stack_are_those_of_its_members(recipe: Recipe):
    """Sequences of VECTORS differ in length; what a shorter one has after its end does not count."""
    task, lengths = recipe.task, set()
    each = [[task.training_batch(seed, index, 7) for index in range(3, 11)] for seed in SEEDS]
    for index, batch in enumerate(StackedBatches(task, SEEDS, 7, first=3, last=11)):
        for place, batches in enumerate(each):
            own = batches[index]
            length = own.inputs.shape[1]
            lengths.add(length)
            assert torch.equal(batch.inputs[place, :, :length], own.inputs)
            assert torch.equal(batch.targets[place, :, :length], own.targets)
            assert torch.equal(batch.mask[place, :, :length], own.mask)
            assert not batch.mask[place, :, length:].any()
            assert all(torch.equal(batch.info[name][place], value) for name, value in own.info.items())
    assert (len(lengths) > 1) == (recipe is VECTORS)


def test_a_batch_of_which_no_position_counts_is_named():
    with pytest.raises(ValueError, match=r"^task: no position of batch 3 counts"):
        next(iter(StackedBatches(CountsNothing(), (5, 7), 2, first=3, last=11)))


@pytest.mark.parametrize("bound", [1.0, 0.01, None])
def test_the_gradient_of_each_member_is_clipped_by_its_own_norm(bound: float | None):
    draws = torch.Generator().manual_seed(0)
    sizes = torch.tensor([1e-3, 1e6, torch.inf, 1.0, torch.nan])
    shapes = [(7, 11), (13,), (2, 3, 5)]
    gradients = [torch.randn(5, *s, generator=draws) * sizes.view(-1, *[1] * len(s)) for s in shapes]
    singles = [[torch.nn.Parameter(torch.zeros(s)) for s in shapes] for _ in sizes]
    for place, parameters in enumerate(singles):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient[place].clone()
    norms = [torch.nn.utils.clip_grad_norm_(each, torch.inf if bound is None else bound) for each in singles]
    torch.testing.assert_close(clip_each(gradients, bound), torch.stack(norms), equal_nan=True)
    for place in (0, 1, 3):
        for parameter, gradient in zip(singles[place], gradients, strict=True):
            torch.testing.assert_close(gradient[place], parameter.grad)


@pytest.mark.parametrize("factor", [1e3, torch.inf])
def test_huge_gradients_of_one_member_change_no_other(factor: float):
    """Not by a bit: also where they are not finite."""

    norms: list[Tensor] = []

    class Norms(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            assert isinstance(pl_module, StackedModule)
            norms.append(pl_module.grad_norms[1])

    def trained(factor: float) -> StackedModule:
        norms.clear()
        members = [training_module(replace(COUNTING, seed=seed, steps=7)) for seed in SEEDS]
        with torch.no_grad():
            members[1].model.unembed.W_U.mul_(factor)
        stack = StackedModule(members)
        fit(COUNTING, stack, [Norms()], 7, progress=False)
        return stack

    plain, huge = trained(1.0), trained(factor)
    assert max(norms) > 100 or not norms[0].isfinite()
    assert list(huge.ended) == ([] if factor < torch.inf else [1])
    for name, weight in plain.stack.items():
        for place in (0, 2):
            assert torch.equal(weight[place], huge.stack[name][place])


@pytest.mark.usefixtures("unscored")
def test_a_member_that_diverges_ends_as_it_would_alone_and_the_others_go_on(tmp_path: Path):
    recipe = replace(COUNTING, task=Spoilt(seed=5, index=8), optim=OPTIMIZERS["SGD"])
    places = places_of(recipe, tmp_path / "many")
    outcomes = train_stack(places)
    assert [outcome.state for outcome in outcomes.values()] == ["finished", "failed", "finished"]
    with pytest.raises(DivergedError) as error:
        alone(places["seed-005"], tmp_path)
    said, reason = str(error.value), outcomes["seed-005"].reason
    assert said.startswith("diverged at step 9: loss nan, gradient norm nan (one step earlier ")
    assert reason.rpartition(" ")[0] == f"DivergedError: {said}".rpartition(" ")[0]
    for name, place in places.items():
        single = Run(tmp_path / name) if name == "seed-005" else alone(place, tmp_path)
        assert_same_training(Run(place.path), single)


@pytest.mark.usefixtures("unscored")
def test_a_member_whose_batch_is_not_valid_ends_and_the_others_go_on(tmp_path: Path):
    recipe = replace(COUNTING, task=CountsNothingLater(seed=5, index=8), optim=OPTIMIZERS["SGD"])
    places = places_of(recipe, tmp_path / "many")
    outcomes = train_stack(places)
    assert [outcome.state for outcome in outcomes.values()] == ["finished", "failed", "finished"]
    assert outcomes["seed-005"].reason == "task: no position of batch 8 counts; its mask must be True somewhere"
    assert Run(places["seed-005"].path).training.step.values.tolist() == list(range(1, 9))
    for name in ("seed-003", "seed-011"):
        assert_same_training(Run(places[name].path), alone(places[name], tmp_path))


@pytest.mark.usefixtures("unscored")
def test_when_no_member_has_a_valid_batch_training_ends(tmp_path: Path):
    places = places_of(replace(COUNTING, task=CountsNothingLater(index=8)), tmp_path)
    reasons = {outcome.reason for outcome in train_stack(places).values()}
    assert reasons == {"task: no position of batch 8 counts; its mask must be True somewhere"}


@pytest.mark.usefixtures("unscored")
def test_when_all_members_have_diverged_training_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    taken: list[int] = []
    step = StackedModule.training_step
    monkeypatch.setattr(StackedModule, "training_step", lambda *args: taken.append(args[2]) or step(*args))
    outcomes = train_stack(places_of(replace(COUNTING, task=Spoilt(seed=-1, index=4)), tmp_path))
    assert [outcome.state for outcome in outcomes.values()] == ["failed"] * 3
    assert taken == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("unscored")
def test_members_that_were_stopped_go_on_alone_or_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def ask_to_stop(module: StackedModule, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(module, batch, batch_idx)

    step, places = StackedModule.training_step, places_of(TOKENS, tmp_path / "many")
    with monkeypatch.context() as patch:
        patch.setattr(StackedModule, "training_step", ask_to_stop)
        outcomes = train_stack(places)
    assert [outcome.reason for outcome in outcomes.values()] == ["stopped at step 10"] * 3
    resume(places["seed-003"].path, measures=(), progress=False)
    assert train_stack(places)["seed-011"].state == "finished"
    for place in places.values():
        member, single = Run(place.path), alone(place, tmp_path)
        assert set(member.steps) == {*single.steps, 10}
        member.weights_file(10).unlink()
        assert_same_training(member, single)


@pytest.mark.usefixtures("unscored")
def test_runs_that_were_stopped_alone_go_on_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Lightning counts the updates of a single run elsewhere."""

    def ask_to_stop(module: TrainingModule, index: int, *arguments: Any) -> Tensor:
        if index == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return gradient(module, index, *arguments)

    gradient, places = TrainingModule.loss_and_gradient, places_of(TOKENS, tmp_path / "many")
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "loss_and_gradient", ask_to_stop)
        for place in places.values():
            with pytest.raises(StoppedError, match=r"^stopped at step 10$"):
                alone(place, tmp_path / "many")
    taken: list[int] = []
    step = StackedModule.training_step
    monkeypatch.setattr(StackedModule, "training_step", lambda *args: taken.append(args[2]) or step(*args))
    assert [outcome.state for outcome in train_stack(places).values()] == ["finished"] * 3
    assert len(taken) == TOKENS.steps - 10
    member, single = Run(places["seed-005"].path), alone(places["seed-005"], tmp_path)
    member.weights_file(10).unlink()
    assert_same_training(member, single)


def test_the_checkpoint_of_a_stack_comes_back_from_those_of_its_members():
    stack = StackedModule([training_module(replace(COUNTING, seed=seed)) for seed in SEEDS])
    weights = enumerate(stack.stack.values())
    moments = {n: {"step": torch.tensor(3.0), "exp_avg": torch.randn_like(weight)} for n, weight in weights}
    checkpoint = {
        "global_step": 3,
        "state_dict": stack.state_dict(),
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": 0.1, "params": list(moments)}]}],
    }
    members = [of_member(checkpoint, place) for place in range(3)]
    assert list(members[1]["state_dict"]) == list(training_module(COUNTING).state_dict())
    torch.testing.assert_close(of_stack(members), checkpoint, rtol=0, atol=0)


@pytest.mark.usefixtures("unscored")
@pytest.mark.filterwarnings("ignore:trainer.precision")
def test_mixed_precision_is_that_of_a_single_run(tmp_path: Path):
    """To a part of what bf16, with 8 bits, rounds of a loss of 2.6."""
    recipe = replace(TOKENS, trainer=TrainerConfig(accelerator="cpu", precision="bf16-mixed"), steps=7)
    recipe = replace(recipe, schedule=Schedule(log=0, linear=0))
    places = places_of(recipe, tmp_path / "many")
    train_stack(places)
    member, single = Run(places["seed-005"].path), alone(places["seed-005"], tmp_path)
    xr.testing.assert_allclose(member.training.loss, single.training.loss, rtol=0, atol=1e-3)
    stack = StackedModule([training_module(replace(recipe, seed=seed)) for seed in SEEDS])
    batch = stacked([recipe.task.batch(seed, 0, 7) for seed in SEEDS])
    with torch.autocast("cpu", torch.bfloat16):
        half = stack.losses_of(batch)
    assert ((half - stack.losses_of(batch)).abs() > 1e-6).all()


REFUSED: dict[str, tuple[Recipe, str]] = {
    "a compiled forward pass": (replace(COUNTING, compile=True), "compile: True is not valid with together"),
    "one scale of all losses": (
        replace(COUNTING, trainer=TrainerConfig(precision="16-mixed")),
        "trainer.precision: 16-mixed is not valid with together",
    ),
    "a loss that decides by values": (
        replace(COUNTING, task=Spikes()),
        "together: Spikes cannot be trained for several seeds at once",
    ),
    "a loss that draws numbers": (
        replace(COUNTING, task=Draws()),
        "together: Draws cannot be trained for several seeds at once",
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_stacked_is_refused(reason: str):
    recipe, said = REFUSED[reason]
    with pytest.raises(ValueError, match=f"^{said}"):
        check_together(seeded(recipe, SEEDS), 3)


def test_bidirectional_attention_does_not_see_the_padding_of_a_shorter_batch():
    model = replace(VECTORS.model, attention_dir="bidirectional")
    stack = StackedModule([training_module(replace(VECTORS, model=model, seed=seed)) for seed in SEEDS])
    batches = [VECTORS.task.batch(0, index, 3) for index in range(5)]
    short, long = min(batches, key=_length), max(batches, key=_length)
    each = [short, long, short]
    alone = [_loss_alone(member, batch) for member, batch in zip(stack.members, each, strict=True)]
    assert_close(stack.losses_of(stacked(each)), torch.stack(alone), atol=1e-6)


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_a_stack_hides_the_padding_of_its_batches(direction: Literal["causal", "bidirectional"]):
    task = HoldsZero()
    model = ModelConfig(
        n_layers=2, d_model=19, n_ctx=5, d_head=7, n_heads=3, d_vocab=4, d_vocab_out=2, attention_dir=direction
    )
    stack = StackedModule([training_module(replace(COUNTING, task=task, model=model, seed=seed)) for seed in SEEDS])
    batches = [task.batch(seed, 0, 11) for seed in SEEDS]
    alone = [_loss_alone(member, batch) for member, batch in zip(stack.members, batches, strict=True)]
    losses = stack.losses_of(stacked(batches))
    assert_close(losses, torch.stack(alone), atol=1e-6)
    losses.sum().backward()
    torch.stack(alone).sum().backward()
    stacked_gradient = stack.stack["embed/W_E"].grad
    assert stacked_gradient is not None
    for place, member in enumerate(stack.members):
        gradient = member.model.embed.W_E.grad
        assert gradient is not None
        assert_close(stacked_gradient[place], gradient, atol=1e-6)


def _loss_alone(member: TrainingModule, batch: Batch) -> torch.Tensor:
    return masked_mean(member.task.loss(member.model(batch.inputs, **batch.padding), batch), batch.mask)


def _length(batch: Batch) -> int:
    return batch.inputs.shape[1]


def test_runs_are_stacked_that_differ_in_their_seed_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    stacks: list[list[str]] = []
    monkeypatch.setattr("headway.sweeps.together.train_stack", lambda places: stacks.append(list(places)))
    recipes = seeded(COUNTING, range(3), "a") | seeded(replace(COUNTING, steps=5), range(3), "b")
    train_stacks(recipes, tmp_path / "many", 2, Threads(1), quiet=True)
    assert stacks == [["a,seed-000", "a,seed-001"], ["a,seed-002"], ["b,seed-000", "b,seed-001"], ["b,seed-002"]]
