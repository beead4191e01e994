"""Overlap of the subspaces that heads read and write."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def subspace_overlap(spaces: Sequence[Float[Tensor, "d_model _"]]) -> Float[Tensor, "space space"]:
    """How much of a subspace lies in another, of every two: the mean squared cosine of the angles between them.

    ``‖Q_A.T Q_B‖² / min(rank_a, rank_b)``, Frobenius, Q orthonormal bases of what the columns span. In [0, 1]: 0
    orthogonal, 1 the one lies in the other; NaN beside one of zeros, which spans nothing. Columns that are combinations
    of others do not count: ranks are those of the subspaces, down to the rounding of the tensors. Null: max(rank_a,
    rank_b) / d_model, the exact mean for random subspaces. How long the columns are plays no part in it, so that two
    heads may overlap in directions that neither uses much.

    Raises:
        ValueError: another d_model, or numbers that are NaN or infinite.

    Example:
        >>> subspace_overlap([torch.eye(5)[:, :2], torch.eye(5)[:, 1:4]])[0, 1].item()  # one direction of two is shared
        0.5
    """
    for i, columns in enumerate(spaces):
        if columns.shape[0] != spaces[0].shape[0]:
            raise ValueError(
                f"spaces: the columns of {i} have {columns.shape[0]} entries; they must have those of 0, "
                f"{spaces[0].shape[0]}"
            )
        if not columns.isfinite().all():
            raise ValueError(f"spaces: {i} is not all numbers (NaN or infinite)")
    bases = [_basis(columns) for columns in spaces]
    return torch.tensor([[_overlap(one, other) for other in bases] for one in bases], dtype=torch.float64)


def _basis(columns: Float[Tensor, "d_model column"]) -> Float[Tensor, "d_model rank"]:
    """An orthonormal basis of what the columns span, in float64."""
    U, s, _ = torch.linalg.svd(columns.detach().double(), full_matrices=False)
    rounding = max(columns.shape) * torch.finfo(columns.dtype).eps
    return U[:, s > rounding * s.max()] if len(s) else U


def _overlap(one: Float[Tensor, "d_model rank_a"], other: Float[Tensor, "d_model rank_b"]) -> float:
    cosines = one.mT @ other
    return (cosines.square().sum() / min(cosines.shape)).clamp(max=1).item() if 0 not in cosines.shape else torch.nan
