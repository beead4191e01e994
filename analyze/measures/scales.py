"""Scales on which the nulls of scores are closest to a gamma distribution."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Scale(NamedTuple):
    """A function of the score under which nulls are closest to a gamma distribution, and its inverse."""

    to: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]


PLAIN = Scale(lambda score: score, lambda value: value)
SQUARE = Scale(np.square, lambda value: np.sqrt(np.maximum(value, 0)))
# A share within float32 rounding of 0 or 1 gets these log odds, and is mapped back to exactly 0 or 1.
_MOST = np.log(1e7)
LOG_ODDS = Scale(
    lambda share: np.clip(np.log(np.maximum(share, 1e-9)) - np.log1p(-np.minimum(share, 1 - 1e-9)), -_MOST, _MOST),
    lambda value: np.where(abs(value) >= _MOST, value > 0, 1 / (1 + np.exp(-value))),
)
