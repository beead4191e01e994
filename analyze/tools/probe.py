"""Probes of activations: a probe is fitted to some sequences and evaluated on others.

Alain & Bengio 2016 (arXiv 1610.01644). A probe shows that a quantity can be decoded, not that the network uses it;
ablation tests the latter (``ablated_loss``). Any invertible map of the inputs preserves all information, so compare
each number with a baseline: the same probe at another hook point, or of an untrained network.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.analyze.network.interventions import check_one_of
from headway.analyze.network.requirements import check_batch
from headway.data.seeds import generator
from headway.data.task import Batch
from headway.models.convert import Model, evaluating

Probe = Literal["linear", "mlp"]
# Singular values of standardised features below this share of the largest one are float32 rounding error.
ROUNDING = 1e-6
# Without validation samples, an MLP probe validates on one of this many parts of its training samples.
PARTS = 5
# An MLP probe stops after this many updates without a better validation loss.
PATIENCE = 100
# It must be better than the mean of the targets by this many standard errors over the validation samples.
ERRORS = 2


class Samples(NamedTuple):
    """Features and targets of a probe, one row per sample."""

    x: Float[Tensor, "sample feature"]
    y: Float[Tensor, "sample target"]


class ProbeResult(NamedTuple):
    """Errors of a probe: mean squared errors, and R² on held-out samples.

    ``train_error`` and ``held_out_error`` are means over samples and targets, in the targets' squared unit.
    ``r_squared`` = 1 - sum ‖y - prediction‖² / sum ‖y - mean‖², where the sums run over held-out samples and targets,
    and the mean is that of the *training* targets, without those that an MLP probe validates on. It is at most 1; 0 is
    the error of predicting that mean, and a worse prediction is negative. NaN if no held-out target differs from the
    mean.
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
    (x, y), (x_held, y_held) = _comparable(train, held_out=held_out)
    x, x_held = _standardised(x, x_held)
    W = _least_squares(x, y - y.mean(0))
    return _result(y, y_held, x @ W + y.mean(0), x_held @ W + y.mean(0))


def mlp_probe(
    train: Samples,
    held_out: Samples,
    hidden: int = 64,
    steps: int = 500,
    seed: int = 0,
    validation: Samples | None = None,
) -> ProbeResult:
    """Fit a linear map and one hidden layer, ``y ≈ x W + relu(x W_in + b_in) W_out + b``, stopped by validation.

    The hidden layer also decodes nonlinear functions of x. Features and targets are standardised by the samples that
    the probe is fitted to, so all targets have equal weight. AdamW minimises the mean squared error on the full batch
    (learning rate 0.01, weight decay 0.1) from two starts: the mean of the targets (W and W_out are 0), and the linear
    probe. The probe keeps the weights with the smallest validation loss, and predicts the mean of the targets if that
    loss is not smaller than that of the mean by two standard errors. So ``r_squared`` of uninformative features is
    about 0, and a target that a linear probe decodes is decoded about as well. A probe of few samples finds less than
    there is. The initial weights depend on ``seed`` alone: the same samples give the same numbers for the same number
    of threads.

    Args:
        train: Training samples.
        held_out: Evaluation samples, which stop nothing.
        hidden: Width of the hidden layer.
        steps: Largest number of updates from each start.
        seed: Seed of the initial weights, and of the samples that are validated on.
        validation: Validation samples; if not given, a random fifth of the training samples, to which the probe is not
            fitted. If several samples are of one sequence, give samples of other sequences.

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
    if validation is None:
        train, held_out = _comparable(train, held_out=held_out)
        train, validation = _split(train, torch.arange(len(train.x)), seed)
    else:
        train, held_out, validation = _comparable(train, held_out=held_out, validation=validation)
    draws = generator("init", seed, index=1)  # index 0 initialises networks
    with torch.inference_mode(False), torch.enable_grad():
        features = _standardised(train.x, held_out.x, validation.x)
        targets = _standardised(train.y, validation.y)
        x, x_held, x_validation = (each.float() for each in features)
        y, y_validation = (each.float() for each in targets)
        W_in = (2 / x.shape[1]) ** 0.5 * torch.randn(x.shape[1], hidden, generator=draws)
        b_in, W_out = torch.randn(hidden, generator=draws), torch.zeros(hidden, y.shape[1])
        fits = [
            _fit([W, W_in, b_in, W_out, torch.zeros(y.shape[1])], (x, y), (x_validation, y_validation), steps)
            for W in (torch.zeros(x.shape[1], y.shape[1]), _least_squares(features[0], targets[0]).float())
        ]
        weights = min(fits, key=lambda fit: fit[0])[1]
        better = _better_than_mean(_predictions(weights, x_validation), y_validation)
    spread, mean = better * _spread(train.y), train.y.mean(0)
    return _result(train.y, held_out.y, *(_predictions(weights, each).double() * spread + mean for each in (x, x_held)))


def _better_than_mean(predicted: Float[Tensor, "sample target"], y: Float[Tensor, "sample target"]) -> bool:
    """Return whether predictions of standardised targets beat their mean, 0, by two standard errors."""
    gained = (y.square() - (y - predicted).square()).mean(1)
    return bool(gained.mean() > ERRORS * gained.std() / len(gained) ** 0.5)


def _fit(
    start: list[Tensor], train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], steps: int
) -> tuple[float, list[Tensor]]:
    """Return the smallest validation loss on the way of AdamW from the start, and the weights that have it."""
    weights = [each.clone().requires_grad_() for each in start]
    optimizer = torch.optim.AdamW(weights, lr=0.01, weight_decay=0.1)
    least, best, since = float("inf"), start, 0
    for step in range(steps + 1):
        with torch.no_grad():
            loss = F.mse_loss(_predictions(weights, validation[0]), validation[1]).item()
        if loss < least:
            least, best, since = loss, [each.detach().clone() for each in weights], step
        if step - since == PATIENCE:
            break
        optimizer.zero_grad()
        F.mse_loss(_predictions(weights, train[0]), train[1]).backward()
        optimizer.step()
    return least, best


def _predictions(weights: list[Tensor], x: Float[Tensor, "sample feature"]) -> Float[Tensor, "sample target"]:
    W, W_in, b_in, W_out, b = weights
    return x @ W + torch.addmm(b, torch.addmm(b_in, x, W_in).relu(), W_out)


def _split(train: Samples, sequence: Int[Tensor, "sample"], seed: int) -> tuple[Samples, Samples]:
    """Return the samples to fit to and those to validate on: a random part of the sequences."""
    count = int(sequence.max()) + 1
    order = torch.randperm(count, generator=generator("init", seed, index=2))
    held = torch.isin(sequence, order[: max(1, count // PARTS)])
    fitted, validation = (Samples(*(values[some.to(values.device)] for values in train)) for some in (~held, held))
    return fitted, validation


def _sequence_of_each(
    batch: Batch, where: Callable[[Batch], Bool[Tensor, "batch pos"]] | None
) -> Int[Tensor, "sample"]:
    """Return the sequence of each sample, as an index; equal sequences are one."""
    rows = _positions(batch, where).nonzero()[:, 0]
    return torch.unique(batch.inputs[rows].flatten(1), dim=0, return_inverse=True)[1].cpu()


def probe_activation(
    model: Model,
    train: Batch,
    held_out: Batch,
    point: str,
    target: Callable[[Batch], Tensor],
    where: Callable[[Batch], Bool[Tensor, "batch pos"]] | None = None,
    kind: Probe = "linear",
    validation: Batch | None = None,
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
        validation: Sequences that stop an MLP probe, none of them in ``train`` or ``held_out``. Draw fresh ones where
            the task can; if not given, a random fifth of the different training sequences. A linear probe needs none.

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
    batches = {"train": train, "held_out": held_out}
    if validation is not None:
        batches["validation"] = validation
    _check_apart(batches, where)
    of = {name: samples(model, batch, point, target, where) for name, batch in batches.items()}
    if kind == "linear":
        return linear_probe(of["train"], of["held_out"])
    if validation is None:
        of["train"], of["validation"] = _split(of["train"], _sequence_of_each(train, where), seed=0)
    return mlp_probe(of["train"], of["held_out"], validation=of["validation"])


def _check_apart(batches: Mapping[str, Batch], where: Callable[[Batch], Bool[Tensor, "batch pos"]] | None) -> None:
    """Refuse fewer than two different sequences, and sequences that are in two batches."""
    used: dict[str, set[tuple]] = {}
    for name, batch in batches.items():
        own = {tuple(row.flatten().tolist()) for row in batch.inputs[_positions(batch, where).any(1)]}
        if len(own) < 2:
            raise ValueError(f"{name}: {len(own)} different sequences have positions to probe; at least 2 must")
        for other, there in used.items():
            if common := len(own & there):
                raise ValueError(f"{name}: {common} of its {len(own)} sequences are in {other}; leave these out")
        used[name] = own


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
    cache = {}
    if point in model.hook_dict:
        with torch.no_grad(), evaluating(model):
            _, cache = model.run_with_cache(
                batch.inputs, return_cache_object=False, names_filter=lambda name: name == point, **batch.padding
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


def _comparable(train: Samples, **others: Samples) -> list[Samples]:
    """Return all in float64; refuse samples that a probe cannot be fitted to and evaluated on."""
    for name, (x, y) in {"train": train, **others}.items():
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or 0 in (*x.shape, *y.shape):
            raise ValueError(
                f"{name}: x and y have the shapes {tuple(x.shape)} and {tuple(y.shape)}; "
                "they must be [sample, feature] and [sample, target], with the same number of samples"
            )
        for what, values in (("x", x), ("y", y)):
            if not values.isfinite().all():
                count = int((~values.isfinite()).sum())
                raise ValueError(f"{name}: {count} values of {what} are NaN or infinite; all must be finite")
    for name, other in others.items():
        for what, here, there in zip(("features", "targets"), train, other, strict=True):
            if here.shape[1] != there.shape[1]:
                raise ValueError(
                    f"{name}: it has {there.shape[1]} {what}; it must have as many as train, {here.shape[1]}"
                )
    count, features = train.x.shape
    if count < features + 1:
        raise ValueError(
            f"train: {count} samples are too few for {features} features and an intercept; give more sequences"
        )
    return [Samples(*(values.detach().cpu().double() for values in each)) for each in (train, *others.values())]


def _least_squares(
    x: Float[Tensor, "sample feature"], y: Float[Tensor, "sample target"]
) -> Float[Tensor, "feature target"]:
    """Return the W of minimum norm that minimises ‖x W - y‖²."""
    return torch.linalg.lstsq(x, y, rcond=ROUNDING, driver="gelsd").solution


def _standardised(
    train: Float[Tensor, "sample entry"], *others: Float[Tensor, "_ entry"]
) -> list[Float[Tensor, "_ entry"]]:
    """Standardise all by the mean and standard deviation of train; entries that are constant in train become 0."""
    scale, mean = _spread(train), train.mean(0)
    return [((each - mean) / scale).where(scale > 0, 0) for each in (train, *others)]


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
