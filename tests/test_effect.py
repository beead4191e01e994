"""The effect of every node: equal to exact edge patching and to ablation by twins, right on networks made by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from networks import gpt2_bridge
from test_circuits import KINDS, TOKENS, made
from transformer_lens.hook_points import HookPoint

from headway.analyze.circuits.patching import EdgePatching
from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.effect import effect
from headway.analyze.measures.loss import loss
from headway.analyze.network.requirements import DoesNotApplyError
from headway.data.previous_token import PreviousToken
from headway.data.seeds import generator
from headway.data.task import Task
from headway.models.config import Head
from headway.models.convert import Model
from headway.models.handmade_circuits import CIRCUITS
from headway.models.hooked_transformer import HookedTransformer


@pytest.fixture
def little_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give also shares of the little, or less than nothing, that a random network knows."""
    monkeypatch.setattr("headway.analyze.measures.effect.LEAST_KNOWN", -math.inf)


@pytest.mark.usefixtures("little_known")
@pytest.mark.parametrize("kind", KINDS)
def test_an_effect_is_that_of_replacing_every_edge_out_of_the_node(kind: str):
    model, batch = made(kind)
    assert batch.task is not None
    found = effect(model, batch)
    patching = EdgePatching(model, batch, batch.task.behaviour.part, "twin")
    positions = patching.counts.sum()
    clean = patching.sums(patching.clean).sum() / positions
    known = patching.sums(patching.none).sum() / positions - clean
    assert found.effect_clean.item() == pytest.approx(clean)
    assert found.effect_known.item() == pytest.approx(known, abs=1e-6)
    for node in patching.graph.nodes[:-1]:
        if not patching.graph.inputs(node):
            continue
        kept = np.ones(len(patching.graph.edges), dtype=bool)
        kept[patching.edges_from[node]] = False
        risen = patching.sums(patching.run(kept, patching.clean)).sum() / positions - clean
        ours = found.effect_mlp[int(node[3:])] if node.startswith("MLP") else found.effect[Head.named(node)]
        assert ours.item() * known == pytest.approx(risen, abs=1e-6), node
    assert ("effect_mlp" in found) == (not model.cfg.attn_only)


@pytest.mark.usefixtures("little_known")
def test_an_effect_is_ablation_by_the_twin():
    model, batch = made("MLPs")
    assert batch.task is not None
    twin = batch.task.twin(batch, generator("twin", 0))
    found = effect(model, batch)
    for head in (Head(0, 2), Head(1, 0)):
        without = ablated_loss(model, batch, head, "resample", reference=twin).loss_repeats
        risen = without.item() - found.effect_clean.item()
        assert (found.effect[head] * found.effect_known).item() == pytest.approx(risen, abs=1e-6)


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
        assert all(found.values[Head.named(node)] > 0.5 for node in known.nodes if node.startswith("L"))


def test_an_untrained_network_knows_nothing_and_so_has_no_effects():
    model, batch = CIRCUITS["induction_circuit"].build()
    fresh = effect(HookedTransformer(model.cfg), batch)
    assert fresh.effect_known.item() == pytest.approx(0, abs=0.05)
    assert fresh.effect.isnull().all()


@pytest.mark.usefixtures("little_known")
@pytest.mark.parametrize("kind", ["attention only", "MLPs", "shortformer", "LNPre"])
def test_where_no_twins_are_drawn_the_mean_at_each_position_stands_in(kind: str):
    """Of the previous token every sequence tells the answer."""
    model, _ = made(kind)
    batch = PreviousToken(n_tokens=16, length=13).evaluation_batch(seed=0, batch_size=7)
    found = effect(model, batch)
    assert found.effect.attrs["replacement"] == "position_mean"
    patching = EdgePatching(model, batch, replacement="position_mean")
    clean, none = (patching.sums(each).sum() / patching.counts.sum() for each in (patching.clean, patching.none))
    assert found.effect_known.item() == pytest.approx(none - clean, abs=1e-6)
    for head in (Head(0, 1), Head(1, 2)):
        without = ablated_loss(model, batch, head, "position_mean").loss
        assert (found.effect[head] * found.effect_known).item() == pytest.approx(without.item() - clean, abs=1e-6)


@pytest.mark.usefixtures("little_known")
@pytest.mark.parametrize("task", [TOKENS, PreviousToken(n_tokens=16, length=13)], ids=["twins", "no twins"])
def test_a_language_model_has_the_effects_of_its_ablations(task: Task):
    model = gpt2_bridge()
    batch = task.evaluation_batch(seed=0, batch_size=5)
    found = effect(model, batch)
    part, twin = task.behaviour.part, task.twin(batch, generator("twin", 0))
    name = "loss" if part is None else f"loss_{part}"
    kind = "position_mean" if twin is None else "resample"
    assert found.effect_clean.item() == pytest.approx(loss(model, batch)[name].item(), abs=1e-5)
    head = Head(1, 0)
    risen = ablated_loss(model, batch, head, kind, reference=twin)[name].item() - found.effect_clean.item()
    assert (found.effect[head] * found.effect_known).item() == pytest.approx(risen, abs=1e-5)
    if twin is not None:
        on_twins = loss(model, batch._replace(inputs=twin.inputs))[name].item()
        assert found.effect_known.item() == pytest.approx(on_twins - found.effect_clean.item(), abs=1e-5)


@pytest.mark.parametrize("build", [lambda: made("MLPs")[0], gpt2_bridge], ids=["ours", "bridge"])
def test_the_network_is_left_as_it_was(build: Callable[[], Model]):
    model, batch = build().train(), TOKENS.evaluation_batch(seed=0, batch_size=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    switches = {name: value for name, value in vars(model.cfg).items() if isinstance(value, bool)}
    effect(model, batch)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: value for name, value in vars(model.cfg).items() if isinstance(value, bool)} == switches
    assert model.training
    assert not any(module._forward_hooks for module in model.modules() if isinstance(module, HookPoint))
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()


@pytest.mark.usefixtures("little_known")
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
