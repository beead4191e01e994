"""Nodes without edges: patched whole in any network, searched among, and found where the truth is known."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import networks
import numpy as np
import pytest
import torch
import xarray as xr
from language_models import saved_gpt2
from test_circuits import KINDS, made
from test_circuits_ground_truth import auroc

import headway
from headway.analyze.circuits.circuit import Circuit
from headway.analyze.circuits.controls import matched_nodes
from headway.analyze.circuits.find import NothingToExplainError, find_nodes
from headway.analyze.circuits.nodes import NodePatching
from headway.analyze.circuits.patching import EdgePatching
from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.network.requirements import DoesNotApplyError
from headway.data.indirect_object import NAMES, OBJECTS, PLACES, TEMPLATES
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.seeds import generator
from headway.data.task import Batch, Task
from headway.models.config import Head
from headway.models.convert import Model
from headway.models.handmade_circuits import CIRCUITS

TOKENS = RepeatedTokens(n_tokens=16, length=13, period_min=3, period_max=5)
BRIDGES = {
    "gpt2": networks.gpt2_bridge,
    "rotary positions, grouped heads": networks.llama_bridge,
    "parallel blocks": networks.parallel_bridge,
    "ALiBi": networks.alibi_bridge,
    "norms after": networks.norms_after_bridge,
    "norms around": networks.norms_around_bridge,
}


@dataclass(frozen=True)
class Imitation(Task):
    """Random tokens; the target at each position is what a network finds likeliest there, which a twin hides."""

    d_vocab: ClassVar[int] = networks.D_VOCAB  # pyright: ignore[reportIncompatibleMethodOverride]
    n_ctx: ClassVar[int] = 7  # pyright: ignore[reportIncompatibleMethodOverride]

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        tokens = torch.randint(self.d_vocab, (batch_size, self.n_ctx), generator=generator)
        with torch.no_grad():
            likeliest = networks.gpt2_bridge(3.0)(tokens).argmax(-1)
        return Batch(tokens, likeliest, torch.ones_like(tokens, dtype=torch.bool))

    def baselines(self) -> dict[str, float]:
        return {}

    def twin(self, batch: Batch, generator: torch.Generator) -> Batch:
        return batch._replace(inputs=torch.randint(self.d_vocab, batch.inputs.shape, generator=generator))


def random_kept(patching: NodePatching, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(len(patching.nodes)) < 0.5


def each_way(kind: str) -> tuple[Model, Batch]:
    """A random network of a kind, of ours or a bridge, with a batch."""
    return made(kind) if kind in KINDS else (BRIDGES[kind](), TOKENS.evaluation_batch(seed=0, batch_size=5))


def loss_on(model: Model, batch: Batch, inputs: torch.Tensor) -> float:
    assert batch.task is not None
    with torch.no_grad():
        return batch.task.loss(model(inputs.to(batch.inputs.dtype)), batch)[batch.mask].mean().item()


@pytest.mark.parametrize("kind", [*KINDS, *BRIDGES])
def test_all_nodes_are_the_network_and_none_is_the_network_on_the_twins(kind: str):
    model, batch = each_way(kind)
    patching = NodePatching(model, batch, replacement="twin")
    assert batch.task is not None
    assert patching.loss(patching.nodes) == pytest.approx(loss_on(model, batch, batch.inputs), rel=1e-5)
    twin = batch.task.twin(batch, generator("twin", 0))
    assert twin is not None
    assert patching.loss([]) == pytest.approx(loss_on(model, batch, twin.inputs), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("replacement", ["twin", "resample", "position_mean", "mean", "zero"])
def test_a_replaced_node_is_every_edge_out_of_it_replaced(kind: str, replacement: str):
    model, batch = made(kind)
    nodes = NodePatching(model, batch, replacement=replacement)  # pyright: ignore[reportArgumentType]
    edges = EdgePatching(model, batch, replacement=replacement)  # pyright: ignore[reportArgumentType]
    assert nodes.nodes == edges.nodes
    for seed in range(3):
        kept = random_kept(nodes, seed)
        out_of_kept = np.array([kept[edges.nodes.index(edge.source)] for edge in edges.graph.edges])
        np.testing.assert_allclose(
            nodes.sums(nodes.run(kept, nodes.clean)), edges.sums(edges.run(out_of_kept, edges.clean)), atol=1e-9
        )


@pytest.mark.parametrize("kind", [*KINDS, *BRIDGES])
@pytest.mark.parametrize("replacement", ["resample", "position_mean", "zero"])
def test_replaced_heads_are_their_ablation(kind: str, replacement: str):
    model, batch = each_way(kind)
    patching = NodePatching(model, batch, replacement=replacement)  # pyright: ignore[reportArgumentType]
    heads = [Head(0, 1), Head(1, 0), Head(1, 2)]
    kept = [node for node in patching.nodes if node not in map(str, heads)]
    ablated = ablated_loss(model, batch, heads, replacement).loss.item()  # pyright: ignore[reportArgumentType]
    assert patching.loss(kept) == pytest.approx(ablated, rel=1e-5)


@cache
def found(name: str) -> Circuit:
    model, batch = CIRCUITS[name].build()
    assert batch.task is not None
    return find_nodes(model, batch, batch.task.behaviour.part, n_controls=19)


@pytest.mark.parametrize("name", CIRCUITS)
def test_nodes_of_known_circuits_are_found(name: str):
    circuit, known = found(name), CIRCUITS[name]
    assert auroc(circuit.scores.node_importance, known.nodes) == 1
    assert set(circuit.nodes) <= set(known.nodes)
    assert (set(circuit.nodes) == set(known.nodes)) == (not known.copies)
    assert circuit.scores.faithfulness.item() > 0.99
    assert circuit.scores.necessity.item() > 0.9


def test_the_decoy_is_not_found():
    scores = found("decoy").scores
    assert not scores.node_in_circuit.sel(node="L1H0")
    assert scores.effect.sel(node="L1H0").item() == 0


@pytest.mark.parametrize("name", ["two_induction_heads", "two_previous_token_heads"])
def test_of_two_copies_the_other_one_stands_in(name: str):
    circuit, copies = found(name), CIRCUITS[name].copies
    [inside] = [copy for copy in copies if copy in circuit.nodes]
    [other] = [copy for copy in copies if copy not in circuit.nodes]
    assert circuit.stand_ins == {inside: [other]}
    assert circuit.scores.node_in_reach.sel(node=other)


def test_controls_have_as_many_nodes_of_each_kind():
    places, draws = [0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 3], np.random.default_rng(0)
    kept = draws.random(11) < 0.5
    others = [matched_nodes(places, kept, draws) for _ in range(7)]
    for other in others:
        assert [sum(other[place == np.array(places)]) for place in range(4)] == [
            sum(kept[place == np.array(places)]) for place in range(4)
        ]
    assert len({other.tobytes() for other in others}) > 1


def test_a_search_among_nodes_has_no_edges_and_is_read_back(tmp_path: Path):
    circuit = found("decoy")
    assert circuit.scores.sizes["edge"] == 0
    assert circuit.edges == []
    saved = circuit.save(tmp_path / "circuit.safetensors")
    assert saved.file is not None
    read = Circuit.load(saved.file)
    assert read.edges == []
    assert not read.has_edges
    xr.testing.assert_identical(read.scores.drop_dims("edge"), circuit.scores.drop_dims("edge"))


def test_a_language_model_is_searched_on_a_task_and_its_circuit_is_kept(tmp_path: Path):
    bridge, task = networks.gpt2_bridge(3.0), Imitation()
    circuit = headway.circuit(bridge, task=task, controls=7, orders=2, sequences=11, out=tmp_path)
    assert circuit.file == tmp_path / "circuits" / "Imitation-all-twin.safetensors"
    scores = Circuit.load(tmp_path / "circuits" / "Imitation-all-twin.safetensors").scores
    assert scores.node.values.tolist()[:3] == ["embed", "pos_embed", "L0H0"]
    assert scores.sizes["order"] == 2
    assert scores.sizes["control"] == 7
    # Its targets are its own answers, so all together know them.
    assert scores.faithfulness > 0.9
    assert scores.known.attrs["replacement"] == "twin"
    assert scores.known.attrs["second"] == "position_mean"
    batch = task.evaluation_batch(0, 11)
    alone = NodePatching(bridge, batch, None, "twin").loss(circuit.nodes)
    assert alone == pytest.approx((scores.all_replaced - scores.faithfulness * scores.known).item(), rel=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of random weights, to which each word of the sentences with two names is one token."""
    words = " ".join((*TEMPLATES, *NAMES, *PLACES, *OBJECTS))
    return saved_gpt2(tmp_path_factory.mktemp("models") / "gpt2", words)


def test_sentences_in_the_tokens_of_a_language_model_are_a_task_by_name(folder: Path, tmp_path: Path):
    """Random weights know nothing of names, and the search says so in the units of the task."""
    with pytest.raises(NothingToExplainError, match=r"^circuit: nothing to explain: the loss on end is "):
        headway.circuit(folder, task="indirect-object", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_language_model_needs_a_task_that_it_can_read(folder: Path, tmp_path: Path):
    bridge = networks.gpt2_bridge(3.0)
    with pytest.raises(ValueError, match=r"^task: is missing; a language model needs one"):
        headway.circuit(folder)
    with pytest.raises(ValueError, match=r"^run: gpt3 holds no run; of a language model .* one of indirect-object$"):
        headway.circuit("gpt3")
    with pytest.raises(ValueError, match=r"^task: 'sorting' is not valid; a language model needs one of indirect-obj"):
        headway.circuit(bridge, task="sorting", out=tmp_path)
    with pytest.raises(ValueError, match=r"^task: RepeatedTokens has 65 tokens; this model takes 29"):
        headway.circuit(bridge, task=RepeatedTokens(), out=tmp_path)
    with pytest.raises(ValueError, match=r"^at: 7 is not valid; a language model has no checkpoints"):
        headway.circuit(bridge, task=Imitation(), at=7, out=tmp_path)
    with pytest.raises(ValueError, match=r"^max_minutes: 1e-06 is not enough: searching 12 nodes in 3 orders takes"):
        headway.circuit(bridge, task=Imitation(), max_minutes=1e-6, out=tmp_path)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("gpt2", "this is a TransformerBridge; find_nodes"),
        ("parallel blocks", "with parallel blocks and positions inside its attention; find_nodes"),
        ("norms around", "with norms after attention and positions inside its attention; find_nodes"),
        ("ALiBi", "with positions inside its attention; find_nodes"),
    ],
)
def test_edges_of_a_language_model_are_refused_with_the_reason(kind: str, reason: str):
    with pytest.raises(DoesNotApplyError, match=f"^circuit: edges are separated in a HookedTransformer only.*{reason}"):
        EdgePatching(BRIDGES[kind](), TOKENS.evaluation_batch(0, 5))
