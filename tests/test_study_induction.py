"""The study of induction: each claim on networks where it must hold and where it must fail, and the whole of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import xarray as xr
from claim_cases import (
    Cases,
    Premises,
    check_all_are_tested,
    check_all_premises_are_tested,
    check_case,
    check_premise,
    the_one,
)
from language_models import saved_gpt2
from toy_studies import untrained_run
from toys import TOKENS
from transformer_lens.model_bridge import TransformerBridge

from headway.analyze.studies import find_study
from headway.analyze.studies.induction.circuit import find_circuit
from headway.analyze.studies.induction.claims import claims
from headway.analyze.studies.induction.options import Options
from headway.analyze.studies.induction.sequences import Sequences, in_synonyms, own_repeats
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Claims, StudyResult
from headway.analyze.studies.runner import run_study
from headway.analyze.studying import study
from headway.checkpoints import Recipe
from headway.data.repeated_synonyms import RepeatedSynonyms
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch
from headway.data.tokenizer import token_string
from headway.models import handmade
from headway.models.config import Head
from headway.models.convert import load_bridge
from headway.models.hooked_transformer import HookedTransformer


class Case(NamedTuple):
    """A network, sequences, and what its heads are called by."""

    network: tuple[HookedTransformer, Batch]
    options: Options = Options()


def plain(kind: str = "k") -> Case:
    return Case(handmade.composing_pair(kind))  # pyright: ignore[reportArgumentType]


def fuzzy() -> Case:
    return Case(handmade.fuzzy_pair())


@torch.no_grad()
def twice(kind: str) -> Case:
    """Both heads of layer 1 do the same."""
    model, batch = handmade.composing_pair(kind)  # pyright: ignore[reportArgumentType]
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        weights = getattr(model.blocks[1].attn, name)
        weights[0] = weights[1]
    return Case((model, batch))


@torch.no_grad()
def nothing() -> Case:
    """Heads of zero weights: uniform attention that writes nothing."""
    model, batch = handmade.composing_pair("k")
    for block in model.blocks:
        for parameter in block.attn.parameters():
            parameter.zero_()
    return Case((model, batch))


@torch.no_grad()
def by_the_order_of_tokens() -> Case:
    """It attends to the token that is one larger, whatever stood before; in these sequences that is what follows."""
    model, batch = handmade.composing_pair("k")
    attention = model.blocks[1].attn
    attention.W_K[1, handmade.PREVIOUS] = 0
    attention.W_K[1, handmade.TOKEN, : handmade.D_VOCAB] = handmade.SHARP * torch.eye(handmade.D_VOCAB)
    attention.W_Q[1, handmade.TOKEN] = attention.W_Q[1, handmade.TOKEN].roll(-1, 0)
    return Case((model, in_order(batch)))


@torch.no_grad()
def half_of_the_tokens_each() -> Case:
    """Two induction heads, of which only the better is known for one: neither sees the queries of the other."""
    model, batch = twice("k").network
    model.blocks[1].attn.W_Q[0, :6] = 0
    model.blocks[1].attn.W_Q[1, 6:13] = 0
    return Case((model, batch), Options(induction_above=0.9))


@torch.no_grad()
def by_content() -> Case:
    """Its head of layer 0 looks at its like, which here is never the token before."""
    model, batch = handmade.composing_pair("k")
    attention = model.blocks[0].attn
    for W in (attention.W_Q, attention.W_K):
        W[0] = 0
        W[0, handmade.TOKEN, : handmade.D_VOCAB] = handmade.SHARP * torch.eye(handmade.D_VOCAB)
    return Case((model, batch))


@torch.no_grad()
def previous_by_content() -> Case:
    """Its head of layer 0 attends to the token that is one smaller, which in these sequences is the token before."""
    model, batch = handmade.composing_pair("k")
    attention, one = model.blocks[0].attn, handmade.SHARP * torch.eye(handmade.D_VOCAB)
    attention.W_Q[0], attention.W_K[0] = 0, 0
    attention.W_K[0, handmade.TOKEN, : handmade.D_VOCAB] = one
    attention.W_Q[0, handmade.TOKEN, : handmade.D_VOCAB] = one.roll(-1, 1)
    return Case((model, in_order(batch, 8)))


@torch.no_grad()
def copies_another_token() -> Case:
    """The induction head attends as it should, and writes the token that is one larger."""
    model, batch = handmade.composing_pair("k")
    model.blocks[1].attn.W_V[1] = model.blocks[1].attn.W_V[1].roll(1, -1)
    return Case((model, batch))


@torch.no_grad()
def another_head_writes_more() -> Case:
    """Beside the induction head, a head that attends by the order of tokens writes twice as much of the right logit."""
    model, batch = handmade.composing_pair("k")
    attention, one = model.blocks[1].attn, handmade.SHARP * torch.eye(handmade.D_VOCAB)
    attention.W_K[0, handmade.TOKEN, : handmade.D_VOCAB] = one
    attention.W_Q[0, handmade.TOKEN, : handmade.D_VOCAB] = one.roll(1, 1)
    attention.W_V[0], attention.W_O[0] = attention.W_V[1], 2 * attention.W_O[1]
    return Case((model, in_order(batch)), Options(induction_above=0.95))


@torch.no_grad()
def matches_few_tokens() -> Case:
    """Only the five tokens of these sequences match themselves; the keys of the others are in another order."""
    model, batch = handmade.composing_pair("k")
    others = torch.tensor([0, *range(6, handmade.D_VOCAB)])
    keys = model.blocks[1].attn.W_K[1, handmade.PREVIOUS]
    keys[others] = keys[others.roll(1)]
    return Case((model, in_order(batch, 5)))


def in_order(batch: Batch, period: int | None = None) -> Batch:
    """Sequences whose tokens grow by one within each copy."""
    periods = batch.info["period"] if period is None else torch.full_like(batch.info["period"], period)
    tokens = 1 + torch.arange(-1, 17) % periods[:, None]
    tokens[:, 0] = 0
    return batch._replace(inputs=tokens[:, :-1], targets=tokens[:, 1:], info={**batch.info, "period": periods})


CLAIMS: Cases = [
    ("predicts repeated tokens", plain, nothing),
    ("has a previous-token head", plain, by_content),
    ("attends by position", plain, previous_by_content),
    ("has an induction head", plain, partial(twice, "q")),
    ("keys of the induction head read", plain, by_the_order_of_tokens),
    ("tokens match themselves", plain, matches_few_tokens),
    ("OV circuit of the induction heads copies", plain, copies_another_token),
    ("write the right logit directly", plain, another_head_writes_more),
    ("need keys", plain, by_the_order_of_tokens),
    ("is necessary", plain, half_of_the_tokens_each),
    ("is sufficient", plain, half_of_the_tokens_each),
    ("needs positional embeddings", plain, by_the_order_of_tokens),
    ("followed a synonym", fuzzy, plain),
    ("predicts the synonyms", fuzzy, plain),
]


# There is no previous-token head, no induction head, neither, or no K-composition of the two.
PREMISES: Premises = [
    ("attends by position", by_content),
    ("keys of the induction head read", partial(twice, "q")),
    ("tokens match themselves", by_the_order_of_tokens),
    ("OV circuit of the induction heads copies", partial(twice, "q")),
    ("write the right logit directly", partial(twice, "q")),
    ("need keys", by_content),
    ("is necessary", by_content),
    ("is sufficient", by_content),
    ("needs positional embeddings", partial(twice, "q")),
]


@lru_cache
def found(build: Callable[[], Case]) -> Claims:
    """The claims of a network, on its own sequences and on those with synonyms."""
    (model, batch), options = build()
    own = torch.arange(handmade.D_VOCAB)
    with_synonyms = Sequences(handmade.fuzzy_pair()[1], handmade.SYNONYMS.synonyms)
    sequences = with_synonyms if isinstance(batch.task, RepeatedSynonyms) else Sequences(batch, own)
    return claims(LoadedModel("by hand", None, model), sequences, with_synonyms, options)


@pytest.mark.parametrize(("says", "accepted", "rejected"), CLAIMS, ids=[each[0] for each in CLAIMS])
def test_a_claim_holds_and_fails_where_it_must(says: str, accepted: Callable[[], Case], rejected: Callable[[], Case]):
    check_case(found(accepted), found(rejected), says)


def test_every_claim_is_tested():
    check_all_are_tested(found(plain), CLAIMS)


@pytest.mark.parametrize(("says", "fails"), PREMISES, ids=[each[0] for each in PREMISES])
def test_a_claim_whose_premise_fails_is_not_measured(says: str, fails: Callable):
    check_premise(found(fails), says)


def test_every_premise_is_tested():
    check_all_premises_are_tested(found(CLAIMS[0][1]), PREMISES)


def test_under_synonyms_the_fuzzy_circuit_is_an_induction_circuit():
    """All claims hold of it on its own sequences, as all but the last two hold of the plain one on plain ones."""
    assert all(claim.holds for claim in found(fuzzy))
    assert [claim.holds for claim in found(plain)] == [True] * 12 + [False] * 2


def test_the_circuit_is_found_by_what_its_heads_look_at():
    model, batch = handmade.composing_pair("k")
    circuit = find_circuit(model, Sequences(batch, torch.arange(13)), Options())
    assert circuit is not None
    assert (circuit.previous, circuit.induction) == (Head(0, 0), Head(1, 1))
    assert circuit.heads == (Head(0, 0), Head(1, 1))
    # Below the thresholds the best are taken, and never a later head for what an earlier one reads.
    (model, batch), options = half_of_the_tokens_each()
    circuit = find_circuit(model, Sequences(batch, torch.arange(13)), options)
    assert circuit is not None
    assert len(circuit.induction_heads) == 1


@torch.no_grad()
def test_a_later_previous_token_head_does_not_hide_the_circuit():
    """Between the layers of the circuit's heads stands one that looks at the token before more sharply, for nobody."""
    pair, batch = handmade.composing_pair("k")
    model = HookedTransformer(replace(pair.cfg, n_layers=3)).eval()
    model.load_state_dict(
        {name: torch.zeros_like(value) for name, value in model.state_dict().items()} | pair.state_dict()
    )
    first, second = (block.attn for block in model.blocks[:2])
    second.W_Q[0], second.W_K[0] = first.W_Q[0], first.W_K[0]
    first.W_Q[0] *= 0.25
    circuit = find_circuit(model, Sequences(batch, torch.arange(13)), Options())
    assert circuit is not None
    assert (circuit.previous, circuit.induction) == (Head(0, 0), Head(1, 1))
    assert circuit.previous_heads == (Head(0, 0),)


def test_what_is_lost_is_not_measured_of_a_network_that_knows_nothing():
    for says in ("need keys", "necessary", "sufficient", "needs positional embeddings"):
        assert np.isnan(the_one(found(nothing), says).number)


SYNONYMS = replace(
    TOKENS,
    task=RepeatedSynonyms(n_pairs=7, length=11, period_min=4, period_max=5),
    model=replace(TOKENS.model, d_vocab=15, d_vocab_out=15),
)


@pytest.mark.whole
@pytest.mark.parametrize("kind", ["plain", "synonyms"])
def test_from_end_to_end(kind: str, tmp_path: Path):
    """A run, with one whose copies are synonyms beside it; and that one alone."""
    fuzzy = untrained_run(tmp_path / "fuzzy", SYNONYMS, (0, 17))
    run, others = (untrained_run(tmp_path / "run", TOKENS, (0, 17)), [fuzzy]) if kind == "plain" else (fuzzy, [])
    result = study("induction", run, others, sequences=11)
    figures = [figure for section in result.sections for figure in section.figures]
    assert {figure.kind for figure in figures} == {"lines", "maps", "table"}
    xr.testing.assert_identical(StudyResult.read(run.study_file("induction", 17)).to_tree(), result.to_tree())
    assert json.dumps(result.claims[0].says)[1:-1] in run.report_file.read_text()
    tree = result.to_tree()
    formed = tree["Over training/Measures over training"]
    assert formed.step.values.tolist() == [0, 17]
    assert formed.prefix_matching.dims == ("layer", "head", "step")
    # What is said at the last step is what is said over training.
    scores = tree["Heads/Scores of all heads"].prefix_matching
    np.testing.assert_array_equal(scores, formed.prefix_matching.isel(step=-1))
    networks = tree["Fuzzy induction/Induction and fuzzy induction"].network.values.tolist()
    beside = [f"{run.path}, equal", f"{run.path}, synonyms", f"{fuzzy.path}, synonyms"]
    assert networks == (beside if kind == "plain" else [f"{run.path}, synonyms"])
    removed = tree["Ablation/Loss when sets of heads are ablated"]
    assert removed.heads.values[[0, -1]].tolist() == [0, 6]


@pytest.mark.parametrize(
    "changes",
    [
        {"n_layers": 1, "positional_embedding_type": "none"},
        {"n_layers": 3, "attn_only": False, "d_mlp": 17, "positional_embedding_type": "shortformer"},
        {"normalization_type": None, "positional_embedding_type": "none"},
    ],
    ids=["one layer", "three layers, MLPs, shortformer", "no positions, no LN"],
)
def test_any_network_of_the_task_can_be_studied(changes: dict, tmp_path: Path):
    recipe: Recipe = replace(TOKENS, model=replace(TOKENS.model, **changes))
    found = find_study("induction")
    result = run_study(found, untrained_run(tmp_path / "run", recipe), found.given({"sequences": 7}))
    xr.testing.assert_identical(StudyResult.from_tree(result.to_tree()).to_tree(), result.to_tree())


def test_pairs_come_from_a_file(tmp_path: Path):
    file = tmp_path / "pairs.txt"
    file.write_text("1, 8\n2, 9\n\n3,10\n4, 11\n3, 12\n5, 5\n6, 13\n")
    network = LoadedModel.of(untrained_run(tmp_path / "run", TOKENS))
    synonyms = in_synonyms(network, own_repeats(network), str(file))
    assert synonyms is not None
    assert "5 pairs of pairs.txt, of which 2 are left out because a token is in an earlier pair" in synonyms.source
    sequences = synonyms.sequences(seed=0, count=7)
    tokens = {1, 8, 2, 9, 3, 10, 4, 11, 6, 13}
    assert set(sequences.batch.inputs[:, 1:].flatten().tolist()) <= tokens
    assert set(sequences.paired.tolist()) == tokens
    assert sequences.same[[8, 2, 9, 5, 0]].tolist() == [1, 2, 2, 5, 0]


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> TransformerBridge:
    return load_bridge(str(saved_gpt2(tmp_path_factory.mktemp("models") / "gpt2-tiny")))


def test_a_language_model_is_studied_in_its_own_tokens(bridge: TransformerBridge):
    found = find_study("induction")
    result = run_study(found, bridge, found.given({"sequences": 3}))
    assert (result.step, result.run) == (None, bridge.cfg.model_name)
    tokens = result.to_tree()["Predictions/Predictions in the second copy"].token.values.tolist()
    assert set(tokens) <= {token_string(bridge.tokenizer, token) for token in range(bridge.cfg.d_vocab)}
    assert "Over training" not in [section.title for section in result.sections]


def test_a_part_of_a_character_is_shown_by_its_bytes(bridge: TransformerBridge):
    network, parts = LoadedModel.of(bridge), bridge.tokenizer("é", add_special_tokens=False)["input_ids"]
    assert [network.token(part) for part in parts] == [r"\xc3", r"\xa9"]


def test_words_that_a_tokenizer_splits_are_left_out_and_named(bridge: TransformerBridge, tmp_path: Path):
    file = tmp_path / "pairs.txt"
    file.write_text("Mary, John\nshop, book\nMaryJohn, to\n")
    network = LoadedModel.of(bridge)
    synonyms = in_synonyms(network, own_repeats(network), str(file))
    assert synonyms is not None
    assert "2 pairs of pairs.txt" in synonyms.source
    assert "words that the tokenizer splits, such as MaryJohn (ĠMary+" in synonyms.source


def test_a_sequence_without_a_repeat_has_no_induction_to_be_studied():
    """Tasks refuse to be so, and a batch by hand is refused by the measures."""
    with pytest.raises(ValueError, match="period_max: 17 is not valid"):
        RepeatedTokens(length=17, period_max=17)
    model, batch = handmade.composing_pair("k")
    ascending = batch._replace(inputs=torch.arange(13).expand(3, -1), targets=torch.arange(13).expand(3, -1))
    with pytest.raises(ValueError, match="needs a token that repeats within a sequence; no token of this batch does"):
        find_circuit(model, Sequences(ascending, torch.arange(13)), Options())
