"""What formed, and when, on scores made up for it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from headway.analyze.formation.dates import formed_from, onset, outside
from headway.analyze.formation.half_way import HalfWay
from headway.analyze.formation.induction import InductionCircuit, induction_circuits, sentences
from headway.analyze.formation.roles import ROLES, roles
from headway.analyze.formation.strongest import Formed, strongest, what_formed
from headway.analyze.measures.attention import (
    current_token,
    duplicate_token,
    first_token,
    fixed_offset,
    mirror,
    prefix_matching,
    previous_token,
)
from headway.analyze.measures.composition import k_composition, q_composition
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.handmade import (
    composing_pair,
    current_token_head,
    duplicate_token_head,
    first_token_head,
    mirror_head,
    offset_head,
    previous_token_head,
    uniform_head,
)
from headway.models.hooked_transformer import HookedTransformer


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
    assert str(found) == "previous token: L0H0"
    assert found.when == "100 to 1000"
    assert [each.since for each in what_formed(made_up([[0.0, 0], [1, 2]]))] == [None]
    assert what_formed(made_up([[math.nan, math.nan], [math.nan, math.nan]])) == []


def scores_of(*networks: tuple[HookedTransformer, Batch]) -> xr.Dataset:
    """What a run would have that kept these networks, one a step; bands of attention reach .1 beyond chance."""
    steps: list[xr.Dataset] = []
    for model, batch in networks:
        measures = (previous_token, prefix_matching, duplicate_token, current_token, first_token, fixed_offset, mirror)
        scores = xr.Dataset()
        for each in measures:
            scores = scores.merge(each(model, batch))
        for name in ROLES:
            chance = scores[f"{name}_chance"]
            scores[f"{name}_low"], scores[f"{name}_high"] = chance - 0.1, chance + 0.1
        if model.cfg.n_layers > 1:
            scores = scores.merge(q_composition(model, batch)).merge(k_composition(model, batch))
        steps.append(scores.assign_coords({axis: range(size) for axis, size in scores.sizes.items()}))
    return xr.concat(steps, dim=xr.Variable("step", [10**i for i in range(len(steps))]))


@pytest.mark.parametrize(
    ("build", "role"),
    [
        (previous_token_head, "previous_token"),
        (current_token_head, "current_token"),
        (first_token_head, "first_token"),
        (duplicate_token_head, "duplicate_token"),
        (offset_head, "fixed_offset"),
        (mirror_head, "mirror"),
        (uniform_head, ""),
    ],
)
def test_a_head_s_role_is_what_it_attends_to(build: Callable[[], tuple[HookedTransformer, Batch]], role: str):
    found = roles(scores_of(build())).isel(step=0, layer=0, head=0)
    assert found.role.item() == role
    if role:
        assert found.role_share.item() > 0.9
    else:
        assert math.isnan(found.role_share.item())


def test_an_induction_circuit_is_a_pair_that_composes_through_keys():
    """The same two heads that compose through queries or values, and a uniform pair, are none."""
    circuits = induction_circuits(scores_of(composing_pair("k")))
    assert [(each.previous, each.induction) for each in circuits] == [(Head(0, 0), Head(1, 1))]
    assert circuits[0].since == 1
    # Its ceiling: the flat spectrum of 13 tokens, perfectly aligned.
    assert circuits[0].k_composition == pytest.approx(13**-0.5)
    assert sentences(circuits) == [
        "L0H0 and L1H1 have the signatures of an induction circuit, half-way before step 1: previous-token head "
        "(1.000), prefix matching (1.000), and keys that read L0H0 (K-composition 0.277)."
    ]
    assert induction_circuits(scores_of(composing_pair("q"))) == []
    assert induction_circuits(scores_of(composing_pair("v"))) == []
    assert induction_circuits(scores_of(previous_token_head())) == []


def test_an_induction_circuit_is_one_since_the_last_of_its_parts_formed():
    blank = composing_pair("k")[0]
    with torch.no_grad():
        blank.blocks[1].attn.W_Q.zero_()
    batch = composing_pair("k")[1]
    circuits = induction_circuits(scores_of((blank, batch), composing_pair("k"), composing_pair("k")))
    assert [each.since for each in circuits] == [10]
    assert induction_circuits(scores_of(composing_pair("k"), (blank, batch))) == []


def test_pairs_with_one_previous_token_head_share_a_sentence():
    """Two that are half-way at steps of their own, and one that composes too little to be called a circuit."""

    def pair(head: int, step: float, composed: float) -> InductionCircuit:
        half = HalfWay(step, (10, 1000))
        return InductionCircuit(Head(0, 3), Head(1, head), 17, 0.9, 0.9 + head / 100, 0.3, composed, half)

    formed, partly = sentences([pair(2, 155.0, 0.9), pair(1, 151.4, 0.5), pair(4, 140.0, 0.49)])
    assert formed == (
        "L0H3 and L1H1, L1H2 have the signatures of an induction circuit, half-way at steps 151 to 155: previous-token "
        "head (0.900), prefix matching (0.910 to 0.920), and keys that read L0H3 (K-composition 0.300)."
    )
    assert partly.startswith(
        "L0H3 and L1H4 K-compose, but less than half of the way, half-way at step 140 (10 to 1000)"
    )
    # The first step outside a null band is no date of a circuit.
    assert "17" not in formed + partly


def blended(scores: xr.Dataset, shares: tuple[float, ...], name: str, head: Head) -> xr.Dataset:
    """The same scores, in which one head has gone the given share of the way from chance to all, by step."""
    changed = scores.copy(deep=True)
    for at, share in enumerate(shares):
        chance = float(changed[f"{name}_chance"].isel(step=at))
        changed[name][at, head.layer, head.head] = chance + share * (1 - chance)
    return changed


def test_a_circuit_begins_when_its_heads_do_mainly_what_it_takes_and_not_when_they_leave_their_bands():
    pair = composing_pair("k")
    scores = scores_of(pair, pair, pair)
    assert [each.since for each in induction_circuits(scores)] == [1]
    for name, head in (("previous_token", Head(0, 0)), ("prefix_matching", Head(1, 1))):
        slow = blended(scores, (0.3, 0.49, 0.51), name, head)
        assert (outside(slow, name).sel(head._asdict()) == 1).all()
        assert [each.since for each in induction_circuits(slow)] == [100]
        assert induction_circuits(blended(scores, (1.0, 1.0, 0.4), name, head)) == []
        assert roles(slow).role_share.sel(head._asdict()).values.tolist() == pytest.approx([0.3, 0.49, 0.51])


def test_a_head_whose_main_attention_goes_elsewhere_is_no_part_of_a_circuit():
    scores = scores_of(composing_pair("k"))
    split = blended(scores, (0.55,), "previous_token", Head(0, 0))
    split = blended(split, (0.6,), "current_token", Head(0, 0))
    assert roles(split).role.isel(step=0).sel(layer=0, head=0).item() == "current_token"
    assert induction_circuits(split) == []


def test_a_score_below_its_null_has_not_formed():
    found = strongest(made_up([[0, 0], [-1, -9], [-8, -9], [-8, -9]]), "previous_token")
    assert found.z == -8
    assert found.when == "not formed"
    assert found.sentence == "No previous-token head (highest: L0H0, -0.080; null 0.100, below its 99 % band)."
    within = strongest(made_up([[0, 0], [0, 2]]), "previous_token")
    assert within.sentence == "No previous-token head (highest: L0H1, 0.020; null 0.100, inside its 99 % band)."


def test_a_head_has_formed_more_than_half_of_the_way_from_its_null_to_one():
    def sentence(score: float, **options: Any) -> str:
        known = {"null": 0.2, "null_std": 1e-4, "z": 20.0, "since": (10, 20), **options}
        return Formed("prefix_matching", (Head(0, 2),), score, **known).sentence

    slight = sentence(0.212)
    assert slight.startswith("No prefix-matching head (highest: L0H2, 0.212; null 0.200): ")
    assert slight.endswith("leaves its 99 % band for good between steps 10 and 20, but it is only 1.5% of the way from "
                           "the null to 1.")  # fmt: skip
    assert sentence(0.6).startswith("No prefix-matching head")
    assert sentence(0.601) == (
        "L0H2 is a prefix-matching head: prefix_matching 0.601 (null 0.200). "
        "The score leaves its 99 % band for good between steps 10 and 20."
    )
    assert sentence(0.9, since=(None, 0)).endswith("The score is outside its 99 % band from the start.")
    assert sentence(0.9, since=(None, 10)).endswith("The score is outside its 99 % band by step 10.")
    dated = Formed("prefix_matching", (Head(0, 2),), 0.9, 0.2, 1e-4, 20.0, (10, 20), half=HalfWay(30.2, (20, 40)))
    assert dated.formed
    assert dated.dates == (
        "prefix_matching of L0H2 is half-way at step 30 (20 to 40), and leaves its 99 % band for good between steps 10 "
        "and 20."
    )
    # How far a composition can go its ceiling says.
    pair = Formed("k_composition", (Head(0, 1), Head(1, 2)), 0.25, 0.125, 0.01, 12.5, (10, 20), ceiling=0.3)
    assert str(pair) == "K-composition: L0H1, L1H2"
    assert pair.sentence.startswith("L0H1 and L1H2 K-compose: k_composition 0.250 of at most 0.300 (null 0.125).")


@pytest.mark.parametrize(("score", "share"), [(0.28, "20.0%"), (0.549, "49.9%"), (0.551, None), (1.0, None)])
def test_a_head_that_is_less_than_half_of_the_way_from_chance_to_all_is_said_to_be(score: float, share: str | None):
    """From a null of .1 a score of .28 is .18 of .9."""
    found = strongest(made_up([[0], [100 * score]]), "previous_token")
    assert (f"{share} of the way" if share else "L0H0") in found.sentence
    assert ("of the way" in found.sentence) == (share is not None)


def test_the_edge_of_a_band_is_inside():
    scores = made_up([[0, 0], [3, -3], [3.001, -3.001]])
    assert outside(scores, "previous_token").values[:, 0].tolist() == [[0, 0], [0, 0], [1, -1]]


def test_pairs_have_formed_only_above_their_band():
    scores = made_up([[0, 0, 9], [9, -9, 9], [1, -9, 9], [9, -9, 1]])
    assert np.array_equal(formed_from(scores, "previous_token").values, [[1000, math.nan, math.nan]], equal_nan=True)
    assert formed_from(made_up([[9.0]]), "previous_token").values.tolist() == [[0]]


def test_entries_of_an_axis_beside_the_heads_are_dated_apart():
    scores = made_up([[0, 0], [9, 0], [9, 9], [9, 9]])
    twice = xr.concat([scores, scores.isel(head=[1, 0])], dim=xr.Variable("best", ["key", "query"]))
    found = formed_from(twice, "previous_token")
    assert found.dims == ("best", "layer", "head")
    assert found.values.tolist() == [[[10, 100]], [[100, 10]]]
