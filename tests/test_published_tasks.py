"""Tasks that others have published, against theory: their marks, brute force, and what each predictor can know."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from headway.data.brackets import CLOSE, END, KINDS, OPEN, PAD, START, Brackets
from headway.data.linear_regression import LinearRegression, discrete, ridge
from headway.data.markov_chains import MarkovChains, contexts, n_gram, stationary
from headway.data.maximum import Maximum
from headway.data.modular_addition import ModularAddition
from headway.data.seeds import generator
from headway.data.task import Batch, Task, masked_mean

CHAINS = MarkovChains(n_states=3, length=11)
SECOND_ORDER = MarkovChains(n_states=3, order=2, length=13)
POOL = MarkovChains(n_states=3, length=11, n_chains=5)
LARGEST = Maximum(n_tokens=7, length=3)
ADDITION = ModularAddition(p=7)
BRACKETS = Brackets(max_brackets=8)
REGRESSION = LinearRegression(dimension=3, n_pairs=7)
REGRESSION_POOL = LinearRegression(dimension=3, n_pairs=7, n_tasks=5)
TASKS = {
    "chains": CHAINS,
    "second order": SECOND_ORDER,
    "pool of chains": POOL,
    "maximum": LARGEST,
    "addition": ADDITION,
    "brackets": BRACKETS,
    "regression": REGRESSION,
    "pool of regressions": REGRESSION_POOL,
}
each_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
PREDICTED = [CHAINS, SECOND_ORDER, POOL, REGRESSION, REGRESSION_POOL]


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean and its standard error."""
    return values.double().mean().item(), values.double().std().item() / math.sqrt(len(values))


# Every task


@each_task
def test_batches_follow_from_their_seeds_and_leave_torch_s_generator_alone(task: Task):
    state = torch.get_rng_state()
    first, again, other = (task.batch(0, index, batch_size=5) for index in (3, 3, 4))
    held_out = task.evaluation_batch(seed=0, batch_size=5)
    replace(task).baselines()
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)
    assert not torch.equal(first.inputs, held_out.inputs)
    assert first.inputs.shape[:2] == first.targets.shape[:2] == first.mask.shape == (5, task.n_ctx)
    assert [len(row) for row in task.labels(first)] == [task.n_ctx] * 5


@each_task
def test_inputs_and_targets_fit_the_network_that_the_task_asks_for(task: Task):
    batch = task.batch(0, 0, batch_size=17)
    if task.input_type == "vectors":
        assert batch.inputs.shape[-1] == task.d_vocab
        assert batch.targets.shape[-1] == task.d_vocab_out == 1
    else:
        assert 0 <= batch.inputs.min() <= batch.inputs.max() < task.d_vocab
        counted = batch.targets[batch.mask]
        assert 0 <= counted.min() <= counted.max() < task.d_vocab_out


@each_task
def test_the_behaviour_lies_between_its_chance_and_its_floor(task: Task):
    part, chance, floor = task.behaviour
    assert part is None
    baselines = task.baselines()
    assert all(math.isfinite(value) for value in baselines.values())
    assert baselines[str(chance)] > baselines[str(floor)] >= 0


@pytest.mark.parametrize("task", [CHAINS, POOL, REGRESSION], ids=["chains", "pool of chains", "regression"])
def test_a_twin_has_other_inputs_from_which_the_best_predictor_learns_nothing(task: Task):
    batch = task.evaluation_batch(0, 503)
    twin = task.twin(batch, generator("twin", 0))
    again = task.twin(batch, generator("twin", 0))
    assert twin is not None
    assert again is not None
    assert torch.equal(twin.inputs, again.inputs)
    assert twin.targets is batch.targets
    best = list(task.predictors(batch))[-1]
    losses = [masked_mean(task.loss(task.predictors(each)[best], batch), batch.mask).item() for each in (batch, twin)]
    baselines = task.baselines()
    chance, floor = (baselines[str(name)] for name in task.behaviour[1:])
    assert losses[0] == pytest.approx(floor, abs=0.1 * chance)
    assert losses[1] > chance - 0.1 * (chance - floor)


@pytest.mark.parametrize("task", PREDICTED, ids=str)
def test_the_losses_of_predictors_are_the_baselines(task: MarkovChains | LinearRegression):
    batch = task.evaluation_batch(0, 2003)
    baselines = task.baselines()
    outputs = task.predictors(batch)
    assert outputs.keys() <= baselines.keys()
    for name, output in outputs.items():
        each = task.loss(output, batch).where(batch.mask, 0).sum(1) / batch.mask.sum(1)
        mean, error = mean_and_error(each)
        # The baselines are estimates too, from more sequences.
        assert abs(mean - baselines[name]) < 5 * error + 1e-6, name
    by_position = task.baselines_by_position()
    assert all(losses.isfinite().tolist() == batch.mask[0].tolist() for losses in by_position.values())
    last = int(batch.mask[0].nonzero().max())
    best = list(outputs)[-1]
    first = int(batch.mask[0].nonzero().min())
    assert by_position[best][last] < by_position[best][first]


@pytest.mark.parametrize(
    ("kind", "wrong", "name"),
    [
        (MarkovChains, {"n_states": 1}, "n_states"),
        (MarkovChains, {"order": 0}, "order"),
        (MarkovChains, {"order": 4}, "order"),
        (MarkovChains, {"order": 3, "n_states": 9}, "order"),
        (MarkovChains, {"length": 1}, "length"),
        (MarkovChains, {"n_chains": 0}, "n_chains"),
        (MarkovChains, {"chain_seed": -1}, "chain_seed"),
        (Maximum, {"n_tokens": 1}, "n_tokens"),
        (Maximum, {"length": 1}, "length"),
        (ModularAddition, {"p": 1}, "p"),
        (ModularAddition, {"held_out": 1.0}, "held_out"),
        (ModularAddition, {"p": 2, "held_out": 0.1}, "held_out"),
        (Brackets, {"max_brackets": 7}, "max_brackets"),
        (Brackets, {"max_brackets": 0}, "max_brackets"),
        (LinearRegression, {"dimension": 0}, "dimension"),
        (LinearRegression, {"n_pairs": 1}, "n_pairs"),
        (LinearRegression, {"noise_variance": 0.0}, "noise_variance"),
        (LinearRegression, {"noise_variance": math.nan}, "noise_variance"),
        (LinearRegression, {"n_tasks": 0}, "n_tasks"),
        (LinearRegression, {"task_seed": 2**32}, "task_seed"),
    ],
    ids=str,
)
def test_fields_out_of_range_are_refused(kind: type[Task], wrong: dict[str, float], name: str):
    with pytest.raises(ValueError, match=rf"^{name}: .* is not valid; .*must"):
        kind(**wrong)


# Markov chains


@pytest.mark.parametrize(
    ("n_states", "marks"),
    [
        (2, (0.6931, 0.5789, 0.5111, 0.4814)),
        (3, (1.0986, 1.0042, 0.8853, 0.8183)),
        (8, (2.0794, 2.0880, 1.9440, 1.7160)),
    ],
    ids=["2", "3", "8"],
)
def test_published_floors_of_markov_chains(n_states: int, marks: tuple[float, ...]):
    """Both are estimates from 20,000 chains; the entropy of a chain with few states varies most."""
    baselines = MarkovChains(n_states=n_states).baselines()
    for name, mark in zip(("uniform", "unigram", "bigram", "entropy"), marks, strict=True):
        assert baselines[name] == pytest.approx(mark, abs=0.005), name
    assert baselines["best"] == baselines["bigram"]


@pytest.mark.parametrize("task", [CHAINS, SECOND_ORDER], ids=["first order", "second order"])
def test_tokens_follow_the_rows_of_their_chain_from_its_stationary_distribution(task: MarkovChains):
    one = replace(task, n_chains=1)
    batch = one.batch(0, 0, batch_size=4001)
    rows, context = one.pool[0], contexts(batch.inputs, 3, task.order)
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    first = context[:, task.order - 1]
    start = stationary(one.pool)[0]
    for q in (task.order - 1, task.n_ctx - 1):
        shares = context[:, q].bincount(minlength=len(start)) / 4001
        assert (shares - start).abs().max() < 4 * 0.5 / math.sqrt(4001)
    for c in first.unique().tolist():
        here = context[:, task.order - 1 :] == c
        nexts = batch.targets[:, task.order - 1 :][here]
        shares = nexts.bincount(minlength=3) / len(nexts)
        assert (shares - rows[c]).abs().max() < 4 * 0.5 / math.sqrt(len(nexts))


def test_rows_are_uniform_over_distributions():
    rows = replace(CHAINS, n_states=2, length=2).batch(0, 0, batch_size=4001).info["transitions"][:, 0, 0]
    mean, error = mean_and_error(rows)
    assert abs(mean - 1 / 2) < 4 * error
    mean, error = mean_and_error((rows - 1 / 2) ** 2)
    assert abs(mean - 1 / 12) < 4 * error


def test_counting_predictors_are_their_definitions():
    batch = SECOND_ORDER.batch(0, 0, batch_size=5)
    for n in range(4):
        found = n_gram(batch.inputs, 3, n).exp()
        for row, predicted in zip(batch.inputs.tolist(), found, strict=True):
            for q in range(len(row)):
                if n == 0:
                    counts = [0, 0, 0]
                elif n == 1:
                    counts = [row[: q + 1].count(j) for j in range(3)]
                elif q < n - 2:
                    counts = [0, 0, 0]
                else:
                    last = row[q - n + 2 : q + 1]
                    nexts = [row[i + n - 1] for i in range(q - n + 2) if row[i : i + n - 1] == last]
                    counts = [nexts.count(j) for j in range(3)]
                expected = [(1 + count) / (3 + sum(counts)) for count in counts]
                assert predicted[q].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_predictor_of_a_pool_is_bayes_rule():
    batch = POOL.batch(0, 0, batch_size=3)
    pool, start = POOL.pool, stationary(POOL.pool)
    found = POOL.predictors(batch)["pool"].exp()
    for row, predicted in zip(batch.inputs.tolist(), found, strict=True):
        for q in range(len(row)):
            weights = [
                start[c, row[0]].item() * math.prod(pool[c, i, j].item() for i, j in itertools.pairwise(row[: q + 1]))
                for c in range(5)
            ]
            expected = torch.stack([w * pool[c, row[q]] for c, w in enumerate(weights)]).sum(0) / sum(weights)
            assert torch.allclose(predicted[q].double(), expected, atol=1e-6)


def test_a_pool_is_fixed_and_a_network_can_know_it():
    assert torch.equal(
        POOL.batch(0, 0, 3).info["transitions"][0], POOL.pool[POOL.batch(0, 0, 3).info["chain"][0]].float()
    )
    assert not torch.equal(POOL.pool, replace(POOL, chain_seed=1).pool)
    baselines = POOL.baselines()
    assert baselines["entropy"] < baselines["pool"] == baselines["best"] < baselines["bigram"]
    with pytest.raises(ValueError, match=r"^n_chains: None is not valid"):
        _ = CHAINS.pool


# The maximum


def test_the_floors_of_the_maximum_by_enumeration():
    every = torch.tensor(list(itertools.product(range(7), repeat=3)))
    largest, last = every.amax(1), every[:, -1]

    def entropy(values: Tensor) -> float:
        shares = values.bincount().double() / len(values)
        return torch.special.entr(shares).sum().item()

    baselines = LARGEST.baselines()
    assert baselines["chance"] == math.log(7)
    assert baselines["marginal"] == pytest.approx(entropy(largest))
    given = [entropy(largest[last == token]) for token in range(7)]
    assert baselines["last_token"] == pytest.approx(sum(given) / 7)
    batch = LARGEST.batch(0, 0, batch_size=101)
    assert torch.equal(batch.targets[:, -1], batch.inputs.amax(1))
    assert batch.mask.sum(1).tolist() == [1] * 101


# Modular addition


def test_every_pair_is_trained_on_or_held_out():
    training, held_out = ADDITION.n_sequences
    batches = ADDITION.batch(0, 0, training), ADDITION.evaluation_batch(0, held_out)
    pairs = [tuple(row[:2]) for batch in batches for row in batch.inputs.tolist()]
    assert sorted(pairs) == list(itertools.product(range(7), repeat=2))
    for batch in batches:
        assert (batch.inputs[:, 2] == 7).all()
        assert torch.equal(batch.targets[:, 2], (batch.inputs[:, 0] + batch.inputs[:, 1]) % 7)
    assert ADDITION.labels(batches[0])[0][2] == "="


def test_every_sequence_of_addition_has_the_number_of_its_pair():
    every = ADDITION.sequences()
    assert every.inputs[3 * 7 + 5].tolist() == [3, 5, 7]


# Brackets


def strings(batch: Batch) -> Iterator[str]:
    for row in batch.inputs.tolist():
        assert row[0] == START
        end = row.index(END)
        assert all(token == PAD for token in row[end + 1 :])
        yield "".join({OPEN: "(", CLOSE: ")"}[token] for token in row[1:end])


def balanced(string: str) -> bool:
    """A stack, as one would write it."""
    stack = []
    for bracket in string:
        if bracket == "(":
            stack.append(bracket)
        elif not stack:
            return False
        else:
            stack.pop()
    return not stack


@pytest.mark.parametrize("task", [BRACKETS, Brackets()], ids=["short", "as published"])
def test_classes_of_brackets_by_a_stack(task: Brackets):
    batch = task.batch(0, 0, batch_size=2003)
    assert batch.attention_mask is not None
    for string, target, kind, real in zip(
        strings(batch), batch.targets[:, 0].tolist(), batch.info["kind"].tolist(), batch.attention_mask, strict=True
    ):
        assert balanced(string) == bool(target) == (KINDS[kind] == "balanced")
        assert real.sum() == len(string) + 2
        if KINDS[kind] in ("shuffled", "inverted"):
            assert string.count("(") == string.count(")")
        if KINDS[kind] == "flipped":
            assert abs(string.count("(") - string.count(")")) == 2
    assert batch.mask.sum(1).tolist() == [1] * 2003


def test_kinds_lengths_and_balanced_strings_are_drawn_evenly():
    batch = BRACKETS.batch(0, 0, batch_size=4001)
    shares = batch.info["kind"].bincount() / 4001
    assert (shares - torch.tensor([0.5, *[0.125] * 4])).abs().max() < 4 * 0.5 / math.sqrt(4001)
    lengths = batch.info["n_brackets"]
    assert lengths.unique().tolist() == [2, 4, 6, 8]
    # Length tells nothing of the class.
    longest = batch.targets[lengths == 8, 0].double()
    assert abs(longest.mean().item() - 0.5) < 4 * 0.5 / math.sqrt(len(longest))
    six = [string for string in strings(batch.at((lengths == 6) & (batch.info["kind"] == 0)))]
    counts = [six.count(string) for string in set(six)]
    assert len(counts) == 5  # the Catalan number of three pairs
    assert all(abs(count - len(six) / 5) < 4 * math.sqrt(len(six) / 5) for count in counts)


def test_what_counts_of_brackets_tell():
    baseline, nats = BRACKETS.baselines()["counts"], 0.0
    batch = BRACKETS.batch(0, 0, batch_size=20_011)
    equal = (batch.inputs == OPEN).sum(1) == (batch.inputs == CLOSE).sum(1)
    assert not batch.targets[~equal, 0].any()
    for n in (2, 4, 6, 8):
        here = equal & (batch.info["n_brackets"] == n)
        share = batch.targets[here, 0].double().mean()
        nats += (here.double().mean() * torch.special.entr(torch.stack((share, 1 - share))).sum()).item()
    assert nats == pytest.approx(baseline, abs=0.01)


# Linear regression


def test_ridge_is_the_posterior_mean_and_the_pool_is_bayes_rule():
    batch = REGRESSION_POOL.batch(0, 0, batch_size=5)
    x, y = batch.inputs[:, ::2, 1:].double(), batch.inputs[:, 1::2, 0].double()
    pool = REGRESSION_POOL.pool.double()
    by_ridge, by_pool = ridge(x, y, 0.125), discrete(x, y, 0.125, pool)
    for b, k in itertools.product(range(5), range(7)):
        X, Y = x[b, :k], y[b, :k]
        w = torch.linalg.inv(X.T @ X + 0.125 * torch.eye(3)) @ X.T @ Y
        assert by_ridge[b, k].item() == pytest.approx((w @ x[b, k]).item(), abs=1e-9)
        density = torch.exp(-((X @ pool.T - Y[:, None]) ** 2).sum(0) / 0.25)
        expected = (density @ (pool @ x[b, k])) / density.sum()
        assert by_pool[b, k].item() == pytest.approx(expected.item(), abs=1e-6)


def test_numbers_follow_their_vectors():
    batch = REGRESSION.batch(0, 0, batch_size=2003)
    x, w = batch.inputs[:, ::2, 1:], batch.info["w"]
    noise = batch.targets[:, ::2, 0] - (x * w[:, None]).sum(-1)
    mean, error = mean_and_error((noise**2).mean(1))
    assert abs(mean - 0.125) < 4 * error
    assert (batch.inputs[:, ::2, 0] == 0).all()
    assert (batch.inputs[:, 1::2, 1:] == 0).all()
    assert batch.mask[0].tolist() == [True, False] * 7


def test_the_baselines_of_regression_where_they_are_known():
    published = LinearRegression().baselines()
    assert published["zero"] == pytest.approx(4 + 0.125, rel=0.02)
    assert published["noise"] == pytest.approx(0.125)
    by_position = LinearRegression().baselines_by_position()
    assert by_position["ridge"][0] == by_position["zero"][0]
    pool = REGRESSION_POOL.baselines()
    assert pool["noise"] < pool["pool"] == pool["best"] < pool["ridge"] < pool["zero"]
    with pytest.raises(ValueError, match=r"^n_tasks: None is not valid"):
        _ = REGRESSION.pool
