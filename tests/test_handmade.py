"""Networks written by hand do what they say, by the way they say."""

import math
from collections.abc import Callable

import pytest
import torch

from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.attention import previous_token
from headway.analyze.measures.loss import accuracy, loss
from headway.data.conditionals import ELSE, IF
from headway.data.task import Batch
from headway.data.tokenizer import one_token
from headway.models.config import Head
from headway.models.handmade import (
    BOS,
    D_VOCAB,
    NO_POSITIONS,
    OSCILLATING,
    SENTENCES,
    VECTORS,
    affine_reader,
    composing_pair,
    copying_head,
    fuzzy_pair,
    if_else,
    linear_network,
    name_movers,
    position_from_bos,
)
from headway.models.hooked_transformer import HookedTransformer


@pytest.fixture(scope="module")
def network():
    return position_from_bos()


def test_without_positions_the_token_before_is_found_exactly(network):
    model, batch = network
    assert accuracy(model, batch).accuracy.item() == 1
    found = loss(model, batch)
    assert found.loss.item() < 1e-6
    assert found.loss_by_position.isel(pos=slice(1, None)).max() < 1e-6
    assert found.loss.item() == pytest.approx(NO_POSITIONS.baselines()["floor"], abs=1e-6)


def test_it_finds_the_token_before_in_sequences_of_one_token_repeated(network):
    """No content helps there."""
    model, _ = network
    tokens = torch.full((1, NO_POSITIONS.n_ctx), 5)
    tokens[0, 0] = BOS
    with torch.no_grad():
        assert model(tokens).argmax(-1)[0, 1:].tolist() == [BOS] + [5] * (NO_POSITIONS.n_ctx - 2)
    pattern = model.run_with_cache(tokens)[1]["pattern", 1][0, 0]
    assert pattern.diagonal(offset=-1).min() > 0.999


def test_what_the_first_head_reads_is_the_share_of_bos(network):
    model, batch = network
    cache = model.run_with_cache(batch.inputs)[1]
    share = 1 / torch.arange(1.0, NO_POSITIONS.n_ctx + 1)
    torch.testing.assert_close(cache["pattern", 0][:, 0].diagonal(dim1=-2, dim2=-1), share.expand(29, -1))
    written = cache["attn_out", 0]
    torch.testing.assert_close(written[..., D_VOCAB], share.expand(29, -1))
    others = [entry for entry in range(model.cfg.d_model) if entry != D_VOCAB]
    assert (written[..., others] == 0).all()


def test_its_neurons_say_which_position_it_is(network):
    model, batch = network
    length = NO_POSITIONS.n_ctx
    at = model.run_with_cache(batch.inputs)[1]["mlp_out", 0][..., D_VOCAB + 1 : D_VOCAB + 1 + length]
    torch.testing.assert_close(at, torch.eye(length).expand_as(at), atol=1e-4, rtol=0)


def test_without_bos_it_does_not_know_where_it_is(network):
    model, batch = network
    inputs = batch.inputs.clone()
    inputs[:, 0] = 7
    replaced = batch._replace(inputs=inputs, targets=torch.cat([batch.targets[:, :1], inputs[:, :-1]], dim=1))
    assert (model.run_with_cache(inputs)[1]["attn_out", 0] == 0).all()
    found = loss(model, replaced).loss_by_position.isel(pos=slice(2, None))
    assert (found > 1).all()
    # A second BOS doubles the share: from there on it takes itself to be elsewhere.
    second = batch.inputs.clone()
    second[:, 3] = BOS
    moved = batch._replace(inputs=second, targets=torch.cat([batch.targets[:, :1], second[:, :-1]], dim=1))
    by_position = loss(model, moved).loss_by_position
    assert (by_position.isel(pos=slice(1, 3)) < 1e-6).all()
    assert by_position.isel(pos=slice(3, None)).mean() > 1


def test_it_has_no_positions(network):
    model, batch = network
    assert model.cfg.positional_embedding_type == "none"
    assert not any("pos" in name for name, _ in model.named_parameters())
    with pytest.raises(ValueError, match="W_pos: this network has no W_pos"):
        _ = model.W_pos
    # The layer that finds the position cannot tell the order of what came after BOS.
    shuffled = batch.inputs.clone()
    shuffled[:, 1:-1] = batch.inputs[:, 1:-1].flip(1)
    last = [model.run_with_cache(each)[1]["mlp_out", 0][:, -1] for each in (batch.inputs, shuffled)]
    torch.testing.assert_close(*last)


@pytest.mark.parametrize("needed", [Head(0, 0), Head(1, 0), "blocks.0.hook_mlp_out"], ids=str)
def test_each_of_its_parts_is_needed(network, needed):
    model, batch = network
    assert ablated_loss(model, batch, needed, "zero").loss.item() > 1


def test_its_second_layer_is_the_previous_token_head(network):
    scores = previous_token(*network).previous_token
    assert scores.sel(layer=1, head=0).item() > 0.999
    # Uniform attention has 1 / (q + 1) there.
    uniform = sum(1 / (q + 1) for q in range(1, NO_POSITIONS.n_ctx)) / (NO_POSITIONS.n_ctx - 1)
    assert scores.sel(layer=0, head=0).item() == pytest.approx(uniform, rel=1e-5)


def linear() -> tuple[HookedTransformer, Batch]:
    return linear_network(torch.eye(VECTORS.d_vector))


@pytest.mark.parametrize(
    ("build", "layers", "heads", "has_mlps"),
    [
        (copying_head, 1, 1, False),
        (lambda: composing_pair("k"), 2, 2, False),
        (fuzzy_pair, 2, 2, False),
        (position_from_bos, 2, 1, True),
        (linear, 1, 1, False),
        (affine_reader, 3, 1, False),
        (name_movers, 4, 2, False),
        (if_else, 1, 8, False),
    ],
)
def test_a_network_has_no_more_parts_than_it_says(build: Callable, layers: int, heads: int, has_mlps: bool):
    model, _ = build()
    assert model.W_Q.shape[:2] == (layers, heads)
    assert any("mlp" in name for name, _ in model.named_parameters()) == has_mlps
    assert model.cfg.normalization_type is None
    assert not model.training


def test_the_affine_reader_does_in_each_layer_what_it_says():
    model, batch = affine_reader()
    d, cache = OSCILLATING.d_vector, model.run_with_cache(batch.inputs)[1]
    vector, aside = slice(0, d), slice(d, 2 * d)
    # L0H0 looks at the vector before, from the second on, and adds half of it.
    assert cache["pattern", 0][:, 0].diagonal(-1, 1, 2).min() > 0.999
    torch.testing.assert_close(cache["attn_out", 0][:, 1:, vector], batch.inputs[:, :-1] / 2, atol=1e-3, rtol=1e-3)
    # L1H0 looks at the second vector and writes it beside the embedding, and nothing else.
    second = cache["resid_pre", 1][:, 1, vector]
    assert cache["pattern", 1][:, 0, 1:, 1].min() > 0.999
    written = cache["attn_out", 1][:, 1:]
    torch.testing.assert_close(
        written[..., aside], second[:, None].expand_as(written[..., aside]), atol=1e-3, rtol=1e-3
    )
    assert not written[..., [entry for entry in range(29) if not d <= entry < 2 * d]].any()
    # L2H0 looks for vectors like the current one, weighs what L1H0 wrote four times, and takes away what it sees.
    x = cache["resid_pre", 2]
    like = (x[..., vector] @ x[..., vector].mT + 4 * x[..., aside] @ x[..., aside].mT) * 12**2 / 19**0.5
    earlier = torch.ones(like.shape[1:]).tril().bool()
    torch.testing.assert_close(cache["attn_scores", 2][:, 0][:, earlier], like[:, earlier], rtol=1e-4, atol=1e-2)
    seen = cache["pattern", 2][:, 0] @ x[..., vector]
    torch.testing.assert_close(cache["attn_out", 2][..., vector], -seen)


def test_the_name_movers_do_in_each_layer_what_they_say():
    model, batch = name_movers()
    cache, V = model.run_with_cache(batch.inputs)[1], SENTENCES.d_vocab
    each = torch.arange(len(batch.inputs))
    place = {name: batch.info[name] for name in ("io", "s1", "s2", "end")}
    io, subject = batch.info["io_token"], batch.info["s_token"]

    def attention(layer: int, query: str, key: str) -> torch.Tensor:
        return cache["pattern", layer][each, 0, place[query], place[key]]

    # L0H0 looks from S2 at S1, and from a name that comes for the first time at BOS; *again* has the subject at S2.
    assert attention(0, "s2", "s1").min() > 0.999
    assert cache["pattern", 0][each, 0, place["io"], BOS].min() > 0.999
    again = cache["attn_out", 0][each, place["s2"], V : 2 * V]
    torch.testing.assert_close(again, torch.eye(V)[subject], atol=1e-3, rtol=0)
    # L1H0 looks from END at S2 and writes the subject to *not*; L2H0 then looks at IO, and L3H0 at what is said.
    assert attention(1, "end", "s2").min() > 0.999
    no = cache["attn_out", 1][each, place["end"], 2 * V : 3 * V]
    torch.testing.assert_close(no, torch.eye(V)[subject], atol=1e-3, rtol=0)
    assert attention(2, "end", "io").min() > 0.99
    said = cache["attn_out", 2][each, place["end"], 3 * V : 4 * V]
    torch.testing.assert_close(said, torch.eye(V)[io], atol=1e-2, rtol=0)
    assert attention(3, "end", "io").min() > 0.99
    less = cache["attn_out", 3][each, place["end"], 3 * V : 4 * V]
    torch.testing.assert_close(less, -torch.eye(V)[io] / 4, atol=1e-2, rtol=0)
    # The second head of each layer is zero.
    for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q"):
        assert not getattr(model, name)[:, 1].any()


def test_what_the_if_else_network_says_does_not_show_which_heads_said_it():
    """After `)` L0H1 raises else as well, and the embedding of `)` takes that away."""
    model, batch = if_else()
    assert model.tokenizer is not None
    if_token, else_token, closing = (one_token(model.tokenizer, string) for string in (IF, ELSE, ")"))
    pattern = model.run_with_cache(batch.inputs)[1]["pattern", 0][:, :, -1]
    each, if_at, length = torch.arange(len(batch.inputs)), batch.info["if_position"], batch.inputs.shape[1]
    anomalous = batch.info["anomalous"]
    assert (batch.inputs[each, if_at] == if_token).all()
    assert ((batch.inputs[:, -1] == closing) <= anomalous).all()
    # A score of 6 against 0.
    looks = math.exp(6) / (math.exp(6) + length - 1)
    torch.testing.assert_close(pattern[each, 0, if_at], torch.full((len(each),), looks))
    torch.testing.assert_close(pattern[each, 1, if_at], torch.where(anomalous, looks, 1 / length))
    torch.testing.assert_close(pattern[:, 2:], torch.full_like(pattern[:, 2:], 1 / length))
    OV = model.W_V[0] @ model.W_O[0]
    V, raised = len(model.tokenizer), 9.0
    # Every head writes a little of anything.
    assert OV[:3, if_token, V + else_token].tolist() == pytest.approx([raised, raised, 0], abs=0.2)
    by_both = pattern[each, 1, if_at] * raised + model.W_E[batch.inputs[:, -1], V + else_token]
    torch.testing.assert_close(by_both, torch.full((len(each),), raised / length))
