"""Sums are whole: attributions add up to what the network computed, and each term is what its component contributes."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from networks import gpt2_bridge, llama_bridge, with_random_biases
from toys import NO_POSITIONS, TOKENS, VECTORS

from headway.analyze import DoesNotApplyError
from headway.analyze.measures.attribution import (
    attribute_inputs,
    attribute_outputs,
    attribute_scores,
    attribute_sources,
    direct_attribution,
    qk_attribution,
    reads,
    score_given_keys,
    score_given_queries,
)
from headway.analyze.network.interventions import heads_except
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch
from headway.models.config import Head, ModelConfig
from headway.models.convert import Model
from headway.models.handmade import composing_pair
from headway.models.hooked_transformer import HookedTransformer

Network = tuple[Model, Batch]
# Sums of float32 numbers of size 1 to 10.
ROUNDING = 1e-4


def built(recipe, **changes) -> Network:
    config = ModelConfig(**{**recipe.model.as_given(), **changes})
    return with_random_biases(HookedTransformer(config)), recipe.task.evaluation_batch(0, 5)


def bridge_batch() -> Batch:
    return RepeatedTokens(n_tokens=28, length=11, period_min=3, period_max=5).evaluation_batch(0, 5)


NETWORKS: dict[str, Callable[[], Network]] = {
    "tokens, LN": lambda: built(TOKENS),
    "tokens, LNPre, MLP": lambda: built(TOKENS, normalization_type="LNPre", attn_only=False, d_mlp=29),
    "tokens, none": lambda: built(TOKENS, normalization_type=None),
    "tokens, no positions, MLP": lambda: built(NO_POSITIONS),
    "tokens, shortformer": lambda: built(TOKENS, positional_embedding_type="shortformer"),
    "tokens, bidirectional": lambda: built(TOKENS, attention_dir="bidirectional"),
    "tokens, processed": lambda: (built(TOKENS)[0].processed(), built(TOKENS)[1]),  # pyright: ignore
    "vectors, LN, MLP": lambda: built(VECTORS),
    "vectors, none": lambda: built(VECTORS, normalization_type=None),
    "GPT-2 bridge": lambda: (gpt2_bridge(), bridge_batch()),
}
PLAIN = list(NETWORKS)


@pytest.mark.parametrize("name", PLAIN)
def test_direct_attributions_add_up_to_the_output(name: str):
    model, batch = NETWORKS[name]()
    terms = attribute_outputs(model, batch)
    with torch.no_grad():
        output = model(batch.inputs)
    if batch.targets.is_floating_point():
        expected = (output * batch.targets).sum(-1) / (batch.targets**2).sum(-1)
    else:
        expected = output.gather(-1, batch.targets[..., None])[..., 0]
    np.testing.assert_allclose(terms.sum("component").values, expected.numpy(), atol=ROUNDING, rtol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_attributions_of_scores_add_up_to_the_score(name: str):
    model, batch = NETWORKS[name]()
    _, cache = model.run_with_cache(batch.inputs, return_cache_object=False)
    for layer, head in np.ndindex(model.cfg.n_layers, model.cfg.n_heads):
        terms = attribute_scores(model, batch, Head(layer, head)).sum(
            ("query_component", "key_component"), skipna=False
        )
        whole = cache[f"blocks.{layer}.attn.hook_attn_scores"][:, head].detach().numpy()
        visible = terms.notnull().values
        assert visible.sum() == 5 * (11 * 11 if model.cfg.attention_dir == "bidirectional" else 11 * 12 / 2)
        np.testing.assert_allclose(terms.values[visible], whole[visible], atol=ROUNDING)


@pytest.mark.parametrize("name", PLAIN)
def test_what_a_head_takes_from_each_source_adds_up_to_its_term(name: str):
    model, batch = NETWORKS[name]()
    sources, terms = attribute_sources(model, batch), attribute_outputs(model, batch)
    heads = [str(head) for head in heads_except(model)]
    assert sources["head"].values.tolist() == heads
    np.testing.assert_allclose(sources.sum("source"), terms.sel(component=heads), atol=ROUNDING)
    # One position a sequence, each another one: its row of all positions.
    positions = torch.tensor([0, 10, 3, 7, 4])
    asked = attribute_sources(model, batch, positions)
    for sequence, position in enumerate(positions.tolist()):
        np.testing.assert_allclose(
            asked.isel(batch=sequence), sources.isel(batch=sequence, pos=position), atol=ROUNDING
        )
        if model.cfg.attention_dir == "causal":
            assert not asked.isel(batch=sequence)[:, position + 1 :].any()
    with pytest.raises(ValueError, match="positions: -1 does not exist; this batch has 0 to 10"):
        attribute_sources(model, batch, torch.tensor([0, -1, 3, 7, 4]))
    with pytest.raises(ValueError, match="positions: 11 does not exist; this batch has 0 to 10"):
        attribute_sources(model, batch, torch.tensor([0, 11, 3, 7, 4]))


def test_a_source_is_worth_what_the_logit_loses_without_attention_to_it():
    """With the final scale held, the output is linear in the pattern of the last layer."""
    model, batch = built(TOKENS)
    logits, cache = model.run_with_cache(batch.inputs)
    query, key, head = 8, 5, Head(1, 2)

    def without_key(pattern: torch.Tensor, hook: object) -> torch.Tensor:
        changed = pattern.clone()
        changed[:, head.head, query, key] = 0
        return changed

    less = model.run_with_hooks(
        batch.inputs,
        fwd_hooks=[
            ("blocks.1.attn.hook_pattern", without_key),
            ("ln_final.hook_scale", lambda scale, hook: cache["ln_final.hook_scale"]),
        ],
    )
    lost = (logits - less).gather(-1, batch.targets[..., None])[:, query, 0].detach().numpy()
    found = attribute_sources(model, batch, torch.full((5,), query)).sel(head=str(head), source=key)
    np.testing.assert_allclose(found, lost, atol=ROUNDING)


def test_a_network_with_rms_norms_and_no_biases_is_taken_apart_too():
    model, batch = llama_bridge(), bridge_batch()
    with torch.no_grad():
        expected = model(batch.inputs).gather(-1, batch.targets[..., None])[..., 0]
    np.testing.assert_allclose(attribute_outputs(model, batch).sum("component"), expected, atol=ROUNDING)


@pytest.mark.parametrize("name", ["tokens, LN", "tokens, LNPre, MLP", "tokens, none"])
def test_each_term_is_what_the_logit_loses_without_it(name: str):
    """With the final scale held, the output is linear: taking a component out of the last stream takes its term out."""
    model, batch = NETWORKS[name]()
    assert isinstance(model, HookedTransformer)
    terms = attribute_outputs(model, batch)
    logits, cache = model.run_with_cache(batch.inputs)
    writes = {
        "embed": cache["embed"],
        "L1H2": cache["z", 1][:, :, 2] @ model.W_O[1, 2],
        "0_b_O": model.b_O[0].expand_as(cache["embed"]),
    }
    if not model.cfg.attn_only:
        writes["1_mlp_out"] = cache["mlp_out", 1]
    scale = [] if model.cfg.normalization_type is None else [
        ("ln_final.hook_scale", lambda value, hook: cache["ln_final.hook_scale"])
    ]  # fmt: skip
    for component, vectors in writes.items():
        without: list = [("blocks.1.hook_resid_post", lambda value, hook, vectors=vectors: value - vectors)]
        less = model.run_with_hooks(batch.inputs, fwd_hooks=without + scale)
        lost = (logits - less).gather(-1, batch.targets[..., None])[..., 0].detach().numpy()
        np.testing.assert_allclose(terms.sel(component=component).values, lost, atol=ROUNDING)


def test_over_the_mean_they_add_up_to_the_logit_over_the_mean_logit():
    model, batch = built(TOKENS)
    terms = attribute_outputs(model, batch, over_mean=True).sum("component").values
    with torch.no_grad():
        logits = model(batch.inputs)
    expected = (logits - logits.mean(-1, keepdim=True)).gather(-1, batch.targets[..., None])[..., 0]
    np.testing.assert_allclose(terms, expected.numpy(), atol=ROUNDING)
    with pytest.raises(DoesNotApplyError, match="over_mean needs tokens"):
        attribute_outputs(*built(VECTORS), over_mean=True)


def test_means_of_attribution_are_over_what_counts():
    model, batch = built(NO_POSITIONS)  # its first position does not count
    each, means = attribute_outputs(model, batch), direct_attribution(model, batch)
    np.testing.assert_allclose(
        means.direct_attribution, each.isel(pos=slice(1, None)).mean(("batch", "pos")), atol=ROUNDING
    )
    assert means.direct_attribution_by_position.isel(pos=0).isnull().all()
    repeats = direct_attribution(*built(TOKENS))
    assert repeats.direct_attribution_repeats.dims == ("component",)


def test_the_mean_share_of_vectors_is_the_share_of_their_sum():
    """A target of no length has no share, and one that is nearly none must not drown the others."""
    model, batch = built(VECTORS)
    targets = batch.targets.clone()
    targets[0, 3], targets[1, 4] = 0, 1e-4
    short = batch._replace(targets=targets)
    each = attribute_outputs(model, short)
    assert each.sel(batch=0, pos=3).isnull().all()
    assert each.isnull().sum() == each.sizes["component"]
    with torch.no_grad():
        output = model(batch.inputs)
    share = (output * targets).sum() / (targets**2).sum()
    found = direct_attribution(model, short).direct_attribution.sum()
    assert float(found) == pytest.approx(share.item(), abs=ROUNDING)


def test_the_components_of_a_linear_network_are_known_in_closed_form():
    """The hand-made induction circuit: on repeats all of the logit is L1H1's, and its score is embed times L0H0."""
    model, batch = composing_pair("k")
    terms = direct_attribution(model, batch).direct_attribution_repeats
    assert terms.sel(component="L1H1").item() == pytest.approx(20, abs=1e-3)
    assert abs(terms.drop_sel(component="L1H1")).max() < 1e-5
    shares = attribute_scores(model, batch, Head(1, 1))
    whole = shares.sum(("query_component", "key_component"), skipna=False)
    np.testing.assert_allclose(shares.sel(query_component="embed", key_component="L0H0"), whole, atol=ROUNDING)
    # 12² / sqrt(19) where the key's predecessor is the query's token.
    assert float(whole.max()) == pytest.approx(144 / math.sqrt(19), abs=ROUNDING)
    spread = qk_attribution(model, batch).qk_attribution.sel(layer=1, head=1)
    assert spread.sel(query_component="embed", key_component="L0H0") > 1
    assert spread.sum() == pytest.approx(spread.sel(query_component="embed", key_component="L0H0").item())


def test_shares_stand_under_their_components_also_where_positions_come_late():
    model, batch = built(TOKENS, positional_embedding_type="shortformer")
    spread = qk_attribution(model, batch).qk_attribution.sel(layer=0, head=1)
    first = attribute_scores(model, batch.first(4), Head(0, 1))
    for component in ("embed", "pos_embed", "constant"):
        pair = {"query_component": component, "key_component": "pos_embed"}
        each = first.sel(pair).values
        assert spread.sel(pair).item() == pytest.approx(each[~np.isnan(each)].std(ddof=1), rel=1e-4)


def test_components_that_a_layer_does_not_read_have_no_share():
    model, batch = built(TOKENS)
    spread = qk_attribution(model, batch).qk_attribution
    assert spread.dims == ("layer", "head", "query_component", "key_component")
    first = spread.sel(layer=0)
    assert set(first.dropna("query_component", how="all").query_component.values) == {"embed", "pos_embed", "constant"}
    assert spread.sel(layer=1).notnull().all()


@pytest.mark.parametrize("name", PLAIN)
def test_one_side_of_a_score_is_affine_in_the_other(name: str):
    model, batch = NETWORKS[name]()
    head = Head(1, 2)
    _, cache = model.run_with_cache(batch.inputs, return_cache_object=False)
    scores = cache["blocks.1.attn.hook_attn_scores"][:, 2].detach()
    x = reads(model, batch, layer=1)
    given_keys = score_given_keys(model, batch, head, keys=[3, 7])
    np.testing.assert_allclose(given_keys(x)[:, 7:], scores[:, 7:, [3, 7]], atol=ROUNDING)
    given_queries = score_given_queries(model, batch, head, queries=[7, 9])
    np.testing.assert_allclose(given_queries(x)[:, :8], scores[:, [7, 9], :8].mT, atol=ROUNDING)
    # Affine: of a sum of vectors the scores add up, but for the bias, which is counted once.
    two = given_keys(x + x.flip(0)) - given_keys.bias[:, None]
    one = sum(given_keys(part) - given_keys.bias[:, None] for part in (x, x.flip(0)))
    np.testing.assert_allclose(two, one, atol=10 * ROUNDING)


def test_a_term_that_is_missing_is_named():
    model, batch = built(TOKENS)
    assert isinstance(model, HookedTransformer)
    for point, message in (
        ("hook_pos_embed", None),  # what a hook puts in is what is cached
        ("blocks.0.hook_resid_pre", "embed, pos_embed and earlier components do not add up to blocks.0.hook_resid_pre"),
        ("blocks.0.hook_resid_post", "0_b_O and earlier components do not add up to blocks.1.hook_resid_pre"),
        ("unembed.hook_in", "its reader is not a plain LayerNorm and matrix"),
    ):
        model.add_hook(point, lambda value, hook: value + torch.arange(19.0))
        if message is None:
            attribute_outputs(model, batch)
        else:
            with pytest.raises(ValueError, match=message):
                attribute_outputs(model, batch)
        model.reset_hooks()


def test_what_a_formula_does_not_cover_is_refused():
    batch = bridge_batch()
    for refused in (
        lambda: qk_attribution(llama_bridge(), batch),
        lambda: score_given_keys(llama_bridge(), batch, Head(0, 0), [1]),
    ):
        with pytest.raises(DoesNotApplyError, match="this network has rotary ones"):
            refused()
    model, batch = built(TOKENS)
    with pytest.raises(ValueError, match="head: L2H0 does not exist; this network has L0H0 to L1H2"):
        attribute_scores(model, batch, Head(2, 0))
    for position in (11, -1):
        with pytest.raises(ValueError, match=f"position: {position} does not exist; this batch has 0 to 10"):
            score_given_queries(model, batch, Head(0, 0), [position])
    with pytest.raises(ValueError, match="batch: it has vectors; this network takes tokens"):
        attribute_outputs(model, built(VECTORS)[1])
    with torch.no_grad():
        model.blocks[0].attn.W_Q[0] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        attribute_outputs(model, batch)


def test_the_scale_of_the_final_layer_norm_is_the_whole_stream_s():
    """Normalising each component with statistics of its own gives terms that do not add up."""
    model, batch = built(TOKENS)
    assert isinstance(model, HookedTransformer)
    _, cache = model.run_with_cache(batch.inputs)
    parts = torch.stack([cache["embed"], cache["pos_embed"], cache["attn_out", 0], cache["attn_out", 1]])
    wrong = (model.ln_final(parts) @ model.W_U).sum(0)
    target = batch.targets[..., None]
    right = attribute_outputs(model, batch).sum("component").values
    assert np.abs(wrong.gather(-1, target)[..., 0].detach().numpy() - right).max() > 0.1


def test_a_bias_is_counted_once():
    """b_O belongs to no head and is left out by none; with no heads written it is all there is."""
    model, batch = built(TOKENS, normalization_type=None)
    assert isinstance(model, HookedTransformer)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_O.zero_()
    terms = attribute_outputs(model, batch)
    heads = [name for name in terms.component.values if "H" in name]
    assert abs(terms.sel(component=heads)).max() == 0
    expected = (model.b_O[0] @ model.W_U)[batch.targets].detach().numpy()
    np.testing.assert_allclose(terms.sel(component="0_b_O"), expected, atol=ROUNDING)


@pytest.mark.parametrize("name", PLAIN)
def test_what_components_add_to_queries_and_keys_adds_up_to_them(name: str):
    model, batch = NETWORKS[name]()
    _, cache = model.run_with_cache(batch.inputs, return_cache_object=False)
    for head in (Head(0, 1), Head(1, 2)):
        parts = attribute_inputs(model, batch, head)
        for side in ("q", "k"):
            whole = cache[f"blocks.{head.layer}.attn.hook_{side}"][:, :, head.head].detach()
            np.testing.assert_allclose(
                parts.sel(input=side).sum("component"), whole, rtol=ROUNDING, atol=ROUNDING * whole.abs().max().item()
            )
        # The scores are their products.
        scores = attribute_scores(model, batch, head).isel(query=5, key=3)
        products = (parts.sel(input="q").isel(pos=5).rename(component="i") * parts.sel(input="k").isel(pos=3)).sum(
            "d_head"
        )
        np.testing.assert_allclose(
            products.transpose("i", "component", "batch") / model.cfg.d_head**0.5, scores, rtol=1e-3, atol=1e-4
        )
