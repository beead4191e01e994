"""The best skip trigrams are those of the whole table, which is built here and nowhere else."""

from collections.abc import Callable
from itertools import pairwise

import einops
import pytest
import torch
from networks import with_random_biases
from torch import Tensor
from toys import TOKENS

from headway.analyze.network import vocabulary
from headway.analyze.network.vocabulary import VocabularyCircuit
from headway.analyze.tools import skip_trigrams as module
from headway.analyze.tools.skip_trigrams import SkipTrigram, skip_trigrams
from headway.models.config import Head
from headway.models.handmade import copying_head, duplicate_token_head, uniform_head
from headway.models.hooked_transformer import HookedTransformer

QUERIES, KEYS, OUTPUTS = 7, 11, 13


@pytest.fixture(params=[2, 5, 1024], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of 2 or 5 rows and columns, one key or a few come at a time."""
    for each in (module, vocabulary):
        monkeypatch.setattr(each, "BLOCK", request.param)
    return request.param


def circuit(rows: int, columns: int, seed: int, rank: int = 3) -> VocabularyCircuit:
    """Random, and off its mean."""
    draw = torch.Generator().manual_seed(seed)
    A, B = torch.randn(rows, rank, generator=draw), torch.randn(rank, columns, generator=draw)
    return VocabularyCircuit(A, B + torch.randn(rank, 1, generator=draw))


def whole_numbers(rows: int, columns: int) -> VocabularyCircuit:
    """Full of ties: entries of -2 to 2, and rows whose mean is 0 where columns come in threes."""
    return VocabularyCircuit((torch.arange(rows)[:, None] % 2).float() + 1, (torch.arange(columns)[None] % 3 - 1.0))


def table(qk: VocabularyCircuit, ov: VocabularyCircuit) -> tuple[Tensor, Tensor, Tensor]:
    """The worth [query, key, output], the scores [query, key] and what is raised [key, output], by their definition."""
    score, raised = (each.A.double() @ each.B.double() for each in (qk, ov))
    score, raised = ((each - each.mean(1, keepdim=True)).clamp(min=0) for each in (score, raised))
    return einops.einsum(score, raised, "query key, key output -> query key output"), score, raised


def check(found: list[SkipTrigram], worth: Tensor, score: Tensor, raised: Tensor, k: int) -> None:
    """Those found are distinct, are what they say, and none that was left out is worth more."""
    expected = worth.flatten().topk(min(k, worth.numel())).values
    expected = expected[expected > 1e-9]
    torch.testing.assert_close(torch.tensor([each.worth for each in found]).double(), expected, rtol=1e-5, atol=1e-6)
    assert all(a.worth >= b.worth > 0 for a, b in pairwise(found))
    assert len({each[:3] for each in found}) == len(found)
    for each in found:
        assert each.score == pytest.approx(score[each.query, each.key].item(), rel=1e-4, abs=1e-6)
        assert each.raised == pytest.approx(raised[each.key, each.output].item(), rel=1e-4, abs=1e-6)
        assert each.worth == pytest.approx(worth[each.query, each.key, each.output].item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("k", [1, 5, 61, QUERIES * KEYS * OUTPUTS + 1])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_are_those_of_the_whole_table(k: int, seed: int):
    qk, ov = circuit(QUERIES, KEYS, seed), circuit(KEYS, OUTPUTS, 100 + seed)
    check(skip_trigrams(qk, ov, k), *table(qk, ov), k)


@pytest.mark.parametrize("k", [1, 5, QUERIES * KEYS * OUTPUTS])
@pytest.mark.parametrize(
    "fixed", [(3, None, None), (None, 5, None), (None, None, 11), (6, None, 0), (2, 10, 12)], ids=str
)
def test_a_pivot_table_is_a_slice_of_the_whole_one(fixed: tuple[int | None, ...], k: int):
    """Its means are still those over all keys and all outputs."""
    qk, ov = circuit(QUERIES, KEYS, seed=0), circuit(KEYS, OUTPUTS, seed=1)
    worth, score, raised = table(qk, ov)
    kept = torch.zeros_like(worth)
    place = tuple(slice(None) if token is None else token for token in fixed)
    kept[place] = worth[place]
    query, key, output = fixed
    found = skip_trigrams(qk, ov, k, query=query, key=key, output=output)
    check(found, kept, score, raised, k)
    assert all(token in (None, at) for each in found for token, at in zip(fixed, each[:3], strict=True))


@pytest.mark.parametrize("k", [1, 3, 17, 97, 1000])
def test_of_equal_ones_as_many_are_found_as_there_are(k: int):
    qk, ov = whole_numbers(QUERIES, 9), whole_numbers(9, 12)
    worth, score, raised = table(qk, ov)
    assert len(worth.unique()) < 6
    check(skip_trigrams(qk, ov, k), worth, score, raised, k)


def test_a_head_with_one_skip_trigram_has_one():
    """From 5 it looks for 3, and there it raises 2; the lookalikes below share two tokens of three with it."""
    asks, offers, reads, writes = torch.eye(QUERIES)[5], torch.eye(KEYS)[3], torch.eye(KEYS)[3], torch.eye(OUTPUTS)[2]
    qk = VocabularyCircuit(asks[:, None], 7 * offers[None])
    ov = VocabularyCircuit(reads[:, None], 3 * writes[None])
    (found,) = skip_trigrams(qk, ov, k=5)
    assert found[:3] == (5, 3, 2)
    assert found.score == pytest.approx(7 * (1 - 1 / KEYS))
    assert found.raised == pytest.approx(3 * (1 - 1 / OUTPUTS))
    assert skip_trigrams(qk, ov, k=5, query=5, key=3, output=2) == [found]
    for other in ({"query": 4}, {"key": 4}, {"output": 4}):
        assert skip_trigrams(qk, ov, k=5, **other) == []
    # What lowers, or looks away, is not worth the product of two negatives.
    away, lowers = VocabularyCircuit(-qk.A, qk.B), VocabularyCircuit(-ov.A, ov.B)
    assert (5, 3, 2) not in [each[:3] for each in skip_trigrams(away, lowers, k=1000)]


def test_two_skip_trigrams_of_one_key_come_with_their_crosses():
    """A head is factored: what does "3 … 5 → 2" and "3 … 6 → 4" does "3 … 5 → 4" and "3 … 6 → 2" as well."""
    asks, writes = torch.eye(QUERIES)[[5, 6]].sum(0), torch.eye(OUTPUTS)[[2, 4]].sum(0)
    reads = torch.eye(KEYS)[3]
    found = skip_trigrams(
        VocabularyCircuit(asks[:, None], reads[None]), VocabularyCircuit(reads[:, None], writes[None]), k=1000
    )
    assert {each[:3] for each in found} == {(5, 3, 2), (5, 3, 4), (6, 3, 2), (6, 3, 4)}


def test_a_head_that_looks_for_its_own_token_and_copies_it():
    """The query, the key and the output are one token, for every token but the first, which looks for nothing."""
    looks, _ = duplicate_token_head()
    copies, _ = copying_head()
    qk, ov = VocabularyCircuit.qk(looks, Head(0, 0)), VocabularyCircuit.ov(copies, Head(0, 0))
    found = skip_trigrams(qk, ov, k=1000)
    assert sorted(each[:3] for each in found) == [(token, token, token) for token in range(1, 13)]
    # One that lowers what it copies raises all others, each by little.
    lowers, _ = copying_head(sign=-1.0)
    found = skip_trigrams(qk, VocabularyCircuit.ov(lowers, Head(0, 0)), k=1000)
    assert {each[:3] for each in found} == {(a, a, b) for a in range(1, 13) for b in range(13) if a != b}


def test_what_all_keys_or_all_outputs_share_counts_for_nothing():
    qk, ov = circuit(QUERIES, KEYS, seed=0), circuit(KEYS, OUTPUTS, seed=1)
    shifted = [VocabularyCircuit(each.A, each.B + torch.tensor([[2.0], [-1.0], [0.5]])) for each in (qk, ov)]
    one, other = skip_trigrams(qk, ov, k=29), skip_trigrams(*shifted, k=29)
    assert [each[:3] for each in one] == [each[:3] for each in other]
    constant = VocabularyCircuit(ov.A, torch.tensor([[0.1], [0.7], [0.3]]).expand(3, OUTPUTS))
    assert skip_trigrams(qk, constant, k=5) == []
    model, _ = uniform_head()
    assert skip_trigrams(VocabularyCircuit.qk(model, Head(0, 0)), VocabularyCircuit.ov(model, Head(0, 0)), k=5) == []


def test_those_of_a_network_are_those_of_its_weights():
    model = with_random_biases(HookedTransformer(TOKENS.model))
    head = Head(0, 1)
    qk, ov = VocabularyCircuit.qk(model, head), VocabularyCircuit.ov(model, head)
    W_E, W_QK = model.W_E.detach(), (model.W_Q[head] @ model.W_K[head].T).detach()
    W_OV = (model.W_V[head] @ model.W_O[head] @ model.W_U).detach()
    whole = VocabularyCircuit(W_E @ W_QK, W_E.T), VocabularyCircuit(W_E, W_OV)
    check(skip_trigrams(qk, ov, 97), *table(*whole), 97)


def test_most_keys_are_never_looked_at(monkeypatch: pytest.MonkeyPatch, block: int):
    """One key is worth far more than the others: theirs is known from their largest entries."""
    qk, ov = circuit(QUERIES, KEYS, seed=0), circuit(KEYS, OUTPUTS, seed=1)
    ov.A[3] *= 1000
    seen: list[int] = []
    top = VocabularyCircuit.top

    def watched(self: VocabularyCircuit, tokens: Tensor, k: int) -> vocabulary.Top:
        seen.append(len(tokens))
        return top(self, tokens, k)

    monkeypatch.setattr(VocabularyCircuit, "top", watched)
    assert {each.key for each in skip_trigrams(qk, ov, k=3)} == {3}
    if block == 2:
        assert sum(seen) < 2 * KEYS


def test_wrong_arguments_are_refused():
    qk, ov = circuit(QUERIES, KEYS, seed=0), circuit(KEYS, OUTPUTS, seed=1)
    refused: dict[str, Callable[[], object]] = {
        "k: 0 is not valid; it must be at least 1": lambda: skip_trigrams(qk, ov, 0),
        "ov: it has 13 rows; it must have 11, one per key token of qk": lambda: skip_trigrams(qk, ov.T, 1),
        "query: token 7 does not exist; tokens are 0 to 6": lambda: skip_trigrams(qk, ov, 1, query=7),
        "key: token -1 does not exist; tokens are 0 to 10": lambda: skip_trigrams(qk, ov, 1, key=-1),
        "output: token 13 does not exist; tokens are 0 to 12": lambda: skip_trigrams(qk, ov, 1, output=13),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message):
            call()
