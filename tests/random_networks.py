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
