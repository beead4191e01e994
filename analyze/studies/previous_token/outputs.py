"""What says the right token, and with which logit."""

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
    """What each part adds to the logit of the right token."""
    plain, over_mean = (attribute_outputs(model, batch, over_mean=over) for over in (False, True))
    means = {"logit": mean_where(plain, batch.mask), "logit over the mean": mean_where(over_mean, batch.mask)}
    by_position = over_mean.where(xr.DataArray(batch.mask.numpy(), dims=("batch", "pos"))).mean("batch")
    return Section(
        "Direct attribution",
        "What each component adds to the right token's logit directly, and to that logit over the mean of all logits.",
        (
            Figure("By component", xr.Dataset(means), "table"),
            Figure("By component and position", xr.Dataset({"logit_over_the_mean": by_position}), "maps"),
        ),
    )


def logits_section(model: Model, batch: Batch) -> Section:
    """Logits with and without their mean over the vocabulary, which no probability depends on."""
    output = forward_pass(model, batch).output
    right = output.gather(-1, batch.targets[..., None])[..., 0]
    lines = {
        "the right token": right,
        "mean over the vocabulary": output.mean(-1),
        "the right token over the mean": right - output.mean(-1),
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
        "Means over the batch; the probability of the right token depends on differences alone.",
    )
    return Section("Logits", "Adding a number to all logits changes nothing.", (figure,))
