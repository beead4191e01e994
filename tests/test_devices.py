"""One run in two processes: the same updates as in one, and every file once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import TOKENS, Train

import headway.train
from headway.checkpoints import Recipe
from headway.checkpoints.recipe import TrainerConfig
from headway.replay import densify
from headway.sweeps.train_all import check_all

# Each process computes its share of a batch in two parts.
TWO = replace(
    TOKENS,
    optim=replace(TOKENS.optim, accumulate=2),
    trainer=TrainerConfig(devices=2),
    schedule=replace(TOKENS.schedule, state_every=1),
)


@pytest.mark.usefixtures("forked_not_spawned")
def test_two_processes_take_the_updates_of_one_and_write_every_file_once(trained: Train, tmp_path: Path):
    one = trained(TOKENS, tmp_path / "one")
    two = headway.train.train(**vars(TWO), out=tmp_path / "two", progress=False)
    assert two.finished
    assert two.steps == one.steps
    whole, shared = (run.model(run.steps[-1]).state_dict() for run in (one, two))
    begin = one.model(0).state_dict()
    moved = torch.cat([(whole[name] - begin[name]).flatten() for name in whole]).abs().mean()
    for name, weights in whole.items():
        # AdamW divides by the size of the gradient, so that next to nothing may become a whole step.
        assert (shared[name] - weights).abs().mean() < 1e-2 * moved, name
    files = [sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*.safetensors")) for run in (one, two)]
    assert files[0] == files[1]
    assert two.training.step.values.tolist() == one.training.step.values.tolist()
    np.testing.assert_allclose(two.training.loss, one.training.loss, rtol=1e-4)
    np.testing.assert_allclose(two.training.gradient_norm, one.training.gradient_norm, rtol=1e-3)
    assert len(list(two.path.glob("events.*"))) == 1
    assert not torch.distributed.is_initialized()
    # Trained again from a state that was kept, two processes have the same weights to the last bit.
    first, last = two.steps[-2:]
    assert first < densify(two.path, (first, last), steps=1, progress=False)[0] < last


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (lambda: replace(TOKENS, trainer=TrainerConfig(devices=0)), "devices: 0 is not valid"),
        (lambda: replace(TWO, batch_size=1), r"trainer\.devices: 2 is not valid; they share out 1 sequence"),
    ],
)
def test_a_number_of_devices_that_is_none_is_refused(recipe: object, said: str):
    with pytest.raises(ValueError, match=said):
        recipe()  # pyright: ignore[reportCallIssue]


def test_many_runs_take_one_device_each(tmp_path: Path):
    recipes: dict[str, Recipe] = {"seed-000": TWO}
    with pytest.raises(ValueError, match=r"^trainer\.devices: 2 is not valid for many runs"):
        check_all(recipes, tmp_path / "runs")
