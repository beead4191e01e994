"""The line on the behaviour of a run, from handmade losses."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from headway.analyze.report.formation_lines import (
    behaviour_lines,
    first_lines,
    half_way_steps,
    head_lines,
    nothing_to_explain,
    parts_lines,
)
from headway.analyze.report.stored import Variable

STEPS = [0, 9, 99]
NO_UPDATES = xr.DataArray([], dims="step", coords={"step": np.array([], int)})


def line(
    losses: dict[str, list[float]], behaviour: dict[str, object] | None, updates: xr.DataArray | None = None
) -> str:
    training = NO_UPDATES if updates is None else updates
    attributes = {} if behaviour is None else {"behaviour": behaviour}
    variables = {
        name: Variable("loss", name, xr.DataArray(values, dims="step", coords={"step": STEPS}), attributes)
        for name, values in losses.items()
    }
    updates_read = xr.Dataset({"loss": training})
    stored = SimpleNamespace(variables={"loss": variables}, steps=STEPS, loss_units="nats", training=updates_read)
    (found,) = behaviour_lines(stored)  # pyright: ignore[reportArgumentType]
    return found.sentence.removesuffix(".")


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
    assert line(losses, {"part": "repeats", "chance": 4.0, "floor": 0.0}) == f"Behaviour: {said}"


def test_without_a_floor_no_share_is_claimed():
    said = line({"loss": [7.0, 7.0, 3.0]}, {"part": None, "chance": 7.0, "floor": None})
    assert said == "Behaviour: loss 3.0 (chance 7): 4.0 nats below it, half-way at step 31 (9 to 99)"


def test_the_half_way_step_is_that_of_the_loss_of_every_update():
    network = np.arange(100)  # update u is made with the loss of the network after u - 1 updates
    loss = xr.DataArray(4 / (1 + np.exp((network - 60) / 3)), dims="step", coords={"step": network + 1})
    said = line({"loss": loss.values[STEPS].tolist()}, {"part": None, "chance": 4.0, "floor": 0.0}, loss)
    assert said.endswith("% of the gap closed, half-way at step 60 (54 to 65), by the loss of every update")


def test_an_older_run_is_judged_by_its_overall_loss_and_that_is_said():
    said = line({"loss": [4.0, 4.0, 1.0], "loss_repeats": [4.0, 4.0, 0.0]}, None)
    assert said.startswith("Behaviour: loss 1.0 (4 at step 0), of all positions, because these scores do not say")


def test_a_loss_that_rises_has_learned_nothing():
    said = line({"loss": [4.0, 4.5, 5.0]}, {"part": None, "chance": None, "floor": None})
    assert said == "Behaviour: loss 5.0 (4 at step 0): nothing is learned"


def scored(known: float, clean: float, effects: list[float], units: str) -> SimpleNamespace:
    """A run of two heads, of which the first is a previous-token head at the end, without a circuit."""

    def variable(name: str, values: object, dims: tuple[str, ...] = ("step",)) -> Variable:
        attributes = {"part": "repeats", "replacement": "twin", "units": units}
        return Variable("effect", name, xr.DataArray(values, dims=dims, coords={"step": STEPS}), attributes)

    axes = ("step", "layer", "head")
    of_heads = np.array([[[math.nan, math.nan]], [[math.nan, math.nan]], [effects]])
    attention = variable("previous_token", np.array([[[0.1, 0.1]], [[0.1, 0.1]], [[0.9, 0.1]]]), axes)
    last = {"role": (axes[1:], [["previous_token", ""]]), "role_share": (axes[1:], [[0.8, math.nan]])}
    return SimpleNamespace(
        run=SimpleNamespace(circuits=[], node_circuits=[]),
        training=xr.Dataset({"loss": NO_UPDATES}),
        steps=STEPS,
        loss_units="nats",
        roles=xr.Dataset(last).expand_dims(step=[99]),
        variables={
            "effect": {
                "effect": variable("effect", of_heads, axes),
                "effect_known": variable("effect_known", [0.0, 0.0, known]),
                "effect_clean": variable("effect_clean", [4.0, 4.0, clean]),
            },
            "previous_token": {"previous_token": attention},
        },
    )


def test_where_less_than_a_tenth_is_known_there_is_nothing_to_explain():
    stored = scored(0.3, 3.7, [math.nan, math.nan], "share of what is known")
    circuit, head = parts_lines(stored)  # pyright: ignore[reportArgumentType]
    assert circuit.sentence == (
        "Circuit: nothing to explain: the loss on repeats is 3.7, and 4.0 with everything replaced (twin); less than a "
        "tenth of it is known."
    )
    assert head.sentence == "L0H0, previous-token head, 0.900: half-way at step 26."
    for known, clean in ((0.5, 3.5), (math.nan, 4.0)):
        assert nothing_to_explain(scored(known, clean, [0.0, 0.0], "")) == ""  # pyright: ignore[reportArgumentType]
    assert nothing_to_explain(scored(-0.1, 4.1, [0.0, 0.0], ""))  # pyright: ignore[reportArgumentType]


def test_an_effect_is_a_share_and_that_of_an_older_run_is_a_loss():
    lost = "without it 210.0 % of what is known is lost, which is worse than knowing nothing"
    shown = {"share of what is known": lost, "nats": "costs 2.1 nats alone"}
    for units, said in shown.items():
        circuit, head = parts_lines(scored(4.0, 0.0, [2.1, 0.0], units))  # pyright: ignore[reportArgumentType]
        assert circuit.text == "not searched for; headway circuit RUN finds it"
        assert head.text == f"half-way at step 26, {said}"


def test_the_first_lines_are_those_of_the_summary_and_name_each_head_with_its_score():
    stored = scored(4.0, 0.0, [2.1, 0.0], "share of what is known")
    values = xr.DataArray([4.0, 4.0, 0.0], dims="step", coords={"step": STEPS})
    about = {"behaviour": {"part": None, "chance": 4.0, "floor": 0.0}}
    stored.variables["loss"] = {"loss": Variable("loss", "loss", values, about)}
    said = [each.sentence for each in first_lines(stored)]  # pyright: ignore[reportArgumentType]
    assert said == [
        "Behaviour: loss 0.0 (chance 4): 100.0 % of the gap closed, half-way at step 31 (9 to 99).",
        "Circuit: not searched for; headway circuit RUN finds it.",
        "Signatures: L0H0 previous-token head 0.900.",
    ]
    assert {of: str(step) for of, step in half_way_steps(stored).items()} == {"behaviour": "at step 31 (9 to 99)"}  # pyright: ignore[reportArgumentType]
    assert head_lines(stored) == {"L0H0": "previous-token head 0.900, half-way at step 26"}  # pyright: ignore[reportArgumentType]
    # What has learned nothing is half-way nowhere.
    stored.variables["loss"] = {"loss": Variable("loss", "loss", values + 4, about)}
    assert half_way_steps(stored) == {}  # pyright: ignore[reportArgumentType]
