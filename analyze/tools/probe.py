"""What can be read off an activation: a probe is fitted to some sequences, and its error is taken on others.

Alain & Bengio 2016 (arXiv 1610.01644). A probe says that something can be read, not that the network reads it: replace
the activation to see that (``ablated_loss``). And any invertible map of the inputs keeps all there is to read, so a
number means something beside another one: the same probe at another hook point, or of an untrained network.
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
# Directions in which standardised features vary less than this share of the most are rounding of float32.
ROUNDING = 1e-6


class Samples(NamedTuple):
    """What is read from, and what is to be read: one row a sample."""

    x: Float[Tensor, "sample feature"]
    y: Float[Tensor, "sample target"]


class ProbeResult(NamedTuple):
    """How well a probe reads its targets: mean squared errors, and R² on the samples that it has not seen.

    ``train_error`` and ``held_out_error`` are means over samples and targets, in the targets' squared unit.
    ``r_squared`` = 1 - sum ‖y - prediction‖² / sum ‖y - mean‖², sums over held-out samples and targets together, mean
    that of the *training* targets: at most 1, 0 for who predicts that mean, negative for who does worse. NaN if no
    held-out target differs from the mean.
    """

    train_error: float
    held_out_error: float
    r_squared: float


def linear_probe(train: Samples, held_out: Samples) -> ProbeResult:
    """Least squares with an intercept, ``y ≈ x W + b``, in float64.

    Of all W that fit alike, the smallest over standardised features is taken; so features that do not vary, or are
    combinations of others, do no harm, and otherwise any invertible affine map of x gives the same numbers.

    Null: features that say nothing give a negative ``r_squared``, for n normal training samples of p features
    -p / (n - p - 2) in the mean, and a ``train_error`` of (n - p - 1) / n times the variance; long tails make it
    worse. Samples at positions of one sequence are fewer than they look: see ``probe_activation``.

    Raises:
        ValueError: fewer training samples than features + 1, samples that do not go together or are not all numbers.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> result = linear_probe(Samples(x[:3], 2 * x[:3] + 1), Samples(x[3:], 2 * x[3:] + 2))
        >>> [round(each, 6) for each in result]  # the one held-out target is 8, and 7 is predicted; the mean was 3
        [0.0, 1.0, 0.96]
    """
    (x, y), (x_held, y_held) = _comparable(train, held_out)
    x, x_held = _standardised(x, x_held)
    W = torch.linalg.lstsq(x, y - y.mean(0), rcond=ROUNDING, driver="gelsd").solution
    return _result(y, y_held, x @ W + y.mean(0), x_held @ W + y.mean(0))


def mlp_probe(train: Samples, held_out: Samples, hidden: int = 64, steps: int = 500, seed: int = 0) -> ProbeResult:
    """One hidden layer, ``y ≈ relu(x W_in + b_in) W_out + b_out``: what can be read if not by a linear map.

    Features and targets are standardised by the training samples, each target counting alike, and the mean squared
    error is minimised by AdamW over all samples at once (learning rate 0.01, weight decay 0.1). Weights are
    drawn from ``seed`` alone: the same samples give the same numbers, on as many threads. Few samples are learnt by
    heart; then ``train_error`` is far below ``held_out_error``, and ``r_squared`` negative where nothing can be read.

    Args:
        train: Samples that it is fitted to.
        held_out: Samples that it is tried on.
        hidden: Width of the hidden layer.
        steps: Updates; there is no early stopping.
        seed: Of the initial weights.

    Raises:
        ValueError: as ``linear_probe``; no hidden unit or no step.

    Example:
        >>> x = torch.linspace(-1, 1, 101)[:, None]
        >>> samples = Samples(x[::2], x[::2].abs()), Samples(x[1::2], x[1::2].abs())
        >>> abs(linear_probe(*samples).r_squared) < 0.1, mlp_probe(*samples).r_squared > 0.9
        (True, True)
    """
    for name, value in (("hidden", hidden), ("steps", steps)):
        if value < 1:
            raise ValueError(f"{name}: {value} is not valid; it must be at least 1")
    draws = generator("init", seed, index=1)  # index 0 is the networks' own
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
    """Whether a target can be read off the activation at a hook point, with the same probe at every position.

    ``ProbeResult`` for the samples that ``samples`` gives. A probe is fitted to whole sequences and tried on whole
    others. Positions of one sequence are not independent samples. Where the target is the same at all of them (the coefficients
    of a recurrence), a sequence is hardly more than one sample: take many more *sequences* than features, which nothing
    here can check. With fewer the held-out error is still that of this probe; a probe of more sequences reads better.

    Args:
        model: The network; it is put into evaluation mode meanwhile.
        train: Sequences that the probe is fitted to.
        held_out: Other sequences, of any length; none of them may be in ``train``.
        point: A hook point with an activation [batch, pos, ...]; of hook_z all heads are read together.
        target: What is to be read, called with each batch: numbers [batch, pos, target].
        where: The positions that are taken, called with each batch; by default those that count (``batch.mask``).
        kind: ``linear`` or ``mlp``, with its defaults; call the probes themselves for others.

    Raises:
        ValueError: a hook point that does not exist, or whose activation has no positions; a target or positions of
            another shape; fewer than 2 different sequences, or samples than features + 1; held-out sequences that are
            in ``train``; numbers that are NaN or infinite.

    Example:
        The token before, one-hot, is in the residual stream after a previous-token head, and not in the embedding.

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
            raise ValueError(f"{name}: positions count in {count} different sequences; they must in at least 2")
    if common := len(used[0] & used[1]):
        raise ValueError(f"held_out: {common} of its {len(used[1])} sequences are in train; there must be none")
    fitted, evaluated = (samples(model, batch, point, target, where) for batch in (train, held_out))
    return linear_probe(fitted, evaluated) if kind == "linear" else mlp_probe(fitted, evaluated)


def samples(
    model: Model,
    batch: Batch,
    point: str,
    target: Callable[[Batch], Tensor],
    where: Callable[[Batch], Bool[Tensor, "batch pos"]] | None = None,
) -> Samples:
    """The activation at a hook point and the target, one sample for each position that counts.

    Axes after [batch, pos] are flattened: hook_z [batch, pos, head, d_head] has n_heads · d_head features.

    Args:
        model: The network; it is put into evaluation mode meanwhile.
        batch: Sequences.
        point: A hook point; see ``probe_activation``.
        target: What is to be read; see ``probe_activation``.
        where: The positions that are taken; see ``probe_activation``.

    Raises:
        ValueError: as ``probe_activation``.

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
        length = tuple(positions.shape)
        raise ValueError(f"target: it gave the shape {tuple(y.shape)}; it must be [batch, pos, target], {length} first")
    x = _activation(model, batch, point)
    return Samples(x[positions.to(x.device)].flatten(1), y[positions.to(y.device)])


def _positions(batch: Batch, where: Callable[[Batch], Bool[Tensor, "batch pos"]] | None) -> Bool[Tensor, "batch pos"]:
    name, positions = ("batch: its mask", batch.mask) if where is None else ("where: it", where(batch))
    expected = batch.inputs.shape[:2]
    if positions.dtype != torch.bool or positions.shape != expected:
        raise ValueError(
            f"{name} is {positions.dtype} of the shape {tuple(positions.shape)}; "
            f"it must be True or False for each position, {tuple(expected)}"
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
        hint = f"; nearest is {nearest[0]!r}" if nearest else ""
        raise ValueError(f"point: {point!r} is no hook point that this network passes{hint}")
    # Scores and patterns have an axis of heads there, which may be as long as a sequence.
    if point.endswith(("scores", "pattern")) or cache[point].shape[:2] != batch.inputs.shape[:2]:
        raise ValueError(f"point: {point!r} is no activation [batch, pos, ...]: {tuple(cache[point].shape)}")
    return cache[point]


def _comparable(train: Samples, held_out: Samples) -> tuple[Samples, Samples]:
    """Both in float64, if a probe can be fitted to the one and tried on the other."""
    for name, (x, y) in (("train", train), ("held_out", held_out)):
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or 0 in (*x.shape, *y.shape):
            raise ValueError(
                f"{name}: x and y have the shapes {tuple(x.shape)} and {tuple(y.shape)}; "
                "they must be [sample, feature] and [sample, target], of as many samples"
            )
        for what, values in (("x", x), ("y", y)):
            if not values.isfinite().all():
                raise ValueError(f"{name}: its {what} is not all numbers (NaN or infinite)")
    for what, here, there in zip(("features", "targets"), train, held_out, strict=True):
        if here.shape[1] != there.shape[1]:
            raise ValueError(f"held_out: it has {there.shape[1]} {what}; it must have those of train, {here.shape[1]}")
    count, features = train.x.shape
    if count < features + 1:
        raise ValueError(f"train: {count} samples for {features} features and an intercept; give more sequences")
    train, held_out = (Samples(*(values.detach().cpu().double() for values in each)) for each in (train, held_out))
    return train, held_out


def _standardised(
    train: Float[Tensor, "sample entry"], held_out: Float[Tensor, "other entry"]
) -> tuple[Float[Tensor, "sample entry"], Float[Tensor, "other entry"]]:
    """Both, less the mean of the training samples and in units of their spread; 0 for what does not vary there."""
    scale, mean = _spread(train), train.mean(0)
    x, x_held = (((each - mean) / scale).where(scale > 0, 0) for each in (train, held_out))
    return x, x_held


def _spread(x: Float[Tensor, "sample entry"]) -> Float[Tensor, "entry"]:
    """The standard deviation of each entry; 0 where it is rounding."""
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
    # The mean of equal numbers is one of them only up to rounding.
    varies = bool((squares.sqrt() > 1e-12 * y_held.abs()).any())
    r_squared = 1 - (error.sum() / squares.sum()).item() if varies else float("nan")
    return ProbeResult((y - predicted).square().mean().item(), error.mean().item(), r_squared)
