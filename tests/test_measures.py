"""Measures are their definitions, written out by brute force, on ours and on bridges; and they leave no trace."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Literal

import einops
import numpy as np
import pytest
import torch
import xarray as xr
from networks import gpt2_bridge, gpt_neo_bridge, llama_bridge, with_random_biases
from toys import TOKENS, VECTORS

from headway.analyze import LIVE, MEASURES, DoesNotApplyError, Measure
from headway.analyze.measures.attention import (
    attention_entropy,
    current_token,
    duplicate_token,
    first_token,
    induction_stripe,
    prefix_matching,
    previous_token,
    token_classes,
)
from headway.analyze.measures.composition import k_composition, q_composition, v_composition
from headway.analyze.measures.eigenvalues import (
    induction_eigenvalue,
    ov_eigenvalue,
    ov_eigenvalue_residual,
    qk_eigenvalue,
    qk_eigenvalue_residual,
)
from headway.analyze.measures.loss import in_context
from headway.analyze.measures.ranks import rank_95, rank_entropy, rank_stable
from headway.analyze.network.forward import forward_pass, shared_forward_pass
from headway.analyze.network.requirements import NotNumbersError
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch
from headway.models.config import ModelConfig
from headway.models.convert import Model
from headway.models.handmade import composing_pair, uniform_head
from headway.models.hooked_transformer import HookedTransformer

# Measures of weights look at none.
ANY_BATCH = uniform_head()[1]

SHAPES = [
    ModelConfig(n_layers=3, d_model=19, n_ctx=11, d_head=5, n_heads=2, d_vocab=13, attn_only=True),
    ModelConfig(n_layers=2, d_model=7, n_ctx=11, d_head=7, n_heads=3, d_vocab=13, normalization_type=None),
]


def random_model(config: ModelConfig, seed: int = 0) -> HookedTransformer:
    return HookedTransformer(replace(config, initializer_range=0.5), seed=seed).eval()


@pytest.mark.parametrize("config", SHAPES, ids=["small heads", "full heads"])
@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_composition_is_the_formula_on_whole_matrices(config: ModelConfig, kind: str):
    model = random_model(config).double()
    W_OV, W_QK = model.W_V @ model.W_O, model.W_Q @ model.W_K.mT
    R = {"q": W_QK, "k": W_QK.mT, "v": W_OV}[kind]
    scores = {"q": q_composition, "k": k_composition, "v": v_composition}[kind](model, ANY_BATCH)
    for l1, h1, l2, h2 in np.ndindex(*scores[f"{kind}_composition"].shape):
        value = scores[f"{kind}_composition"].values[l1, h1, l2, h2]
        if l1 >= l2:
            assert math.isnan(value)
            continue
        a, b = W_OV[l1, h1], R[l2, h2]
        assert value == pytest.approx(((a @ b).norm() / (a.norm() * b.norm())).item(), abs=1e-5)
        s, t = torch.linalg.svdvals(a), torch.linalg.svdvals(b)
        ceiling = scores[f"{kind}_composition_ceiling"].values[l1, h1, l2, h2]
        assert ceiling == pytest.approx(((s * t).norm() / (a.norm() * b.norm())).item(), abs=1e-5)
        assert value <= ceiling + 1e-6


@pytest.mark.parametrize("config", SHAPES, ids=["small heads", "full heads"])
@pytest.mark.parametrize(
    "measure",
    [ov_eigenvalue, ov_eigenvalue_residual, qk_eigenvalue, qk_eigenvalue_residual, induction_eigenvalue],
    ids=lambda measure: measure.__name__,
)
def test_eigenvalue_scores_are_ratios_over_whole_circuits(config: ModelConfig, measure: Callable):
    """The eigenvalues are complex, their sum is real."""
    model = random_model(config)
    E, U = model.W_E.detach().double(), model.W_U.detach().double()
    OV, QK = ((A @ B).detach().double() for A, B in ((model.W_V, model.W_O), (model.W_Q, model.W_K.mT)))
    whole = {
        "ov_eigenvalue": lambda head: E @ OV[head] @ U,
        "ov_eigenvalue_residual": lambda head: OV[head],
        "qk_eigenvalue": lambda head: E @ QK[head] @ E.T,
        "qk_eigenvalue_residual": lambda head: QK[head],
        "induction_eigenvalue": lambda pair: E @ QK[pair[2:]] @ OV[pair[:2]].T @ E.T,
    }[measure.__name__]
    scores = measure(model, ANY_BATCH)[measure.__name__].values
    for where in np.ndindex(*scores.shape):
        if len(where) == 4 and where[0] >= where[2]:
            assert math.isnan(scores[where])
            continue
        eigenvalues = torch.linalg.eigvals(whole(where))
        assert eigenvalues.sum().imag.abs() < 1e-9 * eigenvalues.abs().sum()
        ratio = eigenvalues.sum().real / eigenvalues.abs().sum()
        assert scores[where] == pytest.approx(ratio.item(), abs=1e-4)


@pytest.mark.parametrize("config", SHAPES, ids=["small heads", "full heads"])
def test_ranks_are_those_of_the_whole_matrices(config: ModelConfig):
    model = random_model(config)
    for circuit, whole in (("OV", model.W_V @ model.W_O), ("QK", model.W_Q @ model.W_K.mT)):
        for layer, head in np.ndindex(config.n_layers, config.n_heads):
            s = torch.linalg.svdvals(whole[layer, head].detach().double())[: config.d_head]
            p, where = s / s.sum(), {"circuit": circuit, "layer": layer, "head": head}
            smallest = next(k for k in range(1, 9) if (s[:k] ** 2).sum() >= 0.95 * (s**2).sum())
            assert rank_95(model, ANY_BATCH).rank_95.sel(where).item() == smallest
            entropy = math.exp(-(p * p.log()).sum())
            assert rank_entropy(model, ANY_BATCH).rank_entropy.sel(where).item() == pytest.approx(entropy, rel=1e-4)
            stable = ((s**2).sum() / s.max() ** 2).item()
            assert rank_stable(model, ANY_BATCH).rank_stable.sel(where).item() == pytest.approx(stable, rel=1e-4)


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_attention_scores_are_their_definitions(direction: str):
    task = RepeatedTokens(n_tokens=13, length=11, period_min=2, period_max=5)
    model = random_model(replace(SHAPES[0], d_vocab=14, d_vocab_out=14, attention_dir=direction))
    batch = task.evaluation_batch(0, 7)
    A, x = forward_pass(model, batch).patterns, batch.inputs
    S = x.shape[1]

    def matched(a: torch.Tensor, shift: int, same: Callable[[int, int], bool]) -> list[torch.Tensor]:
        """Summed attention to what stands ``shift`` after a token that is the query's, where there is one."""
        sums = []
        for b in range(7):
            for q in range(1, S):
                last = q if direction == "causal" else S - 1
                copies = [k - shift for k in range(shift, last + 1) if k - shift not in (0, q)]
                keys = [c + shift for c in copies if same(int(x[b, c]), int(x[b, q]))]
                if keys:
                    sums.append(sum(a[b, q, k] for k in keys))
        return sums

    def equal(one: int, other: int) -> bool:
        return one == other

    def same_parity(one: int, other: int) -> bool:
        return (one - other) % 2 == 0

    classes = token_classes([(token, token + 2) for token in range(12)], d_vocab=14)
    for layer, head in np.ndindex(3, 2):
        a = A[layer, :, head]
        every = [(b, q) for b in range(7) for q in range(1, S)]
        widths = [math.log(q + 1 if direction == "causal" else S) for _, q in every]
        for measure, options, values in (
            (previous_token, {}, [a[b, q, q - 1] for b, q in every]),
            (current_token, {}, [a[b, q, q] for b, q in every]),
            (first_token, {}, [a[b, q, 0] for b, q in every]),
            (attention_entropy, {}, [torch.special.entr(a[at]).sum() / w for at, w in zip(every, widths, strict=True)]),
            (duplicate_token, {}, matched(a, 0, equal)),
            (prefix_matching, {}, matched(a, 1, equal)),
            (duplicate_token, {"same": classes}, matched(a, 0, same_parity)),
            (prefix_matching, {"same": classes}, matched(a, 1, same_parity)),
        ):
            found = measure(model, batch, **options)[measure.__name__].sel(layer=layer, head=head).item()
            assert found == pytest.approx(float(torch.tensor(values).mean()), abs=1e-5)


def test_the_induction_stripe_has_exactly_s_entries_and_is_prefix_matching_there():
    """Averaging S + 2 diagonal entries would cap a perfect induction head below 1."""
    S = 5
    task = RepeatedTokens(n_tokens=13, length=2 * S + 1, period_min=S, period_max=S, late_start=0.0)
    model = random_model(replace(SHAPES[0], d_vocab=14, d_vocab_out=14))
    batch = task.evaluation_batch(0, 7)
    A = forward_pass(model, batch).patterns
    stripe = torch.stack([A[..., q, q - S + 1] for q in range(S + 1, 2 * S + 1)])
    assert stripe.shape[0] == S
    expected = einops.reduce(stripe, "query layer batch head -> layer head", "mean").numpy()
    for measure in (induction_stripe, prefix_matching):
        np.testing.assert_allclose(measure(model, batch)[measure.__name__].values, expected, atol=1e-6)


def test_equivalences_join_chains_and_know_their_tokens():
    assert token_classes([(1, 3), (6, 4), (4, 3)], d_vocab=7).tolist() == [0, 1, 2, 1, 1, 5, 1]
    with pytest.raises(ValueError, match=r"pairs: \(1, 7\) holds a token that does not exist; tokens are 0 to 6"):
        token_classes([(1, 7)], d_vocab=7)


def test_fuzzy_induction_is_induction_on_classes():
    """A second copy in other words: the exact measure sees nothing, the one under the equivalence sees it all."""
    model, batch = composing_pair("k")
    synonyms = torch.cat([torch.tensor([0]), torch.arange(1, 13).roll(6)])
    model.blocks[1].attn.W_Q.data[1, :13] = model.blocks[1].attn.W_Q.data[1, synonyms].clone()
    tokens = torch.cat([torch.tensor([0]), torch.arange(1, 7), synonyms[torch.arange(1, 7)]])[None]
    fuzzy = batch._replace(inputs=tokens)
    classes = token_classes([(token, int(synonyms[token])) for token in range(1, 7)], d_vocab=13)
    head = {"layer": 1, "head": 1}
    assert prefix_matching(model, fuzzy, same=classes).prefix_matching.sel(head).item() == pytest.approx(1, abs=1e-5)
    with pytest.raises(DoesNotApplyError, match="no token of this batch does"):
        prefix_matching(model, fuzzy)


def test_classes_must_be_one_a_token():
    model, batch = composing_pair("k")
    with pytest.raises(ValueError, match=r"same: it has the shape \(12,\); it must be 13 classes"):
        prefix_matching(model, batch, same=torch.arange(12))


def test_in_context_compares_the_positions_it_is_told():
    model, batch = random_model(replace(SHAPES[0], d_vocab=14, d_vocab_out=14)), TOKENS.task.evaluation_batch(0, 7)
    with torch.no_grad():
        each = TOKENS.task.loss(model(batch.inputs), batch)
    found = in_context(model, batch, early=[1, 2], late=[9]).in_context.item()
    assert found == pytest.approx((each[:, 9].mean() - each[:, 1:3].mean()).item(), abs=1e-5)
    parts = TOKENS.task.parts(batch)
    by_default = (each[parts["repeats"]].mean() - each[parts["first"]].mean()).item()
    assert in_context(model, batch).in_context.item() == pytest.approx(by_default, abs=1e-5)
    half = in_context(model, batch, late=[9]).in_context.item()
    assert half == pytest.approx((each[:, 9].mean() - each[:, :2].mean()).item(), abs=1e-5)
    for position in (11, -1):
        with pytest.raises(ValueError, match=f"late: position {position} does not exist; positions are 0 to 10"):
            in_context(model, batch, late=[position])


def our_bridge() -> tuple[Model, Model, Batch]:
    """A GPT-2 bridge, and the same network as ours: its weights go in under the names they have there."""
    bridge = gpt2_bridge()
    cfg = bridge.cfg
    sizes = {name: getattr(cfg, name) for name in ("n_layers", "d_model", "n_ctx", "d_head", "n_heads", "d_vocab")}
    ours = HookedTransformer(ModelConfig(**sizes, d_mlp=23, act_fn="gelu_new", eps=cfg.eps))
    ours.load_state_dict(bridge.tl_parameters())
    task = RepeatedTokens(n_tokens=28, length=11, period_min=5, period_max=5, late_start=0.0)
    return bridge, ours.eval(), task.evaluation_batch(0, 7)


# These need a task that repeated tokens are not.
OF_OTHER_TASKS = {"predictor_distance", "frequency_share", "key_frequencies", "excluded_loss", "restricted_loss"}


@pytest.mark.parametrize("measure", MEASURES, ids=lambda each: each.name)
def test_a_bridge_scores_as_the_same_network_of_ours(measure: Measure):
    bridge, ours, batch = our_bridge()
    # Of vectors; of an embedding that leaves something outside; of a task that holds out sequences.
    if measure.name in {"linearity", "outside_embedding", "training_loss", "training_accuracy", *OF_OTHER_TASKS}:
        for network in (bridge, ours):
            with pytest.raises(DoesNotApplyError):
                measure(network, batch)
        return
    theirs, expected = measure(bridge, batch), measure(ours, batch)
    assert set(theirs.data_vars) == set(expected.data_vars)
    for name in expected.data_vars:
        np.testing.assert_allclose(theirs[name].values, expected[name].values, atol=1e-4, err_msg=str(name))


def test_a_folded_copy_says_that_no_layer_norm_is_left_out():
    """The same circuits of folded weights are other numbers, and each score says which it is."""
    model = with_random_biases(HookedTransformer(TOKENS.model))
    plain, folded = (ov_eigenvalue(each, ANY_BATCH).ov_eigenvalue for each in (model, model.processed()))
    assert plain.attrs["layer_norm"] == "weights left out"
    assert folded.attrs["layer_norm"] == "nothing left out"
    assert np.abs(plain - folded).max() > 0.01


def test_half_precision_weights_are_measured_in_float32():
    model = random_model(SHAPES[0])
    exact = rank_stable(model, ANY_BATCH).rank_stable
    half = rank_stable(model.to(torch.bfloat16), ANY_BATCH).rank_stable
    np.testing.assert_allclose(half, exact, rtol=0.02)
    assert half.dtype == np.float32


@pytest.mark.parametrize("measure", MEASURES, ids=lambda each: each.name)
def test_a_measure_changes_nothing_also_when_it_raises(measure: Measure):
    vectors = HookedTransformer(VECTORS.model)
    diverged = HookedTransformer(TOKENS.model)
    with torch.no_grad():
        for parameter in diverged.parameters():
            parameter.fill_(math.nan)
    without_task = VECTORS.task.evaluation_batch(0, 3)._replace(task=None)
    tokens = TOKENS.task.evaluation_batch(0, 5)
    for model, batch in ((HookedTransformer(TOKENS.model), tokens), (vectors, without_task), (diverged, tokens)):
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        modes = [module.training for module in model.modules()]
        random, numpy_random = torch.get_rng_state(), np.random.get_state()[1].copy()  # pyright: ignore
        if model is diverged:
            with pytest.raises((NotNumbersError, DoesNotApplyError)):
                measure(model, batch)
        else:
            with suppress(ValueError):
                measure(model, batch)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, weights[name], rtol=0, atol=0, equal_nan=True)
        assert [module.training for module in model.modules()] == modes
        assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_points())
        assert not any((model.cfg.use_attn_result, model.cfg.use_split_qkv_input, model.cfg.use_attn_in))
        assert torch.equal(random, torch.get_rng_state())
        assert (numpy_random == np.random.get_state()[1]).all()  # pyright: ignore


@pytest.mark.parametrize("measure", MEASURES, ids=lambda each: each.name)
def test_a_measure_leaves_a_bridge_as_it_was(measure: Measure):
    bridge, _, batch = our_bridge()
    network = [bridge, bridge.original_model]  # pyright: ignore[reportAttributeAccessIssue]

    def state() -> tuple:
        modules = [module for part in network for module in part.modules()]
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules]
        flags = (bridge.cfg.use_attn_result, bridge.cfg.use_split_qkv_input, bridge.cfg.use_attn_in)
        return hooks, [module.training for module in modules], flags

    bridge(batch.inputs)  # a bridge wires its blocks in its first forward pass, and more in the first with a cache
    bridge.run_with_cache(batch.inputs)
    before, weights = state(), {name: value.clone() for name, value in bridge.state_dict().items()}
    random = torch.get_rng_state()
    with suppress(DoesNotApplyError):
        measure(bridge, batch)
    assert state() == before
    assert torch.equal(random, torch.get_rng_state())
    for name, value in bridge.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda each: each.name)
def test_a_rotary_network_with_grouped_heads_is_scored_where_that_has_a_meaning(measure: Measure):
    """Patterns, W_OV and sums of what is written have one; circuits through W_Q and W_K have none."""
    refused = {
        "qk_eigenvalue", "qk_eigenvalue_residual", "induction_eigenvalue", "q_composition", "k_composition",
        "rank_95", "rank_entropy", "rank_stable", "qk_attribution", "k_composition_top1", "position_pattern",
        "path_patch", "qk_identity_surgery",
    }  # fmt: skip
    task = RepeatedTokens(n_tokens=28, length=11, period_min=5, period_max=5, late_start=0.0)
    batch = task.evaluation_batch(0, 7)
    # These need vectors, an embedding that leaves something outside, a task that holds out sequences.
    refused |= {"linearity", "outside_embedding", "training_loss", "training_accuracy", *OF_OTHER_TASKS}
    if measure.name in refused:
        with pytest.raises(DoesNotApplyError, match=r"this (network|batch)"):
            measure(llama_bridge(), batch)
    else:
        # Of what a random network knows there are no shares.
        number = "effect_known" if measure.name == "effect" else measure.name
        assert measure(llama_bridge(), batch)[number].notnull().any()


def test_computing_patterns_once_changes_no_number():
    model, batch = composing_pair("k")
    for each in MEASURES:
        try:
            alone = each(model, batch)
        except DoesNotApplyError:
            continue
        with shared_forward_pass():
            before = [other(model, batch) for other in MEASURES[4:8]]
            assert each(model, batch).equals(alone), each.name
        assert before


def test_what_is_remembered_is_of_the_batch_that_is_asked_about():
    """Slices of a batch come and go, and another may stand where one stood in memory."""
    model, batch = random_model(replace(SHAPES[0], d_vocab=14, d_vocab_out=14)), TOKENS.task.evaluation_batch(0, 7)
    with shared_forward_pass():
        sizes = [len(forward_pass(model, batch.first(1 + index % 5)).output) for index in range(60)]
    assert sizes == [1 + index % 5 for index in range(60)]


@pytest.mark.parametrize("kind", ["q", "v"])
def test_circuits_that_are_zero_up_to_rounding_are_zero(kind: Literal["q", "v"]):
    """The same network in another basis, in which nothing is exactly zero."""
    model, batch = composing_pair(kind)
    rotation = torch.linalg.qr(torch.randn(43, 43, generator=torch.Generator().manual_seed(0))).Q
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("W_E", "W_pos", "W_O")):
                parameter.copy_(parameter @ rotation)
            elif "W_" in name:
                parameter.copy_(rotation.T @ parameter)
    assert induction_eigenvalue(model, batch).induction_eigenvalue.isnull().all()
    assert ov_eigenvalue_residual(model, batch).ov_eigenvalue_residual.sel(layer=0).isnull().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "measure",
    [each for each in LIVE if not each.name.startswith("training") and each.name not in OF_OTHER_TASKS],
    ids=lambda each: each.name,
)
def test_networks_of_other_precisions_are_measured(measure: Measure, dtype: torch.dtype):
    batch = TOKENS.task.evaluation_batch(0, 5)
    single, other = (measure(HookedTransformer(TOKENS.model).to(each), batch) for each in (torch.float32, dtype))
    np.testing.assert_allclose(other[measure.name], single[measure.name], atol=0.02)


def test_a_network_of_other_scores_is_refused():
    """GPT-Neo divides by nothing and looks at a window, and its bridge's configuration says neither."""
    bridge = gpt_neo_bridge()
    for measure in (qk_eigenvalue, k_composition, rank_95):
        with pytest.raises(DoesNotApplyError, match="another scale, or a window"):
            measure(bridge, ANY_BATCH)


def test_a_measure_may_not_write_another_s_score():
    def mine(model: Model, batch: Batch) -> xr.Dataset:
        return xr.Dataset({"mine": 1.0, "loss": 2.0})

    with pytest.raises(ValueError, match="mine: its variable 'loss' is not valid; it must be 'mine' or start with"):
        Measure(mine)(*uniform_head())


def test_a_partial_is_a_measure_of_the_same_name():
    each = Measure(partial(in_context, early=[1], late=[9]))
    assert (each.name, each.summary) == ("in_context", Measure(in_context).summary)


def test_every_measure_says_what_it_is():
    for each in MEASURES:
        assert each.summary.endswith((".", ")", "``")), each.name
        assert each.range, each.name
        assert len(each.summary) <= 120, each.name
    assert len({each.name for each in MEASURES}) == len(MEASURES)


def test_what_does_not_apply_says_why():
    vectors = HookedTransformer(VECTORS.model), VECTORS.task.evaluation_batch(0, 3)
    with pytest.raises(DoesNotApplyError, match="needs tokens; this batch has vectors"):
        prefix_matching(*vectors)
    model, batch = uniform_head()
    once = batch._replace(inputs=torch.arange(13)[None])
    with pytest.raises(DoesNotApplyError, match="no token of this batch does"):
        prefix_matching(model, once)
    with pytest.raises(DoesNotApplyError, match="one segment of distinct tokens twice"):
        induction_stripe(model, once)
    with pytest.raises(DoesNotApplyError, match="at least 2 positions; these have 1"):
        previous_token(model, batch._replace(inputs=torch.tensor([[1]])))
    with pytest.raises(DoesNotApplyError, match="as many outputs as inputs; this network has 13 and 17"):
        ov_eigenvalue(HookedTransformer(replace(SHAPES[0], d_vocab_out=17)), batch)
    with pytest.raises(DoesNotApplyError, match="this network has 1 layer"):
        k_composition(model, batch)
    with pytest.raises(ValueError, match="its task is None"):
        in_context(model, once._replace(task=None))
    with pytest.raises(ValueError, match="it returned a float; it must return an xarray Dataset or DataArray"):
        Measure(lambda model, batch: 1.0)(model, batch)  # pyright: ignore[reportArgumentType]
