"""Networks that tests share: ours with random biases, and bridges around small Hugging Face models."""

from functools import lru_cache

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
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


def _bridge(kind: type[PreTrainedModel], config: PretrainedConfig, scale: float) -> TransformerBridge:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = kind(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter)).mul_(scale)
    return build_bridge_from_module(model, kind.__name__, hf_config=config).eval()
