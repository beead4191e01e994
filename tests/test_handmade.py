"""Networks written by hand do what they say, by the way they say."""

import pytest
import torch

from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.attention import previous_token
from headway.analyze.measures.loss import accuracy, loss
from headway.models.config import Head
from headway.models.handmade import BOS, D_VOCAB, NO_POSITIONS, position_from_bos


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
    with pytest.raises(ValueError, match="W_pos: this network has no positions"):
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
