"""Runs that are trained as one stack: each is, to rounding, the run that it would be alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from toys import NO_POSITIONS, TOKENS, VECTORS, Train

from headway.checkpoints import Recipe, Run
from headway.sweeps.plan import seeded
from headway.sweeps.together import train_stack
from headway.sweeps.train_all import Place

SEEDS = (3, 5, 11)
SHORTFORMER = replace(TOKENS, model=replace(TOKENS.model, positional_embedding_type="shortformer"))
# A step of Adam is as large as lr whatever the gradient, so that its rounding may reach a hundredth of lr where a
# gradient is nearly 0.
RECIPES = {"tokens": TOKENS, "shortformer": SHORTFORMER, "MLPs": NO_POSITIONS, "vectors": VECTORS}


def places_of(recipe: Recipe, folder: Path) -> dict[str, Place]:
    return {name: Place(each, folder / name) for name, each in seeded(recipe, SEEDS).items()}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_member_of_a_stack_is_the_run_that_it_would_be_alone(kind: str, trained: Train, tmp_path: Path):
    places = places_of(RECIPES[kind], tmp_path / "many")
    outcomes = train_stack(places)
    assert [outcome.state for outcome in outcomes.values()] == ["finished"] * len(SEEDS)
    for name, place in places.items():
        alone, member = trained(place.recipe, tmp_path / name), Run(place.path)
        print((member.scores.load() - alone.scores.load()).max(), member.steps)
        for step in alone.steps:
            a, b = alone.model(step).state_dict(), member.model(step).state_dict()
            print(step, max(float((a[n] - b[n]).abs().max()) for n in a))
        xr.testing.assert_allclose(member.training, alone.training, rtol=1e-4)
