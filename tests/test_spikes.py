"""Loss spikes that were planted, and losses that have none."""

import numpy as np
import pytest
import xarray as xr

from headway.analyze.tools.spikes import DEVIATIONS, GAP, TIMES, WINDOW, loss_spikes

UPDATES = 503


def training(loss: np.ndarray, gradient_norm: np.ndarray | None = None, first: int = 1) -> xr.Dataset:
    norms = np.ones(len(loss)) if gradient_norm is None else gradient_norm
    steps = np.arange(first, first + len(loss))
    return xr.Dataset({"loss": ("step", loss), "gradient_norm": ("step", norms)}, {"step": steps})


def falling(seed: int, updates: int = UPDATES, noise: float = 0.02) -> np.ndarray:
    """An exponential fall by the factor 20, with noise in proportion."""
    draws = np.random.default_rng(seed)
    return np.exp(-3 * np.arange(updates) / updates) * (1 + noise * draws.standard_normal(updates))


def planted(at: dict[int, float], base: float = 1.0, noise: float = 0.01) -> xr.Dataset:
    """A level loss, with values of its own at these steps, and a gradient that is seven times the loss."""
    loss = base * (1 + noise * np.random.default_rng(0).standard_normal(UPDATES))
    for step, value in at.items():
        loss[step - 1] = base * value
    return training(loss, 7 * loss)


def test_a_planted_spike_is_found_with_its_place_size_and_gradient():
    of = planted({211: 3.0, 212: 5.0, 213: 2.0})
    of.gradient_norm[211] = 97.0  # at step 212
    [spike] = loss_spikes(of)
    assert (spike.step, spike.last) == (211, 213)
    assert spike.before == np.median(of.loss.sel(step=slice(211 - WINDOW, 210)))
    assert (spike.peak, spike.gradient_norm) == (5.0, 97.0)
    assert spike.size == pytest.approx(5, rel=0.02)


def test_the_last_update_can_be_one():
    [spike] = loss_spikes(planted({UPDATES: 3.0}))
    assert (spike.step, spike.last) == (UPDATES, UPDATES)


def test_the_largest_gradient_is_that_of_the_whole_excursion():
    """Between two updates that stick out lies one that does not; it belongs to the spike."""
    of = planted({211: 3.0, 217: 4.0})
    of.gradient_norm[213] = 97.0
    [spike] = loss_spikes(of)
    assert (spike.step, spike.last, spike.peak, spike.gradient_norm) == (211, 217, 4.0, 97.0)


@pytest.mark.parametrize(("apart", "spikes"), [(2, 1), (GAP - 1, 1), (GAP, 2), (GAP + 1, 2), (151, 2)])
def test_excursions_closer_than_the_gap_are_one_spike(apart: int, spikes: int):
    found = loss_spikes(planted({211: 3.0, 211 + apart: 4.0}))
    assert len(found) == spikes
    assert (found[0].step, found[-1].last) == (211, 211 + apart)
    assert max(spike.peak for spike in found) == 4.0


def test_far_spikes_are_in_order_and_each_has_its_own_numbers():
    found = loss_spikes(planted({97: 2.0, 211: 5.0, 401: 3.0}))
    assert [(spike.step, spike.last, spike.peak, spike.gradient_norm) for spike in found] == [
        (97, 97, 2.0, 14.0),
        (211, 211, 5.0, 35.0),
        (401, 401, 3.0, 21.0),
    ]


@pytest.mark.parametrize("seed", range(11))
def test_a_loss_that_falls_smoothly_has_none(seed: int):
    assert loss_spikes(training(falling(seed))) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_spike_in_a_falling_loss_is_compared_with_what_was_just_before(seed: int):
    """At a tenth of where it began, a return to a third of that is a spike."""
    loss = falling(seed)
    at = int(UPDATES * np.log(10) / 3)
    loss[at] = 1 / 3
    [spike] = loss_spikes(training(loss))
    assert (spike.step, spike.last) == (at + 1, at + 1)
    assert 1 / 10 < spike.before < np.exp(-3 * (at - WINDOW) / UPDATES)


def test_a_rise_counts_only_above_both_bounds():
    level = np.ones(UPDATES)
    level[::2] += 0.01  # median 1.005, and deviation 1.4826 times 0.005
    above = level.copy()
    above[300] = 1.01 * TIMES * 1.005
    assert [spike.step for spike in loss_spikes(training(above))] == [301]
    below = level.copy()
    below[300] = 0.99 * TIMES * 1.005
    assert loss_spikes(training(below)) == []
    # With a spread of a fifth six deviations are more than half of the median.
    noisy = np.where(np.arange(UPDATES) % 2, 0.8, 1.2)
    bound = 1 + DEVIATIONS * 1.4826 * 0.2
    for value, steps in ((0.99 * bound, []), (1.01 * bound, [301])):
        noisy[300] = value
        assert [spike.step for spike in loss_spikes(training(noisy))] == steps
    assert bound > TIMES


def test_a_loss_that_stays_up_is_one_spike_that_ends_when_it_is_the_new_level():
    loss = np.ones(UPDATES)
    loss[300:] = 3.0
    [spike] = loss_spikes(training(loss))
    # The median moves when half of the updates before are up there, and the deviation with it.
    assert (spike.step, spike.before, spike.peak) == (301, 1.0, 3.0)
    assert 301 + WINDOW // 2 - 2 <= spike.last <= 301 + WINDOW // 2


def test_a_fall_is_no_spike():
    assert loss_spikes(planted({211: 0.01, 301: 0.2})) == []


@pytest.mark.parametrize("scale", [2.0**-20, 1e-6, 3.7, 1e9])
def test_the_scale_of_the_loss_plays_no_part(scale: float):
    of = planted({97: 2.0, 211: 5.0, 215: 3.0, 401: 3.0})
    plain = loss_spikes(of)
    scaled = loss_spikes(of.assign(loss=of.loss * scale))
    assert len(plain) == 3
    assert [(spike.step, spike.last, spike.gradient_norm) for spike in scaled] == [
        (spike.step, spike.last, spike.gradient_norm) for spike in plain
    ]
    assert [spike.size for spike in scaled] == pytest.approx([spike.size for spike in plain])
    assert [spike.peak for spike in scaled] == pytest.approx([scale * spike.peak for spike in plain])


def test_steps_are_those_of_the_run_and_not_places():
    whole = planted({211: 3.0, 401: 5.0})
    later = loss_spikes(whole.sel(step=slice(101, None)))
    assert later == loss_spikes(whole)


def test_the_first_updates_have_nothing_to_be_compared_with():
    assert loss_spikes(planted({1: 9.0, WINDOW // 2: 9.0, WINDOW: 9.0})) == []
    assert [spike.step for spike in loss_spikes(planted({WINDOW + 1: 9.0}))] == [WINDOW + 1]


@pytest.mark.parametrize("updates", [0, 1, WINDOW - 1, WINDOW])
def test_a_short_training_has_none(updates: int):
    loss = np.ones(updates)
    loss[updates // 2 :] = 9.0
    assert loss_spikes(training(loss)) == []
