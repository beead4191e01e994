"""Every measure against networks written by hand: one that it must accept, and one that it must reject."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch

from headway.analyze import MEASURES
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.seeds import generator
from headway.data.task import Batch, masked_mean
from headway.models.handmade import (
    ADDITION,
    D_VOCAB,
    ONE_CHAIN,
    TASK,
    VECTORS,
    composing_pair,
    copying_head,
    current_token_head,
    duplicate_token_head,
    first_token_head,
    known_chain,
    linear_network,
    low_rank_head,
    memorised,
    mirror_head,
    offset_head,
    previous_token_head,
    table_of_sums,
    uniform_head,
    waves,
)
from headway.models.hooked_transformer import HookedTransformer

Network = tuple[HookedTransformer, Batch]
BY_NAME = {each.name: each for each in MEASURES}


def anticopying_head() -> Network:
    return copying_head(-1.0)


def k_pair() -> Network:
    return composing_pair("k")


def q_pair() -> Network:
    return composing_pair("q")


def v_pair() -> Network:
    return composing_pair("v")


def avoiding_k_pair() -> Network:
    """An induction circuit whose second head looks away from what it would look for."""
    model, batch = k_pair()
    model.blocks[1].attn.W_K.data.neg_()
    return model, batch


def avoiding_duplicates_head() -> Network:
    model, batch = duplicate_token_head()
    model.blocks[0].attn.W_K.data.neg_()
    return model, batch


def matching_and_copying_head() -> Network:
    """A copying head that looks for its own token; W_Q W_K.T is a projector, with factors of different lengths."""
    model, batch = copying_head()
    with torch.no_grad():
        model.blocks[0].attn.W_Q[0, :D_VOCAB, :D_VOCAB] = 12 * torch.eye(D_VOCAB)
        model.blocks[0].attn.W_K[0, :D_VOCAB, :D_VOCAB] = torch.eye(D_VOCAB) / 12
    return model, batch


def twice(network: Callable[[], Network]) -> Callable[[], Network]:
    """The same network on one segment twice."""

    def on_one_segment_twice() -> Network:
        task = RepeatedTokens(n_tokens=12, length=17, period_min=8, period_max=8, late_start=0.0)
        return network()[0], task.evaluation_batch(seed=0, batch_size=29)

    on_one_segment_twice.__name__ = f"{network.__name__}_twice"
    return on_one_segment_twice


def all_of_the_loss_before(model: HookedTransformer, batch: Batch) -> float:
    """With no loss on repeats, what context saves is the loss on first occurrences: more than that of a guess."""
    first = BY_NAME["loss"](model, batch).loss_first.item()
    assert first > math.log(12)
    return -first


def all_of_the_spread(model: HookedTransformer, batch: Batch) -> float:
    """Nothing else moves the scores of L1H1."""
    spread = float(BY_NAME["qk_attribution"](model, batch).qk_attribution.sel(layer=1, head=1).sum())
    assert spread > 1
    return spread


@dataclass(frozen=True)
class Split(RepeatedTokens):
    """Repeats, whose targets are wrong in what is trained on or in what is held out."""

    trained_on_wrong: bool = False

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        return self._repeats(generator, batch_size, self.trained_on_wrong)

    def sample_held_out(self, generator: torch.Generator, batch_size: int) -> Batch:
        return self._repeats(generator, batch_size, not self.trained_on_wrong)

    def _repeats(self, generator: torch.Generator, batch_size: int, wrong: bool) -> Batch:
        batch = super().sample(generator, batch_size)
        targets = (batch.targets + 1) % D_VOCAB if wrong else batch.targets
        return batch._replace(targets=targets, mask=TASK.parts(batch)["repeats"])


def remembering() -> Network:
    """An induction circuit that is right about what it is trained on, and wrong about what is held out."""
    task = Split(n_tokens=12, length=17, period_min=5, period_max=7, late_start=0.0)
    return k_pair()[0], task.evaluation_batch(seed=0, batch_size=29)


def forgetting() -> Network:
    task = Split(n_tokens=12, length=17, period_min=5, period_max=7, late_start=0.0, trained_on_wrong=True)
    return k_pair()[0], task.evaluation_batch(seed=0, batch_size=29)


def loss_on_what_it_was_trained_on(model: HookedTransformer, batch: Batch) -> float:
    assert batch.task is not None
    seen = batch.task.seen_batch(0, 29)
    with torch.no_grad():
        found = masked_mean(TASK.loss(model(seen.inputs), seen), seen.mask).item()
    assert found > 1
    return found


class Case(NamedTuple):
    """A network, and what one variable of a measure is for it at one place.

    "chance" is uniform attention, "ceiling" a circuit that matches perfectly, as the measure itself gives them; what
    follows from another score of the network is a function of it.
    """

    network: Callable[[], Network]
    measure: str
    where: Mapping[str, int | str]
    expected: float | str | Callable[[HookedTransformer, Batch], float]
    variable: str = ""


HEAD = {"layer": 0, "head": 0}
LAST = {"layer": 1, "head": 1}
PAIR = {"from_layer": 0, "from_head": 0, "to_layer": 1, "to_head": 1}
OTHER_PAIR = {**PAIR, "to_head": 0}
BACKWARDS = {"from_layer": 1, "from_head": 1, "to_layer": 0, "to_head": 0}
OV, QK = {**HEAD, "circuit": "OV"}, {**HEAD, "circuit": "QK"}
QUERY_3 = {**HEAD, "batch": 0, "query": 3}
EMBED_TO_L0H0 = {**LAST, "query_component": "embed", "key_component": "L0H0"}
CHANCE, CEILING, NAN = "chance", "ceiling", math.nan
# Probabilities of singular values 3, 2, 1, and their entropy.
OF_LOW_RANK = [3 / 6, 2 / 6, 1 / 6]


def anticopying_vectors() -> Network:
    """Predicts x - 3 · the mean of what it has seen."""
    return linear_network(-3.0 * torch.eye(VECTORS.d_vector))


def idle_vectors() -> Network:
    return linear_network(torch.zeros(VECTORS.d_vector, VECTORS.d_vector))


def share_of_the_mean(model: HookedTransformer, batch: Batch) -> float:
    """What L0H0 adds along the targets, in closed form: -3 times the mean of the vectors so far."""
    steps = torch.arange(1, batch.inputs.shape[1] + 1)[:, None]
    means = batch.inputs.cumsum(1) / steps
    return float((-3 * means * batch.targets).sum() / (batch.targets**2).sum())


def loss_without_the_head(model: HookedTransformer, batch: Batch) -> float:
    """Without its one head the network puts out nothing that tells tokens apart but the current one."""
    without = copying_head(0.0)[0]
    z = model.run_with_cache(batch.inputs)[1]["z", 0].mean((0, 1))
    with torch.no_grad():
        output = without(batch.inputs) + torch.einsum("hd,hdv->v", z, model.W_O[0] @ model.W_U)
    return TASK.loss(output, batch).mean().item() - BY_NAME["loss"](model, batch).loss.item()


def lost_with_the_head_of_a_twin(model: HookedTransformer, batch: Batch) -> float:
    """This share of what is known of the first 16 sequences is lost if L1H1 writes what it writes on their twins."""
    few = batch.first(16)
    twin = TASK.twin(few, generator("twin", 0))
    (_, clean), (_, other) = (model.run_with_cache(inputs) for inputs in (few.inputs, twin.inputs))
    with torch.no_grad():
        change = (other["z", 1] - clean["z", 1])[:, :, 1] @ model.W_O[1, 1]
        outputs = [(clean["resid_post", 1] + each) @ model.W_U + model.b_U for each in (0, change)]
        outputs.append(model(twin.inputs))
    whole, lost, none = (masked_mean(TASK.loss(output, few), TASK.parts(few)["repeats"]).item() for output in outputs)
    return (lost - whole) / (none - whole)


def lost_without_predecessors(model: HookedTransformer, batch: Batch) -> float:
    """What the first 8 sequences lose if L1H1 looks for its token where the sequence before had it."""
    few = batch.first(8)
    others = torch.nn.functional.pad(batch.inputs.roll(1, 0)[:8, :-1], (1, 0), value=0)
    cache = model.run_with_cache(few.inputs)[1]
    wrong = cache["resid_pre", 1].clone()
    wrong[:, 1:, D_VOCAB : 2 * D_VOCAB] = torch.nn.functional.one_hot(others[:, 1:], D_VOCAB).float()
    keys = wrong @ model.W_K[1, 1]
    hooks: list = [("blocks.1.attn.hook_k", lambda k, hook: torch.stack([k[:, :, 0], keys], 2))]
    output = model.run_with_hooks(few.inputs, fwd_hooks=hooks)
    lost = TASK.loss(output, few).mean() - TASK.loss(model(few.inputs), few).mean()
    assert lost > 1
    return lost.item()


def lost_by_copying(model: HookedTransformer, batch: Batch) -> float:
    """What the first 8 sequences lose if the network predicts x plus the mean of what it has seen."""
    few = batch.first(8)
    with torch.no_grad():
        outputs = linear_network(torch.eye(VECTORS.d_vector))[0](few.inputs), model(few.inputs)
    copying, as_it_is = (VECTORS.loss(output, few).mean().item() for output in outputs)
    assert abs(copying - as_it_is) > 1e-3
    return copying - as_it_is


def lost_by_looking_for_itself(model: HookedTransformer, batch: Batch) -> float:
    """What the first 8 sequences lose if the keys of L1H1 read the token, a twelfth of it, and not its predecessor."""
    few, other = batch.first(8), k_pair()[0]
    with torch.no_grad():
        other.blocks[1].attn.W_K[1] = other.blocks[1].attn.W_Q[1] / 144
        lost = TASK.loss(other(few.inputs), few).mean() - TASK.loss(model(few.inputs), few).mean()
    assert lost > 1
    return lost.item()


def one_wave() -> Network:
    """Fourier multiplication with the frequency 2, sharp enough to add without errors."""
    return table_of_sums(waves(2, size=40.0))


def two_waves() -> Network:
    return table_of_sums(waves(1, 3))


def pairs_by_heart() -> Network:
    return table_of_sums(memorised())


def random_answers() -> Network:
    return table_of_sums(torch.randn(7, 7, 7, generator=generator("init", 0)))


def unchanging_chain() -> Network:
    """It predicts all states alike."""
    model, batch = known_chain()
    model.W_U.data.zero_()
    return model, batch


def divergence_from_unigrams(model: HookedTransformer, batch: Batch) -> float:
    """The cross-entropy of a uniform guess under the unigram predictor, minus the predictor's entropy."""
    p = ONE_CHAIN.predictors(batch)["unigram"].double().exp()
    return math.log(5) - torch.special.entr(p).sum(-1).mean().item()


def training_share_of_a_wave(model: HookedTransformer, batch: Batch) -> float:
    """Pairs known by heart are a wave of each of the 3 frequencies in a + b - c, as far as there are pairs."""
    table = memorised()
    table = table - table.mean(-1, keepdim=True)
    varies = ((table - table.mean((0, 1))) ** 2).sum()
    wave = waves(2)
    sine = (math.tau / 7 * 2 * (torch.arange(7)[:, None, None] + torch.arange(7)[:, None] - torch.arange(7))).sin()
    return sum(((table * each).sum() ** 2 / (each**2).sum() / varies).item() for each in (wave, sine))


def loss_of_constant_answers(model: HookedTransformer, batch: Batch) -> float:
    """The loss of the mean of the logits over all pairs: without key frequencies there is nothing else."""
    with torch.no_grad():
        logits = model(ADDITION.sequences().inputs)[:, -1]
    return torch.nn.functional.cross_entropy(logits.mean(0).expand(7, -1), torch.arange(7)).item()


def loss_on_training_pairs(model: HookedTransformer, batch: Batch) -> float:
    training = ADDITION.training_batch(0, 0, ADDITION.n_sequences.training)
    with torch.no_grad():
        return masked_mean(ADDITION.loss(model(training.inputs), training), training.mask).item()


# In each pair of lists, what must come out for a network that does it, and for networks that do not.
ACCEPTS = [
    Case(k_pair, "loss", {}, 0, "loss_repeats"),
    Case(k_pair, "accuracy", {}, 1, "accuracy_repeats"),
    Case(k_pair, "in_context", {}, all_of_the_loss_before),
    Case(known_chain, "predictor_distance", {"predictor": "pool"}, 0),
    Case(unchanging_chain, "predictor_distance", {"predictor": "uniform"}, 0),
    Case(one_wave, "frequency_share", {"frequency": 2}, 1),
    Case(two_waves, "frequency_share", {"frequency": 3}, 1 / 2),
    Case(two_waves, "key_frequencies", {}, 2),
    # Nothing is known by heart, and one wave alone adds without errors.
    Case(one_wave, "excluded_loss", {}, math.log(7)),
    Case(one_wave, "restricted_loss", {}, 0),
    Case(previous_token_head, "attention", {**QUERY_3, "key": 2}, 1),
    Case(previous_token_head, "previous_token", HEAD, 1),
    Case(current_token_head, "current_token", HEAD, 1),
    Case(first_token_head, "first_token", HEAD, 1),
    Case(offset_head, "fixed_offset", HEAD, 1),
    Case(offset_head, "fixed_offset", HEAD, 3, "fixed_offset_best"),
    Case(mirror_head, "mirror", HEAD, 1),
    Case(remembering, "training_loss", {}, 0),
    Case(remembering, "training_accuracy", {}, 1),
    Case(duplicate_token_head, "duplicate_token", HEAD, 1),
    Case(k_pair, "prefix_matching", LAST, 1),
    Case(twice(k_pair), "induction_stripe", LAST, 1),
    Case(uniform_head, "attention_entropy", HEAD, 1),
    Case(copying_head, "ov_eigenvalue", HEAD, 1),
    Case(anticopying_head, "ov_eigenvalue", HEAD, -1),
    Case(low_rank_head, "ov_eigenvalue", HEAD, (3 + 2 - 1) / (3 + 2 + 1)),
    Case(copying_head, "ov_eigenvalue_residual", HEAD, 1),
    Case(anticopying_head, "ov_eigenvalue_residual", HEAD, -1),
    Case(duplicate_token_head, "qk_eigenvalue", HEAD, 1),
    Case(avoiding_duplicates_head, "qk_eigenvalue", HEAD, -1),
    Case(current_token_head, "qk_eigenvalue_residual", HEAD, 1),
    Case(k_pair, "induction_eigenvalue", PAIR, 1),
    Case(avoiding_k_pair, "induction_eigenvalue", PAIR, -1),
    Case(k_pair, "k_composition", PAIR, CEILING),
    Case(q_pair, "q_composition", PAIR, CEILING),
    Case(v_pair, "v_composition", PAIR, CEILING),
    # Two of the three squares 9, 4 and 1 hold 93 % of their sum.
    Case(low_rank_head, "rank_95", OV, 3),
    Case(copying_head, "rank_95", OV, D_VOCAB),
    Case(low_rank_head, "rank_entropy", OV, math.exp(-sum(p * math.log(p) for p in OF_LOW_RANK))),
    Case(low_rank_head, "rank_stable", OV, (9 + 4 + 1) / 9),
    Case(k_pair, "direct_attribution", {"component": "L1H1"}, 20, "direct_attribution_repeats"),
    Case(anticopying_vectors, "direct_attribution", {"component": "L0H0"}, share_of_the_mean),
    Case(k_pair, "qk_attribution", EMBED_TO_L0H0, all_of_the_spread),
    Case(copying_head, "ov_top1", HEAD, 1),
    Case(copying_head, "ov_topk", HEAD, 1),
    Case(copying_head, "token_pair_rank", {**HEAD, "pair": "3 → 3", "within": "row"}, 1),
    Case(anticopying_head, "token_pair_rank", {**HEAD, "pair": "3 → 3", "within": "column"}, 0),
    Case(k_pair, "k_composition_top1", {**PAIR, "best": "key"}, 1),
    Case(k_pair, "k_composition_top1", {**PAIR, "best": "query"}, 1),
    Case(previous_token_head, "position_pattern", HEAD, 1),
    Case(anticopying_vectors, "linearity", {"layer": 0, "inputs": "data"}, 1),
    Case(anticopying_vectors, "linearity", {"layer": 0, "inputs": "data"}, -3, "linearity_slope"),
    Case(anticopying_vectors, "linearity", {"layer": 0, "inputs": "isotropic"}, 1),
    Case(previous_token_head, "outside_embedding", {"layer": 0}, 1),
    Case(copying_head, "ablation", HEAD, loss_without_the_head),
    Case(k_pair, "effect", {"layer": 1, "head": 1}, lost_with_the_head_of_a_twin),
    Case(k_pair, "path_patch", {**PAIR, "input": "k"}, lost_without_predecessors),
    # A head whose queries and keys are one projector already, and one that copies already.
    Case(matching_and_copying_head, "qk_identity_surgery", {**HEAD, "experiment": "trained"}, 0),
    Case(copying_head, "ov_identity_surgery", {**HEAD, "sign": "+"}, 0),
]
REJECTS = [
    # Its network says "the current token again", with a logit of 1 against 12 of 0, and is never right.
    Case(uniform_head, "loss", {}, math.log(math.e + 12), "loss_repeats"),
    Case(uniform_head, "accuracy", {}, 0, "accuracy_repeats"),
    Case(uniform_head, "in_context", {}, 0),
    Case(unchanging_chain, "predictor_distance", {"predictor": "unigram"}, divergence_from_unigrams),
    Case(one_wave, "frequency_share", {"frequency": 1}, 0),
    Case(pairs_by_heart, "frequency_share", {"frequency": 2}, training_share_of_a_wave),
    Case(pairs_by_heart, "key_frequencies", {}, 0),
    Case(random_answers, "key_frequencies", {}, 0),
    Case(pairs_by_heart, "excluded_loss", {}, 0),
    Case(random_answers, "excluded_loss", {}, loss_on_training_pairs),
    Case(random_answers, "restricted_loss", {}, loss_of_constant_answers),
    Case(current_token_head, "attention", {**QUERY_3, "key": 2}, 0),
    Case(current_token_head, "previous_token", HEAD, 0),
    Case(uniform_head, "previous_token", HEAD, CHANCE),
    Case(previous_token_head, "current_token", HEAD, 0),
    Case(uniform_head, "current_token", HEAD, CHANCE),
    Case(current_token_head, "first_token", HEAD, 0),
    Case(uniform_head, "first_token", HEAD, CHANCE),
    Case(current_token_head, "duplicate_token", HEAD, 0),
    Case(avoiding_duplicates_head, "duplicate_token", HEAD, 0),
    Case(uniform_head, "duplicate_token", HEAD, CHANCE),
    Case(k_pair, "prefix_matching", {"layer": 0, "head": 1}, CHANCE),
    Case(current_token_head, "prefix_matching", HEAD, 0),
    Case(duplicate_token_head, "prefix_matching", HEAD, 0),
    Case(q_pair, "prefix_matching", LAST, 0),
    Case(twice(duplicate_token_head), "induction_stripe", HEAD, 0),
    Case(twice(uniform_head), "induction_stripe", HEAD, CHANCE),
    Case(previous_token_head, "attention_entropy", HEAD, 0),
    Case(previous_token_head, "ov_eigenvalue", HEAD, NAN),
    Case(uniform_head, "ov_eigenvalue", HEAD, NAN),
    Case(previous_token_head, "ov_eigenvalue_residual", HEAD, NAN),
    Case(previous_token_head, "qk_eigenvalue", HEAD, NAN),
    Case(previous_token_head, "qk_eigenvalue_residual", HEAD, NAN),
    Case(q_pair, "induction_eigenvalue", PAIR, NAN),
    Case(v_pair, "induction_eigenvalue", PAIR, NAN),
    Case(q_pair, "k_composition", PAIR, 0),
    Case(v_pair, "k_composition", PAIR, 0),
    Case(k_pair, "k_composition", OTHER_PAIR, NAN),
    Case(k_pair, "k_composition", BACKWARDS, NAN),
    Case(k_pair, "q_composition", PAIR, 0),
    Case(v_pair, "q_composition", PAIR, 0),
    Case(k_pair, "v_composition", PAIR, 0),
    Case(q_pair, "v_composition", PAIR, 0),
    Case(uniform_head, "rank_95", OV, NAN),
    Case(low_rank_head, "rank_95", QK, NAN),
    Case(uniform_head, "rank_entropy", OV, NAN),
    Case(copying_head, "rank_entropy", OV, D_VOCAB),
    Case(uniform_head, "rank_stable", OV, NAN),
    Case(copying_head, "rank_stable", OV, D_VOCAB),
    Case(k_pair, "direct_attribution", {"component": "L1H0"}, 0, "direct_attribution_repeats"),
    Case(k_pair, "direct_attribution", {"component": "embed"}, 0, "direct_attribution_repeats"),
    Case(k_pair, "qk_attribution", {**EMBED_TO_L0H0, "key_component": "embed"}, 0),
    Case(q_pair, "qk_attribution", EMBED_TO_L0H0, 0),
    Case(idle_vectors, "direct_attribution", {"component": "L0H0"}, 0),
    # A token whose entry is no larger than the others is no hit, and is in the middle of its row.
    Case(uniform_head, "ov_top1", HEAD, 0),
    Case(anticopying_head, "ov_top1", HEAD, 0),
    Case(previous_token_head, "ov_topk", HEAD, 0),
    Case(uniform_head, "token_pair_rank", {**HEAD, "pair": "3 → 3", "within": "row"}, 0.5),
    Case(q_pair, "k_composition_top1", {**PAIR, "best": "key"}, 0),
    Case(avoiding_k_pair, "k_composition_top1", {**PAIR, "best": "query"}, 0),
    Case(k_pair, "k_composition_top1", {**BACKWARDS, "best": "query"}, NAN),
    Case(current_token_head, "position_pattern", HEAD, 0),
    Case(uniform_head, "position_pattern", HEAD, CHANCE),
    Case(idle_vectors, "linearity", {"layer": 0, "inputs": "data"}, NAN),
    Case(copying_head, "outside_embedding", {"layer": 0}, 0),
    Case(uniform_head, "outside_embedding", {"layer": 0}, NAN),
    # Half of the queries have a key up to 9 positions back; of these 8 one is 9 from position 0.
    Case(first_token_head, "fixed_offset", HEAD, 1 / 8),
    Case(uniform_head, "fixed_offset", HEAD, CHANCE),
    Case(previous_token_head, "fixed_offset", HEAD, 0),
    Case(previous_token_head, "mirror", HEAD, 0),
    Case(uniform_head, "mirror", HEAD, CHANCE),
    Case(forgetting, "training_loss", {}, loss_on_what_it_was_trained_on),
    Case(forgetting, "training_accuracy", {}, 0),
    Case(uniform_head, "ablation", HEAD, 0),
    Case(uniform_head, "effect", HEAD, NAN),
    Case(k_pair, "effect", {"layer": 0, "head": 1}, 0),
    Case(k_pair, "ablation", {"layer": 0, "head": 1}, 0),
    Case(k_pair, "path_patch", {**PAIR, "input": "q"}, 0),
    Case(k_pair, "path_patch", {**OTHER_PAIR, "input": "k"}, 0),
    Case(q_pair, "path_patch", {**PAIR, "input": "k"}, 0),
    Case(k_pair, "qk_identity_surgery", {**LAST, "experiment": "trained"}, lost_by_looking_for_itself),
    Case(anticopying_vectors, "ov_identity_surgery", {**HEAD, "sign": "+"}, lost_by_copying),
    Case(idle_vectors, "ov_identity_surgery", {**HEAD, "sign": "+"}, lost_by_copying),
]


@pytest.mark.parametrize(
    "case",
    [*ACCEPTS, *REJECTS],
    ids=lambda case: (
        f"{case.network.__name__}-{case.variable or case.measure}-{getattr(case.expected, '__name__', case.expected)}"
    ),
)
def test_a_measure_accepts_its_own_and_rejects_the_others(case: Case):
    model, batch = case.network()
    scores = BY_NAME[case.measure](model, batch)
    value = scores[case.variable or case.measure].sel(case.where).item()
    expected = case.expected(model, batch) if callable(case.expected) else case.expected
    if isinstance(expected, str):
        reference = scores[f"{case.measure}_{expected}"]
        expected = float(reference.sel({axis: case.where[str(axis)] for axis in reference.dims if axis in case.where}))
        assert 0 < expected < 1
    # A perfect head leaves 1e-5 of its attention to others; on a loss of 20 that is more.
    of_losses = ("loss", "training_loss", "in_context", "path_patch", "qk_identity_surgery")
    assert value == pytest.approx(expected, abs=1e-3 if case.measure in of_losses else 2e-5, nan_ok=True)


def test_every_measure_has_something_to_accept_and_something_to_reject():
    assert {case.measure for case in ACCEPTS} == {case.measure for case in REJECTS} == set(BY_NAME)


def test_the_wrong_transpose_scores_exactly_zero_on_the_induction_circuit():
    model, _ = k_pair()
    W_OV, W_QK = (model.W_V @ model.W_O)[0, 0], (model.W_Q @ model.W_K.mT)[1, 1]
    assert (W_OV @ W_QK.T).norm() > 0
    assert (W_OV @ W_QK).norm() == (W_OV.T @ W_QK.T).norm() == 0


def test_a_head_that_counts_positions_is_no_induction_head_on_other_periods():
    """It scores on the period it was made for, and on no other that does not divide its distance."""
    distance = 7
    model, _ = previous_token_head()
    attention = model.blocks[0].attn
    with torch.no_grad():
        attention.W_Q[0, 2 * D_VOCAB :] = attention.W_Q[0, 2 * D_VOCAB :].roll(distance - 2, dims=0)
    for period in (3, 5, 7):
        task = RepeatedTokens(n_tokens=12, length=17, period_min=period, period_max=period, late_start=0.0)
        found = BY_NAME["prefix_matching"](model, task.evaluation_batch(0, 29)).prefix_matching.item()
        assert (found > 0.5) == (period == distance), period


def test_attention_is_the_pattern_of_the_network():
    model, batch = previous_token_head()
    kept = BY_NAME["attention"](model, batch).attention
    assert (kept.isel(layer=0, head=0).argmax("key").values[:, 1:] == np.arange(16)).all()


def test_attention_to_positions_by_chance_is_uniform_over_the_keys_that_a_query_sees():
    """Query q sees q + 1 keys, so that 1/(q + 1) of its attention is on the position before."""
    model, batch = uniform_head()
    by_chance = np.mean([1 / (q + 1) for q in range(1, model.cfg.n_ctx)])
    assert BY_NAME["position_pattern"](model, batch).position_pattern_chance.item() == pytest.approx(by_chance)
