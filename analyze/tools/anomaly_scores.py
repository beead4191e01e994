"""Anomaly scores: numbers that separate anomalous prompts from normal ones, and how certain the separation is.

There are three ways from features to one score per prompt: the distance from normal prompts (``mahalanobis``, which
never sees an anomalous prompt), the log odds of a classifier that was trained on both classes (``logistic_probe``, an
upper bound), or a single feature. ``separation`` measures how well a score separates the classes. Score only prompts
that nothing was fitted to.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.data.seeds import generator

# Variances below this share of the largest one are rounding error of float64.
ROUNDING = 1e-12


class Separation(NamedTuple):
    """AUROC of a score, its bootstrap interval and its null interval; see ``separation``."""

    auroc: float
    low: float
    high: float
    null_low: float
    null_high: float


def separation(
    scores: Float[Tensor, "prompt"], anomalous: Bool[Tensor, "prompt"], seed: int = 0, draws: int = 1000
) -> Separation:
    """Return the AUROC: the probability that an anomalous prompt scores above a normal one, ties counted half.

    Range [0, 1]: 1 and 0 are perfect separation, .5 is chance. ``low`` to ``high`` is the 95 % percentile bootstrap
    interval; each class is resampled separately. It estimates how the AUROC varies over other prompts from the same
    distribution; for a class of one or two prompts it is nearly uninformative, and for classes that do not overlap it
    is [1, 1]. Null: ``null_low`` to ``null_high`` holds 95 % of the values under shuffled labels; without ties its
    standard deviation is sqrt((n + m + 1) / (12 n m)), with n and m the class sizes. The AUROC does not give a
    threshold, nor the rate of false alarms where anomalies are rare.

    Args:
        scores: One number per prompt; larger is more anomalous.
        anomalous: True for anomalous prompts.
        seed: Seed of the bootstrap and of the shuffles.
        draws: Number of bootstrap samples, and of shuffles.

    Raises:
        ValueError: no anomalous or no normal prompt, NaN scores, scores and labels of different shapes, or no draws.

    Example:
        >>> found = separation(torch.tensor([3.0, 2.0, 2.0, 1.0]), torch.tensor([True, True, False, False]))
        >>> found.auroc  # three of the four pairs are in order, one is tied
        0.875
    """
    if scores.ndim != 1 or scores.shape != anomalous.shape:
        raise ValueError(
            f"anomalous: the shape {tuple(anomalous.shape)} is not valid; it must be (prompts,) and equal the shape of "
            f"scores, {tuple(scores.shape)}"
        )
    if scores.isnan().any():
        raise ValueError(f"scores: {int(scores.isnan().sum())} of {len(scores)} are NaN; leave these prompts out")
    if draws < 1:
        raise ValueError(f"draws: {draws} is not valid; it must be at least 1")
    _check_both_kinds("anomalous", anomalous)
    levels = scores.detach().cpu().unique(return_inverse=True)[1]
    anomalous = anomalous.cpu()
    one, other, all_of_them = levels[anomalous], levels[~anomalous], levels[None]
    size = int(levels.max()) + 1

    def resampled(some: Int[Tensor, "some"], draw: torch.Generator) -> Float[Tensor, "draw level"]:
        return _counts_by_level(some[torch.randint(len(some), (draws, len(some)), generator=draw)], size)

    again = generator("null", seed, index=1)
    intervals = _auroc(resampled(one, again), resampled(other, again))
    shuffled = torch.rand(draws, len(levels), generator=generator("null", seed)).argsort(1)[:, : len(one)]
    drawn = _counts_by_level(levels[shuffled], size)
    nulls = _auroc(drawn, _counts_by_level(all_of_them, size) - drawn)
    edges = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return Separation(
        _auroc(_counts_by_level(one[None], size), _counts_by_level(other[None], size)).item(),
        *intervals.quantile(edges).tolist(),
        *nulls.quantile(edges).tolist(),
    )


def mahalanobis(
    fit: Float[Tensor, "prompt feature"], held_out: Float[Tensor, "other feature"]
) -> Float[Tensor, "other"]:
    """Return the squared Mahalanobis distance of prompts from normal prompts: ``(x - mean) C⁻¹ (x - mean)``.

    C is the covariance of the normal prompts, shrunk towards a multiple of the identity by the amount of Ledoit & Wolf
    2004: ``(1 - s) S + s tr(S)/d I``, with d the number of features. So there may be far more features than prompts,
    and a direction in which normal prompts do not vary keeps the small variance ``s tr(S)/d``; anomalies show most
    there. It is computed in float64 from the singular values of the prompts, without a [feature, feature] matrix.

    Features are centred but not standardised: any rotation of them, or one common change of units, gives the same
    distances. Bring features in different units to one unit first. Dividing each by its own standard deviation is not
    done here, since it is undefined for constant features and inflates nearly constant ones. A constant feature only
    adds to d.

    Range: 0 or more; the mean over many normal prompts is d. Null: other normal prompts; the prompts in ``fit`` are
    closer than these and are no null. The distance does not show what is anomalous about a prompt, and an anomaly in
    one of many features with similar variance is lost in the variation of the others.

    Args:
        fit: Features of normal prompts.
        held_out: Features of other prompts.

    Raises:
        ValueError: fewer than two normal prompts, too few to estimate the covariance, a different number of features,
            or values that are NaN or infinite.

    Example:
        >>> normal = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [3.0, 0.0], [-3.0, 0.0]])
        >>> along, beside = mahalanobis(normal, torch.tensor([[3.0, 0.0], [0.0, 3.0]]))
        >>> bool(beside > along)  # no normal prompt varies along the second feature
        True
    """
    # Imported here and below because scikit-learn takes a second to import.
    from sklearn.covariance import ledoit_wolf_shrinkage

    _check_features("fit", fit)
    _check_features("held_out", held_out, like=fit)
    if len(fit) < 2:
        raise ValueError(f"fit: {len(fit)} prompt is not valid; a covariance needs at least 2")
    fit, held_out = fit.detach().cpu().double(), held_out.detach().cpu().double()
    x, y = fit - fit.mean(0), held_out - fit.mean(0)
    _, s, directions = torch.linalg.svd(x, full_matrices=False)
    n_prompts, n_features = x.shape
    S = s**2 / n_prompts
    if S.sum() <= ROUNDING**2 * fit.square().sum():
        raise ValueError("fit: all prompts have the same features; a covariance needs prompts that differ")
    # Rounding may move it out of [0, 1] where S is a multiple of the identity.
    shrinkage = min(max(float(ledoit_wolf_shrinkage(x.numpy(), assume_centered=True)), 0.0), 1.0)
    floor = shrinkage * S.sum() / n_features
    variance = (1 - shrinkage) * S + floor
    beyond = n_features > len(S)
    if min(variance.min(), floor if beyond else variance.min()) <= ROUNDING * variance.max():
        raise ValueError(
            f"fit: {n_prompts} prompts are too few for the covariance of {n_features} features; give more prompts"
        )
    along = y @ directions.mT
    distance = (along.square() / variance).sum(1)
    if beyond:
        # A difference of two squares would leave rounding error, divided by a small variance.
        distance += (y - along @ directions).square().sum(1) / floor
    return distance


def logistic_probe(
    train: Float[Tensor, "prompt feature"], anomalous: Bool[Tensor, "prompt"], held_out: Float[Tensor, "other feature"]
) -> Float[Tensor, "other"]:
    """Return the log odds that prompts are anomalous, from logistic regression on both classes.

    Features are standardised; scikit-learn's L2 penalty (C = 1) allows more features than prompts, and a feature that
    is constant in training gets no weight. Range: any real number; 0 is undecided. The probe is trained on the very
    anomaly that it detects, which an anomaly detector is not: it is an upper bound for linear maps of the features, not
    for all that they contain. Null: shuffled labels, for which ``separation`` gives an interval.

    Args:
        train: Features of the training prompts.
        anomalous: True for anomalous training prompts.
        held_out: Features of other prompts.

    Raises:
        ValueError: no anomalous or no normal prompt in training, features or labels of mismatched shapes, or values
            that are NaN or infinite.

    Example:
        >>> train, anomalous = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([False, False, True, True])
        >>> (logistic_probe(train, anomalous, torch.tensor([[-1.0], [4.0]])) > 0).tolist()
        [False, True]
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _check_features("train", train)
    _check_features("held_out", held_out, like=train)
    if anomalous.shape != train.shape[:1]:
        raise ValueError(
            f"anomalous: the shape {tuple(anomalous.shape)} is not valid; it must be ({len(train)},), one per prompt"
        )
    _check_both_kinds("anomalous", anomalous)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(train.detach().cpu().double().numpy(), anomalous.cpu().numpy())
    return torch.from_numpy(classifier.decision_function(held_out.detach().cpu().double().numpy()))


def _counts_by_level(levels: Int[Tensor, "draw prompt"], size: int) -> Float[Tensor, "draw level"]:
    """Number of prompts at each score level, for each draw; level i is the i-th smallest distinct score."""
    counts = torch.zeros(len(levels), size, dtype=torch.float64)
    return counts.scatter_add_(1, levels, torch.ones_like(levels, dtype=torch.float64))


def _auroc(one: Float[Tensor, "draw level"], other: Float[Tensor, "draw level"]) -> Float[Tensor, "draw"]:
    """Mann-Whitney U of ``one`` over ``other``, divided by the number of pairs."""
    below = other.cumsum(1) - other / 2
    return (one * below).sum(1) / (one.sum(1) * other.sum(1))


def _check_both_kinds(name: str, anomalous: Bool[Tensor, "prompt"]) -> None:
    count = int(anomalous.sum())
    if count in (0, len(anomalous)):
        kind = "anomalous" if count else "normal"
        raise ValueError(f"{name}: all {len(anomalous)} prompts are {kind}; give at least one of each kind")


def _check_features(name: str, x: Float[Tensor, "*shape"], like: Float[Tensor, "*other"] | None = None) -> None:
    if x.ndim != 2 or 0 in x.shape or (like is not None and x.shape[1] != like.shape[1]):
        features = "feature" if like is None else str(like.shape[1])
        raise ValueError(f"{name}: the shape {tuple(x.shape)} is not valid; it must be [prompt, {features}]")
    if not x.isfinite().all():
        raise ValueError(f"{name}: {int((~x.isfinite()).sum())} values are NaN or infinite; all must be finite")
