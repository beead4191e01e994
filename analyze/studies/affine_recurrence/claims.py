"""The claims of the study of affine recurrences."""

from typing import Any

import einops
import numpy as np
import torch

from headway.analyze.measures.attention import previous_token
from headway.analyze.measures.composition import k_composition, q_composition, v_composition
from headway.analyze.measures.eigenvalues import (
    ov_eigenvalue_residual,
)
from headway.analyze.measures.geometry import linearity, outside_embedding
from headway.analyze.measures.loss import loss
from headway.analyze.measures.surgery import (
    qk_identity_loss,
)
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.studies.affine_recurrence.causes import loss_with_uniform_attention
from headway.analyze.studies.heads import way_from_chance
from headway.analyze.studies.result import Claim, Claims
from headway.analyze.tools.similar_vector import similar_vector
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model


def claims(model: Model, batch: Batch) -> Claims:
    """What the paper says of each layer, each statement with the number that decides it in this network.

    Which layer looks for similar vectors is not taken from the paper, where it is the last: it is the one after the
    first whose heads do so most. A number that a network does not have (the second layer of one) is NaN, and its claim
    does not hold.
    """
    layers = model.cfg.n_layers
    way = way_from_chance(previous_token(model, batch), "previous_token")
    copied = _copied_by_layer_0(model, batch)
    second, where = _second_vector(model, batch)
    try:
        outside = outside_embedding(model, batch)
        nothing = outside.outside_embedding_null.item()
        beside = (outside.outside_embedding[1].item() - nothing) / (1 - nothing) if layers > 1 else np.nan
    except DoesNotApplyError:
        beside = np.nan
    similar = similar_vector(model, batch).similar_vector.median("head")
    reader = min(1, layers - 1) + int(similar.fillna(-np.inf).values[min(1, layers - 1) :].argmax())
    copying = ov_eigenvalue_residual(model, batch).ov_eigenvalue_residual[reader].median().item()
    clean = loss(model, batch).loss_determined.item()
    chosen = [Head(reader, head) for head in range(model.cfg.n_heads)]
    projected = qk_identity_loss(model, batch, chosen, "trained").loss_determined.item()
    uniform = loss_with_uniform_attention(model, batch, chosen)
    shares = [_share_above(measure, model, batch, reader) for measure in (q_composition, k_composition, v_composition)]
    pairs = f"share of the pairs L{reader - 1} to L{reader} above the 99 % band" if reader else "there is none"
    return (
        Claim(
            "Layer 0 has a head that looks at the vector before",
            f"previous_token of L0H{int(way.sel(layer=0).values.argmax())}, from chance (0) to nothing else (1)",
            way.sel(layer=0).max().item(),
            0.5,
        ),
        Claim(
            "What layer 0's heads add of a vector is a multiple of it",
            "R² of its summed OV on isotropic vectors, linearity",
            copied,
            0.5,
        ),
        Claim(
            "Layer 1 has a head that looks at the second vector",
            f"attention to vector 1 of {where}, from chance (0) to nothing else (1)",
            second,
            0.5,
        ),
        Claim(
            "Layer 1 writes outside of the embedding",
            "outside_embedding of L1, heads and MLP, from a random direction (0) to all outside (1)",
            beside,
            0.5,
        ),
        Claim(
            "A later layer looks for vectors like the current one",
            f"median similar_vector of the heads of L{reader}, from no preference (0) to the most similar only (1)",
            similar[reader].item(),
            0.5,
        ),
        Claim(
            "The heads of that layer take away what they look at",
            f"median ov_eigenvalue_residual of L{reader}",
            copying,
            -0.5,
            below=True,
        ),
        Claim(
            "Looking for its like is all that their queries and keys do",
            f"share of what L{reader}'s attention gains over uniform attention that is lost when each W_QK is a "
            "projector (trained W_Q): (error - clean) / (error with uniform attention - clean)",
            (projected - clean) / (uniform - clean) if uniform > 1.1 * clean else np.nan,
            0.5,
            below=True,
        ),
        *(
            Claim(f"The layer before it sets its attention: {kind}-composition", pairs, share, 0.5)
            for kind, share in zip("QK", shares, strict=False)
        ),
        Claim(
            "That is by queries or keys, not by values",
            f"{pairs}: the larger of Q- and K- less that of V-composition",
            max(shares[:2]) - shares[2],
            0.25,
        ),
    )


def _copied_by_layer_0(model: Model, batch: Batch) -> float:
    try:
        return linearity(model, batch).linearity.sel(inputs="isotropic", layer=0).item()
    except DoesNotApplyError:
        return np.nan


def _second_vector(model: Model, batch: Batch) -> tuple[float, str]:
    """How far the head of layer 1 that attends most to position 1 is from chance, and which it is."""
    length = batch.inputs.shape[1]
    if model.cfg.n_layers < 2 or length < 3:
        return np.nan, "none"
    to_second = forward_pass(model, batch).patterns[1, :, :, 2:, 1]
    scores = einops.reduce(to_second, "batch head query -> head", "mean")
    chance = (1 / torch.arange(3, length + 1)).mean()
    way = (scores - chance) / (1 - chance)
    return way.max().item(), str(Head(1, int(way.argmax())))


def _share_above(measure: Any, model: Model, batch: Batch, reader: int) -> float:
    """The share of the pairs from the layer before to ``reader`` whose composition is above the band of all pairs."""
    if reader == 0:
        return np.nan
    scores = measure(model, batch).sel(from_layer=reader - 1, to_layer=reader)
    name = measure.__name__
    return (scores[name] > scores[f"{name}_high"]).mean().item()
