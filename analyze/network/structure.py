"""Structure of a network, in the questions that analysis asks: where positions enter, what norms do, how scores scale.

This is the only place in analysis that reads the kind of positions, of norms and of attention scores from a
configuration. A measure asks here, so that a new kind needs an answer here and no change of the measure.
"""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Structure:
    """Answers about a network from its configuration: a ModelConfig, or that of a TransformerBridge.

    Example:
        >>> from headway.models.config import ModelConfig
        >>> sizes = dict(n_layers=1, d_model=11, n_ctx=7, d_head=4, n_heads=3, d_vocab=13)
        >>> structure = Structure(ModelConfig(**sizes, positional_embedding_type="shortformer"))
        >>> structure.position_point, structure.positions_after_norm, structure.score_divisor
        ('hook_pos_embed', True, 2.0)
    """

    cfg: Any

    @property
    def position_point(self) -> str | None:
        """The hook point of the position embeddings; None for a network that adds none."""
        return "hook_pos_embed" if self.positions_in_stream or self.positions_after_norm else None

    @property
    def positions_in_stream(self) -> bool:
        """True if position embeddings are a part of the residual stream, so that every component reads them."""
        return self.cfg.positional_embedding_type == "standard"

    @property
    def positions_after_norm(self) -> bool:
        """True if position embeddings are added behind ln1 to the inputs of queries and keys, and to nothing else."""
        return self.cfg.positional_embedding_type == "shortformer"

    @property
    def positions_in_scores(self) -> str | None:
        """The kind of positions that act between queries and keys, such as rotary ones; None if none do."""
        outside = self.positions_in_stream or self.positions_after_norm or self.cfg.positional_embedding_type == "none"
        return None if outside else self.cfg.positional_embedding_type

    @property
    def score_divisor(self) -> float:
        """The divisor of the product of a query and a key: sqrt(d_head), unless the network has its own."""
        if not getattr(self.cfg, "use_attn_scale", True):
            return 1.0
        own = getattr(self.cfg, "attn_scale", -1)
        return math.sqrt(self.cfg.d_head) if own == -1 else own

    @property
    def normalizes(self) -> bool:
        """True if a norm divides the residual stream by its scale before each reader."""
        return self.cfg.normalization_type is not None

    @property
    def centres(self) -> bool:
        """True if the norm subtracts the mean, as LayerNorm does."""
        return self.cfg.normalization_type in ("LN", "LNPre")

    def why_scores_are_not_plain(self) -> str | None:
        """Return what keeps attention scores from being ``x W_Q W_K.T y / score_divisor``, or None if nothing does."""
        if self.positions_in_scores == "relative":
            return "relative ones"
        return self.why_content_is_not_plain()

    def why_content_is_not_plain(self) -> str | None:
        """Return what keeps scores from having the term ``x W_Q W_K.T y / score_divisor``, or None if nothing does.

        Relative positions add a term without keys to it. Rotary and ALiBi positions act between W_Q and W_K, a
        query-key norm rescales queries and keys, soft caps change the scores, and grouped heads have fewer keys than
        queries. Fields that a configuration lacks have no effect.
        """
        cfg = self.cfg
        shared = getattr(cfg, "n_key_value_heads", None)
        for holds, what in (
            (self.positions_in_scores in (None, "relative"), f"{cfg.positional_embedding_type} ones"),
            (shared in (None, cfg.n_heads), f"{cfg.n_heads} query heads over {shared} key heads"),
            (not getattr(cfg, "use_qk_norm", False), "normalised queries and keys"),
            (getattr(cfg, "attn_scores_soft_cap", -1.0) <= 0, "capped scores"),
            (not getattr(cfg, "scale_attn_by_inverse_layer_idx", False), "scores that are scaled by their layer"),
        ):
            if not holds:
                return what
        return None
