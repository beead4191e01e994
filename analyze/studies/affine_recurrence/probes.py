"""What a probe reads of the constants and the coefficient at each depth."""

from functools import partial

import numpy as np
import xarray as xr

from headway.analyze.measures.nulls import untrained
from headway.analyze.studies.affine_recurrence.sequences import known_of, last_position, sequences_of
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Figure, Section
from headway.analyze.tools.probe import ProbeResult, Samples, linear_probe, mlp_probe, samples


def probes_section(network: LoadedModel, length: int, sequences: int) -> Section:
    """What a probe reads of d and of c at each depth, beside the same probe on a network that was not trained."""
    train, held_out = (
        sequences_of(network, count, length, draw=draw) for draw, count in ((1, sequences), (2, max(2, sequences // 2)))
    )
    assert network.run is not None
    networks = {"trained": network.folded, "untrained": untrained(network.run.recipe.model)}
    depths = {"embed": "blocks.0.hook_resid_pre"}
    depths |= {f"after L{layer}": f"blocks.{layer}.hook_resid_post" for layer in range(network.model.cfg.n_layers)}
    probes = {"linear": linear_probe, "mlp": mlp_probe}
    found: dict[str, list[ProbeResult]] = {
        f"{target}, {kind}, {name}": [] for target in ("d", "c") for kind in probes for name in networks
    }
    batches = (train, held_out)
    for name, model in networks.items():
        for point in depths.values():
            there = [samples(model, batch, point, partial(known_of, "d"), last_position).x for batch in batches]
            for target in ("d", "c"):
                known = [known_of(target, batch)[last_position(batch)] for batch in batches]
                for kind, probe in probes.items():
                    found[f"{target}, {kind}, {name}"].append(probe(*map(Samples, there, known)))
    # [probe, depth, number]
    numbers = np.array([list(each) for each in found.values()])
    shown = {
        "train_error": "Error on the training sequences",
        "held_out_error": "Error on the others",
        "r_squared": "R²",
    }
    return Section(
        "Probes",
        f"A linear and a small MLP probe for the constants d and the coefficient c, at the last position of {length} "
        f"vectors: trained on {sequences} sequences, and tried on {len(held_out.inputs)} others. What they read of "
        "an untrained network was not computed by training.",
        tuple(
            Figure(
                said,
                xr.Dataset(
                    {name: (("probe", "depth"), numbers[..., ProbeResult._fields.index(name)])},
                    {"probe": list(found), "depth": list(depths)},
                ),
                "table",
                "On the sequences that it was not trained on." if name == "r_squared" else "Mean squared error.",
            )
            for name, said in shown.items()
        ),
    )
