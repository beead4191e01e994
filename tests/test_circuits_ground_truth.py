"""The search for circuits finds those that are known: every head and edge of them, and no other before these."""

from functools import cache

import pytest
import torch
import xarray as xr

from headway.analyze.circuits.circuit import Circuit
from headway.analyze.circuits.find import NothingToExplainError, find_circuit
from headway.models.config import ModelConfig
from headway.models.handmade_circuits import CIRCUITS, REPEATS
from headway.models.hooked_transformer import HookedTransformer


@cache
def found(name: str) -> Circuit:
    model, batch = CIRCUITS[name].build()
    assert batch.task is not None
    return find_circuit(model, batch.first(13), batch.task.behaviour.part, n_controls=19)


def auroc(importance: xr.DataArray, true: tuple[str, ...]) -> float:
    """The share of pairs of a true and another part in which the true one is the more important."""
    axis = importance.dims[0]
    is_true = [str(name) in true for name in importance[axis].values]
    assert sum(is_true) == len(true)
    inside, outside = (torch.tensor(importance.values[[each is want for each in is_true]]) for want in (True, False))
    above = (inside[:, None] > outside).double() + (inside[:, None] == outside).double() / 2
    return above.mean().item()


each_network = pytest.mark.parametrize("name", CIRCUITS)


@each_network
def test_known_circuits_are_found_with_every_edge_and_every_head(name: str):
    scores = found(name).scores
    assert auroc(scores.edge_importance, CIRCUITS[name].edges) == 1
    assert auroc(scores.node_importance, CIRCUITS[name].nodes) == 1


@each_network
def test_without_copies_the_circuit_is_the_known_one_and_does_it_all(name: str):
    circuit, known = found(name), CIRCUITS[name]
    edges = set(map(str, circuit.edges))
    assert edges <= set(known.edges)
    assert (edges == set(known.edges)) == (not known.copies)
    assert circuit.scores.faithfulness.item() > 0.99
    # Without the circuit, the negative name mover takes away S, which L2H0 then copies: that saves nearly half.
    assert circuit.scores.necessity.item() > (0.5 if name == "name_movers" else 0.9)


def test_the_decoy_is_not_in_the_circuit():
    scores = found("decoy").scores
    assert not scores.node_in_circuit.sel(node="L1H0")
    assert scores.effect.sel(node="L1H0").item() == 0


@pytest.mark.parametrize("name", ["two_induction_heads", "two_previous_token_heads"])
def test_of_two_copies_one_is_in_the_circuit_and_the_other_stands_in_for_it(name: str):
    scores, copies = found(name).scores, CIRCUITS[name].copies
    inside = [copy for copy in copies if scores.node_in_circuit.sel(node=copy)]
    assert len(inside) == 1
    other = next(copy for copy in copies if copy not in inside)
    assert scores.stand_in.sel(node=inside[0], other=other).item()
    assert set(CIRCUITS[name].edges) <= set(scores.edge.values[scores.in_reach.values].tolist())


def test_an_untrained_network_has_nothing_to_explain():
    sizes = ModelConfig(
        n_layers=2, d_model=29, n_ctx=REPEATS.n_ctx, d_head=7, n_heads=3, d_vocab=REPEATS.d_vocab, attn_only=True
    )
    torch.manual_seed(0)
    with pytest.raises(NothingToExplainError, match="nothing to explain"):
        find_circuit(
            HookedTransformer(sizes), REPEATS.evaluation_batch(seed=0, batch_size=29), "repeats", n_controls=19
        )
