"""What a head copies, through what the network makes of a token first: effective embeddings and the copying score."""

from typing import Literal

import einops
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from headway.analyze.measures.attribution import as_read, unembedding
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import forward_pass, hooked_forward_pass, to_zero
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.network.weights import layer_norm, weight
from headway.data.task import Batch
from headway.models.convert import Model


def effective_embedding(model: Model, tokens: Int[Tensor, "token"], mlp: bool = True) -> Float[Tensor, "token d_model"]:
    """What layer 0 makes of a token by itself: the residual stream after it, of a sequence that is that token alone.

    Every head of layer 0 attends to it fully. Positions are zero. McDougall et al. 2023, "Copy suppression".

    Args:
        model: The network.
        tokens: Some tokens.
        mlp: With what the MLP of layer 0 adds; without, it is the embedding and what the heads add.

    Raises:
        DoesNotApplyError: the MLP of a network that has none.
        ValueError: a token that does not exist.

    Example:
        >>> from headway.models.handmade import copying_head
        >>> model, _ = copying_head()  # it adds to each token what it is
        >>> tokens = torch.tensor([3, 5])
        >>> bool((effective_embedding(model, tokens, mlp=False) == 2 * model.W_E[tokens]).all())
        True
    """
    wrong = tokens[(tokens < 0) | (tokens >= model.cfg.d_vocab)].tolist()
    if wrong:
        raise ValueError(f"tokens: {wrong[0]} does not exist; these are 0 to {model.cfg.d_vocab - 1}")
    alone = Batch(tokens[:, None], tokens[:, None], torch.ones_like(tokens[:, None], dtype=torch.bool))
    positions = [] if model.cfg.positional_embedding_type == "none" else [("hook_pos_embed", to_zero)]
    with hooked_forward_pass(model, positions):
        activations = forward_pass(model, alone).activations
    added = activations.get("blocks.0.hook_mlp_out")
    if mlp and added is None:
        raise DoesNotApplyError("an effective embedding with MLP 0 needs one; this network has attention only")
    after = activations["blocks.0.hook_resid_post"]
    return (after if mlp or added is None else after - added)[:, 0]


def copying_score(
    model: Model, tokens: Int[Tensor, "token"], k: int = 5, sign: Literal[1, -1] = 1, mlp: bool | None = None
) -> xr.DataArray:
    """How many of some tokens a head copies: the share that are among the k largest logits of what it makes of them.

    ``copying_score`` [layer, head], in [0, 1]: a token's effective embedding goes through ln1 of the head's layer, W_OV
    and the unembedding (with ln_final's weights), without biases, so that folding LayerNorm changes nothing; the token
    is a hit if fewer than k others have a logit as large. With
    ``sign`` -1 the head's output is turned round: what a negative head copies. Chance is k / d_vocab. Wang et al. 2022,
    "Interpretability in the wild", for name movers. It does not say that the head ever attends to such tokens.

    Args:
        model: The network.
        tokens: Which tokens; names, for name movers.
        k: How far up counts.
        sign: 1, or -1 for what the head suppresses.
        mlp: Whether MLP 0 takes part in the effective embedding; where there is one, if not given.

    Raises:
        DoesNotApplyError: the MLP of a network that has none.
        ValueError: a token that does not exist, a k that is not in 1..d_vocab.

    Example:
        >>> from headway.models.handmade import copying_head
        >>> tokens = torch.arange(1, 13)
        >>> [copying_score(copying_head(sign)[0], tokens, k=1).item() for sign in (1.0, -1.0)]
        [1.0, 0.0]
        >>> copying_score(copying_head(-1.0)[0], tokens, k=1, sign=-1, mlp=False).item()
        0.0
    """
    if not 1 <= k <= model.cfg.d_vocab_out:
        raise ValueError(f"k: {k} is not valid; it must be 1 to {model.cfg.d_vocab_out}")
    has_mlp = not getattr(model.cfg, "attn_only", False)
    embedded = effective_embedding(model, tokens, has_mlp if mlp is None else mlp)
    W_V, W_O, W_U = weight(model, "W_V"), weight(model, "W_O"), unembedding(model)
    score = torch.empty(model.cfg.n_layers, model.cfg.n_heads)
    for layer in range(model.cfg.n_layers):
        # Of nothing, LayerNorm makes its bias.
        read = as_read(model, layer, embedded) - as_read(model, layer, torch.zeros_like(embedded))
        written = einops.einsum(read, W_V[layer], W_O[layer], "t a, head a d, head d b -> head t b")
        for head, vectors in enumerate(written):
            logits = sign * vectors @ W_U
            own = logits.gather(1, tokens[:, None])
            score[layer, head] = ((logits >= own).sum(1) - 1 < k).float().mean()
    return xr.DataArray(score.numpy(), dims=HEAD, attrs=layer_norm(model))
