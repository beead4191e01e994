"""Probes of activations: a probe is fitted to some sequences and evaluated on others.

Alain & Bengio 2016 (arXiv 1610.01644). A probe shows that a quantity can be decoded, not that the network uses it;
ablation tests the latter (``ablated_loss``). Any invertible map of the inputs preserves all information, so compare
each number with a baseline: the same probe at another hook point, or of an untrained network.
"""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headway.analyze.network.interventions import check_one_of
from headway.analyze.network.requirements import check_batch
from headway.data.seeds import generator
from headway.data.task import Batch
from headway.models.convert import Model, evaluating

Probe = Literal["linear", "mlp"]
# Singular values of standardised features below this share of the largest one are float32 rounding error.
ROUNDING = 1e-6


class Samples(NamedTuple):
    """Features and targets of a probe, one row per sample."""

    x: Float[Tensor, "sample feature"]
    y: Float[Tensor, "sample target"]


class ProbeResult(NamedTuple):
    """Errors of a probe: mean squared errors, and R² on held-out samples.

    ``train_error`` and ``held_out_error`` are means over samples and targets, in the targets' squared unit.
    ``r_squared`` = 1 - sum ‖y - prediction‖² / sum ‖y - mean‖², where the sums run over held-out samples and targets,
    and the mean is that of the *training* targets. It is at most 1; 0 is the error of predicting that mean, and a
    worse prediction is negative. NaN if no held-out target differs from the mean.
    """

    train_error: float
    held_out_error: float
    r_squared: float


def linear_probe(train: Samples, held_out: Samples) -> ProbeResult:
    """Fit least squares with an intercept, ``y ≈ x W + b``, in float64.

    If several W fit equally well, the one of minimum norm over standardised features is taken. So constant and linearly
    dependent features do no harm; without them any invertible affine map of x gives the same numbers.

    Null: uninformative features give a negative ``r_squared``, for n normal training samples of p features
    -p / (n - p - 2) on average, and a ``train_error`` of (n - p - 1) / n times the variance; heavy tails lower
    ``r_squared`` further. Positions of one sequence are not independent samples: see ``probe_activation``.

    Raises:
        ValueError: fewer training samples than features + 1, mismatched shapes, or values that are NaN or infinite.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> result = linear_probe(Samples(x[:3], 2 * x[:3] + 1), Samples(x[3:], 2 * x[3:] + 2))
        >>> [round(each, 6) for each in result]  # the held-out target is 8, the prediction 7, the training mean 3
        [0.0, 1.0, 0.96]
    """
    (x, y), (x_held, y_held) = _comparable(train, held_out)
    x, x_held = _standardised(x, x_held)
    W = torch.linalg.lstsq(x, y - y.mean(0), rcond=ROUNDING, driver="gelsd").solution
    return _result(y, y_held, x @ W + y.mean(0), x_held @ W + y.mean(0))


def mlp_probe(train: Samples, held_out: Samples, hidden: int = 64, steps: int = 500, seed: int = 0) -> ProbeResult:
    """Fit one hidden layer, ``y ≈ relu(x W_in + b_in) W_out + b_out``, which also decodes nonlinear functions of x.

    Features and targets are standardised by the training samples, so all targets have equal weight. AdamW minimises the
    mean squared error on the full batch (learning rate 0.01, weight decay 0.1). The initial weights depend on ``seed``
    alone: the same samples give the same numbers for the same number of threads. A probe with few samples overfits;
    then ``train_error`` is far below ``held_out_error``, and ``r_squared`` of uninformative features is negative.

    Args:
        train: Training samples.
        held_out: Evaluation samples.
        hidden: Width of the hidden layer.
        steps: Number of updates; there is no early stopping.
        seed: Seed of the initial weights.

    Raises:
        ValueError: as for ``linear_probe``; ``hidden`` or ``steps`` below 1.

    Example:
        >>> x = torch.linspace(-1, 1, 101)[:, None]
        >>> samples = Samples(x[::2], x[::2].abs()), Samples(x[1::2], x[1::2].abs())
        >>> abs(linear_probe(*samples).r_squared) < 0.1, mlp_probe(*samples).r_squared > 0.9
        (True, True)
    """
    for name, value in (("hidden", hidden), ("steps", steps)):
        if value < 1:
            raise ValueError(f"{name}: {value} is not valid; it must be at least 1")
    draws = generator("init", seed, index=1)  # index 0 initialises networks
    (x, y), (x_held, y_held) = _comparable(train, held_out)

    def normal(*shape: int, size: float = 1.0) -> Tensor:
        return (size * torch.randn(shape, generator=draws)).requires_grad_()

    def forward(x: Float[Tensor, "sample feature"]) -> Float[Tensor, "sample target"]:
        return torch.addmm(b_out, torch.addmm(b_in, x, W_in).relu(), W_out)

    with torch.inference_mode(False), torch.enable_grad():
        features, features_held = (each.float() for each in _standardised(x, x_held))
        targets = _standardised(y, y_held)[0].float()
        W_in, b_in = normal(x.shape[1], hidden, size=(2 / x.shape[1]) ** 0.5), normal(hidden)
        W_out, b_out = normal(hidden, y.shape[1], size=hidden**-0.5), torch.zeros(y.shape[1], requires_grad=True)
        optimizer = torch.optim.AdamW([W_in, b_in, W_out, b_out], lr=0.01, weight_decay=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            (forward(features) - targets).square().mean().backward()
            optimizer.step()
    with torch.no_grad():
        predictions = [forward(each).double() * _spread(y) + y.mean(0) for each in (features, features_held)]
    return _result(y, y_held, *predictions)


def probe_activation(
    model: Model,
    train: Batch,
    held_out: Batch,
    point: str,
    target: Callable[[Batch], Tensor],
    where: Callable[[Batch], Bool[Tensor, "batch pos"]] | None = None,
    kind: Probe = "linear",
) -> ProbeResult:
    """Fit a probe from the activation at a hook point to a target, one probe for all positions.

    Returns the ``ProbeResult`` for the samples of ``samples``. The probe is fitted to whole sequences and evaluated on
    other whole sequences. Positions of one sequence are not independent samples. If the target is the same at all of
    them (the coefficients of a recurrence), a sequence is hardly more than one sample: use many more *sequences* than
    features, which nothing here can check. With fewer the held-out error is still correct for this probe, but a probe
    of more sequences decodes better.

    Args:
        model: The network; it is in evaluation mode during the call.
        train: Sequences for training.
        held_out: Sequences for evaluation, of any length; none of them may be in ``train``.
        point: A hook point with an activation [batch, pos, ...]; at hook_z all heads are probed together.
        target: A function from a batch to the target [batch, pos, target].
        where: A function from a batch to the positions to use [batch, pos]; ``batch.mask`` by default.
        kind: ``linear`` or ``mlp``, with default settings; for other settings call the probes directly.

    Raises:
        ValueError: a hook point that does not exist or whose activation has no positions; a target or positions of
            another shape; fewer than 2 different sequences, or fewer samples than features + 1; held-out sequences
            that are in ``train``; values that are NaN or infinite.

    Example:
        The one-hot previous token is in the residual stream after a previous-token head, but not in the embedding.

        >>> from headway.models.handmade import TASK, previous_token_head
        >>> model, held_out = previous_token_head()
        >>> train = TASK.evaluation_batch(seed=1, batch_size=101)
        >>> before = lambda batch: torch.eye(13)[batch.inputs.roll(1, 1)]
        >>> later = lambda batch: torch.arange(17).expand_as(batch.inputs) > 0
        >>> for point in ("hook_embed", "blocks.0.hook_resid_post"):
        ...     print(abs(round(probe_activation(model, train, held_out, point, before, later).r_squared, 1)))
        0.0
        1.0
    """
    check_one_of("kind", kind, get_args(Probe))
    used: list[set[tuple]] = []
    for name, batch in (("train", train), ("held_out", held_out)):
        used.append({tuple(row.flatten().tolist()) for row in batch.inputs[_positions(batch, where).any(1)]})
        if (count := len(used[-1])) < 2:
            raise ValueError(f"{name}: {count} different sequences have positions to probe; at least 2 must")
    if common := len(used[0] & used[1]):
        raise ValueError(f"held_out: {common} of its {len(used[1])} sequences are in train; leave these out")
    fitted, evaluated = (samples(model, batch, point, target, where) for batch in (train, held_out))
    return linear_probe(fitted, evaluated) if kind == "linear" else mlp_probe(fitted, evaluated)


def samples(
    model: Model,
    batch: Batch,
    point: str,
    target: Callable[[Batch], Tensor],
    where: Callable[[Batch], Bool[Tensor, "batch pos"]] | None = None,
) -> Samples:
    """Return the activation at a hook point and the target, one sample per position.

    Axes after [batch, pos] are flattened: hook_z [batch, pos, head, d_head] gives n_heads · d_head features.

    Args:
        model: The network; it is in evaluation mode during the call.
        batch: The sequences.
        point: The hook point; see ``probe_activation``.
        target: The target; see ``probe_activation``.
        where: The positions to use; see ``probe_activation``.

    Raises:
        ValueError: as for ``probe_activation``.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> model, batch = composing_pair("k")
        >>> found = samples(model, batch, "blocks.0.attn.hook_z", lambda batch: batch.inputs[..., None])
        >>> found.x.shape, found.y.shape  # 29 sequences of 17 positions, 2 heads of 19
        (torch.Size([493, 38]), torch.Size([493, 1]))
    """
    positions = _positions(batch, where)
    y = target(batch)
    if y.ndim != 3 or y.shape[:2] != positions.shape:
        n, length = positions.shape
        raise ValueError(
            f"target: it returned the shape {tuple(y.shape)}; it must be [batch, pos, target], here ({n}, {length}, …)"
        )
    x = _activation(model, batch, point)
    return Samples(x[positions.to(x.device)].flatten(1), y[positions.to(y.device)])


def _positions(batch: Batch, where: Callable[[Batch], Bool[Tensor, "batch pos"]] | None) -> Bool[Tensor, "batch pos"]:
    name, positions = ("batch: its mask", batch.mask) if where is None else ("where: its result", where(batch))
    expected = batch.inputs.shape[:2]
    if positions.dtype != torch.bool or positions.shape != expected:
        raise ValueError(
            f"{name} is {positions.dtype} of the shape {tuple(positions.shape)}; "
            f"it must be torch.bool of the shape {tuple(expected)}, True at the positions to use"
        )
    return positions.to(batch.inputs.device)


def _activation(model: Model, batch: Batch, point: str) -> Float[Tensor, "batch pos *rest"]:
    check_batch(model, batch)
    with torch.no_grad(), evaluating(model):
        _, cache = model.run_with_cache(
            batch.inputs, return_cache_object=False, names_filter=lambda name: name == point
        )
    if point not in cache:
        nearest = get_close_matches(point, model.hook_dict, n=1)
        hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
        raise ValueError(f"point: {point!r} is not a hook point of this network{hint}")
    # The second axis of scores and patterns is heads, and there may be as many heads as positions.
    if point.endswith(("scores", "pattern")) or cache[point].shape[:2] != batch.inputs.shape[:2]:
        raise ValueError(
            f"point: {point!r} has the shape {tuple(cache[point].shape)}; it must be an activation [batch, pos, ...]"
        )
    return cache[point]


def _comparable(train: Samples, held_out: Samples) -> tuple[Samples, Samples]:
    """Return both in float64; refuse samples that a probe cannot be fitted to and evaluated on."""
    for name, (x, y) in (("train", train), ("held_out", held_out)):
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or 0 in (*x.shape, *y.shape):
            raise ValueError(
                f"{name}: x and y have the shapes {tuple(x.shape)} and {tuple(y.shape)}; "
                "they must be [sample, feature] and [sample, target], with the same number of samples"
            )
        for what, values in (("x", x), ("y", y)):
            if not values.isfinite().all():
                count = int((~values.isfinite()).sum())
                raise ValueError(f"{name}: {count} values of {what} are NaN or infinite; all must be finite")
    for what, here, there in zip(("features", "targets"), train, held_out, strict=True):
        if here.shape[1] != there.shape[1]:
            raise ValueError(
                f"held_out: it has {there.shape[1]} {what}; it must have as many as train, {here.shape[1]}"
            )
    count, features = train.x.shape
    if count < features + 1:
        raise ValueError(
            f"train: {count} samples are too few for {features} features and an intercept; give more sequences"
        )
    train, held_out = (Samples(*(values.detach().cpu().double() for values in each)) for each in (train, held_out))
    return train, held_out


def _standardised(
    train: Float[Tensor, "sample entry"], held_out: Float[Tensor, "other entry"]
) -> tuple[Float[Tensor, "sample entry"], Float[Tensor, "other entry"]]:
    """Standardise both by the mean and standard deviation of train; entries that are constant in train become 0."""
    scale, mean = _spread(train), train.mean(0)
    x, x_held = (((each - mean) / scale).where(scale > 0, 0) for each in (train, held_out))
    return x, x_held


def _spread(x: Float[Tensor, "sample entry"]) -> Float[Tensor, "entry"]:
    """Standard deviation of each entry; 0 where it is rounding error."""
    spread = x.std(0, correction=0)
    return spread.where(spread > ROUNDING * x.abs().amax(0), 0)


def _result(
    y: Float[Tensor, "sample target"],
    y_held: Float[Tensor, "held target"],
    predicted: Float[Tensor, "sample target"],
    predicted_held: Float[Tensor, "held target"],
) -> ProbeResult:
    mean, error = y.mean(0), (y_held - predicted_held).square()
    squares = (y_held - mean).square()
    # The mean of equal numbers equals them only up to rounding.
    varies = bool((squares.sqrt() > 1e-12 * y_held.abs()).any())
    r_squared = 1 - (error.sum() / squares.sum()).item() if varies else float("nan")
    return ProbeResult((y - predicted).square().mean().item(), error.mean().item(), r_squared)
