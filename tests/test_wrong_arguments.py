"""Every argument of every public method of a network and its cache, given what it cannot be: a ValueError by its name.

The tables are complete: a new method or a new argument fails until it has its wrong values here.
"""

# pyright: reportArgumentType=false, reportCallIssue=false

import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from installed_lens import IS_3, VERSION
from random_networks import BATCH, POS, SIZES, assert_close, keep, network
from torch import Tensor, nn

from headway.data.tokenizer import train_bpe, wrapped
from headway.models.activation_cache import ActivationCache
from headway.models.hooked_transformer import HookedTransformer

pytestmark = pytest.mark.usefixtures("unchecked")
V, LAYERS = 257, SIZES["n_layers"]
TOKENS = torch.randint(V, (BATCH, POS), generator=torch.Generator().manual_seed(0))


@cache
def speaker() -> HookedTransformer:
    """A network that reads strings."""
    model = network(d_vocab=V, d_vocab_out=V)
    model.set_tokenizer(wrapped(train_bpe(["a b c d e"], n_tokens=V)))
    return model


@cache
def cached() -> ActivationCache:
    return speaker().run_with_cache(TOKENS)[1]


def stream() -> Tensor:
    return cached()["resid_pre", 1]


ANY = object()
BOOL = ("no", 1, 0.5, None, [], ANY)
MAYBE_BOOL = ("no", 1, 0.5, [], ANY)
INTEGER = ("1", 1.5, True, [1], 9999, ANY)
SIZE = (*INTEGER[:-2], None, 0, -1, ANY)
NUMBER = ("1", None, [1.0], -1, float("nan"), float("inf"), True, ANY)
NAME = (3, 1.5, "nothing", ["x"], ANY)
SLICE = ("a", 1.5, True, 99, -99, (3, 3), (4, 2), (0, 2, 0), ("a",), (1, 2, 3, 4), [], [99], [0.5], [[1]], ANY)
WRONG_TOKENS = (1.5, {}, [0.5], "?" * 3, torch.tensor([[0.5]]), torch.tensor([[1 + 1j]]), [-1], [9999], ANY)
INPUT = ({}, 5, [[1.5]], [None], [["a"], [1]], TOKENS > 0, TOKENS[:, :, None], TOKENS + V, -1 - TOKENS, [1, [2]], ANY)
FLOATS = ("a", {}, 5, torch.zeros(3), torch.zeros(BATCH, POS, 3), torch.zeros(POS, SIZES["d_model"]) > 0, ANY)
MASK = ("a", {}, 5, [[1, 1]], TOKENS * 0 + 2, torch.ones(BATCH, POS) * (1 + 0j), torch.ones(BATCH, POS) * 1j, ANY)
HOOKS = (3, "a", [3], [("hook_embed",)], [("hook_embed", 3)], {"hook_embed": keep}, None, ANY)
WEIGHTS = ([1], "a", None, {"a": 3}, {"embed.W_E": torch.zeros(2)}, {"embed.W_E": torch.zeros(V, 11) * 1j}, ANY)
DEVICE = ("nowhere", 1.5, [], ANY)
MODE, LEVEL = ("X", 3, None, ["Q"], ANY), ("1", 1.5, True, -1, ANY)
DIRECTION = ("up", 3, None, ANY)
SINGLE = (1.5, [1], 9999, "two tokens", None, ANY)
TOKENIZER = ("gpt2", 3, [], ANY)
PROCESSED = dict.fromkeys(
    ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases", "refactor_factored_attn_matrices"),
    BOOL,
)
DIRECTIONS = ("a", 5, [], torch.zeros(3), torch.zeros(3, 11), torch.zeros(11) * 1j, ANY)
PART = ("a", 5, {}, torch.zeros(3), torch.zeros(1, BATCH, POS, 3), torch.zeros(1, BATCH, POS, 11) * 1j, ANY)

Table = dict[str, tuple[dict[str, Any], dict[str, tuple[Any, ...]]]]
# The arguments of a call that is right, and the wrong values of each.
NETWORK: Table = {
    "__init__": (
        {"cfg": speaker().cfg}, {"cfg": (3, {}, None, ANY), "tokenizer": TOKENIZER, "seed": ("1", 1.5, -1, True, ANY)},
    ),
    "init_weights": ({"draws": torch.Generator()}, {"draws": (3, "a", None, ANY)}),
    "forward": (
        {"input": TOKENS},
        {
            "input": (*INPUT, None), "return_type": ("logit", 3, ["loss"], ANY), "loss_per_token": BOOL,
            "prepend_bos": ("no", True, False, 1, ANY), "start_at_layer": INTEGER, "stop_at_layer": INTEGER,
            "tokens": (TOKENS, ANY), "shortformer_pos_embed": FLOATS, "attention_mask": MASK,
        },
    ),
    "loss_fn": (
        {"logits": torch.zeros(BATCH, POS, V), "tokens": TOKENS},
        {
            "logits": ("a", 5, {}, None, TOKENS, torch.zeros(3), torch.zeros(BATCH, POS, V) * 1j, ANY),
            "tokens": (*WRONG_TOKENS, None, TOKENS[:, 1:], TOKENS > 0), "attention_mask": MASK, "per_token": BOOL,
        },
    ),
    "input_to_embed": ({"input": TOKENS}, {"input": (*INPUT, None, "a"), "attention_mask": MASK}),
    "load_state_dict": (
        {"state_dict": speaker().state_dict()}, {"state_dict": WEIGHTS, "strict": BOOL, "assign": BOOL},
    ),
    "processed": ({}, {**PROCESSED, "center_unembed": MAYBE_BOOL}),
    "load_and_process_state_dict": ({"state_dict": speaker().state_dict()}, {"state_dict": WEIGHTS, **PROCESSED}),
    "tokens_to_residual_directions": ({"tokens": 3}, {"tokens": (*WRONG_TOKENS, None)}),
    "generate": (
        {"input": TOKENS, "max_new_tokens": 2},
        {
            "input": (*INPUT, None), "max_new_tokens": (*SIZE, 9999), "stop_at_eos": MAYBE_BOOL,
            "eos_token_id": (*INTEGER, -1), "do_sample": BOOL, "top_k": (*SIZE[:-4], 0, -1, ANY),
            "top_p": ("1", 0, -1, 1.5, float("nan"), [0.5], ANY), "temperature": NUMBER, "freq_penalty": NUMBER,
            "use_past_kv_cache": (True, *BOOL), "prepend_bos": (True, False, "no", 1, ANY),
            "padding_side": ("left", "right", 3, ANY), "return_type": ("texts", 3, None, ANY),
            "verbose": (True, *BOOL),
        },
    ),
    "to": ({"device": "cpu"}, {"print_details": BOOL}),
    "set_tokenizer": ({"tokenizer": None}, {"tokenizer": TOKENIZER}),
    "to_tokens": (
        {"input": "a"},
        {
            "input": (3, None, [], [1], ["a", 1], {}, TOKENS, ANY), "prepend_bos": MAYBE_BOOL,
            "padding_side": ("top", 3, ANY), "move_to_device": BOOL, "truncate": BOOL,
        },
    ),
    "to_string": (
        {"tokens": TOKENS}, {"tokens": (1.5, {}, None, "a", [0.5], [[1], [0.5]], [9999], [-1], TOKENS[None], ANY)},
    ),
    "to_str_tokens": (
        {"input": TOKENS[0]},
        {"input": (1.5, {}, None, [0.5], [[1], [0.5]], [9999], [-1], TOKENS, ANY), "prepend_bos": (True, "no", ANY)},
    ),
    "to_single_token": ({"string": "a"}, {"string": (3, None, "a b c", "", ["a"], TOKENS, ANY)}),
    "get_token_position": (
        {"single_token": int(TOKENS[0, 0]), "input": TOKENS[0]},
        {
            "single_token": (1.5, -1, True, None, [1], 9999, ANY), "mode": ("middle", 3, None, ANY),
            "input": (1.5, {}, None, [0.5], [9999], TOKENS, ANY), "prepend_bos": (True, False, "no", ANY),
        },
    ),
    "to_single_str_token": ({"int_token": 3}, {"int_token": ("a", 1.5, True, None, -1, 9999, [1], ANY)}),
    "run_with_cache": (
        {"input": TOKENS},
        {
            "return_cache_object": BOOL, "names_filter": NAME, "device": DEVICE, "remove_batch_dim": BOOL,
            "incl_bwd": BOOL, "reset_hooks_end": BOOL, "clear_contexts": BOOL, "pos_slice": SLICE,
        },
    ),
    "run_with_hooks": (
        {"input": TOKENS},
        {"fwd_hooks": HOOKS, "bwd_hooks": HOOKS, "reset_hooks_end": BOOL, "clear_contexts": BOOL},
    ),
    "hooks": ({}, {"fwd_hooks": HOOKS, "bwd_hooks": HOOKS, "reset_hooks_end": BOOL, "clear_contexts": BOOL}),
    "get_caching_hooks": (
        {},
        {
            "names_filter": NAME, "incl_bwd": BOOL, "device": DEVICE, "remove_batch_dim": BOOL,
            "cache": (3, [], "a", ANY), "pos_slice": ("a", 1.5, True, (0, 2, 0), ("a",), [], [0.5], [[1]], ANY),
        },
    ),
    "add_hook": (
        {"name": "hook_embed", "hook": keep},
        {
            "name": (*NAME, None), "hook": (3, None, "a", ANY), "dir": DIRECTION, "is_permanent": BOOL, "level": LEVEL,
            "prepend": BOOL,
        },
    ),
    "add_perma_hook": (
        {"name": "hook_embed", "hook": keep},
        {"name": (*NAME, None), "hook": (3, None, "a", ANY), "dir": DIRECTION},
    ),
    "reset_hooks": (
        {}, {"clear_contexts": BOOL, "direction": DIRECTION, "including_permanent": BOOL, "level": LEVEL},
    ),
    "list_hooks": ({}, {"name_filter": NAME, "dir": DIRECTION, "including_permanent": BOOL}),
    "remove_all_hook_fns": ({}, {"direction": DIRECTION, "including_permanent": BOOL, "level": LEVEL}),
    "why_silent": ({"name": "hook_embed"}, {"name": (*NAME, None)}),
    **{
        f"set_{switch}": ({switch: True}, {switch: BOOL})
        for switch in ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")
    },
    "all_composition_scores": ({"mode": "Q"}, {"mode": MODE}),
    "accumulated_bias": (
        {"layer": 1}, {"layer": (*INTEGER, -1, None), "mlp_input": BOOL, "include_mlp_biases": BOOL},
    ),
}  # fmt: skip
# They take the arguments of others, or none.
PASSES_ON = {"add_caching_hooks", "from_pretrained", "from_pretrained_no_processing"}
# Deprecated in TransformerLens, or its own way to the methods above.
INHERITED = {"cache_all", "cache_some", "check_and_add_hook", "check_hooks_to_add"}

CACHE_BOOLS = {
    "incl_mid", "apply_ln", "mlp_input", "return_labels", "incl_embeds", "incl_remainder", "expand_neurons",
    "has_batch_dim", "recompute_ln",
}  # fmt: skip
LAYER = ("1", 1.5, True, [1], LAYERS + 1, -2, ANY)
CACHE_VALUES = {
    **dict.fromkeys(CACHE_BOOLS, BOOL), "layer": LAYER, "mode": ("X", 3, None, ANY), "pos_slice": SLICE,
    "neuron_slice": SLICE, "batch_slice": SLICE, "project_output_onto": DIRECTIONS, "residual_stack": PART,
    "tokens": (*WRONG_TOKENS, None), "incorrect_tokens": (*WRONG_TOKENS, [3, 5, 7]),
    "activation_name": (3, None, "nothing", ANY), "sublayer_type": (3, [], ANY), "device": (*DEVICE, None),
    "batch_size": (1, 3, "2", 1.5, True, ANY),
}  # fmt: skip
CACHE: dict[str, dict[str, Any]] = {
    "accumulated_resid": {}, "decompose_resid": {}, "stack_head_results": {}, "get_full_resid_decomposition": {},
    "stack_activation": {"activation_name": "pattern"}, "get_neuron_results": {"layer": 1},
    "stack_neuron_results": {"layer": 1}, "apply_ln_to_stack": {"residual_stack": stream()[None]},
    "logit_attrs": {"residual_stack": stream()[None], "tokens": 3}, "apply_slice_to_batch_dim": {"batch_slice": 1},
    "remove_batch_dim": {}, "to": {"device": "cpu"},
}  # fmt: skip
# Without arguments, by position of a dictionary, with TransformerLens's own arguments, or refused in any form.
OTHER = {
    "compute_head_results", "keys", "values", "items", "logit_lens", "ssm_layers", "compute_ssm_state",
    "compute_ssm_effective_attention", "toggle_autodiff",
}  # fmt: skip
# Messages name a hook and its wrong point "hook", and inputs that are strings by what is wrong with these.
CALLED = {"name": "hook|name", "fwd_hooks": "fwd_hooks|hook", "bwd_hooks": "bwd_hooks|hook", "input": "input|tokens"}


def public(kind: type, until: type) -> Iterator[tuple[str, Callable]]:
    """The public methods that a class has beyond those of another."""
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if (not name.startswith("_") or name == "__init__") and getattr(until, name, None) is not method:
            yield name, method


def parameters(method: Callable) -> set[str]:
    """The names of the arguments that a method names."""
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name for name, each in inspect.signature(method).parameters.items() if each.kind not in several} - {"self"}


def test_the_tables_have_every_method_and_every_argument():
    for name, method in public(HookedTransformer, nn.Module):
        if parameters(method) and name not in PASSES_ON | INHERITED:
            assert parameters(method) == set(NETWORK[name][1]), name
    for name, _ in public(ActivationCache, object):
        assert name in CACHE or name in OTHER or name == "__init__", name
    for name in CACHE:
        assert parameters(getattr(ActivationCache, name)) <= set(CACHE_VALUES), name


def refused(attempt: Callable[[], Any], argument: str) -> None:
    """It raises a ValueError of one line that names the argument."""
    with pytest.raises(ValueError, match=rf"^({CALLED.get(argument, argument)})\b") as raised:
        attempt()
    assert "\n" not in str(raised.value)


WRONG = [
    pytest.param(method, argument, id=f"{method}-{argument}")
    for method, (_, arguments) in NETWORK.items()
    for argument in arguments
]


@pytest.mark.parametrize(("method", "argument"), WRONG)
def test_a_network_refuses_wrong_arguments_by_name(method: str, argument: str):
    right, wrong = NETWORK[method]
    model = network(d_vocab=V, d_vocab_out=V)
    model.set_tokenizer(speaker().tokenizer)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for value in wrong[argument]:
        given = dict(right) | {argument: value}
        if method == "__init__":
            refused(lambda given=given: HookedTransformer(**given), argument)
            continue
        positional = [given.pop("input")] if method in ("run_with_cache", "run_with_hooks") else []
        refused(lambda given=given, positional=positional: getattr(model, method)(*positional, **given), argument)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


CACHE_CASES = [
    pytest.param(method, argument, id=f"{method}-{argument}")
    for method in CACHE
    for argument in sorted(parameters(getattr(ActivationCache, method)))
]


@pytest.mark.parametrize(("method", "argument"), CACHE_CASES)
def test_a_cache_refuses_wrong_arguments_by_name(method: str, argument: str):
    wrong = CACHE_VALUES[argument]
    if (method, argument) == ("stack_activation", "layer"):
        wrong = (*wrong, 0)  # there is nothing to stack
    if (method, argument) == ("get_neuron_results", "layer"):
        wrong = ("1", 1.5, True, [1], LAYERS, -1 - LAYERS, None, ANY)
    for value in wrong:
        cache = ActivationCache(dict(cached().cache_dict), speaker())
        refused(lambda cache=cache, value=value: getattr(cache, method)(**CACHE[method] | {argument: value}), argument)


EMPTY: dict[str, Callable[[ActivationCache], Any]] = {
    "decompose_resid": lambda cache: cache.decompose_resid(1),
    "stack_head_results": lambda cache: cache.stack_head_results(1),
    "get_full_resid_decomposition": lambda cache: cache.get_full_resid_decomposition(1),
    "accumulated_resid": lambda cache: cache.accumulated_resid(1),
}


@pytest.mark.parametrize("method", EMPTY)
def test_a_cache_that_lacks_an_activation_says_which(method: str):
    cache = speaker().run_with_cache(TOKENS, names_filter="hook_embed")[1]
    with pytest.raises(ValueError, match=r"^cache: \w+ needs activations that it lacks \(blocks\.0\."):
        EMPTY[method](cache)


CALLS: dict[str, tuple[Callable[[ActivationCache], Any], str]] = {
    "no part": (lambda cache: cache.decompose_resid(0, incl_embeds=False), r"incl_embeds: False is not valid at"),
    "a LayerNorm that is not the last": (
        lambda cache: cache.apply_ln_to_stack(stream()[None], 1, recompute_ln=True), r"recompute_ln: True is not",
    ),
    "an MLP after the last layer": (
        lambda cache: cache.decompose_resid(LAYERS, mlp_input=True), r"layer: 2 is not valid with mlp_input.*0 to 1"),
    "several sequences as one": (lambda cache: cache.remove_batch_dim(), r"remove_batch_dim: it is not valid for 2"),
    "no state space": (lambda cache: cache.compute_ssm_state(), r"cache: this network has no state-space layers"),
    "positions of a lens": (lambda cache: cache.logit_lens(positions=99), r"positions: 99 is not valid; .* 0 to 4"),
    "a lens of nothing": (
        lambda cache: cache.logit_lens(colour=1),
        rf"logit_lens: it needs transformer_lens 4; {VERSION} is installed" if IS_3 else r"logit_lens: .*colour",
    ),
    "other shapes": (
        lambda cache: cache.logit_attrs(torch.zeros(1, 3, POS, 11), [3, 5]), r"residual_stack: \(1, 3, 5, 11\) does"),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
def test_a_call_that_has_no_meaning_is_refused(case: str):
    attempt, why = CALLS[case]
    with pytest.raises(ValueError, match=f"^{why}"):
        attempt(ActivationCache(dict(cached().cache_dict), speaker()))


# Every form that is taken


def forms(tensor: Tensor) -> list[Any]:
    """A tensor, and what stands for it."""
    return [tensor, tensor.numpy(), tensor.tolist(), [row.numpy() for row in tensor], list(tensor)]


MASKED = torch.ones(BATCH, POS, dtype=torch.bool)
MASKED[0, 3:] = False
SHORT = network(d_vocab=V, d_vocab_out=V, positional_embedding_type="shortformer")
ACCEPTED: dict[str, tuple[Tensor, Callable[[Any], Any]]] = {
    "input": (TOKENS, lambda given: speaker()(given)),
    "one input": (TOKENS[0], lambda given: speaker()(given)),
    "mask": (MASKED, lambda given: speaker()(TOKENS, attention_mask=given)),
    "mask of a loss": (MASKED, lambda given: speaker()(TOKENS, "loss", attention_mask=given)),
    "integer mask": (MASKED.int(), lambda given: speaker()(TOKENS, attention_mask=given)),
    "stream": (stream(), lambda given: speaker()(given, start_at_layer=1)),
    "tokens": (TOKENS, lambda given: speaker()(stream(), "loss", start_at_layer=1, tokens=given)),
    "positions": (
        SHORT.run_with_cache(TOKENS)[1]["hook_pos_embed"],
        lambda given: SHORT(stream(), start_at_layer=1, shortformer_pos_embed=given),
    ),
    "tokens of a loss": (TOKENS, lambda given: speaker().loss_fn(speaker()(TOKENS), given)),
    "logits": (speaker()(TOKENS), lambda given: speaker().loss_fn(given, TOKENS)),
    "one loss": (TOKENS[0], lambda given: speaker().loss_fn(speaker()(TOKENS[:1]), given)),
    "tokens to continue": (TOKENS, lambda given: speaker().generate(given, 2, do_sample=False)),
    "embedding": (TOKENS, lambda given: speaker().input_to_embed(given)[0]),
    "directions": (TOKENS[0], lambda given: speaker().tokens_to_residual_directions(given)),
    "parts": (stream()[None], lambda given: cached().logit_attrs(given, 3)),
    "tokens of parts": (TOKENS[0], lambda given: cached().logit_attrs(stream()[None], given)),
    "projection": (stream()[0, 0], lambda given: cached().stack_neuron_results(1, project_output_onto=given)),
    "slice": (torch.tensor([0, 2]), lambda given: cached().decompose_resid(1, pos_slice=given)),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("case", ACCEPTED)
def test_every_form_that_is_taken_gives_the_same(case: str):
    tensor, give = ACCEPTED[case]
    expected = give(tensor.detach())
    for form in forms(tensor.detach()):
        assert_close(give(form).to(expected), expected, 1e-6 if tensor.is_floating_point() else 0)


def test_numbers_of_numpy_are_taken():
    model, one = speaker(), np.int64(1)
    assert torch.equal(model(TOKENS, stop_at_layer=one), model(TOKENS, stop_at_layer=1))
    assert torch.equal(model.generate(TOKENS, one, do_sample=np.bool_(False)), model.generate(TOKENS, 1, top_k=one))
    assert torch.equal(model.accumulated_bias(torch.tensor(1)), model.accumulated_bias(1))
    assert torch.equal(cached().decompose_resid(one), cached().decompose_resid(1))


def test_strings_of_one_prompt_are_the_same_without_a_list():
    assert torch.equal(speaker()("a b"), speaker()(["a b"]))
    assert torch.equal(speaker()("a b"), speaker()(speaker().to_tokens("a b").tolist()))
    assert re.fullmatch(r"a b.*", speaker().generate("a b", 2), flags=re.DOTALL)
