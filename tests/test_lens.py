"""The lens against ablation, by hand, and on networks of which one knows where the answer is."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import xarray as xr
from networks import D_VOCAB, gpt2_bridge, with_random_biases
from toys import NO_POSITIONS, TOKENS, VECTORS, Counting

from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.loss import loss, loss_by_position
from headway.analyze.network.forward import forward_pass
from headway.analyze.tools.lens import lens, points, read_out, residual_outputs
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch
from headway.models.components import LayerNorm
from headway.models.convert import Model
from headway.models.handmade import composing_pair, linear_network, position_from_bos, uniform_head
from headway.models.hooked_transformer import HookedTransformer

Network = tuple[Model, Batch]


def of_recipe(recipe, **changes) -> Network:
    model = HookedTransformer(replace(recipe.model, initializer_range=0.3, **changes))
    return with_random_biases(model), recipe.task.evaluation_batch(0, 7)


def bridge() -> Network:
    task = RepeatedTokens(n_tokens=D_VOCAB - 1, length=17, period_min=5, period_max=7, late_start=0.0)
    return gpt2_bridge(scale=2.0), task.evaluation_batch(0, 7)


ALL_NETWORKS = pytest.mark.parametrize(
    "network",
    [
        lambda: of_recipe(TOKENS, normalization_type=None),
        lambda: of_recipe(TOKENS, attn_only=False),
        lambda: of_recipe(TOKENS, positional_embedding_type="shortformer", normalization_type="LNPre"),
        lambda: of_recipe(NO_POSITIONS),
        lambda: of_recipe(VECTORS),
        bridge,
    ],
    ids=["attention only", "layer norm and mlp", "shortformer", "no positions", "vectors", "bridge"],
)


@ALL_NETWORKS
def test_the_last_point_is_the_network(network: Callable[[], Network]):
    model, batch = network()
    last = lens(model, batch).isel(point=-1)
    own = loss(model, batch)
    assert {str(name).replace("lens", "loss") for name in last.data_vars} == set(own.data_vars)
    for name in own.data_vars:
        xr.testing.assert_allclose(last[str(name).replace("loss", "lens")].drop_vars("point"), own[name], rtol=1e-5)
    torch.testing.assert_close(residual_outputs(model, batch)[-1], forward_pass(model, batch).output)


@pytest.mark.parametrize(
    "network",
    [lambda: composing_pair("k"), position_from_bos, lambda: linear_network(torch.eye(7))],
    ids=["tokens", "mlp", "vectors"],
)
def test_without_a_layer_norm_the_last_point_is_the_network_to_the_bit(network: Callable[[], Network]):
    model, batch = network()
    assert torch.equal(residual_outputs(model, batch)[-1], forward_pass(model, batch).output)
    assert lens(model, batch).lens.values[-1] == loss(model, batch).loss.item()


@ALL_NETWORKS
def test_stopping_early_is_going_on_with_layers_that_write_nothing(network: Callable[[], Network]):
    """Each point is the loss when all that later layers write is replaced by zero."""
    model, batch = network()
    read = lens(model, batch)
    assert read.point.values.tolist() == points(model) == ["embed", "after L0", "after L1"]
    writes = ["hook_attn_out"] if getattr(model.cfg, "attn_only", False) else ["hook_attn_out", "hook_mlp_out"]
    for depth, point in enumerate(points(model)):
        later = [f"blocks.{layer}.{each}" for layer in range(depth, model.cfg.n_layers) for each in writes]
        silenced = ablated_loss(model, batch, later, "zero")
        for name in silenced.data_vars:
            found = read[str(name).replace("loss", "lens")].sel(point=point, drop=True)
            xr.testing.assert_allclose(found, silenced[name], rtol=1e-5)


def test_layers_that_write_nothing_change_nothing():
    read = lens(*uniform_head())
    xr.testing.assert_identical(read.isel(point=0, drop=True), read.isel(point=1, drop=True))


def test_the_answer_of_an_induction_circuit_is_there_after_the_induction_head():
    model, batch = composing_pair("k")
    right = (residual_outputs(model, batch).argmax(-1) == batch.targets).float()
    assert batch.task is not None
    repeats = batch.task.parts(batch)["repeats"]
    assert [share[repeats].mean().item() for share in right] == [0, 0, 1]  # before, the current token is most likely
    read = lens(model, batch).lens_repeats
    assert (read.sel(point=["embed", "after L0"]) > 1).all()
    assert read.sel(point="after L1").item() == pytest.approx(loss(model, batch).loss_repeats.item())
    assert read.sel(point="after L1").item() < 0.01


def test_where_a_head_reads_what_the_unembedding_does_not_the_lens_sees_nothing():
    """L0 of an induction circuit writes the token before where only L1 looks: everything is there, and unread."""
    model, batch = composing_pair("k")
    outputs = residual_outputs(model, batch)
    assert torch.equal(outputs[0], outputs[1])
    added = forward_pass(model, batch).activations["blocks.0.hook_attn_out"]
    assert added[:, 1:].norm(dim=-1).min() > 0.9


def test_a_layer_norm_has_this_residual_stream_s_own_statistics():
    model, batch = of_recipe(TOKENS, attn_only=False)
    assert isinstance(model, HookedTransformer)
    x = forward_pass(model, batch).activations["blocks.1.hook_resid_pre"]
    norm = model.ln_final
    assert isinstance(norm, LayerNorm)
    assert (norm.w - 1).abs().min() > 0
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + model.cfg.eps).sqrt()
    expected = (centred / scale * norm.w + norm.b) @ model.W_U + model.b_U
    torch.testing.assert_close(read_out(model, x), expected.detach())
    torch.testing.assert_close(residual_outputs(model, batch)[1], expected.detach())
    # So its size and its mean say nothing, and the scale of the whole pass would give something else.
    torch.testing.assert_close(read_out(model, 13 * x + 5), read_out(model, x), atol=1e-3, rtol=1e-3)
    real = forward_pass(model, batch).activations["ln_final.hook_scale"]
    assert ((centred / real * norm.w + norm.b) @ model.W_U + model.b_U - expected).abs().max() > 0.1


def test_read_out_without_a_layer_norm_is_a_product():
    model, batch = linear_network(torch.eye(7))
    x = forward_pass(model, batch).activations["blocks.0.hook_resid_pre"]
    with torch.no_grad():
        torch.testing.assert_close(read_out(model, x), x @ model.W_U + model.b_U)
        torch.testing.assert_close(read_out(model, 3 * x), 3 * read_out(model, x))


def test_of_vectors_the_embedding_predicts_them_again():
    """``linear_network`` puts out x + mean(x so far) circuit: x itself before its layer, and all of it behind."""
    circuit = -torch.eye(7)
    model, batch = linear_network(circuit)
    so_far = batch.inputs.cumsum(1) / torch.arange(1, batch.inputs.shape[1] + 1)[:, None]
    embed, after = residual_outputs(model, batch)
    torch.testing.assert_close(embed, batch.inputs)
    torch.testing.assert_close(after, batch.inputs + so_far @ circuit)
    read = lens(model, batch)
    assert read.lens.sel(point="embed").item() == pytest.approx(
        (batch.inputs - batch.targets).square().mean().item(), rel=1e-5
    )
    determined = (after - batch.targets)[:, 2:].square().mean().item()
    assert read.lens_determined.sel(point="after L0").item() == pytest.approx(determined, rel=1e-5)


@ALL_NETWORKS
def test_positions_and_parts_are_means_over_what_counts(network: Callable[[], Network]):
    model, batch = network()
    mask = batch.mask.clone()
    mask[:3, 5:] = False
    mask[:, 2] = False
    batch = batch._replace(mask=mask)
    read = lens(model, batch)
    counts = xr.DataArray(mask.sum(0).numpy(), dims="pos")
    assert read.lens_by_position.isel(pos=2).isnull().all()
    weighted = (read.lens_by_position * counts).sum("pos") / counts.sum()
    xr.testing.assert_allclose(weighted, read.lens, rtol=1e-5)
    own = loss(model, batch).loss_by_position
    xr.testing.assert_allclose(read.lens_by_position.isel(point=-1, drop=True), own, rtol=1e-5)
    each = loss_by_position(model, batch)
    assert batch.task is not None
    for part, where in batch.task.parts(batch).items():
        assert read[f"lens_{part}"].values[-1] == pytest.approx(each[where & mask].mean().item(), rel=1e-5)


def test_a_task_without_parts_has_none():
    task = Counting()
    model = HookedTransformer(replace(TOKENS.model, d_vocab=7, d_vocab_out=7))
    assert set(lens(model, task.evaluation_batch(0, 5)).data_vars) == {"lens", "lens_by_position"}


def test_a_network_without_weights_guesses_at_every_depth():
    model = HookedTransformer(replace(TOKENS.model, initializer_range=0.0))
    read = lens(model, TOKENS.task.evaluation_batch(0, 5)).lens
    chance = torch.tensor(float(TOKENS.task.d_vocab)).log().item()
    assert read.values == pytest.approx([chance] * 3)


def test_a_batch_without_a_task_has_no_loss_and_still_an_output():
    model, batch = composing_pair("k")
    unknown = batch._replace(task=None)
    with pytest.raises(ValueError, match="its task is None"):
        lens(model, unknown)
    assert torch.equal(residual_outputs(model, unknown), residual_outputs(model, batch))


def test_the_network_is_left_in_training_mode_and_without_gradients():
    model, batch = of_recipe(TOKENS)
    model.train()
    assert not residual_outputs(model, batch).requires_grad
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
