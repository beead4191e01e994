"""What formed, and when, on scores made up for it."""

import math

import numpy as np
import xarray as xr

from headway.analyze.formation import onset, outside, strongest, what_formed
from headway.models.config import Head


def made_up(z: list[list[float]]) -> xr.Dataset:
    """Scores of one layer with the given z [step, head], and a band from -3 to 3 of them."""
    values = np.array(z)[:, None, :]
    steps = [0, 10, 100, 1000][: len(z)]
    scores = xr.Dataset(
        {
            "previous_token": (("step", "layer", "head"), values / 100),
            "previous_token_z": (("step", "layer", "head"), values),
            "previous_token_null": (("layer",), np.array([0.1])),
            "previous_token_null_std": (("layer",), np.array([0.01])),
            "previous_token_low": (("layer",), np.array([-0.03])),
            "previous_token_high": (("layer",), np.array([0.03])),
        }
    )
    return scores.assign_coords(step=steps)


def test_onset_is_the_interval_in_which_a_score_left_its_band_for_good():
    def at(*z: float) -> tuple[int | None, int] | None:
        return onset(outside(made_up([[value] for value in z]), "previous_token").sel(layer=0, head=0))

    assert at(0, 1, 2, 1) is None
    assert at(0, 9, 9, 1) is None
    assert at(9, 9, 9, 9) == (None, 0)
    assert at(0, 9, 1, 9) == (100, 1000)
    assert at(0, 9, math.nan, 9) == (100, 1000)
    assert at(0, 1, 9, 9) == (10, 100)
    # An anti-copying head forms below its band.
    assert at(0, -9, -9, -9) == (0, 10)
    assert at(9, 9, -9, -9) == (10, 100)


def test_the_strongest_head_is_named_with_its_numbers():
    found = strongest(made_up([[0, 0], [0, 4], [2, 5], [8, 6]]), "previous_token")
    assert (found.heads, found.score, found.z, found.null, found.since) == ((Head(0, 0),), 0.08, 8, 0.1, (100, 1000))
    assert str(found) == "L0H0 looks at the token before"
    assert found.when == "100 to 1000"
    assert [each.since for each in what_formed(made_up([[0.0, 0], [1, 2]]))] == [None]
    assert what_formed(made_up([[math.nan, math.nan], [math.nan, math.nan]])) == []
