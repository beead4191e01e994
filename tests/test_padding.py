"""Padding changes nothing: a padded batch measures, and trains, as its sequences without padding."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from random_networks import assert_close, network
from toys import HoldsZero

from headway.analyze.circuits.kept import Patching
from headway.analyze.circuits.nodes import NodePatching
from headway.analyze.circuits.patching import EdgePatching
from headway.analyze.circuits.replacement import Replacement
from headway.analyze.measures import MEASURES, Measure
from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.attention import attention_entropy, duplicate_token, first_token, previous_token
from headway.analyze.measures.loss import accuracy, loss
from headway.analyze.measures.surgery import ov_identity_loss
from headway.analyze.network.forward import forward_pass, shared_forward_pass
from headway.analyze.network.interventions import Kind, heads_except, through_paths
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.tools.lens import lens
from headway.analyze.tools.probe import samples
from headway.analyze.tools.similar_vector import similar_vector
from headway.data.affine_recurrence import AffineRecurrence
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch, check_positions, masked_mean
from headway.models.config import Head
from headway.models.hooked_transformer import HookedTransformer

LENGTH, PADDING = 13, 4


@dataclass(frozen=True)
class Twice(RepeatedTokens):
    """BOS and one segment twice, without twins: those of a padded batch would be other draws."""

    def twin(self, batch: Batch, generator: torch.Generator) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None


@dataclass(frozen=True)
class Vectors(AffineRecurrence):
    """Affine recurrences without twins."""

    def twin(self, batch: Batch, generator: torch.Generator) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None


@lru_cache
def plain(kind: str) -> Batch:
    if kind == "vectors":
        batch = Vectors(d_vector=13, length_min=LENGTH + 1, length_max=LENGTH + 1).evaluation_batch(0, 7)
        return batch._replace(inputs=batch.inputs.double(), targets=batch.targets.double())
    task = Twice(n_tokens=12, length=LENGTH, period_min=6, period_max=6, late_start=0.0)
    return task.evaluation_batch(0, 7)


def padded(batch: Batch) -> Batch:
    """The same sequences, with padding that would matter if anything saw it."""
    draws = torch.Generator().manual_seed(3)
    shape = (len(batch.inputs), PADDING, *batch.inputs.shape[2:])
    if batch.inputs.is_floating_point():
        inputs, targets = (9 * torch.randn(shape, generator=draws).to(batch.inputs) for _ in range(2))
    else:
        inputs, targets = torch.randint(12, shape, generator=draws), torch.full(shape, -100)
    return batch._replace(
        inputs=torch.cat([batch.inputs, inputs], 1),
        targets=torch.cat([batch.targets, targets], 1),
        mask=F.pad(batch.mask, (0, PADDING), value=False),
        attention_mask=F.pad(batch.real, (0, PADDING), value=False),
    )


@lru_cache
def model_for(kind: str, direction: str, positions: str) -> HookedTransformer:
    return network(
        d_vocab=13, d_vocab_out=13, d_head=6, attention_dir=direction, positional_embedding_type=positions,
        input_type=kind,
    )  # fmt: skip


CASES = list(product(("tokens", "vectors"), ("causal", "bidirectional"), ("standard", "shortformer")))
CASES += [("tokens", "bidirectional", each) for each in ("none", "rotary", "relative")]


def assert_same(with_padding: xr.Dataset, without: xr.Dataset) -> None:
    """Every number is the same; along positions those of the padding are left out."""
    assert set(with_padding.data_vars) == set(without.data_vars)
    for name, expected in without.data_vars.items():
        found = with_padding[name]
        assert found.dims == expected.dims
        found = found.isel(
            {axis: slice(expected.sizes[axis]) for axis in ("pos", "query", "key") if axis in found.dims}
        )
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9, err_msg=str(name))


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_a_padded_batch_measures_the_same(measure: Measure, case: tuple[str, str, str]):
    model, batch = model_for(*case), plain(case[0])
    ours, theirs = (scores_or_reason(measure, model, each) for each in (padded(batch), batch))
    if isinstance(theirs, str) or isinstance(ours, str):
        assert ours == theirs
    else:
        assert_same(ours, theirs)


def scores_or_reason(measure: Measure, model: HookedTransformer, batch: Batch) -> xr.Dataset | str:
    try:
        with shared_forward_pass():
            return measure(model, batch)
    except DoesNotApplyError as reason:
        return str(reason)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_other_tools_leave_padding_out(case: tuple[str, str, str]):
    model, batch = model_for(*case), plain(case[0])
    assert_same(lens(model, padded(batch)), lens(model, batch))
    some = [Head(0, 1), Head(1, 2)]
    assert_same(ov_identity_loss(model, padded(batch), some), ov_identity_loss(model, batch, some))
    if case[0] == "vectors":
        assert_same(similar_vector(model, padded(batch)), similar_vector(model, batch))
    for each in (padded(batch), batch):
        found = samples(model, each, "blocks.1.attn.hook_z", lambda batch: batch.inputs[..., None].flatten(2))
        assert len(found.x) == 7 * LENGTH
    for input in ("q", "k", "v") if case[2] not in ("rotary", "relative") else ():
        ours, theirs = (
            forward_with(model, each, through_paths(model, each, [Head(0, 0)], [Head(1, 1)], input))[:, :LENGTH]
            for each in (padded(batch), batch)
        )
        assert_close(ours, theirs)


def forward_with(model: HookedTransformer, batch: Batch, hooks: list) -> torch.Tensor:
    with model.hooks(fwd_hooks=hooks):
        return forward_pass(model, batch).output


KINDS: list[Kind] = ["zero", "mean", "position_mean", "without_position", "resample"]
POINTS = ("blocks.0.attn.hook_pattern", "blocks.1.attn.hook_attn_scores", "blocks.0.hook_mlp_out", Head(1, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", POINTS, ids=str)
@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_means_over_positions_leave_padding_out(kind: Kind, what: str | Head, direction: str):
    if kind == "without_position" and what in POINTS[:2]:
        pytest.skip("an axis of attention is positions")
    model, batch = model_for("tokens", direction, "standard"), plain("tokens")
    assert_same(ablated_loss(model, padded(batch), what, kind), ablated_loss(model, batch, what, kind))


@pytest.mark.parametrize("patched", [EdgePatching, NodePatching])
@pytest.mark.parametrize("replacement", ["resample", "position_mean", "mean", "zero"])
@pytest.mark.parametrize("case", [*CASES[:4], *CASES[-2:]], ids="-".join)
def test_replacements_of_circuits_leave_padding_out(
    patched: type[Patching], replacement: Replacement, case: tuple[str, str, str]
):
    model, batch = model_for(*case), plain(case[0])
    with torch.no_grad():
        ours, theirs = (patched(model, each, replacement=replacement) for each in (padded(batch), batch))
        for one, other in ((ours.clean, theirs.clean), (ours.none, theirs.none)):
            np.testing.assert_allclose(ours.sums(one), theirs.sums(other), rtol=1e-9)
        np.testing.assert_allclose(ours.sums(ours.clean).sum() / ours.counts.sum(), loss(model, batch).loss, rtol=1e-6)


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_sequences_of_different_lengths_measure_as_each_alone(direction: str):
    """A mean over a batch is that over all queries, or positions, of sequences that are measured one by one."""
    task = HoldsZero(length=7)
    batch = task.evaluation_batch(0, 11)._replace(task=None)
    model = network(d_vocab=4, d_vocab_out=2, attention_dir=direction)
    # Every position counts, so that all are pooled.
    batch = batch._replace(mask=batch.real, targets=batch.inputs % 2, task=task)
    each = [alone(batch, place) for place in range(11)]
    queries = np.array([one.inputs.shape[1] - 1 for one in each])
    assert len(set(queries)) > 2
    for measure in (previous_token, first_token, attention_entropy):
        name = measure.__name__
        rows = np.stack([measure(model, one)[name].values for one in each])
        np.testing.assert_allclose(measure(model, batch)[name], np.average(rows, axis=0, weights=queries), rtol=1e-6)
        chances = [measure(model, one)[f"{name}_chance"].item() for one in each]
        np.testing.assert_allclose(
            measure(model, batch)[f"{name}_chance"], np.average(chances, weights=queries), rtol=1e-6
        )
    for measure in (loss, accuracy):
        values = [measure(model, one)[measure.__name__].item() for one in each]
        np.testing.assert_allclose(
            measure(model, batch)[measure.__name__], np.average(values, weights=queries + 1), rtol=1e-6
        )


def alone(batch: Batch, place: int) -> Batch:
    one, length = batch.at([place]), int(batch.real[place].sum())
    return Batch(one.inputs[:, :length], one.targets[:, :length], one.mask[:, :length], task=batch.task)


def test_padding_is_no_copy_of_padding():
    tokens = torch.tensor([[1, 2, 1, 0, 0, 0]])
    real = tokens > 0
    batch = Batch(tokens, tokens, real, attention_mask=real)
    model = network(d_vocab=4, d_vocab_out=4)
    found = forward_pass(model, batch).patterns[:, 0, :, 2, 0]
    np.testing.assert_allclose(duplicate_token(model, batch).duplicate_token, found)


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
@pytest.mark.parametrize("positions", ["standard", "shortformer", "rotary", "relative"])
def test_gradients_of_a_padded_batch_are_those_without_padding(direction: str, positions: str):
    model, batch = model_for("tokens", direction, positions), plain("tokens")
    gradients = []
    for each in (padded(batch), batch):
        model.zero_grad()
        assert each.task is not None
        masked_mean(each.task.loss(model(each.inputs, **each.padding), each), each.mask).backward()
        gradients.append([weight.grad.clone() for weight in model.parameters() if weight.grad is not None])
    model.zero_grad()
    for ours, theirs in zip(*gradients, strict=True):
        assert_close(ours, theirs, atol=1e-9)


def test_a_forward_pass_is_shared_only_with_the_same_padding():
    batch = padded(plain("tokens"))
    model = model_for("tokens", "bidirectional", "standard")
    with shared_forward_pass():
        hidden, seen = (forward_pass(model, each).output for each in (batch, batch._replace(attention_mask=None)))
        assert not torch.allclose(hidden[:, :LENGTH], seen[:, :LENGTH])
        assert forward_pass(model, batch).output is hidden


def test_a_shifted_batch_keeps_its_own_tokens_where_the_previous_sequence_has_ended():
    real = torch.tensor([[True, True, True], [True, False, False]])
    batch = Batch(torch.tensor([[1, 2, 3], [4, 0, 0]]), real.long(), real, attention_mask=real)
    assert batch.shifted().inputs[real].tolist() == [4, 2, 3, 1]
    assert batch._replace(attention_mask=None).shifted().inputs.tolist() == [[4, 0, 0], [1, 2, 3]]


BAD = {
    "everywhere": (torch.tensor([[True, True], [False, False]]), "its sequence 1 is padding everywhere"),
    "before its end": (torch.tensor([[True, True], [False, True]]), "its sequence 1 has padding before its end"),
    "counted": (torch.tensor([[True, False], [True, True]]), "its sequence 0 counts a position that is padding"),
    "integers": (torch.ones(2, 2, dtype=torch.long), "its attention_mask is torch.int64; it must be torch.bool"),
    "another shape": (torch.ones(2, 3, dtype=torch.bool), "its attention_mask has the shape"),
}


@pytest.mark.parametrize("name", BAD)
def test_padding_that_is_not_valid_is_refused(name: str):
    attention_mask, said = BAD[name]
    tokens = torch.zeros(2, 2, dtype=torch.long)
    mask = torch.tensor([[True, True], [False, False]])
    batch = Batch(tokens, tokens, mask, attention_mask=attention_mask)
    with pytest.raises(ValueError, match=f"^task: {said}"):
        check_positions(batch, "task")
    with pytest.raises(ValueError, match=f"^batch: {said}"):
        forward_pass(network(), batch)


def test_a_reference_has_sequences_of_the_same_lengths():
    batch = padded(plain("tokens"))
    model = model_for("tokens", "causal", "standard")
    with pytest.raises(ValueError, match=r"^reference: its sequences are not as long"):
        ablated_loss(model, batch, heads_except(model)[:1], "resample", reference=batch._replace(attention_mask=None))
