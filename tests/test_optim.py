"""Groups of weights with a learning rate and a weight decay of their own, and gradients that are added up in parts."""

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import TOKENS, VECTORS

from headway.analyze.report.about import _optimiser
from headway.checkpoints.recipe import Recipe
from headway.models.hooked_transformer import HookedTransformer
from headway.models.lightning_module import TrainingModule
from headway.models.optim import OptimConfig, grouped
from headway.sweeps.together import check_stackable

GROUPS = {"*.b_*": {"weight_decay": 0.0}, "blocks.1.*": {"lr": 0.03, "weight_decay": 0.2}, "embed.W_E": {"lr": 0.07}}
SGD = OptimConfig(optimizer="SGD", lr=0.01, weight_decay=0.1, groups=GROUPS, max_grad_norm=None)


def module(recipe: Recipe, **optim: Any) -> TrainingModule:
    """The training module of one process, without a Trainer."""
    model, config = HookedTransformer(recipe.model), replace(recipe.optim, **optim)
    made = TrainingModule(model, recipe.task, config, recipe.steps, recipe.batch_size, recipe.seed)
    made.trainer = SimpleNamespace(world_size=1, global_rank=0, precision="32-true", global_step=0)  # pyright: ignore[reportAttributeAccessIssue]
    return made


def options_of(name: str) -> tuple[float, float]:
    """The learning rate and the weight decay of a weight, by the first pattern that matches."""
    if ".b_" in name:
        return 0.01, 0.0
    if name.startswith("blocks.1."):
        return 0.03, 0.2
    return (0.07 if name == "embed.W_E" else 0.01), 0.1


def test_each_weight_is_in_the_group_of_the_first_pattern_that_matches():
    names = [name for name, _ in TOKENS.model.weight_shapes()]
    groups = grouped(names, GROUPS)
    assert list(groups) == ["", *GROUPS]
    assert sorted(name for some in groups.values() for name in some) == sorted(names)
    assert "blocks.1.attn.b_Q" in groups["*.b_*"]
    assert grouped(names, ()) == {"": names}
    assert grouped(["a", "b"], ["*"]) == {"*": ["a", "b"]}


def test_an_update_moves_each_weight_by_the_options_of_its_group():
    training = module(TOKENS, **vars(SGD))
    before = {name: weight.detach().clone() for name, weight in training.model.named_parameters()}
    optimizer = SGD.build(SGD.parameter_groups(training.model.named_parameters()), fused=True)
    training.loss_and_gradient(0, optimizer)
    weights = dict(training.model.named_parameters())
    gradients = {name: weight.grad.clone() for name, weight in weights.items() if weight.grad is not None}
    optimizer.step()
    for name, weight in training.model.named_parameters():
        lr, decay = options_of(name)
        torch.testing.assert_close(weight.detach(), before[name] - lr * (gradients[name] + decay * before[name]))


def test_the_schedule_scales_the_learning_rate_of_every_group():
    optim = replace(SGD, warmup_steps=4, decay="linear")
    weights = list(HookedTransformer(TOKENS.model).named_parameters())
    optimizer = optim.build(optim.parameter_groups(weights), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: optim.factor(step, 8))
    for step in range(8):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([rate * optim.factor(step, 8) for rate in (0.01, 0.01, 0.03, 0.07)])
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("parts", [2, 3, 7])
@pytest.mark.parametrize("recipe", [TOKENS, VECTORS], ids=["tokens", "vectors"])
def test_the_gradient_of_the_parts_is_that_of_the_whole_batch(recipe: Recipe, parts: int):
    """To rounding, also where one part has fewer positions that count than another."""
    gradients = []
    for accumulate in (1, parts):
        training = module(recipe, accumulate=accumulate)
        optimizer = training.optim.build(training.model.parameters(), fused=True)
        training.loss_and_gradient(3, optimizer)
        training.on_before_optimizer_step(optimizer)  # which clips
        grads = [weight.grad.flatten() for weight in training.model.parameters() if weight.grad is not None]
        gradients.append((torch.cat(grads), training.loss, training.grad_norm))
    (whole, loss, norm), (added, loss_of_parts, norm_of_parts) = gradients
    assert norm > 1e-3
    torch.testing.assert_close(added, whole, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(loss_of_parts, loss)
    torch.testing.assert_close(norm_of_parts, norm)
    assert whole.norm() <= 1.0001


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"groups": {"*.b_*": {"momentum": 0.0}}},
            r"groups: '\*\.b_\*' has the options momentum; they must be",
        ),
        ({"groups": {"*.b_*": {}}}, r"groups: '\*\.b_\*' has the options none; they must be some of lr, weight_decay"),
        ({"groups": {"": {"lr": 0.1}}}, "groups: '' is not valid; it must be a pattern"),
        ({"groups": {"*": {"lr": 0.0}}}, r"groups: lr 0.0 of '\*' is not valid; it must be finite and above 0"),
        (
            {"groups": {"*": {"weight_decay": -1.0}}},
            r"groups: weight_decay -1.0 of '\*' is not valid",
        ),
        ({"accumulate": 0}, "accumulate: 0 is not valid; it must be 1 or more"),
    ],
    ids=str,
)
def test_groups_and_parts_that_make_no_sense_are_refused(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"^{message}"):
        OptimConfig(**given)


@pytest.mark.parametrize(
    ("patterns", "which"),
    [
        (["blocks.2.*"], "no weight of this network"),
        (["*.W_Q", "blocks.1.attn.W_Q"], "only weights that an earlier pattern matches"),
        (["*.W_Q", "W_E"], "no weight of this network"),
    ],
)
def test_a_pattern_without_weights_is_refused(patterns: list[str], which: str):
    groups = {pattern: {"lr": 0.1} for pattern in patterns}
    with pytest.raises(ValueError, match=rf"^optim\.groups: '{re.escape(patterns[-1])}' matches {which}; it must"):
        replace(TOKENS, optim=OptimConfig(groups=groups))


def test_more_parts_than_sequences_are_refused():
    with pytest.raises(ValueError, match=r"^optim\.accumulate: 8 is not valid; it must leave each of 8 parts"):
        replace(TOKENS, optim=OptimConfig(accumulate=8))
    with pytest.raises(ValueError, match=r"^optim\.accumulate: 2 is not valid with together"):
        check_stackable(replace(TOKENS, optim=OptimConfig(accumulate=2)))


def test_groups_and_parts_come_back_from_a_file_and_a_command_line():
    recipe = replace(TOKENS, optim=replace(TOKENS.optim, groups=GROUPS, accumulate=3))
    recipe.to_yaml()  # refuses what would come back as something else
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert TOKENS.changed({"optim.groups": GROUPS, "optim.accumulate": 3}) == recipe
    assert recipe.changed({"steps": 5}).optim == recipe.optim


def test_about_says_which_weights_are_trained_differently():
    said = _optimiser(replace(TOKENS, optim=replace(TOKENS.optim, groups=GROUPS, accumulate=3)).to_dict()["optim"])
    assert "blocks.1.* with learning rate 0.03 and weight decay 0.2" in said
    assert said.endswith("each batch in 3 parts")
    assert "with" not in _optimiser(TOKENS.to_dict()["optim"])
