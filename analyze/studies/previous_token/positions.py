"""Attention of heads, and linear probes of the position."""

import einops
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.measures.attention import uniform_pattern
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import forward_pass
from headway.analyze.studies.figures import lengths_of_first, patterns_of_first
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.previous_token.sequences import position_target
from headway.analyze.studies.result import Figure, Section, table
from headway.analyze.tools.probe import Samples, linear_probe, probe_activation
from headway.data.task import Batch
from headway.models.convert import Model


def activations_section(network: LoadedModel, batch: Batch) -> Section:
    """Norms of hook_z and attention patterns of one sequence."""
    return Section(
        "Activations",
        "The first sequence of the evaluation batch; tokens are named by position and number.",
        (lengths_of_first(network, batch), patterns_of_first(network, batch)),
    )


def attention_section(model: Model, fresh: Model, batch: Batch) -> Section:
    """Mean attention patterns over the batch, and attention to position 0, the position of BOS."""
    by_network = {"trained": _mean_pattern(model, batch), "untrained": _mean_pattern(fresh, batch)}
    shares = torch.stack([pattern[..., 0] for pattern in by_network.values()])
    uniform = uniform_pattern(model, batch)[0, 0, 0, :, 0]
    trained = xr.Dataset({"attention": (("layer", "head", "query", "key"), by_network["trained"].numpy())})
    return Section(
        "Attention",
        "Means over the batch depend on positions alone.",
        (
            Figure("Mean attention pattern", trained, "maps"),
            Figure(
                "Mean attention to position 0, by query",
                xr.Dataset(
                    {
                        "share": (("network", *HEAD, "query"), shares.numpy()),
                        "alike": ("query", uniform.cpu().numpy(), {"long_name": "uniform attention: 1 / (q + 1)"}),
                    },
                    {"network": list(by_network)},
                ),
                "lines",
                "Position 0 is BOS, if the task has one.",
                "y",
            ),
        ),
    )


def position_section(model: Model, fresh: Model, batch: Batch, held_out: Batch) -> Section:
    """R² of linear probes of the position, from attention and from activations of layer 0."""
    points = {
        "token embedding": "hook_embed",
        "after layer 0's attention": "blocks.0.attn.hook_z",
        **({} if model.cfg.attn_only else {"MLP 0's neurons": "blocks.0.mlp.hook_post"}),
        "after layer 0": "blocks.0.hook_resid_post",
    }
    rows: dict[str, list[float]] = {}
    networks = (model, fresh)
    for name, read in {
        "attention to position 0 in L0": _attention_to_first,
        "1 / attention to position 0": _one_over_attention,
    }.items():
        rows[name] = [
            linear_probe(
                *(Samples(read(network, each), position_target(each)[each.mask]) for each in (batch, held_out))
            ).r_squared
            for network in networks
        ]
    for name, point in points.items():
        rows[name] = [
            probe_activation(network, batch, held_out, point, position_target).r_squared for network in networks
        ]
    return Section(
        "Linear probes of the position",
        "R² of a linear regression of the position, on sequences that it is not fitted to. Even without BOS and "
        "positional embeddings, causal attention averages over more tokens at later positions.",
        (
            Figure(
                "R² of the position",
                table(
                    "input of the probe",
                    rows,
                    trained=[r[0] for r in rows.values()],
                    untrained=[r[1] for r in rows.values()],
                ),
                "table",
            ),
        ),
    )


def _mean_pattern(model: Model, batch: Batch) -> Float[Tensor, "layer head query key"]:
    return einops.reduce(forward_pass(model, batch).patterns, "layer batch head q k -> layer head q k", "mean")


def _attention_to_first(model: Model, batch: Batch) -> Float[Tensor, "sample head"]:
    return einops.rearrange(forward_pass(model, batch).patterns[0, :, :, :, 0], "batch head q -> batch q head")[
        batch.mask
    ]


def _one_over_attention(model: Model, batch: Batch) -> Float[Tensor, "sample head"]:
    return 1 / _attention_to_first(model, batch).clamp(min=1e-6)
