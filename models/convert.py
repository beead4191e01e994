"""What analysis takes for a network: ours, or a TransformerBridge of TransformerLens."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformer_lens.model_bridge import TransformerBridge

from headway.models.hooked_transformer import HookedTransformer

# Both have the weights, the hook points and the configuration that TransformerLens names.
Model = HookedTransformer | TransformerBridge


def input_type(model: Model) -> str:
    """``tokens`` or ``vectors``; a bridge takes tokens."""
    return model.cfg.input_type if isinstance(model, HookedTransformer) else "tokens"


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Evaluation mode (no dropout) as long as the context lasts; afterwards each module has the mode it had."""
    # The modules of the network that a bridge wraps are not among its own.
    networks = [model, getattr(model, "original_model", model)]
    modes = [(module, module.training) for network in networks for module in network.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
