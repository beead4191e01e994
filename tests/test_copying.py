"""Effective embeddings and the copying score, beside brute force from weights and on heads that copy and do not."""

from collections.abc import Callable

import einops
import pytest
import torch
from networks import D_VOCAB, gpt2_bridge, with_random_biases
from torch import Tensor
from toys import TOKENS

from headway.analyze import DoesNotApplyError
from headway.analyze.measures.attribution import as_read, as_scaled, attribute_outputs, reads, unembedding
from headway.analyze.network.forward import forward_pass
from headway.analyze.tools.copying import copying_score, effective_embedding
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch
from headway.models.config import ModelConfig
from headway.models.convert import Model
from headway.models.handmade import copying_head, uniform_head
from headway.models.hooked_transformer import HookedTransformer

SEQUENCES = RepeatedTokens(n_tokens=13, length=11, period_min=3, period_max=5)


def random(**changes: object) -> HookedTransformer:
    config = ModelConfig(**{**TOKENS.model.as_given(), "attn_only": False, "d_mlp": 29, **changes})  # pyright: ignore
    return with_random_biases(HookedTransformer(config))


NETWORKS: dict[str, Callable[[], Model]] = {
    "LN": random,
    "folded": lambda: random().processed(),
    "no LN": lambda: random(normalization_type=None),
    "shortformer": lambda: random(positional_embedding_type="shortformer"),
    "no positions": lambda: random(positional_embedding_type="none"),
    "GPT-2 bridge": gpt2_bridge,
}
each_network = pytest.mark.parametrize("network", NETWORKS)


def batch_of(model: Model) -> Batch:
    task = SEQUENCES if isinstance(model, HookedTransformer) else RepeatedTokens(D_VOCAB - 1, 11, 3, 5)
    return task.evaluation_batch(seed=0, batch_size=5)


def by_weights(model: Model, tokens: Tensor, mlp: bool) -> Tensor:
    """Layer 0 with every head attending to the token itself, written out."""
    block, x = model.blocks[0], model.W_E[tokens][None]
    v = einops.einsum(block.ln1(x), model.W_V[0], "b p a, h a d -> b p h d") + model.b_V[0]
    x = x + einops.einsum(v, model.W_O[0], "b p h d, h d a -> b p a") + model.b_O[0]
    if mlp:
        x = x + block.mlp(block.ln2(x))
    return x[0].detach()


@each_network
@pytest.mark.parametrize("mlp", [False, True])
def test_an_effective_embedding_is_layer_0_attending_to_the_token_alone(network: str, mlp: bool):
    model, tokens = NETWORKS[network](), torch.tensor([3, 11, 2, 3])
    found = effective_embedding(model, tokens, mlp)
    torch.testing.assert_close(found, by_weights(model, tokens, mlp), rtol=1e-4, atol=1e-5)


def test_without_an_mlp_there_is_no_effective_embedding_with_it():
    model = random(attn_only=True)
    with pytest.raises(DoesNotApplyError, match="an effective embedding with MLP 0 needs MLPs"):
        effective_embedding(model, torch.tensor([3]))
    with pytest.raises(DoesNotApplyError, match="an effective embedding with MLP 0 needs MLPs"):
        copying_score(model, torch.tensor([3]), mlp=True)
    assert copying_score(model, torch.tensor([3])).shape == (2, 3)
    with pytest.raises(ValueError, match="tokens: 14 does not exist; this network has tokens 0 to 13"):
        effective_embedding(model, torch.tensor([3, 14]), mlp=False)
    with pytest.raises(ValueError, match="k: 15 is not valid; it must be 1 to 14"):
        copying_score(model, torch.tensor([3]), k=15)


@each_network
@pytest.mark.parametrize("sign", [1, -1])
def test_the_copying_score_counts_names_among_the_largest_logits(network: str, sign: int):
    model, tokens = NETWORKS[network](), torch.arange(1, 14)
    score = copying_score(model, tokens, k=3, sign=sign)  # pyright: ignore[reportArgumentType]
    for layer in range(2):
        read = model.blocks[layer].ln1(by_weights(model, tokens, mlp=True)[None])[0].detach()
        read = read - getattr(model.blocks[layer].ln1, "b", 0)
        for head in range(model.cfg.n_heads):
            written = read @ model.W_V[layer, head] @ model.W_O[layer, head]
            logits = (sign * written @ unembedding(model)).detach()
            expected = sum(int(token in row.topk(3).indices) for token, row in zip(tokens, logits, strict=True)) / 13
            assert score[layer, head].item() == pytest.approx(expected)


def test_folding_changes_no_copying_score():
    model, tokens = random(), torch.arange(1, 14)
    for folded in (model.processed(), model.processed(center_unembed=False)):
        for k in (1, 3, 7):
            assert copying_score(model, tokens, k=k).equals(copying_score(folded, tokens, k=k))


def test_a_head_that_copies_and_one_that_takes_away():
    tokens = torch.arange(1, 13)
    copies, takes = (copying_head(sign)[0] for sign in (1.0, -1.0))
    # What layer 0 makes of a token: twice the token for one that copies itself, and nothing for one that takes it away.
    assert copying_score(copies, tokens, k=1).item() == 1
    assert copying_score(copies, tokens, k=1, sign=-1).item() == 0
    assert effective_embedding(takes, tokens, mlp=False).abs().max() == 0
    # A head that writes nothing says every token alike, and what all share is no hit.
    assert copying_score(uniform_head()[0], tokens, k=5).item() == 0


@each_network
def test_what_a_layer_reads_is_what_it_would_read(network: str):
    """Of the real residual stream, as_read gives what queries and keys read, but for shortformer positions."""
    model = NETWORKS[network]()
    batch = batch_of(model)
    activations = forward_pass(model, batch).activations
    for layer in range(2):
        read = as_read(model, layer, activations[f"blocks.{layer}.hook_resid_pre"])
        if network == "shortformer":
            read = read + activations["hook_pos_embed"]
        torch.testing.assert_close(read, reads(model, batch, layer), rtol=1e-4, atol=1e-5)


@each_network
def test_a_constant_part_is_scaled_as_the_residual_stream_is(network: str):
    """Taking it out before a LayerNorm that keeps its scale takes away just that."""
    model = NETWORKS[network]()
    batch = batch_of(model)
    vector = torch.linspace(-1, 2, model.cfg.d_model)
    resid = forward_pass(model, batch).activations["blocks.1.hook_resid_pre"]
    centred = resid - resid.mean(-1, keepdim=True)
    scale = (centred.pow(2).mean(-1, keepdim=True) + model.cfg.eps).sqrt()
    w = getattr(model.blocks[1].ln1, "w", torch.ones(model.cfg.d_model))
    expected = vector if network == "no LN" else (vector - vector.mean()) / scale * w
    found = as_scaled(model, batch, 1, vector)
    torch.testing.assert_close(found, expected.expand_as(resid).detach(), rtol=1e-4, atol=1e-5)


@each_network
def test_the_unembedding_is_what_the_last_layer_norm_and_w_u_make_of_a_direction(network: str):
    """Of the sum of what all components write, divided by the scale, it gives the logits but for the constant."""
    model = NETWORKS[network]()
    batch = batch_of(model)
    activations = forward_pass(model, batch).activations
    scale = activations["ln_final.hook_scale"] if network != "no LN" else 1.0
    logits = activations["blocks.1.hook_resid_post"] / scale @ unembedding(model)
    terms = attribute_outputs(model, batch)
    expected = torch.from_numpy(terms.drop_sel(component="constant").sum("component").values)
    found = logits.gather(-1, batch.targets[..., None])[..., 0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
