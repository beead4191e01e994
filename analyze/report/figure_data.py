"""Data of figures: one class for each kind of figure, with numbers over training and their attributes."""

from typing import NamedTuple

import numpy as np
import xarray as xr

from headway.analyze.formation.dates import held_from


class Loss(NamedTuple):
    """An evaluation loss [step]: that of all positions, or of one of the task's parts."""

    label: str
    values: xr.DataArray
    of_all: bool


class Positions(NamedTuple):
    """A score of the network at each position [step, pos], in ``units``."""

    label: str
    values: xr.DataArray
    units: str


class Curves(NamedTuple):
    """Numbers of the whole network, or of each layer, over training: lines [step] by name, and their null [step]."""

    measure: str
    label: str
    lines: dict[str, xr.DataArray]
    null: xr.DataArray | None
    units: str
    limits: tuple[float, float] | None


class Score(NamedTuple):
    """A number of each head [step, layer, head] or pair [step, *PAIR], with its null, band, z and ceiling if known."""

    measure: str
    name: str
    label: str
    values: xr.DataArray
    limits: tuple[float, float] | None
    null: xr.DataArray | None = None
    low: xr.DataArray | None = None
    high: xr.DataArray | None = None
    z: xr.DataArray | None = None
    ceiling: xr.DataArray | None = None

    @property
    def formed_from(self) -> xr.DataArray:
        """The step from which on each entry is above its band up to the end; NaN for never, or without a band."""
        if self.low is None or self.high is None:
            return xr.full_like(self.values.isel(step=-1, drop=True), np.nan)
        above = (self.values.values > self.high.values) & ~(self.values.values < self.low.values)
        return held_from(self.values.copy(data=above))


class Spectrum(NamedTuple):
    """Eigenvalues [step, layer, head, eigenvalue], and the score [step, layer, head] that sums them up."""

    measure: str
    eigenvalues: xr.DataArray
    score: xr.DataArray


class Attribution(NamedTuple):
    """The contribution of each component [step, component], in ``units``."""

    label: str
    values: xr.DataArray
    units: str


class NotShown(NamedTuple):
    """A score whose axes no figure has; ``run.scores`` has it."""

    measure: str
    name: str
    axes: tuple[str, ...]


class Definition(NamedTuple):
    """The meaning of a measure, the values it can take, and its null, in words."""

    summary: str
    range: str
    null: str
