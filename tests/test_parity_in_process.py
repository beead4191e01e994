"""Our HookedTransformer beside the one of TransformerLens 3.9 in one process: every kind of network that both have.

TransformerLens 4 no longer has that class; test_parity.py compares with numbers that 3.9 has left behind.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# Types are those of TransformerLens 4.

import copy
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
import transformer_lens
from installed_lens import IS_3
from torch import Tensor

from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer

pytestmark = pytest.mark.skipif(not IS_3, reason="TransformerLens 4 has no HookedTransformer")

# Distinct primes: a transposed or a wrong axis cannot fit by luck.
BATCH, POS = 2, 5
SIZES: dict[str, Any] = {
    "n_layers": 2, "d_model": 11, "d_head": 7, "n_heads": 3, "d_vocab": 13, "d_mlp": 19, "n_ctx": 23,
    "act_fn": "relu",
}  # fmt: skip
NORMS = ("LN", "LNPre", "RMS", "RMSPre", None)
POSITIONS = ("standard", "shortformer", "rotary")
SWITCHES = ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")
ROTARY = {"positional_embedding_type": "rotary", "rotary_dim": 6}


def kinds() -> Iterator[tuple[str, dict[str, Any]]]:
    """Networks by name: norms, positions and MLPs in all combinations, and every other option alone."""
    for norm, positions, attn_only in product(NORMS, POSITIONS, (False, True)):
        own = ROTARY if positions == "rotary" else {"positional_embedding_type": positions}
        name = f"{norm} {positions}{' attn_only' * attn_only}"
        yield name, {"normalization_type": norm, "attn_only": attn_only, **own}
    for act_fn in ("gelu", "gelu_new", "silu", "solu", "solu_ln"):
        yield act_fn, {"act_fn": act_fn}
    for norm in ("LNPre", None):
        yield f"{norm} solu_ln", {"act_fn": "solu_ln", "normalization_type": norm}
    for positions in POSITIONS:
        own = ROTARY if positions == "rotary" else {"positional_embedding_type": positions}
        yield f"bidirectional {positions}", {"attention_dir": "bidirectional", **own}
    yield "rotary_dim", {**ROTARY, "rotary_dim": 4}
    yield "rotary_base", {**ROTARY, "rotary_base": 31}
    yield "use_attn_scale", {"use_attn_scale": False}
    yield "attn_scale", {"attn_scale": 1.7}
    yield "d_vocab_out", {"d_vocab_out": 17}
    yield "eps", {"eps": 0.3}
    yield "one layer of one head", {"n_layers": 1, "n_heads": 1}


KINDS = dict(kinds())
ALL_KINDS = pytest.mark.parametrize("kind", KINDS)


class Pair(NamedTuple):
    """A network of each class, with the same weights, and tokens for them."""

    ours: HookedTransformer
    theirs: Any
    tokens: Tensor


def pair(kind: str) -> Pair:
    options = SIZES | KINDS[kind]
    config = transformer_lens.HookedTransformerConfig(**options, device="cpu", seed=0, dtype=torch.float64)
    theirs = transformer_lens.HookedTransformer(config).eval()
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            noise = torch.randn(weight.shape, generator=draws, dtype=weight.dtype) * 0.3
            weight.copy_(1 + noise if name.endswith(".w") else noise)
    ours = HookedTransformer(ModelConfig(**options)).double().eval()
    ours.load_state_dict(theirs.state_dict())
    return Pair(ours, theirs, torch.randint(SIZES["d_vocab"], (BATCH, POS), generator=draws))


# Of what TransformerLens computes in single precision, whatever the network is.
SINGLE = 1e-5


def assert_close(ours: Tensor, theirs: Tensor, name: str = "", atol: float = 1e-10) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0, check_dtype=False, msg=lambda why: f"{name}: {why}")


def assert_same_cache(ours: Any, theirs: Any) -> None:
    # Theirs has, but never calls, the hook on what shortformer queries and keys read.
    assert {name for name in ours if "hook_attn_input" not in name} == set(theirs)
    for name, value in theirs.items():
        assert_close(ours[name], value, name)


@ALL_KINDS
def test_logits_loss_and_every_activation_are_theirs(kind: str):
    ours, theirs, tokens = pair(kind)
    assert set(ours.hook_dict) == set(theirs.hook_dict)
    assert_close(ours(tokens), theirs(tokens))  # with fused kernels, because nobody listens
    logits, cache = ours.run_with_cache(tokens)
    expected, their_cache = theirs.run_with_cache(tokens)
    assert_close(logits, expected)
    assert_same_cache(cache, their_cache)
    if ours.cfg.d_vocab_out == ours.cfg.d_vocab:
        for per_token in (False, True):
            asked: dict[str, Any] = {"return_type": "loss", "loss_per_token": per_token}
            assert_close(ours(tokens, **asked), theirs(tokens, **asked))


@ALL_KINDS
def test_gradients_of_weights_and_activations_are_theirs(kind: str):
    ours, theirs, tokens = pair(kind)
    draws = torch.Generator().manual_seed(1)
    direction = torch.randn(BATCH, POS, ours.cfg.d_vocab_out, generator=draws, dtype=torch.float64)
    for model in (ours, theirs):
        (model(tokens).softmax(-1) * direction).sum().backward()
    expected = {name: weight.grad for name, weight in theirs.named_parameters()}
    assert {name for name, _ in ours.named_parameters()} == set(expected)
    for name, weight in ours.named_parameters():
        assert_close(weight.grad, expected[name], name)
    gradients: list[dict[str, Tensor]] = [{}, {}]
    for model, found in zip((ours, theirs), gradients, strict=True):

        def add(gradient: Tensor, hook: Any, found: dict[str, Tensor] = found) -> None:
            # Theirs normalises for queries, keys and values apart, and has a part of the gradient at each.
            found[hook.name] = found.get(hook.name, 0) + gradient

        with model.hooks(bwd_hooks=[(lambda name: True, add)]):
            (model(tokens).softmax(-1) * direction).sum().backward()
    assert_same_cache(*gradients)


@ALL_KINDS
def test_the_switches_split_the_same_activations(kind: str):
    ours, theirs, tokens = pair(kind)
    for switch in SWITCHES:
        if switch == "use_hook_mlp_in" and ours.cfg.attn_only:
            continue
        for model in (ours, theirs):
            getattr(model, f"set_{switch}")(True)
        if switch == "use_attn_in":  # theirs takes one of the two
            for model in (ours, theirs):
                model.set_use_split_qkv_input(False)
        logits, cache = ours.run_with_cache(tokens)
        expected, their_cache = theirs.run_with_cache(tokens)
        assert_close(logits, expected)
        assert_same_cache(cache, their_cache)


@ALL_KINDS
def test_padding_is_hidden_as_theirs_is(kind: str):
    ours, theirs, tokens = pair(kind)
    if ours.cfg.attention_dir == "bidirectional":
        pytest.skip("TransformerLens reads no mask in a bidirectional network")
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])
    logits, cache = ours.run_with_cache(tokens, attention_mask=mask)
    expected, their_cache = theirs.run_with_cache(tokens, attention_mask=mask)
    assert_close(logits, expected)
    assert_same_cache(cache, their_cache)


@ALL_KINDS
def test_hooks_replace_and_layers_are_left_out_as_in_theirs(kind: str):
    ours, theirs, tokens = pair(kind)

    def no_head(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        z[:, :, 0] = 0
        return z

    hooks = [("blocks.0.attn.hook_z", no_head)]
    changed = ours.run_with_hooks(tokens, fwd_hooks=hooks)
    assert_close(changed, theirs.run_with_hooks(tokens, fwd_hooks=hooks))
    assert not torch.allclose(changed, ours(tokens))
    for layer in range(ours.cfg.n_layers):
        assert_close(ours(tokens, stop_at_layer=layer), theirs(tokens, stop_at_layer=layer))
        if ours.cfg.positional_embedding_type != "shortformer":
            resid = theirs(tokens, stop_at_layer=layer)
            assert_close(ours(resid, start_at_layer=layer), theirs(resid, start_at_layer=layer))


@ALL_KINDS
def test_processed_weights_are_theirs(kind: str):
    ours, theirs, tokens = pair(kind)
    cfg = ours.cfg
    if cfg.positional_embedding_type == "shortformer":
        pytest.skip("TransformerLens centres positions that are added after ln1")
    if cfg.act_fn == "solu":
        pytest.skip("TransformerLens looks for the weights of a LayerNorm behind solu")
    processed = copy.deepcopy(theirs)
    processed.load_and_process_state_dict(theirs.state_dict())
    simpler = ours.processed(center_unembed=True)
    assert_close(simpler(tokens), processed(tokens), atol=10 * SINGLE)
    expected = processed.state_dict()
    for name, weight in simpler.state_dict().items():
        assert_close(weight, expected[name], name, SINGLE)


@ALL_KINDS
def test_weights_have_their_names_and_products(kind: str):
    ours, theirs, _ = pair(kind)
    of_mlps = () if ours.cfg.attn_only else ("W_in", "b_in", "W_out", "b_out")
    for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O", "W_E", "W_U", "b_U", *of_mlps):
        assert_close(getattr(ours, name), getattr(theirs, name), name)
    for name in ("QK", "OV"):
        assert_close(getattr(ours, name).AB, getattr(theirs, name).AB, name)
    for mode in ("Q", "K", "V"):
        assert_close(ours.all_composition_scores(mode), theirs.all_composition_scores(mode), mode)
    assert ours.all_head_labels() == theirs.all_head_labels()
    for layer in range(ours.cfg.n_layers + 1):
        mlps = not ours.cfg.attn_only  # theirs looks for some in any case
        biases = (model.accumulated_bias(layer, include_mlp_biases=mlps) for model in (ours, theirs))
        assert_close(*biases, atol=SINGLE)


@pytest.mark.parametrize("kind", ["LN standard", "LN shortformer", "LN rotary", "None standard attn_only"])
def test_greedy_generation_continues_as_theirs_does(kind: str):
    ours, theirs, tokens = pair(kind)
    asked: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "verbose": False}
    expected = theirs.generate(tokens, **asked, stop_at_eos=False, use_past_kv_cache=False, prepend_bos=False)
    assert torch.equal(ours.generate(tokens, **asked), expected)


@pytest.mark.parametrize("kind", ["LN standard", "LNPre standard attn_only", "None rotary"])
def test_caches_take_the_stream_apart_as_theirs_do(kind: str):
    ours, theirs, tokens = pair(kind)
    cache, their_cache = (model.run_with_cache(tokens)[1] for model in (ours, theirs))
    # Theirs looks for the biases of MLPs in any case, and adds them in single precision.
    methods = {"decompose_resid": 1e-10, "accumulated_resid": 1e-10, "stack_head_results": 1e-10}
    methods |= {} if ours.cfg.attn_only else {"get_full_resid_decomposition": SINGLE}
    for layer, apply_ln, name in product((1, None), (False, True), methods):
        asked: dict[str, Any] = {"layer": layer, "apply_ln": apply_ln, "return_labels": True}
        parts, labels = getattr(cache, name)(**asked)
        their_parts, their_labels = getattr(their_cache, name)(**asked)
        assert labels == their_labels
        assert_close(parts, their_parts, name, methods[name])
