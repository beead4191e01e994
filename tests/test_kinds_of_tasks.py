"""Tasks of every kind train and are measured: classes, numbers, padding, a split of a finite set."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from random_networks import network
from toys import TOKENS, Adding, Counting, HoldsZero, Numbers, Powers, Signs

from headway.analyze.measures.attention import current_token, first_token, pooled_queries, previous_token
from headway.analyze.measures.attribution import attribute_outputs, direct_attribution
from headway.analyze.measures.eigenvalues import ov_eigenvalue
from headway.analyze.measures.logit_difference import logit_difference
from headway.analyze.measures.loss import accuracy, loss, training_accuracy, training_loss
from headway.analyze.measures.vocabulary import ov_top1, ov_topk, token_pair_rank
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.report.stored import StoredScores
from headway.checkpoints import Recipe, Run
from headway.checkpoints.schedule import Schedule
from headway.data.finite import FiniteTask
from headway.data.modular_addition import ModularAddition
from headway.data.renamed import Renamed
from headway.data.task import Batch, Task, masked_mean
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer
from headway.train import train

Direction = Literal["causal", "bidirectional"]


def recipe_for(task: Task, direction: Direction) -> Recipe:
    model = ModelConfig(
        n_layers=2, d_model=19, n_ctx=task.n_ctx, d_head=7, n_heads=3, d_vocab=task.d_vocab,
        d_vocab_out=task.d_vocab_out, input_type=task.input_type, attention_dir=direction,
    )  # fmt: skip
    training, held_out = task.n_sequences or (11, 13)
    return replace(
        TOKENS, task=task, model=model, schedule=Schedule(log=0, linear=0), steps=2, batch_size=training,
        eval_batch_size=held_out,
    )  # fmt: skip


TASKS: dict[str, tuple[Task, Direction]] = {
    "classifier with padding": (HoldsZero(), "bidirectional"),
    "classifier at the end": (HoldsZero(at_end=True), "causal"),
    "numbers from tokens": (Numbers(), "causal"),
    "classes from vectors": (Signs(), "bidirectional"),
    "split of a finite set": (Adding(), "causal"),
}


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_of_any_kind_is_trained_measured_and_shown(kind: str, tmp_path: Path):
    task, direction = TASKS[kind]
    run = train(**vars(recipe_for(task, direction)), out=tmp_path / "run", progress=False)
    stored = StoredScores.of(run)
    assert run.report_file.exists()
    assert "loss" in stored.measures
    assert not stored.left_out
    labels = [each.label for each in stored.losses]
    assert labels == (["loss", "training loss"] if kind == "split of a finite set" else ["loss"])
    clean = loss(run.model(), run.batch()).loss.item()
    assert run.scores.loss.values[-1] == pytest.approx(clean, rel=1e-5)
    folded = run.model(processed=True)
    torch.testing.assert_close(outputs(folded, run), outputs(run.model(), run), atol=1e-4, rtol=1e-4)


def outputs(model: HookedTransformer, run: Run) -> torch.Tensor:
    """Outputs, of logits those relative to their mean."""
    batch = run.batch()
    output = model(batch.inputs, **batch.padding).detach()
    return output if batch.targets.is_floating_point() else output - output.mean(-1, keepdim=True)


def test_half_of_a_finite_set_is_held_out_and_never_trained_on():
    task = Adding(modulus=7)
    training = {tuple(row) for index in range(50) for row in task.training_batch(3, index, 11).inputs.tolist()}
    held_out = {tuple(row) for seed in range(50) for row in task.evaluation_batch(seed, 11).inputs.tolist()}
    assert not training & held_out
    assert (len(training), len(held_out)) == task.n_sequences
    assert sum(task.n_sequences) == 49
    seen = {tuple(row) for row in task.seen_batch(0, 11).inputs.tolist()}
    assert seen <= training
    assert len(seen) == 11


def test_a_batch_of_a_finite_set_has_no_sequence_twice_and_may_be_all_of_it():
    task = Adding(modulus=7)
    for index in range(5):
        assert len(task.training_batch(0, index, 23).inputs.unique(dim=0)) == 23
    whole = [task.training_batch(seed, index, task.n_sequences.training) for seed, index in ((0, 0), (5, 3))]
    assert torch.equal(whole[0].inputs, whole[1].inputs)
    assert len(whole[0].inputs.unique(dim=0)) == task.n_sequences.training
    assert len(task.seen_batch(0, 1000).inputs) == task.n_sequences.training
    other = Adding(modulus=7, split_seed=1)
    assert not torch.equal(other.seen_batch(0, 1000).inputs, task.seen_batch(0, 1000).inputs)
    with pytest.raises(ValueError, match=r"^batch_size: 26 is not valid; there are only 25 sequences to train on"):
        task.batch(0, 0, 26)


def test_the_training_loss_is_that_of_what_is_trained_on():
    task = Adding()
    model = network(d_vocab=6, d_vocab_out=5)
    batch = task.evaluation_batch(0, 12)
    whole = task.training_batch(0, 0, 13)
    for measure, on_training in ((loss, training_loss), (accuracy, training_accuracy)):
        # 12 of the 13 sequences to train on, as many as are held out, and all where there are enough.
        found = on_training(model, batch)[on_training.__name__].item()
        assert found == pytest.approx(measure(model, task.seen_batch(0, 12))[measure.__name__].item())
        found = on_training(model, whole)[on_training.__name__].item()
        assert found == pytest.approx(measure(model, whole)[measure.__name__].item())
    with pytest.raises(DoesNotApplyError, match=r"^training_loss needs a task that holds out sequences"):
        training_loss(model, Counting(modulus=5).evaluation_batch(0, 7))


def test_renamed_tasks_hold_out_what_their_task_does():
    inner = replace(Adding())
    with pytest.raises(ValueError, match=r"^task: Adding is not valid; its outputs must stand for its tokens"):
        Renamed(inner, (10, 11, 12, 13, 14, 15))

    class Square(Adding):
        d_vocab_out = 6  # pyright: ignore

    renamed = Renamed(Square(), (10, 11, 12, 13, 14, 15))
    assert renamed.holds_out
    assert renamed.n_sequences == (13, 12)
    batch = renamed.evaluation_batch(0, 12)
    assert (batch.targets[:, :2] == -100).all()
    assert batch.inputs.min() >= 10
    assert torch.equal(batch.inputs - 10, Square().evaluation_batch(0, 12).inputs)


def test_targets_that_do_not_count_can_be_anything():
    task = Counting()
    batch = task.evaluation_batch(0, 5)
    mask = batch.mask.clone()
    mask[:, :2] = False
    model = network(d_vocab=7, d_vocab_out=7)
    usual = batch._replace(mask=mask)
    for nothing in (-100, 999):
        changed = usual._replace(targets=batch.targets.where(mask, nothing))
        for measure in (loss, accuracy, direct_attribution):
            name = measure.__name__
            np.testing.assert_array_equal(measure(model, changed)[name], measure(model, usual)[name])
        wrong = (changed.targets + 1).where(mask, nothing) % 7
        assert torch.equal(
            logit_difference(model, changed, wrong.where(mask, nothing)), logit_difference(model, usual, wrong)
        )
        terms = attribute_outputs(model, changed).isel(pos=slice(2, None))
        np.testing.assert_array_equal(terms, attribute_outputs(model, usual).isel(pos=slice(2, None)))
    with pytest.raises(ValueError, match=r"^batch: its targets are -100 to -100; this network outputs 0 to 6"):
        loss(model, batch._replace(targets=torch.full_like(batch.targets, -100)))


def test_numbers_that_do_not_count_can_be_anything():
    task = Numbers()
    batch = task.evaluation_batch(0, 11)
    mask = batch.mask.clone()
    mask[:, ::2] = False
    model = network(d_vocab=7, d_vocab_out=2)
    usual = batch._replace(mask=mask, targets=batch.targets.double())
    changed = usual._replace(targets=usual.targets.where(mask[..., None], torch.nan))
    for measure in (loss, direct_attribution):
        name = measure.__name__
        np.testing.assert_array_equal(measure(model, changed)[name], measure(model, usual)[name])
    gradients = []
    for each in (changed, usual):
        model.zero_grad()
        masked_mean(task.loss(model(each.inputs), each), mask).backward()
        gradients.append(model.W_E.grad)
    assert torch.equal(*gradients)


# Queries that are pooled


def test_a_direction_that_the_task_cannot_use_is_not_trained_but_opens(tmp_path: Path):
    recipe = recipe_for(HoldsZero(), "causal")
    with pytest.raises(ValueError, match=r"^model.attention_dir: 'causal' is not valid; HoldsZero needs bidirectional"):
        train(**vars(recipe), out=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()
    assert Run(Run.create(tmp_path / "old", recipe).path).recipe == recipe


@pytest.mark.parametrize(
    "batch",
    [task.evaluation_batch(0, 11) for task in (HoldsZero(), Numbers(), Powers())],
    ids=["classes", "numbers", "as many numbers as tokens"],
)
def test_outputs_with_a_meaning_of_their_own_are_not_read_as_tokens(batch: Batch):
    """Also where a network has as many of them as of tokens."""
    assert batch.task is not None
    tokens = batch.task.d_vocab
    model = network(d_vocab=tokens, d_vocab_out=tokens)
    assert not batch.outputs_are_inputs
    for measure in (ov_eigenvalue, ov_top1, ov_topk, token_pair_rank):
        with pytest.raises(DoesNotApplyError, match=r"needs outputs that stand for the inputs; those of this task do"):
            measure(model, batch)
    assert token_pair_rank(model, batch, pairs=[(2, 1)]).token_pair_rank.notnull().all()


def test_folding_keeps_numbers_as_they_are(tmp_path: Path):
    """Logits may be centred, but numbers may not, even where there are as many as tokens."""
    run = train(**vars(recipe_for(Powers(), "causal")), out=tmp_path / "run", progress=False)
    torch.testing.assert_close(run.model(processed=True)(run.batch().inputs), run.model()(run.batch().inputs))


def test_sums_stand_for_the_tokens_of_their_numbers():
    batch = ModularAddition(p=7).evaluation_batch(0, 11)
    found = ov_eigenvalue(network(d_vocab=8, d_vocab_out=8, tie_word_embeddings=True), batch).ov_eigenvalue
    assert found.notnull().all()


def test_every_query_from_position_1_on_is_pooled_where_the_task_reads_the_sequence():
    model, batch = network(d_vocab=7, d_vocab_out=7), Counting().evaluation_batch(0, 5)
    assert pooled_queries(model, batch) == (None, "every position from 1 on")
    assert previous_token(model, batch).previous_token.attrs["queries"] == "every position from 1 on"


@pytest.mark.parametrize("at_end", [False, True])
def test_the_last_layer_pools_the_query_that_a_classifier_reads(at_end: bool):
    """Of a bidirectional network that may be query 0, and every query is read in the layers before."""
    task = HoldsZero(at_end=at_end)
    batch = task.evaluation_batch(0, 11)
    model = network(d_vocab=4, d_vocab_out=2, attention_dir="bidirectional")
    patterns, real = forward_pass(model, batch).patterns, batch.real
    found = first_token(model, batch).first_token
    first, last = (patterns[layer, :, :, :, 0] for layer in (0, 1))
    read = batch.mask
    np.testing.assert_allclose(found[0], first.transpose(0, 1)[:, real].mean(1))
    np.testing.assert_allclose(found[1], last.transpose(0, 1)[:, read].mean(1))
    assert found.attrs["queries"] == (
        "in the last layer the position that the task reads; in earlier layers every position, without padding"
    )
    chance = first_token(model, batch).first_token_chance
    np.testing.assert_allclose(chance[1], (1 / real.sum(1)).double().mean())
    diagonal = torch.diagonal(patterns[1], dim1=-2, dim2=-1).transpose(0, 1)[:, read].mean(1)
    np.testing.assert_allclose(current_token(model, batch).current_token[1], diagonal)


def test_a_score_without_a_query_is_not_a_number():
    """Position 0 has no previous one: the last layer has no score, and a network of one layer none at all."""
    batch = HoldsZero().evaluation_batch(0, 11)
    model = network(d_vocab=4, d_vocab_out=2, attention_dir="bidirectional")
    found = previous_token(model, batch).previous_token
    assert found[0].notnull().all()
    assert found[1].isnull().all()
    one = network(d_vocab=4, d_vocab_out=2, attention_dir="bidirectional", n_layers=1)
    with pytest.raises(DoesNotApplyError, match=r"^previous_token has no query in this batch"):
        previous_token(one, batch)


def test_what_follows_from_masks_is_not_that_of_other_masks():
    model = network(d_vocab=4, d_vocab_out=2, attention_dir="bidirectional", n_layers=1)
    batch = HoldsZero().evaluation_batch(0, 11)
    first = first_token(model, batch).first_token_chance.item()
    shorter = batch._replace(attention_mask=(torch.arange(5) < 2).expand(11, 5))
    assert first_token(model, shorter).first_token_chance.item() == 0.5
    assert first_token(model, batch).first_token_chance.item() == first


def test_a_finite_task_is_a_task_of_text_s_kind():
    """Both say what is held out in one way."""
    assert issubclass(FiniteTask, Task)
    assert Adding().holds_out
    assert not Counting().holds_out
    assert isinstance(Adding().evaluation_batch(0, 3), Batch)
