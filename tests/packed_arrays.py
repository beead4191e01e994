"""Arrays as a page holds them, read back as ``assets/base.js`` reads them."""

import base64
import zlib
from typing import Any

import numpy as np


def bytes_of(text: str) -> bytes:
    """Return the bytes in which all arrays lie."""
    return zlib.decompress(base64.b64decode(text))


def array_of(description: dict[str, Any], stored: bytes) -> np.ndarray:
    """Return one array; shares are numbers again."""
    codes = _codes(description, stored)
    if description["type"] == "exact":
        return codes.view("<f4")
    if description["type"] == "share":
        return np.where(codes == 255, np.nan, codes / 254)
    first, most = 10 ** (description["digits"] - 1), description["most"]
    decade, beyond = np.divmod(np.abs(codes) - 1, 9 * first)
    size = (first + beyond) * 10.0 ** (decade + description["least"] - description["digits"] + 1)
    size = np.select([codes == 0, np.abs(codes) == most + 1, np.abs(codes) == most + 2], [0, np.nan, np.inf], size)
    return (np.sign(codes) * size).astype("f4")


def _codes(description: dict[str, Any], stored: bytes) -> np.ndarray:
    """Return the whole numbers that stand for an array, each with the sign that its highest bit is."""
    shape, width = tuple(description["shape"]), description["bytes"]
    steps, size = shape[0] if shape else 1, shape[-1] if shape else 1
    lower = np.tril_indices(size) if description.get("lower") else None
    kept = shape if lower is None else (*shape[:-2], len(lower[0]))
    count = int(np.prod(kept))
    planes = np.frombuffer(stored, "u1", count * width, description["at"]).reshape(width, -1)
    series = np.zeros(count, "i8")
    for place, plane in enumerate(planes):
        series |= plane.astype("i8") << (8 * place)
    series = series.reshape(-1, steps) if count else series.reshape(0, steps)
    if description["differences"]:
        series = series.cumsum(-1)
    range_of = 2 ** (8 * width)
    series %= range_of
    if description["type"] != "share":
        series = np.where(series < range_of // 2, series, series - range_of)
    codes = series.T.reshape(kept).astype("i4")
    if lower is None:
        return codes
    whole = np.zeros(shape, "i4")
    whole[..., lower[0], lower[1]] = codes
    return whole
