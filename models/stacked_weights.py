"""The weights of a HookedTransformer, those of its blocks stacked by layer, and matrices made of them."""

from collections.abc import Sequence
from typing import Literal

import einops
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import FactoredMatrix
from transformer_lens.utilities import composition_scores

from headway.models.arguments import check_bools, check_one_of, checked_int
from headway.models.components import Embed, PosEmbed, TransformerBlock, Unembed
from headway.models.config import Head, ModelConfig


class StackedWeights:
    """The properties of a HookedTransformer that hold weights, ``W_Q`` of every layer and so on."""

    cfg: ModelConfig
    embed: Embed
    pos_embed: PosEmbed
    blocks: Sequence[TransformerBlock]
    unembed: Unembed

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Embedding matrix."""
        return self.embed.W_E

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """Position embedding matrix; a ValueError for a positional_embedding_type that has none."""
        if not self.cfg.has_W_pos:
            kind = self.cfg.positional_embedding_type
            raise ValueError(f"W_pos: this network has no W_pos (positional_embedding_type is {kind})")
        return self.pos_embed.W_pos

    @property
    def W_rel(self) -> Float[Tensor, "layer head offset d_head"]:
        """Relative position embeddings of every layer; a ValueError for another positional_embedding_type."""
        kind = self.cfg.positional_embedding_type
        if kind != "relative":
            raise ValueError(f"W_rel: this network has no W_rel (positional_embedding_type is {kind})")
        return self._stacked("attn", "W_rel")

    @property
    def W_E_pos(self) -> Float[Tensor, "d_vocab_and_n_ctx d_model"]:
        """Embedding and position embedding matrices, stacked along the rows."""
        return torch.cat([self.W_E, self.W_pos])

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab_out"]:
        """Unembedding matrix."""
        return self.unembed.W_U

    @property
    def b_U(self) -> Float[Tensor, "d_vocab_out"]:
        """Unembedding bias."""
        return self.unembed.b_U

    def _stacked(self, part: str, name: str) -> Float[Tensor, "layer *shape"]:
        return torch.stack([getattr(getattr(block, part), name) for block in self.blocks])

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Query weights of every layer."""
        return self._stacked("attn", "W_Q")

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Key weights of every layer."""
        return self._stacked("attn", "W_K")

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Value weights of every layer."""
        return self._stacked("attn", "W_V")

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """Output weights of every layer."""
        return self._stacked("attn", "W_O")

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        """Query biases of every layer."""
        return self._stacked("attn", "b_Q")

    @property
    def b_K(self) -> Float[Tensor, "layer head d_head"]:
        """Key biases of every layer."""
        return self._stacked("attn", "b_K")

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:
        """Value biases of every layer."""
        return self._stacked("attn", "b_V")

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:
        """Output biases of every layer's attention."""
        return self._stacked("attn", "b_O")

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """MLP input weights of every layer."""
        return self._stacked("mlp", "W_in")

    @property
    def b_in(self) -> Float[Tensor, "layer d_mlp"]:
        """MLP input biases of every layer."""
        return self._stacked("mlp", "b_in")

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        """MLP output weights of every layer."""
        return self._stacked("mlp", "W_out")

    @property
    def b_out(self) -> Float[Tensor, "layer d_model"]:
        """MLP output biases of every layer."""
        return self._stacked("mlp", "b_out")

    @property
    def OV(self) -> FactoredMatrix:
        """W_V @ W_O of every head, ``[layer, head, d_model, d_model]``."""
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q @ W_K.T of every head, ``[layer, head, d_model, d_model]``."""
        return FactoredMatrix(self.W_Q, einops.rearrange(self.W_K, "l h d_model d_head -> l h d_head d_model"))

    def all_composition_scores(self, mode: Literal["Q", "K", "V"]) -> Float[Tensor, "layer head layer head"]:
        """Return the composition scores of all pairs of heads, 0 unless the first is in an earlier layer.

        ``‖L R‖ / (‖L‖ ‖R‖)`` with L = W_OV of the first head and R = W_QK, W_QK.T or W_OV of the second, as in
        ``q_composition``, ``k_composition`` and ``v_composition``, which also give their nulls.

        Raises:
            ValueError: a mode other than Q, K and V.
        """
        check_one_of("mode", mode, ("Q", "K", "V"))
        right = {"Q": self.QK, "K": self.QK.T, "V": self.OV}[mode]
        scores = composition_scores(self.OV, right, broadcast_dims=True)
        layers = torch.arange(self.cfg.n_layers, device=scores.device)
        earlier = layers[:, None, None, None] < layers[None, None, :, None]
        return scores.where(earlier, 0)

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, "d_model"]:
        """Return the sum of the biases that are written before ``layer`` (b_O, and b_out unless excluded).

        With ``mlp_input`` the sum includes b_O of this layer: it is the bias in what the MLP of this layer reads.
        """
        check_bools(mlp_input=mlp_input, include_mlp_biases=include_mlp_biases)
        layer = checked_int("layer", layer, 0, self.cfg.n_layers - mlp_input)
        bias = self.b_O[: layer + mlp_input].sum(0)
        if include_mlp_biases and not self.cfg.attn_only:
            bias = bias + self.b_out[:layer].sum(0)
        return bias

    def all_head_labels(self) -> list[str]:
        """Return the names of all heads, ``L0H0``, ``L0H1``, …, layer by layer."""
        return [str(Head(layer, head)) for layer in range(self.cfg.n_layers) for head in range(self.cfg.n_heads)]
