"""Circuits that are never whole give what the whole would: every answer beside brute force on small vocabularies."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import einops
import numpy as np
import pytest
import torch
from networks import gpt2_bridge, llama_bridge, with_random_biases
from torch import Tensor
from toys import NO_POSITIONS, TOKENS, VECTORS

from headway.analyze import DoesNotApplyError
from headway.analyze.measures.attention import previous_token
from headway.analyze.measures.positions import position_attention, position_pattern
from headway.analyze.measures.vocabulary import k_composition_top1, ov_top1, ov_topk, token_pair_rank
from headway.analyze.network import vocabulary
from headway.analyze.network.vocabulary import VocabularyCircuit, best_entries, shared_entries, similar_pairs
from headway.analyze.tools.subspaces import subspace_overlap as overlaps
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch
from headway.models.config import Head, ModelConfig
from headway.models.convert import Model
from headway.models.handmade import composing_pair, copying_head, low_rank_head, uniform_head
from headway.models.hooked_transformer import HookedTransformer

Network = tuple[Model, Batch]


def built(**changes) -> Network:
    """Two layers of three heads, 31 tokens: no block size below divides it."""
    given = {**TOKENS.model.as_given(), "d_vocab": 31, **changes}
    model = with_random_biases(HookedTransformer(ModelConfig(**given)))
    return model, TOKENS.task.evaluation_batch(0, 5)


def gpt2() -> Network:
    return gpt2_bridge(), RepeatedTokens(n_tokens=28, length=11, period_min=3, period_max=5).evaluation_batch(0, 5)


NETWORKS: dict[str, Callable[[], Network]] = {"ours": built, "GPT-2 bridge": gpt2}


@pytest.fixture(params=[3, 7, 1024], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(vocabulary, "BLOCK", request.param)
    return request.param


def heads_of(model: Model) -> list[Head]:
    return [Head(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]


def whole_ov(model: Model, heads: Sequence[Head]) -> Tensor:
    W_OV = sum(model.W_V[head].double() @ model.W_O[head].double() for head in heads)
    return (model.W_E.double() @ W_OV @ model.W_U.double()).detach()


def whole_qk(model: Model, head: Head) -> Tensor:
    W_E = model.W_E.double()
    return (W_E @ model.W_Q[head].double() @ model.W_K[head].double().T @ W_E.T).detach()


def whole_k_composition(model: Model, h1: Head, h2: Head) -> Tensor:
    W_E, W_OV = model.W_E.double(), model.W_V[h1].double() @ model.W_O[h1].double()
    return (W_E @ model.W_Q[h2].double() @ model.W_K[h2].double().T @ W_OV.T @ W_E.T).detach()


def in_top(whole: Tensor, k: int) -> Tensor:
    """Which tokens are among the k largest of their row, in a matrix without ties."""
    return (whole.topk(k).indices == torch.arange(len(whole))[:, None]).any(-1)


def counted(row: Sequence[float], at: int) -> float:
    """The percentile of one entry, by its definition."""
    others = [value for column, value in enumerate(row) if column != at]
    return sum(1.0 if value < row[at] else 0.5 if value == row[at] else 0.0 for value in others) / len(others)


def sawtooth(n_rows: int, n_columns: int) -> VocabularyCircuit:
    """Small whole numbers, so full of ties, in a matrix whose factors are itself and the identity."""
    values = (torch.arange(n_rows * n_columns) ** 2 % 11).float().view(n_rows, n_columns)
    return VocabularyCircuit(values, torch.eye(n_columns))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("k", [1, 5])
def test_the_share_of_hits_is_that_of_the_whole_matrix(network: str, k: int):
    model, batch = NETWORKS[network]()
    scores = ov_topk(model, batch, k)
    for head in heads_of(model):
        expected = in_top(whole_ov(model, [head]), k).float().mean().item()
        assert scores.ov_topk.sel(layer=head.layer, head=head.head).item() == pytest.approx(expected)
    assert scores.ov_topk_chance.item() == k / model.cfg.d_vocab
    if k == 1:
        assert (ov_top1(model, batch).ov_top1 == scores.ov_topk).all()


@pytest.mark.parametrize("size", [1, 2, 6])
def test_the_heads_of_a_set_add_up(size: int):
    """Six heads of width 5 have more columns than d_model = 19, and take the other way."""
    model, batch = built()
    heads = heads_of(model)[::-1][:size]
    whole = whole_ov(model, heads)
    scores = ov_topk(model, batch, k=7, heads=heads)
    assert scores.ov_topk.dims == ()
    assert scores.ov_topk.item() == pytest.approx(in_top(whole, 7).float().mean().item())
    assert VocabularyCircuit.ov(model, heads).A.shape[1] == min(5 * size, 19)
    if size == 1:
        assert ov_topk(model, batch, k=7, heads=heads[0]).equals(scores)
    ranks = token_pair_rank(model, batch, pairs=[(2, 29)], heads=heads).token_pair_rank
    assert ranks.dims == ("pair", "within")
    expected = [counted(whole[2].tolist(), 29), counted(whole[:, 29].tolist(), 2)]
    np.testing.assert_allclose(ranks.sel(pair="2 → 29"), expected, rtol=1e-6)


def test_a_tie_is_no_hit():
    """Of 4, 4, 2, 2, 2 the two 4s are each among the top 2, and the three 2s only among the top 5."""
    row = torch.tensor([4.0, 4.0, 2.0, 2.0, 2.0])
    circuit = VocabularyCircuit(torch.ones(5, 1), row[None])
    assert [circuit.hits(k).sum().item() for k in (1, 2, 3, 4, 5)] == [0, 2, 2, 2, 5]
    model, batch = uniform_head()
    assert ov_top1(model, batch).ov_top1.item() == 0


@pytest.mark.parametrize("k", [1, 2, 13])
def test_a_hit_is_reached_by_fewer_than_k_others(k: int):
    circuit = sawtooth(23, 23)
    values = circuit.A
    others = (values >= values.diagonal()[:, None]).sum(1) - 1
    assert circuit.hits(k).tolist() == (others < k).tolist()


def test_a_token_is_compared_within_its_own_block():
    """Its own entry computed apart is off by a rounding: too small to be the maximum, too large to be its own rival."""
    directions = torch.randn(211, 67, generator=torch.Generator().manual_seed(0))
    directions /= directions.norm(dim=1, keepdim=True)
    best = VocabularyCircuit(directions, directions.T)
    # Each token's entry with the next is larger by far.
    second = VocabularyCircuit(directions, directions.T + 2 * directions.T.roll(1, dims=1))
    for circuit in (best, second):
        apart = einops.einsum(circuit.A, circuit.B, "row rank, rank row -> row")
        together = circuit.rows(torch.arange(211)).diagonal()
        assert (apart < together).any()
        assert (apart > together).any()
    assert best.hits(1).all()
    assert not second.hits(1).any()


@pytest.mark.parametrize("shape", [(23, 23), (5, 17), (17, 5), (1, 2)])
def test_blocks_tile_the_matrix(shape: tuple[int, int], block: int):
    circuit = sawtooth(*shape)
    found = torch.full(shape, torch.nan)
    started: set[int] = set()
    for rows, columns, values in circuit.blocks():
        assert values.numel() <= block**2
        assert found[rows, columns].isnan().all()
        found[rows, columns] = values
        # The block on the diagonal comes before the others of its rows.
        assert rows.start in started or rows == columns or rows.start >= shape[1] or rows.stop != columns.stop
        started.add(rows.start)
    assert torch.equal(found, circuit.A)


@pytest.mark.parametrize("shape", [(23, 23), (5, 17), (17, 5)])
def test_ties_count_half_in_percentiles(shape: tuple[int, int]):
    circuit = sawtooth(*shape)
    rows, columns = (place.flatten() for place in torch.meshgrid(*map(torch.arange, shape), indexing="ij"))
    within_rows, within_columns = circuit.percentiles(rows, columns), circuit.T.percentiles(columns, rows)
    for row, column, a, b in zip(rows, columns, within_rows, within_columns, strict=True):
        assert a.item() == pytest.approx(counted(circuit.A[row].tolist(), int(column)))
        assert b.item() == pytest.approx(counted(circuit.A[:, column].tolist(), int(row)))
    # Every entry of a row by turns: half of the others are smaller, on average.
    assert within_rows.mean().item() == pytest.approx(0.5)


@pytest.mark.parametrize("shape", [(23, 23), (5, 17), (17, 5), (3, 1)])
def test_equal_entries_share_the_best_place(shape: tuple[int, int]):
    circuit = sawtooth(*shape)
    rows, columns = (place.flatten() for place in torch.meshgrid(*map(torch.arange, shape), indexing="ij"))
    within_rows, within_columns = circuit.ranks(rows, columns), circuit.T.ranks(columns, rows)
    for row, column, a, b in zip(rows, columns, within_rows, within_columns, strict=True):
        assert a == sorted(circuit.A[row].tolist(), reverse=True).index(circuit.A[row, column].item()) + 1
        assert b == sorted(circuit.A[:, column].tolist(), reverse=True).index(circuit.A[row, column].item()) + 1


def test_a_percentile_is_a_place_counted_from_the_other_end():
    circuit = VocabularyCircuit(torch.ones(1, 1), torch.randn(1, 23, generator=torch.Generator().manual_seed(0)))
    row, columns = torch.zeros(23, dtype=torch.long), torch.arange(23)
    places = circuit.ranks(row, columns)
    assert places.sort().values.tolist() == list(range(1, 24))
    torch.testing.assert_close(circuit.percentiles(row, columns), 1 - (places - 1) / 22)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_softmax_is_that_of_the_whole_row(network: str):
    model, _ = NETWORKS[network]()
    circuit, whole = VocabularyCircuit.qk(model, Head(1, 2)), whole_qk(model, Head(1, 2))
    rows, columns = torch.tensor([2, 3, 2, 28, 0]), torch.tensor([3, 3, 11, 28, 0])
    for found, expected in (
        (circuit.softmax(rows, columns), whole.softmax(1)[rows, columns]),
        (circuit.T.softmax(columns, rows), whole.softmax(0)[rows, columns]),
    ):
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-7)
    everywhere = torch.arange(circuit.shape[1])
    assert circuit.softmax(torch.full_like(everywhere, 5), everywhere).sum().item() == pytest.approx(1)


def test_entries_whose_exponentials_are_infinite_have_a_softmax():
    circuit = VocabularyCircuit(torch.tensor([[1000.0]]), torch.tensor([[1.0, 1.0, -1.0, 0.0, 0.5]]))
    rows, columns = torch.zeros(5, dtype=torch.long), torch.arange(5)
    assert circuit.softmax(rows, columns).tolist() == [0.5, 0.5, 0, 0, 0]


@pytest.mark.parametrize("k", [1, 13, 97])
def test_shared_entries_are_those_in_both_of_those_in_either(k: int):
    shape = (23, 29)
    a, b = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    b = a + b
    one, other = (VocabularyCircuit(each, torch.eye(29)) for each in (a, b))
    places = [set(each.flatten().topk(k).indices.tolist()) for each in (a, b)]
    # Sizes play no part.
    shared = shared_entries([one, other, VocabularyCircuit(7 * a, torch.eye(29))], k)
    assert shared[0, 1].item() == pytest.approx(len(places[0] & places[1]) / len(places[0] | places[1]))
    assert shared.diagonal().tolist() == [1, 1, 1]
    assert shared[0, 2] == 1
    assert torch.equal(shared, shared.T)
    assert torch.equal(shared[:2, :2], shared_entries([one.T, other.T], k))
    # Of all places all are shared.
    assert bool((shared_entries([one, other], 23 * 29) == 1).all())


def test_places_drawn_at_random_share_what_they_should():
    n, k = 23 * 29, 211

    def drawn(seed: int) -> VocabularyCircuit:
        return VocabularyCircuit(torch.randn(23, 29, generator=torch.Generator().manual_seed(seed)), torch.eye(29))

    shared = np.mean([shared_entries([drawn(seed), drawn(1000 + seed)], k)[0, 1].item() for seed in range(31)])
    assert shared == pytest.approx(k / (2 * n - k), rel=0.05)


def subspace(d_model: int, rank: int, seed: int) -> Tensor:
    return torch.randn(d_model, rank, generator=torch.Generator().manual_seed(seed))


def subspace_overlap(A: Tensor, B: Tensor) -> float:
    """That of two, which is the same from either side; each is in itself."""
    found = overlaps([A, B])
    assert found[0, 1] == pytest.approx(found[1, 0].item(), rel=1e-12)
    assert found.diagonal().tolist() == pytest.approx([1, 1])
    return found[0, 1].item()


def test_an_overlap_is_the_mean_squared_cosine_of_the_angles():
    """Two planes that share no direction, the second turned out of the first by two angles."""
    Q = torch.linalg.qr(subspace(19, 19, seed=0)).Q
    angles = torch.tensor([0.3, 1.1])
    A, B = Q[:, :2], Q[:, :2] * angles.cos() + Q[:, 2:4] * angles.sin()
    expected = angles.cos().square().mean().item()
    assert subspace_overlap(A, B) == pytest.approx(expected, rel=1e-5)
    # Which vectors span a subspace is no matter, nor how many of them, nor how the whole is turned.
    spanning = subspace(2, 5, seed=1)
    assert subspace_overlap(A @ spanning, 1e-5 * B @ subspace(2, 31, seed=2)) == pytest.approx(expected, rel=1e-4)
    assert subspace_overlap(Q @ A, Q @ B) == pytest.approx(expected, rel=1e-5)


def test_the_ends_of_the_overlap():
    A = subspace(19, 5, seed=0)
    assert subspace_overlap(A, A @ subspace(5, 3, seed=1)) == pytest.approx(1)
    Q = torch.linalg.qr(subspace(19, 19, seed=2)).Q
    assert subspace_overlap(Q[:, :5], Q[:, 5:]) == pytest.approx(0, abs=1e-12)
    assert subspace_overlap(A, Q) == pytest.approx(1)
    nothing = overlaps([A, torch.zeros(19, 3), A])
    assert nothing.isnan().tolist() == [[False, True, False], [True, True, True], [False, True, False]]


def test_random_subspaces_overlap_by_the_larger_rank():
    found = [subspace_overlap(subspace(19, 3, seed), subspace(19, 7, 1000 + seed)) for seed in range(401)]
    assert np.mean(found) == pytest.approx(7 / 19, abs=4 * np.std(found) / 401**0.5)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("circuit", ["OV", "QK"])
def test_pairs_rank_as_in_the_whole_matrix(network: str, circuit: vocabulary.Circuit):
    model, batch = NETWORKS[network]()
    pairs = [(2, 3), (3, 2), (11, 0), (28, 28)]
    ranks = token_pair_rank(model, batch, pairs, circuit).token_pair_rank
    assert ranks.pair.values.tolist() == ["2 → 3", "3 → 2", "11 → 0", "28 → 28"]
    for head in heads_of(model):
        whole = whole_ov(model, [head]) if circuit == "OV" else whole_qk(model, head)
        for row, column in pairs:
            found = ranks.sel(layer=head.layer, head=head.head, pair=f"{row} → {column}")
            expected = counted(whole[row].tolist(), column), counted(whole[:, column].tolist(), row)
            np.testing.assert_allclose([found.sel(within="row"), found.sel(within="column")], expected, rtol=1e-6)


def test_without_pairs_each_token_of_the_batch_is_ranked_with_itself():
    model, batch = built()
    tokens = sorted({token for row in batch.inputs.tolist() for token in row})
    ranks = token_pair_rank(model, batch).token_pair_rank
    assert ranks.pair.values.tolist() == [f"{token} → {token}" for token in tokens]
    given = token_pair_rank(model, batch, pairs=[(token, token) for token in tokens]).token_pair_rank
    assert (ranks == given).all()


@pytest.mark.parametrize("network", NETWORKS)
def test_matches_by_k_composition_are_those_of_the_whole_matrix(network: str):
    model, batch = NETWORKS[network]()
    scores = k_composition_top1(model, batch)
    for h1 in heads_of(model):
        for h2 in heads_of(model):
            found = scores.k_composition_top1.sel(
                from_layer=h1.layer, from_head=h1.head, to_layer=h2.layer, to_head=h2.head
            )
            if h1.layer >= h2.layer:
                assert found.isnull().all()
                continue
            whole = whole_k_composition(model, h1, h2)
            expected = [in_top(matrix, 1).float().mean().item() for matrix in (whole, whole.T)]
            np.testing.assert_allclose([found.sel(best="key"), found.sel(best="query")], expected, rtol=1e-6)
    assert scores.k_composition_top1_chance.item() == 1 / model.cfg.d_vocab


def test_the_best_key_and_the_best_query_are_not_the_same():
    """When every query looks for one key most, one token finds its own key, and all are found by their own query."""
    model, batch = composing_pair("k")
    with torch.no_grad():
        # h1 writes token 3 ten times as large, and a little of it with every other token.
        model.blocks[0].attn.W_V[0, 3] *= 10
        model.blocks[0].attn.W_V[0, 3, :13] += 2
    pair = k_composition_top1(model, batch).k_composition_top1.sel(from_layer=0, from_head=0, to_layer=1, to_head=1)
    assert pair.sel(best="key").item() == pytest.approx(1 / 13)
    assert pair.sel(best="query").item() == 1


@pytest.mark.parametrize(("kind", "expected"), [("k", 1.0), ("q", 0.0), ("v", 0.0)])
def test_only_the_right_orientation_finds_the_induction_circuit(kind: str, expected: float):
    """Any transpose left out or put in gives exactly zero there."""
    model, batch = composing_pair(kind)  # pyright: ignore[reportArgumentType]
    score = k_composition_top1(model, batch).k_composition_top1
    assert (score.sel(from_layer=0, from_head=0, to_layer=1, to_head=1) == expected).all()
    assert (score.sel(from_layer=0, from_head=1, to_layer=1, to_head=1) == 0).all()
    circuit = VocabularyCircuit.k_composition(model, Head(0, 0), Head(1, 1))
    whole = whole_k_composition(model, Head(0, 0), Head(1, 1)).float()
    torch.testing.assert_close(circuit.rows(torch.arange(13)), whole)


def test_rows_are_queries_and_input_tokens():
    model, _ = built()
    tokens = torch.tensor([7, 0, 30])
    torch.testing.assert_close(
        VocabularyCircuit.qk(model, Head(1, 2)).rows(tokens), whole_qk(model, Head(1, 2))[tokens].float()
    )
    torch.testing.assert_close(
        VocabularyCircuit.ov(model, [Head(1, 2)]).T.rows(tokens), whole_ov(model, [Head(1, 2)]).T[tokens].float()
    )


def test_the_largest_entries_are_those_of_the_whole_matrix():
    model, _ = built()
    heads = [Head(0, 1), Head(1, 2)]
    whole = whole_ov(model, heads)
    tokens = torch.tensor([29, 3, 3])
    top = VocabularyCircuit.ov(model, heads).top(tokens, k=5)
    assert top.columns.tolist() == whole[tokens].topk(5).indices.tolist()
    torch.testing.assert_close(top.values, whole[tokens].topk(5).values.float())
    for k in (1, 19, whole.numel()):
        best = best_entries(model, k, heads=heads)
        expected = whole.flatten().topk(k)
        assert [31 * entry.row + entry.column for entry in best] == expected.indices.tolist()
        np.testing.assert_allclose([entry.value for entry in best], expected.values.tolist(), rtol=1e-3, atol=1e-4)
    entry = best_entries(model, 1, "QK", heads=[Head(0, 1)])[0]
    assert entry.value == pytest.approx(whole_qk(model, Head(0, 1)).max().item(), rel=1e-4)


def test_of_equal_entries_as_many_are_kept_as_asked_for():
    circuit = sawtooth(17, 23)
    for k in (1, 7, 100):
        best = circuit.best(k)
        assert len({(entry.row, entry.column) for entry in best}) == k
        assert all(circuit.A[entry.row, entry.column] == entry.value for entry in best)
        assert [entry.value for entry in best] == circuit.A.flatten().topk(k).values.tolist()


def test_more_outputs_than_inputs():
    """A circuit need not be square, but then nothing is its own output."""
    model, batch = built(d_vocab_out=37)
    whole = whole_ov(model, [Head(0, 0)])
    circuit = VocabularyCircuit.ov(model, [Head(0, 0)])
    assert circuit.shape == (31, 37)
    assert circuit.best(1)[0].value == pytest.approx(whole.max().item(), rel=1e-5)
    ranks = token_pair_rank(model, batch, pairs=[(30, 36)]).token_pair_rank.sel(layer=0, head=0, pair="30 → 36")
    np.testing.assert_allclose(ranks, [counted(whole[30].tolist(), 36), counted(whole[:, 36].tolist(), 30)], rtol=1e-6)
    with pytest.raises(ValueError, match="31 rows and 37 columns"):
        circuit.hits(1)
    for measure in (ov_top1, ov_topk, token_pair_rank):
        with pytest.raises(DoesNotApplyError, match="31 and 37"):
            measure(model, batch)


def test_a_head_that_copies_some_tokens():
    """Eigenvalues 3, 2 and -1 of three tokens, and nothing for the other ten: two are copied, and one is avoided."""
    model, batch = low_rank_head()
    assert ov_top1(model, batch).ov_top1.item() == pytest.approx(2 / 13)
    # The avoided token's own entry is the smallest of its row; those of the ten are as large as all others.
    assert ov_topk(model, batch, k=12).ov_topk.item() == pytest.approx(2 / 13)
    row = token_pair_rank(model, batch, pairs=[(0, 0), (2, 2), (5, 5)]).token_pair_rank.sel(within="row")
    assert row.values.flatten().tolist() == [1, 0, 0.5]


@pytest.mark.parametrize(
    "changes", [{}, {"positional_embedding_type": "shortformer"}, {"attention_dir": "bidirectional"}]
)
def test_attention_to_positions_is_that_of_a_network_without_tokens(changes: dict[str, str]):
    """With embeddings of zero and no biases, positions are all that the first layer sees."""
    model, batch = built(normalization_type=None, **changes)
    with torch.no_grad():
        model.W_E.zero_()
        for name in ("b_Q", "b_K"):
            getattr(model.blocks[0].attn, name).zero_()
        whole = batch._replace(inputs=torch.zeros(1, model.cfg.n_ctx, dtype=torch.long))
        patterns = model.run_with_cache(whole.inputs)[1]["pattern", 0][0]
    for head, pattern in enumerate(patterns):
        torch.testing.assert_close(position_attention(model, Head(0, head)).float(), pattern)
    scores, real = position_pattern(model, batch), previous_token(model, whole)
    np.testing.assert_allclose(scores.position_pattern[0], real.previous_token[0], rtol=1e-5)
    assert scores.position_pattern_chance.item() == pytest.approx(real.previous_token_chance.item())


def test_positions_of_a_bridge():
    model, batch = gpt2()
    scores = position_pattern(model, batch).position_pattern
    n_ctx, head = model.cfg.n_ctx, Head(1, 3)
    pos, W_Q, W_K = model.pos_embed.W_pos.detach(), model.W_Q[head].detach(), model.W_K[head].detach()
    attention = (
        pos @ W_Q @ W_K.T @ pos.T / W_Q.shape[1] ** 0.5 + torch.full((n_ctx, n_ctx), -torch.inf).triu(1)
    ).softmax(1)
    assert scores.sel(layer=1, head=3).item() == pytest.approx(
        attention.diagonal(-1).sum().item() / (n_ctx - 1), rel=1e-5
    )


def test_grouped_heads_have_circuits_of_outputs_alone():
    """Llama's values are shared by two heads each; its rotary keys have no circuit."""
    model, (_, batch) = llama_bridge(), gpt2()
    W_V, W_E, W_U = (getattr(model, name).detach() for name in ("W_V", "W_E", "W_U"))
    whole = W_E @ W_V[1, 2 // 2] @ model.W_O[1, 2].detach() @ W_U
    torch.testing.assert_close(VocabularyCircuit.ov(model, [Head(1, 2)]).rows(torch.arange(29)), whole)
    assert ov_top1(model, batch).ov_top1.shape == (2, 4)
    for refused in (
        lambda: token_pair_rank(model, batch, circuit="QK"),
        lambda: k_composition_top1(model, batch),
        lambda: position_pattern(model, batch),
        lambda: VocabularyCircuit.qk(model, Head(0, 0)),
        lambda: VocabularyCircuit.k_composition(model, Head(0, 0), Head(1, 0)),
        lambda: best_entries(model, 1, "QK", heads=[Head(0, 0)]),
        lambda: position_attention(model, Head(0, 0)),
    ):
        with pytest.raises(DoesNotApplyError, match="rotary"):
            refused()


def test_what_has_no_meaning_does_not_apply():
    vectors = HookedTransformer(VECTORS.model), VECTORS.task.evaluation_batch(0, 5)
    for measure in (ov_top1, ov_topk, token_pair_rank, k_composition_top1):
        with pytest.raises(DoesNotApplyError, match=f"{measure.__name__} needs tokens"):
            measure(*vectors)
    assert position_pattern(*vectors).position_pattern.shape == (2, 3)
    with pytest.raises(DoesNotApplyError, match="1 layer"):
        k_composition_top1(*copying_head())
    none = HookedTransformer(NO_POSITIONS.model), NO_POSITIONS.task.evaluation_batch(0, 5)
    with pytest.raises(DoesNotApplyError, match="this network has none"):
        position_pattern(*none)
    zeros = HookedTransformer(replace(TOKENS.model, initializer_range=0.0))
    with pytest.raises(DoesNotApplyError, match="all zeros"):
        position_pattern(zeros, none[1])
    with pytest.raises(DoesNotApplyError, match="at least 2 positions"):
        position_pattern(HookedTransformer(replace(TOKENS.model, n_ctx=1)), none[1])


def test_wrong_arguments_are_refused():
    model, batch = built()
    circuit = VocabularyCircuit.ov(model, [Head(0, 0)])
    some = torch.tensor([0, 31])
    fewer = circuit.renamed(torch.arange(30))
    refused: dict[str, Callable[[], object]] = {
        r"k: 0 is not valid; it must be 1 to 31": lambda: ov_topk(model, batch, k=0),
        r"k: 32 is not valid": lambda: ov_topk(model, batch, k=32),
        r"k: 962 is not valid; it must be 1 to 961": lambda: circuit.best(962),
        r"heads: \[\]": lambda: ov_top1(model, batch, heads=[]),
        r"heads: \[L0H1, L0H1\]": lambda: ov_top1(model, batch, heads=[Head(0, 1), Head(0, 1)]),
        r"head: L2H0 does not exist": lambda: ov_topk(model, batch, heads=[Head(2, 0)]),
        r"heads: L0H0, L0H1 are 2": lambda: best_entries(model, 1, "QK", heads=[Head(0, 0), Head(0, 1)]),
        r"h1: L1H0 is not valid; .* earlier layer": lambda: VocabularyCircuit.k_composition(
            model, Head(1, 0), Head(1, 1)
        ),
        r"pairs: \[\]": lambda: token_pair_rank(model, batch, pairs=[]),
        r"tokens: 31 does not exist; these are 0 to 30": lambda: token_pair_rank(model, batch, pairs=[(0, 31)]),
        r"tokens: 31": lambda: circuit.rows(some),
        r"tokens: 31 does": lambda: circuit.top(some, 1),
        r"tokens: 31 does not": lambda: circuit.ranks(some, some),
        r"tokens: 31 does not exist": lambda: circuit.softmax(some, some),
        r"circuits: 1 has the shape \(31, 30\)": lambda: shared_entries([circuit, fewer], 1),
        r"k: 0 is not valid; it must be 1 to 961": lambda: shared_entries([circuit, circuit], 0),
        r"spaces: matrix 1 has 7 rows; it must have as many as matrix 0, 5": lambda: overlaps(
            [torch.eye(5), torch.eye(7)]
        ),
        r"spaces: matrix 1 has values that are NaN or infinite": lambda: overlaps([torch.eye(5), torch.eye(5) / 0]),
        r"NaN or infinite": lambda: ov_top1(diverged, batch),
    }
    diverged, _ = built()
    with torch.no_grad():
        diverged.W_U[3, 5] = torch.nan
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_nothing_is_changed_and_nothing_global_is_drawn():
    model, batch = built()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    for measure in (ov_top1, ov_topk, token_pair_rank, k_composition_top1, position_pattern):
        assert measure(model, batch)[measure.__name__].attrs == {"layer_norm": "weights left out"}
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("network", NETWORKS)
def test_renamed_columns_are_asked_in_the_place_of_a_token_s_own(network: str):
    model, _ = NETWORKS[network]()
    circuit = VocabularyCircuit.ov(model, Head(1, 2))
    whole = circuit.A @ circuit.B
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    renamed = circuit.renamed(order)
    torch.testing.assert_close(renamed.rows(torch.arange(len(whole))), whole[:, order], rtol=1e-4, atol=1e-6)
    # A token is a hit if what it is renamed to is the largest of its row.
    assert torch.equal(renamed.hits(1), whole.argmax(1) == order)
    with pytest.raises(ValueError, match=f"tokens: {len(whole)} does not exist"):
        circuit.renamed(order + 1)
    # Columns are as many as there are outputs, of which there may be fewer than rows.
    fewer = circuit.renamed(order[:7])
    assert torch.equal(
        fewer.renamed(torch.arange(7).flip(0)).rows(torch.arange(3)), fewer.rows(torch.arange(3)).flip(1)
    )
    with pytest.raises(ValueError, match="tokens: 7 does not exist; these are 0 to 6"):
        fewer.renamed(torch.tensor([7]))


def test_similar_pairs_are_each_other_s_nearest():
    model, _ = built()
    tokens = torch.arange(2, 31)
    directions = model.W_E[tokens].detach() - model.W_E[tokens].detach().mean(0)
    cosine = torch.nn.functional.cosine_similarity(directions[:, None], directions[None], dim=-1).fill_diagonal_(-2)
    expected = {}
    for i, j in enumerate(cosine.argmax(1).tolist()):
        if i < j and cosine[j].argmax() == i:
            expected[i + 2, j + 2] = cosine[i, j].item()
    assert similar_pairs(model, tokens) == sorted(expected, key=lambda pair: -expected[pair])
    assert len(expected) > 3
    # Those with the very same embedding are the nearest there can be.
    with torch.no_grad():
        model.W_E[17] = model.W_E[5]
    assert similar_pairs(model, tokens)[0] == (5, 17)
    for few in ([], [3]):
        with pytest.raises(ValueError, match="there must be at least 2"):
            similar_pairs(model, torch.tensor(few, dtype=torch.long))
