"""Attention patterns that position embeddings alone would give."""

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.network.requirements import DoesNotApplyError, check_head, needs_plain_scores
from headway.analyze.network.structure import Structure
from headway.analyze.network.weights import layer_norm, weight
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model


def position_pattern(model: Model, batch: Batch) -> xr.Dataset:
    """Mean attention to the previous position that position embeddings alone give.

    Mean of the n_ctx - 1 entries ``A[q, q-1]``, q >= 1, of ``A = softmax(W_pos W_QK W_pos.T / sqrt(d_head))``, which is
    ``position_attention``; [layer, head], in [0, 1], 1 for a previous-token head. ``position_pattern_chance`` is the
    same for uniform attention. Null: fresh initialisations. It leaves out tokens, biases, changes that earlier layers
    make to positions, and the scale that a LayerNorm divides by: with a LayerNorm it shows which keys a head prefers,
    not how sharply it attends.

    Raises:
        DoesNotApplyError: no W_pos, or a W_pos of zeros; fewer than 2 positions; attention scores that are not
            ``x W_Q W_K.T y`` (rotary, relative positions; grouped heads).

    Example:
        >>> from headway.models.handmade import previous_token_head
        >>> round(position_pattern(*previous_token_head()).position_pattern.item(), 3)
        1.0
    """
    W_pos = _position_table("position_pattern", model)
    if len(W_pos) < 2:
        raise DoesNotApplyError("position_pattern needs at least 2 positions; this network has 1")
    W_Q, W_K = weight(model, "W_Q").double(), weight(model, "W_K").double()
    # One head at a time: a pattern of thousands of positions is large.
    queries, keys = ((W_pos @ W).flatten(0, 1) for W in (W_Q, W_K))
    each = [_mean_subdiagonal(_attend(model, q, k)) for q, k in zip(queries, keys, strict=True)]
    score = torch.stack(each).unflatten(0, W_Q.shape[:2]).cpu().numpy()
    nothing = W_pos.new_zeros(len(W_pos), 1)
    return xr.Dataset(
        {
            "position_pattern": (("layer", "head"), score, layer_norm(model)),
            "position_pattern_chance": _mean_subdiagonal(_attend(model, nothing, nothing)).item(),
        }
    )


def position_attention(model: Model, head: Head) -> Float[Tensor, "query key"]:
    """Return a head's attention by position embeddings alone, ``softmax(W_pos W_QK W_pos.T / sqrt(d_head))``.

    The softmax is over the visible keys.

    Raises:
        DoesNotApplyError: no W_pos, or a W_pos of zeros; attention scores that are not ``x W_Q W_K.T y`` (rotary
            positions, grouped heads).
        ValueError: a head that does not exist.

    Example:
        >>> from headway.models.handmade import previous_token_head
        >>> position_attention(previous_token_head()[0], Head(0, 0))[5].argmax().item()
        4
    """
    W_pos = _position_table("position_attention", model)
    head = check_head(model, head)
    return _attend(model, W_pos @ weight(model, "W_Q")[head].double(), W_pos @ weight(model, "W_K")[head].double())


def _position_table(name: str, model: Model) -> Float[Tensor, "pos d_model"]:
    needs_plain_scores(name, model)
    if Structure(model.cfg).position_point is None:
        raise DoesNotApplyError(f"{name} needs position embeddings W_pos; this network has none")
    # In float64, because scores of fresh weights are about 1e-6, too small for a softmax in float32.
    W_pos = weight(model, "W_pos").double()
    if not W_pos.any():
        raise DoesNotApplyError(f"{name} needs position embeddings W_pos; those of this network are all zeros")
    return W_pos


def _attend(model: Model, queries: Float[Tensor, "pos d"], keys: Float[Tensor, "pos d"]) -> Float[Tensor, "query key"]:
    scores = queries @ keys.mT / Structure(model.cfg).score_divisor
    if model.cfg.attention_dir == "causal":
        scores = scores.masked_fill_(torch.ones_like(scores, dtype=torch.bool).triu_(1), -torch.inf)
    return scores.softmax(-1)


def _mean_subdiagonal(A: Float[Tensor, "query key"]) -> Float[Tensor, ""]:
    return A.diagonal(-1).mean()
