"""Principal directions are those of least squares, and what goes through them adds up."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from headway.analyze.tools.directions import principal_directions, shares_of_variance, through_directions


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("count", [31, 5, 1])
def test_they_are_principal_components(count: int):
    """Of more vectors than entries, and of fewer; another implementation finds the same."""
    vectors = drawn(count, 7) * torch.arange(1, 8)
    found = principal_directions(vectors)
    torch.testing.assert_close(found.axes @ found.axes.T, torch.eye(7, dtype=torch.float64))
    torch.testing.assert_close(found.mean, vectors.mean(0))
    assert found.variance.tolist() == sorted(found.variance.tolist(), reverse=True)
    if count > 1:
        assert found.variance.sum() == pytest.approx(1)
        pca = PCA().fit(vectors.numpy())
        few = min(count - 1, 7)
        np.testing.assert_allclose(found.variance[:few], pca.explained_variance_ratio_[:few])
        overlap = np.abs(np.sum(np.asarray(pca.components_)[:few] * found.axes[:few].numpy(), axis=1))
        np.testing.assert_allclose(overlap, 1)
    else:
        assert not found.variance.any()


def test_the_sign_is_that_of_the_largest_entry():
    found = principal_directions(drawn(31, 7))
    assert bool((found.axes.gather(1, found.axes.abs().argmax(1, keepdim=True)) > 0).all())


def test_terms_add_up_to_the_products_whatever_the_directions_are_of():
    found = principal_directions(drawn(31, 7, seed=1))
    x, y = drawn(13, 7, seed=2), drawn(13, 7, seed=3)
    terms = through_directions(found, x, y)
    assert terms.shape == (8, 13)
    torch.testing.assert_close(terms.sum(0), (x * y).sum(1))
    # Vectors along one axis go through it alone.
    along = found.mean + 3 * found.axes[[2]].expand(13, -1)
    only = through_directions(found, along, y)
    torch.testing.assert_close(only[3], 3 * y @ found.axes[2])
    others = [term for term in range(1, 8) if term != 3]
    assert only[others].abs().max() < 1e-12


def test_shares_are_covariances_over_the_variance_of_the_sum():
    terms = drawn(5, 31)
    shares = shares_of_variance(terms)
    assert shares.sum() == pytest.approx(1)
    covariances = np.cov(np.vstack([terms.numpy(), terms.sum(0).numpy()]))
    np.testing.assert_allclose(shares, covariances[-1, :-1] / covariances[-1, -1])
    # What takes away what another adds has less than nothing.
    assert shares_of_variance(torch.stack([3 * terms[0], -terms[0]])).tolist() == pytest.approx([1.5, -0.5])
    assert shares_of_variance(torch.ones(3, 5)).isnan().all()


def test_no_vector_and_no_numbers_are_refused():
    with pytest.raises(ValueError, match="vectors: none are given"):
        principal_directions(torch.empty(0, 5))
    with pytest.raises(ValueError, match="NaN or infinite"):
        principal_directions(torch.full((3, 5), torch.nan))
