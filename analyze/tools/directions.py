"""The few directions through which a head finds what it looks for: a dot product, split by principal components.

A score is ``q · k``, and queries vary in d_head directions. In which of them lies the reason to attend? Principal
components order directions by how much vectors vary; what they say about the score is what each adds to it.
"""

from dataclasses import dataclass

import einops
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Directions:
    """The principal components of some vectors, the one in which they vary most first.

    Args:
        mean: Their mean, from which components are counted.
        axes: Orthonormal; as many as the vectors have entries.
        variance: The share of the vectors' variance along each; all 0 for vectors that do not vary.
    """

    mean: Float[Tensor, "d"]
    axes: Float[Tensor, "direction d"]
    variance: Float[Tensor, "direction"]


def principal_directions(vectors: Float[Tensor, "vector d"]) -> Directions:
    """The principal components of vectors: the eigenvectors of their covariance.

    Signs are such that the largest entry of each axis is positive. Axes of equal variance are any that span the same
    space. Null: vectors that vary alike in all directions have a share of 1/d along each, somewhat more in the first
    ones where they are few.

    Raises:
        ValueError: no vector, or numbers that are NaN or infinite.

    Example:
        >>> found = principal_directions(torch.tensor([[3.0, 1.0], [-3.0, 1.0]]))
        >>> found.mean.tolist(), found.axes.abs().tolist(), found.variance.tolist()
        ([0.0, 1.0], [[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0])
    """
    if not len(vectors):
        raise ValueError("vectors: there is none; give at least one")
    if not vectors.isfinite().all():
        raise ValueError("vectors: they are not all numbers (NaN or infinite)")
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
    """What each direction adds to the dot product of each vector with another: ``(x - mean) · u (u · y)``.

    The first term is that of the mean, ``mean · y``; then one for each direction. They add up to ``x · y``.

    Example:
        >>> found = principal_directions(torch.tensor([[3.0, 1.0], [-3.0, 1.0]]))
        >>> through_directions(found, torch.tensor([[3.0, 1.0]]), torch.tensor([[2.0, 10.0]]))[:, 0].tolist()
        [10.0, 6.0, 0.0]
    """
    along, across = (vectors - found.mean) @ found.axes.T, others @ found.axes.T
    terms = einops.rearrange(along * across, "vector direction -> direction vector")
    return torch.cat([(others @ found.mean)[None], terms])


def shares_of_variance(terms: Float[Tensor, "term vector"]) -> Float[Tensor, "term"]:
    """How much of the variance of a sum comes from each of its terms: ``cov(term, sum) / var(sum)``.

    They add up to 1; one is below 0 if it varies against the sum. NaN if the sum does not vary.

    Example:
        >>> shares_of_variance(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [1.0, 2.0, 3.0]])).tolist()
        [0.5, 0.0, 0.5]
    """
    centred = terms - terms.mean(1, keepdim=True)
    whole = centred.sum(0)
    variance = whole.square().sum()
    return (centred @ whole) / variance.where(variance > 0, torch.nan)
