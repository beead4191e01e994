"""Tasks against theory: the distributions, what can be known where, and the losses of known predictors."""

import math
import re
from dataclasses import dataclass, replace

import einops
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headway.analyze.measures.evaluation_sequences import described
from headway.checkpoints.recipe import Recipe
from headway.data.affine_recurrence import AffineRecurrence, least_squares_oracle
from headway.data.brackets import Brackets
from headway.data.indirect_object import NAMES, TEMPLATES, IndirectObject
from headway.data.previous_token import PreviousToken
from headway.data.renamed import Renamed
from headway.data.repeated_synonyms import RepeatedSynonyms
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.seeds import generator
from headway.data.task import Batch, Task, masked_mean
from headway.models.config import ModelConfig

REPEATED = RepeatedTokens(n_tokens=19, length=17, period_min=3, period_max=7)
AFFINE = AffineRecurrence(d_vector=7, compl=2, length_min=5, length_max=11)
PREVIOUS = PreviousToken(n_tokens=11, length=19)
WITHOUT_BOS = replace(PREVIOUS, bos=False)
SYNONYMS = RepeatedSynonyms(n_pairs=13, length=17, period_min=5, period_max=7, late_start=0.5)
RENAMED = Renamed(REPEATED, (100, *range(31, 50)))
TASKS = {
    "repeated": REPEATED,
    "affine": AFFINE,
    "previous": PREVIOUS,
    "without BOS": WITHOUT_BOS,
    "synonyms": SYNONYMS,
    "renamed": RENAMED,
}

each_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
each_recurrence = pytest.mark.parametrize(
    "task",
    [
        AffineRecurrence(d_vector=7, compl=compl, length_min=11, length_max=23, shared_start=shared)
        for compl in (1, 2, 3)
        for shared in (False, True)
    ],
    ids=lambda task: f"compl{task.compl}-{'shared' if task.shared_start else 'independent'}",
)


def same(a: Batch, b: Batch) -> bool:
    pairs = [(a.inputs, b.inputs), (a.targets, b.targets), (a.mask, b.mask)]
    pairs += [(a.info[name], b.info[name]) for name in a.info.keys() | b.info.keys()]
    return all(torch.equal(x, y) for x, y in pairs)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean and its standard error."""
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


# Every task


@each_task
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), indices=st.lists(st.integers(0, 10**6), min_size=2, max_size=5, unique=True))
def test_a_batch_depends_on_seed_and_index_alone(task: Task, seed: int, indices: list[int]):
    forwards = {k: task.batch(seed, k, batch_size=5) for k in indices}
    backwards = {k: task.batch(seed, k, batch_size=5) for k in reversed(indices)}
    assert all(same(forwards[k], backwards[k]) for k in indices)
    assert not same(forwards[indices[0]], forwards[indices[1]])
    assert not same(forwards[indices[0]], task.batch(seed + 1, indices[0], batch_size=5))


@each_task
def test_the_evaluation_batch_is_fixed_and_no_training_batch(task: Task):
    if isinstance(task, AffineRecurrence):
        task = replace(task, length_min=task.length_max)
    evaluation = task.evaluation_batch(seed=0, batch_size=5)
    assert same(evaluation, task.evaluation_batch(seed=0, batch_size=5))
    assert not same(evaluation, task.evaluation_batch(seed=1, batch_size=5))
    for k in range(10):
        training = task.batch(seed=0, index=k, batch_size=5)
        assert training.inputs.shape == evaluation.inputs.shape
        assert not (training.inputs == evaluation.inputs).flatten(1).all(1).any()


@each_task
def test_the_global_generator_is_left_alone(task: Task):
    before = torch.get_rng_state()
    task.batch(0, 0, batch_size=5)
    task.evaluation_batch(0, batch_size=5)
    replace(task).baselines()
    assert torch.equal(before, torch.get_rng_state())


@each_task
def test_shapes_labels_and_origin(task: Task):
    batch = task.evaluation_batch(seed=0, batch_size=3)
    assert batch.task is task
    assert batch.inputs.shape[:2] == batch.targets.shape[:2] == batch.mask.shape == (3, task.n_ctx)
    assert [len(row) for row in task.labels(batch)] == [task.n_ctx] * 3
    for part in task.parts(batch).values():
        assert part.shape == batch.mask.shape
    if task.input_type == "vectors":
        assert batch.inputs.dtype == torch.float32
        assert batch.inputs.shape[-1] == batch.targets.shape[-1] == task.d_vocab
    else:
        bos = 0 if task is WITHOUT_BOS else 1
        expected = ["BOS" for _ in range(bos)] + [str(token) for token in batch.inputs[0, bos:].tolist()]
        assert task.labels(batch)[0] == expected
        tokens = sorted(task.tokens) if isinstance(task, Renamed) else list(range(1 - bos, task.d_vocab))
        assert task.evaluation_batch(seed=0, batch_size=1009).inputs.unique().tolist() == tokens


# Twins


TWINS = {name: TASKS[name] for name in ("repeated", "affine", "synonyms", "renamed")}
each_twin = pytest.mark.parametrize("task", [*TWINS.values(), IndirectObject(n_names=7)], ids=[*TWINS, "two names"])


@each_twin
def test_a_twin_differs_in_its_inputs_alone_and_follows_from_the_generator(task: Task):
    batch = task.evaluation_batch(seed=0, batch_size=13)
    kept, state = batch.inputs.clone(), torch.get_rng_state()
    twin, again, other = (task.twin(batch, generator("data", seed)) for seed in (1, 1, 2))
    assert twin is not None
    assert again is not None
    assert other is not None
    assert torch.equal(batch.inputs, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert twin.inputs.shape == batch.inputs.shape
    assert twin.inputs.dtype == batch.inputs.dtype
    assert not torch.equal(twin.inputs, batch.inputs)
    assert twin.targets is batch.targets
    assert twin.mask is batch.mask
    assert twin.info is batch.info
    assert twin.task is task
    assert torch.equal(twin.inputs, again.inputs)
    assert isinstance(task, IndirectObject | AffineRecurrence) == torch.equal(twin.inputs, other.inputs)


@pytest.mark.parametrize("task", [PREVIOUS, WITHOUT_BOS, Renamed(PREVIOUS, tuple(range(5, 17)))])
def test_a_task_whose_sequences_all_tell_their_answer_has_no_twin(task: Task):
    assert task.twin(task.evaluation_batch(seed=0, batch_size=3), generator("data", 0)) is None


def test_nothing_repeats_in_the_twins_of_repeats():
    for task, batch in ((REPEATED, REPEATED.evaluation_batch(0, 31)), (RENAMED, RENAMED.evaluation_batch(0, 31))):
        twin = task.twin(batch, generator("data", 0))
        assert twin is not None
        rows = twin.inputs
        assert torch.equal(rows[:, 0], batch.inputs[:, 0])
        assert all(len(set(row)) == 17 for row in rows.tolist())
        assert rows.unique().tolist() == task.evaluation_batch(0, 1009).inputs.unique().tolist()


def test_no_synonym_comes_again_where_the_original_is_determined():
    """Before that it does, if the original begins late enough for a twin with a period of 5 to 7."""
    batch = SYNONYMS.evaluation_batch(0, 251)
    twin = SYNONYMS.twin(batch, generator("data", 0))
    pairs = ((twin.inputs - 1) % 13).tolist()
    again = 0
    for row, p, lead in zip(pairs, batch.info["period"].tolist(), batch.info["lead"].tolist(), strict=True):
        repeated = [q for q in range(2, 17) if row[q] in row[1:q]]
        # The first target that is determined is that of position lead + p + 1.
        if lead + p + 1 >= 10:
            own = len(repeated)
            assert 5 <= own <= 7
            assert 2 * own <= lead + p + 1
            assert repeated == list(range(own + 1, 2 * own + 1))
            assert row[1 : own + 1] == row[own + 1 : 2 * own + 1]
            again += 1
        else:
            # With 13 pairs and 16 tokens, three pairs come a second time, after all of them have come once.
            assert len(set(row[1:14])) == 13
            assert len(set(row[14:])) == 3
    assert 0 < again < 251
    assert 0.4 < (twin.inputs > 13).float().mean() < 0.6
    # Sequences that are all determined in the same place have no own segment before or after it.
    task = RepeatedSynonyms(n_pairs=6, length=7, period_min=3, period_max=3)
    rows = task.twin(task.evaluation_batch(0, 31), generator("data", 0)).inputs[:, 1:]
    assert all(len({(token - 1) % 6 for token in row}) == 6 for row in rows.tolist())


def test_a_twin_with_few_tokens_holds_permutations_that_say_nothing_about_each_other():
    task = RepeatedTokens(n_tokens=5, length=13, period_min=3, period_max=5, late_start=0.0)
    rows = task.twin(task.evaluation_batch(0, 3001), generator("data", 0)).inputs[:, 1:]
    assert all(len(set(row[i : i + 5])) == 5 for row in rows.tolist() for i in (0, 5))
    # What followed a token in the first permutation follows it in the second no more often than by chance.
    found = rows[:, None, :4] == rows[:, 5:9, None]
    follows = rows[:, None, 1:5] == rows[:, 6:10, None]
    assert follows[found].float().mean().item() == pytest.approx(1 / 4, abs=0.02)


def test_a_twin_of_vectors_leaves_the_oracle_at_chance():
    batch = AFFINE.evaluation_batch(0, 2003)
    twin = AFFINE.twin(batch, generator("data", 0))
    determined = AFFINE.parts(batch)["determined"]
    losses = [
        masked_mean(AFFINE.loss(least_squares_oracle(inputs, AFFINE.compl), batch), determined).item()
        for inputs in (batch.inputs, twin.inputs)
    ]
    chance, floor = (AFFINE.baselines()[str(name)] for name in AFFINE.behaviour[1:])
    assert losses[0] < 1e-6
    assert floor == 0
    # Both are means over other sequences.
    assert losses[1] == pytest.approx(chance, rel=0.05)


@pytest.mark.parametrize("task", [REPEATED, SYNONYMS], ids=["repeated", "synonyms"])
def test_a_twin_tells_an_induction_oracle_nothing(task: RepeatedTokens | RepeatedSynonyms):
    """It guesses among the tokens that followed an earlier copy or synonym, and among all tokens if there is none."""
    batch = task.evaluation_batch(0, 251)
    synonyms = task.synonyms if isinstance(task, RepeatedSynonyms) else torch.arange(task.d_vocab)
    n = task.d_vocab - 1
    accuracies = []
    for inputs in (batch.inputs, task.twin(batch, generator("data", 0)).inputs):
        match = (synonyms[inputs][:, :, None] == inputs[:, None, :-1]) & torch.ones(17, 17).tril(-1).bool()[:, :-1]
        nexts = F.one_hot(synonyms[inputs[:, 1:]], n + 1).float()
        guess = match.float() @ nexts
        guess = torch.where(guess.sum(-1, keepdim=True) > 0, guess / guess.sum(-1, keepdim=True), 1 / n)
        right = guess.gather(-1, batch.targets[..., None]).squeeze(-1)
        accuracies.append(masked_mean(right, task.parts(batch)[str(task.behaviour.part)]).item())
    assert accuracies[0] == 1
    assert accuracies[1] == pytest.approx(1 / n, abs=0.02)


@pytest.mark.parametrize("task", [*TASKS.values(), IndirectObject(n_names=7)], ids=[*TASKS, "two names"])
def test_the_behaviour_names_a_part_and_baselines_of_the_task(task: Task):
    part, chance, floor = task.behaviour
    assert part is None or part in task.parts(task.evaluation_batch(0, 2))
    assert chance is not None
    assert floor is not None
    assert task.baselines()[chance] > task.baselines()[floor] == 0


def test_a_task_that_says_nothing_is_judged_by_all_positions_and_has_no_twin():
    @dataclass(frozen=True)
    class Other(PreviousToken):
        behaviour = Task.behaviour
        twin = Task.twin

    assert Other.behaviour == (None, None, None)
    assert Other().twin(Other().evaluation_batch(0, 2), generator("data", 0)) is None


def test_the_chance_of_the_determined_part():
    for task in (AFFINE, replace(AFFINE, length_min=7, shared_start=True)):
        batch = task.evaluation_batch(0, 4001)
        losses = task.loss(torch.zeros_like(batch.inputs), batch)
        part = task.parts(batch)["determined"]
        mean, error = mean_and_error((losses * part).sum(1) / part.sum(1))
        assert abs(mean - task.baselines()["predict_zero_determined"]) < 5 * error


BAD_FIELDS = [
    (RepeatedTokens, {"n_tokens": 44}, "n_tokens"),
    (RepeatedTokens, {"n_tokens": 15, "late_start": 0.0}, "n_tokens"),
    (RepeatedTokens, {"late_start": 1.5}, "late_start"),
    (RepeatedTokens, {"late_start": -0.5}, "late_start"),
    (RepeatedTokens, {"late_start": math.nan}, "late_start"),
    (RepeatedTokens, {"length": 2}, "length"),
    (RepeatedTokens, {"period_min": 0}, "period_min"),
    (RepeatedTokens, {"period_min": 17}, "period_max"),
    (RepeatedTokens, {"period_max": 47}, "period_max"),
    (RepeatedTokens, {"length": 17}, "period_max"),
    (AffineRecurrence, {"d_vector": 0}, "d_vector"),
    (AffineRecurrence, {"compl": 0}, "compl"),
    (AffineRecurrence, {"compl": 0, "shared_start": True}, "compl"),
    (AffineRecurrence, {"compl": 3, "d_vector": 2, "length_min": 9}, "compl"),
    (AffineRecurrence, {"length_min": 3}, "length_min"),
    (AffineRecurrence, {"compl": 2, "length_min": 4}, "length_min"),
    (AffineRecurrence, {"compl": 2, "length_min": 5, "shared_start": True}, "length_min"),
    (AffineRecurrence, {"length_max": 3}, "length_max"),
    (AffineRecurrence, {"length_max": 500}, "length_max"),
    (AffineRecurrence, {"c_min": -math.inf}, "c_min"),
    (AffineRecurrence, {"c_max": math.nan}, "c_max"),
    (AffineRecurrence, {"c_min": 2.5}, "c_max"),
    (AffineRecurrence, {"d_max": -2.5}, "d_max"),
    (AffineRecurrence, {"a_max": math.inf}, "a_max"),
    (AffineRecurrence, {"a_min": 0.0, "a_max": 0.0, "d_min": 0.0, "d_max": 0.0}, "a_max"),
    (AffineRecurrence, {"cap_min": 0.0}, "cap_min"),
    (AffineRecurrence, {"cap_max": 0.5}, "cap_max"),
    (PreviousToken, {"n_tokens": 0}, "n_tokens"),
    (PreviousToken, {"length": 1}, "length"),
]


@pytest.mark.parametrize(("kind", "fields", "name"), BAD_FIELDS, ids=str)
def test_a_bad_field_is_named(kind: type[Task], fields: dict[str, int | float | bool], name: str):
    value = fields.get(name, getattr(kind, name))
    with pytest.raises(ValueError, match=rf"^{name}: {value} is not valid; .+$") as error:
        kind(**fields)
    assert "\n" not in str(error.value)


# Repeated tokens


@st.composite
def repeated_tasks(draw: st.DrawFn) -> RepeatedTokens:
    length = draw(st.integers(3, 29))
    period_max = draw(st.integers(1, length - 2))
    return RepeatedTokens(
        n_tokens=draw(st.integers(length, length + 31)),
        late_start=draw(st.sampled_from([0.0, 0.3, 1.0])),
        length=length,
        period_min=draw(st.integers(1, period_max)),
        period_max=period_max,
    )


@settings(deadline=None)
@given(task=repeated_tasks(), seed=st.integers(0, 1000))
def test_repeated_tokens_are_as_defined(task: RepeatedTokens, seed: int):
    batch = task.batch(seed, 0, batch_size=11)
    parts = task.parts(batch)
    assert batch.mask.all()
    for b, (period, lead) in enumerate(zip(batch.info["period"].tolist(), batch.info["lead"].tolist(), strict=True)):
        s = [*batch.inputs[b].tolist(), batch.targets[b, -1].item()]
        assert task.period_min <= period <= task.period_max
        assert batch.targets[b].tolist() == s[1:]
        assert s[0] == 0
        assert all(1 <= token <= task.n_tokens for token in s[1:])
        assert 0 <= lead <= max(0, task.length - 2 * period)
        assert lead == 0 or task.late_start > 0
        assert len(set(s[1 : lead + period + 1])) == lead + period
        assert all(s[j] == s[j - period] for j in range(lead + period + 1, task.length + 1))
        for q in range(task.length):
            # By what stands in the sequence, not by the period: is the answer new, and if not, was the token seen?
            new = s[q + 1] not in s[1 : q + 1]
            matched = s[q] in s[1:q]
            assert parts["first"][b, q] == new
            assert parts["repeats"][b, q] == (matched and not new)


def test_every_period_and_every_token_is_reached():
    batch = REPEATED.batch(0, 0, batch_size=1009)
    assert batch.info["period"].unique().tolist() == [3, 4, 5, 6, 7]
    assert batch.targets.unique().tolist() == list(range(1, 20))
    # A token comes first in a share 1/19 of the sequences, and half of the sequences may start late: 4 standard errors.
    share = (batch.targets[:, 0] == 1).double().mean().item()
    assert abs(share - 1 / 19) < 4 * math.sqrt(1 / 19 * 18 / 19 / 1009)
    shortest = batch.info["lead"][batch.info["period"] == 3]
    assert shortest.unique().tolist() == list(range(17 - 2 * 3 + 1))
    late, error = mean_and_error((shortest > 0).double())
    assert abs(late - 0.5 * 11 / 12) < 4 * error


def test_a_fixed_period_is_the_control_that_a_constant_distance_solves():
    batch = replace(REPEATED, period_min=5, period_max=5, late_start=0.0).batch(0, 0, batch_size=7)
    assert (batch.info["period"] == 5).all()
    assert torch.equal(batch.inputs[:, 1:-4], batch.targets[:, 5:])
    random = REPEATED.batch(0, 0, batch_size=101)
    assert (random.inputs[:, 1:-4] == random.targets[:, 5:]).double().mean() < 0.5


def test_an_induction_head_has_no_loss_on_the_repeats():
    batch = REPEATED.batch(0, 0, batch_size=31)
    output = torch.zeros(31, REPEATED.n_ctx, REPEATED.d_vocab)
    for b in range(31):
        for q in range(REPEATED.n_ctx):
            for k in range(1, q + 1):
                if batch.inputs[b, k - 1] == batch.inputs[b, q] != REPEATED.bos_token:
                    output[b, q, batch.inputs[b, k]] = 1e4
    loss = REPEATED.loss(output, batch)
    parts = REPEATED.parts(batch)
    assert masked_mean(loss, parts["repeats"]).item() == REPEATED.baselines()["repeats_induction"] == 0.0
    # Elsewhere it has no match, and guesses.
    assert torch.allclose(loss[~parts["repeats"]], torch.tensor(REPEATED.d_vocab).log())


def unseen_losses(task: RepeatedTokens, batch: Batch) -> Tensor:
    """Loss of a guess among the tokens not seen so far; infinite where the answer was seen."""
    earlier = einops.rearrange(torch.tril(torch.ones(task.n_ctx, task.n_ctx)), "pos earlier -> 1 pos earlier")
    seen = earlier @ F.one_hot(batch.inputs, task.d_vocab).float() > 0
    return task.loss(torch.zeros(seen.shape).masked_fill(seen, -torch.inf), batch)


def test_a_segment_of_all_tokens_comes_in_any_of_its_orders():
    """Without late starts a segment may take every token, and its loss is the logarithm of their orders, 5!."""
    task = RepeatedTokens(n_tokens=5, length=23, period_min=5, period_max=5, late_start=0.0)
    assert task.baselines()["first_unseen"] == pytest.approx(math.log(math.factorial(5)) / 5)


def test_repeated_baselines():
    assert REPEATED.baselines()["chance"] == math.log(19)
    early = replace(REPEATED, late_start=0.0)
    fixed = [replace(early, period_min=p, period_max=p) for p in range(3, 8)]
    batches = [task.batch(0, 0, batch_size=1) for task in fixed]
    firsts = [unseen_losses(early, batch)[early.parts(batch)["first"]] for batch in batches]
    assert torch.cat(firsts).mean().item() == pytest.approx(early.baselines()["first_unseen"], rel=1e-6)

    batch = REPEATED.batch(0, 0, batch_size=4001)
    first = REPEATED.parts(batch)["first"]
    loss = unseen_losses(REPEATED, batch).where(first, 0)
    estimate = masked_mean(loss, first).item()
    # The error of a ratio of two means.
    _, error = mean_and_error((loss.sum(1) - estimate * first.sum(1)) / first.sum(1).double().mean())
    assert abs(estimate - REPEATED.baselines()["first_unseen"]) < 4 * error


# Affine recurrences


def notebook_recurrence(params: Tensor, consts: Tensor, start: Tensor, caps: Tensor, length: int) -> Tensor:
    """The loop of the paper's notebook, its random draws handed in."""
    compl = params.shape[1]
    recurrences = torch.empty((len(params), length, consts.shape[1]), dtype=params.dtype)
    recurrences[:, :compl] = start
    for j in range(compl, length):
        recurrences[:, j] = consts + einops.einsum(
            params, recurrences[:, j - compl : j], "batch compl, batch compl vector_dim -> batch vector_dim"
        )
    max_norms, _ = torch.max(torch.norm(recurrences, dim=2, keepdim=True), dim=1, keepdim=True)
    return recurrences / (max_norms / caps)


def whole(batch: Batch) -> Tensor:
    return torch.cat((batch.inputs, batch.targets[:, -1:]), dim=1)


@each_recurrence
def test_the_notebook_makes_the_same_sequences(task: AffineRecurrence):
    batch = task.evaluation_batch(0, batch_size=31)
    x, c, d = whole(batch).double(), batch.info["c"].double(), batch.info["d"].double()
    caps = x.norm(dim=2, keepdim=True).amax(1, keepdim=True)
    again = notebook_recurrence(c, d, x[:, : task.compl], caps, task.length_max)
    # c is known to 2^-24 of itself, which grows with the steps.
    assert (again - x).abs().max() < 2**-24 * 2 * task.length_max * caps.max()
    if task.shared_start:
        assert (x[:, : task.compl] == x[:, :1]).all()
    else:
        assert task.compl == 1 or (x[:, 0] != x[:, 1]).all()


@settings(max_examples=40, deadline=None)
@given(
    compl=st.integers(1, 5),
    spare=st.integers(0, 6),
    longer=st.integers(0, 31),
    size=st.floats(0.01, 4.0),
    shared=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_recurrence_holds_to_rounding(compl: int, spare: int, longer: int, size: float, shared: bool, seed: int):
    task = AffineRecurrence(
        d_vector=compl + spare,
        compl=compl,
        length_min=2 * compl + 2,
        length_max=2 * compl + 2 + longer,
        c_min=-size,
        c_max=size,
        shared_start=shared,
    )
    batch = task.batch(seed, 0, batch_size=11)
    x, c, d = whole(batch).double(), batch.info["c"].double(), batch.info["d"].double()
    assert batch.mask.all()
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    assert torch.isfinite(x).all()
    before = x.unfold(1, compl, 1)[:, :-1]
    rebuilt = einops.einsum(before, c, "b j d_vocab compl, b compl -> b j d_vocab") + d[:, None]
    terms = einops.einsum(before.abs(), c.abs(), "b j d_vocab compl, b compl -> b j d_vocab") + d[:, None].abs()
    # Each number stored is off by at most 2^-24 of itself: c and x in every product, d, and the result.
    assert ((x[:, compl:] - rebuilt).abs() <= 2**-24 * (2.01 * terms + 1.01 * x[:, compl:].abs()) + 1e-44).all()
    largest = x.norm(dim=2).amax(1)
    assert ((largest > 1 - 1e-6) & (largest < 2 + 1e-6)).all()


def test_affine_draws_are_uniform_over_their_ranges():
    task = AffineRecurrence(d_vector=499, length_min=5, length_max=5)
    batch = task.batch(0, 0, batch_size=2003)
    caps = whole(batch).norm(dim=2).amax(1)
    for values, low, high in ((batch.info["c"][:, 0], -2, 2), (caps, 1, 2)):
        mean, error = mean_and_error((values - low) / (high - low))
        assert abs(mean - 1 / 2) < 4 * error
        mean, error = mean_and_error(((values - low) / (high - low) - 1 / 2) ** 2)
        assert abs(mean - 1 / 12) < 4 * error
    # a_0 ~ U(-3, 3) and d ~ U(-2, 2) share one scale: among 499 entries the largest are near 3 and near 2 times it.
    ratio = batch.inputs[:, 0].abs().amax(1) / batch.info["d"].abs().amax(1)
    assert ratio.mean().item() == pytest.approx(3 / 2, rel=0.001)


def test_lengths_cover_the_range_and_evaluation_takes_the_longest():
    task = AffineRecurrence()
    lengths = {task.batch(0, k, batch_size=1).inputs.shape[1] + 1 for k in range(600)}
    assert lengths == set(range(4, 30))
    assert {task.evaluation_batch(seed, batch_size=1).inputs.shape[1] + 1 for seed in range(5)} == {29}
    evaluation = task.evaluation_batch(seed=0, batch_size=3)
    assert same(evaluation, task._sample(generator("evaluation", 0), 3, 29))
    fixed = replace(task, length_min=14, length_max=14)
    assert {fixed.batch(0, k, batch_size=1).inputs.shape[1] + 1 for k in range(5)} == {14}


@pytest.mark.parametrize(
    # Standard deviations of one sequence, averaged over its lengths.
    ("name", "published", "deviation"),
    [("predict_zero", 0.0211, 0.0142), ("repeat_last", 0.0192, 0.0282)],
)
def test_published_affine_baselines(name: str, published: float, deviation: float):
    task = AffineRecurrence()
    baseline = task.baselines()[name]
    own_error = deviation / math.sqrt(700 * 24)
    assert abs(baseline - published) < 4 * own_error + 0.00005

    predict = {"predict_zero": torch.zeros_like, "repeat_last": torch.clone}[name]
    fixed = [replace(task, length_min=length, length_max=length) for length in range(4, 30)]
    batches = [one.batch(0, 0, batch_size=2003) for one in fixed]
    losses = [task.loss(predict(batch.inputs), batch).mean(1) for batch in batches]
    means, errors = zip(*map(mean_and_error, losses), strict=True)
    error = math.hypot(*errors) / len(errors)
    assert abs(sum(means) / len(means) - published) < 4 * error + 0.00005
    assert abs(sum(means) / len(means) - baseline) < 4 * math.hypot(error, own_error)

    # Within the same sample the longest is one length of many, and spreads more.
    own_error = losses[-1].std().item() / math.sqrt(700 * 24)
    assert abs(means[-1] - task.baselines()[f"{name}_longest"]) < 4 * math.hypot(errors[-1], own_error)


@each_recurrence
def test_answers_are_determined_from_first_determined_on(task: AffineRecurrence):
    batch = task.evaluation_batch(0, batch_size=61)
    predictions = least_squares_oracle(batch.inputs, task.compl)
    error = task.loss(predictions, batch)
    determined = task.parts(batch)["determined"]
    first = 2 * task.compl if task.shared_start else task.compl + 1
    assert [q for q in range(task.n_ctx) if determined[:, q].all()] == list(range(first, task.n_ctx))
    assert not determined[:, :first].any()
    assert error[determined].max() < 1e-12
    size = batch.targets.square().mean(-1)
    assert ((error / size)[:, :first].median(0).values > 0.01).all()


def test_the_oracle_is_least_squares():
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 11, 5, generator=draws, dtype=torch.float64)  # no recurrence fits
    compl = 2
    predictions = least_squares_oracle(inputs, compl)
    for b in range(3):
        for q in range(compl + 1, 11):
            rows = [torch.cat((inputs[b, j - compl : j].T, torch.eye(5)), dim=1) for j in range(compl, q + 1)]
            answers = inputs[b, compl : q + 1].flatten()
            fit = torch.linalg.lstsq(torch.cat(rows), answers).solution
            expected = inputs[b, q + 1 - compl : q + 1].T @ fit[:compl] + fit[compl:]
            assert torch.allclose(predictions[b, q], expected)
    assert torch.equal(predictions[:, : compl - 1], torch.zeros(3, compl - 1, 5))
    with pytest.raises(ValueError, match=r"^compl: 0 is not valid"):
        least_squares_oracle(inputs, 0)


# The previous token


@settings(deadline=None)
@given(n_tokens=st.integers(1, 31), length=st.integers(2, 29), seed=st.integers(0, 1000))
def test_previous_token_targets_and_mask(n_tokens: int, length: int, seed: int):
    batch = PreviousToken(n_tokens=n_tokens, length=length).batch(seed, 0, batch_size=5)
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        assert inputs[0] == 0
        assert all(1 <= token <= n_tokens for token in inputs[1:])
        assert targets == [0, *inputs[:-1]]
    assert batch.mask.tolist() == [[False] + [True] * (length - 1)] * 5


def test_previous_token_baselines():
    published = PreviousToken().baselines()
    assert published == pytest.approx(
        {"chance": math.log(300), "bos_known": 48 / 49 * math.log(299), "some_earlier_token": 2.95, "floor": 0.0},
        abs=0.001,
    )

    # A vocabulary so large that hardly a token comes twice.
    task = PreviousToken(n_tokens=9973, length=11)
    batch = task.batch(0, 0, batch_size=101)
    flat = torch.zeros(101, 11, task.d_vocab)
    first_is_bos = flat.clone()
    first_is_bos[:, 1, 0] = 1e4
    first_is_bos[:, 2:, 0] = -1e4
    earlier = F.one_hot(batch.inputs, task.d_vocab).cumsum(1).roll(1, dims=1).log()
    earlier[:, 0] = 0.0
    exact = F.one_hot(batch.targets, task.d_vocab) * 1e4
    for name, output, tolerance in (
        ("chance", flat, 1e-5),
        ("bos_known", first_is_bos, 1e-5),
        ("some_earlier_token", earlier, 0.01),
        ("floor", exact, 0.0),
    ):
        loss = masked_mean(task.loss(output, batch), batch.mask).item()
        assert abs(loss - task.baselines()[name]) <= tolerance, name


@settings(deadline=None)
@given(n_tokens=st.integers(1, 31), length=st.integers(2, 29), seed=st.integers(0, 1000))
def test_without_bos_the_first_token_is_one_like_the_others(n_tokens: int, length: int, seed: int):
    task = PreviousToken(n_tokens=n_tokens, length=length, bos=False)
    batch = task.batch(seed, 0, batch_size=5)
    assert (task.d_vocab, task.n_ctx) == (n_tokens + 1, length)  # the same network fits
    assert batch.inputs.shape == (5, length)
    assert 1 <= batch.inputs.min() <= batch.inputs.max() <= n_tokens
    assert torch.equal(batch.targets[:, 1:], batch.inputs[:, :-1])
    assert batch.mask.tolist() == [[False] + [True] * (length - 1)] * 5
    assert all("BOS" not in row for row in task.labels(batch))


def test_without_bos_every_token_comes_first_alike():
    first = WITHOUT_BOS.batch(0, 0, batch_size=4001).inputs[:, 0]
    assert first.unique().tolist() == list(range(1, 12))
    counts = first.bincount(minlength=12)[1:].double()
    # The sum of squared deviations from 4001/11, in units of it, is chi-squared with ten degrees of freedom.
    statistic = ((counts - 4001 / 11) ** 2 / (4001 / 11)).sum().item()
    assert statistic < 10 + 4 * math.sqrt(20)


def test_the_baselines_without_bos():
    """No answer is BOS, and that is all there is to know of them before they are read."""
    task = PreviousToken(n_tokens=9973, length=11, bos=False)
    baselines, with_bos = task.baselines(), replace(task, bos=True).baselines()
    assert baselines["bos_known"] == math.log(9973)
    assert {name for name in baselines if baselines[name] != with_bos[name]} == {"bos_known"}
    batch = task.batch(0, 0, batch_size=101)
    never_bos = torch.zeros(101, 11, task.d_vocab)
    never_bos[..., 0] = -1e4
    earlier = F.one_hot(batch.inputs, task.d_vocab).cumsum(1).roll(1, dims=1).log()
    earlier[:, 0] = 0.0
    exact = F.one_hot(batch.targets, task.d_vocab) * 1e4
    flat = torch.zeros_like(never_bos)
    for name, output, tolerance in (
        ("chance", flat, 1e-5),
        ("bos_known", never_bos, 1e-5),
        ("some_earlier_token", earlier, 0.01),
        ("floor", exact, 0.0),
    ):
        loss = masked_mean(task.loss(output, batch), batch.mask).item()
        assert abs(loss - baselines[name]) <= tolerance, name


@pytest.mark.parametrize("bos", [True, False])
def test_a_recipe_says_whether_there_is_a_bos(bos: bool):
    model = ModelConfig(n_layers=1, d_model=7, n_ctx=19, d_head=5, n_heads=3, d_vocab=12)
    recipe = Recipe(task=replace(PREVIOUS, bos=bos), model=model)
    assert recipe.to_dict()["task"]["bos"] is bos
    again = Recipe.from_dict(recipe.to_dict())
    assert again == recipe
    assert same(again.task.batch(0, 0, 3), recipe.task.batch(0, 0, 3))
    # A run from before there was a choice has a BOS.
    before = recipe.to_dict()
    del before["task"]["bos"]
    assert Recipe.from_dict(before).task == PREVIOUS


# Synonyms, and other names


def test_a_segment_comes_again_in_its_synonyms_and_no_pair_comes_otherwise():
    batch = SYNONYMS.evaluation_batch(seed=0, batch_size=301)
    tokens = F.pad(batch.targets, (1, 0))
    period, lead = batch.info["period"], batch.info["lead"]
    for row, p, start in zip(tokens, period.tolist(), (1 + lead).tolist(), strict=True):
        segment, copy = row[start : start + p], row[start + p : start + 2 * p]
        assert torch.equal(SYNONYMS.synonyms[segment], copy)
        pairs = torch.minimum(row, SYNONYMS.synonyms[row])
        elsewhere = torch.cat([pairs[: start + p], pairs[start + 2 * p :]])
        assert len(elsewhere.unique()) == len(elsewhere)
    assert set(period.tolist()) == {5, 6, 7}
    mean, error = mean_and_error((lead > 0).float())
    # Of the half that may start late, one in length - 2p + 1 has no lead-in all the same.
    expected = 0.5 * sum(1 - 1 / (SYNONYMS.length - 2 * p + 1) for p in (5, 6, 7)) / 3
    assert abs(mean - expected) < 4 * error
    # Each pair begins with either of its two tokens, as often.
    mean, error = mean_and_error((batch.targets[:, 0] > SYNONYMS.n_pairs).float())
    assert abs(mean - 0.5) < 4 * error
    assert torch.equal(SYNONYMS.synonyms[SYNONYMS.synonyms], torch.arange(SYNONYMS.d_vocab))
    assert torch.equal(torch.tensor(SYNONYMS.pairs), torch.stack([torch.arange(1, 14), SYNONYMS.synonyms[1:14]], 1))


def test_the_parts_of_synonyms_are_what_is_new_and_what_can_be_told():
    batch = SYNONYMS.evaluation_batch(seed=1, batch_size=53)
    parts = SYNONYMS.parts(batch)
    new, told = parts["first"], parts["repeats"]
    assert not (new & told).any()
    assert torch.equal((~(new | told)).sum(1), torch.ones(53, dtype=torch.long))
    assert torch.equal(told.sum(1), batch.info["period"] - 1)
    earlier = F.pad(batch.targets, (1, 0))[:, :-1]
    for b, q in told.nonzero().tolist():
        assert SYNONYMS.synonyms[batch.targets[b, q]] in batch.targets[b, :q]
        assert SYNONYMS.synonyms[earlier[b, q]] in batch.targets[b, :q]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 3, "period_min": 2, "period_max": 2}, "length: 3 is not valid; it must be at least 4"),
        ({"period_min": 1}, "period_min: 1 is not valid; it must be at least 2"),
        ({"period_max": 9}, "period_max: 9 is not valid; it must be at least period_min = 5 and at most"),
        ({"n_pairs": 11}, "n_pairs: 11 is not valid; it must be at least 12"),
        ({"late_start": 1.5}, "late_start: 1.5 is not valid; it must be a share"),
        ({"late_start": -0.5}, "late_start: -0.5 is not valid; it must be a share"),
    ],
)
def test_synonyms_that_cannot_be_drawn_are_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(SYNONYMS, **changes)


def test_a_renamed_task_is_the_task_in_other_tokens():
    batch, plain = RENAMED.evaluation_batch(0, 7), REPEATED.evaluation_batch(0, 7)
    names = torch.tensor(RENAMED.tokens)
    assert torch.equal(batch.inputs, names[plain.inputs])
    assert torch.equal(batch.targets, names[plain.targets])
    assert (RENAMED.bos_token, RENAMED.d_vocab) == (100, 101)
    assert RENAMED.labels(batch)[0][0] == "BOS"
    for part, where in RENAMED.parts(batch).items():
        assert torch.equal(where, REPEATED.parts(plain)[part])
    for tokens in ((1, 2, 3), (100, *range(30, 48), 30), (-1, *range(31, 50))):
        with pytest.raises(ValueError, match="there must be one for each of the 20 tokens"):
            Renamed(REPEATED, tokens)


def test_descriptions_say_what_sequences_were_drawn_with():
    for task in (RepeatedTokens(n_tokens=13, length=11, period_min=2, period_max=5),
                 RepeatedSynonyms(n_pairs=13, length=11, period_min=2, period_max=5)):  # fmt: skip
        batch = task.batch(seed=0, index=0, batch_size=29)
        words = task.descriptions(batch)
        assert len(set(words)) > 3
        for row, said in zip(batch.inputs, words, strict=True):
            period, start = map(int, re.fullmatch(r"period (\d+), from position (\d+)", said).groups())  # pyright: ignore[reportOptionalMemberAccess]
            if isinstance(task, RepeatedSynonyms):
                first = row[start : start + period]
                again = row[start + period : start + 2 * period]
                assert torch.equal(task.synonyms[first][: len(again)], again)
            else:
                assert torch.equal(row[start + period :], row[start:-period])
    task = IndirectObject()
    batch = task.batch(seed=0, index=0, batch_size=29)
    for labels, said in zip(task.labels(batch), task.descriptions(batch), strict=True):
        template, order = re.fullmatch(r"template (\d+), (ABBA|BABA)", said).groups()  # pyright: ignore[reportOptionalMemberAccess]
        assert TEMPLATES[int(template)].startswith(labels[1].strip())
        words = [label.strip() for label in labels]
        twice = [words.count(name) == 2 for name in sorted({*words} & {*NAMES}, key=words.index)]
        assert twice == ([False, True] if order == "ABBA" else [True, False])
    brackets = Brackets()
    batch = brackets.batch(seed=0, index=0, batch_size=29)
    assert [said == "balanced" for said in brackets.descriptions(batch)] == (batch.targets[:, 0] == 1).tolist()


def test_a_description_that_fails_ends_nothing():
    class Mute(RepeatedTokens):
        def descriptions(self, batch: Batch) -> list[str]:
            raise KeyError("period")

    batch = Mute(n_tokens=13, length=11, period_min=2, period_max=5).batch(seed=0, index=0, batch_size=3)
    assert described(batch) == ["", "", ""]
    assert described(batch._replace(task=None)) == ["", "", ""]
