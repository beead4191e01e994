"""Probes of the constants and the coefficient at each depth."""

from functools import partial

import numpy as np
import xarray as xr

from headway.analyze.measures.nulls import untrained
from headway.analyze.studies.affine_recurrence.sequences import known_of, last_position, sequences_of
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Figure, Section
from headway.analyze.tools.probe import ProbeResult, Samples, linear_probe, mlp_probe, samples


def probes_section(network: LoadedModel, length: int, sequences: int) -> Section:
    """Linear and MLP probes of d and c at each depth, beside the same probes of an untrained network."""
    half = max(2, sequences // 2)
    batches = {
        name: sequences_of(network, count, length, draw=draw)
        for draw, (name, count) in enumerate({"train": sequences, "held_out": half, "validation": half}.items(), 1)
    }
    assert network.run is not None
    networks = {"trained": network.folded, "untrained": untrained(network.run.recipe.model)}
    depths = {"embed": "blocks.0.hook_resid_pre"}
    depths |= {f"after L{layer}": f"blocks.{layer}.hook_resid_post" for layer in range(network.model.cfg.n_layers)}
    probes = {
        "linear": lambda of: linear_probe(of["train"], of["held_out"]),
        "mlp": lambda of: mlp_probe(of["train"], of["held_out"], validation=of["validation"]),
    }
    found: dict[str, list[ProbeResult]] = {
        f"{target}, {kind}, {name}": [] for target in ("d", "c") for kind in probes for name in networks
    }
    for name, model in networks.items():
        for point in depths.values():
            read = {
                each: samples(model, batch, point, partial(known_of, "d"), last_position)
                for each, batch in batches.items()
            }
            for target in ("d", "c"):
                of = {each: Samples(read[each].x, batch.info[target]) for each, batch in batches.items()}
                for kind, probe in probes.items():
                    found[f"{target}, {kind}, {name}"].append(probe(of))
    # [probe, depth, number]
    numbers = np.array([list(each) for each in found.values()])
    titles = {
        "train_error": "Error on the training sequences",
        "held_out_error": "Error on held-out sequences",
        "r_squared": "R²",
    }
    return Section(
        "Probes",
        f"Linear and small MLP probes of the constants d and the coefficient c, at the last position of {length} "
        f"vectors: trained on {sequences} sequences, evaluated on {half} others; the loss on {half} further ones stops "
        "an MLP probe. Training has not computed what they find in an untrained network.",
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
