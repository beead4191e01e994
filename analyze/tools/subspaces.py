"""Overlap of the subspaces that heads read from and write to."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def subspace_overlap(spaces: Sequence[Float[Tensor, "d_model _"]]) -> Float[Tensor, "space space"]:
    """Return the overlap of each pair of subspaces: the mean squared cosine of their principal angles.

    ``‖Q_A.T Q_B‖² / min(rank_a, rank_b)``, with the Frobenius norm and orthonormal bases Q of the column spaces. Range
    [0, 1]: 0 is orthogonal, 1 means that one subspace contains the other; NaN if a matrix is zero and spans nothing.
    Ranks are numerical ranks, so linearly dependent columns do not count. Null: max(rank_a, rank_b) / d_model, the
    exact mean for random subspaces. The lengths of the columns have no effect, so two heads may overlap in directions
    that neither uses much.

    Raises:
        ValueError: matrices of different d_model, or values that are NaN or infinite.

    Example:
        >>> subspace_overlap([torch.eye(5)[:, :2], torch.eye(5)[:, 1:4]])[0, 1].item()  # one direction is shared
        0.5
    """
    for i, columns in enumerate(spaces):
        if columns.shape[0] != spaces[0].shape[0]:
            raise ValueError(
                f"spaces: matrix {i} has {columns.shape[0]} rows; it must have as many as matrix 0, "
                f"{spaces[0].shape[0]}"
            )
        if not columns.isfinite().all():
            raise ValueError(f"spaces: matrix {i} has values that are NaN or infinite; all must be finite")
    bases = [_basis(columns) for columns in spaces]
    return torch.tensor([[_overlap(one, other) for other in bases] for one in bases], dtype=torch.float64)


def _basis(columns: Float[Tensor, "d_model column"]) -> Float[Tensor, "d_model rank"]:
    """Return an orthonormal basis of the column space, in float64."""
    U, s, _ = torch.linalg.svd(columns.detach().double(), full_matrices=False)
    rounding = max(columns.shape) * torch.finfo(columns.dtype).eps
    return U[:, s > rounding * s.max()] if len(s) else U


def _overlap(one: Float[Tensor, "d_model rank_a"], other: Float[Tensor, "d_model rank_b"]) -> float:
    cosines = one.mT @ other
    return (cosines.square().sum() / min(cosines.shape)).clamp(max=1).item() if 0 not in cosines.shape else torch.nan
