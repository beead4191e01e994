"""Attention of heads, and direct attribution of the prediction."""

import einops
import torch
import xarray as xr

from headway.analyze.measures.attention import previous_token
from headway.analyze.measures.attribution import direct_attribution
from headway.analyze.network.axes import HEAD
from headway.analyze.network.forward import forward_pass
from headway.analyze.studies.affine_recurrence.sequences import n_vectors
from headway.analyze.studies.result import Figure, Section, by_layer
from headway.analyze.tools.similar_vector import similar_vector
from headway.data.task import Batch
from headway.models.convert import Model


def attention_section(model: Model, of_one_c: Batch, batch: Batch, c: float) -> Section:
    """Mean attention patterns on sequences of one coefficient, and attention scores on sequences of any."""
    patterns = einops.reduce(forward_pass(model, of_one_c).patterns, "layer batch head q k -> layer head q k", "mean")
    second = einops.reduce(
        forward_pass(model, batch).patterns[:, :, :, 2:, 1], "layer batch head q -> layer head", "mean"
    )
    figures = [
        Figure(
            f"Mean attention patterns, c = {c:g}",
            xr.Dataset({"attention": (("layer", "head", "query", "key"), patterns.numpy())}),
            "maps",
            f"Sequences of {n_vectors(of_one_c)} vectors. With negative c, every other vector is similar, so that a "
            "head that attends to similar vectors has a checkerboard pattern.",
        )
    ]
    if c < 0 and of_one_c.info["c"].shape[1] == 1:
        pos = torch.arange(n_vectors(batch) - 1)
        back = pos[:, None] - pos
        earlier, alike = back > 0, (back > 0) & (back % 2 == 0)
        share = ((patterns * alike).sum(-1) / (patterns * earlier).sum(-1))[..., 2:].mean(-1)
        chance = (alike.sum(-1) / earlier.sum(-1))[2:].mean()
        figures.append(
            Figure(
                f"Checkerboard, c = {c:g}",
                by_layer(share=xr.DataArray(share.numpy(), dims=HEAD)),
                "table",
                "Share of the attention to earlier vectors that is on those 2, 4, ... positions back, mean over "
                f"queries from 2 on; chance is {chance:.3f}.",
            )
        )
    for title, scores, note in (
        ("Attention to the previous vector", previous_token(model, batch).previous_token, "previous_token."),
        ("Attention to the second vector", xr.DataArray(second.numpy(), dims=HEAD), "Mean over queries from 2 on."),
        (
            "Attention to similar vectors",
            similar_vector(model, batch).similar_vector,
            "From no preference (0) to the most similar earlier vector only (1); below 0: to dissimilar vectors.",
        ),
    ):
        figures.append(Figure(title, by_layer(score=scores), "table", f"{note} Any c, {n_vectors(batch)} vectors."))
    return Section("Attention", "Attention of each head.", tuple(figures))


def attribution_section(model: Model, batch: Batch) -> Section:
    """Direct contribution of each component to the prediction, as a share of the target."""
    shares = direct_attribution(model, batch)
    return Section(
        "Direct attribution",
        "Contribution of each component to the prediction along the target, as a share of the target; the sum is 1 "
        "for a perfect prediction. Heads are without biases, each b_O is separate, an MLP includes its b_out. The "
        "scale is that of the whole residual stream.",
        (
            Figure(
                "By component",
                shares[["direct_attribution", "direct_attribution_determined"]],
                "table",
                "Over all positions, and over positions whose answer is determined.",
            ),
            Figure("By component and position", shares[["direct_attribution_by_position"]], "maps"),
        ),
    )
