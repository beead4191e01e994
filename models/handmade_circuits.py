"""Handmade networks that solve a task by a circuit that is known: which nodes carry it, and through which edges.

Most of them predict repeated tokens. Their residual stream has four parts: the token (one-hot), *written* (what the
first layer writes), *output* (what W_U reads), and the position (one-hot). Where an induction head finds nothing, it
attends to BOS, from which it writes nothing: on twins these networks are at chance. The sizes are distinct primes.

An edge belongs to the circuit if the value of its source differs between a sequence and what stands in for it, and if
the use that its target makes of this difference changes the answer. Positions, and what is computed from positions
alone, are the same in every sequence: they carry nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headway.data.affine_recurrence import AffineRecurrence
from headway.data.repeated_synonyms import RepeatedSynonyms
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch
from headway.models import handmade
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer

# The twin of 12 tokens after BOS needs 12 different ones.
REPEATS = RepeatedTokens(n_tokens=12, length=13, period_min=3, period_max=5)
D_HEAD = 41
BOS = 0


@dataclass(frozen=True)
class KnownCircuit:
    """A network, a batch on which it solves its task, and the edges that carry the task's behaviour.

    ``build`` returns the network and the batch; ``edges`` are names such as ``L0H0->L1H1.k``. The parts of a circuit
    that do the same, each of which suffices without the others, stand in ``copies``; ``edges`` holds those of all.
    """

    build: Callable[[], tuple[HookedTransformer, Batch]]
    edges: tuple[str, ...]
    copies: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that write something of which the circuit makes use: the sources of its edges."""
        return tuple(dict.fromkeys(edge.split("->")[0] for edge in self.edges))


@dataclass(frozen=True)
class _Induction:
    """Builds networks for repeated tokens: an empty one, to which heads are added."""

    model: HookedTransformer
    task: RepeatedTokens

    @classmethod
    @torch.no_grad()
    def empty(cls, task: RepeatedTokens = REPEATS, **config: Any) -> "_Induction":
        """Return a network without attention weights, of two layers with two heads."""
        V, length = task.d_vocab, task.n_ctx
        sizes = {
            "n_layers": 2, "n_heads": 2, "d_model": 3 * V + length, "d_head": max(D_HEAD, V + length + 1),
            "n_ctx": length, "d_vocab": V, "attn_only": True, "normalization_type": None, "initializer_range": 0.0,
        }  # fmt: skip
        model = HookedTransformer(ModelConfig(**(sizes | config)))
        self = cls(model.eval(), task)
        model.W_E[:, self.token] = torch.eye(V)
        model.W_pos[:, self.position] = torch.eye(length)
        model.W_U[self.output] = torch.eye(V)
        return self

    @property
    def token(self) -> slice:
        return slice(0, self.task.d_vocab)

    @property
    def written(self) -> slice:
        return slice(self.task.d_vocab, 2 * self.task.d_vocab)

    @property
    def output(self) -> slice:
        return slice(2 * self.task.d_vocab, 3 * self.task.d_vocab)

    @property
    def position(self) -> slice:
        return slice(3 * self.task.d_vocab, 3 * self.task.d_vocab + self.task.n_ctx)

    @property
    def sharp(self) -> float:
        """Size of queries and keys of which a match scores 33, half of that against BOS."""
        return (33 * self.model.cfg.d_head**0.5) ** 0.5

    @torch.no_grad()
    def previous_token(self, head: int) -> None:
        """Make a head of layer 0 attend to the token before, and write it to *written*."""
        attention, length = self.model.blocks[0].attn, self.task.n_ctx
        attention.W_K[head, self.position, :length] = self.sharp * torch.eye(length)
        attention.W_Q[head, self.position, :length] = self.sharp * torch.eye(length).roll(-1, 1)
        attention.W_Q[head, self.position.start] = 0.0
        self.write(0, head, self.token, torch.eye(self.task.d_vocab), self.written)

    @torch.no_grad()
    def duplicate_token(self, head: int) -> None:
        """Make a head of layer 0 attend to earlier copies of the token, and write their position to *written*.

        The score of the current position is half of that of a copy: without a copy the head attends to itself.
        """
        attention, V, length = self.model.blocks[0].attn, self.task.d_vocab, self.task.n_ctx
        own = self.sharp / 2**0.5 * torch.eye(length)
        for W in (attention.W_Q, attention.W_K):
            W[head, self.token, :V] = self.sharp * torch.eye(V)
            W[head, BOS] = 0.0
        attention.W_Q[head, self.position, V : V + length] = own
        attention.W_K[head, self.position, V : V + length] = -own
        where = slice(self.written.start, self.written.start + length)
        self.write(0, head, self.position, torch.eye(length), where)

    @torch.no_grad()
    def induction(self, head: int, query: slice, key: slice, value: slice, size: float = 20.0) -> None:
        """Make a head of layer 1 attend where ``key`` equals ``query``, else to BOS, and copy ``value`` to *output*."""
        attention, V = self.model.blocks[1].attn, self.task.d_vocab
        attention.W_Q[head, query, :V] = self.sharp * torch.eye(V)
        attention.W_K[head, key, :V] = self.sharp * torch.eye(V)
        self.rest_on_bos(head)
        # Centred, so that the constant which a LayerNorm takes from every entry writes nothing.
        copied = torch.zeros(V, V)
        copied[BOS + 1 :, BOS + 1 :] = size * (torch.eye(V - 1) - 1 / (V - 1))
        self.write(1, head, value, copied, self.output)

    @torch.no_grad()
    def rest_on_bos(self, head: int) -> None:
        """Give BOS half of the score of a match, so that a head of layer 1 attends to it where nothing matches."""
        attention = self.model.blocks[1].attn
        attention.b_Q[head, -1], attention.W_K[head, BOS, -1] = self.sharp, self.sharp / 2

    @torch.no_grad()
    def write(self, layer: int, head: int, read: slice, matrix: Float[Tensor, "read write"], write: slice) -> None:
        """Set the OV circuit of a head: from one part of the residual stream to another."""
        attention, n = self.model.blocks[layer].attn, read.stop - read.start
        attention.W_V[head, read, :n] = torch.eye(n)
        attention.W_O[head, :n, write] = matrix

    def result(self) -> tuple[HookedTransformer, Batch]:
        return self.model, self.task.evaluation_batch(seed=0, batch_size=29)


def induction_circuit(task: RepeatedTokens = REPEATS, **config: Any) -> tuple[HookedTransformer, Batch]:
    """A previous-token head L0H0 and an induction head L1H1, which K-composition joins; the other heads are zero.

    ``config`` are fields of ModelConfig: the kind of positions, the direction of attention.

    Example:
        >>> model, batch = induction_circuit()
        >>> repeats = REPEATS.parts(batch)["repeats"]
        >>> bool((model(batch.inputs).argmax(-1) == batch.targets)[repeats].all())
        True
    """
    parts = _Induction.empty(task, **config)
    parts.previous_token(0)
    parts.induction(1, parts.token, parts.written, parts.token)
    return parts.result()


@torch.no_grad()
def layer_norm_induction() -> tuple[HookedTransformer, Batch]:
    """The induction circuit with a LayerNorm before each layer and before W_U (LNPre).

    The residual stream holds as many ones at every position, so that its scale carries nothing.
    """
    model, batch = induction_circuit(normalization_type="LNPre")
    # A LayerNorm leaves no entry above the square root of d_model.
    model.W_U.mul_(3.0)
    return model, batch


@torch.no_grad()
def decoy() -> tuple[HookedTransformer, Batch]:
    """The induction circuit beside L1H0, which attends as the induction head does, and writes nothing."""
    model, batch = induction_circuit()
    attention = model.blocks[1].attn
    for W in (attention.W_Q, attention.b_Q, attention.W_K, attention.W_V):
        W[0] = W[1]
    return model, batch


def two_induction_heads() -> tuple[HookedTransformer, Batch]:
    """One previous-token head and two induction heads, L1H0 and L1H1, each of which suffices."""
    parts = _Induction.empty()
    parts.previous_token(0)
    for head in (0, 1):
        parts.induction(head, parts.token, parts.written, parts.token)
    return parts.result()


# With few tokens, what a replaced previous-token head writes often is the current token, which misleads the next layer.
MANY_TOKENS = RepeatedTokens(n_tokens=198, length=13, period_min=3, period_max=5)


def two_previous_token_heads() -> tuple[HookedTransformer, Batch]:
    """Two previous-token heads, L0H0 and L0H1, each of which suffices, and one induction head."""
    parts = _Induction.empty(MANY_TOKENS)
    for head in (0, 1):
        parts.previous_token(head)
    parts.induction(1, parts.token, parts.written, parts.token)
    return parts.result()


@torch.no_grad()
def induction_by_position() -> tuple[HookedTransformer, Batch]:
    """Induction by a duplicate-token head and Q-composition, without a previous-token head.

    L0H0 attends to earlier copies of the current token and writes their positions. The queries of L1H1 read these
    positions and look for the ones after them, as a pointer (Q-composition); L1H1 copies the token there.
    """
    parts, length = _Induction.empty(), REPEATS.n_ctx
    parts.duplicate_token(0)
    where = slice(parts.written.start, parts.written.start + length)
    parts.induction(1, where, parts.position, parts.token)
    attention = parts.model.blocks[1].attn
    # Of three copies, each has a third of the attention; it must still score more than BOS.
    attention.W_Q[1, where, :length] = 4 * parts.sharp * torch.eye(length).roll(1, 1)
    attention.W_Q[1, where.stop - 1] = 0.0
    return parts.result()


@torch.no_grad()
def induction_through_mlp() -> tuple[HookedTransformer, Batch]:
    """An induction circuit whose second layer reads tokens only in the code that MLP 0 writes.

    A neuron for each token is active where the embedding exceeds 1/2 in its direction, and writes the direction of the
    next token to a fifth part of the residual stream. The queries and values of L1H1 read this code; MLP 1 is zero.
    """
    V, length = REPEATS.d_vocab, REPEATS.n_ctx
    parts = _Induction.empty(attn_only=False, d_mlp=V, d_model=4 * V + length)
    code, encode = slice(3 * V + length, 4 * V + length), torch.eye(V).roll(1, 1)
    parts.previous_token(0)
    parts.induction(1, code, parts.written, code)
    mlp, attention = parts.model.blocks[0].mlp, parts.model.blocks[1].attn
    mlp.W_in[parts.token] = 2 * torch.eye(V)
    mlp.b_in.fill_(-1.0)
    mlp.W_out[:, code] = encode
    attention.W_Q[1, code, :V] = parts.sharp * encode.mT
    attention.W_V[1, code, :V] = encode.mT
    return parts.result()


@torch.no_grad()
def bidirectional_induction() -> tuple[HookedTransformer, Batch]:
    """The induction circuit with attention in both directions: a token is also predicted from its later copies.

    The score of the position after the current one is lowered, since the answer stands there. So in all but the last
    copies of the segment, and in the last one too, L1H1 attends to the tokens after other copies of the current token.
    """
    model, batch = induction_circuit(attention_dir="bidirectional")
    V, length = REPEATS.d_vocab, REPEATS.n_ctx
    position, attention = slice(3 * V, 3 * V + length), model.blocks[1].attn
    size = 2**0.5 * (33 * model.cfg.d_head**0.5) ** 0.5
    attention.W_Q[1, position, V : V + length] = size * torch.eye(length).roll(1, 1)
    attention.W_Q[1, position.stop - 1, V : V + length] = 0.0
    attention.W_K[1, position, V : V + length] = -size * torch.eye(length)
    return model, batch


HALVING = AffineRecurrence(d_vector=7, length_max=12, c_min=-0.5, c_max=-0.5)


@torch.no_grad()
def recurrence_reader() -> tuple[HookedTransformer, Batch]:
    """A network over vectors that predicts x_(q+1) = (x_q + x_(q-1)) / 2, which is the recurrence with c = -1/2.

    L0H0 attends to the previous vector and writes it aside; L1H0 attends to its own position and writes half of what
    L0H0 wrote to the part that W_U reads. The other half comes from the embedding.
    """
    d, length = HALVING.d_vector, HALVING.n_ctx
    vector, aside, position = slice(0, d), slice(d, 2 * d), slice(2 * d, 2 * d + length)
    model = HookedTransformer(
        ModelConfig(
            n_layers=2,
            d_model=2 * d + length,
            n_ctx=length,
            d_head=19,
            n_heads=2,
            d_vocab=d,
            attn_only=True,
            normalization_type=None,
            initializer_range=0.0,
            input_type="vectors",
        )
    )
    one, sharp = torch.eye(d), 12.0
    model.W_E[:, vector] = one
    model.W_pos[:, position] = torch.eye(length)
    model.W_U[vector] = one / 2
    for block, back, read, write in zip(model.blocks, (1, 0), (vector, aside), (aside, vector), strict=True):
        block.attn.W_K[0, position, :length] = sharp * torch.eye(length)
        block.attn.W_Q[0, position, :length] = sharp * torch.eye(length).roll(-back, 1)
        block.attn.W_V[0, read, :d] = one
        block.attn.W_O[0, :d, write] = one
    return model.eval(), HALVING.evaluation_batch(seed=0, batch_size=29)


def _composing_pair() -> tuple[HookedTransformer, Batch]:
    return handmade.composing_pair("k")[0], REPEATS.evaluation_batch(seed=0, batch_size=29)


def _fuzzy_pair() -> tuple[HookedTransformer, Batch]:
    # Six pairs are enough for a twin of six tokens.
    task = RepeatedSynonyms(n_pairs=6, length=7, period_min=3, period_max=3)
    return handmade.fuzzy_pair()[0], task.evaluation_batch(seed=0, batch_size=29)


_K_INDUCTION = ("embed->L0H0.v", "embed->L1H1.q", "L0H0->L1H1.k", "embed->L1H1.v", "L1H1->output")

CIRCUITS: dict[str, KnownCircuit] = {
    "composing_pair": KnownCircuit(_composing_pair, _K_INDUCTION),
    "fuzzy_pair": KnownCircuit(_fuzzy_pair, _K_INDUCTION),
    # Its positions are the same in every sequence, though they come from attention to BOS and an MLP.
    "position_from_bos": KnownCircuit(handmade.position_from_bos, ("embed->L1H0.v", "L1H0->output")),
    "induction_circuit": KnownCircuit(induction_circuit, _K_INDUCTION),
    "shortformer": KnownCircuit(lambda: induction_circuit(positional_embedding_type="shortformer"), _K_INDUCTION),
    "layer_norm_induction": KnownCircuit(layer_norm_induction, _K_INDUCTION),
    "decoy": KnownCircuit(decoy, _K_INDUCTION),
    "two_induction_heads": KnownCircuit(
        two_induction_heads,
        (
            *_K_INDUCTION,
            *("embed->L1H0.q", "L0H0->L1H0.k", "embed->L1H0.v", "L1H0->output"),
        ),
        copies=("L1H0", "L1H1"),
    ),
    "two_previous_token_heads": KnownCircuit(
        two_previous_token_heads, (*_K_INDUCTION, "embed->L0H1.v", "L0H1->L1H1.k"), copies=("L0H0", "L0H1")
    ),
    "induction_by_position": KnownCircuit(
        induction_by_position,
        ("embed->L0H0.q", "embed->L0H0.k", "L0H0->L1H1.q", "embed->L1H1.v", "L1H1->output"),
    ),
    "induction_through_mlp": KnownCircuit(
        induction_through_mlp,
        ("embed->L0H0.v", "embed->MLP0", "MLP0->L1H1.q", "L0H0->L1H1.k", "MLP0->L1H1.v", "L1H1->output"),
    ),
    "bidirectional_induction": KnownCircuit(bidirectional_induction, _K_INDUCTION),
    # L3H0 only makes the answer less certain. The keys of L1H0 need not find S2: what it reads stands nowhere else, and
    # with uniform attention it still inhibits enough. A twin differs in the name at S2 alone: queries of L0H0 read it,
    # and keys of L2H0, for which another name is one more that nothing inhibits.
    "name_movers": KnownCircuit(
        handmade.name_movers,
        ("embed->L0H0.q", "L0H0->L1H0.v", "L1H0->L2H0.q", "embed->L2H0.k", "L2H0->output"),
    ),
    "recurrence_reader": KnownCircuit(
        recurrence_reader, ("embed->L0H0.v", "L0H0->L1H0.v", "embed->output", "L1H0->output")
    ),
}
