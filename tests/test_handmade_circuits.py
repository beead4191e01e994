"""Handmade networks with known circuits solve their tasks, by these circuits and by nothing else."""

import math
import re

import pytest
import torch

from headway.analyze.measures.attention import duplicate_token, prefix_matching, previous_token
from headway.data.seeds import generator
from headway.data.task import Batch, masked_mean
from headway.models import handmade_circuits
from headway.models.config import Head
from headway.models.handmade import SENTENCES, name_movers
from headway.models.handmade_circuits import CIRCUITS, HALVING, REPEATS, KnownCircuit
from headway.models.hooked_transformer import HookedTransformer

each_network = pytest.mark.parametrize("known", CIRCUITS.values(), ids=CIRCUITS)


def behaviour(model: HookedTransformer, batch: Batch, inputs: torch.Tensor | None = None) -> float:
    """The loss on the part that shows what the task is about."""
    assert batch.task is not None
    part = batch.task.behaviour.part
    where = batch.mask if part is None else batch.task.parts(batch)[part]
    with torch.no_grad():
        losses = batch.task.loss(model(batch.inputs if inputs is None else inputs), batch)
    return masked_mean(losses, where).item()


def chance(batch: Batch) -> float:
    assert batch.task is not None
    assert batch.task.behaviour.chance is not None
    return batch.task.baselines()[batch.task.behaviour.chance]


def silenced(known: KnownCircuit, *nodes: str) -> float:
    """The behaviour of a network in which some heads and MLPs write nothing."""
    model, batch = known.build()
    with torch.no_grad():
        for node in nodes:
            if node.startswith("MLP"):
                model.blocks[int(node[3:])].mlp.W_out.zero_()
            else:
                head = Head.named(node)
                model.blocks[head.layer].attn.W_O[head.head] = 0.0
    return behaviour(model, batch)


@each_network
def test_it_solves_its_task_and_is_at_chance_on_twins(known: KnownCircuit):
    model, batch = known.build()
    assert not model.training
    assert behaviour(model, batch) < 1e-3 * chance(batch)
    assert batch.task is not None
    twin = batch.task.twin(batch, generator("data", 5))
    if twin is not None:
        # The baseline of vectors is estimated from other sequences, to about 1 %; twins of sentences keep both names.
        ignorant = batch.task.baselines().get("end_either_name", chance(batch))
        assert behaviour(model, batch, twin.inputs) > 0.9 * ignorant


@pytest.mark.parametrize("name", [name for name in CIRCUITS if "induction" in name or name in ("decoy", "shortformer")])
def test_on_twins_it_knows_nothing_at_all(name: str):
    model, batch = CIRCUITS[name].build()
    twin = REPEATS.twin(batch, generator("data", 5))
    assert behaviour(model, batch, twin.inputs) == pytest.approx(math.log(REPEATS.d_vocab), abs=1e-3)


def test_a_twin_leaves_name_movers_between_the_names_and_other_names_mislead_them():
    """Name movers that nothing inhibits attend to every name; in sentences with other names, IO is none of them."""
    model, batch = name_movers()
    known, twin, corrupted = (
        behaviour(model, batch, inputs)
        for inputs in (
            batch.inputs, SENTENCES.twin(batch, generator("data", 5)).inputs, SENTENCES.corrupted(batch).inputs
        )
    )  # fmt: skip
    assert known < 0.05
    assert math.log(2) < twin < chance(batch) < corrupted


@each_network
def test_its_edges_lead_forward_between_parts_that_it_has(known: KnownCircuit):
    model, _ = known.build()
    heads = [str(Head(layer, head)) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    assert len(set(known.edges)) == len(known.edges)
    for edge in known.edges:
        source, target = edge.split("->")
        assert source in ("embed", *heads, "MLP0")
        assert target in ("output", "MLP0", *(f"{head}.{name}" for head in heads for name in "qkv"))
        if target != "output" and source != "embed":
            layers = [int(re.findall(r"[0-9]+", node)[0]) for node in (source, target)]
            assert layers[0] < layers[1] or (target == "MLP0" and layers[0] == 0)
    assert set(known.copies) <= set(known.nodes)


@each_network
def test_a_part_is_needed_if_and_only_if_it_is_in_the_circuit(known: KnownCircuit):
    """Parts that compute from positions alone are needed too, and carry nothing: they stand in no circuit."""
    model, batch = known.build()
    constant = {"L0H0", "MLP0"} if model.cfg.positional_embedding_type == "none" else set()
    parts = [str(Head(layer, head)) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    parts += [] if model.cfg.attn_only else [f"MLP{layer}" for layer in range(model.cfg.n_layers)]
    for part in set(parts) - constant:
        risen = silenced(known, part) - behaviour(model, batch)
        assert (risen > 0.05 * chance(batch)) == (part in set(known.nodes) - set(known.copies)), part
    if known.copies:
        assert silenced(known, *known.copies) > chance(batch)


def test_the_decoy_attends_like_an_induction_head_and_writes_nothing():
    model, batch = handmade_circuits.decoy()
    cache = model.run_with_cache(batch.inputs)[1]
    torch.testing.assert_close(cache["pattern", 1][:, 0], cache["pattern", 1][:, 1])
    assert prefix_matching(model, batch).prefix_matching.sel(layer=1, head=0).item() > 0.999
    assert cache["v", 1][:, :, 0].abs().max() > 0.9
    assert not model.W_O[1, 0].any()


def test_induction_by_position_has_no_previous_token_head():
    model, batch = handmade_circuits.induction_by_position()
    assert previous_token(model, batch).previous_token.max() < 0.3
    assert duplicate_token(model, batch).duplicate_token.sel(layer=0, head=0).item() > 0.99
    assert prefix_matching(model, batch).prefix_matching.sel(layer=1, head=1).item() > 0.99
    # Only the query reads what L0H0 writes.
    written = model.W_O[0, 0].detach()
    assert (written @ model.W_Q[1, 1]).any()
    assert not (written @ model.W_K[1, 1]).any()
    assert not (written @ model.W_V[1, 1]).any()


def test_the_second_layer_reads_no_token_but_in_the_code_of_the_mlp():
    model, batch = handmade_circuits.induction_through_mlp()
    tokens = model.W_E.detach()
    for W in (model.W_Q, model.W_V):
        assert not (tokens @ W[1, 1]).any()
    written = model.run_with_cache(batch.inputs)[1]["mlp_out", 0]
    assert set(written.unique().tolist()) == {0.0, 1.0}
    assert (written.sum(-1) == 1).all()


def test_attention_in_both_directions_finds_later_copies_and_not_the_answer_itself():
    model, batch = handmade_circuits.bidirectional_induction()
    pattern = model.run_with_cache(batch.inputs)[1]["pattern", 1][:, 1]
    assert pattern.diagonal(1, 1, 2).max() < 1e-6
    later = pattern.triu(1).sum(-1)
    assert later[:, 1].max() > 0.99
    # A token of the first copy has no earlier one, and later ones wherever the segment comes again in full.
    assert later[REPEATS.parts(batch)["first"]].mean() > 0.4


def test_shortformer_positions_are_in_no_residual_stream():
    model, batch = CIRCUITS["shortformer"].build()
    cache = model.run_with_cache(batch.inputs)[1]
    assert not cache["resid_post", 1][..., 3 * REPEATS.d_vocab :].any()


def test_the_layer_norms_scale_every_position_alike():
    model, batch = handmade_circuits.layer_norm_induction()
    cache = model.run_with_cache(batch.inputs)[1]
    for layer in (0, 1):
        assert cache["resid_pre", layer].std(-1).var() < 1e-9


def test_the_recurrence_is_read_from_the_last_two_vectors():
    model, batch = handmade_circuits.recurrence_reader()
    with torch.no_grad():
        output = model(batch.inputs)
    mean = (batch.inputs[:, 1:] + batch.inputs[:, :-1]) / 2
    torch.testing.assert_close(output[:, 1:], mean)
    torch.testing.assert_close(batch.targets[:, 1:], mean)
    assert HALVING.parts(batch)["determined"][:, 2:].all()
