"""What a network needs: its loss when activations are replaced, head by head or path by path.

Patterns say where a head looks and weights what it could do; only replacing it says whether anything depends on it.
What takes an activation's place is zero, a mean, or what the network computes on other sequences. The network itself
stays as it is.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from types import EllipsisType
from typing import Any, Literal, NamedTuple, get_args

import einops
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from transformer_lens.patching import get_act_patch_direct_path_all_sources

from headway.analyze.applies import (
    DoesNotApplyError,
    bias,
    check_batch,
    check_head,
    needs_layers,
    needs_plain_scores,
    weight,
)
from headway.analyze.circuits import HEAD, PAIR
from headway.analyze.forward import Activations, Hook, in_seen, seen
from headway.analyze.loss import by_part, mean_loss, task_loss
from headway.data.task import Batch, masked_mean
from headway.models.config import Head
from headway.models.convert import Model, evaluating
from headway.models.hooked_transformer import HookedTransformer

Kind = Literal["zero", "mean", "position_mean", "without_position", "resample"]
Attention = Literal["recomputed", "frozen"]
Input = Literal["q", "k", "v"]
# Of so many sequences is the loss of measures that run the network once for every path or every new weight.
FEW = 8
# Attention before and after the softmax: [batch, head, query, key], where others have [batch, pos, ...].
ATTENTION = ("hook_attn_scores", "hook_pattern")


class Entries(NamedTuple):
    """Some entries of the last axis of an activation, such as neurons: ``Entries("blocks.0.mlp.hook_post", [3])``."""

    point: str
    entries: Sequence[int]


What = str | Head | Entries


def ablation(model: Model, batch: Batch, kind: Kind = "mean", reference: Batch | None = None) -> xr.Dataset:
    """How much each head is needed: loss without it minus loss with it, heads replaced one at a time.

    ``ablation`` [layer, head] over the positions that count, and ``ablation_<part>`` for each of the task's parts, in
    nats for tokens and squared error for vectors; ``ablation_clean`` is the loss with all heads. What a head writes is
    replaced at hook_z as in ``ablated_loss``, and later attention is recomputed. No null: 0 is a head that nothing
    needs, or that others stand in for; negative is one that does harm.

    Args:
        model: The network.
        batch: Sequences of a task.
        kind: What takes the head's place; see ``ablated_loss``.
        reference: Where it is taken from; see ``ablated_loss``.

    Raises:
        DoesNotApplyError: ``resample`` with a single sequence and no reference.
        ValueError: a batch without a task, a ``reference`` of another shape.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> needed = ablation(*composing_pair("k"))  # a previous-token head, and an induction head that reads it
        >>> (needed.ablation_repeats > 1).values.tolist()
        [[True, False], [False, True]]
    """
    other = _reference("ablation", batch, kind, reference)
    shown = seen(model, batch)
    counted = {"ablation": batch.mask}
    for part, where in (batch.task.parts(batch) if batch.task is not None else {}).items():
        counted[f"ablation_{part}"] = where & batch.mask

    def losses(output: Tensor) -> Float[Tensor, "part"]:
        each = task_loss(output, batch)
        return torch.stack([masked_mean(each, where) for where in counted.values()])

    clean = losses(shown.output)
    there = shown.activations if other is batch else _recorded(model, other, _z_points(model))
    change = clean.new_empty(len(counted), model.cfg.n_layers, model.cfg.n_heads)
    for layer, point in enumerate(_z_points(model)):
        stand_in = _stand_in(point, there[point], kind)
        for head in range(model.cfg.n_heads):
            without = _output_without(model, batch, Head(layer, head), stand_in, shown.activations)
            change[:, layer, head] = losses(without) - clean
    scores = {name: (HEAD, of_heads.cpu().numpy()) for name, of_heads in zip(counted, change, strict=True)}
    return xr.Dataset(scores | {"ablation_clean": ((), clean[0].cpu().numpy())})


def ablated_loss(
    model: Model,
    batch: Batch,
    what: What | Iterable[What],
    kind: Kind = "mean",
    attention: Attention = "recomputed",
    reference: Batch | None = None,
) -> xr.Dataset:
    """The loss when some activations are replaced: the variables of ``loss``, so that their difference is the effect.

    Args:
        model: The network.
        batch: Sequences of a task.
        what: Heads (at hook_z), names of hook points, ``Entries`` of one (neurons), or several of these, replaced
            together; nothing at all gives the loss as it is. ``all_heads_but`` names everything except a circuit.
        kind: What takes their place: ``zero``; ``mean``, over all sequences and positions of the reference;
            ``position_mean``, over its sequences at each position, which leaves the position and takes the rest;
            ``without_position``, what the network computes on it with ``mean`` in the place of ``position_mean``, which
            takes the position and leaves the rest; ``resample``, what the network computes on it, sequence by sequence.
            The mean of attention scores or patterns is that over sequences at each query and key; zero scores are
            uniform attention.
        attention: ``recomputed``: patterns in later layers follow what they read; ``frozen``: all patterns stay as they
            are without any replacement, except those that are replaced themselves, and only what they move changes.
        reference: A batch of the same shape. By default this batch itself, and for ``resample`` this batch with its
            sequences moved on by one.

    Raises:
        DoesNotApplyError: ``resample`` with a single sequence and no reference.
        ValueError: a head, hook point or entry that does not exist, an activation without positions, a reference of
            another shape, an output that is not all numbers.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> model, batch = composing_pair("k")
        >>> without = ablated_loss(model, batch, Head(0, 0))  # the previous-token head of an induction circuit
        >>> round(without.loss_repeats.item(), 1), round(ablated_loss(model, batch, []).loss_repeats.item(), 1)
        (3.2, 0.0)
    """
    hooks = replacing(model, batch, what, kind, attention, reference)
    return by_part("loss", task_loss(output_with(model, batch, hooks), batch), batch)


def replacing(
    model: Model,
    batch: Batch,
    what: What | Iterable[What],
    kind: Kind = "mean",
    attention: Attention = "recomputed",
    reference: Batch | None = None,
) -> list[Hook]:
    """The hooks of ``ablated_loss``, with the same arguments: for whatever else is to be seen of what is left.

    Raises:
        DoesNotApplyError: ``resample`` with a single sequence and no reference.
        ValueError: a head, hook point or entry that does not exist, an activation without positions, a reference of
            another shape.

    Example:
        >>> from headway.analyze.attention import prefix_matching
        >>> from headway.analyze.forward import seen_with
        >>> from headway.models.handmade import composing_pair
        >>> model, batch = composing_pair("k")
        >>> with seen_with(model, replacing(model, batch, Head(0, 0))):  # the previous-token head
        ...     left = prefix_matching(model, batch).prefix_matching.sel(layer=1, head=1).item()
        >>> left < 0.2  # so the induction head does not find what it looks for
        True
    """
    check_one_of("attention", attention, get_args(Attention))
    other = _reference("ablated_loss", batch, kind, reference)
    places = [_place(model, each) for each in ([what] if isinstance(what, str | Head | Entries) else what)]
    there = _recorded(model, other, [point for point, _ in places])
    for point, where in places:
        _check_entries(point, there[point], where)
    patterns = seen(model, batch).patterns if attention == "frozen" else []
    hooks = [_replace(f"blocks.{layer}.attn.hook_pattern", pattern) for layer, pattern in enumerate(patterns)]
    return hooks + [_replace(point, _stand_in(point, there[point], kind), where) for point, where in places]


def path_patch(model: Model, batch: Batch, reference: Batch | None = None, sequences: int = FEW) -> xr.Dataset:
    """How much a head needs to read an earlier head: change in loss when that one path carries other sequences.

    ``path_patch`` [input, from_layer, from_head, to_layer, to_head]: head h2's query, key or value input (before
    LayerNorm) has what h1 writes replaced by what h1 writes on the reference; every other reader of h1 sees it as
    it is. NaN unless h1's layer is the earlier; ``path_patch_clean`` is the loss as it is. Nats, or squared error. No
    null: 0 where nothing depends on the path. Wang et al. 2022; computed by TransformerLens's direct path patching. It
    leaves out what goes from h1 to h2 through heads or MLPs between them.

    Args:
        model: The network; it is put into evaluation mode meanwhile.
        batch: Sequences of a task.
        reference: A batch of the same shape; by default this batch with its sequences moved on by one.
        sequences: How many sequences are taken of either, since every path takes a forward pass.

    Raises:
        DoesNotApplyError: one layer, a single sequence and no other batch, an architecture in which heads have no
            inputs of their own (grouped heads).
        ValueError: a batch without a task, a ``reference`` of another shape.
    """
    needs_layers("path_patch", model)
    other = _reference("path_patch", batch, "resample", reference).first(sequences)
    batch = batch.first(sequences)
    clean = mean_loss(seen(model, batch).output, batch)
    here, there = (_recorded(model, each, _z_points(model)) for each in (batch, other))
    inputs: tuple[Input, ...] = get_args(Input)
    with torch.no_grad(), evaluating(model):
        try:
            # The tool restores paths in a corrupted run. Here the run is clean and its paths are corrupted.
            losses = [
                get_act_patch_direct_path_all_sources(
                    model,  # pyright: ignore[reportArgumentType]
                    corrupted_tokens=batch.inputs,
                    clean_cache=there,  # pyright: ignore[reportArgumentType]
                    corrupted_cache=here,  # pyright: ignore[reportArgumentType]
                    patching_metric=lambda output: mean_loss(output, batch),
                    component=each,
                    verbose=False,
                )
                for each in inputs
            ]
        except (NotImplementedError, ValueError) as reason:
            raise DoesNotApplyError(
                f"path_patch needs a query, key and value input for each head; this network has others: {reason}"
            ) from None
    change = xr.DataArray((torch.stack(losses) - clean).cpu().numpy(), dims=("input", *PAIR))
    layers = torch.arange(model.cfg.n_layers)
    earlier = xr.DataArray((layers[:, None] < layers).numpy(), dims=("from_layer", "to_layer"))
    scores = {"path_patch": change.where(earlier), "path_patch_clean": ((), clean.cpu().numpy())}
    return xr.Dataset(scores, coords={"input": list(inputs)})


def through_paths(
    model: Model,
    batch: Batch,
    senders: Sequence[Head],
    receivers: Sequence[Head],
    input: Input,
    reference: Batch | None = None,
) -> list[Hook]:
    """Hooks that patch paths: some heads read, at one input, what earlier heads write on other sequences.

    Each receiver's query, key or value is what it computes from the residual stream as it is, with what the senders
    write replaced by what they write on the reference, through its LayerNorm. Everything else that it reads is that of
    the network as it is, and every other reader of the senders sees them as they are. Wang et al. 2022; several paths
    at once, where ``path_patch`` takes each alone.

    Args:
        model: The network.
        batch: The sequences that the network will run on with these hooks.
        senders: The heads whose output is replaced; those that are not in an earlier layer have no path.
        receivers: The heads that read it.
        input: Which of their inputs: q, k or v.
        reference: A batch of the same shape; by default this batch with its sequences moved on by one.

    Raises:
        DoesNotApplyError: attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads), a single
            sequence and no reference.
        ValueError: a head or an input that does not exist, a reference of another shape.

    Example:
        >>> from headway.analyze.forward import seen_with
        >>> from headway.analyze.loss import loss
        >>> from headway.models.handmade import composing_pair
        >>> model, batch = composing_pair("k")  # the keys of L1H1 read what L0H0 writes
        >>> for input in ("q", "k"):
        ...     hooks = through_paths(model, batch, [Head(0, 0)], [Head(1, 1)], input)
        ...     with seen_with(model, hooks):
        ...         print(input, loss(model, batch).loss_repeats.item() > 1)
        q False
        k True
    """
    needs_plain_scores("through_paths", model)
    check_one_of("input", input, get_args(Input))
    senders, receivers = ([check_head(model, head) for head in heads] for heads in (senders, receivers))
    other = _reference("through_paths", batch, "resample", reference)
    there, here = _recorded(model, other, _z_points(model)), seen(model, batch).activations
    W_O, W, b = (
        read(model, name)
        for read, name in ((weight, "W_O"), (weight, f"W_{input.upper()}"), (bias, f"b_{input.upper()}"))
    )
    hooks = []
    for layer in sorted({head.layer for head in receivers}):
        x = here[f"blocks.{layer}.hook_resid_pre"]
        for head in senders:
            if head.layer < layer:
                point = f"blocks.{head.layer}.attn.hook_z"
                x = x + (there[point][:, :, head.head] - here[point][:, :, head.head]) @ W_O[head]
        with torch.no_grad(), evaluating(model):
            x = model.blocks[layer].ln1(x)
        if input != "v" and model.cfg.positional_embedding_type == "shortformer":
            x = x + here["hook_pos_embed"]
        for head in receivers:
            if head.layer == layer:
                value = (x @ W[head] + b[head])[:, :, None].expand(-1, -1, model.cfg.n_heads, -1)
                hooks.append(_replace(f"blocks.{layer}.attn.hook_{input}", value, _of_head(head)))
    return hooks


def all_heads_but(model: Model, kept: Iterable[Head] = ()) -> list[Head]:
    """Every head of the network except ``kept``, in the order of the layers: what is ablated to see a circuit alone.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> [str(head) for head in all_heads_but(composing_pair("k")[0], [Head(0, 0), Head(1, 1)])]
        ['L0H1', 'L1H0']
    """
    keep = {check_head(model, head) for head in kept}
    every = (Head(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads))
    return [head for head in every if head not in keep]


def output_with(model: Model, batch: Batch, hooks: Sequence[Hook]) -> Float[Tensor, "batch pos d_vocab_out"]:
    """The output of a forward pass with hooks, which are gone afterwards.

    Raises:
        ValueError: a batch that the network cannot read, an output that is not all numbers.
    """
    check_batch(model, batch)
    with torch.no_grad(), evaluating(model):
        output = model.run_with_hooks(batch.inputs, fwd_hooks=list(hooks))
    if not output.isfinite().all():
        raise ValueError("model: with these activations replaced its output is not all numbers (NaN or infinite)")
    return output


def _output_without(
    model: Model, batch: Batch, head: Head, stand_in: Float[Tensor, "batch pos head d_head"], shown: Activations
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """The output with one head's z replaced, from the activations of the network as it is.

    In a network of ours nothing is computed again that stays the same: what comes before, and the attention of the
    head's own layer, whose sum changes by what this head writes.
    """
    point = f"blocks.{head.layer}.attn.hook_z"
    if not isinstance(model, HookedTransformer):
        return output_with(model, batch, [_replace(point, stand_in, _of_head(head))])
    block, z = model.blocks[head.layer], shown[point]
    W_O = weight(model, "W_O")[head].to(z.dtype)
    with torch.no_grad():
        change = (stand_in[:, :, head.head] - z[:, :, head.head]) @ W_O
        residual = shown[f"blocks.{head.layer}.hook_resid_pre"] + shown[f"blocks.{head.layer}.hook_attn_out"] + change
        if not model.cfg.attn_only:
            residual = residual + block.mlp(block.ln2(residual))
        shortformer = shown["hook_pos_embed"] if model.cfg.positional_embedding_type == "shortformer" else None
        return model(residual, start_at_layer=head.layer + 1, shortformer_pos_embed=shortformer)


def _reference(name: str, batch: Batch, kind: str, reference: Batch | None) -> Batch:
    """The batch whose activations take the place of others."""
    check_one_of("kind", kind, get_args(Kind))
    if reference is not None:
        if reference.inputs.shape != batch.inputs.shape:
            raise ValueError(
                f"reference: its inputs have the shape {tuple(reference.inputs.shape)}; "
                f"they must have that of the batch, {tuple(batch.inputs.shape)}"
            )
        return reference
    if kind != "resample":
        return batch
    if len(batch.inputs) < 2:
        raise DoesNotApplyError(f"{name} needs other sequences to take activations from; this batch has 1")
    return batch._replace(inputs=batch.inputs.roll(1, 0))


def _place(model: Model, what: What) -> tuple[str, EllipsisType | tuple]:
    """The hook point, and where in its activation."""
    if isinstance(what, str):
        return what, ...
    if isinstance(what, Entries):
        return what.point, (..., list(what.entries))
    head = check_head(model, what)
    return f"blocks.{head.layer}.attn.hook_z", _of_head(head)


def _of_head(head: Head) -> tuple:
    return (slice(None), slice(None), head.head)


def _z_points(model: Model) -> list[str]:
    return [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]


def _recorded(model: Model, batch: Batch, points: Sequence[str]) -> Activations:
    """What stands at these hook points in a forward pass: [batch, pos, ...] each."""
    if all(map(in_seen, points)):
        cache = seen(model, batch).activations
    else:
        check_batch(model, batch)
        with torch.no_grad(), evaluating(model):
            _, cache = model.run_with_cache(
                batch.inputs, return_cache_object=False, names_filter=lambda name: name in points
            )
    for point in points:
        if point not in cache:
            nearest = get_close_matches(point, model.hook_dict, n=1)
            hint = f"; nearest is {nearest[0]!r}" if nearest else ""
            raise ValueError(f"what: {point!r} is no hook point that this network passes{hint}")
        if not point.endswith(ATTENTION) and cache[point].shape[1:2] != batch.inputs.shape[1:2]:
            raise ValueError(f"what: {point!r} is no activation [batch, pos, ...]: {tuple(cache[point].shape)}")
    return cache


def _check_entries(point: str, value: Tensor, where: Any) -> None:
    """Refuse entries of the last axis that do not exist."""
    entries = where[-1] if where is not ... and isinstance(where[-1], list) else []
    for entry in entries:
        if not 0 <= entry < value.shape[-1]:
            raise ValueError(f"what: {point!r} has no entry {entry}; it has 0 to {value.shape[-1] - 1}")


def _stand_in(point: str, value: Float[Tensor, "batch *rest"], kind: Kind) -> Float[Tensor, "batch *rest"]:
    """What takes the place of an activation, from what the reference batch has there."""
    if kind == "zero":
        zero = torch.zeros_like(value)
        # The score of a key that a query may not see is -inf, or the least number there is, and stays it.
        return value.where(value <= torch.finfo(value.dtype).min, zero) if point.endswith(ATTENTION[0]) else zero
    if kind == "resample":
        return value
    if point.endswith(ATTENTION):
        if kind == "without_position":
            raise ValueError(f"kind: 'without_position' is not valid for {point!r}, which is of positions alone")
        return einops.reduce(value, "batch head query key -> 1 head query key", "mean").expand_as(value)
    mean = einops.reduce(value, "batch pos ... -> 1 1 ...", "mean").expand_as(value)
    if kind == "mean":
        return mean
    by_position = einops.reduce(value, "batch pos ... -> 1 pos ...", "mean").expand_as(value)
    return by_position if kind == "position_mean" else value - by_position + mean


def _replace(point: str, value: Tensor, where: Any = ...) -> Hook:
    """A hook that puts ``value[where]`` in the place of the activation there."""

    def hook(activation: Tensor, hook: Any) -> Tensor:
        changed = activation.clone()
        changed[where] = value[where]
        return changed

    return point, hook


def check_one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    """Refuse an argument that is not one of the words it can be."""
    if value not in valid:
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(valid)}")
