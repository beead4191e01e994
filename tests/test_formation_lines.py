"""The line on the behaviour of a run, from handmade losses."""

import math
from types import SimpleNamespace

import pytest
import xarray as xr

from headway.analyze.report.formation_lines import behaviour_lines
from headway.analyze.report.stored import Variable

STEPS = [0, 9, 99]


def line(losses: dict[str, list[float]], behaviour: dict[str, object] | None) -> str:
    attributes = {} if behaviour is None else {"behaviour": behaviour}
    variables = {
        name: Variable("loss", name, xr.DataArray(values, dims="step", coords={"step": STEPS}), attributes)
        for name, values in losses.items()
    }
    stored = SimpleNamespace(variables={"loss": variables}, steps=STEPS, loss_units="nats")
    return " ".join(" ".join(behaviour_lines(stored)).split())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([4.1, 4.0, 0.0], "loss on repeats 0.0 (chance 4): 100.0 % of the gap closed, half-way at step 31 (9 to 99)"),
        (
            [4.0, 4.0, 3.0],
            "loss on repeats 3.0 (chance 4): only 25.0 % of the gap closed, half-way at step 31 (9 to 99)",
        ),
        ([4.0, 4.0, 3.99], "loss on repeats 4.0 (chance 4): only 0.2 % of the gap closed"),
        ([4.0, 4.0, math.nan], "loss on repeats nan (chance 4): nothing is learned"),
    ],
)
def test_a_behaviour_is_the_share_of_its_gap_that_is_closed(values: list[float], said: str):
    losses = {"loss": [4.0, 3.9, 3.8], "loss_repeats": values}
    assert line(losses, {"part": "repeats", "chance": 4.0, "floor": 0.0}) == f"Behaviour {said}"


def test_without_a_floor_no_share_is_claimed():
    said = line({"loss": [7.0, 7.0, 3.0]}, {"part": None, "chance": 7.0, "floor": None})
    assert said == "Behaviour loss 3.0 (chance 7): 4.0 nats below it, half-way at step 31 (9 to 99)"


def test_an_older_run_is_judged_by_its_overall_loss_and_that_is_said():
    said = line({"loss": [4.0, 4.0, 1.0], "loss_repeats": [4.0, 4.0, 0.0]}, None)
    assert said.startswith("Behaviour loss 1.0 (4 at step 0), of all positions, because these scores do not say")


def test_a_loss_that_rises_has_learned_nothing():
    said = line({"loss": [4.0, 4.5, 5.0]}, {"part": None, "chance": None, "floor": None})
    assert said == "Behaviour loss 5.0 (4 at step 0): nothing is learned"
