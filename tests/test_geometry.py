"""Geometry of networks over vectors: closed forms, brute force, and nulls that come out of random draws."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import D_VOCAB, gpt2_bridge, with_random_biases
from toys import TOKENS, VECTORS
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import GPT2Config, GPT2LMHeadModel

from headway.analyze import DoesNotApplyError
from headway.analyze.measures.geometry import linearity, outside_embedding
from headway.analyze.tools.similar_vector import similar_vector
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch
from headway.models.convert import Model
from headway.models.handmade import copying_head, linear_network, previous_token_head, uniform_head
from headway.models.hooked_transformer import HookedTransformer

ENTRIES, D_MODEL = 7, 19
BATCH = VECTORS.task.evaluation_batch(0, 11)


def random_network(seed: int = 0, **changes) -> HookedTransformer:
    return HookedTransformer(replace(VECTORS.model, initializer_range=1.0, **changes), seed=seed).eval()


@pytest.mark.parametrize("inputs", ["data", "isotropic"])
def test_a_circuit_that_scales_and_shifts_is_a_line(inputs: str):
    """x (a I + c 11.T) = a x + c sum(x): slope a, and one intercept for each vector."""
    a, c = -3.0, 0.5
    circuit = a * torch.eye(ENTRIES) + c * torch.ones(ENTRIES, ENTRIES)
    scores = linearity(linear_network(circuit)[0], BATCH).sel(inputs=inputs, layer=0)
    assert scores.linearity.item() == pytest.approx(1, abs=1e-4)
    assert scores.linearity_slope.item() == pytest.approx(a, rel=1e-4)
    if inputs == "data":
        expected = c * BATCH.inputs[BATCH.mask].sum(-1).mean().item()
        assert scores.linearity_intercept.item() == pytest.approx(expected, rel=1e-4)


def test_the_last_head_of_a_layer_counts_too():
    """Here it is the only one that does anything."""
    scores = linearity(linear_network(2 * torch.eye(ENTRIES), heads=3)[0], BATCH)
    assert scores.linearity_slope.values == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("normalization", ["LN", None])
def test_linearity_is_the_mean_of_regressions_of_single_vectors(normalization: str | None):
    model = random_network(normalization_type=normalization)
    scores = linearity(model, BATCH).sel(inputs="data")
    for layer in range(2):
        W_OV = sum(model.W_V[layer, head] @ model.W_O[layer, head] for head in range(3))
        circuit = (model.W_E @ W_OV @ model.W_U).detach().double().numpy()
        lines = []
        for x in BATCH.inputs[BATCH.mask].double().numpy():
            slope, intercept = np.polyfit(x, x @ circuit, 1)
            lines.append((np.corrcoef(x, x @ circuit)[0, 1] ** 2, slope, intercept))
        r_squared, slope, intercept = np.mean(lines, axis=0)
        found = scores.sel(layer=layer)
        assert found.linearity.item() == pytest.approx(r_squared, rel=1e-3)
        assert found.linearity_slope.item() == pytest.approx(slope, rel=1e-3)
        assert found.linearity_intercept.item() == pytest.approx(intercept, rel=1e-3)


def test_the_null_is_the_mean_of_isotropic_vectors_through_random_circuits():
    """W_U is Gaussian, so the image of a vector points anywhere alike: R² is Beta(1/2, (n-2)/2), of mean 1/(n-1)."""
    draws = [linearity(random_network(seed), BATCH) for seed in range(150)]
    means = np.array([each.linearity.sel(inputs="isotropic").mean() for each in draws])
    null = draws[0].linearity_null.item()
    assert null == pytest.approx(1 / (ENTRIES - 1))
    assert abs(means.mean() - null) < 4 * means.std() / math.sqrt(len(means))
    assert 4 * means.std() / math.sqrt(len(means)) < 0.1 * null


def test_isotropic_vectors_are_normal():
    """A circuit of ones puts sum(x) everywhere: that is the intercept, of mean 0, and n/2 if x were uniform."""
    batch = VECTORS.task.evaluation_batch(0, 499)
    scores = linearity(linear_network(torch.ones(ENTRIES, ENTRIES))[0], batch).sel(inputs="isotropic", layer=0)
    spread = math.sqrt(ENTRIES / int(batch.mask.sum()))  # the standard deviation of a mean of sums of 7 normal numbers
    assert abs(scores.linearity_intercept.item()) < 4 * spread


def test_linearity_looks_at_the_positions_that_count():
    model = random_network()
    mask = torch.zeros_like(BATCH.mask)
    mask[3:5, 2] = True
    few = BATCH._replace(mask=mask)
    noisy = BATCH.inputs.clone()
    noisy[~mask] = 13.0
    assert linearity(model, few).equals(linearity(model, few._replace(inputs=noisy)))
    assert not linearity(model, few).equals(linearity(model, BATCH))


def test_what_has_no_line_has_no_r_squared():
    zero = linearity(linear_network(torch.zeros(ENTRIES, ENTRIES))[0], BATCH)
    assert zero.linearity.isnull().all()
    assert (zero.linearity_slope == 0).all()
    constant = BATCH.inputs.clone()
    constant[0] = 1.0  # entries that are all equal: a point, through which every line goes
    model = random_network()
    rest = BATCH._replace(mask=BATCH.mask & (torch.arange(len(constant)) > 0)[:, None])
    with_points = linearity(model, BATCH._replace(inputs=constant)).sel(inputs="data")
    np.testing.assert_allclose(with_points.linearity, linearity(model, rest).linearity.sel(inputs="data"), rtol=1e-5)


def test_where_linearity_has_no_meaning_it_says_so():
    with pytest.raises(DoesNotApplyError, match="linearity needs vectors; this batch has tokens"):
        linearity(*copying_head())
    with pytest.raises(DoesNotApplyError, match="as many outputs as inputs; this network has 7 and 5"):
        linearity(random_network(d_vocab_out=5), BATCH)
    with pytest.raises(DoesNotApplyError, match="at least 3 entries; these have 2"):
        linearity(random_network(d_vocab=2, d_vocab_out=2), BATCH._replace(inputs=BATCH.inputs[..., :2]))


def small_vocabulary_bridge() -> tuple[Model, Batch]:
    """A bridge whose embedding leaves some of the residual stream empty."""
    config = GPT2Config(n_layer=2, n_embd=20, n_head=4, n_positions=17, vocab_size=13, n_inner=23)
    model = build_bridge_from_module(GPT2LMHeadModel(config).eval(), "GPT2LMHeadModel", hf_config=config)
    return model.eval(), RepeatedTokens(12, 17, 5, 7).evaluation_batch(0, 7)


def tokens_network(**changes) -> tuple[Model, Batch]:
    model = HookedTransformer(replace(TOKENS.model, initializer_range=0.3, **changes))
    return with_random_biases(model), TOKENS.task.evaluation_batch(0, 7)


@pytest.mark.parametrize(
    "network",
    [
        lambda: (with_random_biases(random_network()), BATCH),
        lambda: (with_random_biases(random_network(attn_only=True, normalization_type=None)), BATCH),
        tokens_network,
        lambda: tokens_network(positional_embedding_type="shortformer"),
        small_vocabulary_bridge,
    ],
    ids=["vectors", "vectors, attention only", "tokens", "shortformer", "bridge"],
)
def test_outside_embedding_is_what_least_squares_cannot_reach(network):
    model, batch = network()
    shares = outside_embedding(model, batch).outside_embedding
    with torch.no_grad():
        cache = model.run_with_cache(batch.inputs, return_cache_object=False)[1]
        for layer in range(model.cfg.n_layers):
            added = cache[f"blocks.{layer}.hook_resid_post"] - cache[f"blocks.{layer}.hook_resid_pre"]
            d = added[batch.mask].double()
            rows = model.W_E.double().mT
            rest = d.mT - rows @ torch.linalg.lstsq(rows, d.mT).solution
            expected = (rest.norm(dim=0) / d.norm(dim=1)).mean().item()
            assert shares.sel(layer=layer).item() == pytest.approx(expected, rel=1e-4)


def test_heads_by_hand_write_inside_or_outside():
    assert outside_embedding(*copying_head()).outside_embedding.item() == pytest.approx(0, abs=1e-6)
    assert outside_embedding(*previous_token_head()).outside_embedding.item() == pytest.approx(1, abs=1e-6)
    assert outside_embedding(*uniform_head()).outside_embedding.isnull().all()


@torch.no_grad()
def test_a_layer_that_writes_both_ways_has_the_share_of_its_length():
    model, _ = linear_network(3 * torch.eye(ENTRIES))
    model.blocks[0].attn.W_O[-1, :, ENTRIES : 2 * ENTRIES] = 4 * torch.eye(ENTRIES)
    assert outside_embedding(model, BATCH).outside_embedding.item() == pytest.approx(4 / 5, rel=1e-5)


@torch.no_grad()
def test_the_rank_of_the_embedding_is_what_counts():
    model = random_network()
    model.W_E[0] = model.W_E[1] + model.W_E[2]
    expected = math.sqrt((D_MODEL - (ENTRIES - 1)) / D_MODEL)
    assert outside_embedding(model, BATCH).outside_embedding_null.item() == pytest.approx(expected)


def test_the_null_is_the_root_mean_square_of_isotropic_writing():
    """At the sizes of the affine network, 128 and 40."""
    config = replace(VECTORS.model, n_layers=1, d_model=128, d_vocab=40, d_vocab_out=40, attn_only=True)
    model = HookedTransformer(replace(config, initializer_range=1.0)).eval()
    batch = replace(VECTORS.task, d_vector=40).evaluation_batch(0, 3)
    null = outside_embedding(model, batch).outside_embedding_null.item()
    assert null == pytest.approx(0.829, abs=5e-4)
    W_E = model.W_E.detach().double()
    outside = torch.eye(128).double() - torch.linalg.pinv(W_E) @ W_E
    d = torch.randn(2003, 128, generator=torch.Generator().manual_seed(0)).double()
    squares = ((d @ outside).norm(dim=-1) / d.norm(dim=-1)) ** 2
    assert abs(squares.mean().item() - null**2) < 4 * squares.std().item() / math.sqrt(len(d))


def test_an_embedding_that_fills_the_residual_stream_leaves_nothing_outside():
    task = RepeatedTokens(n_tokens=D_VOCAB - 1, length=17, period_min=5, period_max=7)
    with pytest.raises(DoesNotApplyError, match="of lower rank than d_model; this network's has rank 20"):
        outside_embedding(gpt2_bridge(), task.evaluation_batch(0, 7))


UNIT = BATCH._replace(inputs=torch.nn.functional.normalize(BATCH.inputs, dim=-1))
SHARP = 40.0


@torch.no_grad()
def looks_for_vectors(sharpness: float, to_self: float = 0.0, before: float = 0.0) -> HookedTransformer:
    """One head whose scores are ``sharpness`` times x_q x_k, ``to_self`` more at k = q, and ``before`` at k = q - 1."""
    length = VECTORS.task.n_ctx
    config = replace(VECTORS.model, n_layers=1, n_heads=1, d_head=31, attn_only=True, initializer_range=0.0)
    model = HookedTransformer(replace(config, normalization_type=None)).eval()
    model.W_E[:, :ENTRIES] = torch.eye(ENTRIES)
    model.W_pos[:, ENTRIES : ENTRIES + length] = torch.eye(length)
    attention, scale = model.blocks[0].attn, math.sqrt(31)
    attention.W_Q[0, :ENTRIES, :ENTRIES] = sharpness * scale * torch.eye(ENTRIES)
    attention.W_K[0, :ENTRIES, :ENTRIES] = torch.eye(ENTRIES)
    wanted = to_self * torch.eye(length) + before * torch.eye(length).roll(-1, 1).tril()
    attention.W_Q[0, ENTRIES : ENTRIES + length, ENTRIES : ENTRIES + length] = scale * wanted
    attention.W_K[0, ENTRIES : ENTRIES + length, ENTRIES : ENTRIES + length] = torch.eye(length)
    return model


def similarity(model: HookedTransformer, batch: Batch) -> float:
    return similar_vector(model, batch).similar_vector.item()


def test_uniform_attention_looks_for_nothing():
    assert similarity(linear_network(torch.eye(ENTRIES))[0], BATCH) == pytest.approx(0, abs=1e-6)
    assert similarity(looks_for_vectors(0.0), BATCH) == pytest.approx(0, abs=1e-6)
    # What a head writes and how long the vectors are play no part in it.
    longer = BATCH._replace(inputs=BATCH.inputs * torch.arange(1.0, 12.0)[:, None])
    assert similarity(looks_for_vectors(0.0), longer) == pytest.approx(0, abs=1e-6)


def test_a_head_that_matches_directions_looks_for_similar_vectors():
    ascending = [similarity(looks_for_vectors(sharpness), UNIT) for sharpness in (-SHARP, -1.0, 0.0, 1.0, SHARP)]
    assert ascending == sorted(ascending)
    assert len(set(ascending)) == 5
    assert 0.95 < ascending[-1] <= 1
    assert ascending[0] < -0.5


@pytest.mark.parametrize("sharpness", [SHARP, 3.0, 0.0, -3.0])
def test_attention_to_the_current_vector_does_not_count(sharpness: float):
    """A score e^-7 to e^7 times as large at k = q leaves the shares of the earlier keys as they are."""
    plain = similarity(looks_for_vectors(sharpness), UNIT)
    for to_self in (-7.0, 2.0, 7.0):
        model = looks_for_vectors(sharpness, to_self)
        assert similarity(model, UNIT) == pytest.approx(plain, abs=1e-4)
    there = model.run_with_cache(UNIT.inputs)[1]["pattern", 0]
    assert there.diagonal(dim1=-2, dim2=-1).mean() > 0.8


def test_a_head_that_looks_at_the_current_vector_alone_has_no_score():
    assert math.isnan(similarity(looks_for_vectors(0.0, to_self=1e4), UNIT))


def test_a_head_that_looks_at_one_distance_is_not_taken_for_one_that_looks_for_vectors():
    """On vectors of independent directions it has no preference: the mean of what it gains there is zero."""
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(499, VECTORS.task.n_ctx, ENTRIES, generator=draws)
    batch = BATCH._replace(inputs=inputs, targets=inputs, mask=torch.ones(inputs.shape[:2], dtype=torch.bool))
    fixed = looks_for_vectors(0.0, before=200.0)
    pattern = fixed.run_with_cache(inputs)[1]["pattern", 0]
    assert pattern.diagonal(offset=-1, dim1=-2, dim2=-1).min() > 0.999
    # A cosine of 7 entries deviates by 1/sqrt(7), there are 9 queries a sequence, and max - mean is .2 or more.
    assert abs(similarity(fixed, batch)) < 4 / math.sqrt(ENTRIES * 499 * 9) / 0.2
    # On recurrences the vector before is sometimes the most similar one, and often not.
    assert similarity(fixed, UNIT) < 0.9
    unit = batch._replace(inputs=torch.nn.functional.normalize(inputs, dim=-1))
    assert similarity(looks_for_vectors(SHARP), unit) > 0.9


def test_similar_vector_is_the_ratio_of_what_is_gained_to_what_could_be():
    """By loops, for each head of a network at random; queries that do not count, or have one earlier key, are out."""
    model = random_network()
    mask = BATCH.mask.clone()
    mask[::2, 4:7] = False
    batch = BATCH._replace(mask=mask)
    patterns = torch.stack([model.run_with_cache(BATCH.inputs)[1]["pattern", layer] for layer in range(2)]).double()
    x = BATCH.inputs.double().numpy()
    scores = similar_vector(model, batch).similar_vector
    for layer in range(2):
        for head in range(3):
            gained = possible = 0.0
            for b in range(len(x)):
                for q in range(2, x.shape[1]):
                    if not mask[b, q]:
                        continue
                    cos = [x[b, q] @ x[b, k] / np.linalg.norm(x[b, q]) / np.linalg.norm(x[b, k]) for k in range(q)]
                    share = patterns[layer, b, head, q, :q].numpy()
                    gained += share @ cos / share.sum() - np.mean(cos)
                    possible += max(cos) - np.mean(cos)
            assert scores.sel(layer=layer, head=head).item() == pytest.approx(gained / possible, abs=1e-4)


def test_a_network_that_was_not_trained_looks_for_nothing():
    fresh = [HookedTransformer(VECTORS.model, seed=seed).eval() for seed in range(7)]
    assert max(abs(similar_vector(model, BATCH).similar_vector).max().item() for model in fresh) < 0.05


@pytest.mark.parametrize("model", [looks_for_vectors(SHARP), looks_for_vectors(0.0)], ids=["matching", "uniform"])
def test_vectors_that_are_all_alike_give_nothing_to_prefer(model: HookedTransformer):
    """Their cosines differ by rounding, of which no score is to be made."""
    draws = torch.Generator().manual_seed(0)
    for _ in range(5):
        directions = torch.randn(len(BATCH.inputs), 1, ENTRIES, generator=draws)
        lengths = 0.1 + torch.rand(BATCH.inputs.shape[:2], generator=draws)
        assert math.isnan(similarity(model, BATCH._replace(inputs=directions * lengths[:, :, None])))
    some = BATCH.inputs.clone()
    some[3] = torch.ones(ENTRIES)  # one sequence of them beside others leaves the score of the others
    others = BATCH._replace(mask=BATCH.mask & (torch.arange(len(some)) != 3)[:, None])
    assert similarity(model, BATCH._replace(inputs=some)) == pytest.approx(similarity(model, others), abs=1e-5)


def test_where_similar_vector_has_no_meaning_it_says_so():
    with pytest.raises(DoesNotApplyError, match="similar_vector needs vectors; this batch has tokens"):
        similar_vector(*copying_head())
    short = BATCH._replace(inputs=BATCH.inputs[:, :2], targets=BATCH.targets[:, :2], mask=BATCH.mask[:, :2])
    with pytest.raises(DoesNotApplyError, match="similar_vector needs sequences of at least 3 positions; these have 2"):
        similar_vector(random_network(), short)
    three = BATCH._replace(inputs=BATCH.inputs[:, :3], targets=BATCH.targets[:, :3], mask=BATCH.mask[:, :3])
    assert similar_vector(random_network(), three).similar_vector.notnull().all()
