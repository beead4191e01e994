"""ActivationCache of a HookedTransformer: TransformerLens's, which also knows the activations that this class adds."""

from typing import Any

import transformer_lens
from torch import Tensor
from transformer_lens.utilities import Slice

from headway.models.config import ModelConfig

_PER_HEAD = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_result")
_PER_HEAD_INPUT = ("hook_q_input", "hook_k_input", "hook_v_input", "hook_attn_in")


def position_axis(cfg: ModelConfig, name: str) -> int:
    """Return the axis of positions (of queries, for scores and patterns) in the activation at a hook point.

    Example:
        >>> cfg = ModelConfig(n_layers=1, d_model=5, n_ctx=7, d_head=3, n_heads=2, d_vocab=11)
        >>> position_axis(cfg, "hook_embed"), position_axis(cfg, "blocks.0.attn.hook_z")
        (-2, -3)
    """
    point = name.rpartition(".")[2]
    # With an input for each head, ln1 normalises each of them.
    split = (cfg.use_split_qkv_input or cfg.use_attn_in) and ".ln1." in name
    return -3 if split or point in _PER_HEAD or point in _PER_HEAD_INPUT else -2


def slice_positions(activation: Tensor, pos_slice: Slice, axis: int) -> Tensor:
    """Return the activation at some positions; raise a ValueError if there are no such positions."""
    try:
        return pos_slice.apply(activation, dim=axis)
    except IndexError:
        raise ValueError(
            f"pos_slice: {pos_slice.slice} is not valid; the sequences have positions 0 to {activation.shape[axis] - 1}"
        ) from None


class ActivationCache(transformer_lens.ActivationCache):
    """Activations of one forward pass by hook name, with TransformerLens's methods that take the stream apart.

    Shortformer positions are in the cache, but no part of the residual stream: they are added to the inputs of queries
    and keys only.
    """

    def __init__(self, cache_dict: dict[str, Tensor], model: Any, has_batch_dim: bool = True):
        super().__init__(cache_dict, model, has_batch_dim)
        self.has_pos_embed = self.has_pos_embed and model.cfg.positional_embedding_type == "standard"

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> "ActivationCache":
        """Return a cache of some sequences of the batch."""
        sliced = super().apply_slice_to_batch_dim(batch_slice)
        return ActivationCache(sliced.cache_dict, self.model, sliced.has_batch_dim)

    def _get_cached_ln_scale(
        self, layer: int | None, mlp_input: bool, pos_slice: Slice, batch_slice: Slice | None = None
    ) -> Tensor:
        """Return the scale of a LayerNorm, once if ln1 normalised an input for each head and all are the same."""
        name = f"blocks.{layer}.ln1.hook_scale"
        if mlp_input or name not in self.cache_dict or self[name].ndim < (4 if self.has_batch_dim else 3):
            return super()._get_cached_ln_scale(layer, mlp_input, pos_slice, batch_slice)
        scale = self[name]
        if not scale.eq(scale[..., :1, :]).all():
            raise ValueError(f"apply_ln: True is not valid at layer {layer}; its heads read different inputs")
        scale = pos_slice.apply(scale[..., 0, :], dim=-2)
        return batch_slice.apply(scale) if batch_slice is not None and self.has_batch_dim else scale
