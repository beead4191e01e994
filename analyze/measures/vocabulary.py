"""Scores of vocabulary circuits: which tokens a head copies, attends to, or matches through an earlier head.

A vocabulary circuit is a [d_vocab, d_vocab] matrix such as ``W_E W_OV W_U`` [input token, output token] or ``W_E W_QK
W_E.T`` [query token, key token]: 8.7 GiB a head at 48,262 tokens. It has low rank, so it is stored as two factors and
computed block by block, never as a whole. It includes the weights of a LayerNorm only if they are folded
(``run.model(step, processed=True)``). The scale that a LayerNorm divides by is always left out: this keeps the order
within a row of an OV circuit, and can change other orders.
"""

from collections.abc import Sequence
from functools import cache, partial

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.network.axes import PAIR
from headway.analyze.network.interventions import heads_except
from headway.analyze.network.requirements import (
    needs_content_scores,
    needs_direct_writes,
    needs_layers,
    needs_same_outputs,
    needs_tokens,
)
from headway.analyze.network.vocabulary import (
    Circuit,
    Heads,
    by_head,
    circuit_of,
    k_composition_circuit,
    ov_circuit,
)
from headway.analyze.network.weights import layer_norm, weight
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model


def ov_top1(model: Model, batch: Batch, heads: Heads | None = None) -> xr.Dataset:
    """Share of tokens that a head copies: those that are the argmax of their own row of ``W_E W_OV W_U``.

    In [0, 1]; ``ov_top1`` [layer, head], or one number for the set ``heads``, whose W_OV add up. ``ov_top1_chance`` is
    1/d_vocab. A tie for the maximum is no hit, so a zero circuit scores 0. Every token has the same weight, however
    rare. Null: fresh initialisations. Elhage et al. 2021 define the circuit. It does not show that the head attends to
    the tokens that it would copy.

    Raises:
        DoesNotApplyError: inputs that are vectors, or outputs that do not stand for the inputs, such as classes.
        ValueError: a head that does not exist, a set that is empty or names a head twice.

    Example:
        >>> from headway.models.handmade import copying_head
        >>> ov_top1(*copying_head()).ov_top1.item(), ov_top1(*copying_head(sign=-1.0)).ov_top1.item()
        (1.0, 0.0)
    """
    return _ov_hits("ov_top1", model, batch, 1, heads)


def ov_topk(model: Model, batch: Batch, k: int = 5, heads: Heads | None = None) -> xr.Dataset:
    """Share of tokens that are among the top k of their own row of ``W_E W_OV W_U``.

    In [0, 1], [layer, head], or one number for the set ``heads``. A hit is a token for which fewer than k *other*
    entries are as large as its own. ``ov_topk_chance`` is k/d_vocab. Null: fresh initialisations. Limits are those of
    ``ov_top1``; moreover, a hit does not show that the token is the argmax.

    Raises:
        DoesNotApplyError: inputs that are vectors, or outputs that do not stand for the inputs, such as classes.
        ValueError: a k outside 1..d_vocab, a head that does not exist, a set that is empty or names a head twice.
    """
    return _ov_hits("ov_topk", model, batch, k, heads)


def _ov_hits(name: str, model: Model, batch: Batch, k: int, heads: Heads | None) -> xr.Dataset:
    needs_tokens(name, batch)
    needs_same_outputs(name, model, batch)
    needs_direct_writes(name, model)
    read = cache(partial(weight, model))
    share = by_head(model, heads, lambda some: ov_circuit(read, some).hits(k).float().mean())
    return xr.Dataset({name: share, f"{name}_chance": k / model.cfg.d_vocab})


def token_pair_rank(
    model: Model,
    batch: Batch,
    pairs: Sequence[tuple[int, int]] | None = None,
    circuit: Circuit = "OV",
    heads: Heads | None = None,
) -> xr.Dataset:
    """Percentile of a token pair's entry within its row and within its column of a vocabulary circuit.

    ``token_pair_rank`` [layer, head, pair, within], or [pair, within] for the set ``heads``. In [0, 1]: the share of
    other entries of the row (or column) that are smaller, ties counted half; 1 is the largest. Null: uniform, with mean
    .5. It does not show how large the entry is, and one high percentile among thousands of pairs is no evidence.

    Args:
        model: The network.
        batch: Tokens.
        pairs: (input, output) tokens of ``W_E W_OV W_U``, or (query, key) tokens of ``W_E W_QK W_E.T``; by default
            each token of the batch with itself.
        circuit: OV or QK.
        heads: A set of heads whose W_OV add up; for QK one head, since attention scores do not add up.

    Raises:
        DoesNotApplyError: inputs that are vectors; for OV without ``pairs``, outputs that do not stand for the inputs;
            for QK, attention scores that are not ``x W_Q W_K.T y`` (rotary positions, grouped heads).
        ValueError: tokens, heads or a circuit that do not exist.

    Example:
        >>> from headway.models.handmade import copying_head
        >>> rank = token_pair_rank(*copying_head(), pairs=[(3, 3), (3, 7)]).token_pair_rank
        >>> rank.sel(layer=0, head=0, pair="3 → 3").values.tolist()
        [1.0, 1.0]
    """
    needs_tokens("token_pair_rank", batch)
    if circuit == "QK":
        needs_content_scores("token_pair_rank", model)
    else:
        needs_direct_writes("token_pair_rank", model)
    if pairs is None:
        if circuit == "OV":
            needs_same_outputs("token_pair_rank", model, batch)
        pairs = [(token, token) for token in batch.inputs[batch.real].unique().tolist()]
    if not pairs:
        raise ValueError("pairs: [] is empty; give at least one (row token, column token)")
    rows, columns = torch.tensor(pairs, device=batch.inputs.device).unbind(1)
    read = cache(partial(weight, model))

    def ranks(some: Sequence[Head]) -> Float[Tensor, "pair within"]:
        found = circuit_of(read, circuit, some)
        return torch.stack([found.percentiles(rows, columns), found.T.percentiles(columns, rows)], dim=-1)

    names = {"pair": [f"{row} → {column}" for row, column in pairs], "within": ["row", "column"]}
    return xr.Dataset({"token_pair_rank": by_head(model, heads, ranks, names)})


def k_composition_top1(model: Model, batch: Batch) -> xr.Dataset:
    """Share of tokens that a pair of heads matches by K-composition: those that are the argmax of their row or column.

    The circuit is ``C = W_E W_QK(h2) W_OV(h1).T W_E.T`` [query token, key token]: the score of h2 at positions where h1
    has written the key token (an induction circuit, if h1 attends to the previous token). Axis ``best``: ``key`` is the
    share of tokens that are the argmax of their own row, that is their own best key; ``query`` the share that are the
    argmax of their own column. In [0, 1]; a tie for the maximum is no hit. Axes from_layer, from_head (h1), to_layer,
    to_head (h2); NaN unless h1 is in an earlier layer. ``k_composition_top1_chance`` is 1/d_vocab. Null: fresh
    initialisations. Elhage et al. 2021 define the circuit. It does not show which positions h1 attends to, nor that h2
    copies.

    Raises:
        DoesNotApplyError: inputs that are vectors, one layer, or attention scores that are not ``x W_Q W_K.T y``.

    Example:
        >>> from headway.models.handmade import composing_pair
        >>> score = k_composition_top1(*composing_pair("k")).k_composition_top1
        >>> score.sel(from_layer=0, from_head=0, to_layer=1, to_head=1).values.tolist()
        [1.0, 1.0]
    """
    needs_tokens("k_composition_top1", batch)
    needs_content_scores("k_composition_top1", model)
    needs_layers("k_composition_top1", model)
    needs_direct_writes("k_composition_top1", model)
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    read = cache(partial(weight, model))
    score = torch.full((layers, heads, layers, heads, 2), torch.nan)
    for h1 in heads_except(model):
        for h2 in heads_except(model):
            if h1.layer < h2.layer:
                circuit = k_composition_circuit(read, h1, h2)
                score[*h1, *h2] = torch.stack([each.hits(1).float().mean() for each in (circuit, circuit.T)])
    best = xr.DataArray(score.numpy(), dims=(*PAIR, "best"), coords={"best": ["key", "query"]}, attrs=layer_norm(model))
    return xr.Dataset({"k_composition_top1": best, "k_composition_top1_chance": 1 / model.cfg.d_vocab})
