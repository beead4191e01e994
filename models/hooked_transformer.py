"""HookedTransformer: a small transformer in which hooks can read and replace every activation.

It builds on parts of TransformerLens (HookedRootModule, HookPoint, ActivationCache, FactoredMatrix, ProcessWeights) and
uses the names of TransformerLens's HookedTransformer for parameters, hooks, and the methods that notebooks call. It
leaves out what toy models do not need: rotary and grouped-query attention, pretrained weights.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple

import einops
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens import FactoredMatrix, HookedRootModule
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities import Slice, composition_scores, lm_cross_entropy_loss

from headway.data.seeds import generator
from headway.data.tokenizer import token_string
from headway.models.activation_cache import ActivationCache, position_axis, slice_positions
from headway.models.components import (
    Embed,
    LayerNormPre,
    PosEmbed,
    TransformerBlock,
    Unembed,
    has_hooks,
    normalization,
)
from headway.models.config import Head, ModelConfig
from headway.models.generation import Sampling, check_generates, continued
from headway.models.processing import process_weights

ReturnType = Literal["logits", "loss", "both"] | None
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


# What TransformerLens's class had, and what to do instead.
_PROCESSED = "call model.processed(...), which returns a copy"
_REPLACED = {
    **dict.fromkeys(("process_weights_", "fold_layer_norm", "center_writing_weights", "center_unembed"), _PROCESSED),
    **dict.fromkeys(("fold_value_biases", "refactor_factored_attn_matrices"), _PROCESSED),
    "set_ungroup_grouped_query_attention": "its heads share no keys",
    "move_model_modules_to_device": "call model.to(device)",
    "sample_datapoint": "take sequences from a task: task.batch(seed, index, batch_size)",
    "load_sample_training_dataset": "take sequences from a task: task.batch(seed, index, batch_size)",
    "tl_parameters": "call model.named_parameters()",
    "W_gate": "its MLPs have no gate",
    "generate_stream": "call model.generate(...)",
}


class Output(NamedTuple):
    """Output for ``return_type="both"``."""

    logits: Float[Tensor, "batch pos d_vocab_out"]
    loss: Tensor


def _checked_weights(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return weights without TransformerLens's buffers; refuse values that are not tensors, as in a checkpoint."""
    for name, value in state_dict.items():
        if not isinstance(value, Tensor):
            inside = f"; pass state_dict[{name!r}]" if isinstance(value, Mapping) else ""
            raise ValueError(f"state_dict: {name!r} is a {type(value).__name__}; it must be a tensor{inside}")
    return {name: value for name, value in state_dict.items() if not name.endswith((".attn.mask", ".attn.IGNORE"))}


def _integers(tokens: Any) -> Tensor:
    """Return tokens as a tensor; refuse numbers that are not integers."""
    found = torch.as_tensor(tokens)
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise ValueError(f"tokens: {found.dtype} is not valid; tokens are integers")
    return found.long()


def _checked_mask(mask: Tensor, shape: Sequence[int]) -> Bool[Tensor, "batch pos"]:
    """Return an attention mask of any dtype as bool; refuse another shape, and values other than 0 and 1."""
    if mask.ndim == 1 and shape[0] == 1:
        mask = mask[None]
    if mask.shape != tuple(shape) or not ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            f"attention_mask: {mask.dtype} of shape {tuple(mask.shape)} is not valid; it must be 0 at padding and 1 "
            f"elsewhere, of shape {tuple(shape)}"
        )
    return mask.bool()


class HookedTransformer(HookedRootModule):
    """Transformer with a hook point on every activation.

    For each layer: ``x = x + attn(ln1(x))``, then (unless attn_only) ``x = x + mlp(ln2(x))``; the output is
    ``ln_final(x) @ W_U + b_U``. Activations are row vectors, as in TransformerLens: ``x @ W``.

    Args:
        cfg: Configuration; the model keeps a copy.
        tokenizer: Hugging Face tokenizer, needed for strings only.
        seed: Seed of the initial weights, which are drawn from N(0, initializer_range²), independently of torch's
            global generator; biases are 0.

    Example:
        >>> cfg = ModelConfig(n_layers=2, d_model=11, n_ctx=7, d_head=5, n_heads=3, d_vocab=13)
        >>> model = HookedTransformer(cfg)
        >>> logits, cache = model.run_with_cache(torch.tensor([[1, 2, 3]]))
        >>> cache["pattern", 1].shape  # batch head query key
        torch.Size([1, 3, 3, 3])
    """

    blocks: Sequence[TransformerBlock]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, cfg: ModelConfig, tokenizer: Any = None, seed: int = 0):
        super().__init__()
        self.cfg = replace(cfg)
        self.tokenizer = tokenizer
        self.embed = Embed(self.cfg)
        self.hook_embed = HookPoint()
        if self.cfg.positional_embedding_type != "none":
            self.pos_embed = PosEmbed(self.cfg)
            self.hook_pos_embed = HookPoint()
        self.blocks = nn.ModuleList(TransformerBlock(self.cfg) for _ in range(self.cfg.n_layers))  # pyright: ignore[reportAttributeAccessIssue]
        if self.cfg.normalization_type is not None:
            self.ln_final = normalization(self.cfg, self.cfg.d_model)
        self.unembed = Unembed(self.cfg)
        self._record_device_and_dtype()
        self.init_weights(generator("init", seed))
        self.setup()

    @torch.no_grad()
    def init_weights(self, draws: torch.Generator) -> None:
        """Redraw every weight matrix from N(0, initializer_range²); biases and LayerNorms do not change."""
        for name, parameter in self.named_parameters():
            if name.rpartition(".")[2].startswith("W_"):
                parameter.copy_(torch.randn(parameter.shape, generator=draws) * self.cfg.initializer_range)

    def forward(
        self,
        input: str | list[str] | Tensor,
        return_type: ReturnType = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool = True,
        start_at_layer: int | None = None,
        tokens: Int[Tensor, "batch pos"] | None = None,
        shortformer_pos_embed: Float[Tensor, "batch pos d_model"] | None = None,
        attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
        stop_at_layer: int | None = None,
    ) -> Any:
        """Run the network.

        Args:
            input: Tokens ``[batch, pos]``, vectors ``[batch, pos, d_vocab]``, a string or a list of strings if the
                model has a tokenizer, or with ``start_at_layer`` a residual stream ``[batch, pos, d_model]``. No query
                attends to the padding of a list of strings, and no loss counts it.
            return_type: ``"logits"`` ``[batch, pos, d_vocab_out]``; ``"loss"``, the mean next-token cross-entropy in
                nats; ``"both"``; or None.
            loss_per_token: Return the loss of each token ``[batch, pos - 1]`` instead of its mean.
            prepend_bos: Start strings with the tokenizer's BOS token.
            start_at_layer: Skip the embedding and the blocks before this one.
            tokens: Tokens for the loss when ``start_at_layer`` is given.
            shortformer_pos_embed: Position embeddings when ``start_at_layer`` is given and positions are shortformer.
            attention_mask: 0 at padding, which no query attends to and which takes no position.
            stop_at_layer: Stop before this block and return the residual stream.

        Raises:
            ValueError: the network cannot take this input, an argument has no effect beside the others, or a loss has
                no tokens to predict.
        """
        self._check_arguments(return_type, loss_per_token, start_at_layer, stop_at_layer, tokens, shortformer_pos_embed)
        if isinstance(input, str | list):
            if start_at_layer is not None:
                raise ValueError("input: strings are not valid with start_at_layer; it must be a residual stream")
            input, padding = self._tokens_and_padding(input, prepend_bos)
            attention_mask = padding if attention_mask is None else attention_mask
        if not isinstance(input, Tensor):
            raise ValueError(f"input: {type(input).__name__} is not valid; it must be a tensor, or strings")
        if start_at_layer is None:
            input = self._checked_input(input)
            if self.cfg.input_type == "tokens":
                tokens = input
        elif input.ndim != 3 or input.shape[-1] != self.cfg.d_model:
            raise ValueError(
                f"input: the shape {tuple(input.shape)} is not valid with start_at_layer; "
                f"it must be [batch, pos, {self.cfg.d_model}]"
            )
        if attention_mask is not None:
            attention_mask = _checked_mask(attention_mask, input.shape[:2])
        if start_at_layer is None:
            residual, shortformer_pos_embed = self.input_to_embed(input, attention_mask)
        else:
            residual = input.to(self.W_E.dtype)
            if shortformer_pos_embed is not None:
                shortformer_pos_embed = shortformer_pos_embed.to(residual)
        # In a slice negative layers count from the end, as in TransformerLens.
        for block in list(self.blocks)[start_at_layer:stop_at_layer]:
            residual = block(residual, shortformer_pos_embed, attention_mask)
        if stop_at_layer is not None:
            return residual
        if self.cfg.normalization_type is not None:
            residual = self.ln_final(residual)
        if return_type is None:
            return None
        logits = self.unembed(residual)
        if return_type == "logits":
            return logits
        if tokens is None or self.cfg.input_type == "vectors":
            raise ValueError(
                f"return_type: {return_type!r} needs tokens to predict; "
                "for vectors, or with start_at_layer and no tokens, compute your own loss from the logits"
            )
        loss = self.loss_fn(logits, tokens, attention_mask, loss_per_token)
        return loss if return_type == "loss" else Output(logits, loss)

    def _check_arguments(
        self,
        return_type: str | None,
        loss_per_token: bool,
        start_at_layer: int | None,
        stop_at_layer: int | None,
        tokens: Tensor | None,
        shortformer_pos_embed: Tensor | None,
    ) -> None:
        """Refuse arguments of ``forward`` that are unknown, or that would have no effect."""
        if return_type not in ("logits", "loss", "both", None):
            raise ValueError(f"return_type: {return_type!r} is not one of logits, loss, both, None")
        has_loss = return_type in ("loss", "both")
        if loss_per_token and not has_loss:
            raise ValueError(f"loss_per_token: True is not valid with return_type {return_type!r}; it needs a loss")
        n_layers = self.cfg.n_layers
        for name, layer in (("start_at_layer", start_at_layer), ("stop_at_layer", stop_at_layer)):
            if layer is not None and not -n_layers <= layer <= n_layers:
                raise ValueError(f"{name}: {layer} is not valid; it must be {-n_layers} to {n_layers}")
        first, last = (
            n_layers if layer == n_layers else (layer or 0) % n_layers for layer in (start_at_layer, stop_at_layer)
        )
        if stop_at_layer is not None:
            if last < first:
                raise ValueError(f"stop_at_layer: {stop_at_layer} is not valid; it must be {start_at_layer} or more")
            if has_loss:
                raise ValueError(f"return_type: {return_type!r} is not valid with stop_at_layer; it returns no logits")
        shortformer = self.cfg.positional_embedding_type == "shortformer"
        for name, value in (("tokens", tokens), ("shortformer_pos_embed", shortformer_pos_embed)):
            if value is not None and start_at_layer is None:
                raise ValueError(f"{name}: it is not valid without start_at_layer; the input says it")
        if shortformer_pos_embed is not None and not shortformer:
            raise ValueError(
                "shortformer_pos_embed: it is not valid for this network; its positions are not shortformer"
            )
        if shortformer and start_at_layer is not None and shortformer_pos_embed is None and first < n_layers:
            raise ValueError(
                "shortformer_pos_embed: None is not valid with start_at_layer; it must be the cache's hook_pos_embed"
            )

    def _checked_input(self, input: Tensor) -> Tensor:
        """Return tokens or vectors with a batch axis, and tokens as int64; refuse any other type and shape."""
        tokens = self.cfg.input_type == "tokens"
        axes = f"integer tokens [batch, pos] from 0 to {self.cfg.d_vocab - 1}"
        if not tokens:
            axes = f"float vectors [batch, pos, {self.cfg.d_vocab}]"
        if input.ndim == (1 if tokens else 2):
            input = input[None]
        integer = not (input.is_floating_point() or input.is_complex() or input.dtype == torch.bool)
        fits = input.ndim == 2 and integer if tokens else input.ndim == 3 and input.is_floating_point()
        if not fits or not (tokens or input.shape[-1] == self.cfg.d_vocab):
            raise ValueError(
                f"input: {input.dtype} of shape {tuple(input.shape)} is not valid; this network takes {axes}"
            )
        return input.long() if tokens else input.to(self.W_E.dtype)

    def loss_fn(
        self,
        logits: Float[Tensor, "batch pos d_vocab_out"],
        tokens: Int[Tensor, "batch pos"],
        attention_mask: Tensor | None = None,
        per_token: bool = False,
    ) -> Tensor:
        """Return the mean next-token cross-entropy in nats, or with ``per_token`` that of each token [batch, pos - 1].

        Raises:
            ValueError: the shapes differ, a token has no logit, or no position predicts a token.

        Example:
            >>> model = HookedTransformer(ModelConfig(n_layers=1, d_model=5, n_ctx=7, d_head=3, n_heads=2, d_vocab=11))
            >>> model.loss_fn(torch.zeros(1, 2, 11), torch.tensor([[3, 7]])).item() == torch.tensor(11.0).log().item()
            True
        """
        if tokens.is_floating_point() or tokens.shape != logits.shape[:-1]:
            raise ValueError(
                f"tokens: {tokens.dtype} of shape {tuple(tokens.shape)} is not valid; "
                f"the loss needs integers of shape {tuple(logits.shape[:-1])}"
            )
        tokens, mask = tokens.to(logits.device).long(), attention_mask
        if mask is not None:
            mask = _checked_mask(mask, tokens.shape).to(logits.device)
        if not per_token and (
            tokens[:, 1:].numel() == 0 or (mask is not None and not (mask[:, 1:] & mask[:, :-1]).any())
        ):
            raise ValueError("loss: no position predicts a token; a sequence needs two tokens that are no padding")
        try:
            return lm_cross_entropy_loss(logits, tokens, mask, per_token)
        except (IndexError, RuntimeError):
            last = logits.shape[-1] - 1
            if 0 <= int(tokens.min()) <= int(tokens.max()) <= last:
                raise
            raise ValueError(f"tokens: some have no logit; the loss needs tokens from 0 to {last}") from None

    def input_to_embed(
        self, input: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"] | None]:
        """Return the first residual stream, and the position embeddings of shortformer (None for other kinds)."""
        batch, pos = input.shape[:2]
        if pos > self.cfg.n_ctx:
            raise ValueError(f"input: {pos} positions are not valid; n_ctx allows at most {self.cfg.n_ctx}")
        embed = self.hook_embed(self.embed(input))
        if self.cfg.positional_embedding_type == "none":
            return embed, None
        pos_embed = self.pos_embed(batch, pos, attention_mask)
        # A hook cannot write to an expanded view, so it gets a clone.
        pos_embed = self.hook_pos_embed(pos_embed.clone() if has_hooks(self.hook_pos_embed) else pos_embed)
        if self.cfg.positional_embedding_type == "standard":
            return embed + pos_embed, None
        return embed, pos_embed

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
        cache, forward, backward = self.get_caching_hooks(
            names_filter, incl_bwd, device, remove_batch_dim=remove_batch_dim, pos_slice=pos_slice
        )
        with self.hooks(forward, backward, reset_hooks_end, clear_contexts):
            output = self(*model_args, **model_kwargs)
            if incl_bwd:
                if not isinstance(output, Tensor) or output.numel() != 1:
                    raise ValueError("incl_bwd: True is not valid for this output; it needs one number, as of a loss")
                output.backward()
        named = [names_filter] if isinstance(names_filter, str) else [] if callable(names_filter) else names_filter
        missing = [name for name in named or [] if name not in cache]
        if missing or not cache:
            raise ValueError(
                f"names_filter: {missing[0] if missing else names_filter!r} is not computed from start_at_layer to "
                "stop_at_layer; select a hook point between them"
            )
        if not return_cache_object:
            return output, cache
        return output, ActivationCache(cache, self, has_batch_dim=not remove_batch_dim)

    def setup(self) -> None:
        """Name the hook points; the inputs of queries, keys and values also have their TransformerBridge names."""
        super().setup()
        for layer, block in enumerate(self.blocks):
            for x in "qkv":
                self.mod_dict[f"blocks.{layer}.attn.hook_{x}_input"] = getattr(block, f"hook_{x}_input")

    def hooks(self, fwd_hooks: Hooks = (), bwd_hooks: Hooks = (), *args: Any, **kwargs: Any) -> Any:
        """Add hooks for the duration of a context; raise a ValueError for one that no hook point would call."""
        forward, backward = (
            [(name, hook) for names, hook in some for name in self._names_or_filter(names)]
            for some in (fwd_hooks, bwd_hooks)
        )
        return super().hooks(forward, backward, *args, **kwargs)

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
        cache, positions = {} if cache is None else cache, Slice.unwrap(pos_slice)
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

    def add_hook(self, name: HookNames, *args: Any, **kwargs: Any) -> None:
        """Add a hook that stays until ``reset_hooks``; raise a ValueError for one that no hook point would call."""
        for one in self._names_or_filter(name):
            super().add_hook(one, *args, **kwargs)

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

    def _check_hook_name(self, name: str, argument: str) -> None:
        if not isinstance(name, str) or not isinstance(self.mod_dict.get(name), HookPoint):
            nearest = get_close_matches(str(name), self.hook_dict, n=3) or list(self.hook_dict)[:3]
            raise ValueError(f"{argument}: {name!r} does not exist; near names are {', '.join(map(repr, nearest))}")
        why = self.why_silent(name)
        if why:
            raise ValueError(f"{argument}: {name!r} never fires {why}")

    def why_silent(self, name: str) -> str | None:
        """Return the reason why a hook point cannot fire, and how to switch it on, or None if it can fire."""
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

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Toggle a separate output for each head, at ``attn.hook_result``."""
        self.cfg.use_attn_result = use_attn_result

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Toggle separate inputs for the queries, keys and values of each head, at ``hook_{q,k,v}_input``."""
        self.cfg.use_split_qkv_input = use_split_qkv_input

    def set_use_attn_in(self, use_attn_in: bool) -> None:
        """Toggle a separate input for each head, at ``hook_attn_in``."""
        self.cfg.use_attn_in = use_attn_in

    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Toggle a separate input for the MLP, at ``hook_mlp_in``."""
        if use_hook_mlp_in and self.cfg.attn_only:
            raise ValueError("use_hook_mlp_in: True is not valid for an attn_only network; it has no MLP")
        self.cfg.use_hook_mlp_in = use_hook_mlp_in

    def _apply(self, *args: Any, **kwargs: Any) -> "HookedTransformer":
        super()._apply(*args, **kwargs)
        self._record_device_and_dtype()
        return self

    def _record_device_and_dtype(self) -> None:
        self.cfg.device, self.cfg.dtype = str(self.W_E.device), self.W_E.dtype

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load weights; ignore the mask buffers that TransformerLens's HookedTransformer stores with them.

        Raises:
            ValueError: the values are not tensors, or (unless ``strict=False``) not those of this network by name and
                shape.
        """
        weights = _checked_weights(state_dict)
        try:
            return super().load_state_dict(weights, *args, **kwargs)
        except RuntimeError as error:
            raise ValueError(f"state_dict: it is not this network's; {' '.join(str(error).split())}") from None

    def processed(
        self,
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool | None = None,
        fold_value_biases: bool = True,
        refactor_factored_attn_matrices: bool = False,
    ) -> "HookedTransformer":
        """Return a copy with simpler weights that computes the same function, with the same switches on.

        LayerNorm weights are folded into the weights that read them, weights that write to the residual stream are
        centred (a LayerNorm removes their component along the all-ones vector), and b_V is folded into b_O. By default
        the unembedding is centred for tokens, where this shifts all logits equally, and not for vectors, where it would
        change the output.

        Raises:
            ValueError: LayerNorm is folded with shortformer positions (they are added after ln1, so this would change
                the function), or the unembedding of a network that predicts vectors is centred.
        """
        copy = HookedTransformer(self.cfg, self.tokenizer).to(self.W_E)
        for switch in SWITCHES:
            setattr(copy.cfg, switch, getattr(self.cfg, switch))
        copy.load_and_process_state_dict(
            self.state_dict(),
            fold_ln,
            center_writing_weights,
            self.cfg.input_type == "tokens" if center_unembed is None else center_unembed,
            fold_value_biases,
            refactor_factored_attn_matrices,
        )
        return copy.train(self.training)

    def load_and_process_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        fold_value_biases: bool = True,
        refactor_factored_attn_matrices: bool = False,
    ) -> None:
        """Load weights and simplify them in place, as TransformerLens does; ``processed`` does this for a copy."""
        folds = fold_ln and self.cfg.normalization_type == "LN"
        weights = _checked_weights(state_dict)
        if missing := sorted(set(self.state_dict()) - set(weights)):
            raise ValueError(f"state_dict: {missing[0]!r} is missing; it must hold every weight of this network")
        processed = process_weights(
            weights,
            self.cfg,
            folds,
            center_writing_weights,
            center_unembed,
            fold_value_biases,
            refactor_factored_attn_matrices,
        )
        if folds:
            self._drop_ln_weights()
        self.load_state_dict(processed)

    def _drop_ln_weights(self) -> None:
        """Replace each LayerNorm with a LayerNormPre."""
        self.cfg.normalization_type = "LNPre"
        self.ln_final = LayerNormPre(self.cfg)
        for block in self.blocks:
            block.ln1 = LayerNormPre(self.cfg)
            if not self.cfg.attn_only:
                block.ln2 = LayerNormPre(self.cfg)
                if self.cfg.act_fn == "solu_ln":
                    block.mlp.ln = LayerNormPre(self.cfg)
        self.setup()

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Embedding matrix."""
        return self.embed.W_E

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """Position embedding matrix; a ValueError if positional_embedding_type is none."""
        if self.cfg.positional_embedding_type == "none":
            raise ValueError("W_pos: this network has no positions (positional_embedding_type is none)")
        return self.pos_embed.W_pos

    @property
    def W_E_pos(self) -> Float[Tensor, "d_vocab_and_n_ctx d_model"]:
        """Embedding and position embedding matrices, stacked along the rows."""
        return torch.cat([self.W_E, self.W_pos])

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab_out"]:
        """Unembedding matrix."""
        return self.unembed.W_U

    @property
    def b_U(self) -> Float[Tensor, "d_vocab_out"]:
        """Unembedding bias."""
        return self.unembed.b_U

    def _stacked(self, part: str, name: str) -> Float[Tensor, "layer *shape"]:
        return torch.stack([getattr(getattr(block, part), name) for block in self.blocks])

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Query weights of every layer."""
        return self._stacked("attn", "W_Q")

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Key weights of every layer."""
        return self._stacked("attn", "W_K")

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Value weights of every layer."""
        return self._stacked("attn", "W_V")

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """Output weights of every layer."""
        return self._stacked("attn", "W_O")

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        """Query biases of every layer."""
        return self._stacked("attn", "b_Q")

    @property
    def b_K(self) -> Float[Tensor, "layer head d_head"]:
        """Key biases of every layer."""
        return self._stacked("attn", "b_K")

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:
        """Value biases of every layer."""
        return self._stacked("attn", "b_V")

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:
        """Output biases of every layer's attention."""
        return self._stacked("attn", "b_O")

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """MLP input weights of every layer."""
        return self._stacked("mlp", "W_in")

    @property
    def b_in(self) -> Float[Tensor, "layer d_mlp"]:
        """MLP input biases of every layer."""
        return self._stacked("mlp", "b_in")

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        """MLP output weights of every layer."""
        return self._stacked("mlp", "W_out")

    @property
    def b_out(self) -> Float[Tensor, "layer d_model"]:
        """MLP output biases of every layer."""
        return self._stacked("mlp", "b_out")

    @property
    def OV(self) -> FactoredMatrix:
        """W_V @ W_O of every head, ``[layer, head, d_model, d_model]``."""
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q @ W_K.T of every head, ``[layer, head, d_model, d_model]``."""
        return FactoredMatrix(self.W_Q, einops.rearrange(self.W_K, "l h d_model d_head -> l h d_head d_model"))

    def all_composition_scores(self, mode: Literal["Q", "K", "V"]) -> Float[Tensor, "layer head layer head"]:
        """Return the composition scores of all pairs of heads, 0 unless the first is in an earlier layer.

        ``‖L R‖ / (‖L‖ ‖R‖)`` with L = W_OV of the first head and R = W_QK, W_QK.T or W_OV of the second, as in
        ``q_composition``, ``k_composition`` and ``v_composition``, which also give their nulls.

        Raises:
            ValueError: a mode other than Q, K and V.
        """
        if mode not in ("Q", "K", "V"):
            raise ValueError(f"mode: {mode!r} is not one of Q, K, V")
        right = {"Q": self.QK, "K": self.QK.T, "V": self.OV}[mode]
        scores = composition_scores(self.OV, right, broadcast_dims=True)
        layers = torch.arange(self.cfg.n_layers, device=scores.device)
        earlier = layers[:, None, None, None] < layers[None, None, :, None]
        return scores.where(earlier, 0)

    def generate(
        self,
        input: str | list[str] | Int[Tensor, "batch pos"] = "",
        max_new_tokens: int = 10,
        stop_at_eos: bool | None = None,
        eos_token_id: int | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        freq_penalty: float = 0.0,
        use_past_kv_cache: bool = False,
        prepend_bos: bool | None = True,
        padding_side: Literal["left"] | None = None,
        return_type: Literal["input", "str", "tokens"] = "input",
        verbose: bool = False,
    ) -> Any:
        """Continue sequences by sampling from torch's global generator, or greedily with ``do_sample=False``.

        Args:
            input: Tokens, a string, or a list of strings, which are padded on the left.
            max_new_tokens: Number of tokens to add at most.
            stop_at_eos: Stop a sequence at the end token; None means if there is one.
            eos_token_id: The end token; by default that of the tokenizer.
            do_sample: Sample, or take the most likely token.
            top_k: Sample among this many most likely tokens.
            top_p: Sample among the most likely tokens that have this probability together.
            temperature: Divide the logits by this; 0 takes the most likely token.
            freq_penalty: Subtract this from a token's logit for each time that it has occurred.
            use_past_kv_cache: Must be False: each step runs the whole network, and keys and values are not kept.
            prepend_bos: Start strings with the tokenizer's BOS token.
            padding_side: Must be left, so that new tokens follow each string.
            return_type: ``"tokens"`` ``[batch, pos]``, ``"str"``, or ``"input"``: the type of the input.
            verbose: Must be False: there is no progress bar.

        Raises:
            ValueError: an argument is not valid, the network does not predict its own tokens, or n_ctx is too small.

        Example:
            >>> from headway.models.handmade import previous_token_head
            >>> model, batch = previous_token_head()
            >>> model.generate(batch.inputs[:1, :3], max_new_tokens=2, do_sample=False).shape
            torch.Size([1, 5])
        """
        check_generates(self.cfg)
        sampling = Sampling(do_sample, top_k, top_p, temperature, freq_penalty)
        sampling.check()
        strings = isinstance(input, str | list)
        for name, value, valid in (
            ("use_past_kv_cache", use_past_kv_cache, (False,)),
            ("padding_side", padding_side, ("left", None)),
            ("return_type", return_type, ("input", "str", "tokens")),
            ("verbose", verbose, (False,)),
        ):
            if value not in valid:
                raise ValueError(f"{name}: {value!r} is not one of {', '.join(map(repr, valid))}")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: {max_new_tokens} is not valid; it must be at least 1")
        if strings:
            tokens, mask = self._tokens_and_padding(input, prepend_bos, "left")
        else:
            tokens, mask = self._checked_input(input), None
        longest = tokens.shape[1] + max_new_tokens
        if tokens.numel() == 0:
            raise ValueError("input: it has no token to continue; give one, or a tokenizer that has a BOS token")
        if longest > self.cfg.n_ctx:
            raise ValueError(
                f"max_new_tokens: {max_new_tokens} is not valid after {tokens.shape[1]} positions; "
                f"n_ctx allows {self.cfg.n_ctx} together"
            )
        eos = getattr(self.tokenizer, "eos_token_id", None) if eos_token_id is None else eos_token_id
        if stop_at_eos and eos is None:
            raise ValueError("stop_at_eos: True is not valid without an end token; give eos_token_id")
        found = continued(self, tokens, mask, max_new_tokens, sampling, None if stop_at_eos is False else eos)
        if return_type == "tokens" or (return_type == "input" and not strings):
            return found
        texts = [self._needs_tokenizer().decode(row, skip_special_tokens=True) for row in found]
        return texts[0] if isinstance(input, str) else texts

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse: pretrained language models are TransformerBridges."""
        raise ValueError(
            "from_pretrained: this class has no pretrained weights; call headway.models.convert.load_bridge(name)"
        )

    from_pretrained_no_processing = from_pretrained

    def __getattr__(self, name: str) -> Any:
        """Say what replaces a part of TransformerLens's class that this one leaves out."""
        if name in _REPLACED:
            raise AttributeError(f"HookedTransformer has no {name!r}; {_REPLACED[name]}")
        return super().__getattr__(name)

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, "d_model"]:
        """Return the sum of the biases that are written before ``layer`` (b_O, and b_out unless excluded).

        With ``mlp_input`` the sum includes b_O of this layer: it is the bias in what the MLP of this layer reads.
        """
        if not 0 <= layer <= self.cfg.n_layers - mlp_input:
            raise ValueError(f"layer: {layer} is not valid; it must be 0 to {self.cfg.n_layers - mlp_input}")
        bias = self.b_O[: layer + mlp_input].sum(0)
        if include_mlp_biases and not self.cfg.attn_only:
            bias = bias + self.b_out[:layer].sum(0)
        return bias

    def all_head_labels(self) -> list[str]:
        """Return the names of all heads, ``L0H0``, ``L0H1``, …, layer by layer."""
        return [str(Head(layer, head)) for layer in range(self.cfg.n_layers) for head in range(self.cfg.n_heads)]

    def tokens_to_residual_directions(self, tokens: str | int | Tensor) -> Float[Tensor, "*shape d_model"]:
        """Return the column of W_U for each token: the residual stream times this column is the token's logit.

        Without folding, the weights of ln_final come in between: use ``processed()`` first.
        """
        if isinstance(tokens, str):
            tokens = self.to_single_token(tokens)
        found = _integers(tokens)
        last = self.cfg.d_vocab_out - 1
        if found.numel() and not 0 <= int(found.min()) <= int(found.max()) <= last:
            raise ValueError(f"tokens: {found.tolist()} are not valid; the columns of W_U are 0 to {last}")
        if found.numel() == 1:
            return self.W_U[:, int(found)]
        return einops.rearrange(self.W_U[:, found], "d_model ... -> ... d_model")

    def set_tokenizer(self, tokenizer: Any) -> None:
        """Set the Hugging Face tokenizer that converts strings."""
        self.tokenizer = tokenizer

    def _needs_tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise ValueError(
                "tokenizer: None is not valid for strings; call model.set_tokenizer(...) with a Hugging Face tokenizer"
            )
        return self.tokenizer

    def to_tokens(
        self,
        input: str | list[str],
        prepend_bos: bool | None = True,
        padding_side: Literal["left", "right"] | None = None,
        move_to_device: bool = True,
        truncate: bool = True,
    ) -> Int[Tensor, "batch pos"]:
        """Convert strings to tokens, padded to the longest and (with ``truncate``) cut at n_ctx.

        Args:
            input: A string or a list of strings.
            prepend_bos: Start each with the tokenizer's BOS token; None means True.
            padding_side: ``"right"`` (None means this), so that positions mean the same in each row, or ``"left"``.
            move_to_device: Put the tokens where the network is.
            truncate: Cut each row at n_ctx.

        Raises:
            ValueError: no tokenizer, no string, or strings of different lengths and no padding token.
        """
        rows = self._rows_of_tokens(input, prepend_bos, truncate)
        if padding_side not in ("left", "right", None):
            raise ValueError(f"padding_side: {padding_side!r} is not one of left, right")
        length, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        if any(len(row) < length for row in rows) and pad is None:
            raise ValueError("input: strings of different lengths need padding; set tokenizer.pad_token")
        paddings = [[pad] * (length - len(row)) for row in rows]
        left = padding_side == "left"
        padded = [padding + row if left else row + padding for row, padding in zip(rows, paddings, strict=True)]
        return torch.tensor(padded, dtype=torch.long, device=self.cfg.device if move_to_device else None)

    def _rows_of_tokens(
        self, input: str | list[str], prepend_bos: bool | None = True, truncate: bool = True
    ) -> list[list[int]]:
        tokenizer = self._needs_tokenizer()
        texts = [input] if isinstance(input, str) else list(input)
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"input: {input!r} is not valid; it must be a string or a list of at least one string")
        bos = [tokenizer.bos_token_id] if prepend_bos is not False and tokenizer.bos_token_id is not None else []
        rows = [bos + tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return [row[: self.cfg.n_ctx] for row in rows] if truncate else rows

    def _tokens_and_padding(
        self, input: str | list[str], prepend_bos: bool | None, padding_side: Literal["left", "right"] = "right"
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"] | None]:
        """Return the tokens of strings, and a mask that is False at padding, or None if there is none."""
        tokens = self.to_tokens(input, prepend_bos, padding_side)
        lengths = torch.tensor([len(row) for row in self._rows_of_tokens(input, prepend_bos)], device=tokens.device)
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        real = real.flip(1) if padding_side == "left" else real
        return tokens, None if real.all() else real

    def to_string(self, tokens: Int[Tensor, "..."] | np.ndarray | list) -> str | list[str]:
        """Convert tokens to a string, or a batch of tokens to a list of strings."""
        if isinstance(tokens, list) and any(isinstance(row, list | np.ndarray | Tensor) and len(row) for row in tokens):
            return [str(self.to_string(row)) for row in tokens]
        found = _integers(tokens)
        decode = self._needs_tokenizer().decode
        if found.ndim > 2:
            raise ValueError(f"tokens: the shape {tuple(found.shape)} is not valid; it must be [pos] or [batch, pos]")
        return [decode(row) for row in found] if found.ndim == 2 else decode(found)

    def to_str_tokens(
        self, input: str | Int[Tensor, "..."] | np.ndarray | list, prepend_bos: bool | None = True
    ) -> list[str] | list[list[str]]:
        r"""Split a string or one sequence of tokens into token strings; for a list of inputs, return a list of lists.

        A token that is only a part of a character is shown by its bytes, such as ``\xe6``.
        """
        if isinstance(input, list) and not all(isinstance(item, int) for item in input):
            return [self.to_str_tokens(item, prepend_bos) for item in input]  # pyright: ignore[reportReturnType]
        tokens = self.to_tokens(input, prepend_bos)[0] if isinstance(input, str) else _integers(input)
        if tokens.ndim == 2 and len(tokens) == 1:
            tokens = tokens[0]
        if tokens.ndim > 1:
            raise ValueError(
                f"input: tokens of shape {tuple(tokens.shape)} are not valid; give one sequence, or a list of them"
            )
        return [token_string(self._needs_tokenizer(), token) for token in tokens.flatten().tolist()]

    def to_single_token(self, string: str) -> int:
        """Return the token of ``string``; raise a ValueError if it is not exactly one token."""
        tokens = self.to_tokens(string, prepend_bos=False)
        if tokens.numel() != 1:
            raise ValueError(f"string: {string!r} is {tokens.numel()} tokens; it must be one")
        return int(tokens)

    def get_token_position(
        self,
        single_token: str | int,
        input: str | Int[Tensor, "..."],
        mode: Literal["first", "last"] = "first",
        prepend_bos: bool | None = True,
    ) -> int:
        """Return the first or last position of a token in a string or one sequence of tokens.

        Raises:
            ValueError: the token does not occur, or the mode is neither first nor last.
        """
        if mode not in ("first", "last"):
            raise ValueError(f"mode: {mode!r} is not one of first, last")
        tokens = self.to_tokens(input, prepend_bos)[0] if isinstance(input, str) else _integers(input)
        if tokens.ndim == 2 and len(tokens) == 1:
            tokens = tokens[0]
        token = self.to_single_token(single_token) if isinstance(single_token, str) else int(single_token)
        found = (tokens == token).nonzero().flatten().tolist()
        if tokens.ndim != 1 or not found:
            raise ValueError(f"single_token: {single_token!r} does not occur; input must be one sequence that has it")
        return found[0] if mode == "first" else found[-1]

    def to_single_str_token(self, int_token: int) -> str:
        """Return the string of one token."""
        return token_string(self._needs_tokenizer(), int_token)
