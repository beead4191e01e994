"""Nulls: what fresh networks score, and how often they leave their band."""

import math

import pytest
import torch
from toys import TOKENS

from headway.analyze.circuits import k_composition
from headway.analyze.nulls import band_z, haar_null
from headway.models.hooked_transformer import HookedTransformer


def test_haar_null_is_what_random_rotations_give():
    generator = torch.Generator().manual_seed(0)
    d, s, t = 11, torch.tensor([3.0, 2.0, 1.0]), torch.tensor([2.0, 2.0, 0.5])
    L = torch.diag(torch.cat([s, torch.zeros(8)]))
    R = torch.diag(torch.cat([t, torch.zeros(8)]))
    squares = []
    for _ in range(4000):
        Q, upper = torch.linalg.qr(torch.randn(d, d, generator=generator))
        rotation = Q * upper.diagonal().sign()  # without the signs Q is not uniform
        squares.append((L @ rotation @ R).norm() ** 2 / (L.norm() * R.norm()) ** 2)
    drawn = torch.stack(squares).double()
    mean, std, skewness = (moment.item() for moment in haar_null(s[None], t[None], d))
    assert abs(drawn.mean().item() - mean) < 4 * std / math.sqrt(4000)
    # Of 4,000 draws a standard deviation is known to 1.1 %, a skewness to sqrt(6 / 4000) = .04 and more with its tail.
    assert drawn.std().item() == pytest.approx(std, rel=0.05)
    z = (drawn - drawn.mean()) / drawn.std()
    assert (z**3).mean().item() == pytest.approx(skewness, abs=0.2)
    M0, N0 = ((x**2).diag() - (x**2).sum() / d * torch.eye(3) for x in (s, t))
    # The closed form of the variance, in the eleven dimensions of which both have eight without weight.
    lengths = [(M**2).sum() + 8 * ((x**2).sum() / d) ** 2 for M, x in ((M0, s), (N0, t))]
    variance = 2 * lengths[0] * lengths[1] / ((d - 1) * (d + 2)) / ((s**2).sum() * (t**2).sum()) ** 2
    assert std**2 == pytest.approx(variance.item(), rel=1e-5)


def test_the_composition_null_reproduces_the_published_one():
    """d_model 768, d_head 64, Kaiming-uniform factors: mean .03609, standard deviation .00042 over 300 draws."""
    generator = torch.Generator().manual_seed(0)

    def spectrum() -> torch.Tensor:
        A, B = (torch.rand(768, 64, generator=generator) * 2 - 1 for _ in range(2))
        return torch.linalg.svdvals(torch.linalg.qr(A).R @ torch.linalg.qr(B).R.T)

    mean, std, _ = haar_null(spectrum()[None], spectrum()[None], 768)
    root = mean.sqrt().item()
    assert root == pytest.approx(0.03609, abs=4 * 0.00042 / math.sqrt(300))
    # A standard deviation over 300 draws is known to 1/sqrt(600) = 4 %.
    assert (std / (2 * root)).item() == pytest.approx(0.00042, rel=4 / math.sqrt(600))


def test_centred_weights_have_one_dimension_less_to_rotate_in():
    model, batch = HookedTransformer(TOKENS.model), TOKENS.task.evaluation_batch(0, 2)
    pair = {"from_layer": 0, "from_head": 0, "to_layer": 1, "to_head": 1}
    null = k_composition(model, batch).k_composition_null.sel(pair).item()
    assert null == pytest.approx(1 / math.sqrt(19))
    processed = k_composition(model.processed(), batch).k_composition_null.sel(pair).item()
    assert processed == pytest.approx(1 / math.sqrt(18))


def test_the_band_holds_a_whole_family_at_99_percent():
    z = torch.randn(20000, 31, generator=torch.Generator().manual_seed(0))
    inside = (z.abs() < band_z(31)).all(1).double().mean().item()
    assert abs(inside - 0.99) < 4 * math.sqrt(0.99 * 0.01 / 20000)
