"""Figures that several studies share."""

from collections.abc import Sequence

import einops
import torch
import xarray as xr

from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import forward_pass
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Figure, table
from headway.data.task import Batch


def patterns_of_first(network: LoadedModel, batch: Batch) -> Figure:
    """Attention pattern of every head on the first sequence."""
    patterns, tokens = forward_pass(network.model, batch).patterns[:, 0], network.labels(batch)
    attention = xr.Dataset({"attention": ((*HEAD, "query", "key"), patterns.numpy())}, {"query": tokens, "key": tokens})
    return Figure("Attention patterns", attention, "maps")


def lengths_of_first(network: LoadedModel, batch: Batch) -> Figure:
    """Norm of hook_z of every head at each token of the first sequence."""
    shown, layers = forward_pass(network.model, batch).activations, range(network.model.cfg.n_layers)
    z = torch.stack([shown[f"blocks.{layer}.attn.hook_z"][0] for layer in layers])
    lengths = einops.rearrange(z.norm(dim=-1), "layer pos head -> layer head pos").numpy()
    return Figure(
        "Norm of hook_z",
        xr.Dataset({"z": ((*HEAD, "token"), lengths)}, {"token": network.labels(batch)}),
        "lines",
        "At each token: the norm of the values that the head reads, weighted by attention.",
    )


def predictions_of_first(
    title: str, network: LoadedModel, batch: Batch, positions: Sequence[int], note: str, probability: bool = False
) -> Figure:
    """Table of the predictions at some positions of the first sequence, beside the right tokens."""
    output, following = forward_pass(network.model, batch).output[0], batch.targets[0]
    tokens, predicted, where = network.tokens(batch)[0], output.argmax(-1), list(positions)
    columns = {
        "token": [tokens[q] for q in where],
        "next": [network.token(token) for token in following[where].tolist()],
        "predicted": [network.token(token) for token in predicted[where].tolist()],
        "right": (predicted == following)[where].tolist(),
    }
    if probability:
        columns["probability"] = output.softmax(-1).gather(-1, following[:, None])[where, 0].numpy()
    return Figure(title, table("pos", where, **columns), "table", note)
