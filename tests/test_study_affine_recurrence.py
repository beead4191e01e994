"""The study of affine recurrences: each claim on networks where it must hold and where it must fail, and all of it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
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
from toys import VECTORS

from headway.analyze.measures.geometry import linearity
from headway.analyze.measures.loss import loss
from headway.analyze.measures.ranks import rank_95
from headway.analyze.measures.surgery import ov_identity_loss
from headway.analyze.network.forward import shared_forward_pass
from headway.analyze.studies import find_study
from headway.analyze.studies.affine_recurrence import errors, probes
from headway.analyze.studies.affine_recurrence.causes import loss_with_random_values, patterns_without_layer_1
from headway.analyze.studies.affine_recurrence.claims import claims
from headway.analyze.studies.affine_recurrence.equations import (
    attended_vectors,
    offset_of_layer_0,
    previous_vector_of_layer_0,
)
from headway.analyze.studies.affine_recurrence.training import PUBLISHED
from headway.analyze.studies.affine_recurrence.weights import circuits_section, geometry_section
from headway.analyze.studies.result import Claims, StudyResult
from headway.analyze.studies.runner import run_study
from headway.analyze.studying import study
from headway.analyze.tools.probe import mlp_probe
from headway.checkpoints import Recipe
from headway.data.affine_recurrence import AffineRecurrence
from headway.data.seeds import generator
from headway.data.task import Batch
from headway.models import handmade
from headway.models.config import Head, ModelConfig
from headway.models.hooked_transformer import HookedTransformer

Network = tuple[HookedTransformer, Batch]


@torch.no_grad()
def changed(network: Network, change: Callable[[HookedTransformer], object]) -> Network:
    change(network[0])
    return network


def layers_swapped() -> Network:
    """Layer 0 does what layer 1 should, and the other way round; layer 2 as it should not."""

    def swap(model: HookedTransformer) -> None:
        first, second, third = (block.attn for block in model.blocks)
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            a, b = getattr(first, name), getattr(second, name)
            kept = a.clone()
            a.copy_(b)
            b.copy_(kept)
        # It looks at the vector before, which here is the least alike, and copies.
        third.W_Q.copy_(second.W_Q)
        third.W_K.copy_(second.W_K)
        third.W_O.mul_(-1)

    return changed(handmade.affine_reader(), swap)


def looks_for_its_like() -> Network:
    """Queries and keys of the last layer whose product is a projector already, of vectors large enough to matter."""

    def soften(model: HookedTransformer) -> None:
        model.W_E.mul_(4)
        model.W_U.div_(4)
        third = model.blocks[2].attn
        third.W_Q.copy_(third.W_Q.sign())
        third.W_K.copy_(third.W_K.sign())

    return changed(handmade.affine_reader(), soften)


def values_read_layer_1() -> Network:
    def read_aside(model: HookedTransformer) -> None:
        third = model.blocks[2].attn
        third.W_V.zero_()
        third.W_V[0, 7:14, :7] = torch.eye(7)

    return changed(handmade.affine_reader(), read_aside)


def smears() -> Network:
    """It adds up the entries of each vector."""
    return handmade.linear_network(torch.ones(7, 7).triu(1))


def copies_its_like() -> Network:
    """The last layer adds the vectors that it attends to."""
    return changed(handmade.affine_reader(), lambda model: model.blocks[2].attn.W_O.neg_())


def reads_vectors_alone() -> Network:
    """The last layer attends to vectors similar to the current one, and reads nothing that layer 1 writes."""

    def read(model: HookedTransformer) -> None:
        model.blocks[0].attn.W_O.zero_()
        for W in (model.blocks[2].attn.W_Q, model.blocks[2].attn.W_K):
            W[0, 7:14] = 0.0

    return changed(handmade.affine_reader(), read)


def adds_an_offset() -> Network:
    """Layer 0 adds one vector to every vector, and next to nothing else."""

    def add(model: HookedTransformer) -> None:
        model.blocks[0].attn.W_O.mul_(0.1)
        model.blocks[0].attn.b_O[:7] = torch.arange(1.0, 8.0)

    return changed(handmade.affine_reader(), add)


CLAIMS: Cases = [
    ("has a previous-token head", handmade.affine_reader, layers_swapped),
    ("add a multiple", handmade.affine_reader, smears),
    ("adds an offset", adds_an_offset, handmade.affine_reader),
    ("multiple of the previous vector, and", handmade.affine_reader, smears),
    ("attends to the second vector", handmade.affine_reader, layers_swapped),
    ("writes outside", handmade.affine_reader, layers_swapped),
    ("subtract what they attend to", handmade.affine_reader, copies_its_like),
    ("attends to vectors similar", handmade.affine_reader, layers_swapped),
    ("takes the mean of what it attends to away", handmade.affine_reader, copies_its_like),
    ("similarity and nothing else", looks_for_its_like, handmade.affine_reader),
    ("Q-composition", handmade.affine_reader, reads_vectors_alone),
    ("K-composition", handmade.affine_reader, reads_vectors_alone),
    ("not with values", handmade.affine_reader, values_read_layer_1),
]


# No layer attends to similar vectors, or the one that does reads nothing of the layer before it.
PREMISES: Premises = [
    ("subtract what they attend to", layers_swapped),
    ("takes the mean of what it attends to away", layers_swapped),
    ("similarity and nothing else", layers_swapped),
    ("Q-composition", layers_swapped),
    ("K-composition", layers_swapped),
    ("not with values", reads_vectors_alone),
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


def test_equations_give_back_the_numbers_of_a_network_that_follows_them():
    """Layer 0 adds half of the vector before and an offset, layer 2 takes away what its head attends to."""
    model, batch = handmade.affine_reader()
    with torch.no_grad():
        model.blocks[0].attn.b_O[:7] = torch.arange(1.0, 8.0)
    before, attended = previous_vector_of_layer_0(model, batch), attended_vectors(model, batch, 2)
    assert (before.slope, before.explained) == pytest.approx((0.5, 1), abs=1e-4)
    assert (attended.slope, attended.explained) == pytest.approx((1, 1), abs=1e-4)
    # Another sequence tells nothing of what is added; the offset does not change that.
    assert before.control < 0.1
    assert offset_of_layer_0(model, batch).control < 0.1
    assert before.share == pytest.approx(previous_vector_of_layer_0(*handmade.affine_reader()).share, abs=1e-3)


def test_layers_that_do_nothing_of_the_kind_follow_no_equation():
    """What a layer adds is a map of the vectors that is drawn at random."""
    model, batch = handmade.linear_network(torch.randn(7, 7, generator=torch.Generator().manual_seed(0)))
    assert previous_vector_of_layer_0(model, batch).share < 0.2
    assert offset_of_layer_0(model, batch).share < 0.2


@pytest.mark.parametrize(("says", "fails"), PREMISES, ids=[each[0] for each in PREMISES])
def test_a_claim_whose_premise_fails_is_not_measured(says: str, fails: Callable):
    check_premise(found(fails), says)


def test_every_premise_is_tested():
    check_all_premises_are_tested(found(CLAIMS[0][1]), PREMISES)


def test_what_a_network_does_not_have_is_not_measured():
    """One layer has no second layer, no composition, and no embedding to write beside."""
    made = claims(*handmade.linear_network(torch.eye(7)))
    for says in ("second vector", "writes outside", "Q-composition", "K-composition", "not with values"):
        claim = the_one(made, says)
        assert np.isnan(claim.number)
        assert not claim.holds


@pytest.fixture(autouse=True)
def short() -> Iterator[None]:
    """Probes that are hardly trained, and few coefficients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "mlp_probe", partial(mlp_probe, steps=3))
        patch.setattr(errors, "COEFFICIENTS", [-4.0, -1.5, 0.0, 1.0])
        yield


FEW: dict[str, Any] = {"sequences": 11, "probe_sequences": 23, "length": 7}


@pytest.mark.whole
def test_from_end_to_end(tmp_path: Path):
    run = untrained_run(tmp_path / "run", VECTORS, (0, 17), updates=17)
    result = study("affine-recurrence", run, **FEW)
    figures = [figure for section in result.sections for figure in section.figures]
    assert {figure.kind for figure in figures} == {"lines", "maps", "scatter", "table"}
    xr.testing.assert_identical(StudyResult.read(run.study_file("affine-recurrence", 17)).to_tree(), result.to_tree())
    formed = result.to_tree()["Over training/Numbers of the claims over training"]
    assert formed.step.values.tolist() == [0, 17]
    training = result.to_tree()["Training/Training loss"].loss
    assert training.step.values.tolist() == list(range(1, 18))
    np.testing.assert_allclose(training[0], 3 / np.arange(1, 18), rtol=1e-5)
    assert "Comparison with the published run" not in result.to_tree()["Training"]
    assert json.dumps(result.claims[0].says)[1:-1] in run.report_file.read_text()


@pytest.mark.parametrize(
    "recipe",
    [
        replace(VECTORS, model=replace(VECTORS.model, n_layers=1, attn_only=True, normalization_type=None, d_model=5)),
        replace(
            VECTORS,
            model=replace(VECTORS.model, n_layers=3, positional_embedding_type="shortformer"),
            task=AffineRecurrence(d_vector=7, compl=2, length_min=5, length_max=12),
        ),
    ],
    ids=["one layer, no MLP, no LN, no room beside the embedding", "three layers, shortformer, order 2"],
)
def test_any_network_of_the_task_can_be_studied_before_its_first_update(recipe: Recipe, tmp_path: Path):
    run = untrained_run(tmp_path / "run", recipe)
    found = find_study("affine-recurrence")
    result = run_study(found, run, found.given(FEW))
    # What can be drawn can be stored.
    xr.testing.assert_identical(StudyResult.from_tree(result.to_tree()).to_tree(), result.to_tree())
    assert "None" not in str(result.sections[1:])


def test_random_values_are_an_identity_surgery_of_a_network_with_other_values():
    model, batch = handmade.affine_reader()
    clean = loss(model, batch).loss.item()
    for sign, name in ((1, "+"), (-1, "-")):
        other, _ = handmade.affine_reader()
        with torch.no_grad():
            drawn = torch.randn(3, 1, 29, other.cfg.d_head, generator=generator("null", 0))
            other.blocks[2].attn.W_V[0] = drawn[2, 0]
        expected = ov_identity_loss(other, batch, [Head(2, 0)], name).loss.item()  # pyright: ignore[reportArgumentType]
        # The empty set after it: the network is as it was.
        with shared_forward_pass():  # as in a study
            found = loss_with_random_values(model, batch, [[Head(2, 0)], []], sign, "loss")  # pyright: ignore
        assert found == pytest.approx([expected, clean], rel=1e-4)
        assert expected != pytest.approx(clean, rel=0.01)
    assert loss(model, batch).loss.item() == clean


def test_points_of_a_copying_circuit_lie_on_a_line():
    model, batch = handmade.linear_network(-3 * torch.eye(7))
    (points,) = (figure.data for figure in geometry_section(model, batch).figures if figure.kind == "scatter")
    lines = linearity(model, batch)
    for name in ("data", "isotropic"):
        x, y = points[name].sel(layer="L0").values.T
        assert len(x) == 7 * (512 // 7)
        np.testing.assert_allclose(y, -3 * x, rtol=1e-4, atol=1e-5)
        assert np.polyfit(x, y, 1)[0] == pytest.approx(lines.linearity_slope.sel(inputs=name, layer=0).item(), rel=1e-3)


def test_ranks_of_heads_have_a_distribution():
    model, batch = handmade.affine_reader()
    with torch.no_grad():
        model.blocks[0].attn.W_O[0, 3:] = 0
    tree = {figure.title: figure.data for figure in circuits_section(model, batch).figures}
    shown = tree["Distribution of effective ranks over heads"].sel(rank="rank_95_OV, L0")
    own = rank_95(model, batch).rank_95.sel(circuit="OV", layer=0)
    assert (shown.least, shown["median"], shown.largest) == (own.min(), own.median(), own.max())
    assert tree["rank_95_OV of each head"]["rank"].shape == (3, 1)
    assert tree["rank_95_OV of each head"]["rank"].sel(layer="L0", head="H0") == own[0]


def test_what_is_written_outside_of_the_embedding_is_found_there():
    """Layer 1 writes the second vector beside the embedding, after layer 0 added half of the first; layer 2 into it."""
    model, batch = handmade.affine_reader()
    pair = []
    for each in (handmade.OSCILLATING.evaluation_batch(1, 61), batch):
        aside, inside = (probes.written_outside(model, each, layer) for layer in (1, 2))
        second = each.inputs[:, 1] + each.inputs[:, 0] / 2
        assert inside.abs().max() < 1e-5
        torch.testing.assert_close(aside.norm(dim=-1), second.norm(dim=-1), rtol=1e-4, atol=1e-5)
        pair.append(probes.Samples(aside, second))
    assert probes.linear_probe(*pair).r_squared > 0.99
    basis = probes.outside_basis(model)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(22), atol=1e-5, rtol=0)
    assert (model.W_E @ basis).abs().max() < 1e-5


def test_a_published_run_is_one_of_its_sizes_and_its_data():
    task = AffineRecurrence()
    model = ModelConfig(
        n_layers=3, n_heads=8, d_model=128, d_head=64, d_mlp=3072, n_ctx=task.n_ctx, d_vocab=40, input_type="vectors"
    )
    like = replace(VECTORS, task=task, model=model, batch_size=16)
    others = [
        replace(like, batch_size=17),
        replace(like, model=replace(model, n_heads=4)),
        replace(like, task=AffineRecurrence(length_max=12)),
    ]
    assert [PUBLISHED.is_like(each) for each in (like, *others)] == [True, False, False, False]


def test_attention_that_reads_layer_1_moves_without_it():
    """In the hand-made network queries and keys of L2H0 read what L1H0 writes, which here makes attention sharper."""
    model, batch = handmade.affine_reader()
    uniform, _ = layers_swapped()
    with torch.no_grad():
        for W in (uniform.blocks[2].attn.W_Q, uniform.blocks[2].attn.W_K):
            W.zero_()
    sharp, flat = (patterns_without_layer_1(each, batch)[1].data.moved.item() for each in (model, uniform))
    assert flat == 0
    assert 0 < sharp <= 1
