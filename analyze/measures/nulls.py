"""Nulls: the distribution of a score when nothing has formed, and its 99 % band."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist

import einops
import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from headway.analyze.measures.scales import PLAIN, Scale
from headway.analyze.network.forward import shared_forward_pass
from headway.analyze.network.requirements import DoesNotApplyError
from headway.data.seeds import generator
from headway.data.task import Batch
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer

# Numbers of fresh networks whose heads are pooled (a standard deviation over n heads has the relative error
# 1/sqrt(2 n)), and of random heads with Gaussian factors.
NETWORKS = 64
HEADS = 64
BAND = 0.99


@dataclass(frozen=True, eq=False)
class Null:
    """Distribution of a score when nothing has formed, by its moments on a suitable scale.

    The arrays broadcast against the score; they have length 1 along pooled axes.

    Args:
        mean: Mean.
        std: Standard deviation; 0 where the null has no spread.
        skewness: Skewness.
        kurtosis: Excess kurtosis.
        lowest: Lowest sampled value, if the null was sampled.
        highest: Highest sampled value.
        scale: Function of the score whose moments these are.
    """

    mean: np.ndarray
    std: np.ndarray
    skewness: np.ndarray = field(default_factory=lambda: np.zeros(1))
    kurtosis: np.ndarray = field(default_factory=lambda: np.zeros(1))
    lowest: np.ndarray = field(default_factory=lambda: np.full(1, np.inf))
    highest: np.ndarray = field(default_factory=lambda: np.full(1, -np.inf))
    scale: Scale = PLAIN

    def to_dataset(self) -> xr.Dataset:
        """Return the numbers as a Dataset, for a file."""
        numbers = {name: value for name, value in vars(self).items() if name != "scale"}
        axes = [f"axis_{index}" for index in range(self.mean.ndim)]
        return xr.Dataset(
            {name: (axes if value.ndim == len(axes) else ["one"], value) for name, value in numbers.items()}
        )

    @classmethod
    def from_dataset(cls, numbers: xr.Dataset, scale: Scale) -> "Null":
        """Return the null that ``to_dataset`` stored."""
        return cls(**{str(name): values.values for name, values in numbers.data_vars.items()}, scale=scale)


def band_z(size: int, share: float = BAND) -> float:
    """Return the half-width of the band in standard deviations: ``size`` normal nulls stay inside with ``share``.

    ``share`` is the probability for all heads or pairs of one measure at one step together, not for each entry (Šidák).

    Example:
        >>> round(band_z(1), 2), round(band_z(8), 2)
        (2.58, 3.23)
    """
    each = share ** (1 / max(size, 1))
    return NormalDist().inv_cdf((1 + each) / 2)


def band(null: Null, size: int, share: float = BAND) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper edge of the interval that contains ``size`` nulls with probability ``share``.

    Its tails are those of a gamma distribution with the null's skewness g (Wilson and Hilferty's quantiles, z the
    normal quantile), widened by the excess kurtosis k beyond that distribution's 1.5 g² (Cornish and Fisher's term)::

        2/g ((1 + g z / 6 - g² / 36)³ - 1) + (z³ - 3 z) / 24 · max(k - 1.5 g², 0)

    The band contains all sampled values of the null, which matters for scores with only a few possible values. A null
    without spread has no band: NaN.

    Example:
        >>> low, high = band(Null(mean=np.array([0.5]), std=np.array([0.1])), size=1)
        >>> round(low.item(), 2), round(high.item(), 2)
        (0.24, 0.76)
    """
    # Without skewness the first term is its limit, z.
    g = np.where(abs(null.skewness) > 1e-6, null.skewness, 1e-6)
    beyond = np.maximum(null.kurtosis - 1.5 * g**2, 0)
    spread = np.where(null.std > 0, null.std, np.nan)

    def edge(z: float) -> np.ndarray:
        gamma = 2 / g * (np.maximum(1 + g * z / 6 - g**2 / 36, 0) ** 3 - 1)
        return null.mean + spread * (gamma + (z**3 - 3 * z) / 24 * beyond)

    z = band_z(size, share)
    return (
        null.scale.back(np.minimum(edge(-z), null.lowest)),
        null.scale.back(np.maximum(edge(z), null.highest)),
    )


def beside_null(name: str, score: xr.DataArray, null: Null) -> xr.Dataset:
    """Return a score with its null: ``<name>``, ``_null``, ``_null_std``, ``_z``, and its band, ``_low`` to ``_high``.

    The band is for all heads or pairs that have a null, together. z is computed on the null's scale; ``_null_std`` is
    half the distance between the scores one standard deviation above and below. Without spread, z and band are NaN.
    """
    values = score.values.astype("float64")
    of_null = _of_null(null, values.shape)
    z = (null.scale.to(values) - null.mean) / np.where(null.std > 0, null.std, np.nan)
    parts = {"": values, "_null": of_null[0], "_null_std": of_null[1], "_z": z, "_low": of_null[2], "_high": of_null[3]}
    return xr.Dataset(
        {
            f"{name}{part}": (
                score.dims,
                np.broadcast_to(numbers, values.shape).astype(score.dtype),
                score.attrs if part == "" else {},
            )
            for part, numbers in parts.items()
        },
        coords=score.coords,
    )


# The null of fresh initialisations is the same at each checkpoint of a run; a null itself is no number to compare.
@lru_cache(maxsize=64)
def _of_null(null: Null, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Return the null's centre and spread in units of a score of this shape, and the two ends of its band."""
    low, high = band(null, int(np.isfinite(np.broadcast_to(null.mean, shape)).sum()))
    one_up, one_down = null.scale.back(null.mean + null.std), null.scale.back(null.mean - null.std)
    return null.scale.back(null.mean), (one_up - one_down) / 2, low, high


def haar_null(
    s: Float[Tensor, "h1 rank"], t: Float[Tensor, "h2 rank"], d_model: int
) -> tuple[Float[Tensor, "h1 h2"], Float[Tensor, "h1 h2"], Float[Tensor, "h1 h2"]]:
    """Return mean, standard deviation and skewness of score² for L, R with singular values s, t and a random rotation.

    With ``M = L.T L``, ``N = R R.T`` and a rotation uniform over O(d_model), score² = tr(M N) / (tr M tr N). Its
    moments are exact: ``E tr(M N)^n`` is the sum over the partitions κ of n of C_κ(M) C_κ(N) / C_κ(I), C_κ the zonal
    polynomials (James 1964). The mean is 1/d_model; the variance, with M0, N0 the traceless parts, is
    2 ‖M0‖² ‖N0‖² / ((d_model - 1) (d_model + 2)) / (tr M tr N)².
    """
    of_M, of_N = (zonal((x.double() ** 2) / (x.double() ** 2).sum(-1, keepdim=True)) for x in (s, t))
    of_I = zonal(torch.ones(1, d_model, dtype=torch.float64, device=s.device))
    first, second, third = (
        # A partition into more parts than there are dimensions has no polynomial.
        torch.stack([m[:, None] * n[None, :] / i for m, n, i in zip(*parts, strict=True) if i > 0]).sum(0)
        for parts in zip(of_M, of_N, of_I, strict=True)
    )
    variance = (second - first**2).clamp(min=0)
    central = third - 3 * first * second + 2 * first**3
    # A variance this small is rounding: heads of full rank with equal singular values have none.
    std = variance.sqrt().where(variance > 1e-12 * first**2, 0.0)
    return first, std, (central / std**3).where(std > 0, 0.0)


def zonal(eigenvalues: Float[Tensor, "matrix n"]) -> tuple[tuple[Tensor, ...], ...]:
    """Return the zonal polynomials of degree 1, 2 and 3 of symmetric matrices; those of degree n add up to trace^n.

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
    """Return ``count`` stacks of 64 matrices with Gaussian entries, the same for the same sizes."""
    draws = generator("null", 0)
    return tuple(torch.randn(HEADS, d_model, d_head, generator=draws) for _ in range(count))


def symmetric_null(ratio: Float[Tensor, "draw"], trace: Float[Tensor, "draw"], trace_variance: float) -> Null:
    """Return the null of a ratio trace / size, symmetric about 0 since a factor and its negative are equally likely.

    The exact variance of the trace is known and serves as a control variate for the variance of the ratio: 64 draws
    are as accurate as a thousand, because the sizes hardly differ.
    """
    square = ratio.double() ** 2
    missed = trace.double() ** 2 / trace_variance - 1
    slope = ((square - square.mean()) * missed).mean() / missed.var(correction=0)
    variance = square.mean() - slope * missed.mean()
    return Null(np.zeros(1), np.array([variance.sqrt().item()]))


def untrained(config: ModelConfig, draw: int = 0) -> HookedTransformer:
    """Return one of the fresh networks behind the nulls: initialised like a run, with a seed that no run uses.

    Example:
        >>> config = ModelConfig(n_layers=1, d_model=11, n_ctx=7, d_head=5, n_heads=3, d_vocab=13)
        >>> bool((untrained(config).W_E == HookedTransformer(config, seed=0).W_E).any())
        False
    """
    model = HookedTransformer(config).eval()
    model.init_weights(generator("null", 1, draw))
    return model


def fresh_initialisations(
    measures: Mapping[str, Callable[[HookedTransformer, Batch], xr.Dataset]],
    scales: Mapping[str, Scale],
    config: ModelConfig,
    batch: Batch,
) -> dict[str, Null]:
    """Return the null of each measure, from its scores of 64 fresh networks of the same config, on the given scale.

    All networks run on the same batch, with seeds that no run uses; the heads of a layer are pooled. A measure that
    does not apply is left out.
    """
    model = HookedTransformer(config).to(batch.inputs.device).eval()
    found: dict[str, list[xr.DataArray]] = {name: [] for name in measures}
    for draw in range(NETWORKS):
        model.init_weights(generator("null", 1, draw))
        with shared_forward_pass():
            for name in list(found):
                try:
                    found[name].append(measures[name](model, batch)[name])
                except DoesNotApplyError:
                    del found[name]
    return {name: _pooled(draws, scales[name]) for name, draws in found.items()}


def _pooled(draws: Sequence[xr.DataArray], scale: Scale) -> Null:
    """Pool draws and heads of a layer for mean and deviation, and all layers too for skewness and kurtosis."""
    values = scale.to(np.stack([draw.values for draw in draws]).astype("float64"))
    heads = [1 + draws[0].dims.index(axis) for axis in ("head", "from_head", "to_head") if axis in draws[0].dims]
    pool = (0, *heads)
    mean, std = values.mean(pool, keepdims=True), values.std(pool, ddof=1, keepdims=True)
    # A deviation this small is rounding.
    std = np.where(std > 10 * np.finfo(draws[0].dtype).eps * abs(mean), std, 0.0)
    z = (values - mean) / np.where(std > 0, std, np.nan)
    z = z[np.isfinite(z)]
    return Null(
        mean=mean[0],
        std=std[0],
        skewness=np.array([(z**3).mean() if z.size else 0.0]),
        kurtosis=np.array([(z**4).mean() - 3 if z.size else 0.0]),
        lowest=values.min(pool, keepdims=True)[0],
        highest=values.max(pool, keepdims=True)[0],
        scale=scale,
    )
