"""Every method of an ActivationCache knows what this network adds: parts add up, and a slice is a slice.

All kinds of positions and norms, with and without MLPs, with each switch of TransformerLens on.
"""

import itertools
from typing import Any

import pytest
import torch
from random_networks import BATCH, POS, SIZES, assert_close, inputs_for, network
from torch import Tensor

from headway.models.activation_cache import ActivationCache
from headway.models.hooked_transformer import HookedTransformer

SWITCHES = {
    "none": (),
    "result": ("use_attn_result",),
    "split": ("use_split_qkv_input",),
    "attn_in": ("use_attn_in",),
    "all": ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in"),
}
POSITIONS, NORMS = ["standard", "shortformer", "none"], ["LN", "LNPre", None]
# Every two settings occur together, and every switch with every norm, with MLPs and without.
KINDS = [
    (POSITIONS[(i + j) % 3], norm, attn_only, switches)
    for (i, norm), (j, switches) in itertools.product(enumerate(NORMS), enumerate(SWITCHES))
    for attn_only in (False, True)
]


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(map(str, kind)))
def model(request: pytest.FixtureRequest) -> HookedTransformer:
    positions, norm, attn_only, switches = request.param
    model = network(positional_embedding_type=positions, normalization_type=norm, attn_only=attn_only)
    for switch in SWITCHES[switches]:
        if not (attn_only and switch == "use_hook_mlp_in"):
            getattr(model, f"set_{switch}")(True)
    return model


SLICES: dict[str, Any] = {"none": None, "one": 3, "some": (1, 4)}


def at(activation: Tensor, pos_slice: Any, axis: int = -2) -> Tensor:
    """The activation at some positions, by torch's own indexing."""
    positions = torch.arange(POS)
    if pos_slice is not None:
        positions = positions[slice(*pos_slice) if isinstance(pos_slice, tuple) else pos_slice]
    return (
        activation.movedim(axis, 0)[positions].movedim(0, axis)
        if positions.ndim
        else activation.select(axis, int(positions))
    )


def read(model: HookedTransformer, cache: ActivationCache, layer: int, mlp_input: bool) -> tuple[Tensor, Tensor]:
    """The residual stream that a layer reads, and what its LayerNorm (without weights) makes of it."""
    last = layer == SIZES["n_layers"]
    stream = cache["resid_post", -1] if last else cache["resid_mid" if mlp_input else "resid_pre", layer]
    if model.cfg.normalization_type is None:
        return stream, stream
    return stream, torch.nn.functional.layer_norm(stream, stream.shape[-1:], eps=model.cfg.eps)


@torch.no_grad()
@pytest.mark.parametrize(("pos_slice", "batch_dim"), [("none", True), ("one", True), ("some", False)])
def test_parts_add_up(model: HookedTransformer, pos_slice: str, batch_dim: bool):
    tokens = inputs_for(model, batch=BATCH if batch_dim else 1)
    cache = model.run_with_cache(tokens, remove_batch_dim=not batch_dim)[1]
    attn_only, positions = model.cfg.attn_only, SLICES[pos_slice]
    for layer, mlp_input, apply_ln in itertools.product(range(SIZES["n_layers"] + 1), (False, True), (False, True)):
        if mlp_input and (attn_only or layer == SIZES["n_layers"]):
            continue
        stream, normalized = (at(value, positions) for value in read(model, cache, layer, mlp_input))
        total = normalized if apply_ln else stream
        options = {"apply_ln": apply_ln, "pos_slice": positions, "return_labels": True}
        parts, labels = cache.decompose_resid(layer, mlp_input=mlp_input, **options)
        assert_close(parts.sum(0), total, 1e-11)
        assert ("pos_embed" in labels) == (model.cfg.positional_embedding_type == "standard")
        for expand_neurons in (False, True):
            parts, labels = cache.get_full_resid_decomposition(
                layer, mlp_input=mlp_input, expand_neurons=expand_neurons, **options
            )
            assert len(parts) == len(labels)
            assert_close(parts.sum(0), total, 1e-11)
        if not mlp_input:
            heads, _ = cache.stack_head_results(layer, incl_remainder=layer > 0, **options)
            if layer > 0:
                assert_close(heads.sum(0), total, 1e-11)
            if layer > 0 and not attn_only:
                neurons, _ = cache.stack_neuron_results(layer, incl_remainder=True, **options)
                assert_close(neurons.sum(0), total, 1e-11)
            stack, labels = cache.accumulated_resid(layer, incl_mid=not attn_only, **options)
            if apply_ln and layer == SIZES["n_layers"] and model.cfg.normalization_type is not None:
                # As in TransformerLens, this is the logit lens, with the weights of the final LayerNorm.
                total = model.ln_final(stream.reshape(1, -1, SIZES["d_model"])).reshape(stream.shape)
            assert_close(stack[-1], total, 1e-11)
            assert len(stack) == len(labels) == 1 + layer * (1 if attn_only else 2)


def test_a_slice_of_the_positions_is_that_slice_of_every_activation(model: HookedTransformer):
    tokens = inputs_for(model)
    whole = model.run_with_cache(tokens)[1]
    # A single position keeps its axis in a cache, as in TransformerLens.
    for pos_slice, positions in [(3, [3]), ((1, 4), (1, 4)), ([0, 2], [0, 2])]:
        sliced = model.run_with_cache(tokens, pos_slice=pos_slice)[1]
        assert set(sliced) == set(whole)
        # Sizes are distinct, so an axis of that length is one of positions; of a pattern's two, queries come first.
        for name, activation in whole.items():
            axis = list(activation.shape).index(POS) - activation.ndim
            assert torch.equal(sliced[name], at(activation, positions, axis)), name


def test_a_slice_of_the_batch_is_a_cache_of_these_sequences(model: HookedTransformer):
    tokens = inputs_for(model, batch=3)
    whole, parts = model.run_with_cache(tokens)[1], model.run_with_cache(tokens[1:])[1]
    sliced = whole.apply_slice_to_batch_dim((1, 3))
    assert type(sliced) is ActivationCache
    assert_close(sliced.get_full_resid_decomposition(), parts.get_full_resid_decomposition())  # pyright: ignore[reportArgumentType]
    one = whole.apply_slice_to_batch_dim(2)
    parts_of_one = one.decompose_resid()
    assert isinstance(parts_of_one, Tensor)
    assert_close(parts_of_one.sum(0), whole["resid_post", -1][2])


def test_heads_that_read_different_inputs_share_no_scale():
    model = network()
    model.set_use_split_qkv_input(True)

    def change(value: Tensor, hook: Any) -> None:
        value[:, :, 1] *= 2

    with model.hooks(fwd_hooks=[("blocks.1.hook_v_input", change)]):
        cache = model.run_with_cache(inputs_for(model))[1]
    with pytest.raises(ValueError, match=r"apply_ln: True is not valid at layer 1; its heads read different inputs"):
        cache.decompose_resid(1, apply_ln=True)
    assert_close(cache.decompose_resid(1).sum(0), cache["resid_pre", 1])


def test_positions_and_sequences_that_do_not_exist_are_refused():
    model = network()
    with pytest.raises(ValueError, match=rf"pos_slice: \[{POS}\] is not valid; .* positions 0 to {POS - 1}"):
        model.run_with_cache(inputs_for(model), pos_slice=POS)
    for tokens in (inputs_for(model), inputs_for(model)[0].repeat(3, 1)):
        with pytest.raises(ValueError, match=rf"remove_batch_dim: True is not valid for {len(tokens)} sequences"):
            model.run_with_cache(tokens, remove_batch_dim=True)


def test_one_sequence_loses_its_batch_axis_however_it_is_given():
    model = network()
    tokens = inputs_for(model, batch=1)
    expected = model.run_with_cache(tokens)[1]["resid_post", -1][0]
    for given in (tokens, tokens[0]):
        assert torch.equal(model.run_with_cache(given, remove_batch_dim=True)[1]["resid_post", -1], expected)


def test_gradients_need_one_number():
    model = network()
    with pytest.raises(ValueError, match=r"incl_bwd: True is not valid for this output; it needs one number"):
        model.run_with_cache(inputs_for(model), incl_bwd=True)
