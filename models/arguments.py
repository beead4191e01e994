"""Arguments of a HookedTransformer's forward pass: what it refuses, and inputs in the form that it computes with."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from headway.models.config import ModelConfig


def check_forward(
    cfg: ModelConfig,
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
    layers = layers_between(cfg, start_at_layer, stop_at_layer)
    if stop_at_layer is not None and has_loss:
        raise ValueError(f"return_type: {return_type!r} is not valid with stop_at_layer; it returns no logits")
    shortformer = cfg.positional_embedding_type == "shortformer"
    for name, value in (("tokens", tokens), ("shortformer_pos_embed", shortformer_pos_embed)):
        if value is not None and start_at_layer is None:
            raise ValueError(f"{name}: it is not valid without start_at_layer; the input says it")
    if shortformer_pos_embed is not None and not shortformer:
        raise ValueError("shortformer_pos_embed: it is not valid for this network; its positions are not shortformer")
    if shortformer and start_at_layer is not None and shortformer_pos_embed is None and layers.start < cfg.n_layers:
        raise ValueError(
            "shortformer_pos_embed: None is not valid with start_at_layer; it must be the cache's hook_pos_embed"
        )


def layers_between(cfg: ModelConfig, start_at_layer: int | None, stop_at_layer: int | None) -> range:
    """Return the layers that run; negative ones count from the end, as in a slice. Refuse those that do not exist.

    Example:
        >>> cfg = ModelConfig(n_layers=3, d_model=5, n_ctx=7, d_head=3, n_heads=2, d_vocab=11)
        >>> layers_between(cfg, None, 2), layers_between(cfg, -1, None)
        (range(0, 2), range(2, 3))
    """
    n_layers = cfg.n_layers
    for name, layer in (("start_at_layer", start_at_layer), ("stop_at_layer", stop_at_layer)):
        if layer is not None and not -n_layers <= layer <= n_layers:
            raise ValueError(f"{name}: {layer} is not valid; it must be {-n_layers} to {n_layers}")
    first, last, _ = slice(start_at_layer, stop_at_layer).indices(n_layers)
    if last < first:
        raise ValueError(f"stop_at_layer: {stop_at_layer} is not valid; it must be {start_at_layer} or more")
    return range(first, last)


def checked_input(cfg: ModelConfig, input: Tensor, dtype: torch.dtype) -> Tensor:
    """Return tokens or vectors with a batch axis, and tokens as int64; refuse any other type and shape."""
    tokens = cfg.input_type == "tokens"
    axes = f"integer tokens [batch, pos] from 0 to {cfg.d_vocab - 1}"
    if not tokens:
        axes = f"float vectors [batch, pos, {cfg.d_vocab}]"
    if input.ndim == (1 if tokens else 2):
        input = input[None]
    integer = not (input.is_floating_point() or input.is_complex() or input.dtype == torch.bool)
    fits = input.ndim == 2 and integer if tokens else input.ndim == 3 and input.is_floating_point()
    if not fits or not (tokens or input.shape[-1] == cfg.d_vocab):
        raise ValueError(f"input: {input.dtype} of shape {tuple(input.shape)} is not valid; this network takes {axes}")
    return input.long() if tokens else input.to(dtype)


def checked_mask(mask: Tensor, shape: Sequence[int]) -> Bool[Tensor, "batch pos"]:
    """Return an attention mask of any dtype as bool; refuse another shape, and values other than 0 and 1."""
    if mask.ndim == 1 and shape[0] == 1:
        mask = mask[None]
    if mask.shape != tuple(shape) or not ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            f"attention_mask: {mask.dtype} of shape {tuple(mask.shape)} is not valid; it must be 0 at padding and 1 "
            f"elsewhere, of shape {tuple(shape)}"
        )
    return mask.bool()


def integer_tokens(tokens: Any) -> Tensor:
    """Return tokens as a tensor; refuse numbers that are not integers."""
    found = torch.as_tensor(tokens)
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise ValueError(f"tokens: {found.dtype} is not valid; tokens are integers")
    return found.long()
