"""Nulls: what a measure gives when nothing has formed, and how far it then strays."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import einops
import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.applies import DoesNotApplyError
from headway.analyze.forward import seen_once
from headway.data.seeds import generator
from headway.data.task import Batch
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer

# Fresh networks of which heads are pooled, and heads of Gaussian factors: a standard deviation over n draws is known
# to 1/sqrt(2 n), 4 % for 256.
NETWORKS = 64
HEADS = 256
BAND = 0.99


class Scale(NamedTuple):
    """Where nulls are closest to a gamma distribution: a function of the score, and the way back."""

    to: Callable[[xr.DataArray], xr.DataArray]
    back: Callable[[xr.DataArray], xr.DataArray]


PLAIN = Scale(lambda score: score, lambda value: value)
SQUARE = Scale(lambda score: score**2, lambda value: value.clip(min=0) ** 0.5)
# Shares that are 0 or 1 up to float32's rounding have no odds.
LOG_ODDS = Scale(
    lambda share: np.log(share.clip(1e-7, 1 - 1e-7)) - np.log1p(-share.clip(1e-7, 1 - 1e-7)),
    lambda value: 1 / (1 + np.exp(-value)),
)


def unknown() -> xr.DataArray:
    """No number."""
    return xr.DataArray(np.nan)


@dataclass(frozen=True)
class Null:
    """What a score is when nothing has formed: the moments of its distribution, on a scale that suits it.

    Args:
        mean: Mean.
        std: Standard deviation; 0 where the null has no spread.
        skewness: Skewness.
        kurtosis: Excess kurtosis.
        lowest: The lowest value that was drawn, if the null was drawn.
        highest: The highest.
        scale: What function of the score all of these are of.
    """

    mean: xr.DataArray
    std: xr.DataArray
    skewness: xr.DataArray = field(default_factory=lambda: xr.DataArray(0.0))
    kurtosis: xr.DataArray = field(default_factory=lambda: xr.DataArray(0.0))
    lowest: xr.DataArray = field(default_factory=unknown)
    highest: xr.DataArray = field(default_factory=unknown)
    scale: Scale = PLAIN


def band_z(size: int, share: float = BAND) -> float:
    """How many standard deviations the band reaches: a family of ``size`` normal nulls stays inside with ``share``.

    The band is for the whole family of heads or pairs of one measure at one step, not for each entry (Šidák).

    Example:
        >>> round(band_z(1), 2), round(band_z(8), 2)
        (2.58, 3.23)
    """
    each = share ** (1 / size)
    return NormalDist().inv_cdf((1 + each) / 2)


def band(null: Null, size: int, share: float = BAND) -> tuple[xr.DataArray, xr.DataArray]:
    """The lowest and the highest score that a family of ``size`` nulls reaches with probability ``share``.

    Its tails are those of a gamma distribution of the null's skewness g (Wilson and Hilferty's quantiles, z the normal
    one), widened by what its excess kurtosis k is beyond that distribution's 1.5 g² (Cornish and Fisher's term)::

        2/g ((1 + g z / 6 - g² / 36)³ - 1) + (z³ - 3 z) / 24 · max(k - 1.5 g², 0)

    It holds all that was drawn of the null: scores of a few values only have no other tails. Where the null has no
    spread there is no band: NaN.

    Example:
        >>> low, high = band(Null(xr.DataArray(0.5), xr.DataArray(0.1)), size=1)
        >>> round(low.item(), 2), round(high.item(), 2)
        (0.24, 0.76)
    """
    # Without skewness the first term is z, as its limit.
    g = null.skewness.where(abs(null.skewness) > 1e-3, 1e-3)
    beyond = (null.kurtosis - 1.5 * g**2).clip(min=0)
    spread = null.std.where(null.std > 0)

    def edge(z: float) -> xr.DataArray:
        gamma = 2 / g * ((1 + g * z / 6 - g**2 / 36).clip(min=0) ** 3 - 1)
        return null.mean + spread * (gamma + (z**3 - 3 * z) / 24 * beyond)

    z = band_z(size, share)
    low, high = edge(-z), edge(z)
    return (
        null.scale.back(low.where(~(null.lowest < low), null.lowest)),
        null.scale.back(high.where(~(null.highest > high), null.highest)),
    )


def beside_null(name: str, score: xr.DataArray, null: Null, size: int) -> xr.Dataset:
    """A score with its null: ``<name>``, ``_null``, ``_null_std``, ``_z``, and ``_low`` and ``_high``, its band's edges.

    ``size`` is that of the family of heads or pairs. z is taken on the null's scale; ``_null_std`` is half of what one
    standard deviation to either side makes of the score. Where the null has no spread, z and the band are NaN.
    """
    low, high = band(null, size)
    parts = {
        "": score,
        "_null": null.scale.back(null.mean),
        "_null_std": (null.scale.back(null.mean + null.std) - null.scale.back(null.mean - null.std)) / 2,
        "_z": (null.scale.to(score) - null.mean) / null.std.where(null.std > 0),
        "_low": low,
        "_high": high,
    }
    return xr.Dataset({f"{name}{part}": values.astype("float32") for part, values in parts.items()})


def haar_null(
    s: Float[Tensor, "h1 rank"], t: Float[Tensor, "h2 rank"], d_model: int
) -> tuple[Float[Tensor, "h1 h2"], Float[Tensor, "h1 h2"], Float[Tensor, "h1 h2"]]:
    """Mean, standard deviation and skewness of score² when L and R keep their singular values s, t and are rotated at random.

    With ``M = L.T L``, ``N = R R.T`` and a rotation uniform over O(d_model), score² = tr(M N) / (tr M tr N). Its
    moments are exact: ``E tr(M N)^n`` is the sum over the partitions κ of n of C_κ(M) C_κ(N) / C_κ(I), C_κ the zonal
    polynomials (James 1964). The mean is 1/d_model; the variance, with M0, N0 the traceless parts, is
    2 ‖M0‖² ‖N0‖² / ((d_model - 1) (d_model + 2)) / (tr M tr N)².
    """
    of_M, of_N = (zonal((x.double() ** 2) / (x.double() ** 2).sum(-1, keepdim=True)) for x in (s, t))
    of_I = zonal(torch.ones(1, d_model, dtype=torch.float64))
    first, second, third = (
        sum(m[:, None] * n[None, :] / i for m, n, i in zip(*parts, strict=True))
        for parts in zip(of_M, of_N, of_I, strict=True)
    )
    variance = (second - first**2).clamp(min=0)
    central = third - 3 * first * second + 2 * first**3
    # What is left of no spread at all (heads of full rank and equal singular values) is rounding.
    std = variance.sqrt().where(variance > 1e-12 * first**2, 0.0)
    return first, std, (central / std**3).where(std > 0, 0.0)


def zonal(eigenvalues: Float[Tensor, "matrix n"]) -> tuple[tuple[Tensor, ...], ...]:
    """The zonal polynomials of degree 1, 2 and 3 of symmetric matrices: those of one degree add up to its trace's power.

    Example:
        >>> [round(sum(float(C) for C in degree), 6) for degree in zonal(torch.tensor([[1.0, 2.0]]))]
        [3.0, 9.0, 27.0]
    """
    p1, p2, p3 = (einops.reduce(eigenvalues**power, "matrix n -> matrix", "sum") for power in (1, 2, 3))
    return (
        (p1,),
        ((p1**2 + 2 * p2) / 3, 2 * (p1**2 - p2) / 3),
        ((p1**3 + 6 * p1 * p2 + 8 * p3) / 15, 3 * (p1**3 + p1 * p2 - 2 * p3) / 5, (p1**3 - 3 * p1 * p2 + 2 * p3) / 3),
    )


@lru_cache(maxsize=8)
def random_factors(count: int, d_model: int, d_head: int) -> tuple[Float[Tensor, "draw d_model d_head"], ...]:
    """``count`` stacks of 256 matrices with Gaussian entries; always the same ones for the same sizes."""
    draws = generator("null", 0)
    return tuple(torch.randn(HEADS, d_model, d_head, generator=draws) for _ in range(count))


def symmetric_null(ratio: Float[Tensor, "draw"], trace: Float[Tensor, "draw"], trace_variance: float) -> Null:
    """Of a ratio trace / size that is symmetric about 0, because a factor and its negative are equally likely.

    The variance of the traces is known, so what these draws of them miss of it corrects the moments of the ratio: 256
    draws do the work of some thousands.
    """
    missed = trace.double() ** 2 / trace_variance - 1

    def moment(power: int) -> Tensor:
        values = ratio.double() ** power
        slope = ((values - values.mean()) * missed).mean() / missed.var(correction=0)
        return values.mean() - slope * missed.mean()

    square, fourth = moment(2), moment(4)
    kurtosis = fourth / square**2 - 3
    return Null(xr.DataArray(0.0), xr.DataArray(square.sqrt().item()), kurtosis=xr.DataArray(kurtosis.item()))


def fresh_initialisations(
    measures: Mapping[str, Callable[[HookedTransformer, Batch], xr.Dataset]],
    scales: Mapping[str, Scale],
    config: ModelConfig,
    batch: Batch,
) -> dict[str, Null]:
    """The null of each measure: what it gives on 64 fresh networks of the same config, on the scale named for it.

    The networks see the same batch; their seeds are apart from those of any run; heads of a layer are pooled. A
    measure that does not apply is left out.
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
    return {
        name: _pooled(xr.concat(draws, dim="draw").astype("float64"), scales[name]) for name, draws in found.items()
    }


def _pooled(draws: xr.DataArray, scale: Scale) -> Null:
    """Mean and deviation over the draws and the heads of a layer; the tails' shape over all, since it takes many."""
    draws = scale.to(draws)
    pool = [axis for axis in draws.dims if axis in ("draw", "head", "from_head", "to_head")]
    mean, std = draws.mean(pool), draws.std(pool, ddof=1)
    # What is left of no spread at all is rounding.
    std = std.where(std > 1e-6 * abs(mean), 0.0)
    z = (draws - mean) / std.where(std > 0)
    return Null(
        mean=mean,
        std=std,
        skewness=(z**3).mean().fillna(0),
        kurtosis=((z**4).mean() - 3).fillna(0),
        lowest=draws.min(pool),
        highest=draws.max(pool),
        scale=scale,
    )
