"""Probes of the constants and the coefficient at each depth, and of what layers write outside of the embedding."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.measures.nulls import untrained
from headway.analyze.network.weights import weight
from headway.analyze.studies.affine_recurrence.sequences import known_of, last_position, sequences_of
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Figure, Section
from headway.analyze.tools.probe import ProbeResult, Samples, linear_probe, mlp_probe, samples
from headway.data.task import Batch
from headway.models.convert import Model

# The batches that a probe is fitted to, evaluated on, and stopped by.
Batches = Mapping[str, Batch]
Features = Float[Tensor, "sample feature"]


def probes_section(network: LoadedModel, length: int, sequences: int) -> Section:
    """Linear and MLP probes of d and c at each depth, beside the same probes of an untrained network."""
    batches = _batches(network, length, sequences)
    depths = {"embed": "blocks.0.hook_resid_pre"}
    depths |= {f"after L{layer}": f"blocks.{layer}.hook_resid_post" for layer in range(network.model.cfg.n_layers)}
    found = _probed(
        network, batches, {name: partial(_at_last, point=point) for name, point in depths.items()}, ("d", "c")
    )
    # [probe, depth, number]
    numbers = np.array([list(each) for each in found.values()])
    titles = {
        "train_error": "Error on the training sequences",
        "held_out_error": "Error on held-out sequences",
        "r_squared": "R²",
    }
    return Section(
        "Probes",
        f"Linear and small MLP probes of the constants d and the coefficient c, {_fitted(batches)} Training has not "
        "computed what they find in an untrained network.",
        tuple(
            Figure(
                title,
                xr.Dataset(
                    {name: (("probe", "depth"), numbers[..., ProbeResult._fields.index(name)])},
                    {"probe": list(found), "depth": list(depths)},
                ),
                "table",
                "On held-out sequences." if name == "r_squared" else "Mean squared error.",
            )
            for name, title in titles.items()
        ),
    )


def outside_section(network: LoadedModel, length: int, sequences: int) -> Section:
    """Probes of the part of each layer's output that is orthogonal to all embeddings, beside an untrained network."""
    title = "Probes outside of the embedding"
    if outside_basis(network.folded).shape[1] == 0:
        return Section(title, "The embedding has full rank: nothing is outside of it.", ())
    batches = _batches(network, length, sequences)
    layers = {f"L{layer}": partial(written_outside, layer=layer) for layer in range(network.model.cfg.n_layers)}
    found = _probed(network, batches, layers, ("d", "c", "second vector"))
    return Section(
        title,
        "The output of a layer (heads and MLP), without its part in the embedding: can the constants d, the "
        f"coefficient c or the second vector be decoded from it? Linear and small MLP probes {_fitted(batches)}",
        (
            Figure(
                "R² outside of the embedding",
                xr.Dataset(
                    {"r_squared": (("probe", "layer"), [[each.r_squared for each in row] for row in found.values()])},
                    {"probe": list(found), "layer": list(layers)},
                ),
                "table",
                "On held-out sequences.",
            ),
        ),
    )


def outside_basis(model: Model) -> Float[Tensor, "d_model outside"]:
    """Return an orthonormal basis of what is orthogonal to all embeddings."""
    W_E = weight(model, "W_E")
    return torch.linalg.svd(W_E).Vh[int(torch.linalg.matrix_rank(W_E)) :].mT


def written_outside(model: Model, batch: Batch, layer: int) -> Features:
    """Return the coordinates outside of the embedding of what a layer adds at the last position."""
    after, before = (_at_last(model, batch, f"blocks.{layer}.hook_resid_{side}") for side in ("post", "pre"))
    return (after - before).to(weight(model, "W_E")) @ outside_basis(model)


def _at_last(model: Model, batch: Batch, point: str) -> Features:
    return samples(model, batch, point, partial(known_of, "d"), last_position).x


def _batches(network: LoadedModel, length: int, sequences: int) -> Batches:
    half = max(2, sequences // 2)
    counts = {"train": sequences, "held_out": half, "validation": half}
    return {
        name: sequences_of(network, count, length, draw=draw) for draw, (name, count) in enumerate(counts.items(), 1)
    }


def _fitted(batches: Batches) -> str:
    count, half = (len(batches[name].inputs) for name in ("train", "held_out"))
    return (
        f"at the last position of {batches['train'].inputs.shape[1] + 1} vectors: trained on {count} sequences, "
        f"evaluated on {half} others; the loss on {half} further ones stops an MLP probe."
    )


def _probed(
    network: LoadedModel,
    batches: Batches,
    reads: Mapping[str, Callable[[Model, Batch], Features]],
    targets: tuple[str, ...],
) -> dict[str, list[ProbeResult]]:
    """Return the results of each probe of each target, trained and untrained network, in the order of ``reads``."""
    assert network.run is not None
    networks = {"trained": network.folded, "untrained": untrained(network.run.recipe.model)}
    probes = {
        "linear": lambda of: linear_probe(of["train"], of["held_out"]),
        "mlp": lambda of: mlp_probe(of["train"], of["held_out"], validation=of["validation"]),
    }
    found: dict[str, list[ProbeResult]] = {
        f"{target}, {kind}, {name}": [] for target in targets for kind in probes for name in networks
    }
    for name, model in networks.items():
        for read in reads.values():
            x = {each: read(model, batch) for each, batch in batches.items()}
            for target in targets:
                of = {each: Samples(x[each], _target(batch, target)) for each, batch in batches.items()}
                for kind, probe in probes.items():
                    found[f"{target}, {kind}, {name}"].append(probe(of))
    return found


def _target(batch: Batch, name: str) -> Float[Tensor, "batch entry"]:
    return batch.inputs[:, 1] if name == "second vector" else batch.info[name]
