"""Effective embeddings (tokens as layer 0 transforms them), and the copying score of heads."""

from typing import Literal

import einops
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from headway.analyze.measures.attribution import as_read, unembedding
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import forward_pass, hooked_forward_pass, to_zero
from headway.analyze.network.requirements import DoesNotApplyError, needs_direct_writes
from headway.analyze.network.structure import Structure
from headway.analyze.network.weights import layer_norm, weight
from headway.data.task import Batch
from headway.models.convert import Model


def effective_embedding(model: Model, tokens: Int[Tensor, "token"], mlp: bool = True) -> Float[Tensor, "token d_model"]:
    """Return the residual stream after layer 0 for sequences of one token each.

    Every head of layer 0 attends to that token with weight 1. Positional embeddings are set to zero. McDougall et
    al. 2023, "Copy suppression".

    Args:
        model: The network.
        tokens: The tokens.
        mlp: Include the output of MLP 0; otherwise the result is the embedding plus the head outputs.

    Raises:
        DoesNotApplyError: ``mlp`` for a network without MLPs.
        ValueError: a token that does not exist.

    Example:
        >>> from headway.models.handmade import copying_head
        >>> model, _ = copying_head()  # its head writes the embedding of the token that it attends to
        >>> tokens = torch.tensor([3, 5])
        >>> bool((effective_embedding(model, tokens, mlp=False) == 2 * model.W_E[tokens]).all())
        True
    """
    wrong = tokens[(tokens < 0) | (tokens >= model.cfg.d_vocab)].tolist()
    if wrong:
        raise ValueError(f"tokens: {wrong[0]} does not exist; this network has tokens 0 to {model.cfg.d_vocab - 1}")
    alone = Batch(tokens[:, None], tokens[:, None], torch.ones_like(tokens[:, None], dtype=torch.bool))
    point = Structure(model.cfg).position_point
    with hooked_forward_pass(model, [(point, to_zero)] if point else []):
        activations = forward_pass(model, alone).activations
    added = activations.get("blocks.0.hook_mlp_out")
    if mlp and added is None:
        raise DoesNotApplyError("an effective embedding with MLP 0 needs MLPs; this network is attention-only")
    after = activations["blocks.0.hook_resid_post"]
    return (after if mlp or added is None else after - added)[:, 0]


def copying_score(
    model: Model, tokens: Int[Tensor, "token"], k: int = 5, sign: Literal[1, -1] = 1, mlp: bool | None = None
) -> xr.DataArray:
    """Share of tokens that a head copies: the token is among the k largest logits of the head's output for it.

    ``copying_score`` [layer, head], in [0, 1]: a token's effective embedding goes through ln1 of the head's layer, W_OV
    and the unembedding (with ln_final's weights), without biases, so that folding LayerNorm changes nothing; the token
    is a hit if fewer than k other tokens have a logit at least as large. ``sign`` -1 negates the head's output, which
    gives the tokens that a negative head suppresses. Chance is k / d_vocab. After Wang et al. 2022, "Interpretability
    in the wild", where it identifies name movers. It does not show that the head ever attends to such tokens.

    Args:
        model: The network.
        tokens: The tokens; names, for name movers.
        k: Number of largest logits that count as a hit.
        sign: 1 for copying, -1 for suppression.
        mlp: Include MLP 0 in the effective embedding; by default if the network has MLPs.

    Raises:
        DoesNotApplyError: ``mlp`` for a network without MLPs.
        ValueError: a token that does not exist, or a k outside of 1..d_vocab.

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
    needs_direct_writes("copying_score", model)
    has_mlp = not getattr(model.cfg, "attn_only", False)
    embedded = effective_embedding(model, tokens, has_mlp if mlp is None else mlp)
    W_V, W_O, W_U = weight(model, "W_V"), weight(model, "W_O"), unembedding(model)
    score = torch.empty(model.cfg.n_layers, model.cfg.n_heads)
    for layer in range(model.cfg.n_layers):
        # LayerNorm maps zero to its bias.
        read = as_read(model, layer, embedded) - as_read(model, layer, torch.zeros_like(embedded))
        written = einops.einsum(read, W_V[layer], W_O[layer], "t a, head a d, head d b -> head t b")
        for head, vectors in enumerate(written):
            logits = sign * vectors @ W_U
            own = logits.gather(1, tokens[:, None])
            score[layer, head] = ((logits >= own).sum(1) - 1 < k).float().mean()
    return xr.DataArray(score.numpy(), dims=HEAD, attrs=layer_norm(model))
