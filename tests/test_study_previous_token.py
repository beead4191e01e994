"""The study of the previous token: each claim on networks where it must hold and where it must fail, and all of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

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
from toy_studies import untrained_run
from toys import NO_POSITIONS

from headway.analyze.studies import find_study
from headway.analyze.studies.previous_token.claims import claims
from headway.analyze.studies.result import Claims, StudyResult
from headway.analyze.studies.runner import run_study
from headway.analyze.studying import study
from headway.checkpoints import Recipe
from headway.data.previous_token import PreviousToken
from headway.data.task import Batch
from headway.models import handmade
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer

Network = tuple[HookedTransformer, Batch]


@torch.no_grad()
def changed(network: Network, change: Callable[[HookedTransformer], None]) -> Network:
    change(network[0])
    return network


def nothing() -> Network:
    """Without weights beyond the embedding, which is 0: all tokens are alike likely, and attention is uniform."""

    def clear(model: HookedTransformer) -> None:
        for parameter in model.parameters():
            parameter.zero_()

    return changed(handmade.position_from_bos(), clear)


def looks_at_its_like() -> Network:
    """Layer 0 attends to earlier copies of the current token alone."""

    def look(model: HookedTransformer) -> None:
        for W in (model.blocks[0].attn.W_Q, model.blocks[0].attn.W_K):
            W[0, :13, :13] = handmade.SHARP * torch.eye(13)

    return changed(handmade.position_from_bos(), look)


def by_the_mlp() -> Network:
    """Attention brings the token, too weakly to say it, and the MLP of layer 1 says it."""

    def weaken(model: HookedTransformer) -> None:
        model.blocks[1].attn.W_O.mul_(3 / 20)
        mlp = model.blocks[1].mlp
        mlp.W_in[:13, :13], mlp.W_out[:13, :13] = torch.eye(13), 20 * torch.eye(13)
        mlp.b_in[:13] = -2.0  # the token itself counts 1, the one before 3

    return changed(handmade.position_from_bos(), weaken)


TOKEN, BEFORE, AT = slice(0, 13), slice(13, 26), slice(26, 37)


@torch.no_grad()
def with_positions() -> Network:
    """Layer 0 looks at the token before by a table of positions, and copies it; layer 1 does nothing."""
    task = handmade.NO_POSITIONS
    sizes = ModelConfig(
        n_layers=2, d_model=41, n_ctx=task.length, d_head=19, n_heads=1, d_vocab=13, d_mlp=7, normalization_type=None,
        initializer_range=0.0,
    )  # fmt: skip
    model = HookedTransformer(sizes)
    model.W_E[:, TOKEN] = torch.eye(13)
    model.W_pos[:, AT] = torch.eye(task.length)
    model.W_U[BEFORE] = 20 * torch.eye(13)
    attention = model.blocks[0].attn
    attention.W_K[0, AT, : task.length] = handmade.SHARP * torch.eye(task.length)
    attention.W_Q[0, AT, : task.length] = handmade.SHARP * torch.eye(task.length).roll(-1, 1)
    attention.W_V[0, TOKEN, :13], attention.W_O[0, :13, BEFORE] = torch.eye(13), torch.eye(13)
    return model.eval(), task.evaluation_batch(seed=0, batch_size=29)


def by_token() -> Network:
    """As ``with_positions``, but the token itself is said louder, and layer 1 takes it away from copies of itself."""

    def take_away(model: HookedTransformer) -> None:
        model.W_U[TOKEN] = 60 * torch.eye(13)
        attention = model.blocks[1].attn
        for W in (attention.W_Q, attention.W_K):
            W[0, TOKEN, :13] = handmade.SHARP * torch.eye(13)
        attention.W_V[0, TOKEN, :13], attention.W_O[0, :13, TOKEN] = torch.eye(13), -torch.eye(13)

    return changed(with_positions(), take_away)


@torch.no_grad()
def through_attention() -> Network:
    """Layer 0 attends to the current position and copies position and token; layer 1 reads these copies alone."""
    task, n = handmade.NO_POSITIONS, handmade.NO_POSITIONS.length
    at, copied_at, copied = slice(26, 26 + n), slice(26 + n, 26 + 2 * n), slice(26 + 2 * n, 39 + 2 * n)
    sizes = ModelConfig(
        n_layers=2, d_model=copied.stop, n_ctx=n, d_head=13 + n, n_heads=1, d_vocab=13, d_mlp=7,
        normalization_type=None, initializer_range=0.0,
    )  # fmt: skip
    model = HookedTransformer(sizes)
    model.W_E[:, TOKEN], model.W_pos[:, at], model.W_U[BEFORE] = torch.eye(13), torch.eye(n), 20 * torch.eye(13)
    first, second = (block.attn for block in model.blocks)
    first.W_Q[0, at, :n] = first.W_K[0, at, :n] = handmade.SHARP * torch.eye(n)
    first.W_V[0, at, :n] = first.W_O[0, :n, copied_at] = torch.eye(n)
    first.W_V[0, TOKEN, n:] = first.W_O[0, n:, copied] = torch.eye(13)
    second.W_K[0, copied_at, :n] = handmade.SHARP * torch.eye(n)
    second.W_Q[0, copied_at, :n] = handmade.SHARP * torch.eye(n).roll(-1, 1)
    second.W_V[0, copied, :13] = second.W_O[0, :13, BEFORE] = torch.eye(13)
    return model.eval(), task.evaluation_batch(seed=0, batch_size=29)


CLAIMS: Cases = [
    ("predicts the previous token", handmade.position_from_bos, nothing),
    ("has a previous-token head", handmade.position_from_bos, nothing),
    ("the current and the previous token only", handmade.position_from_bos, nothing),
    ("not attention itself", by_the_mlp, handmade.position_from_bos),
    ("attends by position", handmade.position_from_bos, by_token),
    ("is uniform", handmade.position_from_bos, looks_at_its_like),
    ("Attention to BOS in layer 0 determines", handmade.position_from_bos, looks_at_its_like),
    ("output of layer 0 determines", handmade.position_from_bos, nothing),
    ("attention of layer 0 carries the position", handmade.position_from_bos, with_positions),
    ("nothing else that is needed", handmade.position_from_bos, through_attention),
    ("passes the position on", handmade.position_from_bos, through_attention),
    ("derived from BOS", handmade.position_from_bos, with_positions),
]


PREMISES: Premises = [
    ("attends by position", with_positions),  # the attention of the last layer does nothing
    ("nothing else that is needed", with_positions),  # the attention of layer 0 does not carry the position
    ("passes the position on", with_positions),
    ("derived from BOS", nothing),  # layer 0 does not tell the position
]


@lru_cache
def found(build: Callable[[], Network]) -> Claims:
    return claims(*build())


@pytest.mark.parametrize(("says", "accepted", "rejected"), CLAIMS, ids=[each[0] for each in CLAIMS])
def test_a_claim_holds_and_fails_where_it_must(
    says: str, accepted: Callable[[], Network], rejected: Callable[[], Network]
):
    check_case(found(accepted), found(rejected), says)


def test_every_claim_is_tested():
    check_all_are_tested(found(CLAIMS[0][1]), CLAIMS)


@pytest.mark.parametrize(("says", "fails"), PREMISES, ids=[each[0] for each in PREMISES])
def test_a_claim_whose_premise_fails_is_not_measured(says: str, fails: Callable):
    check_premise(found(fails), says)


def test_every_premise_is_tested():
    check_all_premises_are_tested(found(CLAIMS[0][1]), PREMISES)


def test_what_is_lost_is_not_measured_of_a_network_that_knows_nothing():
    for says in (
        "not attention itself",
        "attends by position",
        "carries the position",
        "nothing else that is needed",
        "passes the position",
        "derived from BOS",
    ):
        assert np.isnan(the_one(found(nothing), says).number)


SMALL = replace(NO_POSITIONS, model=replace(NO_POSITIONS.model, d_mlp=7))
FEW: dict[str, Any] = {"sequences": 6}


@pytest.mark.whole
def test_from_end_to_end(tmp_path: Path):
    run = untrained_run(tmp_path / "run", SMALL, (0, 17), updates=17)
    with_positions = replace(SMALL, model=replace(SMALL.model, positional_embedding_type="standard"))
    other = untrained_run(tmp_path / "positions", with_positions, (0, 5), updates=5)
    result = study("previous-token", run, [other], **FEW)
    figures = [figure for section in result.sections for figure in section.figures]
    assert {figure.kind for figure in figures} == {"lines", "maps", "table"}
    xr.testing.assert_identical(StudyResult.read(run.study_file("previous-token", 17)).to_tree(), result.to_tree())
    assert json.dumps(result.claims[0].says)[1:-1] in run.report_file.read_text()
    tree = result.to_tree()
    assert tree["Over training/Numbers of the claims over training"].step.values.tolist() == [0, 17]
    # The other run stands beside it.
    beside = tree["Training/Comparison of runs"]
    assert beside.run.values.tolist() == ["run", "positions"]
    assert beside.updates.values.tolist() == [17, 5]
    assert beside.positions.values.tolist() == ["none", "standard"]
    trained = tree["Without BOS, and with positional embeddings/Runs with and without positional embeddings and BOS"]
    assert trained.step.values.tolist() == [17, 5]
    # Two figures of one circuit, folded and divided by sqrt(d_head) alike.
    maps = tree["Tokens/QK circuit of each head"].score.values
    for layer, head in np.ndindex(*maps.shape[:2]):
        keys = tree[f"Keys and combinations of keys/Best keys of L{layer}H{head}, by query token"].to_dataset()
        for query, best, scores in zip(keys["query"].values, keys.key.values, keys.score.values, strict=True):
            row = maps[layer, head, int(query.removeprefix("token "))]
            np.testing.assert_allclose(scores, np.sort(row)[::-1][: len(scores)], rtol=1e-4, atol=1e-7)
            np.testing.assert_allclose(row[best], scores, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "recipe",
    [
        replace(
            SMALL,
            model=replace(SMALL.model, n_layers=1, attn_only=True, normalization_type=None),
            task=PreviousToken(n_tokens=13, length=11, bos=False),
        ),
        replace(SMALL, model=replace(SMALL.model, positional_embedding_type="shortformer")),
    ],
    ids=["one layer, no MLP, no LN, no BOS", "shortformer"],
)
def test_any_network_of_the_task_can_be_studied_before_its_first_update(recipe: Recipe, tmp_path: Path):
    run = untrained_run(tmp_path / "run", recipe)
    found = find_study("previous-token")
    result = run_study(found, run, found.given(FEW))
    xr.testing.assert_identical(StudyResult.from_tree(result.to_tree()).to_tree(), result.to_tree())
