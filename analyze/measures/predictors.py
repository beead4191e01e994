"""Distance of a network from the predictors that its task knows, such as the optimal one."""

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from headway.analyze.network.forward import forward_pass
from headway.analyze.network.requirements import DoesNotApplyError, check_targets
from headway.data.task import Batch, masked_mean
from headway.models.convert import Model


def predictor_distance(model: Model, batch: Batch) -> xr.Dataset:
    """Distance of the network's predictions from those of each predictor of the task, such as bigram counts.

    ``predictor_distance`` [predictor], ``predictor_distance_by_position`` [predictor, pos], and
    ``predictor_distance_<part>`` [predictor] for each part of the task: means over the batch's mask. For tokens it is
    the KL divergence ``sum_j p_j (ln p_j - ln q_j)`` of the network q from the predictor p, in nats (Edelman et al.
    2024); for numbers the mean squared difference (Raventós et al. 2023). 0 or more; null 0: the network is the
    predictor. The predictors are those of ``Task.predictors``. It does not show how the network computes its
    predictions, and two predictors that agree on these sequences have the same distance.

    Raises:
        DoesNotApplyError: a task without known predictors.

    Example:
        >>> from headway.models.handmade import known_chain
        >>> model, batch = known_chain()  # it knows the only chain of its task by heart
        >>> distance = predictor_distance(model, batch).predictor_distance
        >>> bool(distance.sel(predictor="pool") < 1e-6), bool(distance.sel(predictor="unigram") > 0.1)
        (True, True)
    """
    task = batch.task
    if task is None or not (predictors := task.predictors(batch)):
        name = "no task" if task is None else type(task).__name__
        raise DoesNotApplyError(f"predictor_distance needs a task with known predictors; this batch is of {name}")
    output = forward_pass(model, batch).output
    check_targets(output, batch)
    numbers = batch.targets.is_floating_point()
    apart = torch.stack([_apart(predicted.to(output), output, numbers) for predicted in predictors.values()])
    axis, counted = ("predictor",), batch.mask
    by_position = (apart.where(counted, 0).sum(1) / counted.sum(0)).cpu().numpy()
    scores = {
        "predictor_distance": (axis, _means(apart, counted)),
        "predictor_distance_by_position": ((*axis, "pos"), by_position),
    }
    for part, mask in task.parts(batch).items():
        scores[f"predictor_distance_{part}"] = (axis, _means(apart, mask & counted))
    return xr.Dataset(scores, {"predictor": list(predictors)})


def _apart(
    predicted: Float[Tensor, "batch pos out"], output: Float[Tensor, "batch pos d_vocab_out"], numbers: bool
) -> Float[Tensor, "batch pos"]:
    """Return the squared difference of two predictions of numbers, or the KL divergence between those of tokens."""
    if numbers:
        return ((output - predicted) ** 2).mean(-1)
    p, log_q = predicted.exp(), output.log_softmax(-1)[..., : predicted.shape[-1]]
    return (-torch.special.entr(p) - p * log_q).sum(-1)


def _means(apart: Float[Tensor, "predictor batch pos"], mask: Bool[Tensor, "batch pos"]) -> np.ndarray:
    return torch.stack([masked_mean(each, mask) for each in apart]).cpu().numpy()
