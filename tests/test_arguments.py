"""Every argument of a network is used or refused by name; every type and shape is taken, or a ValueError."""

# pyright: reportArgumentType=false, reportCallIssue=false

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from random_networks import BATCH, POS, SIZES, assert_close, inputs_for, network
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from headway.analyze.measures.composition import k_composition, q_composition, v_composition
from headway.data.tokenizer import format_token, token_string, train_bpe, wrapped
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer
from headway.models.hooks import SWITCHES

TEXTS = ["a b", "a b c d e"]
pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return wrapped(train_bpe(["a b c d e"], n_tokens=257))


@pytest.fixture
def speaker(tokenizer: PreTrainedTokenizerFast) -> HookedTransformer:
    """A network that reads strings."""
    model = network(d_vocab=257, d_vocab_out=257)
    model.set_tokenizer(tokenizer)
    return model


@pytest.fixture
def model() -> HookedTransformer:
    return network(d_vocab_out=SIZES["d_vocab"])


# Arguments that would be swallowed


def test_no_method_takes_arguments_that_it_does_not_name():
    passes_on = {"run_with_cache", "run_with_hooks", "hooks", "add_hook", "add_caching_hooks", "load_state_dict", "to"}
    for name, method in vars(HookedTransformer).items():
        if inspect.isfunction(method) and not name.startswith("_") and name not in passes_on:
            kinds = {parameter.kind for parameter in inspect.signature(method).parameters.values()}
            assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}, name


def test_strings_are_padded_on_the_side_that_is_asked_for(speaker: HookedTransformer):
    right, left = (speaker.to_tokens(TEXTS, padding_side=side) for side in ("right", "left"))
    short = len(speaker.to_tokens(TEXTS[0])[0])
    padding = torch.full((right.shape[1] - short,), speaker.tokenizer.pad_token_id)
    assert torch.equal(right[0], torch.cat([right[0, :short], padding]))
    assert torch.equal(left[0], torch.cat([padding, right[0, :short]]))
    assert torch.equal(left[1], right[1])


def test_padding_of_strings_counts_in_no_loss_and_changes_no_logit(speaker: HookedTransformer):
    alone = [speaker(text, return_type="loss", loss_per_token=True) for text in TEXTS]
    assert_close(speaker(TEXTS, return_type="loss"), torch.cat([loss[0] for loss in alone]).mean())
    bidirectional = network(d_vocab=257, d_vocab_out=257, attention_dir="bidirectional")
    bidirectional.set_tokenizer(speaker.tokenizer)
    short = bidirectional(TEXTS[0])
    assert_close(bidirectional(TEXTS)[:1, : short.shape[1]], short)


NESTED = r"'model' is a .*pass state_dict\['model'\]"
REFUSED: dict[str, tuple[Callable[[HookedTransformer, Tensor], Any], str]] = {
    "stop too late": (lambda m, x: m(x, stop_at_layer=99), r"stop_at_layer: 99 is not valid; it must be -2 to 2"),
    "stop too early": (lambda m, x: m(x, stop_at_layer=-3), r"stop_at_layer: -3 is not valid"),
    "start too late": (lambda m, x: m(x, start_at_layer=3), r"start_at_layer: 3 is not valid"),
    "stop before the start": (
        lambda m, x: m(m(x, stop_at_layer=2), start_at_layer=2, stop_at_layer=1),
        r"stop_at_layer: 1 is not valid; it must be 2 or more",
    ),
    "a loss without logits": (lambda m, x: m(x, "loss", stop_at_layer=1), r"return_type: 'loss' is not valid with"),
    "a loss per token of no loss": (lambda m, x: m(x, loss_per_token=True), r"loss_per_token: True is not valid with"),
    "tokens said twice": (lambda m, x: m(x, tokens=x), r"tokens: it is not valid without start_at_layer"),
    "positions it does not have": (
        lambda m, x: m(m(x, stop_at_layer=1), start_at_layer=1, shortformer_pos_embed=m(x, stop_at_layer=1)),
        r"shortformer_pos_embed: it is not valid for this network",
    ),
    "no stream": (lambda m, x: m(x, start_at_layer=1), r"input: .*shape \(2, 5\) is not valid with start_at_"),
    "a side that is none": (lambda m, x: m.to_tokens("a", padding_side="top"), r"padding_side: 'top' is not one of"),
    "no strings": (lambda m, x: m.to_tokens([]), r"input: \[\] is not valid; it must be a string"),
    "numbers for strings": (lambda m, x: m.to_tokens([1, 2]), r"input: \[1, 2\] is not valid; it must be a string"),
    "strings and numbers": (lambda m, x: m(["a", 2]), r"input: \['a', 2\] is not valid; it must be a string"),
    "tokens without a loss": (
        lambda m, x: m(m(x, stop_at_layer=1), start_at_layer=1, tokens=x),
        r"tokens: it is not valid with return_type 'logits'; only a loss needs it",
    ),
    "a BOS before tokens": (lambda m, x: m(x, prepend_bos=True), r"prepend_bos: True is not valid beside an"),
    "a BOS to continue": (lambda m, x: m.generate(x, prepend_bos=False), r"prepend_bos: False is not valid beside"),
    "a side of tokens": (lambda m, x: m.generate(x, padding_side="left"), r"padding_side: 'left' is not valid beside"),
    "an end that is no token": (lambda m, x: m.generate(x, eos_token_id=999), r"eos_token_id: 999 is not .*0 to 12"),
    "positions from 4 to 2": (
        lambda m, x: m.run_with_cache(x, pos_slice=(4, 2)), r"pos_slice: slice\(4, 2, None\) is not valid; .* 0 to 4",
    ),
    "no positions": (lambda m, x: m.run_with_cache(x, pos_slice=(3, 3)), r"pos_slice: slice\(3, 3, None\) is not"),
    "an empty list of positions": (lambda m, x: m.run_with_cache(x, pos_slice=[]), r"pos_slice: \[\] is not valid"),
    "bools for tokens": (lambda m, x: m(x > 0), r"input: torch.bool of shape \(2, 5\) is not valid; .*integer tokens"),
    "tokens of too many axes": (lambda m, x: m(x[:, :, None]), r"input: torch.int64 of shape \(2, 5, 1\) is not valid"),
    "a mask of another shape": (lambda m, x: m(x, attention_mask=x[:, 1:] * 0), r"attention_mask: torch.int64 of"),
    "a mask of other values": (lambda m, x: m(x, attention_mask=x * 0 + 2), r"attention_mask: .*must be 0 at"),
    "a loss of one token": (lambda m, x: m(x[:, :1], return_type="loss"), r"loss: no position predicts a token"),
    "a loss of padding": (lambda m, x: m(x, "loss", attention_mask=x * 0), r"loss: no position predicts a token"),
    "a loss of other tokens": (lambda m, x: m.loss_fn(m(x), x[:, 1:]), r"tokens: torch.int64 of shape \(2, 4\) is not"),
    "a token without a logit": (lambda m, x: m.loss_fn(m(x), x + 99), r"tokens: some have no logit; .* from 0 to 12"),
    "a checkpoint": (lambda m, x: m.load_state_dict({"model": m.state_dict()}), NESTED),
    "a checkpoint to process": (
        lambda m, x: m.load_and_process_state_dict({"model": m.state_dict()}), NESTED,
    ),
    "half of the weights": (lambda m, x: m.load_state_dict({"embed.W_E": m.W_E}), r"state_dict: .* Missing key"),
    "half to process": (lambda m, x: m.load_and_process_state_dict({"embed.W_E": m.W_E}), r"state_dict: .* is missing"),
    "a bias after the last layer": (lambda m, x: m.accumulated_bias(3), r"layer: 3 is not valid; it must be 0 to 2"),
    "directions of no token": (lambda m, x: m.tokens_to_residual_directions(99), r"tokens: 99 are not .* 0 to 12"),
    "directions of half a token": (lambda m, x: m.tokens_to_residual_directions(x / 2), r"tokens: torch.float32 is"),
    "a mode": (lambda m, x: m.all_composition_scores("X"), r"mode: 'X' is not one of Q, K, V"),
    "several sequences as one": (lambda m, x: m.to_str_tokens(x), r"input: tokens of shape \(2, 5\) are not valid"),
    "a token that is not there": (lambda m, x: m.get_token_position(12, x[:1] * 0), r"single_token: 12 does not occur"),
    "no new tokens": (lambda m, x: m.generate(x, max_new_tokens=0), r"max_new_tokens: 0 is not valid"),
    "too many new tokens": (lambda m, x: m.generate(x, 99), r"max_new_tokens: 99 is not valid after 5 positions"),
    "a cache of keys": (lambda m, x: m.generate(x, use_past_kv_cache=True), r"use_past_kv_cache: True is not one of"),
    "a greedy top k": (lambda m, x: m.generate(x, do_sample=False, top_k=3), r"top_k: 3 is not valid with do_sample="),
    "top k and top p": (lambda m, x: m.generate(x, top_k=3, top_p=0.5), r"top_p: 0.5 is not valid with top_k"),
    "a negative temperature": (lambda m, x: m.generate(x, temperature=-1), r"temperature: -1 is not valid"),
    "no end": (lambda m, x: m.generate(x, stop_at_eos=True), r"stop_at_eos: True is not valid without an end token"),
    "pretrained weights": (lambda m, x: m.from_pretrained("gpt2"), r"from_pretrained: .* call .*load_bridge\(name\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_meaning_is_refused_by_name(
    model: HookedTransformer, tokenizer: PreTrainedTokenizerFast, case: str
):
    if case not in ("no end",):
        model.set_tokenizer(tokenizer)
    attempt, why = REFUSED[case]
    with pytest.raises(ValueError, match=why) as raised:
        attempt(model, inputs_for(model))
    assert "\n" not in str(raised.value)


def test_shortformer_positions_are_asked_for_in_the_middle():
    model = network(positional_embedding_type="shortformer")
    stream = model(inputs_for(model), stop_at_layer=1)
    with pytest.raises(
        ValueError, match=r"shortformer_pos_embed: None is not valid with start_at_layer; .*hook_pos_embed"
    ):
        model(stream, start_at_layer=1)
    model(model(inputs_for(model), stop_at_layer=2), start_at_layer=2)  # no block reads them any more


# Types that are taken


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_tokens_of_every_integer_type_are_taken(model: HookedTransformer, dtype: torch.dtype):
    tokens = inputs_for(model)
    assert torch.equal(model(tokens.to(dtype)), model(tokens))
    assert torch.equal(model(tokens.to(dtype), return_type="loss"), model(tokens, return_type="loss"))
    stream = model(tokens, stop_at_layer=1)
    assert_close(
        model(stream, start_at_layer=1, tokens=tokens.to(dtype), return_type="loss"), model(tokens, return_type="loss")
    )


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.int64, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("positions", ["standard", "none"])
def test_masks_of_every_type_are_taken(dtype: torch.dtype, positions: str):
    model = network(d_vocab_out=SIZES["d_vocab"], positional_embedding_type=positions)
    tokens, mask = inputs_for(model), torch.ones(BATCH, POS, dtype=torch.bool)
    mask[0, 3:] = False
    for return_type in ("logits", "loss"):
        assert torch.equal(
            model(tokens, return_type, attention_mask=mask.to(dtype)), model(tokens, return_type, attention_mask=mask)
        )


def test_vectors_of_another_precision_are_taken():
    model = network(input_type="vectors", dtype=torch.float32)
    vectors = inputs_for(model)
    assert torch.equal(model(vectors.double()), model(vectors))


def test_processing_keeps_the_switches():
    model = network(dtype=torch.float32)
    simpler = model
    for switch in SWITCHES:
        getattr(model, f"set_{switch}")(True)
        simpler = model.processed()
        assert {name for name in SWITCHES if getattr(simpler.cfg, name)} == {
            name for name in SWITCHES if getattr(model.cfg, name)
        }
    assert "blocks.0.attn.hook_result" in simpler.run_with_cache(inputs_for(model))[1]


# What TransformerLens's class had


def test_the_loss_is_the_next_tokens_cross_entropy(model: HookedTransformer):
    tokens = inputs_for(model)
    logits = model(tokens)
    by_hand = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    assert_close(model.loss_fn(logits, tokens, per_token=True), by_hand)
    assert_close(model.loss_fn(logits, tokens), by_hand.mean())


def test_composition_scores_are_the_measures(model: HookedTransformer):
    for mode, measure in (("Q", q_composition), ("K", k_composition), ("V", v_composition)):
        scores = model.all_composition_scores(mode)
        earlier = scores[0, :, 1]
        measured = torch.tensor(measure(model, None)[f"{mode.lower()}_composition"].values[0, :, 1])
        assert_close(earlier.float(), measured.float(), 1e-5)
        assert scores.count_nonzero() == earlier.numel()


@pytest.mark.parametrize("attn_only", [False, True])
def test_parameters_of_the_blocks_are_counted(attn_only: bool):
    model = network(attn_only=attn_only)
    weights = (p.numel() for name, p in model.blocks.named_parameters() if ".W_" in name)  # pyright: ignore
    assert model.cfg.n_params == sum(weights)
    assert ModelConfig(**model.cfg.to_dict()) == model.cfg


def test_greedy_tokens_are_the_most_likely_ones(model: HookedTransformer):
    tokens = inputs_for(model)
    found = model.generate(tokens, max_new_tokens=3, do_sample=False)
    assert torch.equal(found[:, :POS], tokens)
    assert torch.equal(model(found)[:, POS - 1 : -1].argmax(-1), found[:, POS:])
    assert torch.equal(model.generate(tokens, 3, temperature=0.0), found)
    assert torch.equal(model.generate(tokens, 3, top_k=1), found)


def test_sampled_tokens_follow_the_probabilities(model: HookedTransformer):
    torch.manual_seed(0)
    tokens = inputs_for(model)[:1].repeat(4001, 1)
    drawn = model.generate(tokens, max_new_tokens=1)[:, -1].bincount(minlength=SIZES["d_vocab"]) / len(tokens)
    probabilities = model(tokens[:1])[0, -1].softmax(-1)
    assert (drawn - probabilities).abs().max() < 5 * (0.25 / len(tokens)) ** 0.5


def test_a_sequence_ends_at_its_end_token(model: HookedTransformer):
    tokens = inputs_for(model)
    free = model.generate(tokens, 4, do_sample=False)
    end = int(free[0, POS + 1])
    found = model.generate(tokens, 4, do_sample=False, eos_token_id=end)
    for row, unbound in zip(found[:, POS:].tolist(), free[:, POS:].tolist(), strict=True):
        stop = unbound.index(end) + 1 if end in unbound else len(unbound)
        assert row[:stop] == unbound[:stop][: len(row)]
        assert all(token == end for token in row[stop:])
    assert torch.equal(model.generate(tokens, 4, do_sample=False, eos_token_id=end, stop_at_eos=False), free)


def test_strings_are_continued_as_if_each_were_alone(speaker: HookedTransformer):
    alone = [speaker.generate(text, 4, do_sample=False, stop_at_eos=False) for text in TEXTS]
    together = speaker.generate(TEXTS, 4, do_sample=False, stop_at_eos=False)
    assert together == alone
    assert all(new.startswith(text) for new, text in zip(together, TEXTS, strict=True))
    assert speaker.generate(TEXTS[0], 4, return_type="tokens").shape[0] == 1


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ({"attention_dir": "bidirectional"}, "is bidirectional"),
        ({"input_type": "vectors"}, "takes vectors"),
        ({"d_vocab_out": 17}, "has 13 inputs and 17 outputs"),
    ],
)
def test_only_a_network_of_next_tokens_generates(kind: dict[str, Any], why: str):
    model = network(**{"d_vocab_out": SIZES["d_vocab"]} | kind)
    with pytest.raises(ValueError, match=f"generate: .*{why}"):
        model.generate(inputs_for(model))


def test_what_is_left_out_says_what_replaces_it(model: HookedTransformer):
    for name, instead in (("fold_layer_norm", "processed"), ("sample_datapoint", "task.batch"), ("W_gate", "no gate")):
        with pytest.raises(AttributeError, match=rf"no '{name}'; .*{instead}"):
            getattr(model, name)
    assert not hasattr(model, "something_else")


def test_the_position_of_a_token(model: HookedTransformer):
    tokens = torch.tensor([5, 3, 5, 7])
    assert model.get_token_position(5, tokens) == 0
    assert model.get_token_position(5, tokens[None], mode="last") == 2


# Parts of characters


def test_a_part_of_a_character_is_shown_by_its_bytes(speaker: HookedTransformer):
    strings = speaker.to_str_tokens("é a", prepend_bos=False)
    assert strings == [r"\xc3", r"\xa9", " ", "a"]
    strings = [token_string(speaker.tokenizer, token) for token in range(257)]
    assert len(set(strings)) == len(strings)
    assert not any("\ufffd" in string for string in strings)
    high = [string for string in strings if string.startswith("\\x")]
    assert {bytes([int(string[2:], 16)]) for string in high} == {bytes([byte]) for byte in range(128, 256)}
    quoted = {format_token(speaker.tokenizer, token) for token in range(257)}
    assert r"'\xe6'" in quoted
    assert len(quoted) == 257
    assert speaker.to_single_str_token(speaker.to_tokens("é", prepend_bos=False)[0, 1].item()) == r"\xa9"
