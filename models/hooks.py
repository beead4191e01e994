"""Hooks and caches of a HookedTransformer, which refuse hook points that do not exist or cannot fire."""

from collections.abc import Callable, Mapping, Sequence, Set
from difflib import get_close_matches
from inspect import signature
from typing import Any, Literal

from torch import Tensor
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint, LensHandle
from transformer_lens.utilities import Slice

from headway.models.activation_cache import ActivationCache, position_axis, slice_positions
from headway.models.arguments import (
    as_int,
    check_bools,
    check_one_of,
    checked_device,
    checked_int,
    checked_slice,
    layers_between,
)
from headway.models.config import ModelConfig
from headway.options import shown

# A hook name, several, or a filter: a function from a name to a bool.
HookNames = str | Sequence[str] | Set[str] | Callable[[str], bool]
Hooks = Sequence[tuple[HookNames, Callable]]

# Hook points that fire only while a switch in cfg is on, and that switch.
_SWITCHED = {
    "hook_result": "use_attn_result",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_attn_in": "use_attn_in",
    "hook_mlp_in": "use_hook_mlp_in",
}

SWITCHES = ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")


def _checked_hooks(argument: str, hooks: Hooks) -> Hooks:
    """Return pairs of names and functions; refuse anything else."""
    if not isinstance(hooks, list | tuple):
        raise ValueError(f"{argument}: {shown(hooks)} is not valid; it must be a list of pairs (name, function)")
    for pair in hooks:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and callable(pair[1])):
            raise ValueError(f"{argument}: {shown(pair)} is not valid; it must be a pair (name, function)")
    return hooks


class CheckedHooks(HookedRootModule):
    """The methods of a HookedTransformer that read and replace activations."""

    cfg: ModelConfig

    def run_with_cache(
        self,
        *model_args: Any,
        return_cache_object: bool = True,
        names_filter: HookNames | None = None,
        device: Any = None,
        remove_batch_dim: bool = False,
        incl_bwd: bool = False,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        pos_slice: Any = None,
        **model_kwargs: Any,
    ) -> tuple[Any, Any]:
        """Return the output and an ActivationCache, or a dict of activations if ``return_cache_object`` is False.

        Args:
            *model_args: Arguments of ``forward``.
            return_cache_object: Whether the cache has TransformerLens's methods.
            names_filter: A hook name, several, or a function from a name to a bool; None caches every activation.
            device: Where the cache is kept; None keeps it where the network is.
            remove_batch_dim: Drop the batch axis of the activations of a single sequence.
            incl_bwd: Also cache the gradients of the output, which must be one number.
            reset_hooks_end: Remove the hooks at the end.
            clear_contexts: Clear what hooks have kept in their hook points.
            pos_slice: The positions to cache: a number, a tuple ``(start, stop)``, or a list.
            **model_kwargs: Arguments of ``forward``.

        Raises:
            ValueError: nothing is selected, or an activation that ``names_filter`` names is not computed.
        """
        check_bools(
            return_cache_object=return_cache_object,
            incl_bwd=incl_bwd,
            reset_hooks_end=reset_hooks_end,
            clear_contexts=clear_contexts,
        )
        self._check_computed(names_filter, "names_filter", model_args, model_kwargs)
        cache, forward, backward = self.get_caching_hooks(
            names_filter, incl_bwd, device, remove_batch_dim=remove_batch_dim, pos_slice=pos_slice
        )
        with self.hooks(forward, backward, reset_hooks_end, clear_contexts):
            output = self(*model_args, **model_kwargs)
            if incl_bwd:
                if not isinstance(output, Tensor) or output.numel() != 1:
                    raise ValueError("incl_bwd: True is not valid for this output; it needs one number, as of a loss")
                output.backward()
        if not return_cache_object:
            return output, cache
        return output, ActivationCache(cache, self, has_batch_dim=not remove_batch_dim)

    def run_with_hooks(
        self,
        *model_args: Any,
        fwd_hooks: Hooks = (),
        bwd_hooks: Hooks = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **model_kwargs: Any,
    ) -> Any:
        """Return the output of a forward pass with hooks, which are removed at its end.

        Args:
            *model_args: Arguments of ``forward``.
            fwd_hooks: Pairs of a hook name, several, or a filter, and a function of an activation and its hook point,
                which returns what replaces the activation, or None.
            bwd_hooks: The same for gradients. They need ``reset_hooks_end=False``, since backward comes later.
            reset_hooks_end: Remove the hooks at the end.
            clear_contexts: Clear what hooks have kept in their hook points.
            **model_kwargs: Arguments of ``forward``.

        Raises:
            ValueError: a hook that no hook point would call, also because start_at_layer or stop_at_layer skips it.
        """
        check_bools(reset_hooks_end=reset_hooks_end, clear_contexts=clear_contexts)
        for names, _ in (*_checked_hooks("fwd_hooks", fwd_hooks), *_checked_hooks("bwd_hooks", bwd_hooks)):
            self._check_computed(names, "hook", model_args, model_kwargs)
        hooks = {"fwd_hooks": list(fwd_hooks), "bwd_hooks": list(bwd_hooks)}
        return super().run_with_hooks(
            *model_args, **hooks, reset_hooks_end=reset_hooks_end, clear_contexts=clear_contexts, **model_kwargs
        )

    def hooks(
        self,
        fwd_hooks: Hooks = (),
        bwd_hooks: Hooks = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Any:
        """Add hooks for the duration of a context; raise a ValueError for one that no hook point would call."""
        check_bools(reset_hooks_end=reset_hooks_end, clear_contexts=clear_contexts)
        forward, backward = (
            [(name, hook) for names, hook in _checked_hooks(given, some) for name in self._names_or_filter(names)]
            for given, some in (("fwd_hooks", fwd_hooks), ("bwd_hooks", bwd_hooks))
        )
        return super().hooks(forward, backward, reset_hooks_end, clear_contexts)

    def get_caching_hooks(
        self,
        names_filter: HookNames | None = None,
        incl_bwd: bool = False,
        device: Any = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
        pos_slice: Any = None,
    ) -> tuple[dict[str, Tensor], list, list]:
        """Return a cache and the hooks that fill it, as in TransformerLens, for the hook points that can fire."""
        names = self._firing_names(names_filter, "names_filter")
        check_bools(incl_bwd=incl_bwd, remove_batch_dim=remove_batch_dim)
        checked_slice("pos_slice", pos_slice)
        position = as_int(pos_slice)
        # A single position keeps its axis.
        device, positions = checked_device(device), Slice.unwrap(pos_slice if position is None else position)
        if not isinstance(cache, dict | None):
            raise ValueError(f"cache: {shown(cache)} is not valid; it must be a dict, or None for a new one")
        cache = {} if cache is None else cache
        self.is_caching = True

        def save(name: str, activation: Tensor, axis: int) -> None:
            kept = activation.detach().to(device)
            if remove_batch_dim:
                if len(kept) != 1:
                    raise ValueError(f"remove_batch_dim: True is not valid for {len(kept)} sequences; it takes one")
                kept = kept[0]
            cache[name] = slice_positions(kept, positions, axis)

        def saving(name: str, ending: str = "") -> tuple[str, Callable]:
            return name, lambda value, hook: save(name + ending, value, position_axis(self.cfg, name))

        return cache, [saving(name) for name in names], [saving(name, "_grad") for name in names if incl_bwd]

    def add_caching_hooks(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Add the hooks of ``get_caching_hooks``, whose arguments this takes, and return the cache that they fill."""
        cache, forward, backward = self.get_caching_hooks(*args, **kwargs)
        for name, hook in forward:
            self.add_hook(name, hook)
        for name, hook in backward:
            self.add_hook(name, hook, dir="bwd")
        return cache

    def add_hook(
        self,
        name: HookNames,
        hook: Callable,
        dir: Literal["fwd", "bwd"] = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> None:
        """Add a hook that stays until ``reset_hooks``; raise a ValueError for one that no hook point would call."""
        check_one_of("dir", dir, ("fwd", "bwd"))
        check_bools(is_permanent=is_permanent, prepend=prepend)
        level = None if level is None else checked_int("level", level, 0)
        if not callable(hook):
            raise ValueError(f"hook: {shown(hook)} is not valid; it must be a function of an activation and its point")
        for one in self._names_or_filter(name):
            super().add_hook(one, hook, dir, is_permanent, level, prepend)

    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Remove hooks, those of one direction or one level of contexts if given; permanent ones stay unless asked."""
        check_bools(clear_contexts=clear_contexts)
        if clear_contexts:
            self.clear_contexts()
        self.remove_all_hook_fns(direction, including_permanent, level)
        self.is_caching = False

    def remove_all_hook_fns(
        self,
        direction: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Remove hooks as ``reset_hooks`` does, and keep what they have stored in their hook points."""
        check_one_of("direction", direction, ("fwd", "bwd", "both"))
        check_bools(including_permanent=including_permanent)
        super().remove_all_hook_fns(
            direction, including_permanent, None if level is None else checked_int("level", level, 0)
        )

    def list_hooks(
        self,
        name_filter: HookNames | None = None,
        dir: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = True,
    ) -> dict[str, list[LensHandle]]:
        """Return the hooks that there are, by hook name; those of some names, or of one direction, if given."""
        check_one_of("dir", dir, ("fwd", "bwd", "both"))
        check_bools(including_permanent=including_permanent)
        if name_filter is not None and not callable(name_filter):
            if not isinstance(name_filter, str | list | tuple | set | frozenset):
                raise ValueError(
                    f"name_filter: {shown(name_filter)} is not valid; it must be a name, names or a filter"
                )
            for name in [name_filter] if isinstance(name_filter, str) else name_filter:
                self._check_exists(name, "name_filter")
        return super().list_hooks(name_filter, dir, including_permanent)  # pyright: ignore[reportArgumentType]

    def _names_or_filter(self, names: HookNames) -> Sequence[str | Callable[[str], bool]]:
        """Return names one by one, and a filter as it is: its hook also fires at a point that is switched on later."""
        firing = self._firing_names(names, "hook")
        return [names] if callable(names) else firing

    def _firing_names(self, names: HookNames | None, argument: str) -> list[str]:
        """Return the selected hook points that can fire; raise a ValueError if a name, or a whole filter, has none."""
        if names is None and argument == "names_filter":
            return [name for name in self.hook_dict if not self.why_silent(name)]
        if callable(names):
            selected = [name for name in self.hook_dict if names(name)]
            firing = [name for name in selected if not self.why_silent(name)]
            if not firing and selected:
                raise ValueError(
                    f"{argument}: the filter selects only {selected[0]!r} and its like, "
                    f"which never fires {self.why_silent(selected[0])}"
                )
        elif isinstance(names, str | list | tuple | set | frozenset):
            firing = [names] if isinstance(names, str) else list(names)
            for name in firing:
                self._check_hook_name(name, argument)
        else:
            raise ValueError(f"{argument}: {names!r} is not valid; it must be a name, a list of names, or a filter")
        if not firing:
            some = ", ".join(list(self.hook_dict)[:3])
            asked = "the filter" if callable(names) else repr(names)
            raise ValueError(f"{argument}: {asked} selects no hook point; model.hook_dict lists all ({some}, ...)")
        return firing

    def _check_computed(
        self, names: HookNames | None, argument: str, model_args: Sequence[Any], model_kwargs: Mapping[str, Any]
    ) -> None:
        """Refuse a named hook point that ``forward`` skips, and a filter of which it skips every hook point."""
        firing = self._firing_names(names, argument)
        given = signature(type(self).forward).bind(self, *model_args, **model_kwargs).arguments
        start, stop = given.get("start_at_layer"), given.get("stop_at_layer")
        layers = layers_between(self.cfg, start, stop)

        def computed(name: str) -> bool:
            if name.startswith("blocks."):
                return int(name.split(".")[1]) in layers
            return start is None if name in ("hook_embed", "hook_pos_embed") else stop is None

        skipped = [name for name in firing if not computed(name)]
        if skipped and (len(skipped) == len(firing) or not (names is None or callable(names))):
            raise ValueError(
                f"{argument}: {skipped[0]!r} is not computed from start_at_layer to stop_at_layer; "
                "select a hook point between them"
            )

    def _check_hook_name(self, name: str, argument: str) -> None:
        self._check_exists(name, argument)
        why = self.why_silent(name)
        if why:
            raise ValueError(f"{argument}: {name!r} never fires {why}")

    def _check_exists(self, name: str, argument: str) -> None:
        if not isinstance(name, str) or not isinstance(self.mod_dict.get(name), HookPoint):
            nearest = get_close_matches(str(name), self.hook_dict, n=3) or list(self.hook_dict)[:3]
            raise ValueError(f"{argument}: {name!r} does not exist; near names are {', '.join(map(repr, nearest))}")

    def why_silent(self, name: str) -> str | None:
        """Return the reason why a hook point cannot fire, and how to switch it on, or None if it can fire."""
        self._check_exists(name, "name")
        point = name.rpartition(".")[2]
        if point == "hook_mlp_in" and self.cfg.attn_only:
            return "in an attn_only network, which has no MLP"
        if point == "hook_attn_input":
            on = [name for name in ("use_split_qkv_input", "use_attn_in") if getattr(self.cfg, name)]
            return f"while cfg.{on[0]} is True; call model.set_{on[0]}(False)" if on else None
        switch = _SWITCHED.get(point)
        if switch is None or getattr(self.cfg, switch):
            return None
        return f"while cfg.{switch} is False; call model.set_{switch}(True)"

    def _switch(self, **switch: bool) -> None:
        check_bools(**switch)
        for name, on in switch.items():
            setattr(self.cfg, name, bool(on))

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Toggle a separate output for each head, at ``attn.hook_result``."""
        self._switch(use_attn_result=use_attn_result)

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Toggle separate inputs for the queries, keys and values of each head, at ``hook_{q,k,v}_input``."""
        self._switch(use_split_qkv_input=use_split_qkv_input)

    def set_use_attn_in(self, use_attn_in: bool) -> None:
        """Toggle a separate input for each head, at ``hook_attn_in``."""
        self._switch(use_attn_in=use_attn_in)

    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Toggle a separate input for the MLP, at ``hook_mlp_in``."""
        check_bools(use_hook_mlp_in=use_hook_mlp_in)
        if use_hook_mlp_in and self.cfg.attn_only:
            raise ValueError("use_hook_mlp_in: True is not valid for an attn_only network; it has no MLP")
        self._switch(use_hook_mlp_in=use_hook_mlp_in)
