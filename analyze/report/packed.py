"""Arrays for a page: one deflated string of bytes, and where each array lies in it.

An array becomes whole numbers. They stand with the first axis, which is that of steps, last; where that deflates
better, each is stored as its difference to the one before. First come the lowest bytes of all, then the next, and so
on. Neighbouring bytes are then alike, so that runs of one byte and their frequencies are all that there is to find;
a search for longer repetitions takes ten times as long and finds no more.
"""

import base64
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Shares are stored in steps of 1/254.
_NOT_A_NUMBER = 255
# The series over steps from which it is decided whether numbers or their differences are stored.
_SAMPLE = 2000


@dataclass
class Packed:
    """Collects arrays; each ``add`` returns a description with which the page finds the array.

    Example:
        >>> packed = Packed()
        >>> packed.add(np.array([1.0, 2.0]))["digits"]
        5
        >>> packed.add_shares(np.array([0.0, 0.5, 1.0, np.nan]))
        {'type': 'share', 'shape': [4], 'at': 4, 'bytes': 1, 'differences': False, 'lower': False}
        >>> len(zlib.decompress(base64.b64decode(packed.text())))
        8
    """

    _parts: list[bytes] = field(default_factory=list)
    _size: int = 0

    def add(self, values: np.ndarray, digits: int = 5, unit: float | np.ndarray = 0.0) -> dict[str, Any]:
        """Return the description of any numbers, to so many decimal digits; NaN and infinity stay what they are.

        Args:
            values: The numbers.
            digits: The significant digits of each number that are kept.
            unit: Round to multiples of it before: a power of ten, or one for each number; 0 for none.
        """
        codes, described = _decimals(values, digits, unit)
        return self._append("decimal", values.shape, codes, **described)

    def add_exact(self, values: np.ndarray) -> dict[str, Any]:
        """Return the description of numbers that the page compares with each other, in float32."""
        return self._append("exact", values.shape, np.ascontiguousarray(values, "<f4").view("<i4"), bytes=4)

    def add_shares(self, values: np.ndarray) -> dict[str, Any]:
        """Return the description of numbers in [0, 1], one byte each; NaN stays NaN.

        Of square matrices with nothing above the diagonal, such as attention to earlier positions, that part is not
        stored.
        """
        size = values.shape[-1] if values.ndim > 2 and values.shape[-1] == values.shape[-2] else 0
        lower = size > 1 and not any(values[..., query, query + 1 :].any() for query in range(size))
        # Step by step, so that what is computed stays in the processor's cache.
        codes = [_share_codes(_lower_part(each) if lower else each) for each in values]
        stored = np.array(codes, "u1").reshape(len(values), -1)
        return self._append("share", values.shape, stored, bytes=1, lower=lower)

    def text(self) -> str:
        """All arrays, deflated, in base64."""
        return base64.b64encode(self._deflated).decode()

    @property
    def deflated_size(self) -> int:
        """The bytes that all arrays take when they are deflated."""
        return len(self._deflated)

    @property
    def _deflated(self) -> bytes:
        return _deflated(b"".join(self._parts))

    def _append(self, kind: str, shape: tuple[int, ...], codes: np.ndarray, bytes: int, **more: Any) -> dict[str, Any]:
        steps = shape[0] if shape else 1
        series = np.ascontiguousarray(codes.reshape(steps, codes.size // max(steps, 1)).T)
        some = series[:: max(1, len(series) // _SAMPLE)]
        plain, apart = (len(_deflated(_planes(each, bytes))) for each in (some, _differences(some)))
        data = _planes(_differences(series) if apart < plain else series, bytes)
        found = {"type": kind, "shape": list(shape), "at": self._size, "bytes": bytes, "differences": apart < plain}
        self._parts.append(data)
        self._size += len(data)
        return found | more


def _decimals(values: np.ndarray, digits: int, unit: float | np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a whole number for each number, in the order of the numbers, and what it takes to go back.

    The codes of positive numbers count decimals of so many digits from 1, which is the first of the decade ``least``:
    with two digits, 0.10, 0.11, to 0.99, 1.0, 1.1. Zero is 0, negative numbers have negative codes. Beyond ``most``,
    the last of them, come NaN and then infinity.
    """
    given = np.asarray(values, "<f4").astype("f8")
    size = np.abs(given)
    if np.any(unit):
        size = np.rint(size / unit) * unit
    number = np.isfinite(size) & (size > 0)
    size = np.where(number, size, 1.0)
    first = 10 ** (digits - 1)

    def in_digits(decade: np.ndarray) -> np.ndarray:
        lowest = int(decade.min(initial=0))
        powers = 10.0 ** np.arange(lowest, int(decade.max(initial=0)) + 1)
        return np.rint(size / np.take(powers, decade - lowest) * first)

    decade = np.floor(np.log10(size)).astype("i4")
    # Rounding may reach the next decade, and a logarithm may miss a power of ten by one.
    rounded = in_digits(decade)
    decade += rounded >= 10 * first
    decade -= rounded < first
    least = int(decade[number].min()) if number.any() else 0
    codes = np.where(number, in_digits(decade) - first + 1 + (decade - least) * 9.0 * first, 0)
    most = int(codes.max(initial=0))
    codes = np.where(np.isnan(given), most + 1, np.where(np.isinf(given), most + 2, codes)) * np.where(given < 0, -1, 1)
    width = next(width for width in (1, 2, 3, 4) if most + 2 < 2 ** (8 * width - 1))
    return codes.astype("<i4"), {"bytes": width, "digits": digits, "least": least, "most": most}


def _share_codes(values: np.ndarray) -> np.ndarray:
    steps = np.rint(np.clip(values, 0, 1) * np.float32(_NOT_A_NUMBER - 1))
    return np.where(np.isfinite(values), steps, _NOT_A_NUMBER).astype("u1")


def _lower_part(matrices: np.ndarray) -> np.ndarray:
    """Return what stands at and below the diagonals of matrices [..., row, column], row after row."""
    rows = [matrices[..., row, : row + 1] for row in range(matrices.shape[-2])]
    return np.concatenate(rows, axis=-1)


def _differences(series: np.ndarray) -> np.ndarray:
    """Return the first number of each series [entry, step], and each other one less the one before."""
    return np.diff(series, axis=-1, prepend=series.dtype.type(0))


def _planes(codes: np.ndarray, count: int) -> bytes:
    """Return the lowest bytes of all numbers, then the next, up to ``count``; the rest follows from the sign."""
    return np.ascontiguousarray(codes).view("u1").reshape(codes.size, codes.itemsize)[:, :count].T.tobytes()


def _deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return deflate.compress(data) + deflate.flush()
