"""Handmade numbers of circuits, and what is said of them."""

import math

import numpy as np
import xarray as xr

from headway.analyze.circuits.groups import Parts, label
from headway.analyze.measures.head_names import spans
from headway.analyze.report.circuit_lines import circuit_lines

NODES = ["embed", "L0H0", "L0H1", "L0H2", "L1H0", "L1H1", "L1H2"]
EDGES = [
    "embed->L0H1.v", *(f"{source}.{letter}" for head in ("L1H0", "L1H1", "L1H2")
                       for source, letter in ((f"embed->{head}", "q"), (f"L0H1->{head}", "k"))),
    "L1H0->output", "L1H1->output", "L1H2->output",
]  # fmt: skip
NAMES = {
    "L0H1": ["previous-token head", "previous_token", 0.9],
    "L0H2": ["attention sink", "first_token", 0.8],
    **{f"L1H{head}": ["induction head", "prefix_matching", 0.9 + head / 100] for head in range(3)},
}


def made_up(effect: dict[str, float], second: dict[str, float], **options: object) -> xr.Dataset:
    """L0H1 -K-> L1H0, L1H1, for which L1H2 stands in; 4 nats are known under twin, 2 under position_mean."""
    inside = ["embed", "L0H1", "L1H0", "L1H1"]
    stand_in = np.zeros((7, 7), dtype=bool)
    stand_in[NODES.index("L1H1"), NODES.index("L1H2")] = True
    numbers = {"faithfulness": 0.99, "faithfulness_low": 0.98, "faithfulness_high": 0.995, "necessity": 0.5,
               "reach_necessity": 1.0, "known": 4.0, "second_known": 2.0}  # fmt: skip
    scores = xr.Dataset(
        {
            **numbers,
            "effect": ("node", [effect.get(node, 0.0) for node in NODES]),
            "second_effect": ("node", [second.get(node, 0.0) for node in NODES]),
            "node_cost": ("node", [0.25 if node in inside else 0.0 for node in NODES]),
            "node_in_circuit": ("node", [node in inside for node in NODES]),
            "in_circuit": ("edge", ["L1H2" not in edge for edge in EDGES]),
            "stand_in": (("node", "other"), stand_in),
            "control_faithfulness": ("control", [0.0, 0.01, 0.2]),
        },
        {"node": NODES, "other": NODES, "edge": EDGES},
    )
    scores["known"].attrs |= {"replacement": "twin", "second": "position_mean", "step": 99}
    scores["node_in_circuit"].attrs["names"] = options.get("names", NAMES)
    return scores


def judged_together(scores: xr.Dataset, effect: dict[str, float], second: dict[str, float]) -> xr.Dataset:
    """The same circuit with the effects of its sets of nodes, by their labels."""
    labels = [label(names) for names in Parts(scores).together]
    assert labels == list(effect) == list(second)
    both = {"group_effect": ("group", [*effect.values()]), "second_group_effect": ("group", [*second.values()])}
    return scores.assign(both).assign_coords(group=labels)


def text(*arguments: object, **options: object) -> str:
    return " ".join(" ".join(circuit_lines(*arguments, **options)).split())  # pyright: ignore[reportArgumentType]


def test_a_circuit_is_its_routes_its_numbers_its_parts_and_the_rest():
    effects = {"L0H1": 1.0, "L1H0": 0.5, "L1H1": 0.01, "L1H2": 0.005}
    scores = made_up(effects, effects | {"L1H0": 0.02})
    amounts = {"faithfulness": ("step", [math.nan, 0.0, 0.99]), "known": ("step", [0.0, 4.0, 4.0])}
    over = xr.Dataset(amounts, {"step": [0, 9, 99]})
    said = text(scores, over, nulls={("L0H1", "previous_token"): 0.07})
    assert (
        "Circuit L0H1 -K-> L1H0, L1H1: keeps 99.0 % [98.0, 99.5] alone (random circuits 1.0 %, at most 20.0 %)" in said
    )
    assert "without it 50.0 % is lost, 100.0 % without L1H2 too, half-way at step 31 (9 to 99)" in said
    assert "L0H1 previous-token head 0.900 (null 0.070) necessary: 4.0 nats (twin), 2.0 (position_mean)" in said
    assert "L1H0 to L1H2 induction heads 0.900 to 0.920" in said
    assert "depends on the replacement: L1H0 2.0 nats (twin), 0.040 (position_mean)" in said
    assert "redundant: L1H1, L1H2 0.020 to 0.040 nats (twin), 0.010 to 0.020 (position_mean) singly" in said
    assert "1.0 where only the circuit is kept; L1H2 can stand in for L1H1" in said
    assert said.endswith("Not needed L0H0, L0H2 (attention sink)")
    assert said.isascii()
    for width in (120, 200, 80):
        assert all(len(line) <= width for line in circuit_lines(scores, over, columns=width))
    # Nothing that nobody measured is made up.
    assert "together" not in said


def test_alike_parts_are_judged_together_too():
    effects = {"L0H1": 1.0, "L1H0": 0.5, "L1H1": 0.01, "L1H2": 0.005}
    scores = made_up(effects, effects | {"L1H0": 0.02})
    sets = {"L1H0 L1H1 L1H2": 1.0, "L1H1 L1H2": 0.75}
    said = text(judged_together(scores, sets, sets))
    assert "singly, 3.0 (twin), 1.5 (position_mean) together, 1.0 where only the circuit is kept; all of" in said
    assert "; all of them 4.0 (twin), 2.0 (position_mean) together; L1H2 can stand in for L1H1" in said
    alike = {"L0H1": 1.0, "L1H0": 0.5, "L1H1": 0.25, "L1H2": 0.25}
    said = text(judged_together(made_up(alike, alike), {"L1H0 L1H1 L1H2": 1.25}, {"L1H0 L1H1 L1H2": math.nan}))
    assert "necessary: 1.0 to 2.0 nats (twin), 0.50 to 1.0 (position_mean) singly, 5.0 (twin) together" in said


def test_verdicts_wrap_below_their_own_column():
    effects = {"L0H1": 1.0, "L1H0": 0.5, "L1H1": 0.01, "L1H2": 0.005}
    lines = circuit_lines(made_up(effects, effects | {"L1H0": 0.02}), columns=110)
    first = next(line for line in lines if line.startswith("  L1H0 to L1H2"))
    column = first.index("depends")
    assert column > 45
    below = lines[lines.index(first) + 1]
    assert below[:column].isspace()
    assert not below[column].isspace()
    # Where the terminal has no room beside the cells, the verdict stands below them.
    narrow = circuit_lines(made_up(effects, effects), columns=64)
    place = next(at for at, line in enumerate(narrow) if line.startswith("  L1H0 to L1H2"))
    assert narrow[place].endswith("0.920")
    assert narrow[place + 1].startswith("      necessary: L1H0")


def test_parts_without_a_signature_are_unnamed_and_stand_together_if_their_edges_are_alike():
    said = text(made_up({"L0H1": 1.0}, {"L0H1": 1.0}, names={}), units="squared error")
    assert "L0H1 unnamed necessary: 4.0 squared error (twin), 2.0 (position_mean)" in said
    assert "L1H0 to L1H2 unnamed redundant: 0.0 squared error" in said
    assert "half-way" not in said


def test_a_part_outside_the_circuit_that_costs_something_is_not_said_to_be_idle():
    said = text(made_up({"L0H0": 0.5}, {}))
    assert "Outside it L0H0 (2.0 nats (twin), 0.0 (position_mean)), though the circuit does without" in said
    assert said.endswith("Not needed L0H2 (attention sink)")


def test_without_a_second_number_the_first_decides():
    scores = made_up({"L0H1": 1.0}, {})
    scores["second_effect"] = scores.second_effect * math.nan
    assert "L0H1 previous-token head 0.900 necessary: 4.0 nats (twin) " in text(scores)


def test_neighbours_are_a_span():
    assert spans(["L0H0", "L0H1", "L1H1", "L1H2", "L1H3", "MLP1"]) == "L0H0, L0H1, L1H1 to L1H3, MLP1"
    assert spans(["L0H8", "L0H9", "L0H10"]) == "L0H8 to L0H10"
    assert spans([]) == ""
