"""Attention to earlier vectors that are similar to the current one."""

import einops
import torch
import xarray as xr

from headway.analyze.network.forward import forward_pass
from headway.analyze.network.requirements import needs_positions, needs_vectors
from headway.data.task import Batch
from headway.models.convert import Model


def similar_vector(model: Model, batch: Batch) -> xr.Dataset:
    """Attention to earlier vectors by their cosine similarity to the current one: 1 to the most similar, 0 uniform.

    ``similar_vector`` [layer, head] = sum (E_A cos - mean cos) / sum (max cos - mean cos), cos the cosine of the inputs
    at query and key, over the *earlier* keys k < q. The pattern A is renormalised over these keys, which excludes
    attention to the current vector itself. The sums run over the queries in ``batch.mask`` that have at least two
    earlier keys. At most 1: the head attends only to the most similar earlier vector; 0: no preference (uniform
    attention; an untrained network is close to it); negative: it attends to dissimilar vectors. After Bhargav & Gu 2024
    (arXiv 2410.17438). A head that attends to fixed distances scores as similar as the data are at those distances.
    NaN if all earlier vectors are equally similar.

    Raises:
        DoesNotApplyError: a batch of tokens, or sequences of fewer than three vectors.

    Example:
        >>> from headway.models.handmade import linear_network
        >>> similar_vector(*linear_network(torch.eye(7))).similar_vector.round(5).item() == 0  # uniform attention
        True
    """
    needs_vectors("similar_vector", batch)
    needs_positions("similar_vector", batch, 3)
    patterns = forward_pass(model, batch).patterns
    x = torch.nn.functional.normalize(batch.inputs.to(patterns), dim=-1)
    cos = einops.einsum(x, x, "batch query d, batch key d -> batch query key")
    length = x.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=x.device).tril(-1)
    counted = batch.mask & (earlier.sum(-1) >= 2)
    mean = (cos * earlier).sum(-1) / earlier.sum(-1).clamp(min=1)
    most = cos.masked_fill(~earlier, -torch.inf).amax(-1)
    there = patterns * earlier
    attended = einops.einsum(there, cos, "layer batch head q k, batch q k -> layer batch head q")
    # A head that attends only to the current vector gives 0 / 0 here, which isfinite removes below.
    attended = attended / einops.reduce(there, "layer batch head q k -> layer batch head q", "sum")
    # If all earlier vectors are equally similar, the difference of maximum and mean is rounding error.
    counted &= most - mean > 10 * torch.finfo(cos.dtype).eps
    counted = einops.rearrange(counted, "batch q -> batch 1 q") & attended.isfinite()
    above, room = (einops.rearrange(each, "batch q -> batch 1 q") for each in (mean, most - mean))
    zero = torch.zeros((), device=x.device)
    gained = einops.reduce(torch.where(counted, attended - above, zero), "layer batch head q -> layer head", "sum")
    possible = einops.reduce(torch.where(counted, room, zero), "layer batch head q -> layer head", "sum")
    return xr.Dataset({"similar_vector": (("layer", "head"), (gained / possible).cpu().numpy())})
