"""Where a network over vectors keeps things: in the space that its inputs come in by, or beside it."""

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
    """Whether a layer copies vectors: R² of regressing the entries of ``x W_E W_OV W_U`` on the entries of x.

    W_OV is the sum over *all* heads of the layer. ``linearity`` [inputs, layer] is R², in [0, 1]; ``linearity_slope``
    and ``linearity_intercept`` are those of the least squares line; each is the mean over the vectors. ``data`` are the
    inputs at the positions that count, ``isotropic`` as many normal vectors, always the same. Vectors with all entries
    equal are left out; a circuit that is zero has no R². Null: ``linearity_null`` = 1 / (n - 1), n the length of a
    vector, the exact mean for a random circuit. After Bhargav & Gu 2024 (arXiv 2410.17438). What attention selects, and
    what LayerNorm and MLPs do, plays no part in it.

    Raises:
        DoesNotApplyError: tokens, outputs of another length than the inputs, vectors of fewer than 3 entries.

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
    needs_same_outputs("linearity", model)
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
    """R², slope and intercept of the least squares line through the entries of each pair of vectors; their means."""
    dx, dy = (each - each.mean(-1, keepdim=True) for each in (x, y))
    together, alone = (dx * dy).sum(-1), (dx**2).sum(-1)
    # 0 / 0, for entries that are all equal, is NaN and left out of the means.
    slope = together / alone
    r_squared = together**2 / (alone * (dy**2).sum(-1))
    intercept = y.mean(-1) - slope * x.mean(-1)
    return torch.stack([r_squared, slope, intercept]).nanmean(-1)


def outside_embedding(model: Model, batch: Batch) -> xr.Dataset:
    """How much of what a layer writes is outside the space of the embedding: mean of ``‖(I - P) d‖ / ‖d‖``.

    ``outside_embedding`` [layer], in [0, 1], over the positions that count and at which the layer adds anything; P is
    the projector on the row space of W_E, d what attention and MLP of the layer add, biases too. NaN for a layer that
    adds nothing. Null: ``outside_embedding_null`` = sqrt((d_model - d_in) / d_model), d_in the rank of W_E: the
    root mean square for isotropic d. W_pos does not count as embedding.

    Raises:
        DoesNotApplyError: an embedding that leaves nothing outside, of rank d_model.

    Example:
        >>> from headway.models.handmade import copying_head, previous_token_head
        >>> outside_embedding(*copying_head()).outside_embedding.item()  # it writes where tokens are
        0.0
        >>> outside_embedding(*previous_token_head()).outside_embedding.item()  # it writes elsewhere
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
        # 0 / 0, where the layer adds nothing, is NaN and left out of the mean.
        shares.append((outside.norm(dim=-1) / added.norm(dim=-1)).nanmean())
    return xr.Dataset(
        {
            "outside_embedding": (("layer",), torch.stack(shares).cpu().numpy()),
            "outside_embedding_null": ((), ((d_model - rank) / d_model) ** 0.5),
        }
    )
