"""Attention scores split by principal components: a dot product as a sum over the directions of its vectors.

An attention score is ``q · k``, and queries vary in d_head directions. Principal components order directions by
variance; the contribution of each to the score shows which directions attention depends on.
"""

from dataclasses import dataclass

import einops
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Directions:
    """Principal components of a set of vectors, in order of decreasing variance.

    Args:
        mean: Mean of the vectors, which is subtracted first.
        axes: Orthonormal basis of all d dimensions, one axis per row.
        variance: Share of the variance along each axis; all 0 for vectors that do not vary.
    """

    mean: Float[Tensor, "d"]
    axes: Float[Tensor, "direction d"]
    variance: Float[Tensor, "direction"]


def principal_directions(vectors: Float[Tensor, "vector d"]) -> Directions:
    """Return the principal components of vectors: the eigenvectors of their covariance.

    The entry of each axis with the largest absolute value is positive. Axes of equal variance are an arbitrary basis of
    the space that they span. Null: isotropic vectors have a share of 1/d along each axis, and somewhat more along the
    first axes if there are few vectors.

    Raises:
        ValueError: no vectors, or values that are NaN or infinite.

    Example:
        >>> found = principal_directions(torch.tensor([[3.0, 1.0], [-3.0, 1.0]]))
        >>> found.mean.tolist(), found.axes.abs().tolist(), found.variance.tolist()
        ([0.0, 1.0], [[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0])
    """
    if not len(vectors):
        raise ValueError("vectors: none are given; give at least one")
    if not vectors.isfinite().all():
        raise ValueError(f"vectors: {int((~vectors.isfinite()).sum())} values are NaN or infinite; all must be finite")
    mean = vectors.mean(0)
    _, s, axes = torch.linalg.svd(vectors - mean, full_matrices=True)
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    variance = s.new_zeros(len(axes))
    variance[: len(s)] = s**2
    total = variance.sum()
    return Directions(mean, axes * largest.sign(), variance / total.where(total > 0, 1))


def through_directions(
    found: Directions, vectors: Float[Tensor, "vector d"], others: Float[Tensor, "vector d"]
) -> Float[Tensor, "term vector"]:
    """Return the contribution of each direction u to the dot product of x and y: ``(x - mean) · u (u · y)``.

    The first term is the contribution of the mean, ``mean · y``; one term per direction follows. They sum to ``x · y``.

    Example:
        >>> found = principal_directions(torch.tensor([[3.0, 1.0], [-3.0, 1.0]]))
        >>> through_directions(found, torch.tensor([[3.0, 1.0]]), torch.tensor([[2.0, 10.0]]))[:, 0].tolist()
        [10.0, 6.0, 0.0]
    """
    along, across = (vectors - found.mean) @ found.axes.T, others @ found.axes.T
    terms = einops.rearrange(along * across, "vector direction -> direction vector")
    return torch.cat([(others @ found.mean)[None], terms])


def shares_of_variance(terms: Float[Tensor, "term vector"]) -> Float[Tensor, "term"]:
    """Return the share of each term in the variance of their sum: ``cov(term, sum) / var(sum)``.

    The shares sum to 1; a term that is anticorrelated with the sum has a negative share. NaN if the sum is constant.

    Example:
        >>> shares_of_variance(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [1.0, 2.0, 3.0]])).tolist()
        [0.5, 0.0, 0.5]
    """
    centred = terms - terms.mean(1, keepdim=True)
    whole = centred.sum(0)
    variance = whole.square().sum()
    return (centred @ whole) / variance.where(variance > 0, torch.nan)
