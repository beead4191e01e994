"""Direct attribution of the right logit, and logits by position."""

import numpy as np
import torch
import xarray as xr

from headway.analyze.measures.attribution import attribute_outputs
from headway.analyze.network.forward import forward_pass
from headway.analyze.studies.heads import mean_where
from headway.analyze.studies.result import Figure, Section
from headway.data.task import Batch
from headway.models.convert import Model


def attribution_section(model: Model, batch: Batch) -> Section:
    """Contribution of each component to the logit of the right token."""
    plain, over_mean = (attribute_outputs(model, batch, over_mean=over) for over in (False, True))
    means = {"logit": mean_where(plain, batch.mask), "logit minus mean logit": mean_where(over_mean, batch.mask)}
    by_position = over_mean.where(xr.DataArray(batch.mask.numpy(), dims=("batch", "pos"))).mean("batch")
    return Section(
        "Direct attribution",
        "Direct contribution of each component to the logit of the right token, and to that logit minus the mean "
        "logit.",
        (
            Figure("By component", xr.Dataset(means), "table"),
            Figure("By component and position", xr.Dataset({"logit_over_the_mean": by_position}), "maps"),
        ),
    )


def logits_section(model: Model, batch: Batch) -> Section:
    """Logits with and without their mean over the vocabulary, which does not change probabilities."""
    output = forward_pass(model, batch).output
    right = output.gather(-1, batch.targets[..., None])[..., 0]
    lines = {
        "right token": right,
        "mean over the vocabulary": output.mean(-1),
        "right token minus mean": right - output.mean(-1),
    }
    counted = torch.where(batch.mask, 1.0, torch.nan)
    values = np.stack([(each * counted).mean(0).numpy() for each in lines.values()])
    probability = output.softmax(-1).gather(-1, batch.targets[..., None])[..., 0] * counted
    figure = Figure(
        "Logits by position",
        xr.Dataset(
            {"logit": (("line", "pos"), values), "probability": ("pos", probability.mean(0).numpy())},
            {"line": list(lines)},
        ),
        "lines",
        "Means over the batch. The probability of the right token depends on differences of logits alone.",
    )
    return Section("Logits", "Adding a constant to all logits changes no probability.", (figure,))
