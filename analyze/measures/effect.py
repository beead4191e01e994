"""Effect: the share of what is known of a task's behaviour that is lost when one head or MLP is replaced."""

from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.measures.descriptions import LEAST_KNOWN
from headway.analyze.measures.loss import task_loss
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import Activations, ForwardPass, forward_pass, output_from
from headway.analyze.network.interventions import (
    output_with,
    replacement_for,
    replacement_hook,
    slice_of_head,
    z_points,
)
from headway.analyze.network.requirements import DoesNotApplyError
from headway.data.seeds import generator
from headway.data.task import Batch, masked_mean
from headway.models.config import Head
from headway.models.convert import Model, evaluating
from headway.models.hooked_transformer import HookedTransformer

# Every head runs the network behind it on as many sequences.
SEQUENCES = 16
# Heads run together as long as their largest activation has at most as many numbers.
MOST_NUMBERS = 2**24


def effect(model: Model, batch: Batch) -> xr.Dataset:
    """Effect of replacing each head and MLP alone: the share that is lost of what is known of the task's behaviour.

    ``effect`` [layer, head] and ``effect_mlp`` [layer]: ``(L(this replaced) - L(clean)) / known``, any number, where L
    is the loss on the part of the task that ``Task.behaviour`` names, and ``known = L(all replaced) - L(clean)``. NaN
    where less than a tenth of ``L(all replaced)`` is known. ``effect_known`` and ``effect_clean``, which is L(clean),
    are in units of the loss. What stands in is what the node writes on a twin, a sequence from which the answer cannot
    be told (``Task.twin``); its mean at each position where the task draws none. Everything behind it is computed
    again. The first 16 sequences count. No null: 0 is no effect, negative a node that does harm, above 1 a node that
    misleads when it alone is replaced. It does not show redundant nodes, which have no effect one at a time:
    ``headway circuit`` finds those.

    Raises:
        DoesNotApplyError: no position of the behaviour in the batch; no twins and a single sequence.
        ValueError: a batch without a task.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> needed = effect(*composing_pair("k"))  # a previous-token head, and an induction head that reads it
        >>> (needed.effect > 0.5).values.tolist()
        [[True, False], [False, True]]
    """
    if batch.task is None:
        raise ValueError("batch: its task is None, so its loss is undefined; take a batch from run.batch() or a task")
    first, part = batch.first(SEQUENCES), batch.task.behaviour.part
    mask = first.mask if part is None else first.mask & batch.task.parts(first)[part]
    if not mask.any():
        raise DoesNotApplyError(f"effect needs positions of the part {part}; this batch has none")
    twin = batch.task.twin(first.to("cpu"), generator("twin", 0))
    if twin is None and len(first.inputs) < 2:
        raise DoesNotApplyError("effect needs twins of the task, or other sequences; this batch has 1")
    shared = forward_pass(model, batch)
    clean = {name: value[: len(first.inputs)] for name, value in shared.activations.items()}
    mlps = [point for layer in range(model.cfg.n_layers) if (point := f"blocks.{layer}.hook_mlp_out") in clean]
    points = [*z_points(model), *mlps]
    if twin is None:
        other = _means(model, first, clean, points)
    else:
        other = _pass_over(model, twin.to(batch.inputs.device), points)

    def loss(output: Float[Tensor, "batch pos d_vocab_out"]) -> Tensor:
        return masked_mean(task_loss(output, first), mask)

    base, none = loss(shared.output[: len(first.inputs)]), loss(other.output)
    known = none - base
    share = known if known >= LEAST_KNOWN * none else torch.full_like(known, np.nan)
    with torch.no_grad(), evaluating(model):
        outputs = _without_each(model, first, clean, other.activations, z_points(model))
        heads = (torch.stack([loss(output) for output in outputs]) - base) / share
        outputs = _without_each(model, first, clean, other.activations, mlps)
        of_mlps = [(loss(output) - base) / share for output in outputs]
    asked = {"part": part or "", "replacement": "position_mean" if twin is None else "twin"}
    scores = {
        "effect": (HEAD, heads.view(model.cfg.n_layers, model.cfg.n_heads).cpu().numpy(), asked),
        "effect_clean": ((), base.cpu().numpy()),
        "effect_known": ((), known.cpu().numpy(), asked),
    }
    if of_mlps:
        scores["effect_mlp"] = (("layer",), torch.stack(of_mlps).cpu().numpy(), asked)
    return xr.Dataset(scores)


def _means(model: Model, batch: Batch, clean: Activations, points: list[str]) -> ForwardPass:
    """Return the mean of each activation at each position, and the output of a network that writes means alone."""
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    real = batch.attention_mask
    means = {point: replacement_for(point, clean[point], "position_mean", real) for point in (*points, last)}
    return ForwardPass(output_with(model, batch, [replacement_hook(last, means[last])]), means)


def _pass_over(model: Model, batch: Batch, points: list[str]) -> ForwardPass:
    """Return activations at these points only, which a network of this package computes with its fused kernels."""
    if not isinstance(model, HookedTransformer):
        return forward_pass(model, batch)
    with torch.no_grad(), evaluating(model):
        return ForwardPass(
            *model.run_with_cache(
                batch.inputs, return_cache_object=False, names_filter=lambda name: name in points, **batch.padding
            )
        )


def _without_each(
    model: Model, batch: Batch, clean: Activations, replaced: Activations, points: list[str]
) -> Iterator[Tensor]:
    """Give the output without each head or MLP."""
    if isinstance(model, HookedTransformer):
        return _from_residual(model, batch, clean, replaced, points)
    return _by_hooks(model, batch, replaced, points)


def _by_hooks(model: Model, batch: Batch, replaced: Activations, points: list[str]) -> Iterator[Tensor]:
    """Run the network once for each head or MLP."""
    for layer, point in enumerate(points):
        heads = range(model.cfg.n_heads) if point.endswith("hook_z") else [None]
        for head in heads:
            index = ... if head is None else slice_of_head(Head(layer, head))
            yield output_with(model, batch, [replacement_hook(point, replaced[point], index)])


def _from_residual(
    model: HookedTransformer, batch: Batch, clean: Activations, replaced: Activations, points: list[str]
) -> Iterator[Tensor]:
    """Run the heads of a layer together, from its residual stream on, through the layers behind it."""
    for layer, point in enumerate(points):
        block, residual = model.blocks[layer], clean[f"blocks.{layer}.hook_resid_pre"]
        change = replaced[point].to(clean[point]) - clean[point]
        if point.endswith("hook_z"):
            W_O = block.attn.W_O.to(change.dtype)
            each = torch.einsum("bphd,hdm->hbpm", change, W_O) + residual + clean[f"blocks.{layer}.hook_attn_out"]
        else:
            each = (clean[f"blocks.{layer}.hook_resid_post"] + change)[None]
        for some in each.split(_together(model, each)):
            stack = some.flatten(0, 1).to(model.W_E.dtype)
            if point.endswith("hook_z") and not model.cfg.attn_only:
                stack = stack + block.mlp(block.ln2(stack))
            output = output_from(model, layer + 1, stack, clean, batch.padding, len(some))
            yield from output.unflatten(0, (len(some), -1))


def _together(model: HookedTransformer, each: Float[Tensor, "head batch pos d_model"]) -> int:
    """Return how many heads run together."""
    cfg, pos = model.cfg, each.shape[2]
    widest = max(cfg.d_vocab_out, 0 if cfg.attn_only else cfg.d_mlp, 3 * cfg.d_model, cfg.n_heads * pos)
    return max(1, MOST_NUMBERS // (each.shape[1] * pos * widest))
