"""Exact edge patching, the search for circuits, and their numbers: identities at the ends, and what must be refused."""

import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from random_networks import network
from torch import Tensor

from headway.analyze.circuits.circuit import Circuit
from headway.analyze.circuits.controls import matched_circuit
from headway.analyze.circuits.evaluation import evaluate_together
from headway.analyze.circuits.find import NothingToExplainError, find_circuit
from headway.analyze.circuits.graph import Edge, Graph
from headway.analyze.circuits.intervals import paired_bootstrap
from headway.analyze.circuits.patching import EdgePatching
from headway.analyze.circuits.replacement import Replacement
from headway.analyze.measures.ablation import ablated_loss, path_patch
from headway.analyze.network.requirements import DoesNotApplyError
from headway.checkpoints.run import REPLACEMENTS
from headway.data.affine_recurrence import AffineRecurrence
from headway.data.previous_token import PreviousToken
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.seeds import generator
from headway.data.task import Batch
from headway.models import handmade
from headway.models.config import Head, ModelConfig
from headway.models.handmade_circuits import CIRCUITS
from headway.models.hooked_transformer import HookedTransformer

TOKENS = RepeatedTokens(n_tokens=16, length=13, period_min=3, period_max=5)
VECTORS = AffineRecurrence(d_vector=17, length_min=5, length_max=14)
KINDS = {
    "attention only": {"attn_only": True},
    "MLPs": {},
    "solu_ln": {"act_fn": "solu_ln"},
    "LNPre": {"normalization_type": "LNPre"},
    "no norm": {"normalization_type": None},
    "shortformer": {"positional_embedding_type": "shortformer"},
    "no positions": {"positional_embedding_type": "none"},
    "bidirectional": {"attention_dir": "bidirectional"},
    "vectors": {"input_type": "vectors", "d_vocab": 17},
    "three layers": {"n_layers": 3},
}


def made(kind: str) -> tuple[HookedTransformer, Batch]:
    """A random network of a kind, with a batch that it can read."""
    model = network(seed=3, dtype=torch.float64, **{"d_vocab": 17, **KINDS[kind]})
    task = VECTORS if KINDS[kind].get("input_type") == "vectors" else TOKENS
    batch = task.evaluation_batch(seed=0, batch_size=7)
    if task is VECTORS:
        batch = batch._replace(inputs=batch.inputs.double(), targets=batch.targets.double())
    return model, batch


def mean_loss(patching: EdgePatching, output: Tensor) -> float:
    each = patching.batch.task.loss(output, patching.batch)  # pyright: ignore[reportOptionalMemberAccess]
    return each[patching.mask].mean().item()


@pytest.mark.parametrize("kind", KINDS)
def test_all_edges_are_the_network_and_none_is_the_network_on_the_twins(kind: str):
    model, batch = made(kind)
    patching = EdgePatching(model, batch, replacement="twin")
    assert batch.task is not None
    torch.testing.assert_close(patching.clean.output, model(batch.inputs))
    twin = batch.task.twin(batch, generator("twin", 0))
    assert twin is not None
    torch.testing.assert_close(patching.none.output, model(twin.inputs.to(batch.inputs.dtype)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_from_an_earlier_one_is_the_pass_from_the_start(kind: str):
    """Random circuits, from the pass with every edge and from the pass with none, and edge by edge."""
    patching = EdgePatching(*made(kind), replacement="resample")
    draws = np.random.default_rng(0)
    for _ in range(3):
        kept = draws.random(len(patching.graph.edges)) < 0.5
        from_all, from_none = (patching.run(kept, base, whole=True) for base in (patching.clean, patching.none))
        torch.testing.assert_close(from_all.output, from_none.output)
        one_by_one = patching.clean
        for edge in np.flatnonzero(~kept):
            left = one_by_one.kept.copy()
            left[edge] = False
            one_by_one = patching.run(left, one_by_one)
        torch.testing.assert_close(one_by_one.output, from_all.output)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("replacement", ["resample", "position_mean", "mean", "zero"])
def test_all_edges_out_of_a_head_are_the_ablation_of_that_head(kind: str, replacement: str):
    model, batch = made(kind)
    patching = EdgePatching(model, batch, replacement=replacement)  # pyright: ignore[reportArgumentType]
    for head in (Head(0, 1), Head(1, 2)):
        kept = np.ones(len(patching.graph.edges), dtype=bool)
        kept[patching.edges_from[str(head)]] = False
        ours = mean_loss(patching, patching.run(kept, patching.clean).output)
        assert ours == pytest.approx(ablated_loss(model, batch, head, replacement).loss.item())  # pyright: ignore[reportArgumentType]


def test_one_edge_between_heads_is_path_patching():
    model, batch = made("LNPre")
    patched = path_patch(model, batch, sequences=7)
    patching = EdgePatching(model, batch, replacement="resample")
    clean = mean_loss(patching, patching.clean.output)
    for input in ("q", "k", "v"):
        kept = np.ones(len(patching.graph.edges), dtype=bool)
        kept[patching.graph.index[Edge("L0H2", "L1H1", input)]] = False  # pyright: ignore[reportArgumentType]
        place = {"input": input, "from_layer": 0, "from_head": 2, "to_layer": 1, "to_head": 1}
        ours = mean_loss(patching, patching.run(kept, patching.clean).output) - clean
        assert ours == pytest.approx(patched.path_patch.sel(place).item(), abs=1e-6)


def test_shortformer_positions_lead_to_queries_and_keys_alone():
    graph = Graph(replace(made("shortformer")[0].cfg))
    assert {edge.input for edge in graph.edges if edge.source == "pos_embed"} == {"q", "k"}


def test_every_edge_leads_forwards_and_is_found_by_its_name():
    graph = Graph(made("three layers")[0].cfg)
    assert [Edge.named(str(edge)) for edge in graph.edges] == list(graph.edges)
    assert len(set(graph.edges)) == len(graph.edges)
    # 3 heads with 3 inputs, an MLP and an output, each of which reads every node before it.
    before = [2, 6, 10]
    assert len(graph.edges) == sum(9 * nodes + nodes + 3 for nodes in before) + 14


@pytest.mark.parametrize("name", ["L0H0", "L0H0->L1H0.x", "->L1H0.q", "L0H0->", ""])
def test_what_is_no_edge_is_refused(name: str):
    with pytest.raises(ValueError, match=r"^edge: "):
        Edge.named(name)
    with pytest.raises(ValueError, match=r"^edge: "):
        EdgePatching(*handmade.composing_pair("k")).loss([name])


def test_an_edge_that_this_network_lacks_is_refused():
    with pytest.raises(ValueError, match=r"^edge: L1H0->L0H0.q does not exist"):
        EdgePatching(*handmade.composing_pair("k")).loss(["L1H0->L0H0.q"])


def test_found_circuit_of_an_induction_network():
    """K-composition of a previous-token head with an induction head; each of its numbers is known beforehand."""
    model, batch = handmade.composing_pair("k")
    found = find_circuit(model, batch, part="repeats", n_controls=101)
    assert set(map(str, found.edges)) == {
        "embed->L0H0.v", "L0H0->L1H1.k", "embed->L1H1.q", "embed->L1H1.v", "L1H1->output",
    }  # fmt: skip
    scores = found.scores
    assert scores.faithfulness == pytest.approx(1, abs=1e-3)
    assert scores.minimality > 0.5
    assert scores.necessity > 0.9
    assert scores.p.item() < 0.05
    assert scores.overlap == 1
    assert not scores.stand_in.any()
    outside = [node for node in scores.node.values if node not in found.nodes]
    np.testing.assert_allclose(scores.effect.sel(node=outside), 0, atol=1e-6)
    # Rank by rank the circuit comes first, so one more edge than it has can only lose nothing.
    order = scores.edge.values[np.argsort(-scores.edge_importance.values)]
    assert set(order[: len(found.edges)]) == set(map(str, found.edges))
    for name in ("known", "faithfulness", "necessity", "minimality", "cpr", "cmd"):
        assert scores[f"{name}_low"] <= scores[name] + 1e-9
        assert scores[name] <= scores[f"{name}_high"] + 1e-9


def test_minimality_has_the_interval_of_the_edge_that_it_is_of():
    found = find_circuit(*handmade.composing_pair("k"), part="repeats", n_controls=7)
    scores, edge = found.scores, found.scores.minimality.attrs["edge"]
    assert edge in map(str, found.edges)
    assert scores.minimality == scores.cost.sel(edge=list(map(str, found.edges))).min()
    for end in ("", "_low", "_high"):
        assert scores[f"minimality{end}"].item() == scores[f"cost{end}"].sel(edge=edge).item()


def test_a_twin_leaves_ignorance_and_another_sequence_misleads():
    """On sequences without repeats the network guesses; another sequence has another answer, of which it is sure."""
    model, batch = CIRCUITS["induction_circuit"].build()
    twin, other = (
        find_circuit(model, batch, "repeats", kind, n_orders=1, n_controls=1).scores for kind in ("twin", "resample")
    )
    for scores in (twin, other):
        assert scores.chance.item() == pytest.approx(math.log(12))
        assert scores.all_replaced == scores.clean + scores.known
    assert not twin.misleads
    assert twin.all_replaced < 1.1 * twin.chance
    assert other.misleads
    assert other.all_replaced_low > 1.1 * other.chance
    # The task gives the chance of one part alone, so that nothing is said of another one.
    everywhere = find_circuit(model, batch, None, "resample", n_orders=1, n_controls=1).scores
    assert math.isnan(everywhere.chance)
    assert not everywhere.misleads


def test_what_a_node_adds_where_the_others_of_its_group_are_replaced():
    model, batch = CIRCUITS["two_induction_heads"].build()
    patching = EdgePatching(model, batch, "repeats")
    copies, alone, trio = (["L1H0", "L1H1"], ["L1H1"], ["L0H1", "L1H0", "L1H1"])
    found = evaluate_together(patching, [copies, alone, trio])
    effect = found.sel(group="L1H1").group_effect.item()
    pair = found.sel(group="L1H0 L1H1")
    # Either of the two suffices, so each is needed once the other one is gone, and not before.
    assert effect == pytest.approx(0, abs=1e-3)
    assert pair.group_effect.item() == pytest.approx(1, abs=0.05)
    assert pair.marginal_effect.sel(node="L1H0").item() == pytest.approx(pair.group_effect.item() - effect)
    assert pair.marginal_effect_low.sel(node="L1H1").item() > 0.9
    # An idle head adds nothing to them, and what is in no group has no number.
    three = found.sel(group="L0H1 L1H0 L1H1").marginal_effect
    assert three.sel(node="L0H1").item() == pytest.approx(0, abs=1e-6)
    assert three.sel(node="L1H0").item() == pytest.approx(pair.marginal_effect.sel(node="L1H0").item(), abs=1e-6)
    assert np.isnan(three.sel(node="L0H0").item())
    # A group of one is the node itself.
    assert found.sel(group="L1H1").marginal_effect.sel(node="L1H1").item() == pytest.approx(effect)


def test_the_search_is_determined_by_its_seed():
    model, batch = handmade.composing_pair("k")
    first, again = (find_circuit(model, batch, part="repeats", seed=5, n_controls=7) for _ in range(2))
    assert first.scores.identical(again.scores)
    assert first.scores.known.item() != find_circuit(model, batch, part="repeats", n_controls=7).scores.known.item()


def test_a_search_leaves_network_and_generator_as_they_were():
    model, batch = handmade.composing_pair("k")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    find_circuit(model.train(), batch, part="repeats", n_controls=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize("replacement", ["twin", "position_mean", "resample"])
def test_an_untrained_network_has_nothing_to_explain(replacement: str):
    cfg = ModelConfig(n_layers=2, d_model=19, n_ctx=13, d_head=5, n_heads=3, d_vocab=17, attn_only=True)
    batch = TOKENS.evaluation_batch(seed=0, batch_size=11)
    with pytest.raises(NothingToExplainError, match=r"^circuit: nothing to explain: the loss on repeats is 2.8"):
        find_circuit(HookedTransformer(cfg), batch, "repeats", replacement)  # pyright: ignore[reportArgumentType]


def test_circuits_are_stored_and_read_back(tmp_path: Path):
    found = find_circuit(*handmade.composing_pair("k"), part="repeats", n_controls=7)
    found.save(tmp_path / "circuit.safetensors")
    read = Circuit.load(tmp_path / "circuit.safetensors")
    assert read.scores.identical(found.scores)
    assert read.edges == found.edges


def test_controls_have_the_size_and_shape_of_the_circuit():
    graph = Graph(ModelConfig(n_layers=3, d_model=19, n_ctx=11, d_head=5, n_heads=7, d_vocab=14))
    draws = np.random.default_rng(0)
    kept = draws.random(len(graph.edges)) < 0.1

    def shape(kept: np.ndarray) -> tuple[dict, dict]:
        edges = [graph.edges[edge] for edge in np.flatnonzero(kept)]
        nodes = {node for edge in edges for node in (edge.source, edge.target)}
        between: dict = {}
        for edge in edges:
            place = graph.places[edge.source], graph.places[edge.target]
            between[place] = between.get(place, 0) + 1
        return between, {place: sum(graph.places[node] == place for node in nodes) for place in graph.places.values()}

    others = [matched_circuit(graph, kept, draws) for _ in range(5)]
    for other in others:
        assert shape(other)[0] == shape(kept)[0]
        # A node that was drawn may get no edge.
        assert all(count <= shape(kept)[1][place] for place, count in shape(other)[1].items())
        assert (other != kept).any()
    assert len({other.tobytes() for other in others}) == 5


def test_a_run_knows_the_replacements_of_a_search():
    assert set(get_args(Replacement)) == set(REPLACEMENTS)


@pytest.mark.parametrize("source", ["embed", "pos_embed"])
def test_controls_are_told_what_the_circuit_is_told(source: str):
    """Without the embedding a network knows nothing, and any circuit would be better than that."""
    graph = Graph(ModelConfig(n_layers=2, d_model=19, n_ctx=11, d_head=5, n_heads=7, d_vocab=14))
    draws, kept = np.random.default_rng(0), np.zeros(len(graph.edges), dtype=bool)
    for name in (f"{source}->L0H1.v", "L0H1->L1H2.k", f"{source}->L1H2.v", "L1H2->output"):
        kept[graph.index[Edge.named(name)]] = True
    for _ in range(23):
        drawn = [graph.edges[edge] for edge in np.flatnonzero(matched_circuit(graph, kept, draws))]
        assert {edge.source for edge in drawn if edge.source in ("embed", "pos_embed")} == {source}
        assert len(drawn) == 4


def test_bootstrap_intervals_hold_the_truth_as_often_as_they_say():
    """Means of 61 normal sequences: the 95 % interval holds the true mean in about 95 % of 200 draws."""
    draws = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        sums = draws.normal(3.0, 1.0, 61)
        found = paired_bootstrap(lambda mean, sums=sums: {"mean": mean(sums)}, np.ones(61), seed, resamples=400)["mean"]
        held += bool(found.low <= 3.0 <= found.high)
    # 190 of 200 are expected; three standard deviations are 9.
    assert held >= 181


def test_a_pair_of_losses_that_differ_by_a_constant_has_an_interval_without_width():
    sums = np.random.default_rng(0).normal(size=17)
    found = paired_bootstrap(lambda mean: {"gap": mean(sums + 1.0) - mean(sums)}, np.ones(17))["gap"]
    assert found.low == pytest.approx(1.0)
    assert found.high == pytest.approx(1.0)


def test_what_does_not_apply_is_refused_in_words():
    model, batch = handmade.composing_pair("k")
    with pytest.raises(ValueError, match=r"^part: 'end' is not a part of this task; it has first, repeats"):
        find_circuit(model, batch, part="end")
    with pytest.raises(ValueError, match=r"^replacement: 'swap' is not one of twin, resample"):
        find_circuit(model, batch, replacement="swap")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DoesNotApplyError, match=r"^circuit: needs at least 2 sequences"):
        find_circuit(model, batch.first(1))
    with pytest.raises(ValueError, match=r"^batch: its task is None"):
        find_circuit(model, batch._replace(task=None))
    with pytest.raises(ValueError, match=r"^n_controls: 0 is not valid"):
        find_circuit(model, batch, n_controls=0)


def test_a_task_without_twins_says_so_and_what_to_take_instead():
    model, batch = handmade.previous_token_head()
    task = PreviousToken(n_tokens=12, length=17)
    batch = task.evaluation_batch(seed=0, batch_size=5)
    assert EdgePatching(model, batch).replacement == "position_mean"
    with pytest.raises(DoesNotApplyError, match=r"^replacement: 'twin' does not apply: PreviousToken draws no twins"):
        EdgePatching(model, batch, replacement="twin")
