"""Faithfulness, necessity and the logit difference: their ends, and numbers that a hand-made network must give."""

import math

import pytest
import torch

from headway.analyze.circuits.faithfulness import Known, faithfulness, necessity
from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.logit_difference import logit_difference
from headway.analyze.measures.loss import loss
from headway.analyze.network.interventions import Kind, heads_except
from headway.data.task import Batch
from headway.models import handmade
from headway.models.config import Head
from headway.models.hooked_transformer import HookedTransformer

PREVIOUS, INDUCTION, IDLE = Head(0, 0), Head(1, 1), (Head(0, 1), Head(1, 0))


@pytest.fixture(scope="module")
def pair() -> tuple[HookedTransformer, Batch]:
    """A previous-token head, an induction head that reads it, and two heads that do nothing."""
    return handmade.composing_pair("k")


@pytest.mark.parametrize("kind", ["mean", "zero", "position_mean", "resample"])
def test_the_ends(pair: tuple[HookedTransformer, Batch], kind: Kind):
    every = heads_except(pair[0])
    assert faithfulness(*pair, [], kind, "repeats") == 0
    assert faithfulness(*pair, every, kind, "repeats") == 1
    assert necessity(*pair, [], kind, "repeats") == 0
    assert necessity(*pair, every, kind, "repeats") == 1


def test_the_circuit_alone_is_faithful_and_each_of_its_heads_is_needed(pair: tuple[HookedTransformer, Batch]):
    circuit = (PREVIOUS, INDUCTION)
    assert faithfulness(*pair, circuit, part="repeats") == pytest.approx(1, abs=0.01)
    assert necessity(*pair, circuit, part="repeats") == pytest.approx(1, abs=0.01)
    assert necessity(*pair, IDLE, part="repeats") == pytest.approx(0, abs=0.01)
    for head in circuit:
        assert faithfulness(*pair, [head], part="repeats") == pytest.approx(0, abs=0.1)
        assert necessity(*pair, [head], part="repeats") > 0.9


@pytest.mark.parametrize("part", [None, "first", "repeats"])
def test_both_are_shares_of_what_the_network_knows(pair: tuple[HookedTransformer, Batch], part: str | None):
    """Of the losses of that part, by their formulas; and the necessity of some is what the rest lack."""
    name, kept = "loss" if part is None else f"loss_{part}", (PREVIOUS, Head(1, 0))
    clean, replaced, alone, without = (
        each[name].item()
        for each in (
            loss(*pair),
            ablated_loss(*pair, heads_except(pair[0])),
            ablated_loss(*pair, heads_except(pair[0], kept)),
            ablated_loss(*pair, kept),
        )
    )
    if replaced - clean < 0.1 * replaced:
        assert math.isnan(faithfulness(*pair, kept, part=part))
        return
    assert faithfulness(*pair, kept, part=part) == pytest.approx((replaced - alone) / (replaced - clean), abs=1e-6)
    assert necessity(*pair, kept, part=part) == pytest.approx((without - clean) / (replaced - clean), abs=1e-6)
    rest = heads_except(pair[0], kept)
    assert necessity(*pair, rest, part=part) == pytest.approx(1 - faithfulness(*pair, kept, part=part), abs=2e-6)


def test_a_network_that_knows_next_to_nothing_has_neither():
    assert math.isnan(Known(clean=3.61, replaced=4.0).faithfulness(3.8))
    assert math.isnan(Known(clean=3.61, replaced=4.0).necessity(3.8))
    # Nor one whose heads do harm, or that makes no mistake in either way.
    assert math.isnan(Known(clean=0.0, replaced=0.0).faithfulness(0.0))
    assert math.isnan(Known(clean=4.0, replaced=3.0).faithfulness(3.5))
    known = Known(clean=3.59, replaced=4.0)
    assert known.amount == pytest.approx(0.41)
    assert known.faithfulness(3.59) == 1
    # What misleads is below 0, what is better alone above 1.
    assert known.faithfulness(5.0) == pytest.approx(-1 / 0.41, abs=1e-6)
    assert known.faithfulness(3.0) == pytest.approx(1 / 0.41, abs=1e-6)


def test_the_reference_says_what_stands_in(pair: tuple[HookedTransformer, Batch]):
    model, batch = pair
    same = batch._replace(inputs=batch.inputs.clone())
    # A network that reads the same in the place of everything loses nothing, and so nothing can be said of it.
    assert math.isnan(faithfulness(model, batch, [PREVIOUS], "resample", "repeats", reference=same))
    assert math.isnan(necessity(model, batch, [PREVIOUS], "resample", "repeats", reference=same))
    known = Known.of(model, batch, "resample", "repeats", reference=same)
    assert known.replaced == pytest.approx(known.clean, abs=1e-5)


def test_the_logit_difference_is_taken_where_it_counts():
    model, batch = handmade.composing_pair("k")
    wrong = (batch.targets + 1) % handmade.D_VOCAB
    logits = model(batch.inputs)
    expected = []
    for row, position in batch.mask.nonzero().tolist():
        right, other = batch.targets[row, position], wrong[row, position]
        expected.append((logits[row, position, right] - logits[row, position, other]).item())
    found = logit_difference(model, batch, wrong)
    torch.testing.assert_close(found, torch.tensor(expected))
    assert len(found) == int(batch.mask.sum())
    # Its ends: a right answer that is taken for the wrong one is not ahead, and each is ahead by what the other lacks.
    assert not logit_difference(model, batch, batch.targets).any()
    swapped = logit_difference(model, batch._replace(targets=wrong), batch.targets)
    torch.testing.assert_close(swapped, -found)


def test_the_logit_difference_refuses_answers_that_do_not_exist():
    model, batch = handmade.composing_pair("k")
    for wrong in (batch.targets + 13, batch.targets - 13):
        with pytest.raises(ValueError, match=r"^wrong: -?\d+ to -?\d+, of .* is not valid; it must be 0 to 12"):
            logit_difference(model, batch, wrong)
    vectors = handmade.affine_reader()
    with pytest.raises(ValueError, match="needs tokens to be predicted"):
        logit_difference(*vectors, torch.zeros(vectors[1].mask.shape, dtype=torch.long))
