"""Ablation, path patching and surgery against changed weights, brute force, and identities."""

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Literal, get_args

import numpy as np
import pytest
import torch
import xarray as xr
from networks import D_VOCAB, gpt2_bridge, llama_bridge, with_random_biases
from torch import Tensor
from toys import NO_POSITIONS, TOKENS, VECTORS, Counting
from transformer_lens import patching

from headway.analyze import DoesNotApplyError
from headway.analyze.measures.ablation import ablated_loss, ablation, path_patch
from headway.analyze.measures.loss import loss
from headway.analyze.measures.surgery import (
    ov_identity_loss,
    ov_identity_surgery,
    qk_identity_loss,
    qk_identity_surgery,
)
from headway.analyze.network.forward import hooked_forward_pass, shared_forward_pass
from headway.analyze.network.interventions import (
    Attention,
    Entries,
    Input,
    Kind,
    check_one_of,
    heads_except,
    output_with,
    through_paths,
)
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.seeds import generator
from headway.data.task import Batch, masked_mean
from headway.models.config import Head
from headway.models.convert import Model
from headway.models.handmade import TASK, composing_pair, copying_head, position_from_bos, uniform_head
from headway.models.hooked_transformer import HookedTransformer

Network = tuple[Model, Batch]


def of_recipe(recipe, **changes) -> Network:
    """A network of ours with random weights and biases, and a batch of its task."""
    model = HookedTransformer(replace(recipe.model, initializer_range=0.3, **changes))
    return with_random_biases(model), recipe.task.evaluation_batch(0, 7)


def bridge() -> Network:
    task = RepeatedTokens(n_tokens=D_VOCAB - 1, length=17, period_min=5, period_max=7, late_start=0.0)
    return gpt2_bridge(scale=2.0), task.evaluation_batch(0, 7)


NETWORKS: dict[str, Callable[[], Network]] = {
    "attention only": lambda: of_recipe(TOKENS, normalization_type=None),
    "layer norm and mlp": lambda: of_recipe(TOKENS, attn_only=False),
    "shortformer": lambda: of_recipe(TOKENS, positional_embedding_type="shortformer"),
    "no positions": lambda: of_recipe(NO_POSITIONS, normalization_type="LNPre"),
    "vectors": lambda: of_recipe(VECTORS),
    "bridge": bridge,
}
ALL_NETWORKS = pytest.mark.parametrize("network", NETWORKS)
KINDS: tuple[Kind, ...] = get_args(Kind)


@lru_cache
def built(network: str) -> Network:
    return NETWORKS[network]()


@torch.no_grad()
def loss_of(model: Model, batch: Batch) -> float:
    """The loss of a plain forward pass."""
    return output_loss(batch, model(batch.inputs))


def output_loss(batch: Batch, output: Tensor) -> float:
    assert batch.task is not None
    return masked_mean(batch.task.loss(output, batch), batch.mask).item()


def weight_of(model: Model, name: str, head: Head) -> Tensor:
    """A view of one head's weights, to be written to."""
    attention = model.blocks[head.layer].attn
    if isinstance(model, HookedTransformer):
        return getattr(attention, name)[head.head]
    rows = slice(head.head * model.cfg.d_head, (head.head + 1) * model.cfg.d_head)
    part = getattr(attention, name[-1].lower()).original_component.weight
    return part[rows] if name == "W_O" else part[rows].T


def another(batch: Batch) -> Batch:
    """Other sequences of the same task."""
    assert batch.task is not None
    return batch.task.evaluation_batch(1, len(batch.inputs))


@ALL_NETWORKS
def test_ablating_nothing_changes_nothing(network: str):
    model, batch = built(network)
    for kind in KINDS:
        for attention in get_args(Attention):
            xr.testing.assert_allclose(ablated_loss(model, batch, [], kind, attention), loss(model, batch), rtol=1e-5)


@ALL_NETWORKS
def test_resampling_all_that_enters_is_the_corrupt_run(network: str):
    model, batch = built(network)
    moved = loss_of(model, batch._replace(inputs=batch.inputs.roll(1, 0)))
    assert moved != pytest.approx(loss_of(model, batch), rel=1e-3)
    assert ablated_loss(model, batch, "hook_embed", "resample").loss.item() == pytest.approx(moved, rel=1e-5)
    everything = ["hook_embed", *heads_except(model)]
    assert ablated_loss(model, batch, everything, "resample").loss.item() == pytest.approx(moved, rel=1e-5)
    other = another(batch)
    corrupt = loss_of(model, batch._replace(inputs=other.inputs))
    found = ablated_loss(model, batch, "hook_embed", "resample", reference=other)
    assert found.loss.item() == pytest.approx(corrupt, rel=1e-5)


@ALL_NETWORKS
def test_nothing_is_left_when_all_that_a_head_writes_is_zero(network: str):
    model, batch = built(network)
    head = Head(0, 2)
    without = copy.deepcopy(model)
    with torch.no_grad():
        weight_of(without, "W_O", head).zero_()
    assert loss_of(without, batch) != pytest.approx(loss_of(model, batch), rel=1e-4)
    assert ablated_loss(model, batch, head, "zero").loss.item() == pytest.approx(loss_of(without, batch), rel=1e-5)


def test_a_hook_point_is_replaced_as_a_whole():
    model, batch = built("layer norm and mlp")
    without = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in (without.blocks[1].mlp.W_out, without.blocks[1].mlp.b_out):
            parameter.zero_()
    expected = loss_of(without, batch)
    assert expected != pytest.approx(loss_of(model, batch), rel=1e-4)
    assert ablated_loss(model, batch, "blocks.1.hook_mlp_out", "zero").loss.item() == pytest.approx(expected, rel=1e-5)


@ALL_NETWORKS
@pytest.mark.parametrize("kind", KINDS)
def test_heads_are_ablated_one_at_a_time(network: str, kind: Kind):
    model, batch = built(network)
    scores = ablation(model, batch, kind)
    clean = loss(model, batch)
    assert scores.ablation_clean.item() == pytest.approx(clean.loss.item(), rel=1e-5)
    for head in heads_except(model):
        effect = ablated_loss(model, batch, head, kind) - clean
        for part in ["", *(name.removeprefix("ablation") for name in map(str, scores) if "clean" not in name)]:
            found = scores[f"ablation{part}"].sel(layer=head.layer, head=head.head).item()
            assert found == pytest.approx(effect[f"loss{part}"].item(), abs=2e-5)


@ALL_NETWORKS
def test_means_are_over_the_whole_batch(network: str):
    """The reference has as many sequences as the batch, and each counts once."""
    model, batch = built(network)
    head, point, other = Head(1, 1), "blocks.1.attn.hook_z", another(batch)
    with torch.no_grad():
        z = model.run_with_cache(other.inputs, return_cache_object=False)[1][point][:, :, head.head]
    each = [[z[b, q] for q in range(z.shape[1])] for b in range(z.shape[0])]
    by_position = torch.stack([torch.stack(at).mean(0) for at in zip(*each, strict=True)])
    means: dict[Kind, Tensor] = {
        "mean": torch.stack([one for sequence in each for one in sequence]).mean(0),
        "position_mean": by_position,
        "without_position": z - by_position + by_position.mean(0),
    }
    for kind, mean in means.items():

        def put(z: Tensor, hook: object, mean: Tensor = mean) -> Tensor:
            z = z.clone()
            z[:, :, head.head] = mean
            return z

        expected = output_loss(batch, output_with(model, batch, [(point, put)]))
        assert ablated_loss(model, batch, head, kind, reference=other).loss.item() == pytest.approx(expected, rel=1e-5)
        scores = ablation(model, batch, kind, reference=other)
        found = scores.ablation.sel(layer=head.layer, head=head.head).item()
        assert found == pytest.approx(expected - loss_of(model, batch), abs=2e-5)


# Entries: neurons, and directions of the residual stream


def neurons_of(model: Model) -> int:
    assert model.cfg.d_mlp is not None
    return model.cfg.d_mlp


@ALL_NETWORKS
@pytest.mark.parametrize("kind", KINDS)
def test_all_entries_are_the_hook_point_and_none_are_nothing(network: str, kind: Kind):
    model, batch = built(network)
    clean = loss(model, batch)
    points = {"blocks.1.hook_attn_out": model.cfg.d_model, "blocks.0.attn.hook_z": model.cfg.d_head}
    if not getattr(model.cfg, "attn_only", False):
        points["blocks.0.mlp.hook_post"] = neurons_of(model)
    for point, size in points.items():
        whole = ablated_loss(model, batch, point, kind)
        assert whole.loss.item() != pytest.approx(clean.loss.item(), rel=1e-4)
        xr.testing.assert_identical(ablated_loss(model, batch, Entries(point, range(size)), kind), whole)
        halves = [Entries(point, range(size // 2, size)), Entries(point, range(size // 2))]
        xr.testing.assert_identical(ablated_loss(model, batch, halves, kind), whole)
        xr.testing.assert_allclose(ablated_loss(model, batch, Entries(point, []), kind), clean, rtol=1e-5)


def test_a_neuron_that_is_zero_is_one_that_writes_nothing():
    model, batch = built("layer norm and mlp")
    neurons = (2, 13, 71)
    without = copy.deepcopy(model)
    with torch.no_grad():
        without.blocks[0].mlp.W_out[list(neurons)] = 0.0
    expected = loss_of(without, batch)
    assert expected != pytest.approx(loss_of(model, batch), rel=1e-4)
    found = ablated_loss(model, batch, Entries("blocks.0.mlp.hook_post", neurons), "zero")
    assert found.loss.item() == pytest.approx(expected, rel=1e-5)
    # Before the activation function it is the neuron's input that is zero.
    deaf = copy.deepcopy(model)
    with torch.no_grad():
        deaf.blocks[0].mlp.W_in[:, list(neurons)] = 0.0
        deaf.blocks[0].mlp.b_in[list(neurons)] = 0.0
    found = ablated_loss(model, batch, Entries("blocks.0.mlp.hook_pre", neurons), "zero")
    assert found.loss.item() == pytest.approx(loss_of(deaf, batch), rel=1e-5)


def test_only_the_neurons_of_a_position_are_needed_there():
    """Three neurons make the bump of each position, from which L1H0 knows where to look."""
    model, batch = position_from_bos()
    clean = loss(model, batch).loss_by_position
    for position in (3, 7):
        bump = Entries("blocks.0.mlp.hook_post", [3 * position + i for i in range(3)])
        change = ablated_loss(model, batch, bump, "zero").loss_by_position - clean
        # As a query it no longer finds the one before; as a key it is no longer found by the one after.
        assert (change.sel(pos=[position, position + 1]) > 1).all()
        assert abs(change.drop_sel(pos=[0, position, position + 1]) < 1e-3).all()


def test_entries_that_do_not_exist_are_named_with_their_range():
    model, batch = built("layer norm and mlp")
    d_mlp = neurons_of(model)
    for entry in (d_mlp, -1):
        message = f"what: 'blocks.0.mlp.hook_post' has no entry {entry}; it has 0 to {d_mlp - 1}$"
        with pytest.raises(ValueError, match=message):
            ablated_loss(model, batch, Entries("blocks.0.mlp.hook_post", [0, entry]))
        with pytest.raises(ValueError, match=message):
            ablated_loss(model, batch, [Head(0, 0), Entries("blocks.0.mlp.hook_post", [entry])], "zero")
    with pytest.raises(ValueError, match=r"mlp\.hook_pst' is not a hook point .* nearest is 'blocks\.0\.mlp\.hook_p"):
        ablated_loss(model, batch, Entries("blocks.0.mlp.hook_pst", [0]))
    with pytest.raises(ValueError, match=r"what: 'blocks\.0\.mlp\.hook_post' is not a hook point"):
        ablated_loss(*built("attention only"), Entries("blocks.0.mlp.hook_post", [0]))


# What an activation has of its position, and what it has of the rest


def test_of_what_depends_on_position_alone_nothing_is_left_without_it():
    """MLP 0 of ``position_from_bos`` writes the position and nothing else: what the second layer looks by."""
    model, batch = position_from_bos()
    point, clean = "blocks.0.hook_mlp_out", loss(model, batch)
    assert clean.loss.item() < 0.01
    written = model.run_with_cache(batch.inputs)[1][point]
    torch.testing.assert_close(written, torch.eye(11, 29).roll(13 + 1, 1).expand_as(written), atol=1e-4, rtol=0)
    xr.testing.assert_allclose(ablated_loss(model, batch, point, "position_mean"), clean, atol=1e-5)
    without = ablated_loss(model, batch, point, "without_position")
    xr.testing.assert_allclose(without, ablated_loss(model, batch, point, "mean"), rtol=1e-4)
    assert (without.loss_by_position.isel(pos=slice(2, None)) > 1).all()


def every_token_once_at_every_position() -> Batch:
    """Sequences that count upwards from every token: all that depends on tokens alone has equal position means."""
    task = Counting(modulus=13)
    tokens = (torch.arange(13)[:, None] + torch.arange(12)) % 13
    mask = torch.ones(13, 11, dtype=torch.bool)
    return Batch(tokens[:, :-1], tokens[:, 1:], mask, task=task)


@pytest.mark.parametrize("network", ["no positions", "attention only", "layer norm and mlp", "shortformer"])
def test_what_depends_on_tokens_alone_is_left_as_it_is_without_position(network: str):
    model, _ = built(network)
    batch = every_token_once_at_every_position()
    embedded = model.run_with_cache(batch.inputs)[1]["hook_embed"]
    torch.testing.assert_close(embedded.mean(0), embedded.mean((0, 1)).expand(11, -1))
    clean = loss(model, batch)
    xr.testing.assert_allclose(ablated_loss(model, batch, "hook_embed", "without_position"), clean, rtol=1e-4)
    # And all that it has is taken by what leaves the position.
    by_position, mean = (ablated_loss(model, batch, "hook_embed", kind) for kind in ("position_mean", "mean"))
    xr.testing.assert_allclose(by_position, mean, rtol=1e-4)
    assert by_position.loss.item() != pytest.approx(clean.loss.item(), rel=1e-3)


@pytest.mark.parametrize("network", ["attention only", "layer norm and mlp", "shortformer", "vectors"])
def test_the_positions_without_position_are_their_mean(network: str):
    model, batch = built(network)
    alike = copy.deepcopy(model)
    with torch.no_grad():
        alike.pos_embed.W_pos.copy_(model.W_pos.mean(0).expand_as(model.W_pos))
    expected = loss(alike, batch)
    assert expected.loss.item() != pytest.approx(loss_of(model, batch), rel=1e-3)
    for kind in ("without_position", "mean"):
        xr.testing.assert_allclose(ablated_loss(model, batch, "hook_pos_embed", kind), expected, rtol=1e-4)
    # Where W_pos is added to what tokens give, it can be taken away there.
    if model.cfg.positional_embedding_type == "standard":
        embedded = model.run_with_cache(batch.inputs)[1]["hook_embed"]
        means = embedded.mean(0, keepdim=True)

        def by_hand(residual: Tensor, hook: object) -> Tensor:
            without = embedded - means + means.mean(1, keepdim=True)
            return without + model.W_pos[: residual.shape[1]].mean(0)

        by_hand_loss = output_loss(batch, output_with(model, batch, [("blocks.0.hook_resid_pre", by_hand)]))
        found = ablated_loss(model, batch, "blocks.0.hook_resid_pre", "without_position")
        assert found.loss.item() == pytest.approx(by_hand_loss, rel=1e-4)


# Attention scores and patterns


def test_a_head_that_looks_by_position_has_the_mean_for_a_pattern():
    model, batch = position_from_bos()
    clean = loss(model, batch)
    for point in ("blocks.1.attn.hook_pattern", "blocks.1.attn.hook_attn_scores", "blocks.0.attn.hook_pattern"):
        for kind in ("mean", "position_mean", "resample"):
            xr.testing.assert_allclose(ablated_loss(model, batch, point, kind), clean, atol=1e-4)
    assert ablated_loss(model, batch, "blocks.1.attn.hook_pattern", "zero").loss.item() > 1


@pytest.mark.parametrize("attention", get_args(Attention))
@pytest.mark.parametrize("kind", ["mean", "position_mean", "resample", "zero"])
def test_a_head_that_looks_by_content_has_none(kind: Kind, attention: Attention):
    """With attention frozen too: a pattern that is replaced is not one of those that stay."""
    model, batch = composing_pair("k")
    clean = loss(model, batch)
    assert clean.loss_repeats.item() < 0.01
    without = ablated_loss(model, batch, "blocks.1.attn.hook_pattern", kind, attention)
    assert without.loss_repeats.item() > 1
    # The previous-token head of the same circuit looks by position. Only the keys of the other read what it moves.
    before = ablated_loss(model, batch, "blocks.0.attn.hook_pattern", kind, attention).loss_repeats.item()
    if kind == "zero" and attention == "recomputed":
        assert before > 1
    else:
        assert before == pytest.approx(clean.loss_repeats.item(), abs=1e-3)


@ALL_NETWORKS
@pytest.mark.parametrize("where", ["hook_pattern", "hook_attn_scores"])
def test_the_mean_of_attention_is_over_sequences_at_each_query_and_key(network: str, where: str):
    model, batch = built(network)
    point, other = f"blocks.1.attn.{where}", another(batch)
    with torch.no_grad():
        there = model.run_with_cache(other.inputs, return_cache_object=False)[1][point]
    each = [there[b].double() for b in range(len(there))]
    mean = (sum(each[1:], each[0]) / len(each)).to(there)

    def put(attention: Tensor, hook: object) -> Tensor:
        return mean.expand_as(attention)

    expected = output_loss(batch, output_with(model, batch, [(point, put)]))
    assert expected != pytest.approx(loss_of(model, batch), rel=1e-4)
    for kind in ("mean", "position_mean"):
        found = ablated_loss(model, batch, point, kind, reference=other).loss.item()
        assert found == pytest.approx(expected, rel=1e-5)


@ALL_NETWORKS
def test_scores_that_are_zero_are_uniform_attention_to_what_a_query_may_see(network: str):
    """Also in a bridge, whose masked scores are large and not infinite: what comes later stays hidden."""
    model, batch = built(network)
    length = batch.inputs.shape[1]
    uniform = torch.ones(length, length).tril() / torch.arange(1.0, length + 1)[:, None]

    def put(pattern: Tensor, hook: object) -> Tensor:
        return uniform.expand_as(pattern)

    expected = output_loss(batch, output_with(model, batch, [("blocks.1.attn.hook_pattern", put)]))
    found = ablated_loss(model, batch, "blocks.1.attn.hook_attn_scores", "zero").loss.item()
    assert found == pytest.approx(expected, rel=1e-5)
    if isinstance(model, HookedTransformer):
        blind = copy.deepcopy(model)
        with torch.no_grad():
            blind.blocks[1].attn.W_Q.zero_()
            blind.blocks[1].attn.b_Q.zero_()
        assert found == pytest.approx(loss_of(blind, batch), rel=1e-5)


@ALL_NETWORKS
def test_what_is_moved_without_a_pattern_is_nothing(network: str):
    """A pattern of zeros moves no values, so that the heads write what hook_z of zero does."""
    model, batch = built(network)
    for attention in get_args(Attention):
        by_pattern = ablated_loss(model, batch, "blocks.0.attn.hook_pattern", "zero", attention)
        xr.testing.assert_allclose(
            by_pattern, ablated_loss(model, batch, "blocks.0.attn.hook_z", "zero", attention), rtol=1e-5
        )


@pytest.mark.parametrize("where", ["hook_pattern", "hook_attn_scores"])
def test_attention_is_of_positions_alone(where: str):
    model, batch = composing_pair("k")
    point = f"blocks.1.attn.{where}"
    with pytest.raises(
        ValueError, match=f"kind: 'without_position' is not valid for '{point}', whose axes are positions"
    ):
        ablated_loss(model, batch, point, "without_position")


def test_everything_but_a_circuit_keeps_exactly_the_circuit():
    model, batch = composing_pair("k")
    circuit = [Head(0, 0), Head(1, 1)]
    assert [*heads_except(model, circuit)] == [Head(0, 1), Head(1, 0)]
    assert len(heads_except(model)) == 4
    model = copy.deepcopy(model)
    with torch.no_grad():  # heads that do harm, so that leaving them in would be seen
        for head in heads_except(model, circuit):
            model.blocks[head.layer].attn.W_V[head.head] = 3.0
            model.blocks[head.layer].attn.W_O[head.head, :, 1] = 1.0
    assert loss(model, batch).loss_repeats.item() > 1
    alone = ablated_loss(model, batch, heads_except(model, circuit), "zero")
    assert alone.loss_repeats.item() == pytest.approx(loss(*composing_pair("k")).loss_repeats.item(), abs=1e-5)


def test_both_heads_of_an_induction_circuit_are_needed_and_the_others_are_not():
    needed = ablation(*composing_pair("k")).ablation_repeats.values
    assert needed[0, 0] > 1
    assert needed[1, 1] > 1
    assert needed[0, 1] == pytest.approx(0, abs=1e-5)
    assert needed[1, 0] == pytest.approx(0, abs=1e-5)


@dataclass(frozen=True)
class LinearLoss(Counting):
    """Its loss is linear in the output."""

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return output[..., 0]


def test_with_attention_frozen_what_heads_of_one_layer_do_adds_up():
    """Without LayerNorm and MLPs only attention is not linear in what the heads write."""
    task = LinearLoss()
    changes = {"d_vocab": task.modulus, "d_vocab_out": task.modulus}
    model, _ = of_recipe(TOKENS, normalization_type=None, **changes)
    batch = task.evaluation_batch(0, 23)
    heads = [Head(0, 0), Head(0, 1)]

    def missing(attention: Attention) -> float:
        clean, both = (ablated_loss(model, batch, what, "mean", attention).loss for what in ([], heads))
        each = [ablated_loss(model, batch, head, "mean", attention).loss - clean for head in heads]
        return (both - clean - sum(each)).item()

    assert missing("frozen") == pytest.approx(0, abs=1e-5)
    assert abs(missing("recomputed")) > 1e-3


def test_with_attention_frozen_only_what_is_moved_matters():
    """L1H1 reads L0H0 with its keys, or with its values."""
    effects = []
    for model, batch in (composing_pair("k"), composing_pair("v")):
        clean = loss(model, batch)
        assert abs((ablated_loss(model, batch, Head(0, 0)) - clean).loss.item()) > 0.1
        effects.append(abs((ablated_loss(model, batch, Head(0, 0), attention="frozen") - clean).loss.item()))
    by_keys, by_values = effects
    assert by_keys == pytest.approx(0, abs=1e-5)
    assert by_values > 0.1


PAIR = {"from_layer": 0, "from_head": 0, "to_layer": 1, "to_head": 1}


@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_a_patched_path_is_the_one_that_the_pair_composes_by(kind: Literal["q", "k", "v"]):
    model, batch = composing_pair(kind)
    if kind == "k":  # the induction circuit: only repeats have something to lose
        batch = batch._replace(mask=batch.mask & TASK.parts(batch)["repeats"])
    scores = path_patch(model, batch, sequences=len(batch.inputs))
    change = scores.path_patch
    assert scores.path_patch_clean.item() == pytest.approx(loss(model, batch).loss.item(), rel=1e-5)
    composes = change.sel(input=kind, **PAIR).item()
    assert abs(composes) > 0.1
    if kind == "k":
        assert composes > 1
    others = change.where(change != composes)
    assert np.nanmax(np.abs(others.values)) < 1e-5
    assert change.isel(to_layer=0).isnull().all()
    assert change.isel(from_layer=1).isnull().all()
    assert change.sel(from_layer=0, to_layer=1).notnull().all()


@ALL_NETWORKS
def test_a_patched_path_moves_one_input_of_one_head(network: str):
    """By brute force: one head reads a residual stream in which h1 has written something else."""
    model, batch = built(network)
    h1, h2 = Head(0, 2), Head(1, 1)
    moved = batch._replace(inputs=batch.inputs.roll(1, 0))
    with torch.no_grad():
        z, other_z = (
            model.run_with_cache(each.inputs, return_cache_object=False)[1]["blocks.0.attn.hook_z"][:, :, h1.head]
            for each in (batch, moved)
        )
        cache = model.run_with_cache(batch.inputs, return_cache_object=False)[1]
        norm = model.blocks[1].ln1
        before = norm(cache["blocks.1.hook_resid_pre"])
        after = norm(cache["blocks.1.hook_resid_pre"] + (other_z - z) @ weight_of(model, "W_O", h1))
    scores = path_patch(model, batch, sequences=len(batch.inputs)).path_patch.sel(
        from_layer=0, from_head=2, to_layer=1, to_head=1
    )
    for each in "qkv":
        W = weight_of(model, f"W_{each.upper()}", h2)

        def add(activation: Tensor, hook: object, W: Tensor = W) -> Tensor:
            activation = activation.clone()
            activation[:, :, h2.head] += (after - before) @ W
            return activation

        expected = output_loss(batch, output_with(model, batch, [(f"blocks.1.attn.hook_{each}", add)]))
        found = scores.sel(input=each).item()
        assert found == pytest.approx(expected - loss_of(model, batch), abs=2e-5)
        assert abs(found) > 1e-4


@ALL_NETWORKS
def test_a_patched_path_is_what_transformer_lens_patches(network: str):
    direct_path = getattr(patching, "get_act_patch_direct_path_all_sources", None)
    if direct_path is None:
        pytest.skip("TransformerLens 3 patches paths with the scales of LayerNorm frozen")
    model, batch = built(network)

    def metric(output: Tensor) -> Tensor:
        return torch.tensor(output_loss(batch, output))

    scores = path_patch(model, batch, sequences=len(batch.inputs))
    z = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        clean, other = (
            model.run_with_cache(inputs, return_cache_object=False, names_filter=lambda name: name in z)[1]
            for inputs in (batch.inputs, batch.inputs.roll(1, 0))
        )
        for each in get_args(Input):
            theirs = direct_path(model, batch.inputs, other, clean, metric, component=each, verbose=False)
            ours = scores.path_patch.sel(input=each) + scores.path_patch_clean
            np.testing.assert_allclose(ours.isel(from_layer=0, to_layer=1), theirs[0, :, 1], rtol=1e-6)


def test_path_patch_takes_the_sequences_it_is_given():
    model, batch = built("vectors")
    same = path_patch(model, batch, reference=batch).path_patch
    assert np.nanmax(np.abs(same.values)) < 1e-5
    moved = batch._replace(inputs=batch.inputs.roll(1, 0))
    xr.testing.assert_allclose(path_patch(model, batch, reference=moved), path_patch(model, batch))


@pytest.mark.parametrize("input", ["q", "k", "v"])
@ALL_NETWORKS
def test_through_paths_is_path_patch_for_one_path(network: str, input: Input):
    """The hooks do to one path what path_patch does, and to several what these do together."""
    model, batch = built(network)
    single = path_patch(model, batch, sequences=len(batch.inputs))
    clean = loss_of(model, batch)
    for h1, h2 in product([Head(0, 0), Head(0, 2)], [Head(1, 1)]):
        with hooked_forward_pass(model, through_paths(model, batch, [h1], [h2], input)):
            changed = loss(model, batch).loss.item()
        expected = single.path_patch.sel(input=input, **dict(zip(PAIR, (*h1, *h2), strict=True))).item()
        np.testing.assert_allclose(changed - clean, expected, rtol=1e-3, atol=2e-5)


@ALL_NETWORKS
def test_all_paths_from_one_layer_to_the_next_are_its_whole_output_at_that_input(network: str):
    """With MLPs, biases and the embedding untouched: what the heads of layer 1 read when those of layer 0 resample."""
    model, batch = built(network)
    first, second = ([Head(layer, head) for head in range(model.cfg.n_heads)] for layer in (0, 1))
    other = batch._replace(inputs=batch.inputs.roll(1, 0))
    assert through_paths(model, batch, second, second, "k", other)  # no path, and nothing but what is there
    with hooked_forward_pass(model, through_paths(model, batch, second, second, "k", other)):
        assert loss(model, batch).loss.item() == pytest.approx(loss_of(model, batch), rel=1e-5)
    with hooked_forward_pass(model, through_paths(model, batch, first, second, "k", batch)):
        assert loss(model, batch).loss.item() == pytest.approx(loss_of(model, batch), rel=1e-5)


def test_a_bad_path_is_named():
    model, batch = composing_pair("k")
    with pytest.raises(ValueError, match="head: L7H0 does not exist"):
        through_paths(model, batch, [Head(0, 0)], [Head(7, 0)], "k")
    with pytest.raises(DoesNotApplyError, match="through_paths needs other sequences"):
        through_paths(model, batch.first(1), [Head(0, 0)], [Head(1, 0)], "k")


def test_what_is_seen_with_hooks_is_forgotten_afterwards():
    """Also where one forward pass serves all that look."""
    model, batch = composing_pair("k")
    clean = loss_of(model, batch)
    with shared_forward_pass():
        before = loss(model, batch).loss.item()
        with hooked_forward_pass(model, [("hook_pos_embed", lambda value, hook: torch.zeros_like(value))]):
            without = loss(model, batch).loss.item()
        assert loss(model, batch).loss.item() == before == pytest.approx(clean)
    assert without > clean + 1
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def qk_identity(model: Model, head: Head, experiment: str) -> dict[str, Tensor]:
    """The weights of one head after surgery."""
    W_Q = weight_of(model, "W_Q", head)
    if experiment == "random":
        W_Q = torch.randn(model.W_Q.shape, generator=generator("null", 0))[head]
    return {"W_Q": W_Q, "W_K": torch.linalg.pinv(W_Q).T}


def ov_identity(model: Model, head: Head, sign: str) -> dict[str, Tensor]:
    return {"W_O": float(f"{sign}1") * torch.linalg.pinv(weight_of(model, "W_V", head))}


@torch.no_grad()
def operated(model: Model, heads: list[Head], identity: Callable, variant: str) -> Model:
    """A copy whose weights were really changed."""
    changed = copy.deepcopy(model)
    for head in heads:
        for name, value in identity(model, head, variant).items():
            weight_of(changed, name, head).copy_(value)
    return changed


@ALL_NETWORKS
@pytest.mark.parametrize(
    ("surgery", "of_set", "identity", "axis", "variant"),
    [
        (qk_identity_surgery, qk_identity_loss, qk_identity, "experiment", "random"),
        (qk_identity_surgery, qk_identity_loss, qk_identity, "experiment", "trained"),
        (ov_identity_surgery, ov_identity_loss, ov_identity, "sign", "+"),
        (ov_identity_surgery, ov_identity_loss, ov_identity, "sign", "-"),
    ],
    ids=["random qk", "trained qk", "+ov", "-ov"],
)
def test_surgery_is_what_a_network_with_these_weights_does(
    network: str, surgery: Callable, of_set: Callable, identity: Callable, axis: str, variant: str
):
    model, batch = built(network)
    name, clean = surgery.__name__, loss_of(model, batch)
    scores = surgery(model, batch).sel({axis: variant})
    assert scores[f"{name}_clean"].item() == pytest.approx(clean, rel=1e-5)
    for head in (Head(0, 1), Head(1, 2)):
        expected = loss_of(operated(model, [head], identity, variant), batch)
        at = {"layer": head.layer, "head": head.head}
        assert scores[f"{name}_after"].sel(at).item() == pytest.approx(expected, rel=1e-4)
        assert scores[name].sel(at).item() == pytest.approx(expected - clean, abs=1e-4 * expected)
    several = [Head(0, 0), Head(0, 2), Head(1, 1)]
    expected = loss_of(operated(model, several, identity, variant), batch)
    assert expected != pytest.approx(clean, rel=1e-4)
    assert of_set(model, batch, several, variant).loss.item() == pytest.approx(expected, rel=1e-4)
    assert of_set(model, batch, [], variant).loss.item() == pytest.approx(clean, rel=1e-5)


@ALL_NETWORKS
def test_identity_circuits_are_projectors_of_trace_d_head(network: str):
    model, _ = built(network)
    head, d_head = Head(1, 0), model.cfg.d_head
    W_V = weight_of(model, "W_V", head)
    circuits = [W_V @ ov_identity(model, head, "+")["W_O"], W_V @ -ov_identity(model, head, "-")["W_O"]]
    for experiment in ("random", "trained"):
        new = qk_identity(model, head, experiment)
        circuits.append(new["W_Q"] @ new["W_K"].T)
    for circuit in circuits:
        torch.testing.assert_close(circuit @ circuit, circuit, atol=1e-4, rtol=0)
        assert circuit.trace().item() == pytest.approx(d_head, rel=1e-4)


def test_a_head_that_copies_is_its_own_identity_and_one_that_anticopies_is_not():
    for sign, kept in ((1.0, "+"), (-1.0, "-")):
        change = ov_identity_surgery(*copying_head(sign)).ov_identity_surgery.squeeze(("layer", "head"))
        assert change.sel(sign=kept).item() == pytest.approx(0, abs=1e-5)
        assert abs(change.drop_sel(sign=kept).item()) > 0.01


def operations(model: Model, batch: Batch) -> Iterator[Callable[[], object]]:
    for measure in (ablation, path_patch, qk_identity_surgery, ov_identity_surgery):
        yield lambda measure=measure: measure(model, batch)
    heads = [Head(0, 0), Head(1, 1)]
    for kind in KINDS:
        yield lambda kind=kind: ablated_loss(model, batch, heads, kind, "frozen")
    yield lambda: qk_identity_loss(model, batch, heads)
    yield lambda: ov_identity_loss(model, batch, heads)

    def raises(activation: Tensor, hook: object) -> Tensor:
        raise RuntimeError("on purpose")

    yield lambda: output_with(model, batch, [("blocks.1.attn.hook_z", raises)])
    yield lambda: ablated_loss(model, batch, "blocks.0.attn.hook_pattern")
    yield lambda: ablated_loss(model, batch, "blocks.0.attn.hook_attn_scores", "zero")
    yield lambda: ablated_loss(model, batch, Entries("blocks.0.hook_attn_out", [0, 3]))
    yield lambda: ablated_loss(model, batch, "blocks.1.attn.hook_pattern", "without_position")
    yield lambda: path_patch(model, batch._replace(task=None))


@ALL_NETWORKS
def test_the_network_is_left_as_it_was_also_when_a_hook_raises(network: str):
    model, batch = built(network)
    model = copy.deepcopy(model)
    model.unembed.train()  # one part in training mode, as someone may have left it; it has no dropout
    everything = [*model.modules(), *getattr(model, "original_model", model).modules()]
    modes = [module.training for module in everything]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    for operation in operations(model, batch):
        with suppress(RuntimeError, ValueError):
            operation()
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        assert [module.training for module in everything] == modes
        assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())
        assert not model.cfg.use_split_qkv_input
        assert all(parameter.grad is None for parameter in model.parameters())
        assert torch.equal(random, torch.get_rng_state())


def test_what_does_not_apply_says_why():
    model, batch = built("attention only")
    alone = batch._replace(inputs=batch.inputs[:1], targets=batch.targets[:1], mask=batch.mask[:1])
    with pytest.raises(DoesNotApplyError, match="needs other sequences to take activations from; this batch has 1"):
        ablation(model, alone, "resample")
    with pytest.raises(DoesNotApplyError, match="path_patch needs other sequences"):
        path_patch(model, alone)
    with pytest.raises(DoesNotApplyError, match="an earlier and a later layer; this network has 1 layer"):
        path_patch(*uniform_head())
    grouped = llama_bridge(), bridge()[1]
    with pytest.raises(DoesNotApplyError, match=r"path_patch needs .* this network has 4 query heads over 2 key heads"):
        path_patch(*grouped)
    with pytest.raises(DoesNotApplyError, match="qk_identity_surgery needs attention scores"):
        qk_identity_surgery(*grouped)
    assert ov_identity_surgery(*grouped).ov_identity_surgery.notnull().all()
    assert ablation(*grouped).ablation.notnull().all()


def test_wrong_arguments_are_named():
    model, batch = built("attention only")
    for what, message in (
        ("blocks.0.hook_atn_out", "'blocks.0.hook_atn_out' is not a hook point .* nearest is 'blocks.0.hook_attn_out'"),
        ("blocks.0.hook_q_input", "'blocks.0.hook_q_input' never fires .*set_use_split_qkv_input"),
        (Head(0, 5), "L0H5 does not exist; this network has L0H0 to L1H2"),
        ([Head(0, 0), Head(2, 0)], "L2H0 does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            ablated_loss(model, batch, what)
    with pytest.raises(
        ValueError, match="kind: 'median' is not one of zero, mean, position_mean, without_position, resample"
    ):
        check_one_of("kind", "median", get_args(Kind))
    with pytest.raises(ValueError, match=r"reference: its inputs have the shape \(7, 10\).* of the batch, \(7, 11\)"):
        ablation(model, batch, reference=batch._replace(inputs=batch.inputs[:, :-1]))
    with pytest.raises(ValueError, match="its task is None"):
        ablation(model, batch._replace(task=None))
    scales = of_recipe(TOKENS)[0]
    with pytest.raises(ValueError, match="its output is NaN or infinite with these activations replaced"):
        ablated_loss(scales, batch, "ln_final.hook_scale", "zero")
