"""What analysis takes for a network: ours, or a TransformerBridge of TransformerLens."""

from transformer_lens.model_bridge import TransformerBridge

from headway.models.hooked_transformer import HookedTransformer

# Both have the weights, the hook points and the configuration that TransformerLens names.
Model = HookedTransformer | TransformerBridge


def input_type(model: Model) -> str:
    """``tokens`` or ``vectors``; a bridge takes tokens."""
    return model.cfg.input_type if isinstance(model, HookedTransformer) else "tokens"
