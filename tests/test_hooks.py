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


SKIPPED: dict[str, tuple[Any, dict[str, int], str]] = {
    "after the last block": ("ln_final.hook_scale", {"stop_at_layer": 2}, "ln_final.hook_scale"),
    "the block where it stops": ("blocks.1.hook_resid_pre", {"stop_at_layer": 1}, "blocks.1.hook_resid_pre"),
    "counted from the end": ("blocks.1.hook_resid_pre", {"stop_at_layer": -1}, "blocks.1.hook_resid_pre"),
    "one of a list": (["hook_embed", "blocks.1.attn.hook_z"], {"stop_at_layer": 1}, "blocks.1.attn.hook_z"),
    "all of a filter": (lambda name: "ln_final" in name, {"stop_at_layer": 1}, "ln_final.hook_scale"),
    "the embedding": ("hook_pos_embed", {"start_at_layer": 0}, "hook_pos_embed"),
    "a block before the first": (Z, {"start_at_layer": 1}, Z),
}


ONE_PASS: dict[str, Callable[[HookedTransformer, Tensor, Any, Any], Any]] = {
    "run_with_cache": lambda model, given, asked, layers: model.run_with_cache(given, names_filter=asked, **layers),
    "forward": lambda model, given, asked, layers: model.run_with_hooks(given, fwd_hooks=[(asked, keep)], **layers),
    "backward": lambda model, given, asked, layers: model.run_with_hooks(given, bwd_hooks=[(asked, keep)], **layers),
}


@pytest.mark.parametrize("way", ONE_PASS)
@pytest.mark.parametrize("case", SKIPPED)
def test_a_point_that_the_forward_pass_skips_is_refused_by_name(way: str, case: str):
    model = network()
    asked, layers, name = SKIPPED[case]
    given = inputs_for(model)
    if "start_at_layer" in layers:
        given = model(given, stop_at_layer=layers["start_at_layer"])
    why = rf"^(hook|names_filter): '{name}' is not computed from start_at_layer to stop_at_layer; select "
    with pytest.raises(ValueError, match=why):
        ONE_PASS[way](model, given, asked, layers)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())
    assert not model.is_caching


@pytest.mark.parametrize("layers", [{}, {"stop_at_layer": 1}, {"stop_at_layer": 2}, {"stop_at_layer": 0}], ids=str)
def test_every_point_is_either_refused_or_fires(layers: dict[str, Any]):
    model = network()
    fired: list[str] = []
    for name in (name for name in model.hook_dict if not model.why_silent(name)):
        hook = (name, lambda value, hook: fired.append(hook.name))
        fired.clear()
        try:
            model.run_with_hooks(inputs_for(model), fwd_hooks=[hook], **layers)
        except ValueError:
            assert name not in model.run_with_cache(inputs_for(model), **layers)[1]
        else:
            assert fired == [name]


def test_a_filter_may_select_points_that_are_skipped_beside_others():
    model = network()
    fired: list[str] = []
    hook = (lambda name: name.endswith("hook_z"), lambda value, hook: fired.append(hook.name))
    model.run_with_hooks(inputs_for(model), fwd_hooks=[hook], stop_at_layer=1)
    assert fired == [Z]


def test_inputs_of_heads_are_cached_under_their_bridge_names_too():
    model = network()
    model.set_use_split_qkv_input(True)
    cache = model.run_with_cache(inputs_for(model), names_filter="blocks.1.attn.hook_k_input")[1]
    ours = model.run_with_cache(inputs_for(model), names_filter="blocks.1.hook_k_input")[1]
    assert torch.equal(cache["blocks.1.attn.hook_k_input"], ours["blocks.1.hook_k_input"])
    assert cache["blocks.1.attn.hook_k_input"].shape == (BATCH, POS, SIZES["n_heads"], SIZES["d_model"])
