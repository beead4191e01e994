"""The effect of every node: equal to exact edge patching and to ablation by twins, right on networks made by hand."""

import numpy as np
import pytest
import torch
from test_circuits import KINDS, made

from headway.analyze.circuits.patching import EdgePatching
from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.effect import effect
from headway.analyze.network.requirements import DoesNotApplyError
from headway.data.seeds import generator
from headway.models.config import Head
from headway.models.handmade_circuits import CIRCUITS
from headway.models.hooked_transformer import HookedTransformer


@pytest.mark.parametrize("kind", KINDS)
def test_an_effect_is_that_of_replacing_every_edge_out_of_the_node(kind: str):
    model, batch = made(kind)
    assert batch.task is not None
    found = effect(model, batch)
    patching = EdgePatching(model, batch, batch.task.behaviour.part, "twin")
    positions = patching.counts.sum()
    clean = patching.sums(patching.clean).sum() / positions
    assert found.effect_clean.item() == pytest.approx(clean)
    for node in patching.graph.nodes[:-1]:
        if not patching.graph.inputs(node):
            continue
        kept = np.ones(len(patching.graph.edges), dtype=bool)
        kept[patching.edges_from[node]] = False
        risen = patching.sums(patching.run(kept, patching.clean)).sum() / positions - clean
        ours = found.effect_mlp[int(node[3:])] if node.startswith("MLP") else found.effect[Head.named(node)]
        assert ours.item() == pytest.approx(risen, abs=1e-6), node
    assert ("effect_mlp" in found) == (not model.cfg.attn_only)


def test_an_effect_is_ablation_by_the_twin():
    model, batch = made("MLPs")
    assert batch.task is not None
    twin = batch.task.twin(batch, generator("twin", 0))
    found = effect(model, batch)
    for head in (Head(0, 2), Head(1, 0)):
        without = ablated_loss(model, batch, head, "resample", reference=twin).loss_repeats
        assert found.effect[head].item() == pytest.approx(without.item() - found.effect_clean.item(), abs=1e-6)


@pytest.mark.parametrize("name", ["induction_circuit", "decoy", "two_induction_heads", "induction_by_position"])
def test_only_nodes_of_a_known_circuit_have_an_effect(name: str):
    known = CIRCUITS[name]
    model, batch = known.build()
    assert batch.task is not None
    assert batch.task.behaviour.part == "repeats"
    found = effect(model, batch).effect
    outside = [head for head in np.ndindex(found.shape) if str(Head(*head)) not in known.nodes]
    np.testing.assert_allclose([found.values[head] for head in outside], 0, atol=1e-3)
    if name == "induction_circuit":
        assert all(found.values[Head.named(node)] > 1 for node in known.nodes if node.startswith("L"))


def test_an_untrained_network_has_no_effects():
    model, batch = CIRCUITS["induction_circuit"].build()
    fresh = effect(HookedTransformer(model.cfg), batch).effect
    np.testing.assert_allclose(fresh.values, 0, atol=0.05)


def test_large_layers_run_in_pieces(monkeypatch: pytest.MonkeyPatch):
    model, batch = made("three layers")
    whole = effect(model, batch)
    monkeypatch.setattr("headway.analyze.measures.effect.MOST_NUMBERS", 1)
    np.testing.assert_allclose(effect(model, batch).effect, whole.effect, atol=1e-12)


def test_a_batch_without_the_behaviour_is_refused():
    model, batch = made("MLPs")
    with pytest.raises(DoesNotApplyError, match=r"^effect needs positions of the part repeats"):
        effect(model, batch._replace(mask=torch.zeros_like(batch.mask)))
    with pytest.raises(ValueError, match=r"^batch: its task is None"):
        effect(model, batch._replace(task=None))
