"""Hooks that replace activations: those of a head, a hook point, some neurons, or a path between heads."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from types import EllipsisType
from typing import Any, Literal, NamedTuple, get_args

import einops
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headway.analyze.network.forward import Activations, Hook, forward_pass, in_forward_pass, with_positions
from headway.analyze.network.requirements import (
    DoesNotApplyError,
    check_batch,
    check_head,
    needs_direct_writes,
    needs_own_inputs,
    needs_plain_scores,
)
from headway.analyze.network.weights import bias, weight
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model, evaluating, is_bridge
from headway.models.hooked_transformer import HookedTransformer

Kind = Literal["zero", "mean", "position_mean", "without_position", "resample"]
Attention = Literal["recomputed", "frozen"]
Input = Literal["q", "k", "v"]
# Attention before and after the softmax is [batch, head, query, key]; other activations are [batch, pos, ...].
ATTENTION = ("hook_attn_scores", "hook_pattern")


class Entries(NamedTuple):
    """Entries of the last axis of an activation, such as neurons: ``Entries("blocks.0.mlp.hook_post", [3])``."""

    point: str
    entries: Sequence[int]


What = str | Head | Entries


def ablation_hooks(
    model: Model,
    batch: Batch,
    what: What | Iterable[What],
    kind: Kind = "mean",
    attention: Attention = "recomputed",
    reference: Batch | None = None,
) -> list[Hook]:
    """Return the hooks of ``ablated_loss``, with the same arguments, to take any other measure of the ablated network.

    Raises:
        DoesNotApplyError: ``resample`` with a single sequence and no reference.
        ValueError: a head, hook point or entry that does not exist, an activation without positions, a reference of
            another shape.

    Example:
        >>> from headway.analyze.measures.attention import prefix_matching
        >>> from headway.analyze.network.forward import hooked_forward_pass
        >>> from headway.models.handmade import composing_pair
        >>> model, batch = composing_pair("k")
        >>> with hooked_forward_pass(model, ablation_hooks(model, batch, Head(0, 0))):  # the previous-token head
        ...     ablated = prefix_matching(model, batch).prefix_matching.sel(layer=1, head=1).item()
        >>> ablated < 0.2  # without it the induction head no longer matches prefixes
        True
    """
    check_one_of("attention", attention, get_args(Attention))
    other = reference_batch("ablated_loss", batch, kind, reference)
    targets = [_point_and_index(model, each) for each in ([what] if isinstance(what, str | Head | Entries) else what)]
    activations = cached_activations(model, other, [point for point, _ in targets])
    for point, index in targets:
        _check_entries(point, activations[point], index)
    patterns = forward_pass(model, batch).patterns if attention == "frozen" else []
    hooks = [replacement_hook(f"blocks.{layer}.attn.hook_pattern", pattern) for layer, pattern in enumerate(patterns)]
    return hooks + [
        replacement_hook(point, replacement_for(point, activations[point], kind, other.attention_mask), index)
        for point, index in targets
    ]


def through_paths(
    model: Model,
    batch: Batch,
    senders: Sequence[Head],
    receivers: Sequence[Head],
    input: Input,
    reference: Batch | None = None,
) -> list[Hook]:
    """Return hooks for path patching: the receivers read, at one input, what the senders write on other sequences.

    Each receiver computes its query, key or value from the clean residual stream in which the output of the senders is
    replaced by their output on the reference; its LayerNorm is applied to the result. Everything else that the receiver
    reads is clean, and every other reader of the senders sees their clean output. Wang et al. 2022. These hooks patch
    several paths at once, where ``path_patch`` patches each alone.

    Args:
        model: The network.
        batch: The sequences that the network will run on with these hooks.
        senders: The heads whose output is replaced; a sender that is not in an earlier layer has no path.
        receivers: The heads that read the replaced output.
        input: The input of the receivers that is patched: q, k or v.
        reference: A batch of the same shape; by default this batch with its sequences shifted by one.

    Raises:
        DoesNotApplyError: a TransformerBridge whose attention scores are not ``x W_Q W_K.T y`` (rotary positions,
            grouped heads), a single sequence and no reference.
        ValueError: a head or an input that does not exist, a reference of another shape.

    Example:
        >>> from headway.analyze.network.forward import hooked_forward_pass
        >>> from headway.analyze.measures.loss import loss
        >>> from headway.models.handmade import composing_pair
        >>> model, batch = composing_pair("k")  # the keys of L1H1 read what L0H0 writes
        >>> for input in ("q", "k"):
        ...     hooks = through_paths(model, batch, [Head(0, 0)], [Head(1, 1)], input)
        ...     with hooked_forward_pass(model, hooks):
        ...         print(input, loss(model, batch).loss_repeats.item() > 1)
        q False
        k True
    """
    if is_bridge(model):
        # Between its queries and the residual stream may be more than W_Q.
        needs_plain_scores("through_paths", model)
    needs_direct_writes("through_paths", model)
    check_one_of("input", input, get_args(Input))
    senders, receivers = ([check_head(model, head) for head in heads] for heads in (senders, receivers))
    other = reference_batch("through_paths", batch, "resample", reference)
    patched, clean = cached_activations(model, other, z_points(model)), forward_pass(model, batch).activations
    W_O, W, b = (
        read(model, name)
        for read, name in ((weight, "W_O"), (weight, f"W_{input.upper()}"), (bias, f"b_{input.upper()}"))
    )
    hooks = []
    for layer in sorted({head.layer for head in receivers}):
        x = clean[f"blocks.{layer}.hook_resid_pre"]
        for head in senders:
            if head.layer < layer:
                point = f"blocks.{head.layer}.attn.hook_z"
                x = x + (patched[point][:, :, head.head] - clean[point][:, :, head.head]) @ W_O[head]
        with torch.no_grad(), evaluating(model):
            x = model.blocks[layer].ln1(x.to(model.W_O.dtype)).to(x.dtype)
        if input != "v":
            x = with_positions(model, x, clean)
        for head in receivers:
            if head.layer == layer:
                value = (x @ W[head] + b[head])[:, :, None].expand(-1, -1, model.cfg.n_heads, -1)
                hooks.append(replacement_hook(f"blocks.{layer}.attn.hook_{input}", value, slice_of_head(head)))
    return hooks


def heads_except(model: Model, kept: Iterable[Head] = ()) -> list[Head]:
    """Return every head except ``kept``, in the order of the layers: ablate them to test a circuit alone.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> [str(head) for head in heads_except(composing_pair("k")[0], [Head(0, 0), Head(1, 1)])]
        ['L0H1', 'L1H0']
    """
    excluded = {check_head(model, head) for head in kept}
    every = (Head(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads))
    return [head for head in every if head not in excluded]


def output_with(model: Model, batch: Batch, hooks: Sequence[Hook]) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Return the output of a forward pass with hooks, and remove the hooks afterwards.

    Raises:
        ValueError: a batch that the network cannot read, an output with NaN or infinite entries.
    """
    check_batch(model, batch)
    with torch.no_grad(), evaluating(model):
        output = model.run_with_hooks(batch.inputs, fwd_hooks=list(hooks), **batch.padding)
    if not output.isfinite().all():
        raise ValueError("model: its output is NaN or infinite with these activations replaced; choose another kind")
    return output


@contextmanager
def split_inputs(measure: str, model: Model) -> Iterator[None]:
    """Give each head query, key and value inputs of its own in this context: ``attn.hook_q_input`` fires, and so on.

    Raises:
        DoesNotApplyError: heads of this network have no inputs of their own.
    """
    needs_own_inputs(measure, model)
    split, joint = (bool(getattr(model.cfg, name, False)) for name in ("use_split_qkv_input", "use_attn_in"))
    try:
        if joint:  # a bridge has one of the two
            model.set_use_attn_in(False)
        try:
            model.set_use_split_qkv_input(True)
        except (NotImplementedError, ValueError) as reason:
            raise DoesNotApplyError(f"{measure} needs a query, key and value input for each head: {reason}") from None
        yield
    finally:
        model.set_use_split_qkv_input(split)
        if joint:
            model.set_use_attn_in(True)


def reference_batch(name: str, batch: Batch, kind: str, reference: Batch | None) -> Batch:
    """Return the batch from which replacement activations come."""
    check_one_of("kind", kind, get_args(Kind))
    if reference is not None:
        if reference.inputs.shape != batch.inputs.shape:
            raise ValueError(
                f"reference: its inputs have the shape {tuple(reference.inputs.shape)}; "
                f"they must have that of the batch, {tuple(batch.inputs.shape)}"
            )
        if not torch.equal(reference.real, batch.real):
            raise ValueError("reference: its sequences are not as long as those of the batch; they must be")
        return reference
    if kind != "resample":
        return batch
    if len(batch.inputs) < 2:
        raise DoesNotApplyError(
            f"{name} needs other sequences to take activations from; this batch has 1; give a reference"
        )
    return batch.shifted()


def _point_and_index(model: Model, what: What) -> tuple[str, EllipsisType | tuple]:
    """Return a hook point and an index into its activation."""
    if isinstance(what, str):
        return what, ...
    if isinstance(what, Entries):
        return what.point, (..., list(what.entries))
    head = check_head(model, what)
    return f"blocks.{head.layer}.attn.hook_z", slice_of_head(head)


def slice_of_head(head: Head) -> tuple:
    """Return the index of one head in an activation [batch, pos, head, ...]."""
    return (slice(None), slice(None), head.head)


def z_points(model: Model) -> list[str]:
    """Return the name of hook_z in every layer."""
    return [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]


def cached_activations(model: Model, batch: Batch, points: Sequence[str]) -> Activations:
    """Return the activations at these hook points, each [batch, pos, ...]."""
    if all(map(in_forward_pass, points)):
        cache = forward_pass(model, batch).activations
    else:
        check_batch(model, batch)
        # A network of this package refuses to cache nothing before a missing point could be named.
        for point in points if isinstance(model, HookedTransformer) else []:
            if point not in model.hook_dict:
                raise _no_such_point(model, point)
            if why := model.why_silent(point):
                raise ValueError(f"what: {point!r} never fires {why}")
        with torch.no_grad(), evaluating(model):
            _, cache = model.run_with_cache(
                batch.inputs, return_cache_object=False, names_filter=lambda name: name in points, **batch.padding
            )
    for point in points:
        if point not in cache:
            raise _no_such_point(model, point)
        if not point.endswith(ATTENTION) and cache[point].shape[1:2] != batch.inputs.shape[1:2]:
            raise ValueError(f"what: {point!r} has the shape {tuple(cache[point].shape)}; it must be [batch, pos, ...]")
    return cache


def _no_such_point(model: Model, point: str) -> ValueError:
    nearest = get_close_matches(point, model.hook_dict, n=1)
    hint = f"; nearest is {nearest[0]!r}" if nearest else ""
    return ValueError(f"what: {point!r} is not a hook point of this network{hint}")


def _check_entries(point: str, value: Tensor, index: Any) -> None:
    """Refuse entries of the last axis that do not exist."""
    entries = index[-1] if index is not ... and isinstance(index[-1], list) else []
    for entry in entries:
        if not 0 <= entry < value.shape[-1]:
            raise ValueError(f"what: {point!r} has no entry {entry}; it has 0 to {value.shape[-1] - 1}")


def replacement_for(
    point: str,
    value: Float[Tensor, "batch *rest"],
    kind: Kind,
    attention_mask: Bool[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch *rest"]:
    """Return the replacement for an activation, computed from its value on the reference batch without padding."""
    if kind == "zero":
        zero = torch.zeros_like(value)
        # A masked score (-inf, or the lowest number of its type) stays masked.
        return value.where(value <= torch.finfo(value.dtype).min, zero) if point.endswith(ATTENTION[0]) else zero
    if kind == "resample":
        return value
    if point.endswith(ATTENTION):
        if kind == "without_position":
            raise ValueError(
                f"kind: 'without_position' is not valid for {point!r}, whose axes are positions; take another kind"
            )
        return _mean_attention(point, value, attention_mask)
    mean = mean_activation(value, "1 1", attention_mask)
    if kind == "mean":
        return mean
    by_position = mean_activation(value, "1 pos", attention_mask)
    return by_position if kind == "position_mean" else value - by_position + mean


def mean_activation(
    value: Float[Tensor, "batch pos *rest"],
    over: Literal["1 1", "1 pos"],
    attention_mask: Bool[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch pos *rest"]:
    """Return the mean over all sequences and positions, or over sequences at each position, without padding.

    A position that is padding in every sequence gets 0.

    Example:
        >>> value, real = torch.tensor([[2.0, 4.0], [3.0, 99.0]]), torch.tensor([[True, True], [True, False]])
        >>> mean_activation(value, "1 1", real)[0].tolist(), mean_activation(value, "1 pos", real)[0].tolist()
        ([3.0, 3.0], [2.5, 4.0])
    """
    if attention_mask is None:
        return einops.reduce(value, f"batch pos ... -> {over} ...", "mean").expand_as(value)
    real = attention_mask.view(*attention_mask.shape, *[1] * (value.ndim - 2))
    axes = (0, 1) if over == "1 1" else 0
    total, count = (each.sum(axes, keepdim=True) for each in (value.where(real, 0), real.to(value.dtype)))
    return (total / count.clamp(min=1)).expand_as(value)


def _mean_attention(
    point: str, value: Float[Tensor, "batch head query key"], attention_mask: Bool[Tensor, "batch pos"] | None
) -> Float[Tensor, "batch head query key"]:
    """Return the mean over sequences at each query and key; of sequences with padding, over those that have both.

    Padding stays hidden: its keys get no attention, and what a query had for them goes to its other keys in proportion.
    """
    if attention_mask is None:
        return einops.reduce(value, "batch head query key -> 1 head query key", "mean").expand_as(value)
    real = (attention_mask[:, :, None] & attention_mask[:, None])[:, None]
    total = value.where(real, 0).sum(0, keepdim=True)
    mean = (total / real.sum(0, keepdim=True).clamp(min=1)).expand_as(value)
    if point.endswith(ATTENTION[0]):
        return mean.where(real, value)
    kept = mean.where(real, 0)
    return (kept / kept.sum(-1, keepdim=True)).where(real, value)


def replacement_hook(point: str, value: Tensor, index: Any = ...) -> Hook:
    """Return a hook that replaces ``activation[index]`` by ``value[index]``."""

    def hook(activation: Tensor, hook: Any) -> Tensor:
        changed = activation.clone()
        changed[index] = value[index]
        return changed

    return point, hook


def check_one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    """Refuse an argument that is not one of its valid words."""
    if value not in valid:
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(valid)}")
