"""Nulls: what fresh networks score, and how often they leave their band."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from few_networks import WHOLE
from toys import TOKENS, VECTORS

from headway.analyze import MEASURES
from headway.analyze.measures.composition import k_composition
from headway.analyze.measures.nulls import (
    Null,
    band,
    band_z,
    beside_null,
    fresh_initialisations,
    haar_null,
    untrained,
)
from headway.analyze.measures.scales import LOG_ODDS, PLAIN, SQUARE, Scale
from headway.analyze.network.forward import shared_forward_pass
from headway.checkpoints import Recipe
from headway.models.hooked_transformer import HookedTransformer


@pytest.fixture(autouse=True)
def all_fresh_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nulls pool as many fresh networks as they do outside of tests."""
    monkeypatch.setattr("headway.analyze.measures.nulls.NETWORKS", WHOLE)


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


@pytest.mark.parametrize("recipe", [TOKENS, VECTORS], ids=["tokens", "vectors"])
def test_fresh_networks_lie_inside_their_bands(recipe: Recipe):
    """50 networks apart from those of the null: each family leaves its band in 1 % of them.

    Of 50 families 4 or more are outside only once in 600 times. Most would leave a band twice too narrow; of one
    twice too wide, half would hold 99 %, so that half of it must be left more often than that.
    """
    batch = recipe.task.evaluation_batch(0, recipe.eval_batch_size)
    measures = {each.name: each for each in MEASURES if each.fresh_null}
    nulls = fresh_initialisations(measures, {name: each.scale for name, each in measures.items()}, recipe.model, batch)
    # Compositions do not ask what the network is given: those of the one are those of the other.
    kinds = ("eigenvalue", "residual", "composition") if recipe is TOKENS else ("eigenvalue", "residual")
    of_weights = {each.name: each for each in MEASURES if each.name.endswith(kinds)}
    left: dict[str, list[tuple[bool, bool]]] = {}
    for seed in range(50):
        model = HookedTransformer(recipe.model, seed=seed)
        with shared_forward_pass():
            for name, each in {**{name: measures[name] for name in nulls}, **of_weights}.items():
                scores = each(model, batch)
                if name in nulls:
                    scores = beside_null(name, scores[name], nulls[name])
                value, null, low, high = (scores[f"{name}{part}"].values for part in ("", "_null", "_low", "_high"))
                outside = ((value < low) | (value > high)).any()
                outside_half = ((value < (null + low) / 2) | (value > (null + high) / 2)).any()
                left.setdefault(name, []).append((bool(outside), bool(outside_half)))
    for name, each in left.items():
        whole, half = np.mean(each, axis=0)
        assert whole <= 0.06, name
        # A rank is one of a few numbers; half its band holds either all of them or one.
        assert half > 0.05 or name == "rank_95", name


@pytest.mark.parametrize("scale", [PLAIN, SQUARE, LOG_ODDS], ids=["plain", "square", "log odds"])
def test_a_null_without_spread_has_no_band(scale: Scale):
    null = Null(mean=scale.to(np.array([0.3])), std=np.array([0.0]), scale=scale)
    score = xr.DataArray([[0.3, 0.3]], dims=("layer", "head"))
    scores = beside_null("score", score, null)
    for part in ("z", "low", "high"):
        assert scores[f"score_{part}"].isnull().all()
    assert scores.score_null.values == pytest.approx(0.3)


@pytest.mark.parametrize("scale", [PLAIN, SQUARE, LOG_ODDS], ids=["plain", "square", "log odds"])
def test_a_scale_rises_and_leads_back(scale: Scale):
    """Shares that are all or nothing come back as such, whatever their odds are."""
    shares = np.array([0.0, 1e-5, 0.1, 0.5, 0.9, 1 - 1e-5, 1.0])
    values = scale.to(shares)
    assert np.isfinite(values).all()
    assert (np.diff(values) > 0).all()
    np.testing.assert_allclose(scale.back(values), shares, rtol=1e-6)


def test_networks_without_spread_leave_no_band():
    """Without a LayerNorm fresh attention is uniform up to rounding, and zero weights compose with nothing."""
    recipe = replace(TOKENS, model=replace(TOKENS.model, normalization_type=None, initializer_range=0.0))
    batch = recipe.task.evaluation_batch(0, 5)
    measures = {each.name: each for each in MEASURES if each.scale is LOG_ODDS and each.live}
    nulls = fresh_initialisations(measures, {name: LOG_ODDS for name in measures}, recipe.model, batch)
    model = HookedTransformer(recipe.model)
    for name, each in measures.items():
        scores = beside_null(name, each(model, batch)[name], nulls[name])
        assert scores[f"{name}_low"].isnull().all()
        assert scores[f"{name}_null"].notnull().all()
    assert k_composition(model, batch).k_composition_high.isnull().all()


def test_a_null_comes_back_from_its_file():
    measures = {each.name: each for each in MEASURES if each.name == "previous_token"}
    batch = TOKENS.task.evaluation_batch(0, 3)
    null = fresh_initialisations(measures, {"previous_token": LOG_ODDS}, TOKENS.model, batch)["previous_token"]
    again = Null.from_dataset(null.to_dataset(), LOG_ODDS)
    assert vars(again).keys() == vars(null).keys()
    for name, value in vars(null).items():
        np.testing.assert_array_equal(getattr(again, name), value) if name != "scale" else None
    assert null.mean.shape == (2, 1)


def test_a_band_holds_what_was_drawn_and_follows_the_tails():
    normal = Null(mean=np.zeros(1), std=np.ones(1))
    low, high = band(normal, size=7)
    assert (-low, high) == (pytest.approx(band_z(7)), pytest.approx(band_z(7)))
    # Of a gamma distribution of shape 4 (skewness 1) the quantile at z = 2.5 is that of its distribution function.
    shape = 4.0
    moments = (np.array([moment]) for moment in (shape, math.sqrt(shape), 2 / math.sqrt(shape), 6 / shape))
    skewed = Null(*moments)  # pyright: ignore[reportArgumentType]
    inside = torch.special.gammainc(torch.tensor([shape]), torch.tensor([band(skewed, size=1)[1].item()]))
    assert inside.item() == pytest.approx(0.995, abs=0.0005)
    drawn = Null(np.zeros(1), np.ones(1), lowest=np.array([-9.0]), highest=np.ones(1))
    assert band(drawn, size=7) == (-9.0, pytest.approx(band_z(7)))


@pytest.mark.parametrize("recipe", [TOKENS, VECTORS], ids=["tokens", "vectors"])
def test_untrained_networks_are_apart_from_every_run_and_from_each_other(recipe: Recipe):
    before = torch.get_rng_state()
    drawn = [untrained(recipe.model, draw) for draw in range(5)]
    assert torch.equal(before, torch.get_rng_state())
    runs = [HookedTransformer(recipe.model, seed=seed) for seed in (*range(101), 2**32 - 1)]
    names = [name for name, _ in drawn[0].named_parameters() if name.rpartition(".")[2].startswith("W_")]
    assert len(names) > 5
    for name in names:
        weights = [model.state_dict()[name] for model in drawn + runs]
        for i in range(len(drawn)):
            assert not any((weights[i] == other).any() for j, other in enumerate(weights) if i != j)
    # They are initialised as a run is: with the same spread, biases zero, and LayerNorms that do nothing.
    for model in drawn:
        assert not model.training
        assert model.cfg == recipe.model
        everything = torch.cat([model.state_dict()[name].flatten() for name in names]) / recipe.model.initializer_range
        assert abs(everything.std().item() - 1) < 4 / math.sqrt(2 * len(everything))
        for name, value in runs[0].state_dict().items():
            assert name in names or torch.equal(model.state_dict()[name], value)


def test_an_untrained_network_is_the_same_every_time():
    torch.manual_seed(0)
    first = untrained(TOKENS.model, 3).state_dict()
    torch.manual_seed(1)
    again = untrained(TOKENS.model, 3).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_untrained_networks_are_those_of_the_nulls():
    measures = {each.name: each for each in MEASURES if each.name == "previous_token"}
    batch = TOKENS.task.evaluation_batch(0, 5)
    null = fresh_initialisations(measures, {"previous_token": PLAIN}, TOKENS.model, batch)["previous_token"]
    networks = [untrained(TOKENS.model, draw) for draw in range(WHOLE)]
    each = [measures["previous_token"](network, batch).previous_token for network in networks]
    drawn = xr.concat(each, dim="draw")
    np.testing.assert_allclose(null.mean[:, 0], drawn.mean(("draw", "head")), rtol=1e-5)
    np.testing.assert_allclose(null.highest[:, 0], drawn.max(("draw", "head")), rtol=1e-6)
