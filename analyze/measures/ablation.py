"""Ablation and path patching: the loss when activations are replaced, head by head or path by path.

Attention patterns show which keys a head attends to, and weights show what it could do; only ablation shows whether
anything depends on it. The replacement is zero, a mean, or the activation on other sequences. The network itself is
not changed.
"""

from collections.abc import Iterable
from typing import Any, get_args

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.measures.loss import by_part, mean_loss, task_loss
from headway.analyze.network.axes import HEAD, PAIR
from headway.analyze.network.forward import Activations, forward_pass, output_from
from headway.analyze.network.interventions import (
    Attention,
    Input,
    Kind,
    What,
    ablation_hooks,
    cached_activations,
    heads_except,
    output_with,
    reference_batch,
    replacement_for,
    replacement_hook,
    slice_of_head,
    split_inputs,
    z_points,
)
from headway.analyze.network.requirements import DoesNotApplyError, needs_direct_writes, needs_layers
from headway.analyze.network.weights import weight
from headway.data.task import Batch, masked_mean
from headway.models.config import Head
from headway.models.convert import Model, evaluating
from headway.models.hooked_transformer import HookedTransformer

# Number of sequences in measures that run the network once for every path or every changed weight.
SEQUENCES = 8


def ablation(model: Model, batch: Batch, kind: Kind = "mean", reference: Batch | None = None) -> xr.Dataset:
    """Effect of ablating each head: loss without the head minus loss with it, one head at a time.

    ``ablation`` [layer, head] over the positions in the mask, and ``ablation_<part>`` for each part of the task; any
    number, in nats for tokens and squared error for vectors. ``ablation_clean`` is the loss with all heads. The output
    of the head is replaced at hook_z as in ``ablated_loss``, and later attention is recomputed. No null: 0 is no
    effect, negative a head that does harm. It does not show redundant heads, which have no effect one at a time, nor
    which later heads read the output; and effects depend on ``kind``.

    Args:
        model: The network.
        batch: Sequences of a task.
        kind: The replacement of the head's output; see ``ablated_loss``.
        reference: The batch that the replacement comes from; see ``ablated_loss``.

    Raises:
        DoesNotApplyError: ``resample`` with a single sequence and no reference.
        ValueError: a batch without a task, a ``reference`` of another shape.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> needed = ablation(*composing_pair("k"))  # a previous-token head, and an induction head that reads it
        >>> (needed.ablation_repeats > 1).values.tolist()
        [[True, False], [False, True]]
    """
    other = reference_batch("ablation", batch, kind, reference)
    clean_pass = forward_pass(model, batch)
    masks = {"ablation": batch.mask}
    for part, mask in (batch.task.parts(batch) if batch.task is not None else {}).items():
        masks[f"ablation_{part}"] = mask & batch.mask

    def losses(output: Tensor) -> Float[Tensor, "part"]:
        each = task_loss(output, batch)
        return torch.stack([masked_mean(each, mask) for mask in masks.values()])

    clean = losses(clean_pass.output)
    activations = clean_pass.activations if other is batch else cached_activations(model, other, z_points(model))
    change = clean.new_empty(len(masks), model.cfg.n_layers, model.cfg.n_heads)
    for layer, point in enumerate(z_points(model)):
        replacement = replacement_for(point, activations[point], kind, other.attention_mask)
        for head in range(model.cfg.n_heads):
            without = _output_without(model, batch, Head(layer, head), replacement, clean_pass.activations)
            change[:, layer, head] = losses(without) - clean
    scores = {name: (HEAD, of_heads.cpu().numpy()) for name, of_heads in zip(masks, change, strict=True)}
    return xr.Dataset(scores | {"ablation_clean": ((), clean[0].cpu().numpy())})


def ablated_loss(
    model: Model,
    batch: Batch,
    what: What | Iterable[What],
    kind: Kind = "mean",
    attention: Attention = "recomputed",
    reference: Batch | None = None,
) -> xr.Dataset:
    """Return the loss with some activations replaced, as the variables of ``loss``: subtract those for the effect.

    Args:
        model: The network.
        batch: Sequences of a task.
        what: Heads (at hook_z), names of hook points, ``Entries`` of a hook point (neurons), or several of these,
            replaced together; an empty list gives the clean loss. ``heads_except`` lists all heads outside a circuit.
        kind: The replacement, computed on the reference. ``zero``; ``mean``, over all sequences and positions;
            ``position_mean``, over sequences at each position, which keeps what depends on position alone;
            ``without_position``, the activation minus its ``position_mean`` plus its ``mean``, which removes what
            depends on position alone; ``resample``, the activation itself, sequence by sequence. Attention scores and
            patterns are averaged over sequences at each query and key; zero scores are uniform attention.
        attention: ``recomputed``: later attention patterns follow the changed activations; ``frozen``: all patterns are
            those of the clean forward pass, except replaced ones, so that only the values that heads move change.
        reference: A batch of the same shape. By default this batch itself, and for ``resample`` this batch with its
            sequences shifted by one.

    Raises:
        DoesNotApplyError: ``resample`` with a single sequence and no reference.
        ValueError: a head, hook point or entry that does not exist, an activation without positions, a reference of
            another shape, an output with NaN or infinite entries.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> model, batch = composing_pair("k")
        >>> without = ablated_loss(model, batch, Head(0, 0))  # the previous-token head of an induction circuit
        >>> round(without.loss_repeats.item(), 1), round(ablated_loss(model, batch, []).loss_repeats.item(), 1)
        (3.2, 0.0)
    """
    hooks = ablation_hooks(model, batch, what, kind, attention, reference)
    return by_part("loss", task_loss(output_with(model, batch, hooks), batch), batch)


def path_patch(model: Model, batch: Batch, reference: Batch | None = None, sequences: int = SEQUENCES) -> xr.Dataset:
    """Effect of path patching: change in loss when one path between two heads carries another sequence.

    ``path_patch`` [input, from_layer, from_head, to_layer, to_head]: in the query, key or value input of head h2
    (before LayerNorm), the output of h1 is replaced by its output on the reference; every other reader of h1 sees its
    clean output. NaN unless h1 is in an earlier layer; ``path_patch_clean`` is the clean loss. Any number, in nats or
    squared error. No null: 0 is no effect. Wang et al. 2022, as in TransformerLens 4's direct path patching. It
    does not show paths from h1 to h2 through heads or MLPs between them, nor redundant paths.

    Args:
        model: The network; it is in evaluation mode during the call.
        batch: Sequences of a task.
        reference: A batch of the same shape; by default this batch with its sequences shifted by one.
        sequences: Number of sequences of either batch, since every path takes a forward pass.

    Raises:
        DoesNotApplyError: one layer, a single sequence and no reference, an architecture in which heads have no inputs
            of their own (grouped heads).
        ValueError: a batch without a task, a ``reference`` of another shape.
    """
    needs_layers("path_patch", model)
    needs_direct_writes("path_patch", model)
    other = reference_batch("path_patch", batch, "resample", reference).first(sequences)
    batch = batch.first(sequences)
    clean = mean_loss(forward_pass(model, batch).output, batch)
    clean_z, other_z = (
        {name: value.to(model.W_O.dtype) for name, value in cached_activations(model, each, z_points(model)).items()}
        for each in (batch, other)
    )
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    inputs: tuple[Input, ...] = get_args(Input)
    losses = torch.full((len(inputs), n_layers, n_heads, n_layers, n_heads), torch.nan, device=clean.device)
    with torch.no_grad(), evaluating(model), split_inputs("path_patch", model):
        for sender in heads_except(model):
            z, W_O = f"blocks.{sender.layer}.attn.hook_z", model.blocks[sender.layer].attn.W_O[sender.head]
            written = other_z[z][:, :, sender.head] @ W_O - clean_z[z][:, :, sender.head] @ W_O
            for receiver in heads_except(model):
                for number, each in enumerate(inputs if receiver.layer > sender.layer else ()):
                    output = _output_with_added(model, batch, receiver, each, written)
                    losses[number, *sender, *receiver] = mean_loss(output, batch)
    change = xr.DataArray((losses - clean).cpu().numpy(), dims=("input", *PAIR))
    scores = {"path_patch": change, "path_patch_clean": ((), clean.cpu().numpy())}
    return xr.Dataset(scores, coords={"input": list(inputs)})


def _output_with_added(
    model: Model, batch: Batch, head: Head, input: Input, written: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Return the output of a network with split inputs, with something added to one input of one head.

    Raises:
        DoesNotApplyError: its attention has no inputs that can be split.
    """
    fired = False

    def add(value: Tensor, hook: Any) -> Tensor:
        nonlocal fired
        fired = True
        value = value.clone()
        value[:, :, head.head] += written
        return value

    point = f"blocks.{head.layer}.attn.hook_{input}_input"
    output = model.run_with_hooks(batch.inputs, fwd_hooks=[(point, add)], **batch.padding)
    if not fired:
        raise DoesNotApplyError(
            f"path_patch needs a query, key and value input for each head; {point!r} of this network never fires"
        )
    return output


def _output_without(
    model: Model, batch: Batch, head: Head, replacement: Float[Tensor, "batch pos head d_head"], clean: Activations
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Return the output with one head's z replaced, from the clean activations.

    A HookedTransformer of this package computes only what changes: it takes earlier layers from the cache, and adds the
    change in the head's output to the attention output of its layer.
    """
    point = f"blocks.{head.layer}.attn.hook_z"
    if not isinstance(model, HookedTransformer):
        return output_with(model, batch, [replacement_hook(point, replacement, slice_of_head(head))])
    block, z = model.blocks[head.layer], clean[point]
    W_O = weight(model, "W_O")[head].to(z.dtype)
    with torch.no_grad(), evaluating(model):
        change = (replacement[:, :, head.head] - z[:, :, head.head]) @ W_O
        residual = clean[f"blocks.{head.layer}.hook_resid_pre"] + clean[f"blocks.{head.layer}.hook_attn_out"] + change
        # The clean activations of a network in half precision are in float32.
        residual = residual.to(model.W_E.dtype)
        if not model.cfg.attn_only:
            residual = residual + block.mlp(block.ln2(residual))
        return output_from(model, head.layer + 1, residual, clean, batch.padding)
