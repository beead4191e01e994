"""Weights: OV and QK circuits, linearity, the embedding subspace, eigenvalues, composition."""

import einops
import numpy as np
import torch
import xarray as xr

from headway.analyze.measures.composition import k_composition, q_composition, v_composition
from headway.analyze.measures.eigenvalues import (
    ov_eigenvalue,
    ov_eigenvalue_residual,
    qk_eigenvalue,
    qk_eigenvalue_residual,
)
from headway.analyze.measures.geometry import linearity, outside_embedding
from headway.analyze.measures.ranks import rank_95, rank_entropy, rank_stable
from headway.analyze.network.axes import HEAD
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.network.weights import ov, qk, weight
from headway.analyze.studies.heads import writes_by_reads
from headway.analyze.studies.result import Figure, Section, by_layer, table
from headway.data.seeds import generator
from headway.data.task import Batch
from headway.models.convert import Model

# Absolute value above which an entry of W_OV is large.
LARGE = 0.05
# Points of a scatter plot.
POINTS = 512


def circuits_section(model: Model, batch: Batch) -> Section:
    """OV and QK matrices, shares of large entries, singular values and effective ranks."""
    W_OV = einops.einsum(weight(model, "W_V"), weight(model, "W_O"), "l h a d, l h d b -> l h a b")
    W_QK = einops.einsum(weight(model, "W_Q"), weight(model, "W_K"), "l h a d, l h b d -> l h a b")
    through = weight(model, "W_E") @ W_OV @ weight(model, "W_U")
    large = einops.reduce((W_OV.abs() > LARGE).float(), "layer head a b -> layer head", "mean")
    spectra = {
        name: einops.rearrange(circuit.singular_values, "(layer head) s -> layer head s", head=W_OV.shape[1])
        for name, circuit in (("OV", ov(model)), ("QK", qk(model)))
    }
    ranks = {
        f"{rank.__name__}_{circuit}": rank(model, batch)[rank.__name__].sel(circuit=circuit)
        for rank in (rank_95, rank_entropy, rank_stable)
        for circuit in ("OV", "QK")
    }
    return Section(
        "OV and QK circuits",
        "W_OV and W_QK are d_model by d_model; W_E W_OV W_U maps an input vector to an output vector.",
        (
            Figure("W_OV", xr.Dataset({"W_OV": ((*HEAD, "from", "to"), W_OV.numpy())}), "maps"),
            Figure("W_QK", xr.Dataset({"W_QK": ((*HEAD, "query", "key"), W_QK.numpy())}), "maps"),
            Figure("W_E W_OV W_U", xr.Dataset({"circuit": ((*HEAD, "input", "output"), through.numpy())}), "maps"),
            Figure(
                "Share of large entries",
                by_layer(share=xr.DataArray(large.numpy(), dims=HEAD)),
                "table",
                f"Share of entries of W_OV with an absolute value above {LARGE}.",
            ),
            Figure(
                "Singular values",
                xr.Dataset({name: ((*HEAD, "number"), values.numpy()) for name, values in spectra.items()}),
                "lines",
                "One line per head, largest first.",
            ),
            Figure(
                "Effective ranks",
                by_layer(**{name: each.mean("head") for name, each in ranks.items()}),
                "table",
                "Means over the heads of a layer. rank_95: number of singular values with 95 % of the sum of squares; "
                "rank_entropy: exp of the entropy of their shares; rank_stable: sum of squares over the largest "
                "square.",
            ),
            Figure(
                "Distribution of effective ranks over heads",
                _distributions(ranks),
                "table",
                "Of the heads of each layer; spread: standard deviation.",
            ),
            *(
                Figure(f"{name} of each head", by_layer(rank=each), "table", "The circuit follows the measure's name.")
                for name, each in ranks.items()
            ),
        ),
    )


def _entries_through(model: Model, batch: Batch) -> xr.Dataset:
    """Return pairs [layer, entry, of] of entries of vectors, and of what the OV circuits of a layer map them to."""
    W_OV = einops.einsum(weight(model, "W_V"), weight(model, "W_O"), "l h a d, l h d b -> l a b")
    circuits = weight(model, "W_E") @ W_OV @ weight(model, "W_U")
    data = batch.inputs[batch.mask][: max(1, POINTS // model.cfg.d_vocab)].to(circuits)
    pairs = {}
    for name, x in (("data", data), ("isotropic", torch.randn(data.shape, generator=generator("null", 0)).to(data))):
        through = einops.einsum(x, circuits, "vector a, layer a b -> layer vector b")
        both = torch.stack([x.expand_as(through), through], -1)
        pairs[name] = (
            ("layer", "entry", "of"),
            einops.rearrange(both, "layer vector b of -> layer (vector b) of").numpy(),
        )
    return xr.Dataset(pairs, {"layer": [f"L{i}" for i in range(len(circuits))], "of": ["input", "output"]})


def _distributions(ranks: dict[str, xr.DataArray]) -> xr.Dataset:
    """Return the least, the median, the largest and the spread of each rank in each layer."""
    rows = [(name, layer) for name, each in ranks.items() for layer in range(each.sizes["layer"])]
    of_heads = [ranks[name].sel(layer=layer) for name, layer in rows]
    return table(
        "rank",
        [f"{name}, L{layer}" for name, layer in rows],
        least=[each.min().item() for each in of_heads],
        median=[each.median().item() for each in of_heads],
        largest=[each.max().item() for each in of_heads],
        spread=[each.std().item() for each in of_heads],
    )


def geometry_section(model: Model, batch: Batch) -> Section:
    """Linearity of the OV circuits, and the share of outputs outside of the embedding."""
    figures, reasons = [], []
    try:
        lines = linearity(model, batch)
        copied = {
            f"{label} ({inputs})": lines[name].sel(inputs=inputs)
            for inputs in ("data", "isotropic")
            for label, name in (("R²", "linearity"), ("slope", "linearity_slope"), ("intercept", "linearity_intercept"))
        }
        figures.append(
            Figure(
                "Linearity of the summed OV circuits of each layer",
                by_layer(**copied),
                "table",
                "Fit of the entries of x W_E W_OV W_U to those of x, all heads of the layer together; the mean R² of "
                f"random circuits is {lines.linearity_null:.3g}.",
            )
        )
        figures.append(
            Figure(
                "OV output against input",
                _entries_through(model, batch),
                "scatter",
                "Entries of x W_E W_OV W_U against those of x, all heads of the layer together, for the first inputs "
                "and as many normal vectors. A layer that copies gives a line.",
            )
        )
    except DoesNotApplyError as reason:
        reasons.append(str(reason))
    try:
        outside = outside_embedding(model, batch)
        figures.append(
            Figure(
                "Share of outputs outside of the embedding",
                by_layer(outside_embedding=outside.outside_embedding),
                "table",
                "Norm of the part of a layer's output (heads and MLP) that is orthogonal to all embeddings, relative "
                f"to the norm of the output; {outside.outside_embedding_null:.3g} for a random direction.",
            )
        )
    except DoesNotApplyError as reason:
        reasons.append(str(reason))
    return Section("Linearity and embedding subspace", " ".join(reasons), tuple(figures))


def eigenvalues_section(model: Model, batch: Batch) -> Section:
    """Eigenvalue scores of OV and QK, between inputs and outputs and within the residual stream."""
    figures = []
    for measure in (ov_eigenvalue, ov_eigenvalue_residual, qk_eigenvalue, qk_eigenvalue_residual):
        scores, name = measure(model, batch), measure.__name__
        spread = scores[f"{name}_null_std"].max().item()
        figures.append(Figure(name, by_layer(score=scores[name]), "table", f"Null: 0 ± {spread:.2g}."))
    return Section(
        "Eigenvalue scores",
        "Sum of the eigenvalues over the sum of their absolute values. OV: 1 copies, -1 subtracts; QK: 1 attends to "
        "similar vectors, -1 to opposite ones. Between inputs and outputs, and within the residual stream (_residual).",
        tuple(figures),
    )


def composition_section(model: Model, batch: Batch) -> Section:
    """Q-, K- and V-composition of all pairs, beside the null of random rotations."""
    if model.cfg.n_layers < 2:
        return Section("Composition", "A network with one layer has no pairs of heads.", ())
    maps, rows = {}, {}
    for kind, measure in {"Q": q_composition, "K": k_composition, "V": v_composition}.items():
        scores, name = measure(model, batch), measure.__name__
        maps[name] = writes_by_reads(scores[f"{name}_z"]).assign_attrs(long_name=f"{kind}-composition: z")
        for layer, later in zip(*np.triu_indices(model.cfg.n_layers, 1), strict=True):
            here = scores.sel(from_layer=layer, to_layer=later)
            rows[f"{kind}, L{layer} to L{later}"] = (
                here[name].mean().item(),
                here[name].max().item(),
                here[f"{name}_null"].mean().item(),
                here[f"{name}_z"].mean().item(),
                (here[name] / here[f"{name}_ceiling"]).mean().item(),
                (here[name] > here[f"{name}_high"]).mean().item(),
            )
    columns = ("mean", "largest", "null", "mean z", "mean of ceiling", "above the band")
    return Section(
        "Composition",
        "How much queries, keys and values of later heads read the outputs of earlier heads: the Frobenius norm of the "
        "product over the product of the norms. Null: the same factors, rotated at random.",
        (
            Figure("All pairs of heads", xr.Dataset(maps), "maps"),
            Figure(
                "Means by pair of layers",
                table("layers", rows, **dict(zip(columns, zip(*rows.values(), strict=True), strict=True))),
                "table",
                "above the band: share of pairs above the 99 % band of the null for all pairs.",
            ),
        ),
    )
