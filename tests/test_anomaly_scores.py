"""Anomaly scores: separation, distances and intervals agree with theory, and no separation is found where none is."""

from collections.abc import Callable, Iterator
from statistics import NormalDist

import jaxtyping
import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from headway.analyze.tools.anomaly_scores import logistic_probe, mahalanobis, separation

N, M = 101, 67


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_classes(n: int, m: int, shift: float, seed: int) -> tuple[Tensor, Tensor]:
    """Normal scores of n anomalous prompts, shifted, and of m normal ones; in a mixed order."""
    anomalous = torch.arange(n + m) < n
    order = torch.randperm(n + m, generator=torch.Generator().manual_seed(seed))
    return (normal(n + m, seed=seed) + shift * anomalous)[order], anomalous[order]


def pairs_in_order(scores: Tensor, anomalous: Tensor) -> float:
    """The AUROC by its definition."""
    difference = scores[anomalous][:, None] - scores[~anomalous][None]
    return ((difference > 0).double() + (difference == 0).double() / 2).mean().item()


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the type checks that only tests have, which would complain before the function does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# AUROC


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n", "m"), [(N, M), (M, N), (1, 5), (5, 1)])
def test_it_is_the_share_of_pairs_in_order(n: int, m: int, ties: bool):
    scores, anomalous = two_classes(n, m, 0.5, seed=0)
    scores = scores.round() if ties else scores
    found = separation(scores, anomalous, draws=31)
    assert found.auroc == pytest.approx(pairs_in_order(scores, anomalous))
    # Swapping the classes mirrors the AUROC, and only the order of scores matters.
    assert separation(-scores, anomalous, draws=31).auroc == pytest.approx(1 - found.auroc)
    assert separation(scores, ~anomalous, draws=31).auroc == pytest.approx(1 - found.auroc)
    assert separation(scores.exp().float(), anomalous, draws=31) == found


def test_of_two_normals_it_is_what_their_distance_says():
    """Phi(d / sqrt 2), for normals of the same spread whose means are d apart."""
    for shift in (0.0, 0.7, 2.0):
        mean = np.mean([separation(*two_classes(N, M, shift, seed), draws=1).auroc for seed in range(211)])
        assert mean == pytest.approx(NormalDist().cdf(shift / 2**0.5), abs=0.01)


def test_separated_classes_leave_nothing_open():
    anomalous = torch.arange(23) < 7
    for scores, auroc in ((-torch.arange(23.0), 1.0), (torch.arange(23.0), 0.0), (torch.zeros(23), 0.5)):
        assert separation(scores, anomalous)[:3] == (auroc, auroc, auroc)
    # Infinite scores have an order too.
    assert separation(torch.where(anomalous, torch.inf, -torch.inf), anomalous).auroc == 1


@pytest.mark.parametrize(("n", "m"), [(N, M), (13, 211)])
def test_shuffled_labels_spread_as_mann_and_whitney_say(n: int, m: int):
    found = separation(*two_classes(n, m, 3.0, seed=0), draws=4001)
    expected = NormalDist().inv_cdf(0.975) * ((n + m + 1) / (12 * n * m)) ** 0.5
    assert found.null_high - 0.5 == pytest.approx(expected, rel=0.1)
    assert 0.5 - found.null_low == pytest.approx(expected, rel=0.1)
    # Shuffled labels carry no information, however well the classes are separated.
    assert found.low > found.null_high


def test_the_interval_covers_the_truth_as_often_as_it_says():
    shift, seeds = 0.7, 307
    truth = NormalDist().cdf(shift / 2**0.5)
    found = [separation(*two_classes(N, M, shift, seed), seed=seed, draws=211) for seed in range(seeds)]
    covered = np.mean([each.low <= truth <= each.high for each in found])
    assert covered == pytest.approx(0.95, abs=3 * (0.95 * 0.05 / seeds) ** 0.5)
    assert all(each.low <= each.auroc <= each.high for each in found)


def test_the_interval_is_that_of_prompts_drawn_again_one_by_one():
    """Brute force, with other draws: edges of 2000 draws differ by a few of their own errors."""
    scores, anomalous = two_classes(17, 29, 0.7, seed=3)
    scores = scores.mul(2).round()
    draw = torch.Generator().manual_seed(5)
    one, other = scores[anomalous], scores[~anomalous]
    labels = torch.arange(46) < 17
    again = []
    for _ in range(2000):
        parts = [each[torch.randint(len(each), (len(each),), generator=draw)] for each in (one, other)]
        again.append(pairs_in_order(torch.cat(parts), labels))
    found = separation(scores, anomalous, draws=2000)
    np.testing.assert_allclose([found.low, found.high], np.quantile(again, [0.025, 0.975]), atol=0.02)


def test_the_same_seed_draws_the_same():
    classes = two_classes(N, M, 0.5, seed=0)
    state = torch.get_rng_state()
    assert separation(*classes, seed=3, draws=31) == separation(*classes, seed=3, draws=31)
    assert separation(*classes, seed=3, draws=31) != separation(*classes, seed=4, draws=31)
    assert torch.equal(torch.get_rng_state(), state)


# Distance


def correlated(n: int, d: int, seed: int) -> Tensor:
    """Normal features that hang together, of different spreads, around a mean that is not 0."""
    return normal(n, d, seed=seed) @ normal(d, d, seed=100) * torch.logspace(-1, 1, d) + normal(d, seed=101)


@pytest.mark.parametrize("d", [1, 3, 37, 61, 211])
def test_the_distance_is_that_of_the_shrunk_covariance(d: int):
    """Beside scikit-learn's, with its [feature, feature] matrix: fewer features than prompts, as many, and more."""
    fit, held_out = correlated(37, d, seed=0), correlated(13, d, seed=1)
    expected = LedoitWolf().fit(fit.numpy()).mahalanobis(held_out.numpy())
    np.testing.assert_allclose(mahalanobis(fit, held_out), expected, rtol=1e-8)


def test_the_distance_is_that_of_its_formula():
    fit, held_out = correlated(37, 5, seed=0), correlated(13, 5, seed=1)
    found = LedoitWolf().fit(fit.numpy())
    x, S = held_out - fit.mean(0), torch.cov(fit.T, correction=0)
    s = found.shrinkage_
    C = (1 - s) * S + s * S.trace() / 5 * torch.eye(5)
    np.testing.assert_allclose(mahalanobis(fit, held_out), [row @ torch.linalg.solve(C, row) for row in x])


def test_of_many_normal_prompts_the_distance_has_as_many_degrees_as_features():
    distance = mahalanobis(normal(20011, 5), normal(20011, 5, seed=1))
    assert distance.mean().item() == pytest.approx(5, rel=0.05)
    assert distance.var().item() == pytest.approx(10, rel=0.1)


def test_neither_a_rotation_nor_a_unit_changes_the_distance():
    fit, held_out = correlated(37, 61, seed=0), correlated(13, 61, seed=1)
    rotation = torch.linalg.qr(normal(61, 61, seed=2)).Q
    expected = mahalanobis(fit, held_out)
    torch.testing.assert_close(mahalanobis(fit @ rotation, held_out @ rotation), expected)
    torch.testing.assert_close(mahalanobis(7 * fit + 3, 7 * held_out + 3), expected)


def test_an_anomaly_shows_where_normal_prompts_never_vary():
    """Normal prompts vary in 7 of 211 directions, anomalous ones a little in one more."""
    basis = torch.linalg.qr(normal(211, 8, seed=2)).Q.mT
    fit, held_out = normal(37, 7) @ basis[:7], normal(29, 7, seed=1) @ basis[:7]
    anomalous = torch.arange(29) < 11
    beside, along = (held_out + 0.9 * anomalous[:, None] * direction for direction in (basis[7], basis[0]))
    assert separation(mahalanobis(fit, beside), anomalous).auroc == 1
    # As much of it along a direction in which all prompts vary is nothing special.
    assert separation(mahalanobis(fit, along), anomalous).auroc < 0.9
    # Nor is it to who sees only where normal prompts vary.
    within = basis[:7].mT
    assert separation(mahalanobis(fit @ within, beside @ within), anomalous).auroc < 0.9


@pytest.mark.parametrize("d", [11, 211])
def test_features_that_do_not_vary_do_no_harm(d: int):
    fit, held_out = (torch.cat([normal(n, d - 1, seed=n), torch.full((n, 1), 0.1)], 1) for n in (37, 29))
    assert mahalanobis(fit, held_out).isfinite().all()
    assert mahalanobis(fit, fit.mean(0, keepdim=True)).item() == pytest.approx(0, abs=1e-12)


def test_thousands_of_features_need_no_matrix_of_them():
    fit, held_out = normal(43, 4001).float(), normal(17, 4001, seed=1).float()
    anomalous = torch.arange(17) < 7
    held_out[anomalous, :101] += 2.0
    scores = mahalanobis(fit, held_out)
    assert scores.dtype == torch.float64
    assert separation(scores, anomalous).auroc == 1
    # Those that it was fitted to are nearer than others like them.
    assert mahalanobis(fit, fit).max() < scores.min()


# Classifier


def test_the_classifier_is_logistic_regression_on_standardised_features():
    train, held_out = correlated(N, 7, seed=0), correlated(M, 7, seed=1)
    anomalous = train @ normal(7, seed=2) > 0
    mean, spread = train.mean(0), train.std(0, correction=0)
    expected = LogisticRegression().fit(((train - mean) / spread).numpy(), anomalous.numpy())
    found = logistic_probe(train, anomalous, held_out)
    np.testing.assert_allclose(found, expected.decision_function(((held_out - mean) / spread).numpy()), atol=1e-3)
    # So that units do not count, and what does not vary in training does not either.
    units = torch.logspace(-3, 3, 7)
    torch.testing.assert_close(logistic_probe(units * train, anomalous, units * held_out), found, rtol=0, atol=1e-3)
    constant = [torch.cat([each, torch.full((len(each), 1), at)], 1) for each, at in ((train, 3.0), (held_out, 99.0))]
    torch.testing.assert_close(logistic_probe(constant[0], anomalous, constant[1]), found, rtol=0, atol=1e-3)


def test_the_classifier_finds_what_is_there_and_no_more():
    train, held_out = normal(N, 211).float(), normal(N, 211, seed=1).float()
    labels, held_out_labels = train[:, 3] > 0, held_out[:, 3] > 0
    blind = separation(logistic_probe(train, torch.arange(N) < 41, held_out), torch.arange(N) < 41)
    assert blind.null_low < blind.auroc < blind.null_high
    for x, some in ((train, labels), (held_out, held_out_labels)):
        x[some, 3] += 5.0
    found = separation(logistic_probe(train, labels, held_out), held_out_labels)
    assert found.low > found.null_high


# What cannot be done says so


def test_what_does_not_go_together_is_refused(unchecked: None):
    scores, anomalous = torch.arange(5.0), torch.arange(5) < 2
    x = normal(5, 3)
    none, wrong, infinite = torch.zeros(5, dtype=torch.bool), x[:, :2], torch.full((5, 3), torch.inf)
    refused: list[tuple[str, Callable[[], object]]] = [
        ("anomalous: all 5 prompts are normal; give at least one of each kind", lambda: separation(scores, none)),
        ("anomalous: all 5 prompts are anomalous", lambda: separation(scores, ~none)),
        ("anomalous: all 0 prompts are normal", lambda: separation(scores[:0], none[:0])),
        (r"anomalous: the shape \(5,\) is not valid; .* scores, \(4,\)", lambda: separation(scores[:4], anomalous)),
        (r"anomalous: the shape \(5,\) is not valid; .* \(5, 3\)", lambda: separation(x, anomalous)),
        ("scores: 1 of 5 are NaN", lambda: separation(scores.where(scores > 0, torch.nan), anomalous)),
        ("draws: 0 is not valid; it must be at least 1", lambda: separation(scores, anomalous, draws=0)),
        ("seed: -1 is not valid", lambda: separation(scores, anomalous, seed=-1)),
        (r"held_out: the shape \(5, 2\) is not valid; it must be \[prompt, 3\]", lambda: mahalanobis(x, wrong)),
        (r"fit: the shape \(5,\) is not valid; it must be \[prompt, feature\]", lambda: mahalanobis(scores, x)),
        ("fit: 1 prompt is not valid", lambda: mahalanobis(x[:1], x)),
        ("fit: all prompts have the same features", lambda: mahalanobis(x[:1].expand(5, 3) / 7, x)),
        ("fit: 2 prompts are too few for the covariance of 3 features", lambda: mahalanobis(x[:2], x)),
        ("fit: 15 values are NaN or infinite", lambda: mahalanobis(infinite, x)),
        ("held_out: 15 values are NaN or infinite", lambda: mahalanobis(x, infinite)),
        ("anomalous: all 5 prompts are normal", lambda: logistic_probe(x, none, x)),
        (r"anomalous: the shape \(4,\) is not valid; it must be \(5,\)", lambda: logistic_probe(x, anomalous[:4], x)),
        (r"held_out: the shape \(5, 2\)", lambda: logistic_probe(x, anomalous, wrong)),
        (r"train: the shape \(5, 0\)", lambda: logistic_probe(x[:, :0], anomalous, x)),
        ("train: 15 values are NaN or infinite", lambda: logistic_probe(infinite, anomalous, x)),
    ]
    for message, call in refused:
        with pytest.raises(ValueError, match=message):
            call()
