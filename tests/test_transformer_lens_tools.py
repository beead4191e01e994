"""TransformerLens's own tools run on our HookedTransformer, and say what is true of it."""

# pyright: reportArgumentType=false, reportCallIssue=false
# TransformerLens's tools declare its own config class; at work they read the fields that ours has as well.

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformer_lens import ActivationCache, head_detector, patching
from transformer_lens.SVDInterpreter import SVDInterpreter
from transformers import PreTrainedTokenizerFast

from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer

WORDS = ["<bos>", "<pad>", "<unk>", "Ann", "Ben", "Cat", "gave", "a", "book", "to", "and", "then", "."]
CLEAN, CORRUPTED = "Ann and Ben then Ann", "Ann and Cat then Ann"
CHANGED = 3  # where they differ, counting the BOS token
ANSWER, WRONG = "Ben", "Cat"

# Distinct primes: a transposed or a wrong axis cannot fit by luck.
SIZES: dict[str, Any] = {
    "n_layers": 2,
    "d_model": 11,
    "d_head": 7,
    "n_heads": 3,
    "d_vocab": 13,
    "d_mlp": 19,
    "n_ctx": 17,
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()  # pyright: ignore
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>", pad_token="<pad>", unk_token="<unk>")


@pytest.fixture
def build(tokenizer: PreTrainedTokenizerFast) -> Callable[..., HookedTransformer]:
    """Builds networks none of whose parameters is at a value that would hide a mistake: not 0, and not 1."""

    def network(**kinds: Any) -> HookedTransformer:
        model = HookedTransformer(ModelConfig(**SIZES | kinds), tokenizer).double().eval()
        draws = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draws, dtype=parameter.dtype) * 0.3
            parameter.data = 1 + noise if name.endswith(".w") else noise
        return model

    return network


@pytest.fixture
def model(build: Callable[..., HookedTransformer]) -> HookedTransformer:
    return build()


def assert_close(ours: Tensor, theirs: Tensor, atol: float = 1e-11) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0, check_dtype=False)


# Strings


def test_strings_to_tokens_and_back(model: HookedTransformer):
    ids = {word: i for i, word in enumerate(WORDS)}
    assert model.to_tokens("Ann gave").tolist() == [[ids["<bos>"], ids["Ann"], ids["gave"]]]
    assert model.to_tokens("Ann gave", prepend_bos=False).tolist() == [[ids["Ann"], ids["gave"]]]
    # Right-padded, so that positions mean the same in each row.
    assert model.to_tokens(["Ann gave", "Zoe"]).tolist() == [
        [ids["<bos>"], ids["Ann"], ids["gave"]],
        [ids["<bos>"], ids["<unk>"], ids["<pad>"]],
    ]
    assert model.to_str_tokens("Ann gave") == ["<bos>", "Ann", "gave"]
    assert model.to_str_tokens(["Ann gave", "Ben"]) == [["<bos>", "Ann", "gave"], ["<bos>", "Ben"]]
    assert model.to_str_tokens(torch.tensor([ids["book"], ids["."]])) == ["book", "."]
    assert model.to_string(model.to_tokens("Ann gave")[0]) == "<bos> Ann gave"
    assert model.to_string(model.to_tokens("Ann gave")) == ["<bos> Ann gave"]
    assert model.to_single_token("book") == ids["book"]
    assert model.to_single_str_token(ids["book"]) == "book"


def test_strings_are_cut_at_the_longest_input(model: HookedTransformer):
    long = " ".join(["Ann"] * 2 * SIZES["n_ctx"])
    assert model.to_tokens(long).shape == (1, SIZES["n_ctx"])
    assert model.to_tokens(long, truncate=False).shape == (1, 2 * SIZES["n_ctx"] + 1)
    assert model(long).shape == (1, SIZES["n_ctx"], SIZES["d_vocab"])


def test_strings_go_in(model: HookedTransformer):
    tokens = model.to_tokens([CLEAN, CORRUPTED])
    assert torch.equal(model([CLEAN, CORRUPTED]), model(tokens))
    assert torch.equal(model(CLEAN, prepend_bos=False), model(tokens[:1, 1:]))
    assert torch.equal(model(CLEAN, return_type="loss"), model(tokens[:1], return_type="loss"))
    _, cache = model.run_with_cache(CLEAN)
    assert cache["pattern", 0].shape[-1] == tokens.shape[1]


def test_several_tokens_are_not_one(model: HookedTransformer):
    with pytest.raises(ValueError, match=r"string: 'a book' is 2 tokens; it must be one"):
        model.to_single_token("a book")


def test_a_tokenizer_can_come_later(tokenizer: PreTrainedTokenizerFast):
    model = HookedTransformer(ModelConfig(**SIZES))
    model.set_tokenizer(tokenizer)
    assert torch.equal(model(CLEAN), model(model.to_tokens(CLEAN)))


# Head detector


def test_detector_finds_the_head_that_is_there(model: HookedTransformer):
    tokens = model.to_tokens(CLEAN)
    pos = tokens.shape[1]

    def attend_to_previous(pattern: Tensor, hook: Any) -> Tensor:
        pattern = pattern.clone()
        pattern[:, 2] = torch.eye(pos).roll(1, dims=0)
        pattern[:, 2, 0] = torch.eye(pos)[0]
        return pattern

    model.add_hook("blocks.1.attn.hook_pattern", attend_to_previous)
    scores = head_detector.detect_head(model, CLEAN, "previous_token_head")
    # The first query has no previous token to look at, and looks at itself.
    assert_close(scores[1, 2], torch.tensor((pos - 1) / pos, dtype=torch.float64))
    assert scores.argmax() == 1 * SIZES["n_heads"] + 2
    _, cache = model.run_with_cache(tokens)
    for layer in range(SIZES["n_layers"]):
        by_hand = cache["pattern", layer][0].diagonal(-1, 1, 2).sum(-1) / pos
        assert_close(scores[layer], by_hand)


def test_detector_knows_duplicates_and_induction(model: HookedTransformer):
    # BOS Ann and Ben then Ann: the only token that comes back is Ann, from 1 to 5; what followed it stands at 2.
    _, cache = model.run_with_cache(CLEAN, remove_batch_dim=True)
    pos = cache["pattern", 0].shape[-1]
    for kind, key in (("duplicate_token_head", 1), ("induction_head", 2)):
        scores = head_detector.detect_head(model, CLEAN, kind, cache=cache)
        by_hand = torch.stack([cache["pattern", layer][:, 5, key] / pos for layer in range(SIZES["n_layers"])])
        assert_close(scores, by_hand)
    both = head_detector.detect_head(model, [CLEAN, CORRUPTED], "induction_head")
    each = [head_detector.detect_head(model, text, "induction_head") for text in (CLEAN, CORRUPTED)]
    assert_close(both, (each[0] + each[1]) / 2)
    chosen = head_detector.detect_head(model, CLEAN, "induction_head", heads=[(1, 0)])
    assert_close(chosen[1, 0], each[0][1, 0])
    assert (chosen == -1).sum() == SIZES["n_layers"] * SIZES["n_heads"] - 1


# Patching


class Patching:
    """A clean and a corrupted run of a network, and how far its last position prefers the right answer."""

    def __init__(self, model: HookedTransformer):
        self.model = model
        self.answer, self.wrong = model.to_single_token(ANSWER), model.to_single_token(WRONG)
        self.clean, self.corrupted = model.to_tokens(CLEAN), model.to_tokens(CORRUPTED)
        self.pos = self.clean.shape[1]
        clean_logits, self.clean_cache = model.run_with_cache(self.clean)
        corrupted_logits, self.corrupted_cache = model.run_with_cache(self.corrupted)
        self.clean_value, self.corrupted_value = self.metric(clean_logits), self.metric(corrupted_logits)
        assert not torch.isclose(self.clean_value, self.corrupted_value)

    def metric(self, logits: Tensor) -> Tensor:
        return (logits[:, -1, self.answer] - logits[:, -1, self.wrong]).mean().detach()


# The results are float32 whatever the network is.
SINGLE = 1e-5

SWEEPS = {
    "get_act_patch_block_every": (3, "layer", "pos"),
    "get_act_patch_resid_mid": ("layer", "pos"),
    "get_act_patch_attn_head_all_pos_every": (5, "layer", "head"),
    "get_act_patch_attn_head_by_pos_every": (5, "layer", "pos", "head"),
    "get_act_patch_attn_head_pattern_dest_src_pos": ("layer", "head", "pos", "pos"),
}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_patching_the_same_run_changes_nothing(model: HookedTransformer, sweep: str):
    runs = Patching(model)
    values = getattr(patching, sweep)(model, runs.corrupted, runs.corrupted_cache, runs.metric)
    sizes = {"layer": SIZES["n_layers"], "pos": runs.pos, "head": SIZES["n_heads"]}
    assert values.shape == tuple(sizes.get(axis, axis) for axis in SWEEPS[sweep])
    assert_close(values, runs.corrupted_value.expand(values.shape), SINGLE)


def test_patching_the_residual_stream(model: HookedTransformer):
    runs = Patching(model)
    values = patching.get_act_patch_resid_pre(model, runs.corrupted, runs.clean_cache, runs.metric)
    # Before the first layer, the runs differ where the tokens do and nowhere else.
    expected = runs.corrupted_value.repeat(runs.pos)
    expected[CHANGED] = runs.clean_value
    assert_close(values[0], expected, SINGLE)
    # No query saw the difference before it came.
    assert_close(values[:, :CHANGED], runs.corrupted_value.expand(2, CHANGED), SINGLE)
    # Everything at once, at any depth, is the clean run.
    for layer in range(SIZES["n_layers"]):
        point = f"blocks.{layer}.hook_resid_pre"
        whole = model.run_with_hooks(runs.corrupted, fwd_hooks=[(point, lambda v, hook: runs.clean_cache[hook.name])])
        assert_close(runs.metric(whole), runs.clean_value)


def test_patching_heads_adds_up_where_the_network_is_linear_in_them(build: Callable[..., HookedTransformer]):
    # One layer of attention and no LayerNorm: the logits are linear in the heads' outputs, and the last token, which
    # the residual stream carries besides, is the same in both runs. So the heads' effects add up to all there is.
    model = build(n_layers=1, attn_only=True, normalization_type=None)
    runs = Patching(model)
    values = patching.get_act_patch_attn_head_out_all_pos(model, runs.corrupted, runs.clean_cache, runs.metric)
    assert values.shape == (1, SIZES["n_heads"])
    effects = values - runs.corrupted_value
    assert_close(effects.sum(), runs.clean_value - runs.corrupted_value, SINGLE)
    assert effects.abs().min() > SINGLE


def test_patching_one_head_is_what_a_hook_does(model: HookedTransformer):
    runs = Patching(model)
    values = patching.get_act_patch_attn_head_v_by_pos(model, runs.corrupted, runs.clean_cache, runs.metric)

    def patch(v: Tensor, hook: Any) -> Tensor:
        v = v.clone()
        v[:, CHANGED, 1] = runs.clean_cache[hook.name][:, CHANGED, 1]
        return v

    by_hand = model.run_with_hooks(runs.corrupted, fwd_hooks=[("blocks.0.attn.hook_v", patch)])
    assert_close(values[0, CHANGED, 1], runs.metric(by_hand), SINGLE)


def test_patching_the_path_between_two_heads(build: Callable[..., HookedTransformer]):
    direct_path = getattr(patching, "get_act_patch_direct_path", None)
    if direct_path is None:
        pytest.skip("this TransformerLens has no direct path patching")
    model = build()
    runs = Patching(model)
    values = direct_path(
        model, runs.corrupted, runs.clean_cache, runs.corrupted_cache, runs.metric, 0, 1, component="v", verbose=False
    )
    assert not model.cfg.use_split_qkv_input
    # By hand: what head L0H1 would have written more in the clean run, added to what head L1H2 reads for its values.
    written = [cache["z", 0][:, :, 1] @ model.W_O[0, 1] for cache in (runs.clean_cache, runs.corrupted_cache)]

    def add(value_input: Tensor, hook: Any) -> Tensor:
        value_input = value_input.clone()
        value_input[:, :, 2] += written[0] - written[1]
        return value_input

    model.set_use_split_qkv_input(True)
    by_hand = model.run_with_hooks(runs.corrupted, fwd_hooks=[("blocks.1.hook_v_input", add)])
    assert_close(values[1, 2], runs.metric(by_hand), SINGLE)
    assert not torch.isclose(runs.metric(by_hand), runs.corrupted_value)


def test_attribution_patching_is_the_gradient(model: HookedTransformer):
    module = pytest.importorskip("transformer_lens.tools.analysis.attribution_patching")
    runs = Patching(model)
    scores = module.attribution_patch(
        model, runs.clean, runs.corrupted, lambda logits: logits[0, -1, runs.answer] - logits[0, -1, runs.wrong]
    ).node_scores
    # By hand, for a head: the change of its z, along the gradient of the metric at the corrupted run.
    z = {}
    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", lambda value, hook: z.update(z=value))]):
        logits = model(runs.corrupted)
    (gradient,) = torch.autograd.grad(logits[0, -1, runs.answer] - logits[0, -1, runs.wrong], z["z"])
    change = runs.clean_cache["z", 1] - runs.corrupted_cache["z", 1]
    by_hand = (change * gradient).sum(-1)[0]
    for head in range(SIZES["n_heads"]):
        score = scores[module.Node(kind="attn_head_out", layer=1, head=head, position=runs.pos - 1)]
        assert_close(torch.tensor(score), by_hand[-1, head], SINGLE)


def test_interchange_of_everything_is_patching(model: HookedTransformer):
    analysis = pytest.importorskip("transformer_lens.tools.analysis")
    if not hasattr(analysis, "SubspaceInterchange"):
        pytest.skip("this TransformerLens has no interchange interventions")
    runs = Patching(model)
    point, where = "blocks.0.hook_resid_pre", torch.tensor([CHANGED])

    def task_logits(tokens: Tensor) -> Tensor:
        return model(tokens)[:, -1]

    source = analysis.collect_activations(model, point, runs.clean, task_logits, positions=where)
    assert_close(source, runs.clean_cache[point][:, CHANGED])
    everything = torch.eye(SIZES["d_model"], dtype=torch.float64)
    for basis, strength, same_as in [
        (everything, 1.0, runs.clean),
        (everything, 0.0, runs.corrupted),
        (everything[:, :0], 1.0, runs.corrupted),
    ]:
        swap = analysis.SubspaceInterchange(basis, strength)
        logits = analysis.run_with_intervention(
            model, point, swap, runs.corrupted, source, task_logits, positions=where
        )
        assert_close(logits, task_logits(same_as))


# Taking the residual stream apart


@pytest.mark.parametrize("positions", ["standard", "none"])
@pytest.mark.parametrize("attn_only", [False, True])
def test_components_add_up_to_the_residual_stream(
    build: Callable[..., HookedTransformer], positions: str, attn_only: bool
):
    model = build(positional_embedding_type=positions, attn_only=attn_only)
    _, cache = model.run_with_cache([CLEAN, CORRUPTED])
    final = cache["resid_post", -1]
    parts, labels = cache.decompose_resid(return_labels=True)
    attn_and_mlp = ["attn_out"] if attn_only else ["attn_out", "mlp_out"]
    assert labels == [
        "embed",
        *(["pos_embed"] if positions == "standard" else []),
        *(f"{layer}_{kind}" for layer in range(2) for kind in attn_and_mlp),
    ]
    assert_close(parts.sum(0), final)
    assert_close(cache.decompose_resid(layer=1).sum(0), cache["resid_pre", 1])

    stream, labels = cache.accumulated_resid(incl_mid=not attn_only, return_labels=True)
    kinds = {"pre": "resid_pre", "mid": "resid_mid", "post": "resid_post"}
    for value, label in zip(stream, labels, strict=True):
        layer, kind = label.replace("final", "1").split("_")
        assert_close(value, cache[kinds[kind], int(layer)])

    everything, labels = cache.get_full_resid_decomposition(return_labels=True)
    assert len(labels) == len(everything)
    assert_close(everything.sum(0), final)
    assert_close(
        cache.get_full_resid_decomposition(expand_neurons=False).sum(0) if not attn_only else everything.sum(0), final
    )


@pytest.mark.parametrize("use_attn_result", [False, True])
def test_heads_add_up_to_their_layer(model: HookedTransformer, use_attn_result: bool):
    model.set_use_attn_result(use_attn_result)
    _, cache = model.run_with_cache(CLEAN)
    heads, labels = cache.stack_head_results(return_labels=True)
    assert labels == model.all_head_labels()
    for layer in range(SIZES["n_layers"]):
        of_layer = heads[layer * SIZES["n_heads"] : (layer + 1) * SIZES["n_heads"]]
        assert_close(of_layer.sum(0) + model.b_O[layer], cache["attn_out", layer])
    with_rest = cache.stack_head_results(incl_remainder=True)
    assert_close(with_rest.sum(0), cache["resid_post", -1])
    neurons = cache.stack_neuron_results(1, incl_remainder=True)
    assert_close(neurons.sum(0), cache["resid_post", 0])
    assert_close(neurons[:-1].sum(0) + model.blocks[0].mlp.b_out, cache["mlp_out", 0])  # pyright: ignore


def test_layer_norm_of_the_parts_is_that_of_the_sum(model: HookedTransformer):
    _, cache = model.run_with_cache(CLEAN)
    for layer, mlp_input in [(1, False), (1, True)]:
        parts = cache.decompose_resid(layer=layer, mlp_input=mlp_input, apply_ln=True)
        assert_close(parts.sum(0), cache["normalized", layer, "ln2" if mlp_input else "ln1"])


@pytest.mark.parametrize("normalization_type", ["LN", "LNPre", None])
@pytest.mark.parametrize("unit", ["component", "layer", "head"])
def test_direct_logit_attribution_adds_up_to_the_logit(
    build: Callable[..., HookedTransformer], normalization_type: str | None, unit: str
):
    attribution = pytest.importorskip("transformer_lens.tools.analysis.direct_logit_attribution")
    # Folded, so that the columns of W_U are all that stands between the normalised residual stream and a logit.
    model = build(normalization_type=normalization_type).processed()
    logits = model(CLEAN)
    answer, wrong = model.to_single_token(ANSWER), model.to_single_token(WRONG)
    from_stream = logits - model.b_U

    def total(result: Any) -> Tensor:
        # "layer" is the residual stream as it grows, of which the last is all; the other units are parts of it.
        return result.attribution[-1] if unit == "layer" else result.attribution.sum(0)

    # Processing is done in single precision.
    logit = attribution.direct_logit_attribution(model, CLEAN, answer_tokens=ANSWER, unit=unit, pos=None)
    assert_close(total(logit), from_stream[..., answer], SINGLE)
    last = attribution.direct_logit_attribution(model, CLEAN, answer_tokens=answer, incorrect_tokens=wrong, unit=unit)
    assert_close(total(last), from_stream[:, -1, answer] - from_stream[:, -1, wrong], SINGLE)


def test_logit_attributions_of_one_token_an_example(model: HookedTransformer):
    model = model.processed()
    logits, cache = model.run_with_cache([CLEAN, CORRUPTED])
    answers = torch.tensor([model.to_single_token(ANSWER), model.to_single_token(WRONG)])
    parts = cache.decompose_resid(pos_slice=-1)
    totals = cache.logit_attrs(parts, answers, pos_slice=-1).sum(0)
    expected = (logits - model.b_U)[:, -1].gather(1, answers[:, None])[:, 0]
    assert_close(totals, expected, SINGLE)


def test_logit_lens_ends_at_the_logits(model: HookedTransformer):
    analysis = pytest.importorskip("transformer_lens.tools.analysis")
    if not hasattr(analysis, "logit_lens"):
        pytest.skip("this TransformerLens has no logit lens in one call")
    result = analysis.logit_lens(model, model.to_tokens(CLEAN), positions=None)
    logits, cache = model.run_with_cache(CLEAN)
    assert result.labels == ["0_pre", "1_pre", "final_post"]
    for layer in range(SIZES["n_layers"]):
        assert_close(result.values[layer], model.unembed(model.ln_final(cache["resid_pre", layer])))
    assert_close(result.values[-1], logits)


def test_cache_methods_know_our_names(model: HookedTransformer):
    _, cache = model.run_with_cache(CLEAN)
    assert isinstance(cache, ActivationCache)
    assert torch.equal(cache["q", 1], cache["blocks.1.attn.hook_q"])
    assert torch.equal(cache["scale"], cache["ln_final.hook_scale"])
    assert torch.equal(cache["mlp_out", -1], cache["blocks.1.hook_mlp_out"])
    assert cache.stack_activation("pattern").shape[:3] == (SIZES["n_layers"], 1, SIZES["n_heads"])


# Singular vectors


def test_singular_vectors_are_those_of_the_products(model: HookedTransformer):
    model = model.float()  # version 3.9 takes no other
    interpreter = SVDInterpreter(model)
    few = 5
    cases = [
        (interpreter.get_singular_vectors("OV", 1, num_vectors=few, head_index=2), model.W_V[1, 2] @ model.W_O[1, 2]),
        (interpreter.get_singular_vectors("w_out", 1, num_vectors=few), model.W_out[1]),
        # What a neuron reads is its column of W_in through the weights of the LayerNorm before it.
        (
            interpreter.get_singular_vectors("w_in", 1, num_vectors=few),
            model.W_in[1].T * model.blocks[1].ln2.w,  # pyright: ignore
        ),
    ]
    for theirs, matrix in cases:
        assert theirs.shape == (SIZES["d_vocab"], 1, few)
        directions = torch.linalg.svd(matrix).Vh[:few]
        # The sign of a singular vector is arbitrary.
        assert_close(theirs[:, 0].abs(), (directions @ model.W_U).T.abs(), SINGLE)
