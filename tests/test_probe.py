"""Probes: what is there is read exactly, what is not there is not, and what was learnt by heart is seen as such."""

import inspect
import math
from itertools import pairwise

import pytest
import torch
from networks import gpt2_bridge
from torch import Tensor
from toys import VECTORS

from headway.analyze.tools.probe import Samples, linear_probe, mlp_probe, probe_activation, samples
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch
from headway.models.handmade import D_VOCAB, N_CTX, TASK, composing_pair, linear_network, previous_token_head

N, HELD, FEATURES, TARGETS = 211, 101, 13, 3
PROBES = [linear_probe, mlp_probe]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, X_HELD = normal(N, FEATURES), normal(HELD, FEATURES, seed=1)
W, B = normal(FEATURES, TARGETS, seed=2), normal(TARGETS, seed=3)


def linear_target(noise: float = 0.0) -> tuple[Samples, Samples]:
    y, y_held = (x @ W + B + noise * normal(len(x), TARGETS, seed=4 + len(x)) for x in (X, X_HELD))
    return Samples(X, y), Samples(X_HELD, y_held)


def test_a_linear_target_is_recovered():
    result = linear_probe(*linear_target())
    assert result.r_squared == pytest.approx(1, abs=1e-12)
    assert result.train_error == pytest.approx(0, abs=1e-20)
    assert result.held_out_error == pytest.approx(0, abs=1e-20)
    assert mlp_probe(*linear_target()).r_squared > 0.9


def test_errors_are_what_the_normal_equations_leave():
    (x, y), (x_held, y_held) = linear_target(noise=2.0)
    result = linear_probe(Samples(x, y), Samples(x_held, y_held))
    ones, ones_held = (torch.cat([each, torch.ones(len(each), 1)], 1) for each in (x, x_held))
    fitted = torch.linalg.solve(ones.mT @ ones, ones.mT @ y)
    error = (y_held - ones_held @ fitted).square()
    assert result.train_error == pytest.approx((y - ones @ fitted).square().mean().item())
    assert result.held_out_error == pytest.approx(error.mean().item())
    assert result.r_squared == pytest.approx(1 - (error.sum() / (y_held - y.mean(0)).square().sum()).item())


def test_noise_is_learnt_by_heart_as_much_as_theory_says():
    """n normal samples of p features: R² is -p / (n - p - 2) in the mean, and the training error (n - p - 1) / n."""
    n, p = 61, 7
    draws = []
    for seed in range(331):
        x, y = normal(n + HELD, p, seed=seed), normal(n + HELD, TARGETS, seed=1000 + seed)
        draws.append(linear_probe(Samples(x[:n], y[:n]), Samples(x[n:], y[n:])))
    found = torch.tensor(draws, dtype=torch.float64)
    error, mean = found.std(0) / math.sqrt(len(found)), found.mean(0)
    expected = torch.tensor([(n - p - 1) / n, (1 + 1 / n) * (n - 2) / (n - p - 2), -p / (n - p - 2)])
    assert ((mean - expected).abs() < 4 * error).all()
    assert (4 * error < 0.03).all()


def test_noise_is_not_read_and_learning_by_heart_is_visible():
    result = linear_probe(Samples(X, normal(N, TARGETS, seed=5)), Samples(X_HELD, normal(HELD, TARGETS, seed=6)))
    assert result.r_squared < 0
    assert result.train_error < 0.95 < result.held_out_error


def of_known_r_squared(n: int, features: int, r_squared: float) -> list[Samples]:
    """Samples to train on, to hold out and to validate on: a share of the variance of the target is a linear map."""
    w = normal(features, 1, seed=11) / math.sqrt(features)
    made = []
    for i, count in enumerate((n, n // 2, n // 2)):
        x, noise = normal(count, features, seed=12 + i), normal(count, 1, seed=22 + i)
        made.append(Samples(x, math.sqrt(r_squared) * x @ w + math.sqrt(1 - r_squared) * noise))
    return made


@pytest.mark.parametrize(("n", "features"), [(37, 31), (211, 13), (1009, 127)])
@pytest.mark.parametrize("own_validation", [True, False])
def test_the_mlp_finds_nothing_in_noise_however_few_samples_there_are(n: int, features: int, own_validation: bool):
    train, held_out, validation = of_known_r_squared(n, features, 0.0)
    found = mlp_probe(train, held_out, validation=validation if own_validation else None)
    assert -0.02 < found.r_squared < 0.01


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_the_mlp_decodes_what_a_linear_probe_decodes(share: float):
    """p features of n samples cost a linear probe about (1 - share) p / n of R²; the MLP costs little more."""
    train, held_out, validation = of_known_r_squared(1009, 53, share)
    linear = linear_probe(train, held_out).r_squared
    assert linear == pytest.approx(share - (1 - share) * 53 / 1009, abs=0.07)
    assert mlp_probe(train, held_out, validation=validation).r_squared > linear - 0.02
    # A fifth of the training samples is given up for the validation.
    assert mlp_probe(train, held_out).r_squared > linear - 0.05


def test_an_mlp_reads_more_than_a_linear_probe_where_there_is_more():
    """A linear and an absolute value, half of the variance each."""
    pair = [
        Samples(x, (x[:, :1] + (x[:, 1:2].abs() - math.sqrt(2 / math.pi)) / math.sqrt(1 - 2 / math.pi)) / math.sqrt(2))
        for x in (normal(499, 5, seed=31), normal(211, 5, seed=32))
    ]
    train, held_out = pair
    assert linear_probe(train, held_out).r_squared == pytest.approx(0.5, abs=0.1)
    assert mlp_probe(train, held_out).r_squared > 0.85


def test_held_out_samples_stop_nothing():
    """Other held-out samples give the same fit, and so the same error on the training samples."""
    train, held_out, validation = of_known_r_squared(211, 13, 0.3)
    found = [mlp_probe(train, each, validation=validation) for each in (held_out, Samples(X_HELD, X_HELD[:, :1]))]
    assert found[0].train_error == found[1].train_error
    assert found[0].held_out_error != found[1].held_out_error


def test_the_fit_that_validates_best_is_kept():
    """Validation samples that follow the opposite map leave the probe where it starts."""
    x, y = normal(211, 3), normal(211, 3)[:, :1]
    train, held_out = Samples(x, y), Samples(X_HELD[:, :3], X_HELD[:, :1])
    against = Samples(train.x, -train.y)
    assert mlp_probe(train, held_out, validation=against).r_squared == pytest.approx(0, abs=1e-9)
    assert mlp_probe(train, held_out, validation=train).r_squared > 0.99


@pytest.mark.parametrize(
    "target",
    [lambda x: x[:, :1] * x[:, 1:2], lambda x: x[:, 2:3].abs(), lambda x: x[:, :2] * x[:, 1:3] > 0],
    ids=["product", "absolute value", "exclusive or, as True and False"],
)
def test_the_mlp_reads_what_no_linear_map_shows(target):
    x, x_held = normal(499, 3), normal(HELD, 3, seed=1)
    pair = Samples(x, target(x)), Samples(x_held, target(x_held))
    assert linear_probe(*pair).r_squared < 0.15
    assert mlp_probe(*pair).r_squared > 0.65


def test_the_mlp_minds_no_units():
    x, y = X[:, :3], X[:, :1] * X[:, 1:2]
    x_held, y_held = X_HELD[:, :3], X_HELD[:, :1] * X_HELD[:, 1:2]
    plain = mlp_probe(Samples(x, y), Samples(x_held, y_held), steps=101)
    assert plain.r_squared > 0.5
    units, origin = torch.tensor([1e-6, 1.0, 1e5]), torch.tensor([3e-6, 7.0, -1e5])
    moved = mlp_probe(
        Samples(x * units + origin, 1e4 * y - 1e3), Samples(x_held * units + origin, 1e4 * y_held - 1e3), steps=101
    )
    assert moved.r_squared == pytest.approx(plain.r_squared, abs=1e-2)
    assert moved.held_out_error == pytest.approx(1e8 * plain.held_out_error, rel=0.1)


@pytest.mark.parametrize("probe", PROBES)
def test_the_same_samples_give_the_same_numbers_and_nothing_global_is_drawn(probe):
    pair = linear_target(noise=1.0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = probe(*pair)
    torch.manual_seed(1)
    assert probe(*pair) == first
    torch.manual_seed(0)
    probe(*pair)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.inference_mode():
        assert probe(*pair) == first


@pytest.mark.parametrize("probe", PROBES)
def test_samples_may_carry_gradients_and_nothing_flows_into_them(probe):
    pair = linear_target(noise=1.0)
    x, y = (each.clone().requires_grad_() for each in pair[0])
    assert probe(Samples(x, y), pair[1]) == probe(*pair)
    assert x.grad is None
    assert y.grad is None


def test_the_seed_draws_other_weights_and_more_of_everything_learns_more_by_heart():
    pair = linear_target(noise=1.0)
    assert mlp_probe(*pair, steps=5, seed=1) != mlp_probe(*pair, steps=5)
    # Where nothing stops the probe, as on its own training samples, more of everything learns more by heart.
    for name, values in (("hidden", (1, 11, 53)), ("steps", (5, 23, 71))):
        errors = [mlp_probe(*pair, validation=pair[0], **{"steps": 53, name: value}).train_error for value in values]
        assert all(more < less for less, more in pairwise(errors)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("probe", PROBES)
def test_features_that_are_constant_or_combinations_of_others_do_no_harm(probe, dtype: torch.dtype):
    train, held_out = linear_target(noise=1.0)
    more = normal(FEATURES, 5, seed=8)

    def with_more(each: Samples, constant: float) -> Samples:
        x = each.x.to(dtype)
        constants = torch.full_like(x[:, :2], constant)
        constants[:, 0] *= 1 + 1e-7 * x[:, 0]  # up to rounding
        return Samples(torch.cat([x, x @ more.to(dtype), x[:, :1], constants], 1), each.y)

    # A feature that never varied says nothing when it does.
    result, plain = probe(with_more(train, 7.1), with_more(held_out, 7e3)), probe(train, held_out)
    tolerance = 1e-5 if probe is linear_probe else 0.1
    assert result.r_squared == pytest.approx(plain.r_squared, abs=tolerance)
    assert result.train_error == pytest.approx(plain.train_error, rel=10 * tolerance)


def test_an_invertible_map_of_the_features_changes_nothing_for_a_linear_probe():
    train, held_out = linear_target(noise=1.0)
    A, b = normal(FEATURES, FEATURES, seed=9), 5 * normal(FEATURES, seed=10)
    moved = linear_probe(*(Samples(each.x @ A + b, each.y) for each in (train, held_out)))
    assert moved == pytest.approx(linear_probe(train, held_out), rel=1e-9)


@pytest.mark.parametrize("probe", PROBES)
def test_the_training_mean_is_what_r_squared_compares_with(probe):
    train, held_out = linear_target(noise=0.5)
    plain = probe(train, held_out)
    assert plain.r_squared > 0.5
    # Beside it a probe of nothing is the training mean, whose R² is 0 wherever the held-out targets are.
    blank = [Samples(torch.zeros_like(each.x), each.y + shift) for each, shift in ((train, 0), (held_out, 11))]
    assert probe(*blank).r_squared == pytest.approx(0, abs=1e-3)
    # The probe does not know of a shift: its error grows by the square, beside squares that grow by no more.
    shifted = probe(train, held_out._replace(y=held_out.y + 11))
    assert shifted.r_squared < plain.r_squared
    assert shifted.train_error == plain.train_error
    assert shifted.held_out_error == pytest.approx(11**2, rel=0.2)


@pytest.mark.parametrize("probe", PROBES)
def test_targets_that_do_not_vary_have_no_r_squared(probe):
    train, held_out = (Samples(x, torch.full_like(x[:, :2], 7.1)) for x in (X, X_HELD))
    result = probe(train, held_out)
    assert math.isnan(result.r_squared)
    assert result.held_out_error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("probe", PROBES)
def test_what_cannot_be_probed_is_refused(probe):
    train, held_out = linear_target()
    few = Samples(X[:FEATURES], train.y[:FEATURES])
    with pytest.raises(
        ValueError, match="train: 13 samples are too few for 13 features and an intercept; give more sequences"
    ):
        probe(few, held_out)
    assert linear_probe(Samples(X[: FEATURES + 1], train.y[: FEATURES + 1]), held_out).r_squared > 0.99
    for broken, message in (
        (train._replace(x=X / 0), "train: 2743 values of x are NaN or infinite"),
        (train._replace(y=train.y.log()), "train: .* values of y are NaN or infinite"),
        (train._replace(y=train.y[1:]), r"train: x and y have the shapes \(211, 13\) and \(210, 3\)"),
        (train._replace(y=train.y[:, 0]), r"and \(211,\); they must be \[sample, feature\] and \[sample, target\]"),
        (Samples(X[:, :0], train.y), "must be"),
    ):
        with pytest.raises(ValueError, match=message):
            probe(broken, held_out)
    for broken, message in (
        (held_out._replace(x=X_HELD[:, 1:]), "held_out: it has 12 features; it must have as many as train, 13"),
        (held_out._replace(y=held_out.y[:, 1:]), "held_out: it has 2 targets; it must have as many as train, 3"),
        (held_out._replace(x=X_HELD / 0), "held_out: .* values of x are NaN or infinite"),
        (Samples(X_HELD[:0], held_out.y[:0]), "must be"),
    ):
        with pytest.raises(ValueError, match=message):
            probe(train, broken)


def test_validation_samples_must_fit_too():
    train, held_out = linear_target()
    for broken, message in (
        (Samples(X_HELD[:, 1:], held_out.y), "validation: it has 12 features; it must have as many as train, 13"),
        (Samples(X_HELD / 0, held_out.y), "validation: .* values of x are NaN or infinite"),
        (Samples(X_HELD[:0], held_out.y[:0]), "validation: x and y have the shapes"),
    ):
        with pytest.raises(ValueError, match=message):
            mlp_probe(train, held_out, validation=broken)


def test_the_mlp_needs_units_steps_and_a_seed():
    for argument in ({"hidden": 0}, {"steps": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(argument))}: .* is not valid"):
            mlp_probe(*linear_target(), **argument)  # pyright: ignore[reportArgumentType]


def before(batch: Batch) -> Tensor:
    return torch.eye(D_VOCAB)[batch.inputs.roll(1, 1)]


def position(batch: Batch) -> Tensor:
    return torch.eye(N_CTX)[torch.arange(N_CTX).expand_as(batch.inputs)]


def after_the_first(batch: Batch) -> Tensor:
    return torch.arange(batch.inputs.shape[1]).expand_as(batch.mask) > 0


def two_batches(sequences: int = 101) -> tuple[Batch, Batch]:
    return TASK.evaluation_batch(1, sequences), TASK.evaluation_batch(2, sequences)


@pytest.mark.parametrize("target", [before, position])
def test_what_a_previous_token_head_writes_can_be_read_after_it(target):
    model, pair = previous_token_head()[0], two_batches()
    after = probe_activation(model, *pair, "blocks.0.hook_resid_post", target, after_the_first)
    assert after.r_squared == pytest.approx(1, abs=1e-6)
    embedded = probe_activation(model, *pair, "hook_embed", target, after_the_first)
    assert abs(embedded.r_squared) < 0.1
    assert embedded.held_out_error == pytest.approx(embedded.train_error, rel=0.1)


def test_the_token_before_is_in_the_head_and_not_in_what_it_reads():
    model, pair = previous_token_head()[0], two_batches()
    of_head = probe_activation(model, *pair, "blocks.0.attn.hook_z", before, after_the_first)
    read = probe_activation(model, *pair, "blocks.0.hook_resid_pre", before, after_the_first)
    assert of_head.r_squared == pytest.approx(1, abs=1e-6)
    assert read.r_squared < 0.2  # position 1 follows BOS, and a token is mostly not the one before
    by_mlp = probe_activation(model, *two_batches(29), "blocks.0.attn.hook_z", before, after_the_first, kind="mlp")
    assert by_mlp.r_squared > 0.95


def test_vectors_of_sequences_of_any_length_are_read():
    """Before the layer the residual stream holds x. After it stands x + mean(x so far), both in one place."""
    model, held_out = linear_network(torch.eye(7))
    for train in (VECTORS.task.evaluation_batch(3, 53), VECTORS.task.batch(0, 0, 53)):
        found = [
            probe_activation(model, train, held_out, f"blocks.0.hook_resid_{side}", lambda batch: batch.inputs + 3)
            for side in ("pre", "post")
        ]
        assert found[0].r_squared == pytest.approx(1, abs=1e-9)
        assert 0.5 < found[1].r_squared < 0.99
    assert train.inputs.shape[1] != held_out.inputs.shape[1]


def test_sequences_count_where_the_target_is_constant_in_each():
    """Numbers drawn for each sequence are learnt by heart far more than as many samples would be on their own."""
    model, held_out = linear_network(torch.eye(7))
    train = VECTORS.task.evaluation_batch(3, 23)

    def own(batch: Batch) -> Tensor:
        return normal(len(batch.inputs), 1, 101, seed=len(batch.inputs)).expand(-1, batch.inputs.shape[1], -1)

    def fresh(batch: Batch) -> Tensor:
        return normal(*batch.inputs.shape[:2], 101, seed=len(batch.inputs))

    point = "blocks.0.hook_resid_pre"
    independent, constant = (probe_activation(model, train, held_out, point, each) for each in (fresh, own))
    assert constant.r_squared < 3 * independent.r_squared < 0
    assert constant.train_error < independent.train_error < independent.held_out_error


def test_samples_are_the_positions_that_count():
    model, batch = composing_pair("k")
    numbers = torch.arange(batch.inputs.numel(), dtype=torch.float32).view(*batch.inputs.shape, 1)
    mask = torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    z = model.run_with_cache(batch.inputs)[1]["blocks.0.attn.hook_z"]
    for batch_, where in ((batch._replace(mask=mask), None), (batch, lambda _: mask)):
        found = samples(
            model, batch_, "blocks.0.attn.hook_z", lambda _: numbers.where(mask[..., None], torch.nan), where
        )
        assert torch.equal(found.y, numbers[mask])
        assert found.x.shape == (int(mask.sum()), 2 * 19)
        assert torch.equal(found.x[:, 19:], z[mask][:, 1])


def test_a_bridge_is_probed_too():
    task = RepeatedTokens(n_tokens=28, length=17, period_min=5, period_max=7)
    pair = task.evaluation_batch(0, 11), task.evaluation_batch(1, 5)

    def token(batch: Batch) -> Tensor:
        return torch.eye(29)[batch.inputs]

    model = gpt2_bridge()
    embedded = probe_activation(model, *pair, "hook_embed", token)
    in_head = probe_activation(model, *pair, "blocks.1.attn.hook_z", token)
    assert embedded.r_squared > in_head.r_squared
    try:
        model.original_model.train()  # its dropout is not at work in a probe, and is afterwards
        assert probe_activation(model, *pair, "blocks.1.attn.hook_z", token) == in_head
        assert all(module.training for module in model.original_model.modules())
    finally:
        model.original_model.eval()


def test_sequences_are_on_one_side_only():
    model, (train, held_out) = previous_token_head()[0], two_batches(29)
    shared = held_out._replace(inputs=torch.cat([train.inputs[:3], held_out.inputs[3:]]))
    point = "blocks.0.hook_resid_post"
    with pytest.raises(ValueError, match="held_out: 3 of its 29 sequences are in train; leave these out"):
        probe_activation(model, train, shared, point, before)
    # Sequences of which nothing is taken are on neither side.
    mask = torch.arange(29)[:, None].expand_as(shared.mask) >= 3
    probe_activation(model, train, shared._replace(mask=mask), point, before)
    same = train.first(1)._replace(inputs=train.inputs[:1].repeat(3, 1), mask=train.mask[:1].repeat(3, 1))
    with pytest.raises(ValueError, match="train: 1 different sequences have positions to probe; at least 2 must"):
        probe_activation(model, same, held_out, point, before)
    with pytest.raises(ValueError, match="held_out: 0 different sequences have positions to probe"):
        probe_activation(
            model,
            train,
            held_out,
            point,
            before,
            lambda batch: torch.zeros_like(batch.mask) | batch.inputs.eq(train.inputs).all(1, True),
        )
    with pytest.raises(
        ValueError, match="train: 34 samples are too few for 43 features and an intercept; give more sequences"
    ):
        probe_activation(model, train.first(2), held_out, point, before)


def test_an_mlp_probe_validates_on_whole_sequences_that_it_is_not_fitted_to():
    """Each sequence has numbers of its own at all positions, which no other sequence tells: nothing is learnt."""
    model, point = linear_network(torch.eye(7))[0], "blocks.0.hook_resid_pre"
    train, held_out, validation = (VECTORS.task.evaluation_batch(seed, 23) for seed in (3, 4, 5))

    def own(batch: Batch) -> Tensor:
        return (1e7 * batch.inputs[:, :1, :5]).sin().expand(-1, batch.inputs.shape[1], -1)

    for given in (None, validation):
        found = probe_activation(model, train, held_out, point, own, kind="mlp", validation=given)
        assert -0.1 < found.r_squared < 0.05
    # Twice the same sequences: the copies are on one side.
    twice = train._replace(
        **{name: getattr(train, name).repeat_interleave(2, 0) for name in ("inputs", "targets", "mask")}, info={}
    )
    found = probe_activation(model, twice, held_out, point, own, kind="mlp")
    assert -0.1 < found.r_squared < 0.05
    with pytest.raises(ValueError, match="validation: 23 of its 23 sequences are in held_out; leave these out"):
        probe_activation(model, train, held_out, point, own, kind="mlp", validation=held_out)


def test_wrong_arguments_are_named():
    model, pair = previous_token_head()[0], two_batches(29)
    for point, message in (
        (
            "blocks.0.hook_resid_pst",
            "point: 'blocks.0.hook_resid_pst' is not a hook point .* the nearest is 'blocks.0.hook_r",
        ),
        ("blocks.0.attn.hook_pattern", r"point: 'blocks.0.attn.hook_pattern' has the shape .* \[batch, pos, ...\]"),
    ):
        with pytest.raises(ValueError, match=message):
            probe_activation(model, *pair, point, before)
    pattern, batch = (
        "blocks.0.attn.hook_pattern",
        pair[0]._replace(inputs=pair[0].inputs[:, :2], mask=pair[0].mask[:, :2]),
    )
    with pytest.raises(ValueError, match=r"it must be an activation \[batch, pos, ...\]"):  # as many heads as positions
        samples(composing_pair("k")[0], batch, pattern, lambda batch: batch.inputs[..., None])
    with pytest.raises(
        ValueError, match=r"target: it returned the shape \(29, 17\); it must be \[batch, pos, target\]"
    ):
        probe_activation(model, *pair, "hook_embed", lambda batch: batch.inputs)
    with pytest.raises(ValueError, match=r"where: its result is torch.bool of the shape \(17,\)"):
        probe_activation(model, *pair, "hook_embed", before, lambda batch: batch.mask[0])
    # Behind the check of types that tests add.
    with pytest.raises(ValueError, match="kind: 'tree' is not one of linear, mlp"):
        inspect.unwrap(probe_activation)(model, *pair, "hook_embed", before, kind="tree")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="batch: it has tokens; this network takes vectors"):
        probe_activation(linear_network(torch.eye(7))[0], *pair, "hook_embed", before)
