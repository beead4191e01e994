"""HookedTransformers of random weights that tests share, inputs for them, and a hook that changes nothing."""

from typing import Any

import torch
from torch import Tensor

from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer

# Distinct primes: a transposed or a wrong axis cannot fit by luck.
BATCH, POS = 2, 5
SIZES: dict[str, Any] = {
    "n_layers": 2,
    "d_model": 11,
    "d_head": 7,
    "n_heads": 3,
    "d_vocab": 13,
    "d_vocab_out": 17,
    "d_mlp": 19,
    "n_ctx": 23,
}

# Each value of each option at least once, and options that meet in one line of code together.
KINDS: list[dict[str, Any]] = [
    {"attn_only": True},
    {"act_fn": "relu", "normalization_type": "LNPre", "positional_embedding_type": "shortformer"},
    {"act_fn": "gelu", "normalization_type": None, "positional_embedding_type": "none"},
    {"act_fn": "gelu_new", "attention_dir": "bidirectional", "eps": 0.3},
    {"act_fn": "silu", "input_type": "vectors", "normalization_type": "LNPre", "d_vocab_out": 13},
    {"act_fn": "solu", "attention_dir": "bidirectional", "positional_embedding_type": "shortformer"},
    {"act_fn": "solu_ln", "normalization_type": "LN", "biases": False},
    {"act_fn": "solu_ln", "normalization_type": None, "attn_scale": 3.0},
    {"act_fn": "solu_ln", "normalization_type": "RMS", "positional_embedding_type": "relative"},
    {"normalization_type": "RMSPre", "positional_embedding_type": "relative", "attention_dir": "bidirectional"},
    {"attn_only": True, "positional_embedding_type": "relative", "use_attn_scale": False, "biases": False},
    {"positional_embedding_type": "rotary", "rotary_dim": 4, "rotary_base": 17.0, "normalization_type": "RMS"},
    {"positional_embedding_type": "rotary", "d_head": 6, "attention_dir": "bidirectional", "attn_only": True},
    {"biases": False, "tie_word_embeddings": True, "d_vocab_out": 13, "normalization_type": "RMS"},
    {"tie_word_embeddings": True, "input_type": "vectors", "d_vocab_out": 13, "positional_embedding_type": "rotary",
     "rotary_dim": 2, "use_attn_scale": False},
]  # fmt: skip


def network(seed: int = 0, dtype: torch.dtype = torch.float64, **kinds: Any) -> HookedTransformer:
    """A network none of whose parameters is at a value that would hide a mistake: not 0, and not 1."""
    model = HookedTransformer(ModelConfig(**SIZES | kinds)).to(dtype)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draws, dtype=dtype) * 0.3
            parameter.copy_(1 + noise if name.endswith(".w") else noise)
    return model.eval()


def inputs_for(model: HookedTransformer, seed: int = 0, batch: int = BATCH) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    if model.cfg.input_type == "vectors":
        return torch.randn(batch, POS, model.cfg.d_vocab, generator=draws, dtype=model.W_E.dtype)
    return torch.randint(model.cfg.d_vocab, (batch, POS), generator=draws)


def assert_close(ours: Tensor, theirs: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def keep(value: Tensor, hook: Any) -> None:
    """A hook that changes nothing; that somebody listens is what makes the network write its steps out."""
