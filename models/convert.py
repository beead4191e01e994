"""Networks that analysis accepts: a HookedTransformer of Headway, or a TransformerBridge of TransformerLens.

The bridge takes seconds to import, so it is imported only where one is made.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from headway.models.bridge_versions import weight_of_bridge
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer
from headway.models.lens_configs import PLAIN, PLAIN_ROTARY, read_config
from headway.models.state_dicts import Provenance, network_of
from headway.models.weight_files import Source

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
    bridge = boot_bridge(name)
    bridge.enable_compatibility_mode(disable_warnings=True)
    if getattr(bridge, "tokenizer", None) is None:
        raise ValueError(f"model: {name!r} has no tokenizer; a study needs one to read its prompts")
    return bridge.eval()


def boot_bridge(name: str, revision: str | None = None) -> "TransformerBridge":
    """Load a language model as it is, on the CPU and in float32, from the hub at a revision or from a folder.

    Raises:
        ValueError: the model cannot be loaded.
    """
    from safetensors import SafetensorError
    from transformer_lens.model_bridge import TransformerBridge
    from transformers.utils import logging as transformers_logging

    folder = Path(name).expanduser()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        where = str(folder) if folder.is_dir() else name
        return TransformerBridge.boot_transformers(where, device="cpu", revision=revision).eval()
    except (ImportError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"model: {name!r} cannot be loaded ({type(error).__name__}: {error})") from None
    finally:
        if bar:
            transformers_logging.enable_progress_bar()


def network_of_bridge(bridge: "TransformerBridge") -> HookedTransformer:
    """Return a bridge as a HookedTransformer of Headway, which computes the same.

    Raises:
        ValueError: a language model that is none of Headway's networks.
    """
    cfg = bridge.cfg
    names = {"final_rms", *PLAIN, *PLAIN_ROTARY, *(f.name for f in fields(ModelConfig) if f.init)}
    options = read_config({name: getattr(cfg, name) for name in names if hasattr(cfg, name)})
    # Folding a norm gives the unembedding weights of its own.
    tied = options.get("tie_word_embeddings", False) and torch.equal(bridge.W_U, bridge.W_E.T)
    try:
        model = HookedTransformer(
            ModelConfig(**{**options, "attn_only": bool(getattr(cfg, "attn_only", False)), "tie_word_embeddings": tied})
        )
        model.load_state_dict({name: _of_bridge(bridge, name, each) for name, each in model.state_dict().items()})
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"model: {cfg.model_name!r} is none of Headway's networks ({error})") from None
    _check_logits(bridge, model.eval(), f"model: {cfg.model_name!r}")
    return model


def _check_logits(theirs: Any, ours: HookedTransformer, name: str) -> None:
    """Refuse a network whose logits are not those of the one that was made of it."""
    device = next(iter(theirs.parameters())).device
    tokens = torch.arange(min(ours.cfg.d_vocab, ours.cfg.n_ctx, 16))[None]
    with torch.no_grad(), evaluating(theirs):
        expected, found = theirs(tokens.to(device)).float().cpu(), ours(tokens)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise ValueError(
            f"{name} is none of Headway's networks: its logits differ by up to "
            f"{float((found - expected).abs().max()):.2g}"
        )


def is_lens_network(model: Any) -> bool:
    """Return whether a network is a HookedTransformer of TransformerLens, which versions up to 3 have."""
    kinds = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(model).__mro__]
    return ("transformer_lens", "HookedTransformer") in kinds


def network_of_lens(model: Any) -> tuple[HookedTransformer, Provenance]:
    """Return a HookedTransformer of TransformerLens as one of Headway that computes the same, and what is known of it.

    Raises:
        ValueError: a network that is none of Headway's.
    """
    source = Source("the HookedTransformer", model.state_dict())
    config, weights, known = network_of(source, read_config(model.cfg.to_dict()))
    network = HookedTransformer(config)
    network.load_state_dict(weights)
    _check_logits(model, network.eval(), f"source: this {type(model).__name__}")
    return network, replace(known, read={**known.given, **known.read}, given={})


def _of_bridge(bridge: "TransformerBridge", name: str, like: Tensor) -> Tensor:
    """Return a weight of a bridge by the name of ours; 0 for a bias that it does not have."""
    kind = name.rpartition(".")[2]
    found = re.match(r"blocks\.(\d+)\.(ln1|ln2)?", name)
    if kind in ("w", "b"):
        norm = getattr(bridge.blocks[int(found[1])], str(found[2])) if found else bridge.ln_final
        value = getattr(norm, kind)
    else:
        try:
            value = weight_of_bridge(bridge, kind)
        except AttributeError:
            if not kind.startswith("b_"):
                raise
            return like.new_zeros(like.shape)
        value = value[int(found[1])] if found else value
    return value.detach().float().reshape(like.shape) if value.numel() == like.numel() else value


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
