"""Geometry of networks over vectors: linear copying, and the part of the residual stream outside the embedding."""

import einops
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.network.forward import forward_pass
from headway.analyze.network.requirements import DoesNotApplyError, needs_same_outputs, needs_vectors
from headway.analyze.network.weights import layer_norm, weight
from headway.data.seeds import generator
from headway.data.task import Batch
from headway.models.convert import Model


def linearity(model: Model, batch: Batch) -> xr.Dataset:
    """Linear copying of vectors by a layer: R² of regressing the entries of ``x W_E W_OV W_U`` on the entries of x.

    W_OV is the sum over *all* heads of the layer. ``linearity`` [inputs, layer] is R², in [0, 1]; ``linearity_slope``
    and ``linearity_intercept`` belong to the least-squares line; each is the mean over vectors. ``data`` are the inputs
    at the positions in the mask, ``isotropic`` as many normal vectors, always the same. Vectors with equal entries are
    left out; R² is NaN for a zero circuit. Null: ``linearity_null`` = 1 / (n - 1), n the length of a vector, the exact
    mean for a random circuit. After Bhargav & Gu 2024 (arXiv 2410.17438). It does not show the effect of attention,
    LayerNorm or MLPs.

    Raises:
        DoesNotApplyError: tokens, outputs that do not stand for the inputs, vectors of fewer than 3 entries.

    Example:
        >>> from headway.data.affine_recurrence import AffineRecurrence
        >>> from headway.models.config import ModelConfig
        >>> from headway.models.hooked_transformer import HookedTransformer
        >>> cfg = ModelConfig(n_layers=2, d_model=19, n_ctx=11, d_head=5, n_heads=3, d_vocab=7, input_type="vectors")
        >>> batch = AffineRecurrence(d_vector=7, length_max=12).evaluation_batch(seed=0, batch_size=5)
        >>> linearity(HookedTransformer(cfg), batch).linearity.sizes
        Frozen({'inputs': 2, 'layer': 2})
    """
    needs_vectors("linearity", batch)
    needs_same_outputs("linearity", model, batch)
    entries = model.cfg.d_vocab
    if entries < 3:
        raise DoesNotApplyError(f"linearity needs vectors of at least 3 entries; these have {entries}")
    W_OV = einops.einsum(
        weight(model, "W_V"), weight(model, "W_O"), "layer head a d_head, layer head d_head b -> layer a b"
    )
    circuits = weight(model, "W_E") @ W_OV @ weight(model, "W_U")
    data = batch.inputs[batch.mask].to(circuits)
    isotropic = torch.randn(data.shape, generator=generator("null", 0)).to(circuits)
    lines = torch.stack([torch.stack([_line(x, x @ circuit) for circuit in circuits]) for x in (data, isotropic)])
    r_squared, slope, intercept = einops.rearrange(lines, "inputs layer number -> number inputs layer").cpu().numpy()
    axes = ("inputs", "layer")
    return xr.Dataset(
        {
            "linearity": (axes, r_squared, layer_norm(model)),
            "linearity_slope": (axes, slope),
            "linearity_intercept": (axes, intercept),
            "linearity_null": ((), 1 / (entries - 1)),
        },
        coords={"inputs": ["data", "isotropic"]},
    )


def _line(x: Float[Tensor, "vector entry"], y: Float[Tensor, "vector entry"]) -> Float[Tensor, "3"]:
    """Return R², slope and intercept of the least-squares line through entries of x and y, as means over vectors."""
    dx, dy = (each - each.mean(-1, keepdim=True) for each in (x, y))
    together, alone = (dx * dy).sum(-1), (dx**2).sum(-1)
    # Equal entries give 0 / 0 = NaN, which nanmean leaves out.
    slope = together / alone
    r_squared = together**2 / (alone * (dy**2).sum(-1))
    intercept = y.mean(-1) - slope * x.mean(-1)
    return torch.stack([r_squared, slope, intercept]).nanmean(-1)


def outside_embedding(model: Model, batch: Batch) -> xr.Dataset:
    """Share of a layer's output outside the row space of W_E: mean of ``‖(I - P) d‖ / ‖d‖``.

    P is the projector on the row space of W_E; d is the output of the layer's attention and MLP, with biases.
    ``outside_embedding`` [layer], in [0, 1], is the mean over positions in the mask at which d is not zero; NaN for a
    layer that adds nothing. Null: ``outside_embedding_null`` = sqrt((d_model - d_in) / d_model), d_in the rank of W_E:
    the root mean square for isotropic d. After Bhargav & Gu 2024 (arXiv 2410.17438). W_pos does not count as embedding.
    It does not show what the output encodes, nor that later layers read it.

    Raises:
        DoesNotApplyError: an embedding of rank d_model, whose row space is the whole residual stream.

    Example:
        >>> from headway.models.handmade import copying_head, previous_token_head
        >>> outside_embedding(*copying_head()).outside_embedding.item()  # it writes in token directions
        0.0
        >>> outside_embedding(*previous_token_head()).outside_embedding.item()  # it writes in other directions
        1.0
    """
    W_E = weight(model, "W_E")
    d_model, rank = model.cfg.d_model, int(torch.linalg.matrix_rank(W_E))
    if rank == d_model:
        raise DoesNotApplyError(
            f"outside_embedding needs an embedding of lower rank than d_model; this network's has rank {rank}"
        )
    basis = torch.linalg.svd(W_E, full_matrices=False).Vh[:rank].mT
    activations = forward_pass(model, batch).activations
    shares = []
    for layer in range(model.cfg.n_layers):
        added = activations[f"blocks.{layer}.hook_resid_post"] - activations[f"blocks.{layer}.hook_resid_pre"]
        added = added[batch.mask].to(basis)
        outside = added - added @ basis @ basis.mT
        # A layer that adds nothing gives 0 / 0 = NaN, which nanmean leaves out.
        shares.append((outside.norm(dim=-1) / added.norm(dim=-1)).nanmean())
    return xr.Dataset(
        {
            "outside_embedding": (("layer",), torch.stack(shares).cpu().numpy()),
            "outside_embedding_null": ((), ((d_model - rank) / d_model) ** 0.5),
        }
    )
