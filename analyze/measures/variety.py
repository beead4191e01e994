"""Choice of sequences that are shown: as different from each other as a batch has them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headway.data.task import Batch


def varied_sequences(batch: Batch, count: int) -> list[int]:
    """Return the numbers of ``count`` sequences that differ much from each other, in order; the first is among them.

    Each next one is the sequence that is furthest from those already chosen, the first of equals. Two sequences differ
    by the share of positions at which one is in a part of the task, or counts, and the other does not, and, of tokens,
    by the share at which the current token was last seen at another distance.

    Example:
        >>> from headway.data.repeated_tokens import RepeatedTokens
        >>> task = RepeatedTokens(n_tokens=13, length=11, period_min=2, period_max=5)
        >>> batch = task.batch(seed=0, index=0, batch_size=23)
        >>> chosen = varied_sequences(batch, 3)
        >>> len({(batch.info["period"][each].item(), batch.info["lead"][each].item()) for each in chosen})
        3
    """
    total = len(batch.inputs)
    if total <= count:
        return list(range(total))
    features = _features(batch)
    chosen, nearest = [0], torch.full((total,), torch.inf)
    while len(chosen) < count:
        differs = torch.stack([(each != each[chosen[-1]]).float().mean(-1) for each in features]).sum(0)
        nearest = torch.minimum(nearest, differs)
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
    return sorted(chosen)


def _features(batch: Batch) -> list[Float[Tensor, "batch pos"]]:
    """Return what sequences are compared by."""
    parts = {} if batch.task is None else batch.task.parts(batch)
    masks = [each.float().cpu() for each in (batch.mask, *parts.values())]
    if batch.inputs.is_floating_point():
        return masks
    return [*masks, _distance_back(batch.inputs.cpu()).where(batch.real.cpu(), 0).float()]


def _distance_back(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Return how far back each token was last seen; 0 if it is new."""
    order = tokens.argsort(dim=1, stable=True)
    in_order = tokens.gather(1, order)
    back = torch.zeros_like(order)
    back[:, 1:] = torch.where(in_order[:, 1:] == in_order[:, :-1], order[:, 1:] - order[:, :-1], 0)
    return torch.zeros_like(order).scatter(1, order, back)
