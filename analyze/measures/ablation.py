"""What a network needs: its loss when activations are replaced, head by head or path by path.

Patterns say where a head looks and weights what it could do; only replacing it says whether anything depends on it.
What takes an activation's place is zero, a mean, or what the network computes on other sequences. The network itself
stays as it is.
"""

from collections.abc import Iterable
from typing import get_args

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from transformer_lens.patching import get_act_patch_direct_path_all_sources

from headway.analyze.measures.loss import by_part, mean_loss, task_loss
from headway.analyze.network.axes import HEAD, PAIR
from headway.analyze.network.forward import Activations, forward_pass
from headway.analyze.network.interventions import (
    Attention,
    Input,
    Kind,
    What,
    ablation_hooks,
    cached_activations,
    output_with,
    reference_batch,
    replacement_for,
    replacement_hook,
    slice_of_head,
    z_points,
)
from headway.analyze.network.requirements import DoesNotApplyError, needs_layers
from headway.analyze.network.weights import weight
from headway.data.task import Batch, masked_mean
from headway.models.config import Head
from headway.models.convert import Model, evaluating
from headway.models.hooked_transformer import HookedTransformer

# Of so many sequences is the loss of measures that run the network once for every path or every new weight.
SEQUENCES = 8


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
        replacement = replacement_for(point, activations[point], kind)
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
    """The loss when some activations are replaced: the variables of ``loss``, so that their difference is the effect.

    Args:
        model: The network.
        batch: Sequences of a task.
        what: Heads (at hook_z), names of hook points, ``Entries`` of one (neurons), or several of these, replaced
            together; nothing at all gives the loss as it is. ``heads_except`` names everything except a circuit.
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
    hooks = ablation_hooks(model, batch, what, kind, attention, reference)
    return by_part("loss", task_loss(output_with(model, batch, hooks), batch), batch)


def path_patch(model: Model, batch: Batch, reference: Batch | None = None, sequences: int = SEQUENCES) -> xr.Dataset:
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
    other = reference_batch("path_patch", batch, "resample", reference).first(sequences)
    batch = batch.first(sequences)
    clean = mean_loss(forward_pass(model, batch).output, batch)
    clean_cache, patched_cache = (cached_activations(model, each, z_points(model)) for each in (batch, other))
    inputs: tuple[Input, ...] = get_args(Input)
    with torch.no_grad(), evaluating(model):
        try:
            # The tool restores paths in a corrupted run. Here the run is clean and its paths are corrupted.
            losses = [
                get_act_patch_direct_path_all_sources(
                    model,  # pyright: ignore[reportArgumentType]
                    corrupted_tokens=batch.inputs,
                    clean_cache=patched_cache,  # pyright: ignore[reportArgumentType]
                    corrupted_cache=clean_cache,  # pyright: ignore[reportArgumentType]
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


def _output_without(
    model: Model, batch: Batch, head: Head, replacement: Float[Tensor, "batch pos head d_head"], clean: Activations
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """The output with one head's z replaced, from the activations of the network as it is.

    In a network of ours nothing is computed again that stays the same: what comes before, and the attention of the
    head's own layer, whose sum changes by what this head writes.
    """
    point = f"blocks.{head.layer}.attn.hook_z"
    if not isinstance(model, HookedTransformer):
        return output_with(model, batch, [replacement_hook(point, replacement, slice_of_head(head))])
    block, z = model.blocks[head.layer], clean[point]
    W_O = weight(model, "W_O")[head].to(z.dtype)
    with torch.no_grad():
        change = (replacement[:, :, head.head] - z[:, :, head.head]) @ W_O
        residual = clean[f"blocks.{head.layer}.hook_resid_pre"] + clean[f"blocks.{head.layer}.hook_attn_out"] + change
        if not model.cfg.attn_only:
            residual = residual + block.mlp(block.ln2(residual))
        shortformer = clean["hook_pos_embed"] if model.cfg.positional_embedding_type == "shortformer" else None
        return model(residual, start_at_layer=head.layer + 1, shortformer_pos_embed=shortformer)
