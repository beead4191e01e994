"""Nulls: what a measure gives when nothing has formed, and how far it then strays."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from statistics import NormalDist

import einops
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.attention import DoesNotApplyError, seen_once
from headway.data.seeds import generator
from headway.data.task import Batch
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer

# Fresh networks of which heads are pooled, and heads of Gaussian factors: a standard deviation over n draws is known
# to 1/sqrt(2 n), 4 % for 256.
NETWORKS = 64
HEADS = 256
BAND = 0.99


def band_z(size: int) -> float:
    """How many standard deviations the band reaches: a family of ``size`` nulls stays inside with probability 0.99.

    The band is for the whole family of heads or pairs of one measure at one step, not for each entry (Šidák).

    Example:
        >>> round(band_z(1), 2), round(band_z(8), 2)
        (2.58, 3.23)
    """
    each = BAND ** (1 / size)
    return NormalDist().inv_cdf((1 + each) / 2)


def haar_null(
    s: Float[Tensor, "h1 rank"], t: Float[Tensor, "h2 rank"], d_model: int
) -> tuple[Float[Tensor, ""], Float[Tensor, "h1 h2"]]:
    """Mean and standard deviation of score² when L and R keep their singular values s, t and are rotated at random.

    With ``M = L.T L``, ``N = R R.T``, M0 and N0 their traceless parts and a rotation uniform over O(d_model)::

        score² = tr(M N) / (tr M tr N),  mean 1/d_model,
        variance 2 ‖M0‖² ‖N0‖² / ((d_model - 1) (d_model + 2)) / (tr M tr N)²
    """
    trace = einops.reduce(s**2, "h rank -> h", "sum")[:, None] * einops.reduce(t**2, "h rank -> h", "sum")[None, :]
    M0, N0 = (
        einops.reduce(x**4, "h rank -> h", "sum") - einops.reduce(x**2, "h rank -> h", "sum") ** 2 / d_model
        for x in (s, t)
    )
    variance = 2 * M0[:, None] * N0[None, :] / ((d_model - 1) * (d_model + 2)) / trace**2
    return torch.tensor(1 / d_model, device=s.device), variance.sqrt()


@lru_cache(maxsize=4)
def random_heads(
    d_model: int, d_head: int
) -> tuple[Float[Tensor, "draw d_model d_head"], Float[Tensor, "draw d_head d_model"]]:
    """W_V and W_O of heads with Gaussian entries; always the same ones for the same sizes."""
    draws = generator("null", 0)
    W_V = torch.randn(HEADS, d_model, d_head, generator=draws)
    W_O = torch.randn(HEADS, d_head, d_model, generator=draws)
    return W_V, W_O


def fresh_initialisations(
    measures: Mapping[str, Callable[[HookedTransformer, Batch], xr.Dataset]], config: ModelConfig, batch: Batch
) -> dict[str, xr.Dataset]:
    """``<name>_null`` and ``<name>_null_std`` [layer] of each measure, over 64 fresh networks of the same config.

    The networks see the same batch; their seeds are apart from those of any run; heads of a layer are pooled. A
    measure that does not apply is left out. A null without spread has standard deviation 0, and no band.
    """
    model = HookedTransformer(config).to(batch.inputs.device).eval()
    found: dict[str, list[xr.DataArray]] = {}
    for draw in range(NETWORKS):
        model.init_weights(generator("null", 1, draw))
        with seen_once():
            for name, function in measures.items():
                try:
                    found.setdefault(name, []).append(function(model, batch)[name])
                except DoesNotApplyError:
                    found.pop(name, None)
    nulls = {}
    for name, draws in found.items():
        pooled = xr.concat(draws, dim="draw").astype("float64")
        mean, std = pooled.mean(("draw", "head")), pooled.std(("draw", "head"), ddof=1)
        nulls[name] = xr.Dataset(
            # What is left of no spread at all is rounding.
            {f"{name}_null": mean, f"{name}_null_std": std.where(std > 1e-6 * abs(mean), 0.0)}
        )
    return nulls
