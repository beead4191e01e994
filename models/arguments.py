"""Arguments of a HookedTransformer's methods: what they refuse, and inputs in the form that the network computes with.

Numbers come as Python's or numpy's, tokens, vectors and masks as tensors, numpy arrays or lists of numbers.
"""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from transformer_lens.utilities import Slice

from headway.models.config import ModelConfig
from headway.options import shown

# Tokens, vectors, a mask or positions, as a tensor or in another form that becomes one.
ArrayLike = Tensor | np.ndarray | Sequence[Any]


def check_one_of(name: str, value: Any, valid: Sequence[Any]) -> None:
    """Refuse a value that is not one of these, by type too: 1 is not True.

    Example:
        >>> check_one_of("mode", "X", ["Q", "K"])
        Traceback (most recent call last):
        ValueError: mode: 'X' is not one of Q, K
    """
    if not any(value is each or (type(value) is type(each) and value == each) for each in valid):
        raise ValueError(f"{name}: {shown(value)} is not one of {', '.join(map(str, valid))}")


def check_bools(**values: Any) -> None:
    """Refuse values other than True and False, by their names."""
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name}: {shown(value)} is not one of True, False")


def as_int(value: Any) -> int | None:
    """Return a whole number of Python, numpy or torch as an int, or None for any other value, such as 1.0 or True.

    Example:
        >>> as_int(np.int64(3)), as_int(torch.tensor(3)), as_int(3.0), as_int(True)
        (3, 3, None, None)
    """
    if isinstance(value, Tensor) and value.ndim == 0 and not is_not_integer(value):
        return int(value)
    if isinstance(value, np.ndarray) and value.ndim == 0 and np.issubdtype(value.dtype, np.integer):
        return int(value)
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def checked_int(name: str, value: Any, first: int, last: float = math.inf) -> int:
    """Return a whole number from ``first`` to ``last`` as an int; refuse any other value, such as 1.0 or True.

    Example:
        >>> checked_int("layer", np.int64(1), 0, 2)
        1
        >>> checked_int("layer", 3, 0, 2)
        Traceback (most recent call last):
        ValueError: layer: 3 is not valid; it must be 0 to 2
    """
    found = as_int(value)
    if found is None or not first <= found <= last:
        span = f"at least {first}" if last == math.inf else f"{first} to {last}"
        raise ValueError(f"{name}: {shown(value)} is not valid; it must be {span}")
    return found


def check_number(name: str, value: Any) -> None:
    """Refuse a value that is not a number, or that is negative or not finite."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not 0 <= float(value) < math.inf:
        raise ValueError(f"{name}: {shown(value)} is not valid; it must be a finite number of 0 or more")


def is_not_integer(tensor: Tensor) -> bool:
    """Return whether the elements of a tensor are bools, or have a fraction or an imaginary part."""
    return tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool


def as_tensor(name: str, value: Any, what: str) -> Tensor:
    """Return a tensor, a numpy array, a number or a list of numbers as a tensor; refuse anything else.

    Example:
        >>> as_tensor("tokens", [[1, 2]], "tokens").shape
        torch.Size([1, 2])
        >>> as_tensor("tokens", "a", "tokens")
        Traceback (most recent call last):
        ValueError: tokens: 'a' is not valid; it must be tokens, as a tensor, an array or a list
    """
    if isinstance(value, Tensor):
        return value
    try:
        if isinstance(value, list | tuple) and value and all(isinstance(each, Tensor) for each in value):
            return torch.stack(list(value))
        if isinstance(value, list | tuple) and any(isinstance(each, np.ndarray) for each in value):
            return torch.as_tensor(np.asarray(value))
        if isinstance(value, np.ndarray | np.generic | int | float | list | tuple):
            return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass
    raise ValueError(f"{name}: {shown(value)} is not valid; it must be {what}, as a tensor, an array or a list")


def checked_device(device: Any) -> Any:
    """Return a device, by its name too, or None; refuse one that torch does not know."""
    try:
        return None if device is None else torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device: {shown(device)} is not valid; it must be a device such as cpu or cuda") from None


def checked_slice(name: str, value: Any) -> Slice:
    """Return a slice in TransformerLens's forms: a number, ``(start, stop)``, ``(start, stop, step)``, a list, or None.

    Raises:
        ValueError: any other form, which also ``check_selects`` would refuse for every length.
    """
    found, number = value if isinstance(value, Slice) else None, as_int(value)
    if found is None and not isinstance(value, bool | np.bool_):
        try:
            found = Slice(value if number is None else number)  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError):
            found = None
    valid = found is not None
    if found is not None and isinstance(found.slice, slice):
        parts = (found.slice.start, found.slice.stop, found.slice.step)
        valid = all(part is None or (isinstance(part, int) and not isinstance(part, bool)) for part in parts)
        valid = valid and (found.slice.step is None or found.slice.step > 0)
    elif found is not None and isinstance(found.slice, np.ndarray):
        kept = found.slice
        valid = kept.ndim == 1 and kept.size > 0 and (kept.dtype == bool or np.issubdtype(kept.dtype, np.integer))
    if found is None or not valid:
        raise ValueError(
            f"{name}: {shown(value)} is not valid; it must be a number, (start, stop), (start, stop, step) or a list"
        )
    return found


def check_selects(name: str, of: Slice, length: int, what: str = "positions") -> None:
    """Refuse a slice that selects nothing of an axis of this length, or something after its end."""
    try:
        kept = np.arange(length)[of.slice]
    except IndexError:
        kept = np.array([])
    if kept.size == 0:
        raise ValueError(
            f"{name}: {of.slice} is not valid; there are {what} 0 to {length - 1}, and it must select some"
        )


def check_forward(
    cfg: ModelConfig,
    return_type: str | None,
    loss_per_token: bool,
    start_at_layer: int | None,
    stop_at_layer: int | None,
    tokens: ArrayLike | None,
    shortformer_pos_embed: ArrayLike | None,
) -> None:
    """Refuse arguments of ``forward`` that are unknown, or that would have no effect."""
    check_one_of("return_type", return_type, ("logits", "loss", "both", None))
    check_bools(loss_per_token=loss_per_token)
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
    if tokens is not None and not has_loss:
        raise ValueError(f"tokens: it is not valid with return_type {return_type!r}; only a loss needs it")
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
        if layer is not None:
            checked_int(name, layer, -n_layers, n_layers)
    first, last, _ = slice(start_at_layer, stop_at_layer).indices(n_layers)
    if last < first:
        raise ValueError(f"stop_at_layer: {stop_at_layer} is not valid; it must be {start_at_layer} or more")
    return range(first, last)


def checked_input(cfg: ModelConfig, input: ArrayLike, dtype: torch.dtype) -> Tensor:
    """Return tokens or vectors with a batch axis, and tokens as int64; refuse any other type and shape."""
    tokens = cfg.input_type == "tokens"
    axes = f"integer tokens [batch, pos] from 0 to {cfg.d_vocab - 1}"
    if not tokens:
        axes = f"float vectors [batch, pos, {cfg.d_vocab}]"
    input = as_tensor("input", input, f"{axes}, or strings")
    if input.ndim == (1 if tokens else 2):
        input = input[None]
    fits = input.ndim == 2 and not is_not_integer(input) if tokens else input.ndim == 3 and input.is_floating_point()
    if not fits or not (tokens or input.shape[-1] == cfg.d_vocab):
        raise ValueError(f"input: {input.dtype} of shape {tuple(input.shape)} is not valid; this network takes {axes}")
    return input.long() if tokens else input.to(dtype)


def checked_stream(name: str, stream: ArrayLike, cfg: ModelConfig, like: Tensor, shape: Sequence[int] = ()) -> Tensor:
    """Return a residual stream ``[batch, pos, d_model]``, of these numbers of sequences and positions if given.

    One without a batch axis, or of one sequence, stands for all sequences if the shape is given.
    """
    found = as_tensor(name, stream, "a residual stream")
    axes = f"[{', '.join(map(str, shape or ('batch', 'pos')))}, {cfg.d_model}]"
    fits = found.ndim == 3 or (found.ndim == 2 and bool(shape))
    fits = fits and found.shape[-1] == cfg.d_model and not (found.is_complex() or found.dtype == torch.bool)
    if shape:
        fits = fits and found.shape[-2] == shape[1] and (found.ndim == 2 or found.shape[0] in (1, shape[0]))
    if not fits:
        raise ValueError(
            f"{name}: {found.dtype} of the shape {tuple(found.shape)} is not valid with start_at_layer; "
            f"it must be numbers {axes}"
        )
    return found.to(like)


def checked_mask(mask: ArrayLike, shape: Sequence[int], name: str = "attention_mask") -> Bool[Tensor, "batch pos"]:
    """Return an attention mask of any dtype as bool; refuse another shape, and values other than 0 and 1."""
    mask = as_tensor(name, mask, "0 at padding and 1 elsewhere")
    if mask.ndim == 1 and shape[0] == 1:
        mask = mask[None]
    # Of bools nothing is read, so that a transform of torch.func can have them.
    valid = mask.dtype == torch.bool or (not mask.is_complex() and bool(((mask == 0) | (mask == 1)).all()))
    if mask.shape != tuple(shape) or not valid:
        raise ValueError(
            f"{name}: {mask.dtype} of shape {tuple(mask.shape)} is not valid; it must be 0 at padding and 1 "
            f"elsewhere, of shape {tuple(shape)}"
        )
    return mask.bool()


def integer_tokens(tokens: Any, name: str = "tokens") -> Tensor:
    """Return tokens as a tensor; refuse numbers that are not integers, unless there are none."""
    found = as_tensor(name, tokens, "integer tokens")
    if is_not_integer(found) and found.numel():
        raise ValueError(f"{name}: {found.dtype} is not valid; tokens are integers")
    return found.long()


def check_range(tokens: Tensor, n_tokens: int, name: str, what: str) -> None:
    """Refuse tokens that are negative, or of a vocabulary with more than ``n_tokens``."""
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < n_tokens:
        raise ValueError(f"{name}: {shown(tokens.tolist())} are not valid; {what} are 0 to {n_tokens - 1}")
