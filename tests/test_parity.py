"""Our HookedTransformer is TransformerLens's: the same numbers at every hook, and the surface that notebooks call.

The files in parity/fixtures hold what TransformerLens 3.9 computes; parity/make_fixtures.py wrote them.
"""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from random_networks import BATCH, POS, SIZES, assert_close, inputs_for, keep, network
from safetensors import safe_open
from torch import Tensor
from transformer_lens import FactoredMatrix

from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer

FIXTURES = sorted((Path(__file__).parent / "parity" / "fixtures").glob("*.safetensors"))


@pytest.fixture
def model() -> HookedTransformer:
    return network()


@pytest.fixture
def tokens(model: HookedTransformer) -> Tensor:
    return inputs_for(model)


# What TransformerLens 3.9 computed


class Fixture(NamedTuple):
    """One network of TransformerLens, and ours made from it."""

    model: HookedTransformer
    hook_points: list[str]
    tensors: dict[str, Tensor]

    def under(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    @property
    def arguments(self) -> dict[str, Any]:
        return {"input": self.tensors["inputs"], "attention_mask": self.tensors.get("attention_mask")}


@pytest.fixture(params=FIXTURES, ids=lambda path: path.stem)
def theirs(request: pytest.FixtureRequest) -> Fixture:
    with safe_open(request.param, "pt") as file:
        about = json.loads(file.metadata()["fixture"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model = HookedTransformer(ModelConfig(**about["config"])).eval()
    for switch in about["switches"]:
        getattr(model, f"set_{switch}")(True)
    fixture = Fixture(model, about["hook_points"], tensors)
    # Strict, and with the mask buffers that TransformerLens keeps among its weights.
    model.load_state_dict(fixture.under("weights."), strict=True)
    return fixture


def test_fixtures_cover_every_kind():
    configs = []
    for path in FIXTURES:
        with safe_open(path, "pt") as file:
            configs.append(json.loads(file.metadata()["fixture"])["config"])
    assert {c["act_fn"] for c in configs} == {"relu", "gelu", "gelu_new", "silu", "solu", "solu_ln"}
    for kind, default, valid in [
        ("normalization_type", "LN", {"LN", "LNPre", "RMS", "RMSPre", None}),
        ("positional_embedding_type", "standard", {"standard", "shortformer", "none", "rotary"}),
        ("use_attn_scale", True, {True, False}),
        ("attention_dir", "causal", {"causal", "bidirectional"}),
        ("attn_only", False, {True, False}),
        ("input_type", "tokens", {"tokens", "vectors"}),
    ]:
        assert {c.get(kind, default) for c in configs} == valid


def test_weights_have_their_names(theirs: Fixture):
    buffers = (".mask", ".IGNORE", ".rotary_sin", ".rotary_cos")
    assert any(name.endswith(buffers) for name in theirs.under("weights."))
    names = {name for name in theirs.under("weights.") if not name.endswith(buffers)}
    assert set(theirs.model.state_dict()) == names


def test_hook_points_are_theirs(theirs: Fixture):
    assert set(theirs.model.hook_dict) == set(theirs.hook_points)


def test_logits_and_every_activation_are_theirs(theirs: Fixture):
    logits, cache = theirs.model.run_with_cache(**theirs.arguments)
    assert_close(logits, theirs.tensors["logits"], atol=1e-5)
    # The path that nobody listens to has to agree as well.
    assert_close(theirs.model(**theirs.arguments), theirs.tensors["logits"], atol=1e-5)
    activations = theirs.under("cache.")
    assert activations
    for name, activation in activations.items():
        torch.testing.assert_close(
            cache[name], activation, atol=1e-5, rtol=0, msg=lambda why, name=name: f"{name}: {why}"
        )


def test_nothing_is_cached_that_they_do_not_cache(theirs: Fixture):
    _, cache = theirs.model.run_with_cache(**theirs.arguments)
    # Theirs is given the first residual stream of the vectors, and so caches nothing before it; and it has, but never
    # calls, the hook on what shortformer queries and keys read.
    ours_alone = {"hook_embed", "hook_pos_embed"} if theirs.model.cfg.input_type == "vectors" else set()
    ours_alone |= {name for name in cache if name.endswith("attn.hook_attn_input")}
    assert set(cache) - ours_alone == set(theirs.under("cache."))


def test_processed_weights_are_theirs(theirs: Fixture):
    processed = theirs.under("processed.")
    if not processed:
        pytest.skip("not stored for this network: make_fixtures.py says why")
    ours = HookedTransformer(theirs.model.cfg).eval()
    ours.load_and_process_state_dict(theirs.under("weights."))
    copy = theirs.model.processed(center_unembed=True)
    for simpler in (ours, copy):
        for name, weight in simpler.state_dict().items():
            torch.testing.assert_close(
                weight, processed[name], atol=1e-5, rtol=0, msg=lambda why, name=name: f"{name}: {why}"
            )
        assert_close(simpler(**theirs.arguments), theirs.tensors["processed_logits"], atol=1e-5)
        # What theirs kept beyond ours are the LayerNorm weights that folding used up, and the buffers.
        left = set(processed) - set(simpler.state_dict())
        assert all(name.endswith((".mask", ".IGNORE", ".rotary_sin", ".rotary_cos")) for name in left)


# Simpler weights, the same function


@pytest.mark.parametrize("act_fn", ["relu", "solu", "solu_ln"])
@pytest.mark.parametrize("normalization_type", ["LN", "LNPre", None])
@pytest.mark.parametrize("positions", ["standard", "shortformer", "none"])
@pytest.mark.parametrize("input_type", ["tokens", "vectors"])
def test_processing_keeps_the_function(act_fn: str, normalization_type: str | None, positions: str, input_type: str):
    model = network(
        dtype=torch.float32,
        act_fn=act_fn,
        normalization_type=normalization_type,
        positional_embedding_type=positions,
        input_type=input_type,
    )
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    simpler = model.processed(fold_ln=positions != "shortformer")
    inputs = inputs_for(model)
    output, simpler_output = model(inputs), simpler(inputs)
    if input_type == "tokens":
        # Centring the unembedding moves all logits of a position alike, which no probability can see.
        assert_close(simpler_output.sum(-1), torch.zeros(BATCH, POS) + simpler.b_U.sum(), atol=1e-4)
        output, simpler_output = output.log_softmax(-1), simpler_output.log_softmax(-1)
    assert_close(simpler_output, output, atol=1e-4)
    assert not simpler.b_V.any()
    if normalization_type is not None:
        # What writes to the residual stream is centred, except shortformer positions, which do not write to it.
        assert_close(simpler.W_O.mean(-1), torch.zeros_like(simpler.W_O[..., 0]), atol=1e-6)
        assert_close(simpler.W_E.mean(-1), torch.zeros_like(simpler.W_E[:, 0]), atol=1e-6)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize(
    "same", [("d_model", "d_mlp"), ("d_model", "d_vocab_out"), ("d_model", "d_vocab"), ("d_mlp", "d_vocab_out")]
)
@pytest.mark.parametrize("act_fn", ["relu", "solu_ln"])
def test_processing_does_not_tell_axes_by_their_sizes(same: tuple[str, str], act_fn: str):
    # A square matrix shows which axis is which by its place alone.
    model = network(dtype=torch.float32, act_fn=act_fn, **dict.fromkeys(same, 11))
    tokens = inputs_for(model)
    assert_close(model.processed()(tokens).log_softmax(-1), model(tokens).log_softmax(-1), atol=1e-4)


def test_processing_refuses_what_would_change_the_function():
    with pytest.raises(ValueError, match=r"fold_ln: True is not valid with shortformer"):
        network(positional_embedding_type="shortformer").processed(fold_ln=True)
    with pytest.raises(ValueError, match=r"center_unembed: True is not valid for vectors"):
        network(input_type="vectors").processed(center_unembed=True)


# Two paths, one network


def gradients(model: HookedTransformer, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and the gradient of a generic function of it with respect to everything."""
    model.zero_grad()
    if inputs.is_floating_point():
        inputs = inputs.clone().requires_grad_()
    output = model(inputs)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    (output * direction).sum().backward()
    everything = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(everything) == len(list(model.parameters()))
    if inputs.grad is not None:
        everything["inputs"] = inputs.grad
    return output.detach(), everything


@pytest.mark.parametrize(
    ("positions", "normalization_type", "attention_dir", "input_type"),
    list(
        itertools.product(
            ["standard", "shortformer", "none"],
            ["LN", "LNPre", None],
            ["causal", "bidirectional"],
            ["tokens", "vectors"],
        )
    ),
)
def test_fused_equals_explicit(
    positions: str, normalization_type: str | None, attention_dir: str, input_type: str, monkeypatch: pytest.MonkeyPatch
):
    model = network(
        positional_embedding_type=positions,
        normalization_type=normalization_type,
        attention_dir=attention_dir,
        input_type=input_type,
    )
    inputs = inputs_for(model)
    fused, fused_gradients = gradients(model, inputs)
    # Everything is listened to now, so no kernel that skips a step may still run: that it is gone proves it.
    model.add_hook(lambda name: name.endswith(("hook_pattern", "hook_normalized")), keep)
    for kernel in ("scaled_dot_product_attention", "layer_norm"):
        monkeypatch.setattr(F, kernel, None)
    explicit, explicit_gradients = gradients(model, inputs)
    assert_close(fused, explicit)
    for name, gradient in fused_gradients.items():
        torch.testing.assert_close(
            gradient, explicit_gradients[name], atol=1e-11, rtol=1e-9, msg=lambda why, name=name: f"{name}: {why}"
        )


def test_causal_queries_see_no_later_key(model: HookedTransformer, tokens: Tensor):
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % model.cfg.d_vocab
    assert_close(model(changed)[:, :-1], model(tokens)[:, :-1])
    other_way = network(attention_dir="bidirectional")
    assert not torch.isclose(other_way(changed)[:, :-1], other_way(tokens)[:, :-1]).all(-1).any()


# Padding


MASKS = {
    "left": torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]),
    "right": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]),
    "inside": torch.tensor([[1, 0, 1, 1, 0], [0, 1, 0, 1, 1]]),
}


@pytest.mark.parametrize("side", MASKS)
@pytest.mark.parametrize("positions", ["standard", "shortformer", "none"])
@pytest.mark.parametrize("attention_dir", ["causal", "bidirectional"])
@pytest.mark.parametrize("input_type", ["tokens", "vectors"])
def test_what_stands_at_padding_does_not_matter(side: str, positions: str, attention_dir: str, input_type: str):
    model = network(positional_embedding_type=positions, attention_dir=attention_dir, input_type=input_type)
    mask, inputs, others = MASKS[side], inputs_for(model), inputs_for(model, seed=1)
    real = mask.bool()
    changed = torch.where(real if input_type == "tokens" else real[:, :, None], inputs, others)
    output = model(inputs, attention_mask=mask)
    assert_close(model(changed, attention_mask=mask)[real], output[real])
    if (side, attention_dir) != ("right", "causal"):  # causal queries do not see what is on their right anyway
        assert not torch.isclose(model(changed)[real], model(inputs)[real]).all()
    # Padding takes no position either: each sequence gives what it gives alone.
    for row in range(BATCH):
        alone = model(inputs[row][real[row]][None])
        assert_close(output[row][real[row]], alone[0])


def test_a_query_that_sees_no_key_looks_at_nothing(model: HookedTransformer, tokens: Tensor):
    mask = MASKS["left"]
    output, cache = model.run_with_cache(tokens, attention_mask=mask)
    blind = mask == 0  # on the left of everything, so not even the query itself is there to be seen
    for layer in range(model.cfg.n_layers):
        seen = cache["pattern", layer].sum(-1).transpose(1, 2)
        assert_close(seen, (~blind)[:, :, None].expand_as(seen).double())
        assert not cache["z", layer][blind].any()
    assert output.isfinite().all()
    model(tokens, attention_mask=mask).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# The surface that notebooks call


def test_run_with_hooks_replaces_once(model: HookedTransformer, tokens: Tensor):
    def no_head_1(z: Tensor, hook: Any) -> Tensor:
        assert hook.layer() == 0
        z = z.clone()
        z[:, :, 1] = 0
        return z

    clean = model(tokens)
    ablated = model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_z", no_head_1)])
    with torch.no_grad():
        model.blocks[0].attn.W_O[1] = 0  # pyright: ignore
    assert_close(ablated, model(tokens))
    assert not torch.isclose(ablated, clean).any()
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_added_hooks_stay_until_reset(model: HookedTransformer, tokens: Tensor):
    clean = model(tokens)
    model.add_hook("hook_embed", lambda embed, hook: embed * 2)
    assert not torch.isclose(model(tokens), clean).any()
    assert_close(model(tokens), model(tokens))
    model.reset_hooks()
    assert torch.equal(model(tokens), clean)


def test_hooks_context_ends(model: HookedTransformer, tokens: Tensor):
    seen, grads = [], []
    with model.hooks(
        fwd_hooks=[(lambda name: name.endswith("hook_resid_post"), lambda value, hook: seen.append(hook.name))],
        bwd_hooks=[("blocks.0.hook_resid_pre", lambda grad, hook: grads.append(grad))],
    ):
        model(tokens).sum().backward()
    model(tokens).sum().backward()
    assert seen == [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    assert len(grads) == 1
    assert grads[0].any()


@pytest.mark.parametrize("positions", ["standard", "shortformer"])
def test_every_activation_can_be_written_in_place(positions: str):
    model = network(positional_embedding_type=positions)
    for switch in ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in"):
        getattr(model, f"set_{switch}")(True)
    tokens = inputs_for(model)

    def write(value: Tensor, hook: Any) -> Tensor:
        value[0] += 1
        return value

    with torch.no_grad():
        clean = model(tokens)
        for name in model.run_with_cache(tokens)[1]:
            changed = model.run_with_hooks(tokens, fwd_hooks=[(name, write)])
            assert_close(changed[1], clean[1])  # the other sequence shares no memory with the one written to


def test_return_types(model: HookedTransformer):
    model = network(d_vocab_out=SIZES["d_vocab"])
    tokens = inputs_for(model)
    logits = model(tokens, return_type="logits")
    assert logits.shape == (BATCH, POS, SIZES["d_vocab"])
    assert model(tokens, return_type=None) is None
    by_hand = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    assert_close(model(tokens, return_type="loss", loss_per_token=True), by_hand)
    assert_close(model(tokens, return_type="loss"), by_hand.mean())
    both = model(tokens, return_type="both")
    assert torch.equal(both.logits, logits)
    assert_close(both.loss, by_hand.mean())
    # Loss from the middle on needs to be told the tokens.
    resid = model(tokens, stop_at_layer=1)
    assert_close(model(resid, start_at_layer=1, tokens=tokens, return_type="loss"), by_hand.mean())


def test_loss_counts_no_padding():
    model = network(d_vocab_out=SIZES["d_vocab"])
    tokens, mask = inputs_for(model), MASKS["right"]
    # The last token of a sequence predicts padding, and padding predicts nothing.
    alone = [
        model(row[m.bool()][None], return_type="loss", loss_per_token=True) for row, m in zip(tokens, mask, strict=True)
    ]
    together = model(tokens, attention_mask=mask, return_type="loss")
    assert_close(together, torch.cat([loss.flatten() for loss in alone]).mean())


@pytest.mark.parametrize("positions", ["standard", "shortformer", "none"])
@pytest.mark.parametrize("input_type", ["tokens", "vectors"])
def test_parts_of_the_network_compose(positions: str, input_type: str):
    model = network(positional_embedding_type=positions, input_type=input_type)
    inputs = inputs_for(model)
    whole, cache = model.run_with_cache(inputs)
    pos_embed = cache["hook_pos_embed"] if positions == "shortformer" else None
    for layer in range(model.cfg.n_layers + 1):
        resid = model(inputs, stop_at_layer=layer)
        rest = model(resid, start_at_layer=layer, shortformer_pos_embed=pos_embed)
        assert_close(rest, whole)
    assert_close(model(inputs, stop_at_layer=-1), cache["resid_pre", -1])
    step = model(cache["resid_pre", 0], start_at_layer=0, stop_at_layer=1, shortformer_pos_embed=pos_embed)
    assert_close(step, cache["resid_post", 0])


def test_one_sequence_may_come_without_a_batch(model: HookedTransformer, tokens: Tensor):
    assert_close(model(tokens[1]), model(tokens)[1:])
    vectors = network(input_type="vectors")
    assert_close(vectors(inputs_for(vectors)[1]), vectors(inputs_for(vectors))[1:])


def test_cache_as_a_dictionary_or_without_batch(model: HookedTransformer, tokens: Tensor):
    _, cache = model.run_with_cache(tokens[:1], names_filter=lambda name: name.endswith("hook_pattern"))
    assert set(cache) == {f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)}
    _, plain = model.run_with_cache(tokens[:1], return_cache_object=False)
    assert type(plain) is dict
    _, single = model.run_with_cache(tokens[:1], remove_batch_dim=True)
    assert torch.equal(single["pattern", 1], plain["blocks.1.attn.hook_pattern"][0])


def test_backward_cache_holds_gradients(model: HookedTransformer, tokens: Tensor):
    _, cache = model.run_with_cache(tokens, return_type="loss", incl_bwd=True)
    taken = {}
    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", lambda value, hook: taken.update(pattern=value))]):
        loss = model(tokens, return_type="loss")
    (gradient,) = torch.autograd.grad(loss, taken["pattern"])
    assert gradient.any()
    assert_close(cache["blocks.1.attn.hook_pattern_grad"], gradient)


def test_stacked_weights(model: HookedTransformer):
    c = model.cfg
    heads_in = (c.n_layers, c.n_heads, c.d_model, c.d_head)
    shapes = {
        **dict.fromkeys(("W_Q", "W_K", "W_V"), heads_in),
        "W_O": (c.n_layers, c.n_heads, c.d_head, c.d_model),
        **dict.fromkeys(("b_Q", "b_K", "b_V"), (c.n_layers, c.n_heads, c.d_head)),
        **dict.fromkeys(("b_O", "b_out"), (c.n_layers, c.d_model)),
        "W_in": (c.n_layers, c.d_model, c.d_mlp),
        "b_in": (c.n_layers, c.d_mlp),
        "W_out": (c.n_layers, c.d_mlp, c.d_model),
        "W_E": (c.d_vocab, c.d_model),
        "W_pos": (c.n_ctx, c.d_model),
        "W_E_pos": (c.d_vocab + c.n_ctx, c.d_model),
        "W_U": (c.d_model, c.d_vocab_out),
        "b_U": (c.d_vocab_out,),
    }
    state = model.state_dict()
    for name, shape in shapes.items():
        weight = getattr(model, name)
        assert weight.shape == shape, name
        for part in ("attn", "mlp"):
            if f"blocks.1.{part}.{name}" in state:
                assert torch.equal(weight[1], state[f"blocks.1.{part}.{name}"])


def product(factored: FactoredMatrix) -> Tensor:
    assert isinstance(factored.AB, Tensor)
    return factored.AB


def test_factored_circuits_are_products(model: HookedTransformer):
    assert_close(product(model.OV), model.W_V @ model.W_O)
    assert_close(product(model.QK), model.W_Q @ model.W_K.transpose(-1, -2))
    for layer, block in enumerate(model.blocks):
        assert_close(product(block.attn.OV), product(model.OV)[layer])  # pyright: ignore
        assert_close(product(block.attn.QK), product(model.QK)[layer])  # pyright: ignore


@pytest.mark.parametrize("attn_only", [False, True])
def test_accumulated_bias_is_what_biases_wrote(attn_only: bool):
    model = network(attn_only=attn_only)
    b_O = model.b_O
    b_out = torch.zeros_like(b_O) if attn_only else model.b_out
    assert_close(model.accumulated_bias(0), torch.zeros(SIZES["d_model"], dtype=b_O.dtype))
    assert_close(model.accumulated_bias(1), b_O[0] + b_out[0])
    assert_close(model.accumulated_bias(1, include_mlp_biases=False), b_O[0])
    assert_close(model.accumulated_bias(1, mlp_input=True), b_O[0] + b_out[0] + b_O[1])
    assert_close(model.accumulated_bias(2), b_O[0] + b_out[0] + b_O[1] + b_out[1])


def test_head_labels_follow_the_heads(model: HookedTransformer):
    assert model.all_head_labels() == ["L0H0", "L0H1", "L0H2", "L1H0", "L1H1", "L1H2"]


def test_residual_directions_are_columns_of_the_unembedding(model: HookedTransformer):
    assert torch.equal(model.tokens_to_residual_directions(3), model.W_U[:, 3])
    assert torch.equal(model.tokens_to_residual_directions(torch.tensor(3)), model.W_U[:, 3])
    answers = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    directions = model.tokens_to_residual_directions(answers)
    assert directions.shape == (BATCH, POS, SIZES["d_model"])
    assert torch.equal(directions[1, 2], model.W_U[:, 6])


def test_device_and_dtype_follow_the_weights(model: HookedTransformer):
    before = replace(model.cfg)
    assert (model.cfg.device, model.cfg.dtype) == ("cpu", torch.float64)
    assert model.to("meta").cfg.device == "meta"
    assert model.to(torch.float32).cfg.dtype == torch.float32
    # They are no part of what a configuration says.
    assert model.cfg == before


# What cannot be done says so


def test_shapes_are_checked_inside_networks(model: HookedTransformer):
    """In these tests: elsewhere they are left out, because they take longer than the network."""
    with pytest.raises(jaxtyping.TypeCheckError, match="forward"):
        model.unembed(torch.zeros(BATCH, SIZES["d_model"], dtype=torch.float64))


def test_hooks_that_could_never_fire_are_refused(model: HookedTransformer, tokens: Tensor):
    attempts = [
        lambda name: model.run_with_hooks(tokens, fwd_hooks=[(name, keep)]),
        lambda name: model.run_with_hooks(tokens, bwd_hooks=[(name, keep)]),
        lambda name: model.add_hook(name, keep),
        lambda name: model.hooks(fwd_hooks=[(name, keep)]).__enter__(),
    ]
    for attempt in attempts:
        with pytest.raises(
            ValueError, match=r"'blocks.0.attn.hook_patern' does not exist.*'blocks.0.attn.hook_pattern'"
        ):
            attempt("blocks.0.attn.hook_patern")
        with pytest.raises(ValueError, match=r"hook_result' never fires while cfg.use_attn_result is False"):
            attempt("blocks.0.attn.hook_result")
    model.set_use_attn_result(True)
    for attempt in attempts[:-1]:
        attempt("blocks.0.attn.hook_result")


@pytest.mark.usefixtures("unchecked")
def test_inputs_the_network_cannot_take_are_refused(model: HookedTransformer, tokens: Tensor):
    n_ctx, d_vocab = SIZES["n_ctx"], SIZES["d_vocab"]
    vectors = network(input_type="vectors")
    with pytest.raises(ValueError, match=rf"input: {n_ctx + 1} positions are not valid; n_ctx allows at most {n_ctx}"):
        model(torch.zeros(BATCH, n_ctx + 1, dtype=torch.long))
    assert model(torch.zeros(BATCH, n_ctx, dtype=torch.long)).shape == (BATCH, n_ctx, SIZES["d_vocab_out"])
    for token in (d_vocab, -1):
        with pytest.raises(ValueError, match=rf"input: tokens from .*{token}.* not valid.* 0 to {d_vocab - 1}"):
            model(torch.where(tokens == tokens[0, 0], token, tokens))
    with pytest.raises(ValueError, match=r"input: torch.float64 of shape .* is not valid; .*integer tokens"):
        model(torch.zeros(BATCH, POS, dtype=torch.float64))
    with pytest.raises(ValueError, match=rf"input: torch.int64 .*float vectors \[batch, pos, {d_vocab}\]"):
        vectors(torch.zeros(BATCH, POS, d_vocab, dtype=torch.long))
    with pytest.raises(ValueError, match=rf"\({BATCH}, {POS}, {d_vocab + 1}\).*float vectors"):
        vectors(torch.zeros(BATCH, POS, d_vocab + 1, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"tokenizer: None is not valid for strings; call model.set_tokenizer"):
        model("a string")


@pytest.mark.usefixtures("unchecked")
def test_outputs_that_make_no_sense_are_refused(model: HookedTransformer, tokens: Tensor):
    vectors = network(input_type="vectors")
    with pytest.raises(ValueError, match=r"return_type: 'logit' is not one of logits, loss, both, None"):
        model(tokens, return_type="logit")  # pyright: ignore
    for return_type in ("loss", "both"):
        with pytest.raises(ValueError, match=rf"return_type: '{return_type}' needs tokens to predict"):
            vectors(inputs_for(vectors), return_type=return_type)
        with pytest.raises(ValueError, match=rf"return_type: '{return_type}' needs tokens to predict"):
            model(model(tokens, stop_at_layer=1), start_at_layer=1, return_type=return_type)
    with pytest.raises(ValueError, match=r"use_hook_mlp_in: True is not valid for an attn_only network"):
        network(attn_only=True).set_use_hook_mlp_in(True)
    with pytest.raises(ValueError, match=r"W_pos: this network has no W_pos"):
        _ = network(positional_embedding_type="none").W_pos


# Initial weights


def test_initial_weights_depend_on_the_seed_alone():
    config = ModelConfig(**SIZES)
    before = torch.get_rng_state()
    weights = HookedTransformer(config, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    again, other = HookedTransformer(config, seed=1).state_dict(), HookedTransformer(config, seed=2).state_dict()
    for name, weight in weights.items():
        assert torch.equal(weight, again[name])
        if name.rpartition(".")[2].startswith("W_"):
            assert not torch.equal(weight, other[name])


def test_initial_weights_are_normal_and_biases_zero():
    model = HookedTransformer(ModelConfig(**SIZES | {"d_vocab": 997, "initializer_range": 0.5}))
    standardised = model.W_E.flatten() / 0.5
    # The mean of n standard normal draws is within 5 / sqrt(n) of 0, and their variance within 5 sqrt(2 / n) of 1.
    n = standardised.numel()
    assert abs(standardised.mean()) < 5 / n**0.5
    assert abs(standardised.var() - 1) < 5 * (2 / n) ** 0.5
    for name, parameter in model.named_parameters():
        kind = name.rpartition(".")[2]
        if not kind.startswith("W_"):
            assert (parameter == (1 if kind == "w" else 0)).all()
