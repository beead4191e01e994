"""Hooks and caches select hook points that fire, by name, list or filter; a selection of nothing is an error."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_networks import BATCH, POS, SIZES, inputs_for, keep, network
from torch import Tensor

from headway.models.hooked_transformer import HookedTransformer

WAYS: dict[str, Callable[[HookedTransformer, Tensor, Any], Any]] = {
    "run_with_cache": lambda model, tokens, asked: model.run_with_cache(tokens, names_filter=asked),
    "get_caching_hooks": lambda model, tokens, asked: model.get_caching_hooks(asked),
    "add_caching_hooks": lambda model, tokens, asked: model.add_caching_hooks(asked),
    "run_with_hooks": lambda model, tokens, asked: model.run_with_hooks(tokens, fwd_hooks=[(asked, keep)]),
    "backward": lambda model, tokens, asked: model.run_with_hooks(tokens, bwd_hooks=[(asked, keep)]),
    "hooks": lambda model, tokens, asked: model.hooks(fwd_hooks=[(asked, keep)]).__enter__(),
    "add_hook": lambda model, tokens, asked: model.add_hook(asked, keep),
    "add_perma_hook": lambda model, tokens, asked: model.add_perma_hook(asked, keep),  # pyright: ignore[reportArgumentType]
}

Z, RESULT = "blocks.0.attn.hook_z", "blocks.0.attn.hook_result"
ASKED: dict[str, tuple[Any, str]] = {
    "a name that does not exist": ("blocks.0.attn.hook_zz", rf"'blocks.0.attn.hook_zz' does not exist; .*'{Z}'"),
    "a module that is no hook point": ("blocks.0.attn", r"'blocks.0.attn' does not exist; near names are 'blocks.0"),
    "a switched-off name": (RESULT, rf"'{RESULT}' never fires .*call model.set_use_attn_result\(True\)"),
    "a list with a wrong name": ([Z, "hook_emb"], r"'hook_emb' does not exist; near names are 'hook_embed'"),
    "a list with a switched-off name": ([Z, RESULT], rf"'{RESULT}' never fires .*set_use_attn_result\(True\)"),
    "an empty list": ([], r"\[\] selects no hook point; model.hook_dict lists all \(hook_embed, "),
    "a filter that selects nothing": (lambda name: False, r"the filter selects no hook point; model.hook_dict lists"),
    "a filter of switched-off points": (
        lambda name: name.endswith("hook_k_input"),
        r"the filter selects only 'blocks.0.hook_k_input' .* never fires .*set_use_split_qkv_input\(True\)",
    ),
    "a number": (3, r"3 is not valid; it must be a name, a list of names, or a filter"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asked", ASKED)
def test_a_selection_of_nothing_is_refused(way: str, asked: str):
    model = network()
    selection, why = ASKED[asked]
    with pytest.raises(ValueError, match=r"^(hook|names_filter): " + why) as raised:
        WAYS[way](model, inputs_for(model), selection)
    assert "\n" not in str(raised.value)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())
    assert not model.is_caching


def selects(asked: Any, name: str) -> bool:
    return bool(asked(name)) if callable(asked) else name in asked


@pytest.mark.parametrize(
    "asked",
    [Z, [Z], (Z, "hook_embed"), {Z}, lambda name: name in (Z, RESULT)],
    ids=["name", "list", "tuple", "set", "filter"],
)
def test_names_lists_and_filters_select_the_same_everywhere(asked: Any):
    model = network()
    tokens = inputs_for(model)
    names = [name for name in (Z, "hook_embed") if selects(asked, name)]
    assert set(model.run_with_cache(tokens, names_filter=asked)[1]) == set(names)
    fired: list[str] = []
    hook = (asked, lambda value, hook: fired.append(hook.name))
    model.run_with_hooks(tokens, fwd_hooks=[hook])
    model.add_hook(*hook)
    model(tokens)
    assert sorted(fired) == sorted(2 * names)
    model.reset_hooks()
    cache = model.add_caching_hooks(asked)
    model(tokens)
    assert set(cache) == set(names)


def test_points_fire_once_they_are_switched_on():
    model = network()
    for name in model.hook_dict:
        switch = {
            "hook_result": "use_attn_result", "hook_mlp_in": "use_hook_mlp_in", "hook_attn_in": "use_attn_in",
            **{f"hook_{x}_input": "use_split_qkv_input" for x in "qkv"},
        }.get(name.rpartition(".")[2])  # fmt: skip
        if switch is not None:
            with pytest.raises(ValueError, match=rf"{name}' never fires while cfg.{switch} is False"):
                model.run_with_cache(inputs_for(model), names_filter=name)
            getattr(model, f"set_{switch}")(True)
        assert set(model.run_with_cache(inputs_for(model), names_filter=name)[1]) == {name}
        if switch is not None:
            getattr(model, f"set_{switch}")(False)


def test_a_filter_also_hooks_points_that_are_switched_on_later():
    model = network()
    fired: list[str] = []
    model.add_hook(lambda name: name in (Z, RESULT), lambda value, hook: fired.append(hook.name))
    model(inputs_for(model))
    assert fired == [Z]
    model.set_use_attn_result(True)
    model(inputs_for(model))
    assert fired[1:] == [Z, RESULT]


def test_points_that_no_switch_can_wake_say_so():
    without_mlp = network(attn_only=True)
    with pytest.raises(ValueError, match=r"'blocks.0.hook_mlp_in' never fires in an attn_only network"):
        without_mlp.run_with_cache(inputs_for(without_mlp), names_filter="blocks.0.hook_mlp_in")
    shortformer = network(positional_embedding_type="shortformer")
    name = "blocks.1.attn.hook_attn_input"
    assert name in shortformer.run_with_cache(inputs_for(shortformer))[1]
    shortformer.set_use_split_qkv_input(True)
    with pytest.raises(ValueError, match=r"hook_attn_input' never fires .*call model.set_use_split_qkv_input\(False\)"):
        shortformer.run_with_cache(inputs_for(shortformer), names_filter=name)


def test_an_activation_beyond_the_last_layer_that_runs_is_not_cached():
    model = network()
    tokens = inputs_for(model)
    for asked in ("ln_final.hook_scale", ["hook_embed", "blocks.1.hook_resid_pre"], lambda name: "ln_final" in name):
        with pytest.raises(ValueError, match=r"names_filter: .* is not computed from start_at_layer to stop_at_layer"):
            model.run_with_cache(tokens, names_filter=asked, stop_at_layer=1)


def test_inputs_of_heads_are_cached_under_their_bridge_names_too():
    model = network()
    model.set_use_split_qkv_input(True)
    cache = model.run_with_cache(inputs_for(model), names_filter="blocks.1.attn.hook_k_input")[1]
    ours = model.run_with_cache(inputs_for(model), names_filter="blocks.1.hook_k_input")[1]
    assert torch.equal(cache["blocks.1.attn.hook_k_input"], ours["blocks.1.hook_k_input"])
    assert cache["blocks.1.attn.hook_k_input"].shape == (BATCH, POS, SIZES["n_heads"], SIZES["d_model"])
