"""Datasets of formation over many runs, made from those of a few, because files of a hundred take a minute."""

import numpy as np
import xarray as xr

from headway.analyze.formation.distributions import distributions
from headway.analyze.report.runs_page import OfRun

# What belongs to each run; everything else follows from it.
OF_EACH = (
    "half_way", "after", "before", "width", "level", "formed", "state", "by_updates", "who", "last_step", "kind",
    "parts", "routes", "way",
)  # fmt: skip


def repeated(few: xr.Dataset, count: int) -> xr.Dataset:
    """The runs of ``few`` again and again, each with dates of its own between the same checkpoints."""
    data = few[list(OF_EACH)].isel(run=np.arange(count) % few.sizes["run"]).drop_vars("path")
    data = data.assign_coords(run=[f"seed-{place:03d}" for place in range(count)])
    draws = np.random.default_rng(0).uniform(0.1, 0.9, data.half_way.shape)
    data["half_way"] = data.after + draws * (data.before - data.after)
    found = data.merge(distributions(data))
    found.attrs |= few.attrs | {"notes": []}
    return found


def listed(data: xr.Dataset) -> list[OfRun]:
    """Options and pages of the same runs: they differ in their seed and in nothing else."""
    return [OfRun({"seed": seed, "optim.lr": 0.01}, f"{name}/report.html") for seed, name in enumerate(data.run.values)]
