"""Training losses, beside those of the published run."""

import numpy as np
import xarray as xr

from headway.analyze.measures.loss import loss
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.published import PublishedRun
from headway.analyze.studies.result import Figure, Section, table
from headway.data.affine_recurrence import AffineRecurrence

# Training losses of single batches, by step.
PUBLISHED = PublishedRun(
    {0: 0.196, 500: 0.0069, 1000: 0.0048, 2500: 0.0018, 10_000: 5.4e-4},
    AffineRecurrence(),
    {"n_layers": 3, "n_heads": 8, "d_model": 128, "d_head": 64, "d_mlp": 3072},
    batch_size=16,
)


def training_section(network: LoadedModel) -> Section:
    """Loss of every training batch at all positions, and evaluation loss where the answer is determined."""
    run, step = network.run, network.step
    assert run is not None
    assert step is not None
    training = run.training.loss.sel(step=slice(None, step))
    steps = training.step.values
    # A median of no updates fails.
    median = training.rolling(step=min(100, len(steps)), min_periods=1).median() if len(steps) else training
    shown = np.unique(np.geomspace(1, max(step, 1), 200).round().astype(int))
    shown = np.intersect1d(np.union1d(shown, [max(each, 1) for each in PUBLISHED.losses]), steps)
    curves = {
        "single batches": training.sel(step=shown).values,
        "median of the last 100": median.sel(step=shown).values,
    }
    if PUBLISHED.is_like(run.recipe):
        published = {max(each, 1): value for each, value in PUBLISHED.losses.items()}
        curves["published, single batches"] = np.array([published.get(each, np.nan) for each in shown.tolist()])
    lines = xr.DataArray(
        list(curves.values()),
        coords={"line": list(curves), "step": shown},
        dims=("line", "step"),
        attrs={"long_name": "training loss, all positions"},
    )
    figures = [Figure("Training loss", xr.Dataset({"loss": lines}), "lines", "", "xy")]
    if PUBLISHED.is_like(run.recipe):
        known = [each for each in PUBLISHED.losses if each + 1 in steps]
        kept = {each: min((k for k in run.steps if k <= step), key=lambda k: abs(k - each)) for each in known}
        near = {each: k for each, k in kept.items() if abs(k - each) <= 0.1 * each}
        figures.append(
            Figure(
                "Comparison with the published run",
                table(
                    "step",
                    known,
                    published=[PUBLISHED.losses[each] for each in known],
                    all_positions=[median.sel(step=each + 1).item() for each in known],
                    checkpoint=[near.get(each, np.nan) for each in known],
                    where_determined=[
                        loss(run.model(near[each]), run.batch()).loss_determined.item() if each in near else np.nan
                        for each in known
                    ],
                ),
                "table",
                "published: single batches. all positions: median of the last 100 training batches. where determined: "
                "evaluation batch, at the nearest checkpoint.",
            )
        )
    return Section("Training", "Mean squared error of each training batch before its update.", tuple(figures))
