"""The claims of the study of affine recurrences."""

from typing import Any

import einops
import numpy as np
import torch

from headway.analyze.measures.attention import previous_token
from headway.analyze.measures.composition import k_composition, q_composition, v_composition
from headway.analyze.measures.eigenvalues import ov_eigenvalue_residual
from headway.analyze.measures.geometry import linearity, outside_embedding
from headway.analyze.measures.loss import loss
from headway.analyze.measures.surgery import qk_identity_loss
from headway.analyze.network.forward import forward_pass
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.studies.affine_recurrence.causes import loss_with_uniform_attention
from headway.analyze.studies.affine_recurrence.equations import (
    attended_vectors,
    offset_of_layer_0,
    previous_vector_of_layer_0,
)
from headway.analyze.studies.heads import way_from_chance
from headway.analyze.studies.result import Claim, Claims
from headway.analyze.tools.similar_vector import similar_vector
from headway.data.task import Batch
from headway.models.config import Head
from headway.models.convert import Model


def claims(model: Model, batch: Batch) -> Claims:
    """Return the claims of the paper on each layer, with the numbers that decide them for a network.

    The layer that attends to similar vectors is the last one in the paper; here it is the one after the first whose
    heads do so most. A number that does not exist (there is no second layer), or whose claim presupposes another that
    fails, is NaN, and its claim does not hold.
    """
    layers = model.cfg.n_layers
    way = way_from_chance(previous_token(model, batch), "previous_token")
    copied = _copied_by_layer_0(model, batch)
    second, where = _second_vector(model, batch)
    try:
        outside = outside_embedding(model, batch)
        null = outside.outside_embedding_null.item()
        beside = (outside.outside_embedding[1].item() - null) / (1 - null) if layers > 1 else np.nan
    except DoesNotApplyError:
        beside = np.nan
    similar = similar_vector(model, batch).similar_vector.median("head")
    reader = reads_similar(model, batch)
    offset, before = offset_of_layer_0(model, batch), previous_vector_of_layer_0(model, batch)
    attended = attended_vectors(model, batch, reader)
    copying = ov_eigenvalue_residual(model, batch).ov_eigenvalue_residual[reader].median().item()
    clean = loss(model, batch).loss_determined.item()
    chosen = [Head(reader, head) for head in range(model.cfg.n_heads)]
    projected = qk_identity_loss(model, batch, chosen, "trained").loss_determined.item()
    uniform = loss_with_uniform_attention(model, batch, chosen)
    shares = [_share_above(measure, model, batch, reader) for measure in (q_composition, k_composition, v_composition)]
    pairs = f"share of the pairs L{reader - 1} to L{reader} above the 99 % band" if reader else "no pairs"
    alike = Claim(
        "A later layer attends to vectors similar to the current one",
        f"median similar_vector of the heads of L{reader}, from no preference (0) to the most similar only (1)",
        similar[reader].item(),
        0.5,
    )
    reads = Claim("It reads the layer before it", f"{pairs}: the largest of Q-, K- and V-composition", max(shares), 0.5)
    return (
        Claim(
            "Layer 0 has a previous-token head",
            f"previous_token of L0H{int(way.sel(layer=0).values.argmax())}, from chance (0) to all attention (1)",
            way.sel(layer=0).max().item(),
            0.5,
        ),
        Claim(
            "The heads of layer 0 add a multiple of the vectors that they attend to",
            "linearity of the summed OV circuits of L0: R² on isotropic vectors",
            copied,
            0.5,
        ),
        Claim(
            "Layer 0 adds an offset",
            f"{offset.says}: share of its mean square, from the control ({offset.against}, 0) to 1, held-out sequences",
            offset.share,
            0.5,
        ),
        Claim(
            "Layer 0 adds a multiple of the previous vector, and an offset",
            f"{before.says}: R² beside the offset, from the control ({before.against}, 0) to 1, held-out sequences",
            before.share,
            0.5,
        ),
        Claim(
            "Layer 1 has a head that attends to the second vector",
            f"attention of {where} to vector 1, from chance (0) to all attention (1)",
            second,
            0.5,
        ),
        Claim(
            "Layer 1 writes outside of the embedding",
            "outside_embedding of L1 (heads and MLP), from a random direction (0) to all outside (1)",
            beside,
            0.5,
        ),
        alike,
        Claim(
            "The heads of that layer subtract what they attend to",
            f"median ov_eigenvalue_residual of L{reader}",
            copying,
            -0.5,
            below=True,
        ).given(alike),
        Claim(
            "It takes the mean of what it attends to away from the vector",
            f"{attended.says}: R² beside the offset, from the control ({attended.against}, 0) to 1, held-out "
            "sequences; negative if c is",
            attended.share * np.sign(attended.slope) if reader else np.nan,
            0.5,
        ).given(alike),
        Claim(
            "Their queries and keys compute similarity and nothing else",
            f"(error - clean) / (error with uniform attention - clean), with each W_QK of L{reader} replaced by a "
            "projector (trained W_Q)",
            (projected - clean) / (uniform - clean) if uniform > 1.1 * clean else np.nan,
            0.5,
            below=True,
        ).given(alike),
        *(
            Claim(f"Its attention reads the layer before it: {kind}-composition", pairs, share, 0.5).given(alike)
            for kind, share in zip("QK", shares, strict=False)
        ),
        Claim(
            "It reads that layer with queries or keys, not with values",
            f"{pairs}: the larger of Q- and K-composition minus V-composition",
            max(shares[:2]) - shares[2],
            0.25,
        ).given(alike, reads),
    )


def reads_similar(model: Model, batch: Batch) -> int:
    """Return the layer after the first whose heads attend to similar vectors most; 0 if there is one layer."""
    first = min(1, model.cfg.n_layers - 1)
    similar = similar_vector(model, batch).similar_vector.median("head")
    return first + int(similar.fillna(-np.inf).values[first:].argmax())


def _copied_by_layer_0(model: Model, batch: Batch) -> float:
    try:
        return linearity(model, batch).linearity.sel(inputs="isotropic", layer=0).item()
    except DoesNotApplyError:
        return np.nan


def _second_vector(model: Model, batch: Batch) -> tuple[float, str]:
    """Return attention to position 1 from chance (0) to 1, of the best head of layer 1, and the name of that head."""
    length = batch.inputs.shape[1]
    if model.cfg.n_layers < 2 or length < 3:
        return np.nan, "none"
    to_second = forward_pass(model, batch).patterns[1, :, :, 2:, 1]
    scores = einops.reduce(to_second, "batch head query -> head", "mean")
    chance = (1 / torch.arange(3, length + 1)).mean()
    way = (scores - chance) / (1 - chance)
    return way.max().item(), str(Head(1, int(way.argmax())))


def _share_above(measure: Any, model: Model, batch: Batch, reader: int) -> float:
    """Return the share of pairs from the layer before ``reader`` to it whose composition is above the null band."""
    if reader == 0:
        return np.nan
    scores = measure(model, batch).sel(from_layer=reader - 1, to_layer=reader)
    name = measure.__name__
    return (scores[name] > scores[f"{name}_high"]).mean().item()
