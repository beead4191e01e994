"""Half-way steps on curves whose dates are known."""

import math

import numpy as np
import pytest
import xarray as xr

from headway.analyze.formation.half_way import HalfWay, half_way, state, way, width


def curve(values: list[float], steps: list[int]) -> xr.DataArray:
    return xr.DataArray(values, dims="step", coords={"step": steps})


def test_a_line_in_log_steps_is_half_way_in_the_middle():
    steps = [0, 3, 15, 63, 255]  # log4(1 + step) = 0 to 4
    rising = curve([0.0, 0.25, 0.5, 0.75, 1.0], steps)
    found = half_way(rising)
    assert found is not None
    assert found.step == pytest.approx(15)
    assert half_way(0.3 * rising) == found  # half of its own final value
    reached = half_way(rising, 0.625)
    assert reached is not None
    assert reached.step == pytest.approx(31)  # between the two checkpoints
    assert reached.between == (15, 63)
    assert width(rising) == pytest.approx((4**3.6 - 1) / (4**0.4 - 1))


def test_only_the_last_rise_counts():
    steps = [0, 10, 20, 30, 40]
    assert getattr(half_way(curve([0, 1, 0, 1, 1], steps)), "between", None) == (20, 30)
    assert half_way(curve([1, 1, 1, 1, 0], steps)) is None  # it rises and falls for good
    risen = half_way(curve([0, 1, 1, 0.6, 0.4], steps))  # never below half of where it ends
    assert risen is not None
    assert risen.between == (0, 10)


def test_never_from_the_start_and_without_numbers():
    steps = [0, 5, 7]
    assert half_way(curve([0, 0, 0], steps)) is None
    assert half_way(curve([0, -1, -2], steps)) is None
    assert half_way(curve([0, 1, math.nan], steps)) is None
    assert half_way(xr.DataArray(np.zeros(0), dims="step", coords={"step": np.zeros(0, int)})) is None
    assert half_way(curve([1, 1, 1], steps)) == HalfWay(0, (None, 0))
    assert str(half_way(curve([1, 1, 1], steps))) == "from the start"
    assert str(half_way(curve([math.nan, 1, 1], steps))) == "before step 5"
    assert getattr(half_way(curve([0, math.nan, 1], steps)), "between", None) == (0, 7)
    assert math.isnan(width(curve([1, 1, 1], steps)))
    assert math.isnan(width(curve([0, 0, 0], steps)))


def test_noise_around_nothing_never_forms():
    noise = np.random.default_rng(0).normal(0, 0.02, 101)
    assert state(noise[-1]) == "not formed"
    noisy = half_way(curve([*noise[:50], *(1 + noise[50:])], list(range(101))))
    assert noisy is not None
    assert noisy.between == (49, 50)


def test_a_way_is_a_share_whatever_the_direction():
    assert way(0.55, null=0.1, ceiling=1.0) == pytest.approx(0.5)
    assert way(np.array([4.0, 1.0, 0.0]), null=4.0, ceiling=0.0).tolist() == [0, 0.75, 1]  # a loss


@pytest.mark.parametrize(
    ("final", "outside", "expected"),
    [
        (1.0, True, "formed"),
        (0.5, True, "formed"),
        (0.49, True, "partly formed"),
        (0.1, True, "partly formed"),
        (0.099, True, "not formed"),
        (-0.5, True, "not formed"),
        (0.9, False, "not formed"),
        (math.nan, True, "not formed"),
    ],
)
def test_nothing_below_half_of_its_way_is_formed(final: float, outside: bool, expected: str):
    assert state(final, outside) == expected
