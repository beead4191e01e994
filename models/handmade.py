"""Handmade transformers with known weights: the ground truth that every measure is tested against.

The residual stream has three parts: the token (one-hot), the previous token (one-hot, written by a previous-token
head), and the position (one-hot). There is no LayerNorm, no MLP and no bias. Each function returns a network and a
batch on which the network does what its name says; the sizes are distinct primes. A network for another task has its
own layout, which its docstring describes.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headway.data.affine_recurrence import AffineRecurrence
from headway.data.conditionals import ELSE, IF, generate_prompts, twins
from headway.data.indirect_object import IndirectObject
from headway.data.markov_chains import MarkovChains
from headway.data.modular_addition import ModularAddition
from headway.data.previous_token import PreviousToken
from headway.data.repeated_synonyms import RepeatedSynonyms
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.seeds import generator
from headway.data.task import Batch
from headway.data.tokenizer import one_token, train_bpe, wrapped
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TASK = RepeatedTokens(n_tokens=12, length=17, period_min=5, period_max=7, late_start=0.0)
D_VOCAB, N_CTX, D_HEAD = 13, 17, 19
TOKEN = slice(0, D_VOCAB)
PREVIOUS = slice(D_VOCAB, 2 * D_VOCAB)
POSITION = slice(2 * D_VOCAB, 2 * D_VOCAB + N_CTX)
# A matching query and key score SHARP² / sqrt(D_HEAD) = 33, which leaves 1e-13 of the attention to other keys.
SHARP = 12.0
BOS = 0


def uniform_head() -> tuple[HookedTransformer, Batch]:
    """One head with zero weights, which attends uniformly and writes nothing.

    Example:
        >>> model, batch = uniform_head()
        >>> model.run_with_cache(batch.inputs)[1]["pattern", 0][0, 0, 3, :5].tolist()
        [0.25, 0.25, 0.25, 0.25, 0.0]
    """
    return _blank(n_layers=1, n_heads=1), _batch()


def previous_token_head() -> tuple[HookedTransformer, Batch]:
    """One head that attends to position q - 1 and writes its token to PREVIOUS.

    W_Q: position q → e_q, W_K: position k → e_(k+1); W_OV: TOKEN → PREVIOUS.
    """
    model = _blank(n_layers=1, n_heads=1)
    _attend_to(model, 0, 0, lambda q: q - 1)
    _copy(model, 0, 0, TOKEN, PREVIOUS)
    return model, _batch()


def current_token_head() -> tuple[HookedTransformer, Batch]:
    """One head that attends to its own position."""
    model = _blank(n_layers=1, n_heads=1)
    _attend_to(model, 0, 0, lambda q: q)
    return model, _batch()


def first_token_head() -> tuple[HookedTransformer, Batch]:
    """One head that attends to position 0."""
    model = _blank(n_layers=1, n_heads=1)
    _attend_to(model, 0, 0, lambda q: 0)
    return model, _batch()


def offset_head(offset: int = 3) -> tuple[HookedTransformer, Batch]:
    """One head that attends to position q - ``offset``; a position that has none attends uniformly."""
    model = _blank(n_layers=1, n_heads=1)
    _attend_to(model, 0, 0, lambda q: q - offset)
    return model, _batch()


def mirror_head() -> tuple[HookedTransformer, Batch]:
    """One head that attends to position n - 1 - q, as far from the end as q is from the start."""
    model = _blank(n_layers=1, n_heads=1)
    _attend_to(model, 0, 0, lambda q: N_CTX - 1 - q)
    return model, _batch()


def duplicate_token_head() -> tuple[HookedTransformer, Batch]:
    """One head that attends to earlier copies of the current token, or to its own position if there is none.

    W_Q, W_K: TOKEN → its own direction; POSITION lowers the score of the current position below that of a copy.
    """
    model = _blank(n_layers=1, n_heads=1, d_head=D_VOCAB + N_CTX + 1)
    attention = model.blocks[0].attn
    for W in (attention.W_Q, attention.W_K):
        _write(W, 0, TOKEN, SHARP)
    with torch.no_grad():
        own = torch.eye(N_CTX) * SHARP / 2**0.5
        attention.W_Q[0, POSITION, D_VOCAB:-1], attention.W_K[0, POSITION, D_VOCAB:-1] = own, -own
        attention.W_Q[0, BOS], attention.W_K[0, BOS] = 0, 0
    return model, _batch()


def copying_head(sign: float = 1.0) -> tuple[HookedTransformer, Batch]:
    """One head that attends uniformly and raises the logit of each token it attends to; ``sign`` -1 lowers it.

    W_OV: TOKEN → sign · TOKEN.
    """
    model = _blank(n_layers=1, n_heads=1)
    _copy(model, 0, 0, TOKEN, TOKEN, sign)
    return model, _batch()


def low_rank_head() -> tuple[HookedTransformer, Batch]:
    """One head whose W_OV has rank 3, singular values 3, 2 and 1, and eigenvalues 3, 2 and -1.

    W_OV: the first three tokens → themselves, times 3, 2 and -1.
    """
    model = _blank(n_layers=1, n_heads=1)
    _copy(model, 0, 0, TOKEN, TOKEN)
    with torch.no_grad():
        eigenvalues = torch.zeros(D_VOCAB)
        eigenvalues[:3] = torch.tensor([3.0, 2.0, -1.0])
        model.blocks[0].attn.W_O[0, :D_VOCAB, TOKEN] = torch.diag(eigenvalues)
    return model, _batch()


def composing_pair(kind: Literal["q", "k", "v"]) -> tuple[HookedTransformer, Batch]:
    """Two layers of two heads, in which only the queries, keys or values of L1H1 (``kind``) read what L0H0 writes.

    L0H0 is a previous-token head; L0H1 and L1H0 are zero. With k, L1H1 is an induction head: its keys read PREVIOUS,
    its queries read TOKEN, and it copies. With q, it attends to copies of the previous token (the mirror image). With
    v, it copies the token before the one it attends to.

    Example:
        >>> model, batch = composing_pair("k")
        >>> repeats = TASK.parts(batch)["repeats"]
        >>> bool((model(batch.inputs).argmax(-1) == batch.targets)[repeats].all())
        True
    """
    model = _blank(n_layers=2, n_heads=2)
    _attend_to(model, 0, 0, lambda q: q - 1)
    _copy(model, 0, 0, TOKEN, PREVIOUS)
    attention = model.blocks[1].attn
    _write(attention.W_Q, 1, PREVIOUS if kind == "q" else TOKEN, SHARP)
    _write(attention.W_K, 1, PREVIOUS if kind == "k" else TOKEN, SHARP)
    _copy(model, 1, 1, PREVIOUS if kind == "v" else TOKEN, TOKEN, 20.0)
    return model, _batch()


SYNONYMS = RepeatedSynonyms(n_pairs=6, length=11, period_min=5, period_max=5)


@torch.no_grad()
def fuzzy_pair() -> tuple[HookedTransformer, Batch]:
    """The induction circuit of ``composing_pair`` for synonyms, and sequences whose second half consists of synonyms.

    L1H1 attends as if the current token were its synonym, and predicts the synonym of the token it attends to.

    Example:
        >>> model, batch = fuzzy_pair()
        >>> repeats = SYNONYMS.parts(batch)["repeats"]
        >>> bool((model(batch.inputs).argmax(-1) == batch.targets)[repeats].all())
        True
    """
    model, _ = composing_pair("k")
    attention = model.blocks[1].attn
    attention.W_Q[1, TOKEN] = attention.W_Q[1, TOKEN][SYNONYMS.synonyms]
    attention.W_O[1, :D_VOCAB] = attention.W_O[1, :D_VOCAB][SYNONYMS.synonyms]
    return model, SYNONYMS.evaluation_batch(seed=0, batch_size=29)


NO_POSITIONS = PreviousToken(n_tokens=D_VOCAB - 1, length=11)


@torch.no_grad()
def position_from_bos() -> tuple[HookedTransformer, Batch]:
    """Two layers that find the previous token without position embeddings, from the attention of a uniform head to BOS.

    L0H0 attends uniformly and writes its attention to BOS, 1 / (q + 1). MLP 0 turns this value into the position,
    one-hot: for each position, three neurons form a bump around its value. L1H0 reads the position to attend to the
    previous token, and copies.

    Example:
        >>> model, batch = position_from_bos()
        >>> bool((model(batch.inputs).argmax(-1) == batch.targets)[:, 1:].all())
        True
    """
    length = NO_POSITIONS.length
    at = slice(D_VOCAB + 1, D_VOCAB + 1 + length)
    model = HookedTransformer(
        ModelConfig(
            n_layers=2,
            d_model=29,
            n_ctx=length,
            d_head=D_HEAD,
            n_heads=1,
            d_vocab=D_VOCAB,
            d_mlp=3 * length,
            positional_embedding_type="none",
            normalization_type=None,
            initializer_range=0.0,
        )
    )
    model.W_E[:, TOKEN] = torch.eye(D_VOCAB)
    model.W_U[TOKEN] = torch.eye(D_VOCAB)
    model.blocks[0].attn.W_V[0, BOS, 0] = 1.0
    model.blocks[0].attn.W_O[0, 0, D_VOCAB] = 1.0
    share = 1 / torch.arange(1.0, length + 2)
    mlp = model.blocks[0].mlp
    mlp.W_in[D_VOCAB] = 1.0
    for q in range(length):
        # A bump of the attention to BOS: it rises from share[q + 1], peaks at share[q] and ends at share[q - 1].
        bends = [q + 1, q] if q == 0 else [q + 1, q, q - 1]
        rise, fall = 1 / (share[q] - share[q + 1]), 0.0 if q == 0 else 1 / (share[q - 1] - share[q])
        for i, (bend, slope) in enumerate(zip(bends, (rise, -rise - fall, fall), strict=False)):
            mlp.b_in[3 * q + i] = -share[bend]
            mlp.W_out[3 * q + i, at.start + q] = slope
    attention = model.blocks[1].attn
    attention.W_K[0, at, :length] = SHARP * torch.eye(length)
    attention.W_Q[0, at, :length] = SHARP * torch.eye(length).roll(-1, 1)
    _copy(model, 1, 0, TOKEN, TOKEN, 20.0)
    return model.eval(), NO_POSITIONS.evaluation_batch(seed=0, batch_size=29)


ONE_CHAIN = MarkovChains(n_states=5, length=17, n_chains=1)


@torch.no_grad()
def known_chain() -> tuple[HookedTransformer, Batch]:
    """A network without attention that knows a Markov chain by heart: each token's logits are its log-probabilities.

    Example:
        >>> model, batch = known_chain()
        >>> rows = ONE_CHAIN.pool[0][batch.inputs]
        >>> bool(torch.allclose(model(batch.inputs).softmax(-1), rows.float()))
        True
    """
    states = ONE_CHAIN.n_states
    model = HookedTransformer(
        ModelConfig(
            n_layers=1,
            d_model=7,
            n_ctx=ONE_CHAIN.n_ctx,
            d_head=3,
            n_heads=1,
            d_vocab=states,
            attn_only=True,
            normalization_type=None,
            initializer_range=0.0,
        )
    )
    model.W_E[:, :states] = torch.eye(states)
    model.W_U[:states] = ONE_CHAIN.pool[0].log()
    return model.eval(), ONE_CHAIN.evaluation_batch(seed=0, batch_size=29)


ADDITION = ModularAddition(p=7)


@torch.no_grad()
def table_of_sums(table: Float[Tensor, "a b c"]) -> tuple[HookedTransformer, Batch]:
    """One layer that answers a pair (a, b) with the logits ``table[a, b]``, and pairs that are held out.

    At the last position L0H0 reads a and L0H1 reads b; for each pair the MLP has one neuron, which is 1 for this pair
    and 0 for all others.

    Example:
        >>> table = torch.randn(7, 7, 7, generator=torch.Generator().manual_seed(0))
        >>> model, batch = table_of_sums(table)
        >>> a, b, _ = batch.inputs.unbind(1)
        >>> bool(torch.allclose(model(batch.inputs)[:, -1], table[a, b], atol=1e-5))
        True
    """
    p = ADDITION.p
    number, at, out = slice(0, p), slice(p, p + 3), slice(p + 3, 2 * p + 3)
    read = [slice(2 * p + 3, 3 * p + 3), slice(3 * p + 3, 4 * p + 3)]
    model = HookedTransformer(
        ModelConfig(
            n_layers=1,
            d_model=37,
            n_ctx=3,
            d_head=11,
            n_heads=2,
            d_vocab=p + 1,
            d_vocab_out=p,
            d_mlp=p**2,
            normalization_type=None,
            initializer_range=0.0,
        )
    )
    model.W_E[:p, number] = torch.eye(p)
    model.W_pos[:, at] = torch.eye(3)
    model.W_U[out] = torch.eye(p)
    attention, mlp = model.blocks[0].attn, model.blocks[0].mlp
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    for head, part in enumerate(read):
        attention.W_Q[head, at.start + 2, 0] = SHARP
        attention.W_K[head, at.start + head, 0] = SHARP
        attention.W_V[head, number, :p] = torch.eye(p)
        attention.W_O[head, :p, part] = torch.eye(p)
        mlp.W_in[part] = (pairs[:, head] == torch.arange(p)[:, None]).float()
    mlp.b_in[:] = -1.0
    mlp.W_out[:, out] = table.flatten(0, 1)
    return model.eval(), ADDITION.evaluation_batch(seed=0, batch_size=11)


def waves(*frequencies: int, size: float = 1.0) -> Float[Tensor, "a b c"]:
    """Return the logits of Fourier multiplication: the sum of ``size`` cos(2πk (a + b - c) / p) over the frequencies k.

    Example:
        >>> waves(1)[2, 3].argmax().item()  # 2 + 3
        5
    """
    numbers = torch.arange(float(ADDITION.p))
    angle = 2 * math.pi / ADDITION.p * (numbers[:, None, None] + numbers[:, None] - numbers)
    return size * torch.stack([torch.cos(k * angle) for k in frequencies]).sum(0)


def memorised(size: float = 20.0) -> Float[Tensor, "a b c"]:
    """Return logits that are right on the training pairs of ADDITION, and 0 on all others.

    Example:
        >>> int((memorised() != 0).sum())  # of 49 pairs
        25
    """
    training = ADDITION.training_batch(0, 0, ADDITION.n_sequences.training)
    a, b, _ = training.inputs.unbind(1)
    table = torch.zeros((ADDITION.p,) * 3)
    table[a, b, training.targets[:, -1]] = size
    return table


VECTORS = AffineRecurrence(d_vector=7, length_max=12)


@torch.no_grad()
def linear_network(circuit: Float[Tensor, "d_vector d_vector"], heads: int = 1) -> tuple[HookedTransformer, Batch]:
    """A linear network over vectors, which predicts ``x + mean(x so far) circuit``, and a batch of vectors.

    It has one layer with uniform attention. W_E W_OV W_U of the last head is ``circuit``; the other heads are zero.

    Example:
        >>> model, batch = linear_network(-torch.eye(7))
        >>> model(batch.inputs)[0, 0].abs().max().item()  # x - x
        0.0
    """
    d_vector = VECTORS.d_vector
    model = HookedTransformer(
        ModelConfig(
            n_layers=1,
            d_model=D_HEAD,
            n_ctx=VECTORS.n_ctx,
            d_head=d_vector,
            n_heads=heads,
            d_vocab=d_vector,
            attn_only=True,
            normalization_type=None,
            initializer_range=0.0,
            input_type="vectors",
        )
    )
    model.W_E[:, :d_vector] = torch.eye(d_vector)
    model.W_U[:d_vector] = torch.eye(d_vector)
    model.blocks[0].attn.W_V[-1, :d_vector] = torch.eye(d_vector)
    model.blocks[0].attn.W_O[-1, :, :d_vector] = circuit
    return model.eval(), VECTORS.evaluation_batch(seed=0, batch_size=29)


OSCILLATING = AffineRecurrence(d_vector=7, length_max=12, c_min=-1.1, c_max=-0.9)


@torch.no_grad()
def affine_reader() -> tuple[HookedTransformer, Batch]:
    """Three layers that treat vectors as Bhargav & Gu describe, and sequences in which every second vector is similar.

    L0H0 attends to the previous vector and adds half of it. L1H0 attends to the second vector and writes it to a
    subspace outside of the embedding. L2H0 attends to vectors similar to the current one, with queries and keys that
    also read what L1H0 wrote, and subtracts the vector it attends to. The network shows what each layer does; it does
    not predict the next vector.
    """
    d_vector, length = OSCILLATING.d_vector, OSCILLATING.n_ctx
    vector, aside = slice(0, d_vector), slice(d_vector, 2 * d_vector)
    at = slice(2 * d_vector, 2 * d_vector + length)
    model = HookedTransformer(
        ModelConfig(
            n_layers=3,
            d_model=29,
            n_ctx=length,
            d_head=D_HEAD,
            n_heads=1,
            d_vocab=d_vector,
            attn_only=True,
            normalization_type=None,
            initializer_range=0.0,
            input_type="vectors",
        )
    )
    one = torch.eye(d_vector)
    model.W_E[:, vector] = one
    model.W_pos[:, at] = torch.eye(length)
    model.W_U[vector] = one
    for block, write, size in zip(model.blocks, (vector, aside, vector), (0.5, 1.0, -1.0), strict=True):
        block.attn.W_V[0, vector, :d_vector] = one
        block.attn.W_O[0, :d_vector, write] = size * one
    first, second, third = (block.attn for block in model.blocks)
    first.W_K[0, at, :length] = SHARP * torch.eye(length)
    first.W_Q[0, at, :length] = SHARP * torch.eye(length).roll(-1, 1)
    second.W_K[0, at.start + 1, 0] = SHARP
    second.W_Q[0, at, 0] = SHARP
    for W in (third.W_Q, third.W_K):
        W[0, vector, :d_vector] = SHARP * one
        W[0, aside, d_vector : 2 * d_vector] = 2 * SHARP * one
    return model.eval(), OSCILLATING.evaluation_batch(seed=0, batch_size=29)


SENTENCES = IndirectObject(n_names=7)


@torch.no_grad()
def name_movers() -> tuple[HookedTransformer, Batch]:
    """Four layers of two heads that solve indirect object identification as GPT-2 does (Wang et al. 2022).

    The residual stream has the token, the position, and three copies of the vocabulary: *repeated*, *inhibited* and
    *output*, which W_U reads. The other heads are zero.

    - L0H0, a duplicate-token head, attends to an earlier copy of a name and writes it to *repeated*, at S2.
    - L1H0, an S-inhibition head, attends to positions where *repeated* holds a name and writes it to *inhibited*.
    - L2H0, a name mover, attends to names that are not in *inhibited* and writes them to *output*.
    - L3H0, a negative name mover, attends to the name in *output* and subtracts a quarter of it.

    Example:
        >>> model, batch = name_movers()
        >>> end = SENTENCES.parts(batch)["end"]
        >>> bool((model(batch.inputs).argmax(-1) == batch.targets)[end].all())
        True
    """
    V, length, names = SENTENCES.d_vocab, SENTENCES.n_ctx, SENTENCES.name_tokens
    token, repeated, inhibited, output = (slice(i * V, (i + 1) * V) for i in range(4))
    at = slice(4 * V, 4 * V + length)
    model = HookedTransformer(
        ModelConfig(
            n_layers=4,
            d_model=at.stop,
            n_ctx=length,
            d_head=V + length + 1,
            n_heads=2,
            d_vocab=V,
            attn_only=True,
            normalization_type=None,
            initializer_range=0.0,
        )
    )
    size, own, always = 23.0, slice(V, V + length), -1
    model.W_E[:, token] = torch.eye(V)
    model.W_pos[:, at] = torch.eye(length)
    model.W_U[output] = 20 * torch.eye(V)
    one = torch.zeros(V, V)
    one[names, names] = 1.0
    repeat, inhibit, move, negative = (block.attn for block in model.blocks)
    for W in (repeat.W_Q, repeat.W_K):
        W[0, token, :V] = size * one
    # The current position is not an earlier copy. Without one the head attends to BOS, from which it writes nothing.
    repeat.W_Q[0, at, own], repeat.W_K[0, at, own] = size * torch.eye(length), -size * torch.eye(length)
    repeat.b_Q[0, always], repeat.W_K[0, BOS, always] = size, size / 2
    inhibit.b_Q[0, always], inhibit.W_K[0, repeated, always] = size, size
    move.b_Q[0, always], move.W_K[0, token, always] = size, size * one.sum(0)
    move.W_Q[0, inhibited, :V], move.W_K[0, token, :V] = -size * one, size * one
    negative.W_Q[0, output, :V], negative.W_K[0, token, :V] = size * one, size * one
    for attention, read, write, scale in (
        (repeat, token, repeated, 1.0),
        (inhibit, repeated, inhibited, 1.0),
        (move, token, output, 1.0),
        (negative, token, output, -0.25),
    ):
        attention.W_V[0, read, :V] = one
        attention.W_O[0, :V, write] = scale * one
    return model.eval(), SENTENCES.evaluation_batch(seed=0, batch_size=29)


@cache
def conditionals_tokenizer() -> "PreTrainedTokenizerFast":
    """Return a BPE tokenizer, trained on the texts from which the prompts before `` else`` are generated."""
    draw = generator("data", 0)
    return wrapped(train_bpe([text for _ in range(101) for text in twins(draw, lines=3)], n_tokens=401))


@torch.no_grad()
def if_else() -> tuple[HookedTransformer, Batch]:
    """One layer that predicts `` else`` because of `` if``, after ``)`` by one more head; and prompts before `` else``.

    Every query of L0H0 attends to `` if``; in L0H1 the queries of ``)`` do. Both heads raise the logit of `` else``
    there. The embedding of ``)`` cancels what L0H1 adds, so the output does not show it. L0H2 raises the logit of ``)``
    for each ``(``. L0H2 and the other five heads, which write small random vectors, attend uniformly.

    Example:
        >>> model, batch = if_else()
        >>> bool((model(batch.inputs)[:, -1].argmax(-1) == batch.targets[:, -1]).all())
        True
    """
    tokenizer, n_heads = conditionals_tokenizer(), 8
    V, always = len(tokenizer), D_HEAD - 1
    token, out = slice(V), slice(V, 2 * V)
    model = HookedTransformer(
        ModelConfig(
            n_layers=1,
            d_model=2 * V + N_CTX,
            n_ctx=N_CTX,
            d_head=D_HEAD,
            n_heads=n_heads,
            d_vocab=V,
            attn_only=True,
            normalization_type=None,
            initializer_range=0.0,
        ),
        tokenizer,
    )
    model.W_E[:, token] = torch.eye(V)
    model.W_pos[:, 2 * V :] = torch.eye(N_CTX)
    model.W_U[out] = torch.eye(V)
    attention = model.blocks[0].attn
    if_token, else_token, opening, closing = (one_token(tokenizer, string) for string in (IF, ELSE, "(", ")"))
    score, raised = 6.0, 9.0
    each = (score * D_HEAD**0.5) ** 0.5
    attention.b_Q[0, always], attention.W_K[0, if_token, always] = each, each
    attention.W_Q[1, closing, always], attention.W_K[1, if_token, always] = each, each
    batch = generate_prompts(tokenizer, seed=0, count=58)
    length = batch.inputs.shape[1]
    # For any other query L0H1 attends uniformly.
    more = math.exp(score) / (math.exp(score) + length - 1) - 1 / length
    model.W_E[closing, V + else_token] = -more * raised
    little = torch.randn(2, n_heads, V, D_HEAD, generator=generator("init", 0))
    attention.W_V[:, token], attention.W_O[:, :, out] = 0.1 * little[0], 0.1 * little[1].mT
    for head, source, destination in ((0, if_token, else_token), (1, if_token, else_token), (2, opening, closing)):
        attention.W_V[head, :, 0], attention.W_O[head, 0] = 0.0, 0.0
        attention.W_V[head, source, 0], attention.W_O[head, 0, V + destination] = 1.0, raised
    return model.eval(), batch


def _batch() -> Batch:
    return TASK.evaluation_batch(seed=0, batch_size=29)


@torch.no_grad()
def _blank(n_layers: int, n_heads: int, d_head: int = D_HEAD) -> HookedTransformer:
    """Return a network without attention weights, in which tokens and positions are one-hot and W_U reads TOKEN."""
    model = HookedTransformer(
        ModelConfig(
            n_layers=n_layers,
            d_model=2 * D_VOCAB + N_CTX,
            n_ctx=N_CTX,
            d_head=d_head,
            n_heads=n_heads,
            d_vocab=D_VOCAB,
            attn_only=True,
            normalization_type=None,
            initializer_range=0.0,
        )
    )
    model.W_E[:, TOKEN] = torch.eye(D_VOCAB)
    model.W_pos[:, POSITION] = torch.eye(N_CTX)
    model.W_U[TOKEN] = torch.eye(D_VOCAB)
    return model.eval()


@torch.no_grad()
def _write(W: Tensor, head: int, part: slice, size: float) -> None:
    """Map the i-th direction of ``part`` to the i-th dimension of the head."""
    n = part.stop - part.start
    W[head, part, :n] = size * torch.eye(n)


@torch.no_grad()
def _attend_to(model: HookedTransformer, layer: int, head: int, where: Callable[[int], int]) -> None:
    """Make position q attend to position ``where(q)``."""
    attention = model.blocks[layer].attn
    _write(attention.W_K, head, POSITION, SHARP)
    for q in range(N_CTX):
        if where(q) >= 0:
            attention.W_Q[head, POSITION.start + q, where(q)] = SHARP


@torch.no_grad()
def _copy(model: HookedTransformer, layer: int, head: int, read: slice, write: slice, size: float = 1.0) -> None:
    """Make the head copy the ``read`` part of what it attends to into the ``write`` part."""
    attention = model.blocks[layer].attn
    _write(attention.W_V, head, read, 1.0)
    attention.W_O[head, :D_VOCAB, write] = size * torch.eye(D_VOCAB)
