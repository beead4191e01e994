"""Whether numbers about a prompt tell anomalous prompts from normal ones, and how sure that is with so few of them.

Three ways from features to one score a prompt: how far it is from what normal prompts do (``mahalanobis``, which never
sees an anomalous one), how a classifier that has seen both places it (``logistic_probe``, a ceiling), or a single
feature as it is. ``separation`` says how well a score separates the two. Scores are those of prompts that nothing was fitted to.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.data.seeds import generator

# A share of the largest variance below which another one is rounding of float64.
ROUNDING = 1e-12


class Separation(NamedTuple):
    """How well a score tells anomalous prompts from normal ones; see ``separation``."""

    auroc: float
    low: float
    high: float
    null_low: float
    null_high: float


def separation(
    scores: Float[Tensor, "prompt"], anomalous: Bool[Tensor, "prompt"], seed: int = 0, draws: int = 1000
) -> Separation:
    """The probability that an anomalous prompt scores higher than a normal one, ties counted half: the AUROC.

    In [0, 1]: 1 and 0 are separated without an error, .5 is chance. ``low`` to ``high`` holds 95 % of its values when
    prompts are drawn again, each class from itself (percentile bootstrap). It says how the number would vary with other
    prompts like these; of a class of one or two prompts it can say next to nothing, and where the classes do not
    overlap it is [1, 1]. Null: ``null_low`` to ``null_high`` holds 95 % of the values when labels are shuffled; without
    ties its standard deviation is sqrt((n + m + 1) / (12 n m)), n and m the sizes of the classes. It says nothing of
    where a threshold should be, or how many false alarms one would give where anomalies are rare.

    Args:
        scores: One number a prompt; large is anomalous.
        anomalous: Which prompts are.
        seed: Of what is drawn.
        draws: How many times prompts are drawn again, and labels shuffled.

    Raises:
        ValueError: no anomalous or no normal prompt, scores that are NaN or not one a prompt, no draws.

    Example:
        >>> found = separation(torch.tensor([3.0, 2.0, 2.0, 1.0]), torch.tensor([True, True, False, False]))
        >>> found.auroc  # of the four pairs three are in order, and one is tied
        0.875
    """
    if scores.ndim != 1 or scores.shape != anomalous.shape:
        raise ValueError(
            f"anomalous: its shape {tuple(anomalous.shape)} is not valid; it must be that of the scores, "
            f"one a prompt, and theirs is {tuple(scores.shape)}"
        )
    if scores.isnan().any():
        raise ValueError(f"scores: {int(scores.isnan().sum())} of {len(scores)} are NaN; they must be numbers")
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
    """How far prompts are from normal ones: ``(x - mean) C⁻¹ (x - mean)``, the squared Mahalanobis distance.

    C is the covariance of the normal prompts, shrunk towards a multiple of the identity by as much as Ledoit & Wolf
    2004 take: ``(1 - s) S + s tr(S)/d I``, d the number of features. So features may far outnumber prompts, and a
    direction in which normal prompts do not vary at all is kept, with the small variance ``s tr(S)/d``: an anomaly
    shows most there. In float64, from the singular values of the prompts; no [feature, feature] matrix exists.

    Features are centred, not standardised: any rotation of them gives the same distances, and so does another unit that
    is common to all. Features in different units must be brought to one before. Dividing each by its own spread is not
    done here, since it would have no answer for those that do not vary, and make much of those that hardly do. One that
    is the same in all prompts adds nothing but to d.

    At least 0, without an upper end; of many normal prompts the mean is d. Null: other normal prompts. Those in ``fit``
    are nearer than they, and say nothing. It does not say what is anomalous about a prompt, and an anomaly in one of
    many features that all vary alike drowns in what the others do.

    Args:
        fit: Features of normal prompts.
        held_out: Features of other prompts.

    Raises:
        ValueError: fewer than two normal prompts or too few to say how they vary, other features, or numbers that are
            NaN or infinite.

    Example:
        >>> normal = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [3.0, 0.0], [-3.0, 0.0]])
        >>> along, beside = mahalanobis(normal, torch.tensor([[3.0, 0.0], [0.0, 3.0]]))
        >>> bool(beside > along)  # no normal prompt varies there
        True
    """
    # Here and below: scikit-learn takes a second to import.
    from sklearn.covariance import ledoit_wolf_shrinkage

    _check_features("fit", fit)
    _check_features("held_out", held_out, like=fit)
    if len(fit) < 2:
        raise ValueError(f"fit: {len(fit)} prompt is not valid; there must be at least 2, to say how they vary")
    fit, held_out = fit.detach().cpu().double(), held_out.detach().cpu().double()
    x, y = fit - fit.mean(0), held_out - fit.mean(0)
    _, s, directions = torch.linalg.svd(x, full_matrices=False)
    n_prompts, n_features = x.shape
    S = s**2 / n_prompts
    if S.sum() <= ROUNDING**2 * fit.square().sum():
        raise ValueError("fit: its prompts are all the same; they must differ, to say how they vary")
    # Rounding may take it out of its range where S is a multiple of the identity.
    shrinkage = min(max(float(ledoit_wolf_shrinkage(x.numpy(), assume_centered=True)), 0.0), 1.0)
    floor = shrinkage * S.sum() / n_features
    variance = (1 - shrinkage) * S + floor
    beyond = n_features > len(S)
    if min(variance.min(), floor if beyond else variance.min()) <= ROUNDING * variance.max():
        raise ValueError(f"fit: {n_prompts} prompts do not say how {n_features} features vary; give more of them")
    along = y @ directions.mT
    distance = (along.square() / variance).sum(1)
    if beyond:
        # Not as a difference of two squares, which would leave rounding divided by a small variance.
        distance += (y - along @ directions).square().sum(1) / floor
    return distance


def logistic_probe(
    train: Float[Tensor, "prompt feature"], anomalous: Bool[Tensor, "prompt"], held_out: Float[Tensor, "other feature"]
) -> Float[Tensor, "other"]:
    """What a classifier that was shown both kinds says of other prompts: the log odds that they are anomalous.

    Logistic regression on standardised features with scikit-learn's L2 penalty (C = 1), so features may outnumber
    prompts; one that does not vary in training gets no weight. Any real number, 0 where it cannot say. It knows the
    anomaly that it is asked for, which a detector does not: a ceiling of what lies in a linear map of the features, not
    of what they hold. Null: labels that say nothing, for which ``separation`` has an interval.

    Args:
        train: Features of prompts that it is fitted to.
        anomalous: Which of these are.
        held_out: Features of other prompts.

    Raises:
        ValueError: no anomalous or no normal prompt in training, features or labels that do not go together, or numbers
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
            f"anomalous: its shape {tuple(anomalous.shape)} is not valid; it must be ({len(train)},), one a prompt"
        )
    _check_both_kinds("anomalous", anomalous)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(train.detach().cpu().double().numpy(), anomalous.cpu().numpy())
    return torch.from_numpy(classifier.decision_function(held_out.detach().cpu().double().numpy()))


def _counts_by_level(levels: Int[Tensor, "draw prompt"], size: int) -> Float[Tensor, "draw level"]:
    """How many prompts of each draw have the i-th smallest of all scores."""
    counts = torch.zeros(len(levels), size, dtype=torch.float64)
    return counts.scatter_add_(1, levels, torch.ones_like(levels, dtype=torch.float64))


def _auroc(one: Float[Tensor, "draw level"], other: Float[Tensor, "draw level"]) -> Float[Tensor, "draw"]:
    """Mann and Whitney's U of the one over the other, as a share of the pairs."""
    below = other.cumsum(1) - other / 2
    return (one * below).sum(1) / (one.sum(1) * other.sum(1))


def _check_both_kinds(name: str, anomalous: Bool[Tensor, "prompt"]) -> None:
    count = int(anomalous.sum())
    if count in (0, len(anomalous)):
        raise ValueError(f"{name}: {count} of {len(anomalous)} prompts are; there must be some that are and some not")


def _check_features(name: str, x: Float[Tensor, "*shape"], like: Float[Tensor, "*other"] | None = None) -> None:
    if x.ndim != 2 or 0 in x.shape or (like is not None and x.shape[1] != like.shape[1]):
        features = "feature" if like is None else str(like.shape[1])
        raise ValueError(f"{name}: the shape {tuple(x.shape)} is not valid; it must be [prompt, {features}]")
    if not x.isfinite().all():
        raise ValueError(f"{name}: it is not all numbers (NaN or infinite)")
