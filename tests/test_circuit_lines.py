"""Handmade numbers of circuits, and what is said of them."""

import math

import numpy as np
import xarray as xr

from headway.analyze.circuits.groups import (
    ALONE,
    DEPENDS,
    LITTLE_NEEDED,
    NECESSARY,
    REDUNDANT,
    UNDECIDED,
    Parts,
    label,
)
from headway.analyze.measures.head_names import spans
from headway.analyze.report.circuit_lines import circuit_in_a_line, circuit_lines

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
    """L0H1 -> keys of L1H0, L1H1, for which L1H2 stands in; 4 nats are known under twin, 2 under position_mean."""
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
            "node_cost": ("node", [options.get("cost", 0.25) if node in inside else 0.0 for node in NODES]),
            "node_in_circuit": ("node", [node in inside for node in NODES]),
            "in_circuit": ("edge", ["L1H2" not in edge for edge in EDGES]),
            "stand_in": (("node", "other"), stand_in),
            "control_faithfulness": ("control", [0.0, 0.01, 0.2]),
        },
        {"node": NODES, "other": NODES, "edge": EDGES},
    )
    scores["known"].attrs |= {"part": "repeats", "replacement": "twin", "second": "position_mean", "step": 99}
    scores["node_in_circuit"].attrs["names"] = options.get("names", NAMES)
    return within(scores, "effect", "second_effect", "node_cost")


def within(scores: xr.Dataset, *names: str, wide: float = 0.0) -> xr.Dataset:
    """The same numbers with intervals around them, as wide on both sides."""
    return scores.assign({f"{name}{end}": scores[name] + sign * wide
                          for name in names for end, sign in (("_low", -1), ("_high", 1))})  # fmt: skip


def judged_together(
    scores: xr.Dataset,
    effect: dict[str, float],
    second: dict[str, float],
    adds: dict[str, dict[str, float]] | None = None,
) -> xr.Dataset:
    """The same circuit with the effects of its sets of nodes by their labels, and with what each node adds to one."""
    both = {"group_effect": ("group", [*effect.values()]), "second_group_effect": ("group", [*second.values()])}
    marginal = [[(adds or {}).get(names, {}).get(node, math.nan) for node in NODES] for names in effect]
    scores = scores.assign(both).assign_coords(group=list(effect))
    scores = scores.assign({f"{kind}marginal_effect": (("group", "node"), marginal) for kind in ("", "second_")})
    judged = within(scores, *(f"{kind}{name}_effect" for kind in ("", "second_") for name in ("group", "marginal")))
    assert {label(names) for names in Parts(judged).together} == set(effect)
    return judged


def text(*arguments: object, **options: object) -> str:
    return " ".join(" ".join(circuit_lines(*arguments, **options)).split())  # pyright: ignore[reportArgumentType]


def test_a_circuit_is_its_routes_its_numbers_its_parts_and_the_rest():
    effects = {"L0H1": 1.0, "L1H0": 0.5, "L1H1": 0.01, "L1H2": 0.005}
    scores = made_up(effects, effects | {"L1H0": 0.02})
    amounts = {"faithfulness": ("step", [math.nan, 0.0, 0.99]), "known": ("step", [0.0, 4.0, 4.0])}
    over = xr.Dataset(amounts, {"step": [0, 9, 99]})
    said = text(scores, over, nulls={("L0H1", "previous_token"): 0.07})
    assert said.startswith(
        "Circuit loss on repeats: L0H1 -> keys of L1H0, L1H1: alone it keeps 99.0 % [98.0, 99.5] of what"
    )
    assert "(random circuits 1.0 %, at most 20.0 %)" in said
    assert "without it 50.0 % is lost, 100.0 % without L1H2 too, half-way at step 31 (9 to 99)" in said
    assert "L0H1 previous-token head 0.900 (null 0.070) necessary: 4.0 nats (twin), 2.0 (position_mean)" in said
    assert "L1H0 to L1H2 induction heads 0.900 to 0.920" in said
    assert "depends on the replacement: L1H0 2.0 nats (twin), 0.040 (position_mean)" in said
    # Nothing says that L1H2 is needed without L1H1.
    assert "redundant: L1H1 0.040 nats (twin), 0.020 (position_mean), 1.0 where only the circuit is kept" in said
    assert "little needed alone: L1H2 0.020 nats (twin), 0.010 (position_mean); L1H2 can stand in for L1H1" in said
    assert said.endswith("Not needed L0H0, L0H2 (attention sink)")
    assert said.isascii()
    for width in (120, 200, 80):
        assert all(len(line) <= width for line in circuit_lines(scores, over, columns=width))
    # In one line it says the same with fewer numbers.
    assert circuit_in_a_line(scores, over) == (
        "loss on repeats: L0H1 -> keys of L1H0, L1H1: alone it keeps 99.0 % of what is known "
        "(random circuits at most 20.0 %), half-way at step 31"
    )
    # Nothing that nobody measured is made up.
    assert "together" not in said


def test_alike_parts_are_judged_together_too():
    effects = {"L0H1": 1.0, "L1H0": 0.5, "L1H1": 0.01, "L1H2": 0.005}
    scores = made_up(effects, effects | {"L1H0": 0.02})
    sets = {"L1H0 L1H1 L1H2": 1.0, "L1H1 L1H2": 0.75}
    adds = {"L1H1 L1H2": {"L1H2": 0.74}}
    said = text(judged_together(scores, sets, sets, adds))
    assert "redundant: L1H1, L1H2 0.020 to 0.040 nats (twin)" in said
    assert "singly, 3.0 (twin), 1.5 (position_mean) together, 1.0 where only the circuit is kept; all of" in said
    assert "; all of them 4.0 (twin), 2.0 (position_mean) together; L1H2 can stand in for L1H1" in said
    alike = {"L0H1": 1.0, "L1H0": 0.5, "L1H1": 0.25, "L1H2": 0.25}
    sets = {"L1H0 L1H1 L1H2": 1.25, "L1H1 L1H2": 0.5}
    said = text(judged_together(made_up(alike, alike), sets, sets | {"L1H0 L1H1 L1H2": math.nan}))
    assert "necessary: 1.0 to 2.0 nats (twin), 0.50 to 1.0 (position_mean) singly, 5.0 (twin) together" in said


def test_redundant_is_what_is_needed_once_the_others_are_gone():
    """L1H1 and L1H2 cost little alone. Together they cost much, or no more than the sum of the two."""
    effects = {"L0H1": 1.0, "L1H0": 0.5, "L1H1": 0.05, "L1H2": 0.04}
    alone = made_up(effects, effects, cost=0.06)
    assert Parts(alone).verdict("L1H1") == ALONE
    # Where everything outside the circuit is gone, nothing stands in for it.
    assert Parts(made_up(effects, effects, cost=0.6)).verdict("L1H1") == REDUNDANT
    assert Parts(within(made_up(effects, effects, cost=0.6), "node_cost", wide=0.55)).verdict("L1H1") == ALONE
    for together, adds, verdict in ((0.8, 0.76, REDUNDANT), (0.09, 0.05, LITTLE_NEEDED)):
        sets = {"L1H0 L1H1 L1H2": 0.9, "L1H1 L1H2": together}
        found = judged_together(alone, sets, sets, {"L1H1 L1H2": {"L1H1": adds, "L1H2": adds - 0.01}})
        assert [Parts(found).verdict(node) for node in ("L0H1", "L1H1", "L1H2")] == [NECESSARY, verdict, verdict]
        assert f"{verdict}: L1H1, L1H2 0.16 to 0.20 nats (twin)" in text(found)
        # What an interval does not show is not said.
        unsure = within(found, "marginal_effect", "second_marginal_effect", wide=0.7)
        assert Parts(unsure).verdict("L1H1") == LITTLE_NEEDED


def test_intervals_decide_and_what_spans_a_tenth_is_undecided():
    effects = {"L0H1": 0.3, "L1H0": 0.12, "L1H1": 0.08, "L1H2": 0.3, "L0H0": 0.12}
    scores = made_up(effects, effects | {"L1H2": 0.01}, cost=0.01)
    verdicts = {}
    for wide in (0.0, 0.05):
        parts = Parts(within(scores, "effect", "second_effect", wide=wide))
        verdicts[wide] = [parts.verdict(node) for node in ("L0H1", "L1H0", "L1H1", "L1H2")]
    assert verdicts == {
        0.0: [NECESSARY, NECESSARY, ALONE, DEPENDS],
        0.05: [NECESSARY, UNDECIDED, UNDECIDED, DEPENDS],
    }
    # The second replacement counts too: there the first part is surely needed, and here it may be.
    second = within(within(scores, "effect"), "second_effect", wide=0.25)
    assert Parts(second).verdict("L0H1") == UNDECIDED
    assert "Outside it L0H0 (undecided: 0.48 nats (twin), 0.24 (position_mean))" in text(second)
    assert "L0H0" not in text(second).partition("Not needed")[2]


def test_a_replacement_that_misleads_is_said_beside_the_circuit():
    scores = made_up({"L0H1": 1.0}, {"L0H1": 1.0})
    assert "misleads" not in text(scores)
    scores = scores.assign(misleads=False, all_replaced=4.2, chance=4.16)
    assert "misleads" not in text(scores)
    said = text(scores.assign(misleads=True, all_replaced=8.89, chance=4.605))
    assert "Replaced the replacement (twin) misleads: loss with everything replaced 8.9, chance 4.6;" in said


def test_the_numbers_of_the_search_are_below_the_headline():
    scores = made_up({"L0H1": 1.0}, {"L0H1": 1.0})
    numbers = {"known": 4.0, "necessity": 0.5, "minimality": 0.055, "cpr": 0.851, "cmd": 0.149}
    found = {"p": 0.25, "overlap": 0.8, "in_order": (("order", "edge"), np.ones((3, len(EDGES)), dtype=bool))}
    attributes = scores.known.attrs | {"units": "nats"}
    scores = within(scores.assign(found | numbers), *numbers, wide=0.002)
    scores["known"].attrs = attributes
    scores["minimality"].attrs["edge"] = "L0H1->L1H0.k"
    lines = circuit_lines(scores, columns=400)
    assert " ".join(lines[1].split()) == (
        "Numbers known 4 [4, 4] nats, necessity 0.500 [0.498, 0.502], p 0.25 against 3 random circuits, "
        "minimality 0.055 [0.053, 0.057] (L0H1->L1H0.k), CPR 0.851 [0.849, 0.853], CMD 0.149 [0.147, 0.151], "
        "the circuits of 3 orders share 80.0 % of their parts"
    )


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
    said = text(made_up({"L0H1": 1.0}, {"L0H1": 1.0}, names={}, cost=0.05), units="squared error")
    assert "L0H1 unnamed necessary: 4.0 squared error (twin), 2.0 (position_mean)" in said
    assert "L1H0 to L1H2 unnamed little needed alone: 0.0 squared error" in said
    assert "half-way" not in said


def test_a_part_outside_the_circuit_that_costs_something_is_not_said_to_be_idle():
    said = text(made_up({"L0H0": 0.5}, {}))
    assert "Outside it L0H0 (2.0 nats (twin), 0.0 (position_mean)), though the circuit does without" in said
    assert said.endswith("Not needed L0H2 (attention sink)")


def test_without_a_second_number_the_first_decides():
    scores = made_up({"L0H1": 1.0}, {})
    scores = within(scores.assign(second_effect=scores.second_effect * math.nan), "second_effect")
    assert "L0H1 previous-token head 0.900 necessary: 4.0 nats (twin) " in text(scores)


def test_neighbours_are_a_span():
    assert spans(["L0H0", "L0H1", "L1H1", "L1H2", "L1H3", "MLP1"]) == "L0H0, L0H1, L1H1 to L1H3, MLP1"
    assert spans(["L0H8", "L0H9", "L0H10"]) == "L0H8 to L0H10"
    assert spans([]) == ""
