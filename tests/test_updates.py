"""Dates of a behaviour from the loss of every update, on curves whose date is known."""

import numpy as np
import pytest
import xarray as xr

from headway.analyze.formation.half_way import HalfWay, half_way
from headway.analyze.formation.updates import dated_by_updates, share_of_fall

CHECKPOINTS = np.array([0, 50, 142, 179, 250, 400])
NETWORKS = np.arange(400)


def late(step: np.ndarray, date: float) -> np.ndarray:
    """A loss that is half of 4 at a step."""
    return 4 / (1 + np.exp((step - date) / 4.0))


def dated(date: float, noise: float = 0.0, share: float = 1.0) -> tuple[HalfWay, HalfWay | None]:
    """The date from checkpoints, and the one from updates."""
    way = xr.DataArray(1 - late(CHECKPOINTS, date) / 4, dims="step", coords={"step": CHECKPOINTS})
    loss = late(NETWORKS, date) + np.random.default_rng(0).normal(0, noise, NETWORKS.size)
    training = xr.DataArray(loss, dims="step", coords={"step": NETWORKS + 1})
    found = half_way(way)
    assert found is not None
    return found, dated_by_updates(found, 0.5, way, training, share)


@pytest.mark.parametrize("date", [150, 157, 163, 171])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_updates_date_what_checkpoints_cannot(date: int, noise: float):
    coarse, fine = dated(date, noise)
    assert coarse.between == (142, 179)
    assert fine is not None
    assert fine.step == pytest.approx(date, abs=1.0)
    assert fine.between[0] is not None
    assert 142 <= fine.between[0] <= date <= fine.between[1] <= 179
    assert fine.between[1] - fine.between[0] <= 7


def test_checkpoints_date_where_the_training_loss_cannot():
    assert dated(160, noise=30.0)[1] is None  # noise hides the fall
    assert dated(160, share=0.6)[1] is None  # something else falls too
    assert dated(160, share=float("nan"))[1] is None


def test_the_share_of_a_part_in_the_fall_of_the_whole():
    parts = {"loss_first": [4.0, 3.0, 2.9, 2.0, 1.9, 1.9], "loss_repeats": [4.0, 4.0, 3.0, 0.0, 0.1, 0.0]}
    found = {name: xr.DataArray(each, dims="step", coords={"step": range(6)}) for name, each in parts.items()}
    found["loss"] = 0.3 * found["loss_first"] + 0.6 * found["loss_repeats"] + 0.1 * 4.0
    assert share_of_fall(found, "repeats", (2, 3)) == pytest.approx(1.8 / 2.07)
    assert share_of_fall(found, "repeats", (0, 1)) == pytest.approx(0)
    assert share_of_fall(found, None, (0, 1)) == 1
    # What is in no part learns too.
    found["loss"] = found["loss"] - xr.DataArray([0.0, 0.0, 0.0, 0.5, 0.1, 0.4], dims="step", coords={"step": range(6)})
    assert np.isnan(share_of_fall(found, "repeats", (2, 3)))
