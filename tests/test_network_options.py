"""Options of a network that toys use: each computes what its name says, by every path, and analysis reads it rightly.

Every option of KINDS goes through the same checks: fused and explicit steps, derivatives, stacks, files, processed
weights, circuits and measures. Below them, each option has the identities of its own.
"""

from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from random_networks import SIZES, assert_close, inputs_for, keep, network
from test_derivatives import WAYS, by_double_backward, loss_of, parameters_of
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from toys import TOKENS, Counting

from headway.analyze import MEASURES
from headway.analyze.circuits.graph import Edge
from headway.analyze.circuits.patching import EdgePatching
from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.attention import previous_token
from headway.analyze.measures.attribution import attribute_outputs, attribute_scores
from headway.analyze.measures.nulls import untrained
from headway.analyze.network.forward import shared_forward_pass
from headway.analyze.network.interventions import output_with, through_paths
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.report.about import parameters
from headway.checkpoints.config import ADDED_LATER
from headway.checkpoints.recipe import Recipe
from headway.data.repeated_tokens import RepeatedTokens
from headway.models.components import RMSNorm
from headway.models.config import Head, InitMode, ModelConfig
from headway.models.hooked_transformer import HookedTransformer
from headway.models.lightning_module import TrainingModule
from headway.models.optim import OptimConfig
from headway.sweeps.together import check_stackable
from headway.train import resume, train

KINDS: dict[str, dict[str, Any]] = {
    "attention scale 1": {"use_attn_scale": False},
    "another attention scale": {"attn_scale": 1.7, "attention_dir": "bidirectional"},
    "no biases": {"biases": False, "act_fn": "gelu"},
    "no biases, no norm": {"biases": False, "normalization_type": None, "positional_embedding_type": "shortformer"},
    "no biases, solu_ln": {"biases": False, "act_fn": "solu_ln", "attn_scale": 2.3},
    "rotary": {"positional_embedding_type": "rotary", "rotary_dim": 4, "rotary_base": 13.0},
    "rotary, bidirectional": {
        "positional_embedding_type": "rotary",
        "rotary_dim": 6,
        "attention_dir": "bidirectional",
        "attn_only": True,
    },
    "relative": {"positional_embedding_type": "relative", "attn_scale": 2.3},
    "relative, bidirectional": {
        "positional_embedding_type": "relative",
        "attention_dir": "bidirectional",
        "biases": False,
    },
    "RMS": {"normalization_type": "RMS", "act_fn": "silu"},
    "RMSPre": {"normalization_type": "RMSPre", "positional_embedding_type": "shortformer", "attn_only": True},
    "RMS, solu_ln, rotary": {
        "normalization_type": "RMS",
        "act_fn": "solu_ln",
        "positional_embedding_type": "rotary",
        "rotary_dim": 2,
    },
    "tied": {"tie_word_embeddings": True, "d_vocab_out": 17},
    "tied, no biases, RMS": {
        "tie_word_embeddings": True,
        "d_vocab_out": 17,
        "biases": False,
        "normalization_type": "RMS",
    },
    "dropout": {"embd_pdrop": 0.3, "attn_pdrop": 0.2, "resid_pdrop": 0.1, "positional_embedding_type": "relative"},
}
kinds = pytest.mark.parametrize("kind", KINDS)
TASK = RepeatedTokens(n_tokens=16, length=13, period_min=3, period_max=5)


def of_kind(kind: str, **more: Any) -> HookedTransformer:
    return network(**{"d_vocab": 17, **KINDS[kind], **more})


def written_out(kind: str, **more: Any) -> HookedTransformer:
    """The same network, which computes each step explicitly."""
    model = of_kind(kind, **more)
    model.add_hook(lambda name: name.endswith(("hook_pattern", "hook_normalized")), keep)
    return model


@kinds
def test_fused_equals_explicit_in_value_and_derivatives(kind: str):
    model, explicit = of_kind(kind), written_out(kind)
    inputs = inputs_for(model)
    assert_close(model(inputs), explicit(inputs))
    at = parameters_of(model)
    draws = torch.Generator().manual_seed(3)
    direction = {name: torch.randn(p.shape, generator=draws, dtype=p.dtype) for name, p in at.items()}
    first, second = (
        torch.autograd.grad(loss_of(each)(at), list(at.values()), materialize_grads=True) for each in (model, explicit)
    )
    for name, mine, theirs in zip(at, first, second, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-9, msg=lambda why, name=name: f"{name}: {why}")
    reference = by_double_backward(loss_of(explicit), at, direction)
    for way in WAYS.values():
        for name, product in way(loss_of(model), at, direction).items():
            assert_close(product.detach(), reference[name].detach(), 1e-11)


@kinds
def test_every_activation_is_cached_and_can_be_replaced_by_itself(kind: str):
    model = of_kind(kind)
    inputs = inputs_for(model)
    output, cache = model.run_with_cache(inputs)
    assert_close(output, model(inputs))
    replaced = model.run_with_hooks(inputs, fwd_hooks=[(name, lambda value, hook: cache[hook.name]) for name in cache])
    assert_close(replaced, output)


@kinds
def test_a_stack_of_networks_computes_what_each_does_alone(kind: str):
    models = [of_kind(kind, n_layers=1) for _ in range(2)]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.add_(0.1)
    inputs = torch.stack([inputs_for(models[0], seed) for seed in (0, 1)])
    weights, _ = stack_module_state(models)  # pyright: ignore[reportArgumentType]
    together = vmap(lambda weights, inputs: functional_call(models[0], weights, (inputs,)))(weights, inputs)
    for model, output, alone in zip(models, together, inputs, strict=True):
        assert_close(output.detach(), model(alone).detach(), 1e-11)


@kinds
def test_weights_have_the_shapes_that_the_configuration_says(kind: str):
    model = of_kind(kind)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    assert dict(model.cfg.weight_shapes()) == shapes
    assert parameters(model.cfg) == sum(weight.numel() for weight in model.parameters())


@kinds
def test_weights_come_back_from_a_file_and_options_from_plain_values(kind: str):
    model = of_kind(kind)
    cfg = ModelConfig(**model.cfg.to_dict())
    assert cfg == model.cfg
    assert ModelConfig(**cfg.as_given()) == cfg
    again = HookedTransformer(cfg).double().eval()
    again.load_state_dict(model.state_dict())
    assert_close(again(inputs_for(model)), model(inputs_for(model)))


@kinds
def test_processed_weights_keep_the_function(kind: str):
    model = of_kind(kind)
    inputs = inputs_for(model)
    folds = model.cfg.positional_embedding_type != "shortformer"
    for simpler in (model.processed(fold_ln=folds), model.processed(fold_ln=False)):
        assert_close(simpler(inputs).log_softmax(-1), model(inputs).log_softmax(-1), 1e-5)
    assert (
        not any(
            name.endswith((".ln1.w", ".ln2.w", "ln_final.w")) for name in model.processed(fold_ln=folds).state_dict()
        )
        or not folds
    )


@kinds
def test_circuits_are_those_of_the_network(kind: str):
    """All edges are the network, none is the network on the twins, and all edges out of a head are its ablation."""
    model, batch = of_kind(kind), TASK.evaluation_batch(seed=0, batch_size=5)
    twin = TASK.twin(batch, torch.Generator().manual_seed(0))
    patching = EdgePatching(model, batch, replacement="twin")
    assert_close(patching.clean.output, model(batch.inputs).detach())
    assert twin is not None
    patching = EdgePatching(model, batch, replacement="position_mean")
    kept = np.ones(len(patching.graph.edges), dtype=bool)
    kept[patching.edges_from["L0H1"]] = False
    output = patching.run(kept, patching.clean).output
    loss = TASK.loss(output, batch)[patching.mask].mean().item()
    assert loss == pytest.approx(ablated_loss(model, batch, Head(0, 1), "position_mean").loss.item())


@pytest.mark.parametrize("input", ["q", "k", "v"])
@kinds
def test_a_patched_path_is_the_edge_of_the_circuit(kind: str, input: Any):
    model, batch = of_kind(kind), TASK.evaluation_batch(seed=0, batch_size=5)
    patching = EdgePatching(model, batch, replacement="resample")
    kept = np.ones(len(patching.graph.edges), dtype=bool)
    kept[patching.graph.index[Edge("L0H1", "L1H2", input)]] = False
    hooks = through_paths(model, batch, [Head(0, 1)], [Head(1, 2)], input)
    assert_close(patching.run(kept, patching.clean).output, output_with(model, batch, hooks), 1e-11)


@lru_cache
def scores_of(kind: str) -> dict[str, Any]:
    model, batch = of_kind(kind), TASK.evaluation_batch(seed=0, batch_size=5)
    found: dict[str, Any] = {}
    with shared_forward_pass():
        for measure in MEASURES:
            try:
                found[measure.name] = measure(model, batch)[measure.name]
            except DoesNotApplyError as reason:
                found[measure.name] = str(reason)
    return found


@kinds
def test_every_measure_has_a_number_or_a_reason(kind: str):
    for name, score in scores_of(kind).items():
        if not isinstance(score, str):
            # The effect is a share of what the network has learnt, and this one has learnt nothing.
            assert name == "effect" or score.notnull().any(), name
        else:
            assert "\n" not in score


@pytest.mark.parametrize("kind", ["no biases", "tied", "tied, no biases, RMS"])
def test_processed_weights_are_all_weights_of_their_own(kind: str):
    """Folding gives biases to a network without, and makes the unembedding another than the embedding."""
    model = of_kind(kind)
    simpler = model.processed()
    assert set(network(d_vocab=17, normalization_type="LNPre").state_dict()) == set(simpler.state_dict())
    assert (model.cfg.biases, model.cfg.tie_word_embeddings) == (
        KINDS[kind].get("biases", True), KINDS[kind].get("tie_word_embeddings", False)
    )  # fmt: skip
    loaded = of_kind(kind)
    loaded.load_and_process_state_dict(model.state_dict())
    for name, weight in simpler.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name])


# The scale of attention


def test_an_attention_scale_divides_the_scores():
    model = of_kind("another attention scale")
    _, cache = model.run_with_cache(inputs_for(model))
    q, k = cache["q", 1], cache["k", 1]
    assert_close(cache["attn_scores", 1], torch.einsum("bqhd,bkhd->bhqk", q, k) / 1.7)
    unscaled = of_kind("attention scale 1")
    _, cache = unscaled.run_with_cache(inputs_for(unscaled))
    plain = torch.einsum("bqhd,bkhd->bhqk", cache["q", 1], cache["k", 1])
    visible = torch.ones_like(plain, dtype=torch.bool).tril()
    assert_close(cache["attn_scores", 1][visible], plain[visible])


def test_a_scale_is_the_same_as_other_queries():
    """Queries that are sqrt(d_head) / scale as large give the same network at the usual scale."""
    model, usual = of_kind("another attention scale"), network(d_vocab=17, attention_dir="bidirectional")
    usual.load_state_dict(model.state_dict())
    with torch.no_grad():
        for block in usual.blocks:
            block.attn.W_Q.mul_(SIZES["d_head"] ** 0.5 / 1.7)
            block.attn.b_Q.mul_(SIZES["d_head"] ** 0.5 / 1.7)
    assert_close(usual(inputs_for(usual)), model(inputs_for(model)), 1e-11)


@pytest.mark.parametrize("kind", ["attention scale 1", "another attention scale", "no biases"])
def test_scores_are_split_at_their_own_scale(kind: str):
    model, batch = of_kind(kind), TASK.evaluation_batch(seed=0, batch_size=3)
    terms = attribute_scores(model, batch, Head(1, 2)).sum(["query_component", "key_component"], skipna=False)
    _, cache = model.run_with_cache(batch.inputs)
    scores = cache["attn_scores", 1][:, 2]
    found = torch.from_numpy(terms.values)
    visible = ~found.isnan()
    assert_close(found[visible], scores[visible].detach(), 1e-9)


# Biases


def test_a_network_without_biases_is_one_whose_biases_are_zero():
    without, model = of_kind("no biases"), network(d_vocab=17, act_fn="gelu")
    weights = without.state_dict()
    # LayerNorms keep theirs, which is called b.
    assert not any(name.rpartition(".")[2].startswith("b_") for name in weights)
    model.load_state_dict({name: weights.get(name, torch.zeros_like(w)) for name, w in model.state_dict().items()})
    assert_close(without(inputs_for(model)), model(inputs_for(model)))
    assert not without.b_Q.any()
    assert without.b_Q.shape == model.b_Q.shape
    assert not without.accumulated_bias(2).any()
    assert len(list(model.parameters())) - len(list(without.parameters())) == len(model.state_dict()) - len(weights)


# Rotary positions


def test_rotary_scores_depend_on_the_offset_alone():
    """A sequence of one token has the same query and the same key everywhere before they are turned."""
    for kind in ("rotary", "rotary, bidirectional"):
        model = of_kind(kind, n_layers=1)
        _, cache = model.run_with_cache(torch.full((1, 19), 5))
        for scores in cache["attn_scores", 0][0]:
            for offset in range(-18, 1):
                diagonal = scores.diagonal(offset)
                assert_close(diagonal, diagonal[:1].expand_as(diagonal))
        # Different offsets have different scores.
        assert len(set(cache["attn_scores", 0][0, 0, -1].tolist())) == 19


def test_rotary_positions_turn_pairs_and_leave_the_rest():
    model = of_kind("rotary")
    _, cache = model.run_with_cache(inputs_for(model))
    for x in ("q", "k"):
        before, after = cache[f"blocks.1.attn.hook_{x}"], cache[f"blocks.1.attn.hook_rot_{x}"]
        assert_close(after[:, 0], before[:, 0])
        assert_close(after[..., 4:], before[..., 4:])
        # The first pair turns by 1 for each position, the second by 13 ** -0.5.
        for pair, angle in (([0, 2], 1.0), ([1, 3], 13**-0.5)):
            assert_close(after[..., pair].norm(dim=-1), before[..., pair].norm(dim=-1))
            first, second = (torch.view_as_complex(each[0, 3, 1, pair].contiguous()) for each in (before, after))
            turn = torch.polar(torch.ones((), dtype=torch.float64), torch.tensor(3 * angle, dtype=torch.float64))
            assert abs(second / first - turn) < 1e-12


def test_hooks_replace_turned_queries():
    model = of_kind("rotary")
    inputs = inputs_for(model)
    changed = model.run_with_hooks(inputs, fwd_hooks=[("blocks.0.attn.hook_rot_q", lambda q, hook: q * 0)])
    assert not torch.allclose(changed, model(inputs))


@pytest.mark.parametrize("kind", ["rotary", "relative"])
def test_left_padding_changes_no_output(kind: str):
    model = of_kind(kind)
    tokens = inputs_for(model)
    padded = torch.cat([torch.zeros(len(tokens), 3, dtype=torch.long), tokens], 1)
    mask = torch.cat([torch.zeros(len(tokens), 3, dtype=torch.long), torch.ones_like(tokens)], 1)
    assert_close(model(padded, attention_mask=mask)[:, 3:], model(tokens), 1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["rotary", "relative"])
def test_positions_in_half_precision_are_those_in_float32(kind: str, dtype: torch.dtype):
    half = of_kind(kind, dtype=dtype)
    exact = of_kind(kind, dtype=torch.float32)
    exact.load_state_dict(half.state_dict())
    inputs = inputs_for(half)
    for output in (half(inputs), half.run_with_hooks(inputs, fwd_hooks=[("blocks.0.attn.hook_pattern", keep)])):
        error = (output.float() - exact(inputs)).norm() / exact(inputs).norm()
        assert error < 16 * torch.finfo(dtype).eps


# Relative positions


@pytest.mark.parametrize("kind", ["relative", "relative, bidirectional"])
def test_a_query_meets_a_vector_for_each_offset_of_the_keys(kind: str):
    model = of_kind(kind)
    _, cache = model.run_with_cache(inputs_for(model))
    q, k, scores = cache["q", 1], cache["k", 1], cache["attn_scores", 1]
    first = 0 if kind == "relative" else SIZES["n_ctx"] - 1
    for i in range(5):
        for j in range(i + 1 if kind == "relative" else 5):
            key = k[:, j] + model.W_rel[1, :, first + i - j]
            assert_close(scores[:, :, i, j], (q[:, i] * key).sum(-1) / model.cfg.score_divisor)


def test_relative_positions_of_zero_are_no_positions():
    model, without = of_kind("relative"), network(d_vocab=17, positional_embedding_type="none", attn_scale=2.3)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_rel.zero_()
    weights = {name: weight for name, weight in model.state_dict().items() if not name.endswith("W_rel")}
    without.load_state_dict(weights)
    assert_close(model(inputs_for(model)), without(inputs_for(model)))


def test_relative_positions_make_a_previous_token_head():
    """One constant query and one offset: no embedding of positions is needed."""
    model, batch = of_kind("relative", n_layers=1), TASK.evaluation_batch(seed=0, batch_size=5)
    with torch.no_grad():
        attn = model.blocks[0].attn
        for weight in (attn.W_Q, attn.W_K, attn.b_K, attn.W_rel):
            weight.zero_()
        attn.b_Q.fill_(1)
        attn.W_rel[1, 1] = 20
    found = previous_token(model, batch).previous_token
    assert found.sel(head=1).item() > 0.99
    assert found.sel(head=0).item() < 0.5


def test_measures_that_need_absolute_positions_refuse_others():
    for kind, refused in (("rotary", "rotary ones"), ("relative", "relative ones")):
        scores = scores_of(kind)
        for name in ("position_pattern", "qk_attribution", "qk_identity_surgery"):
            assert isinstance(scores[name], str)
            assert scores[name].startswith(f"{name} needs attention scores")
            assert scores[name].endswith(refused)
        for name in ("previous_token", "prefix_matching", "ablation", "direct_attribution", "ov_eigenvalue"):
            assert not isinstance(scores[name], str), scores[name]
    # W_QK is what queries and keys have in common with relative positions too, and not with rotary ones.
    for name in ("k_composition", "qk_eigenvalue", "rank_stable"):
        assert isinstance(scores_of("rotary")[name], str)
        assert not isinstance(scores_of("relative")[name], str)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rotary_dim": 3}, "rotary_dim: 3 is not valid; it must be even, from 2 to d_head, which is 7"),
        ({"rotary_dim": 8}, "rotary_dim: 8 is not valid; it must be even, from 2 to d_head, which is 7"),
        ({"rotary_dim": 0}, "rotary_dim: 0 is not valid"),
        ({"positional_embedding_type": "rotary"}, "d_head: 7 is not valid with rotary positions; it must be even"),
        ({"rotary_base": 0.0}, "rotary_base: 0.0 is not valid; it must be finite and above 0"),
        ({"attn_scale": 0.0}, "attn_scale: 0.0 is not valid; it must be finite and above 0, or -1"),
        ({"attn_scale": float("nan")}, "attn_scale: nan is not valid"),
        ({"init_mode": "muP"}, "init_mode: 'muP' is not one of gpt2"),
        ({"normalization_type": "rms"}, "normalization_type: 'rms' is not one of LN, LNPre, RMS, RMSPre"),
        (
            {"tie_word_embeddings": True},
            "tie_word_embeddings: True is not valid with d_vocab_out 17; it must be d_vocab, which is 13",
        ),
        ({"attn_pdrop": 1.0}, "attn_pdrop: 1.0 is not valid; it must be at least 0 and below 1"),
        ({"resid_pdrop": -0.1}, "resid_pdrop: -0.1 is not valid"),
        ({"embd_pdrop": float("nan")}, "embd_pdrop: nan is not valid"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"^{message}"):
        ModelConfig(**SIZES | given)


# RMSNorm


def test_rms_norm_divides_by_the_root_mean_square_and_keeps_the_mean():
    norm = of_kind("RMS").blocks[0].ln1
    assert isinstance(norm, RMSNorm)
    x = torch.randn(3, 5, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.w)
    pre = of_kind("RMSPre").blocks[0].ln1(x)
    assert_close(pre.square().mean(-1), torch.ones(3, 5).double(), 1e-4)
    # What LayerNorm subtracts, a common shift of all entries, remains.
    assert not torch.allclose(norm(x + 1), norm(x))


def test_the_scale_of_the_stream_does_not_reach_what_follows_an_rms_norm():
    """Without eps, and without positions, each output is that of embeddings a thousand times as large."""
    model = of_kind("RMS", eps=0.0, n_layers=1, attn_only=True, positional_embedding_type="none")
    inputs = inputs_for(model)
    queries = model.run_with_cache(inputs)[1]["q", 0]
    with torch.no_grad():
        model.embed.W_E.mul_(1000)
    assert_close(model.run_with_cache(inputs)[1]["q", 0], queries, 1e-11)


@pytest.mark.parametrize("kind", ["RMS", "RMSPre", "RMS, solu_ln, rotary"])
def test_the_parts_of_the_stream_add_up_behind_an_rms_norm(kind: str):
    model, batch = of_kind(kind, d_vocab_out=17), TASK.evaluation_batch(seed=0, batch_size=3)
    terms = attribute_outputs(model, batch).sum("component")
    logits = model(batch.inputs).gather(-1, batch.targets[..., None])[..., 0]
    assert_close(torch.from_numpy(terms.values), logits.detach(), 1e-9)
    # TransformerLens's cache scales them likewise.
    _, cache = model.run_with_cache(batch.inputs)
    stack = cache.decompose_resid(apply_ln=True)
    w = getattr(model.ln_final, "w", torch.ones(11))
    assert_close(stack.sum(0) * w @ model.W_U + model.b_U, cache["unembed.hook_out"], 1e-9)


# Tied embeddings


def test_the_gradient_of_tied_embeddings_is_the_sum_of_both_uses():
    model = of_kind("tied")
    untied = network(d_vocab=17, d_vocab_out=17)
    untied.load_state_dict({**model.state_dict(), "unembed.W_U": model.W_E.detach().T})
    inputs = inputs_for(model)
    for each in (model, untied):
        each(inputs, return_type="loss").backward()
    assert untied.W_E.grad is not None
    assert untied.W_U.grad is not None
    assert model.W_E.grad is not None
    assert_close(model.W_E.grad, untied.W_E.grad + untied.W_U.grad.T)
    assert len(list(untied.parameters())) == len(list(model.parameters())) + 1


def test_tied_embeddings_stay_tied_in_copies_and_in_other_types():
    model = deepcopy(of_kind("tied")).float()
    with torch.no_grad():
        model.W_E.add_(1)
    assert torch.equal(model.W_U, model.W_E.T)
    assert model.W_U.dtype == torch.float32


# Dropout


def test_dropout_acts_in_training_only():
    model = of_kind("dropout")
    inputs = inputs_for(model)
    still = of_kind("dropout", embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
    assert torch.equal(model(inputs), still(inputs))
    model.train()
    assert not torch.equal(model(inputs), model(inputs))


@pytest.mark.parametrize("name", ["embd_pdrop", "attn_pdrop", "resid_pdrop"])
def test_each_dropout_keeps_the_mean_of_what_it_drops(name: str):
    cfg = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0, name: 0.4}
    model = of_kind("dropout", **cfg, positional_embedding_type="standard", n_layers=1).train()
    point = {"embd_pdrop": "hook_resid_pre", "attn_pdrop": "attn.hook_z", "resid_pdrop": "hook_attn_out"}[name]
    inputs = inputs_for(model)[:1].expand(4001, -1)
    exact = of_kind("dropout", positional_embedding_type="standard", n_layers=1)
    (dropped, kept) = (
        each.run_with_cache(inputs, names_filter=f"blocks.0.{point}")[1][f"blocks.0.{point}"] for each in (model, exact)
    )
    assert not torch.equal(dropped[0], dropped[1])
    # The mean of n draws is within 5 standard errors.
    error = dropped.std(0) / 4001**0.5
    assert ((dropped.mean(0) - kept[0]).abs() <= 5 * error + 1e-9).all()


def test_analysis_of_a_network_in_training_mode_has_no_dropout():
    model, batch = of_kind("dropout").train(), TASK.evaluation_batch(seed=0, batch_size=5)
    with shared_forward_pass():
        for measure in MEASURES:
            score = scores_of("dropout")[measure.name]
            if not isinstance(score, str):
                np.testing.assert_array_equal(measure(model, batch)[measure.name].values, score.values, measure.name)
    assert model.training
    patching = EdgePatching(model, batch, replacement="position_mean")
    assert_close(patching.clean.output, of_kind("dropout")(batch.inputs).detach())


def test_dropout_of_an_update_depends_on_the_seed_and_its_number_alone():
    """So a run that resumes has the dropout of one that was never stopped."""
    cfg = ModelConfig(n_layers=1, d_model=7, n_ctx=5, d_head=3, n_heads=2, d_vocab=7, resid_pdrop=0.3, attn_pdrop=0.2)

    def gradients(seed: int, indices: list[int]) -> list[Tensor]:
        module = TrainingModule(HookedTransformer(cfg), Counting(), OptimConfig(), 9, 5, seed)
        module.trainer = SimpleNamespace(world_size=1, global_rank=0, precision="32-true")  # pyright: ignore[reportAttributeAccessIssue]
        found = []
        for index in indices:
            before = torch.get_rng_state()
            optimizer = torch.optim.SGD(module.parameters())
            module.loss_and_gradient(index, optimizer)
            assert torch.equal(torch.get_rng_state(), before)
            found.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
        return found

    first, second = gradients(3, [0, 4]), gradients(3, [4])
    assert torch.equal(first[1], second[0])
    assert not torch.equal(gradients(5, [4])[0], second[0])


def test_a_run_with_dropout_groups_and_parts_that_resumes_is_the_undisturbed_one(tmp_path: Path):
    recipe = replace(
        TOKENS,
        model=replace(TOKENS.model, n_layers=1, attn_pdrop=0.2, resid_pdrop=0.3, embd_pdrop=0.1),
        optim=replace(TOKENS.optim, groups={"*.W_?": {"lr": 0.02}, "*.b_*": {"weight_decay": 0.0}}, accumulate=2),
    )
    whole = train(**vars(recipe), out=tmp_path / "whole", measures=(), progress=False)
    step = TrainingModule.loss_and_gradient

    def die(module: TrainingModule, index: int, optimizer: torch.optim.Optimizer) -> Tensor:
        if index == 10:
            raise ZeroDivisionError
        return step(module, index, optimizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "loss_and_gradient", die)
        with pytest.raises(ZeroDivisionError):
            train(**vars(recipe), out=tmp_path / "killed", measures=(), progress=False)
    again = resume(tmp_path / "killed", measures=(), progress=False)
    for name, weight in whole.model().state_dict().items():
        assert torch.equal(weight, again.model().state_dict()[name])
    assert not again.model().training


@pytest.mark.parametrize("name", ["embd_pdrop", "attn_pdrop", "resid_pdrop"])
def test_a_stack_refuses_dropout(name: str):
    recipe = replace(TOKENS, model=replace(TOKENS.model, **{name: 0.1}))
    with pytest.raises(ValueError, match=f"^model.{name}: 0.1 is not valid with together"):
        check_stackable(recipe)


# Initial weights


@pytest.mark.parametrize(
    ("mode", "variance", "bound"),
    [
        ("gpt2", 0.3**2, None),
        ("gpt2_scaled", 0.3**2, None),
        ("inverse_sqrt_d_model", 1 / 101, None),
        ("transformer_lens", 0.64 / 101, None),
        ("xavier_normal", 2 / (101 + 5 * 43), None),
        ("xavier_uniform", 2 / (101 + 5 * 43), (6 / (101 + 5 * 43)) ** 0.5),
        ("kaiming_normal", 2 / 101, None),
        ("kaiming_uniform", 2 / 101, (6 / 101) ** 0.5),
    ],
)
def test_initial_weights_have_the_variance_of_their_mode(mode: InitMode, variance: float, bound: float | None):
    cfg = ModelConfig(
        n_layers=1, d_model=101, n_ctx=7, d_head=43, n_heads=5, d_vocab=13, init_mode=mode, initializer_range=0.3
    )
    W_Q = HookedTransformer(cfg, seed=3).blocks[0].attn.W_Q.detach()
    ratio, n = W_Q.square().mean().item() / variance, W_Q.numel()
    assert abs(ratio - 1) < 5 * (2 / n) ** 0.5
    assert abs(W_Q.mean()) < 5 * (variance / n) ** 0.5
    if bound is not None:
        assert 0.99 * bound < W_Q.abs().max() <= bound
    assert torch.equal(W_Q, HookedTransformer(cfg, seed=3).blocks[0].attn.W_Q)


def test_what_writes_to_the_stream_starts_smaller_with_gpt2_scaled():
    cfg = ModelConfig(n_layers=3, d_model=101, n_ctx=7, d_head=43, n_heads=5, d_vocab=13)
    plain, scaled = (HookedTransformer(replace(cfg, init_mode=mode)) for mode in ("gpt2", "gpt2_scaled"))
    for name, weight in scaled.named_parameters():
        factor = 6**-0.5 if name.endswith((".W_O", ".W_out")) else 1
        torch.testing.assert_close(weight, factor * plain.get_parameter(name))


def test_nulls_are_initialised_as_the_network_is():
    cfg = ModelConfig(n_layers=1, d_model=101, n_ctx=7, d_head=43, n_heads=5, d_vocab=13, init_mode="kaiming_uniform")
    assert untrained(cfg).blocks[0].attn.W_Q.abs().max().item() == pytest.approx((6 / 101) ** 0.5, rel=1e-2)


# Files


def test_a_run_from_before_the_options_opens():
    recipe = Recipe(task=TASK, model=ModelConfig(n_layers=1, d_model=7, n_ctx=13, d_head=3, n_heads=2, d_vocab=17))
    values = recipe.to_dict()
    for option in ADDED_LATER:
        part, _, name = option.rpartition(".")
        (values[part] if part else values).pop(name, None)
    assert Recipe.from_dict(values) == recipe
