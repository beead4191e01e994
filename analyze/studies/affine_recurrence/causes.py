"""Ablation of heads and MLPs, and identity surgery of heads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal

import einops
import numpy as np
import torch
import xarray as xr
from torch import Tensor

from headway.analyze.measures.ablation import ablated_loss, ablation
from headway.analyze.measures.loss import by_part, loss, task_loss
from headway.analyze.measures.surgery import (
    ov_identity_loss,
    ov_identity_surgery,
    qk_identity_loss,
    qk_identity_surgery,
)
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.interventions import heads_except, output_with
from headway.analyze.studies.affine_recurrence.sequences import n_vectors
from headway.analyze.studies.result import Figure, Section, by_layer, table
from headway.data.seeds import generator
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model, evaluating


def ablation_section(model: Model, batch: Batch) -> Section:
    """Error when the heads of a layer, an MLP, or one head is ablated."""
    clean = loss(model, batch).loss_determined.item()
    parts: dict[str, str | list[Head]] = {}
    for layer in range(model.cfg.n_layers):
        parts[f"heads of L{layer}"] = [Head(layer, head) for head in range(model.cfg.n_heads)]
        if not model.cfg.attn_only:
            parts[f"MLP of L{layer}"] = f"blocks.{layer}.hook_mlp_out"
    kinds = ("zero", "mean")
    layers = {
        kind: [ablated_loss(model, batch, what, kind).loss_determined.item() for what in parts.values()]
        for kind in kinds
    }
    figures = [
        Figure("Error when the heads of a layer, or its MLP, are ablated", table("ablated", parts, **layers), "table"),
        *(
            Figure(
                f"Error when one head is ablated, {kind}",
                by_layer(error=clean + ablation(model, batch, kind).ablation_determined),
                "table",
                "hook_z of the head is replaced.",
            )
            for kind in kinds
        ),
    ]
    if model.cfg.n_layers > 2:
        figures += patterns_without_layer_1(model, batch)
    return Section(
        "Ablation",
        f"Mean squared error where the answer is determined, on sequences of {n_vectors(batch)} vectors; the clean "
        f"error is {clean:.2g}. zero: replaced by zero (value biases, which are folded into b_O, stay). mean: "
        "replaced by the mean over all sequences and positions. Later attention is recomputed.",
        tuple(figures),
    )


def patterns_without_layer_1(model: Model, batch: Batch) -> list[Figure]:
    """Attention of later heads when the heads of layer 1 are replaced by their means."""
    before = forward_pass(model, batch).patterns[2:]
    z = forward_pass(model, batch).activations["blocks.1.attn.hook_z"]
    mean = einops.reduce(z, "batch pos head d_head -> 1 1 head d_head", "mean").expand_as(z)
    with torch.no_grad(), evaluating(model), model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", lambda z, hook: mean)]):
        cache = model.run_with_cache(batch.inputs, return_cache_object=False)[1]
    after = torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(2, model.cfg.n_layers)])
    moved = (
        einops.reduce((after - before).abs() / 2, "layer batch head q k -> layer head", "sum")
        / before[0, :, 0, :, 0].numel()
    )
    names = [f"L{layer}" for layer in range(2, model.cfg.n_layers)]
    averaged = einops.reduce(after, "layer batch head q k -> layer head q k", "mean")
    return [
        Figure(
            "Mean attention patterns without the heads of layer 1",
            xr.Dataset(
                {"attention": (("layer", "head", "query", "key"), averaged.numpy())},
                {"layer": range(2, 2 + len(names))},
            ),
            "maps",
        ),
        Figure(
            "Change of attention without the heads of layer 1",
            xr.Dataset(
                {"moved": (HEAD, moved.numpy())}, {"layer": names, "head": [f"H{i}" for i in range(moved.shape[1])]}
            ),
            "table",
            "Share of attention that moves to other keys, from 0 to 1; mean over queries.",
        ),
    ]


def surgery_section(model: Model, batch: Batch, chosen: list[Head]) -> Section:
    """Error when the QK or OV circuit of heads is replaced by a projector."""
    clean = loss(model, batch).loss_determined.item()
    errors = {
        "none": clean,
        "QK, trained W_Q": qk_identity_loss(model, batch, chosen, "trained").loss_determined.item(),
        "QK, random W_Q": qk_identity_loss(model, batch, chosen, "random").loss_determined.item(),
        "OV, plus": ov_identity_loss(model, batch, chosen, "+").loss_determined.item(),
        "OV, minus": ov_identity_loss(model, batch, chosen, "-").loss_determined.item(),
        "OV, random W_V, plus": loss_with_random_values(model, batch, [chosen], 1, "loss_determined")[0],
        "OV, random W_V, minus": loss_with_random_values(model, batch, [chosen], -1, "loss_determined")[0],
        "uniform attention": loss_with_uniform_attention(model, batch, chosen),
        "mean ablation": ablated_loss(model, batch, chosen, "mean").loss_determined.item(),
    }
    times = [after / clean for after in errors.values()]
    queries = qk_identity_surgery(model, batch, len(batch.inputs)).qk_identity_surgery_after
    values = ov_identity_surgery(model, batch, len(batch.inputs)).ov_identity_surgery_after
    one_by_one = {
        "QK, trained W_Q": queries.sel(experiment="trained"),
        "QK, random W_Q": queries.sel(experiment="random"),
        "OV, plus": values.sel(sign="+"),
        "OV, minus": values.sel(sign="-"),
    }
    each_head = [[head] for head in heads_except(model)]
    signs: dict[str, Literal[1, -1]] = {"plus": 1, "minus": -1}
    for name, sign in signs.items():
        after = loss_with_random_values(model, batch, each_head, sign, "loss")
        one_by_one[f"OV, random W_V, {name}"] = xr.DataArray(np.reshape(after, (model.cfg.n_layers, -1)), dims=HEAD)
    return Section(
        "Identity surgery",
        "With W_K := pinv(W_Q).T a head attends to what is similar to its query, and nothing else; with W_O := "
        "±pinv(W_V) it copies, or subtracts, and nothing else. random: W_Q or W_V is drawn anew first. If a "
        "random W_V does as well as the trained one, what the head reads does not matter. Scores of a projector "
        "are small: an error like that of uniform attention means that the heads average; an error like that of mean "
        "ablation means that they are not needed.",
        (
            Figure(
                f"{', '.join(map(str, chosen))} together",
                table("surgery", errors, error=list(errors.values()), times=times),
                "table",
                "error: mean squared error where the answer is determined; times: relative to the clean error.",
            ),
            *(
                Figure(f"One head at a time: {name}", by_layer(error=after), "table", "Error at all positions.")
                for name, after in one_by_one.items()
            ),
        ),
    )


def loss_with_random_values(
    model: Model,
    batch: Batch,
    sets: Sequence[Sequence[Head]],
    sign: Literal[1, -1],
    part: Literal["loss", "loss_determined"],
) -> list[float]:
    """Return the error for each set of heads when their W_V is drawn anew, and W_O := ±pinv(W_V).

    ``W_V W_O`` is then a projector on d_head random dimensions: the control of ``ov_identity_loss``.
    """
    changed, found = deepcopy(model), []
    for heads in sets:
        with _random_projectors(changed, heads, sign):
            found.append(loss(changed, batch)[part].item())
    return found


@contextmanager
def _random_projectors(model: Model, heads: Sequence[Head], sign: int) -> Iterator[None]:
    """Replace W_V and W_O of heads, and restore them."""
    drawn = torch.randn(
        model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model, model.cfg.d_head, generator=generator("null", 0)
    )
    attention = {head: model.blocks[head.layer].attn for head in heads}
    kept = {head: (each.W_V[head.head].clone(), each.W_O[head.head].clone()) for head, each in attention.items()}
    with torch.no_grad():
        try:
            for head, each in attention.items():
                each.W_V[head.head] = drawn[head]
                each.W_O[head.head] = sign * torch.linalg.pinv(drawn[head])
            yield
        finally:
            for head, each in attention.items():
                each.W_V[head.head], each.W_O[head.head] = kept[head]


def loss_with_uniform_attention(model: Model, batch: Batch, heads: Sequence[Head]) -> float:
    """Return the error where the answer is determined when some heads have uniform attention."""
    by_layer = {head.layer: [each.head for each in heads if each.layer == head.layer] for head in heads}

    def flat(scores: Tensor, hook: Any) -> Tensor:
        some = by_layer[hook.layer()]
        uniform = scores.clone()
        uniform[:, some] = torch.where(scores[:, some].isfinite(), 0.0, scores[:, some])
        return uniform

    hooks = [(f"blocks.{layer}.attn.hook_attn_scores", flat) for layer in by_layer]
    return by_part("loss", task_loss(output_with(model, batch, hooks), batch), batch).loss_determined.item()
