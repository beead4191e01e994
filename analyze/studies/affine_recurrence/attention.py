"""Where each head looks, and what it adds to the prediction directly."""

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
    """The pattern of every head on sequences of one coefficient, and what heads look for in any."""
    patterns = einops.reduce(forward_pass(model, of_one_c).patterns, "layer batch head q k -> layer head q k", "mean")
    second = einops.reduce(
        forward_pass(model, batch).patterns[:, :, :, 2:, 1], "layer batch head q -> layer head", "mean"
    )
    figures = [
        Figure(
            f"Mean pattern of every head, c = {c:g}",
            xr.Dataset({"attention": (("layer", "head", "query", "key"), patterns.numpy())}),
            "maps",
            f"Sequences of {n_vectors(of_one_c)} vectors. Where c is negative every other difference points the same "
            "way, and a head that looks for vectors like the current one has a checkerboard.",
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
                "Share of the attention to earlier vectors that is on those 2, 4, ... back, over queries from 2 on; "
                f"{chance:.3f} is chance.",
            )
        )
    for title, scores, note in (
        ("Attention to the vector before", previous_token(model, batch).previous_token, "previous_token."),
        ("Attention to the second vector", xr.DataArray(second.numpy(), dims=HEAD), "Over queries from 2 on."),
        (
            "Attention to similar vectors",
            similar_vector(model, batch).similar_vector,
            "From no preference (0) to the most similar earlier vector only (1); below 0 it goes to unlike ones.",
        ),
    ):
        figures.append(Figure(title, by_layer(score=scores), "table", f"{note} Any c, {n_vectors(batch)} vectors."))
    return Section("Attention", "What each head looks at.", tuple(figures))


def attribution_section(model: Model, batch: Batch) -> Section:
    """Shares of the target vector that each component adds to the prediction directly."""
    shares = direct_attribution(model, batch)
    return Section(
        "Direct attribution",
        "What each component adds to the prediction along the target, as a share of the target; together they are 1 "
        "for a perfect prediction. Heads stand without biases, each b_O apart, an MLP with its b_out; the scale is "
        "that of the whole stream.",
        (
            Figure(
                "By component",
                shares[["direct_attribution", "direct_attribution_determined"]],
                "table",
                "Over all positions, and where the answer is determined.",
            ),
            Figure("By component and position", shares[["direct_attribution_by_position"]], "maps"),
        ),
    )
