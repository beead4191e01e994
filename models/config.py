"""Configuration of a network: its sizes and kinds, under TransformerLens's field names."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, get_args

ActFn = Literal["relu", "gelu", "gelu_new", "silu", "solu", "solu_ln"]
Normalization = Literal["LN", "LNPre", "RMS", "RMSPre"]
Positions = Literal["standard", "shortformer", "none", "rotary", "relative"]
InitMode = Literal[
    "gpt2", "gpt2_scaled", "inverse_sqrt_d_model", "transformer_lens",
    "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal",
]  # fmt: skip

# Probabilities of dropout, by GPT-2's names.
DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")


class Head(NamedTuple):
    """One attention head; layers and heads count from 0.

    Example:
        >>> str(Head(0, 7))
        'L0H7'
    """

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"

    @classmethod
    def named(cls, name: str, option: str = "head") -> "Head":
        """Return the head of this name, as ``str`` writes it; for any other, a ValueError names the option.

        Example:
            >>> Head.named("L0H7")
            Head(layer=0, head=7)
        """
        found = re.fullmatch(r"L(0|[1-9][0-9]*)H(0|[1-9][0-9]*)", name)
        if not found:
            raise ValueError(f"{option}: {name!r} is not valid; it must be a name such as L0H7")
        return cls(int(found[1]), int(found[2]))


@dataclass
class ModelConfig:
    """Configuration of a HookedTransformer.

    Args:
        n_layers: Number of transformer blocks.
        d_model: Width of the residual stream.
        n_ctx: Length of the longest input sequence.
        d_head: Width of the queries, keys and values of one head.
        n_heads: Number of attention heads in each layer.
        d_vocab: Number of input tokens, or the length of an input vector.
        d_vocab_out: Number of outputs; -1 means d_vocab.
        d_mlp: Number of neurons in each MLP; -1 means 4 * d_model. Ignored with attn_only.
        act_fn: Activation function of the MLPs.
        attn_only: Leave out the MLPs.
        attention_dir: causal, or bidirectional: every position attends to all positions.
        positional_embedding_type: standard adds W_pos to the residual stream; shortformer adds it to the inputs of
            queries and keys only; none has no position embedding; rotary turns queries and keys by an angle that grows
            with the position; relative adds a learned vector W_rel of each head and offset to the keys that a query
            sees, ``score[i, j] = q_i · (k_j + W_rel[i - j]) / attn_scale``.
        normalization_type: LN; LNPre (centre and scale, no weights); RMS (scale, with weights and no biases); RMSPre
            (scale); null for no normalisation.
        eps: Added to the variance inside a LayerNorm.
        initializer_range: Standard deviation of the initial weights with init_mode gpt2 or gpt2_scaled; biases start
            at 0.
        input_type: tokens, which select rows of W_E, or vectors, which are multiplied by W_E.
        use_attn_scale: Divide attention scores by attn_scale.
        attn_scale: Divisor of attention scores; -1 means sqrt(d_head).
        biases: Give a bias to queries, keys, values, the outputs of attention, MLPs and the unembedding; LayerNorms
            have theirs in any case.
        init_mode: Distribution of the initial weights. gpt2 is normal with the standard deviation initializer_range;
            gpt2_scaled divides W_O and W_out by sqrt(2 n_layers), as GPT-2 and minGPT do. The others do not use
            initializer_range: inverse_sqrt_d_model is normal with 1 / sqrt(d_model), transformer_lens with
            0.8 / sqrt(d_model); xavier and kaiming, normal or uniform, are those of TransformerLens.
        rotary_dim: Number of entries of each query and key that rotary positions turn; null means d_head.
        rotary_base: Base of the angles of rotary positions.
        tie_word_embeddings: Unembed with the embedding: W_U is the transpose of W_E, and not a weight of its own.
        embd_pdrop: Probability of dropout of the embeddings, with their positions. This and the next two hold in
            training; analysis runs without dropout.
        attn_pdrop: Probability of dropout of the attention patterns.
        resid_pdrop: Probability of dropout of what attention and MLPs add to the residual stream.

    Raises:
        ValueError: a size is below 1, eps or initializer_range is negative or not finite, attn_scale or rotary_base is
            not above 0, rotary_dim is odd or larger than d_head, a probability is not in [0, 1), embeddings are tied
            to other outputs than inputs, or a kind is unknown.

    Example:
        >>> ModelConfig(n_layers=2, d_model=64, n_ctx=48, d_head=16, n_heads=4, d_vocab=65).d_vocab_out
        65
    """

    n_layers: int
    d_model: int
    n_ctx: int
    d_head: int
    n_heads: int
    d_vocab: int
    d_vocab_out: int = -1
    d_mlp: int = -1
    act_fn: ActFn = "relu"
    attn_only: bool = False
    attention_dir: Literal["causal", "bidirectional"] = "causal"
    positional_embedding_type: Positions = "standard"
    normalization_type: Normalization | None = "LN"
    eps: float = 1e-5
    initializer_range: float = 0.02
    input_type: Literal["tokens", "vectors"] = "tokens"
    use_attn_scale: bool = True
    attn_scale: float = -1.0
    biases: bool = True
    init_mode: InitMode = "gpt2"
    rotary_dim: int | None = None
    rotary_base: float = 10000.0
    tie_word_embeddings: bool = False
    embd_pdrop: float = 0.0
    attn_pdrop: float = 0.0
    resid_pdrop: float = 0.0

    # TransformerLens keeps these fields beside the sizes, and its tools read and set them there. They are the state of
    # a running model and not part of its definition: the constructor does not take them, and no file stores them.
    device: str = field(default="cpu", init=False, compare=False)
    dtype: Any = field(default=None, init=False, compare=False)  # a torch.dtype; importing torch here would be slow
    use_attn_result: bool = field(default=False, init=False, compare=False)
    use_split_qkv_input: bool = field(default=False, init=False, compare=False)
    use_attn_in: bool = field(default=False, init=False, compare=False)
    use_hook_mlp_in: bool = field(default=False, init=False, compare=False)
    n_key_value_heads: None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        if self.d_vocab_out == -1:
            self.d_vocab_out = self.d_vocab
        if self.d_mlp == -1:
            self.d_mlp = 4 * self.d_model
        for size in ("n_layers", "d_model", "n_ctx", "d_head", "n_heads", "d_vocab", "d_vocab_out", "d_mlp"):
            if getattr(self, size) < 1:
                raise ValueError(f"{size}: {getattr(self, size)} is not valid; it must be 1 or more")
        for number in ("eps", "initializer_range"):
            value = getattr(self, number)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{number}: {value} is not valid; it must be finite and 0 or more")
        if not (self.attn_scale == -1 or (math.isfinite(self.attn_scale) and self.attn_scale > 0)):
            raise ValueError(f"attn_scale: {self.attn_scale} is not valid; it must be finite and above 0, or -1")
        for kind, valid in _KINDS.items():
            if getattr(self, kind) not in valid:
                raise ValueError(f"{kind}: {getattr(self, kind)!r} is not one of {', '.join(map(str, valid))}")
        for name in DROPOUTS:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not valid; it must be at least 0 and below 1")
        if self.tie_word_embeddings and self.d_vocab_out != self.d_vocab:
            raise ValueError(
                f"tie_word_embeddings: True is not valid with d_vocab_out {self.d_vocab_out}; it must be d_vocab, "
                f"which is {self.d_vocab}"
            )
        self._check_rotary()

    def _check_rotary(self) -> None:
        if not (math.isfinite(self.rotary_base) and self.rotary_base > 0):
            raise ValueError(f"rotary_base: {self.rotary_base} is not valid; it must be finite and above 0")
        if self.rotary_dim is None and self.positional_embedding_type != "rotary":
            return
        dim = self.d_head if self.rotary_dim is None else self.rotary_dim
        if self.rotary_dim is None and dim % 2:
            raise ValueError(f"d_head: {dim} is not valid with rotary positions; it must be even, or give rotary_dim")
        if not (2 <= dim <= self.d_head and dim % 2 == 0):
            raise ValueError(
                f"rotary_dim: {self.rotary_dim} is not valid; it must be even, from 2 to d_head, which is {self.d_head}"
            )

    @property
    def n_params(self) -> int:
        """Number of weights inside the blocks: W_Q, W_K, W_V, W_O, W_in and W_out, as TransformerLens counts."""
        attention = 4 * self.d_model * self.d_head * self.n_heads
        mlp = 0 if self.attn_only else 2 * self.d_model * self.d_mlp
        return self.n_layers * (attention + mlp)

    @property
    def score_divisor(self) -> float:
        """Number by which the product of a query and a key is divided."""
        if not self.use_attn_scale:
            return 1.0
        return math.sqrt(self.d_head) if self.attn_scale == -1 else self.attn_scale

    @property
    def has_dropout(self) -> bool:
        """True if a forward pass in training draws numbers."""
        return any(getattr(self, name) > 0 for name in DROPOUTS)

    @property
    def has_W_pos(self) -> bool:
        """True if the network has position embeddings W_pos, one for each position of a sequence."""
        return self.positional_embedding_type in ("standard", "shortformer")

    @property
    def n_offsets(self) -> int:
        """Number of offsets between the positions of a query and of a key that it sees."""
        return self.n_ctx if self.attention_dir == "causal" else 2 * self.n_ctx - 1

    def weight_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the name and the shape of each weight, as in the state dict, without building the network.

        Example:
            >>> config = ModelConfig(n_layers=1, d_model=5, n_ctx=7, d_head=3, n_heads=2, d_vocab=11)
            >>> dict(config.weight_shapes())["blocks.0.attn.W_Q"]
            (2, 5, 3)
        """

        for name, shape in self._shapes_with_biases():
            if self.biases or not name.rpartition(".")[2].startswith("b_"):
                yield name, shape

    def _shapes_with_biases(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        def norm(name: str, length: int) -> list[tuple[str, tuple[int, ...]]]:
            parts = {"LN": "wb", "RMS": "w"}.get(self.normalization_type or "", "")
            return [(f"{name}.{part}", (length,)) for part in parts]

        yield "embed.W_E", (self.d_vocab, self.d_model)
        if self.has_W_pos:
            yield "pos_embed.W_pos", (self.n_ctx, self.d_model)
        for block in (f"blocks.{layer}" for layer in range(self.n_layers)):
            yield from norm(f"{block}.ln1", self.d_model)
            for x in "QKV":
                yield f"{block}.attn.W_{x}", (self.n_heads, self.d_model, self.d_head)
                yield f"{block}.attn.b_{x}", (self.n_heads, self.d_head)
            yield f"{block}.attn.W_O", (self.n_heads, self.d_head, self.d_model)
            yield f"{block}.attn.b_O", (self.d_model,)
            if self.positional_embedding_type == "relative":
                yield f"{block}.attn.W_rel", (self.n_heads, self.n_offsets, self.d_head)
            if not self.attn_only:
                yield from norm(f"{block}.ln2", self.d_model)
                yield f"{block}.mlp.W_in", (self.d_model, self.d_mlp)
                yield f"{block}.mlp.b_in", (self.d_mlp,)
                yield f"{block}.mlp.W_out", (self.d_mlp, self.d_model)
                yield f"{block}.mlp.b_out", (self.d_model,)
                if self.act_fn == "solu_ln" and self.normalization_type == "LN":
                    yield from norm(f"{block}.mlp.ln", self.d_mlp)
        yield from norm("ln_final", self.d_model)
        if not self.tie_word_embeddings:
            yield "unembed.W_U", (self.d_model, self.d_vocab_out)
        yield "unembed.b_U", (self.d_vocab_out,)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that define the network, as plain values: ``ModelConfig(**config.to_dict()) == config``."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    def as_given(self) -> dict[str, Any]:
        """Return ``to_dict`` with -1 for each size that follows from another, so that it changes with that one.

        Example:
            >>> config = ModelConfig(n_layers=1, d_model=8, n_ctx=5, d_head=4, n_heads=2, d_vocab=13)
            >>> ModelConfig(**{**config.as_given(), "d_vocab": 17}).d_vocab_out
            17
        """
        follows = {"d_vocab_out": self.d_vocab, "d_mlp": 4 * self.d_model}
        given = {name: -1 for name, value in follows.items() if getattr(self, name) == value}
        return {**self.to_dict(), **given}


_KINDS: dict[str, tuple[Any, ...]] = {
    "act_fn": get_args(ActFn),
    "attention_dir": ("causal", "bidirectional"),
    "positional_embedding_type": get_args(Positions),
    "normalization_type": (*get_args(Normalization), None),
    "input_type": ("tokens", "vectors"),
    "init_mode": get_args(InitMode),
}
