"""Parts of a TransformerBridge that TransformerLens 3.9 and 4 name in different ways."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def weight_of_bridge(bridge: "TransformerBridge", name: str) -> Tensor:
    """Return a weight of a bridge by its name in a HookedTransformer, those of all layers stacked.

    Raises:
        AttributeError: the network has no such weight.
    """
    if name == "W_pos" and not hasattr(type(bridge), name):  # in 3.9
        return _position_table(bridge)
    try:
        value = getattr(bridge, name)
    except TypeError:  # 3.9 stacks the None of each layer
        value = None
    if value is None:
        raise AttributeError(f"this network has no {name}")
    return value


def _position_table(bridge: "TransformerBridge") -> Tensor:
    """Return ``W_pos [n_ctx, d_model]``, without the two rows that OPT puts before its positions."""
    cfg, table = bridge.cfg, getattr(getattr(bridge, "pos_embed", None), "W_pos", None)
    if table is None or table.ndim != 2 or table.shape[-1] != cfg.d_model:
        raise AttributeError("this network has no W_pos")
    return table[2:] if len(table) == cfg.n_ctx + 2 else table


def norm_follows_attention(block: Any) -> bool:
    """Return whether a norm stands between the attention of a block and the residual stream.

    Version 4 has it as ``ln1_post``; 3.9 has that of OLMo 2 as ``ln1``, and says that its output is ``hook_attn_out``.
    """
    written = getattr(block, "hook_aliases", {}).get("hook_attn_out", "")
    return getattr(block, "ln1_post", None) is not None or str(written).startswith("ln1.")
