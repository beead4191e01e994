"""The memory that a run needs: never more than it uses, because nothing may be refused that fits."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from toys import NO_POSITIONS, TOKENS, VECTORS

from headway.analyze.network.forward import forward_pass
from headway.checkpoints import Recipe
from headway.checkpoints.memory import (
    bytes_drawn,
    bytes_scored,
    bytes_trained,
    check_memory,
    check_scored,
    n_parameters,
)
from headway.models.hooked_transformer import HookedTransformer

RECIPES: dict[str, Recipe] = {
    "attention only": TOKENS,
    "MLPs": NO_POSITIONS,
    "vectors": VECTORS,
    "offsets": replace(TOKENS, model=replace(TOKENS.model, positional_embedding_type="relative")),
    "rotary": replace(TOKENS, model=replace(TOKENS.model, positional_embedding_type="rotary", rotary_dim=4)),
    "tied": replace(TOKENS, model=replace(TOKENS.model, tie_word_embeddings=True, biases=False)),
}
MACHINE = 16 * 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headway.checkpoints.memory._of_machine", lambda: MACHINE)


def held(tensors: Any) -> int:
    """The bytes of some tensors, where several share a storage once."""
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())


@pytest.mark.parametrize("kind", RECIPES)
def test_the_weights_are_those_of_the_network(kind: str):
    for n_layers in (1, 3):
        config = replace(RECIPES[kind].model, n_layers=n_layers)
        assert n_parameters(config) == sum(each.numel() for each in HookedTransformer(config).parameters())


@pytest.mark.parametrize("kind", RECIPES)
def test_a_step_keeps_at_least_what_is_said_and_not_many_times_as_much(kind: str):
    recipe = RECIPES[kind]
    model, batch = HookedTransformer(recipe.model), recipe.task.batch(0, 0, 7)
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(batch.inputs, **batch.padding)
        recipe.task.loss(output, batch)
    used = held([output, *(each for each in kept if each.untyped_storage().data_ptr() not in weights)])
    gradient = output.nbytes
    share = batch.inputs.shape[1] / recipe.task.n_ctx  # sequences of some tasks have any length
    said = 7 * share * bytes_trained(recipe.task, recipe.model, recipe.trainer.precision)
    assert said <= used + gradient
    assert said >= (used + gradient) / 4


@pytest.mark.parametrize("kind", RECIPES)
def test_a_scored_batch_holds_at_least_what_is_said_and_not_many_times_as_much(kind: str):
    recipe = RECIPES[kind]
    batch = recipe.task.evaluation_batch(0, 7)
    passed = forward_pass(HookedTransformer(recipe.model), batch)
    used = held([passed.output, *passed.activations.values(), passed.output.log_softmax(-1)])
    said = 7 * bytes_scored(recipe.task.n_ctx, recipe.model)
    assert used / 4 <= said <= used


@pytest.mark.parametrize("kind", RECIPES)
def test_a_batch_has_at_least_the_bytes_that_are_said(kind: str):
    task = RECIPES[kind].task
    batch = task.evaluation_batch(0, 7)
    assert 7 * bytes_drawn(task) <= held([batch.inputs.clone(), batch.targets.clone(), batch.mask.clone()])


def test_parts_of_a_batch_need_less_and_members_of_a_stack_more():
    whole = replace(TOKENS, batch_size=100_000)
    huge = replace(whole, batch_size=20_000_000)
    check_memory(whole)
    with pytest.raises(ValueError, match=r"^batch_size: 20,000,000 sequences of 11 positions need .* to train on; "):
        check_memory(huge)
    check_memory(replace(huge, optim=replace(huge.optim, accumulate=101)))
    with pytest.raises(ValueError, match=r"^batch_size: 251 times 100,000 sequences"):
        check_memory(whole, members=251)


def test_what_is_large_is_announced_and_what_is_not_is_not(capsys: pytest.CaptureFixture[str]):
    check_memory(TOKENS)
    assert capsys.readouterr().err == ""
    check_memory(replace(TOKENS, eval_batch_size=200_000))
    assert capsys.readouterr().err.startswith("eval_batch_size: 200,000 sequences of 11 positions need about ")


def test_sequences_of_a_study_may_not_be_more_than_a_machine_holds():
    check_scored("sequences", 100_000, 11, TOKENS.model)
    with pytest.raises(ValueError, match=r"^sequences: 9,999,999 sequences of 11 positions need about .* has 16.0$"):
        check_scored("sequences", 9_999_999, 11, TOKENS.model)
