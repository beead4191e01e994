"""Networks that tests share: ours with random biases, and bridges around small Hugging Face models."""

from functools import lru_cache
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from headway.models.hooked_transformer import HookedTransformer

D_VOCAB = 29


def with_random_biases(model: HookedTransformer) -> HookedTransformer:
    """The model with every parameter, biases and LayerNorm weights too, moved at random, in evaluation mode."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draws))
    return model.eval()


@lru_cache(maxsize=2)
def gpt2_bridge(scale: float = 1.0) -> TransformerBridge:
    """GPT-2 with 2 layers of 4 heads, every parameter random, and ``scale`` times as large."""
    config = GPT2Config(n_layer=2, n_embd=20, n_head=4, n_positions=17, vocab_size=D_VOCAB, n_inner=23)
    return _bridge(GPT2LMHeadModel, config, scale)


@lru_cache(maxsize=1)
def llama_bridge() -> TransformerBridge:
    """Llama with 2 layers of 4 heads over 2 key heads: rotary positions, RMS norms, no biases."""
    config = LlamaConfig(
        hidden_size=24, intermediate_size=31, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=D_VOCAB, max_position_embeddings=17,
    )  # fmt: skip
    return _bridge(LlamaForCausalLM, config, 1.0)


@lru_cache(maxsize=1)
def gpt_neo_bridge() -> TransformerBridge:
    """GPT-Neo with 2 layers of 4 heads: unscaled scores, and a window of 3 keys in the second layer."""
    config = GPTNeoConfig(
        hidden_size=20, num_layers=2, num_heads=4, intermediate_size=23, vocab_size=D_VOCAB, window_size=3,
        max_position_embeddings=17, attention_types=[[["global", "local"], 1]],
    )  # fmt: skip
    return _bridge(GPTNeoForCausalLM, config, 1.0)


_SIZES: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 31, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 17, "vocab_size": D_VOCAB,
}  # fmt: skip


@lru_cache(maxsize=1)
def parallel_bridge() -> TransformerBridge:
    """GPT-NeoX: attention and MLP read the same residual stream; rotary positions."""
    return _bridge(GPTNeoXForCausalLM, GPTNeoXConfig(**_SIZES, use_parallel_residual=True), 1.0)


@lru_cache(maxsize=1)
def alibi_bridge() -> TransformerBridge:
    """Bloom: ALiBi positions, and a norm of the embedding."""
    return _bridge(BloomForCausalLM, BloomConfig(vocab_size=D_VOCAB, hidden_size=24, n_layer=2, n_head=4), 1.0)


@lru_cache(maxsize=1)
def norms_after_bridge() -> TransformerBridge:
    """OLMo 2: norms after attention and after the MLP, none before them."""
    return _bridge(Olmo2ForCausalLM, Olmo2Config(**_SIZES, pad_token_id=0), 1.0)


@lru_cache(maxsize=1)
def norms_around_bridge() -> TransformerBridge:
    """Gemma 2: norms before and after attention and the MLP, grouped heads, capped scores."""
    sizes: dict[str, Any] = _SIZES | {"num_key_value_heads": 2, "head_dim": 6, "pad_token_id": 0}
    return _bridge(Gemma2ForCausalLM, Gemma2Config(**sizes), 1.0)


@lru_cache(maxsize=1)
def hidden_patterns_bridge() -> TransformerBridge:
    """OPT with an attention kernel that exposes no patterns."""
    config = OPTConfig(
        vocab_size=D_VOCAB, hidden_size=24, ffn_dim=31, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=17, word_embed_proj_dim=24, pad_token_id=0,
    )  # fmt: skip
    return _bridge(OPTForCausalLM, config, 1.0)


@lru_cache(maxsize=1)
def half_bridge() -> TransformerBridge:
    """Llama in bfloat16."""
    return _bridge(LlamaForCausalLM, LlamaConfig(**_SIZES), 1.0, torch.bfloat16)


def _bridge(
    kind: type[PreTrainedModel], config: PretrainedConfig, scale: float, dtype: torch.dtype = torch.float32
) -> TransformerBridge:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = kind(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter)).mul_(scale)
    model.to(dtype=dtype)  # pyright: ignore[reportCallIssue]  # transformers wraps it without its types
    return build_bridge_from_module(model, kind.__name__, hf_config=config, dtype=dtype).eval()
