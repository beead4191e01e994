"""Initial weights of a network, from the distribution that ``init_mode`` names, by TransformerLens's formulas."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from headway.models.config import ModelConfig


def initial_weight(
    cfg: ModelConfig, name: str, shape: Sequence[int], draws: torch.Generator
) -> Float[Tensor, "*shape"]:
    """Return the weight matrix of this name and shape of a fresh network, from the distribution of ``init_mode``.

    - gpt2: normal with the standard deviation initializer_range.
    - gpt2_scaled: the same, and W_O and W_out, which write to the residual stream, divided by sqrt(2 n_layers).
    - inverse_sqrt_d_model: normal with the standard deviation 1 / sqrt(d_model).
    - transformer_lens: normal with the standard deviation 0.8 / sqrt(d_model).
    - xavier: normal or uniform, with the mean 0 and the variance 2 / (fan_in + fan_out).
    - kaiming: normal or uniform, with the mean 0 and the variance 2 / fan_in.

    Example:
        >>> cfg = ModelConfig(
        ...     n_layers=1, d_model=64, n_ctx=7, d_head=3, n_heads=2, d_vocab=11, init_mode="inverse_sqrt_d_model"
        ... )
        >>> round(initial_weight(cfg, "embed.W_E", (1000, 64), torch.Generator().manual_seed(0)).std().item(), 2)
        0.12
    """
    std = _standard_deviation(cfg, name, shape)
    if cfg.init_mode.endswith("_uniform"):
        return (torch.rand(tuple(shape), generator=draws) * 2 - 1) * (math.sqrt(3) * std)
    return torch.randn(tuple(shape), generator=draws) * std


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Return the numbers of inputs and of outputs of a weight matrix; the heads of a layer are outputs side by side.

    Example:
        >>> fans((13, 11)), fans((3, 11, 7))  # W_in, and W_Q of 3 heads
        ((13, 11), (11, 21))
    """
    *heads, fan_in, fan_out = shape
    return fan_in, math.prod(heads) * fan_out


def _standard_deviation(cfg: ModelConfig, name: str, shape: Sequence[int]) -> float:
    match cfg.init_mode:
        case "gpt2":
            return cfg.initializer_range
        case "gpt2_scaled":
            writes = name.endswith((".W_O", ".W_out"))
            return cfg.initializer_range / (math.sqrt(2 * cfg.n_layers) if writes else 1)
        case "inverse_sqrt_d_model":
            return 1 / math.sqrt(cfg.d_model)
        case "transformer_lens":
            return 0.8 / math.sqrt(cfg.d_model)
    fan_in, fan_out = fans(shape)
    return math.sqrt(2 / (fan_in + fan_out if cfg.init_mode.startswith("xavier") else fan_in))
