"""Which neurons matter, and for what."""

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
from headway.analyze.studies.previous_token.sequences import (
    every_activation,
)
from headway.analyze.studies.result import Figure, Section, table
from headway.data.task import Batch

# Of so many neurons of a layer each has a row of its own.
NEURONS = 12


def neurons_section(network: LoadedModel, batch: Batch) -> Section:
    """From tokens through OV into neurons, what neurons do by position, and which of them matter."""
    model, folded = network.model, network.folded
    if model.cfg.attn_only:
        return Section("Neurons", "This network has none.", ())
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
            "W_E W_OV W_in: what attention to a token alone adds before the activation; token 0 is BOS.",
        ),
        Figure(
            "Neurons by position",
            xr.Dataset({"activation": (("layer", "pos", "neuron"), by_position.numpy())}),
            "maps",
            "Means over the batch.",
        ),
        Figure(
            "Which neurons matter",
            xr.Dataset({"change": (("layer", "rank"), -np.sort(-effect, axis=-1))}),
            "lines",
            "Change in loss when one neuron is replaced by its mean, largest first. Most change nothing.",
        ),
        Figure(
            "Keeping the most important ones",
            xr.Dataset({"loss": (("layer", "kept"), keeping)}, {"kept": kept}),
            "lines",
            "Loss when so many neurons of a layer are kept, in that order, and all others are their means.",
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
                f"Neurons of L{layer} that matter most",
                table(
                    "neuron",
                    first,
                    change_in_loss=effect[layer, first],
                    with_position=along.tolist(),
                    from_bos=bos.tolist(),
                    from_others=rest.tolist(),
                ),
                "table",
                "with_position: correlation of the mean activation with the position. from_bos, from_others: what "
                "OV of this layer's heads carries in from BOS, and from other tokens in the mean.",
            )
        )
    return Section("Neurons", "Which of them matter, and for what.", tuple(figures))
