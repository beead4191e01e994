"""Networks that analysis accepts: a HookedTransformer of Headway, or a TransformerBridge of TransformerLens.

The bridge takes seconds to import, so it is imported only where one is made.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from torch import nn

from headway.models.hooked_transformer import HookedTransformer

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    # Both have the weights, hook points and configuration fields of TransformerLens.
    Model = HookedTransformer | TransformerBridge
else:
    Model = nn.Module


def is_bridge(model: Model) -> "TypeGuard[TransformerBridge]":
    """Return whether a network is a TransformerBridge: it can be one only if the class has been imported."""
    bridges = sys.modules.get("transformer_lens.model_bridge")
    return bridges is not None and isinstance(model, bridges.TransformerBridge)


def input_type(model: Model) -> str:
    """Return ``tokens`` or ``vectors``; a bridge takes tokens."""
    return model.cfg.input_type if isinstance(model, HookedTransformer) else "tokens"


def load_bridge(name: str) -> "TransformerBridge":
    """Load a language model from Hugging Face's hub, or from a folder of ``save_pretrained``, as a TransformerBridge.

    The model is on the CPU, in float32 and evaluation mode, with LayerNorm folded and weights centred (compatibility
    mode), like a model from ``HookedTransformer.from_pretrained``.

    Raises:
        ValueError: the model cannot be loaded, or it has no tokenizer.
    """
    from safetensors import SafetensorError
    from transformer_lens.model_bridge import TransformerBridge
    from transformers.utils import logging as transformers_logging

    folder = Path(name).expanduser()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        bridge = TransformerBridge.boot_transformers(str(folder) if folder.is_dir() else name, device="cpu")
        bridge.enable_compatibility_mode(disable_warnings=True)
    except (ImportError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"model: {name!r} cannot be loaded ({type(error).__name__}: {error})") from None
    finally:
        if bar:
            transformers_logging.enable_progress_bar()
    if getattr(bridge, "tokenizer", None) is None:
        raise ValueError(f"model: {name!r} has no tokenizer; a study needs one to read its prompts")
    return bridge.eval()


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Set evaluation mode (no dropout) for the duration of a context; restore the mode of each module afterwards."""
    # A bridge does not list the modules of the network that it wraps.
    networks = [model, getattr(model, "original_model", model)]
    training = [module for network in networks for module in network.modules() if module.training]
    if not training:  # to set what is set takes as long as a forward pass of a small network
        yield
        return
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
