"""Neurons: inputs from tokens, activations by position, and effects on the loss."""

import einops
import numpy as np
import torch
import xarray as xr

from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.loss import loss
from headway.analyze.network.axes import HEAD
from headway.analyze.network.interventions import Entries
from headway.analyze.network.weights import ov, weight
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.previous_token.sequences import every_activation
from headway.analyze.studies.result import Figure, Section, table
from headway.data.task import Batch

# Neurons of a layer in the table.
NEURONS = 12


def neurons_section(network: LoadedModel, batch: Batch) -> Section:
    """Paths from tokens through OV into neurons, activations by position, and ablation of neurons."""
    model, folded = network.model, network.folded
    if model.cfg.attn_only:
        return Section("Neurons", "This network has no MLPs.", ())
    W_E, W_in = weight(folded, "W_E"), torch.stack([block.mlp.W_in.detach() for block in folded.blocks])
    circuits = ov(folded)
    W_OV = einops.rearrange(circuits.A @ circuits.B, "(layer head) a b -> layer head a b", layer=model.cfg.n_layers)
    into = einops.einsum(W_E, W_OV, W_in, "token a, layer head a b, layer b neuron -> layer head token neuron")
    cache = every_activation(model, batch)
    fired = torch.stack([cache[f"blocks.{layer}.mlp.hook_post"] for layer in range(model.cfg.n_layers)])
    by_position = einops.reduce(fired, "layer batch pos neuron -> layer pos neuron", "mean")
    clean = loss(model, batch).loss.item()
    points = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers)]
    effect = np.array(
        [
            [
                ablated_loss(model, batch, Entries(point, [neuron])).loss.item() - clean
                for neuron in range(W_in.shape[-1])
            ]
            for point in points
        ]
    )
    order = (-effect).argsort(axis=-1)
    kept = sorted({0, *np.unique(np.geomspace(1, W_in.shape[-1], 16).round().astype(int)).tolist()})
    keeping = np.array(
        [
            [ablated_loss(model, batch, Entries(point, ranked[many:].tolist())).loss.item() for many in kept]
            for point, ranked in zip(points, order, strict=True)
        ]
    )
    pos = torch.arange(by_position.shape[1]).float()[1:]
    figures = [
        Figure(
            "Tokens into neurons",
            xr.Dataset({"into": ((*HEAD, "token", "neuron"), into.numpy())}),
            "maps",
            "W_E W_OV W_in: the pre-activation from attention to a token; token 0 is BOS.",
        ),
        Figure(
            "Mean activation by position",
            xr.Dataset({"activation": (("layer", "pos", "neuron"), by_position.numpy())}),
            "maps",
            "Means over the batch.",
        ),
        Figure(
            "Change in loss when one neuron is ablated",
            xr.Dataset({"change": (("layer", "rank"), -np.sort(-effect, axis=-1))}),
            "lines",
            "Replaced by its mean; largest change first.",
        ),
        Figure(
            "Loss with the most important neurons alone",
            xr.Dataset({"loss": (("layer", "kept"), keeping)}, {"kept": kept}),
            "lines",
            "kept: the number of neurons of a layer that are kept, in the order above; all others are replaced by "
            "their means.",
            "xy",
        ),
    ]
    for layer, ranked in enumerate(order):
        first = ranked[:NEURONS].tolist()
        along = torch.corrcoef(torch.cat([pos[None], by_position[layer, 1:, first].T]))[0, 1:]
        bos = into[layer, :, 0].sum(0)[first]
        rest = into[layer, :, 1:].mean(1).sum(0)[first]
        figures.append(
            Figure(
                f"Most important neurons of L{layer}",
                table(
                    "neuron",
                    first,
                    change_in_loss=effect[layer, first],
                    with_position=along.tolist(),
                    from_bos=bos.tolist(),
                    from_others=rest.tolist(),
                ),
                "table",
                "with_position: correlation of the mean activation with the position. from_bos, from_others: input "
                "through OV of the heads of this layer, from BOS and from the mean of the other tokens.",
            )
        )
    return Section("Neurons", "Effects of neurons on the loss, and their inputs.", tuple(figures))
