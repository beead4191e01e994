"""Configurations of TransformerLens: the options of ours that they hold, and what none of our networks can be."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

import numpy as np

from headway.models.config import InitMode, ModelConfig
from headway.options import shown

# What a configuration of TransformerLens must say for the network to be one of ours, where it says it.
PLAIN: dict[str, tuple[Any, ...]] = {
    "attn_types": (None,), "use_local_attn": (False,), "window_size": (None,),
    "scale_attn_by_inverse_layer_idx": (False,), "parallel_attn_mlp": (False,), "gated_mlp": (False,),
    "num_experts": (None,), "n_key_value_heads": (None,), "post_embedding_ln": (False,),
    "use_normalization_before_and_after": (False,), "output_logits_soft_cap": (-1.0, None),
    "attn_scores_soft_cap": (-1.0, None), "relative_attention_max_distance": (None,), "use_qk_norm": (False,),
    "clip_qkv": (None,), "use_logn_attn": (False,), "use_attention_sinks": (False,),
}  # fmt: skip
# The same of a network with rotary positions; others may say anything of them.
PLAIN_ROTARY: dict[str, tuple[Any, ...]] = {
    "rotary_adjacent_pairs": (False,), "rotary_scaling_factor": (1.0,), "rotary_base_local": (None,),
    "use_NTK_by_parts_rope": (False,), "use_yarn_rope": (False,), "use_dynamic_ntk_rope": (False,),
}  # fmt: skip
# Its other names for our options.
SYNONYMS = {"init_range": "initializer_range", "d_vocab_input": "d_vocab", "nonlinearity": "act_fn"}


def is_config(value: Any) -> bool:
    """Return whether a value is a configuration of a network."""
    return isinstance(value, Mapping) and {"d_model", "n_layers"} & set(value) != set()


def read_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of ours that a configuration of TransformerLens holds.

    Raises:
        ValueError: a network that is none of ours.

    Example:
        >>> read_config({"n_layers": 1, "d_model": 5, "gated_mlp": False, "init_range": 0.8, "device": "cuda"})
        {'n_layers': 1, 'd_model': 5, 'initializer_range': 0.8}
    """
    # TransformerLens computes some with numpy.
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    rotary = values.get("positional_embedding_type") == "rotary"
    for name, plain in {**PLAIN, **(PLAIN_ROTARY if rotary else {})}.items():
        value = values.get(name, plain[0])
        if not any(value == each for each in plain) and value != values.get("n_heads", _NOTHING):
            raise ValueError(f"config: {name} {shown(value)} is not valid; Headway's networks have {shown(plain[0])}")
    norm = values.get("normalization_type", "LN")
    if values.get("final_rms") and norm not in ("RMS", "RMSPre"):
        raise ValueError(f"config: final_rms True is not valid with normalization_type {norm}; all norms must be alike")
    known = {f.name for f in fields(ModelConfig) if f.init}
    named = {SYNONYMS.get(name, name): value for name, value in values.items()}
    unused = {*_unused_scale(named), *([] if rotary else ["rotary_dim", "rotary_base"])}
    if not _is_our_initialiser(named):
        unused |= {"init_mode", "initializer_range"}
    return {name: value for name, value in named.items() if name in known - unused and _is_set(name, value)}


def _unused_scale(values: Mapping[str, Any]) -> list[str]:
    """The scale of attention, if it is that of the default or there is none: TransformerLens writes it down."""
    scale, d_head = values.get("attn_scale"), values.get("d_head")
    if values.get("use_attn_scale") is False:
        return ["attn_scale"]
    if not (isinstance(scale, int | float) and isinstance(d_head, int)):
        return []
    return ["attn_scale"] if math.isclose(scale, math.sqrt(d_head), rel_tol=1e-6) else []


def _is_our_initialiser(values: Mapping[str, Any]) -> bool:
    """Return whether ours draws these weights; TransformerLens's other initialisers have initializer_range as gain."""
    mode, default = values.get("init_mode", "gpt2"), ModelConfig.initializer_range
    gain = values.get("initializer_range", default)
    return mode in get_args(InitMode) and (mode.startswith("gpt2") or gain in (-1, 1, default))


_NOTHING = object()


def _is_set(name: str, value: Any) -> bool:
    """Return whether a value says something: sizes of -1, and None but for the norm, stand for nothing."""
    if name == "normalization_type":
        return True
    return value is not None and not (name in ("d_vocab", "d_vocab_out", "d_mlp", "initializer_range") and value == -1)
