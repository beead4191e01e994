"""Arrays for a page: one deflated string of bytes, and where each array lies in it."""

import base64
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# No figure shows the last 12 of float32's 23 bits behind the point; the others give a precision of 1 in 4,000.
_HIDDEN_BITS = 12
# Shares are stored in steps of 1/254.
_NOT_A_NUMBER = 255


@dataclass
class Packed:
    """Collects arrays; each ``add`` returns a description with which the page finds the array.

    Example:
        >>> packed = Packed()
        >>> packed.add(np.array([[1.0, 2.0]]))
        {'type': 'number', 'shape': [1, 2], 'at': 0}
        >>> packed.add_shares(np.array([0.0, 0.5, 1.0, np.nan]))
        {'type': 'share', 'shape': [4], 'at': 8}
        >>> len(zlib.decompress(base64.b64decode(packed.text())))
        12
    """

    _parts: list[bytes] = field(default_factory=list)
    _size: int = 0

    def add(self, values: np.ndarray) -> dict[str, Any]:
        """Any numbers, to three and a half digits; NaN stays NaN."""
        bits = np.ascontiguousarray(values, "<f4").view("<u4")
        rounded = (bits + (1 << (_HIDDEN_BITS - 1))) >> _HIDDEN_BITS << _HIDDEN_BITS
        return self._append(
            "number", values.shape, np.where(np.isfinite(values), rounded, bits).astype("<u4").tobytes()
        )

    def add_exact(self, values: np.ndarray) -> dict[str, Any]:
        """Numbers that the page compares with each other, in float32."""
        return self._append("number", values.shape, np.ascontiguousarray(values, "<f4").tobytes())

    def add_shares(self, values: np.ndarray) -> dict[str, Any]:
        """Numbers in [0, 1], one byte each; NaN stays NaN."""
        known = np.isfinite(values)
        steps = np.rint(np.where(known, values, 0).clip(0, 1) * (_NOT_A_NUMBER - 1))
        return self._append("share", values.shape, np.where(known, steps, _NOT_A_NUMBER).astype("u1").tobytes())

    def text(self) -> str:
        """All arrays, deflated, in base64."""
        return base64.b64encode(zlib.compress(b"".join(self._parts), 6)).decode()

    def _append(self, kind: str, shape: tuple[int, ...], data: bytes) -> dict[str, Any]:
        found = {"type": kind, "shape": list(shape), "at": self._size}
        self._parts.append(data + bytes(-len(data) % 4))  # numbers begin at multiples of 4
        self._size += len(self._parts[-1])
        return found
