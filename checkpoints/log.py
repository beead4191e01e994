"""The numbers of every update, from TensorBoard's files, without what else these hold.

TensorBoard's own reader decodes every event, and takes the checksum of every picture byte by byte in Python.
"""

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np

# An event of an update is a few numbers; pictures and tables are longer, and are passed over unread.
_LONGEST = 512


class Record(NamedTuple):
    """An event as a file holds it, and its checksum."""

    event: bytes
    checksum: int


def records_of(folder: Path, tags: Iterable[str]) -> Iterator[list[Record]]:
    """Yield the short events that name one of the tags, a list for each file, in the order in which they were written.

    A file is read up to what is not yet whole.
    """
    named = [tag.encode() for tag in tags]
    for path in sorted(folder.glob("events.out.tfevents.*")):
        yield [record for record in _short_records(path) if any(tag in record.event for tag in named)]


def _short_records(path: Path) -> Iterator[Record]:
    """Yield the short events of a file: each is its length in 8 bytes, 4 of checksum, itself, and 4 of checksum."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while len(head := file.read(12)) == 12:
            (length,) = struct.unpack_from("<Q", head)
            if length > size:
                return
            if length > _LONGEST:
                file.seek(length + 4, os.SEEK_CUR)
                continue
            record = file.read(length + 4)
            if len(record) < length + 4:
                return
            yield Record(record[:length], struct.unpack_from("<I", record, length)[0])


def logged_numbers(folder: Path, tags: Sequence[str]) -> dict[str, dict[int, float]]:
    """Return the number of each step under each tag: what was written last. A file counts up to what is damaged."""
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    found: dict[str, dict[int, float]] = {tag: {} for tag in tags}
    for records in records_of(folder, tags):
        whole = checksums([record.event for record in records]) == [record.checksum for record in records]
        for record, _ in takewhile(lambda each: each[1], zip(records, whole, strict=True)):
            event = Event.FromString(record.event)
            for value in event.summary.value:
                if value.tag in found and value.HasField("simple_value"):
                    found[value.tag][event.step] = value.simple_value
    return found


def checksums(events: Sequence[bytes]) -> np.ndarray:
    """Return the checksum of each event as TensorBoard's files have it: CRC-32C, rotated, plus a constant.

    Example:
        >>> [hex(each) for each in checksums([b"123456789", b""]).tolist()]
        ['0xc78ab0e5', '0xa282ead8']
    """
    lengths = np.array([len(event) for event in events], dtype=int)
    found = np.zeros(len(events), "u4")
    for length in np.unique(lengths):
        (places,) = np.nonzero(lengths == length)
        alike = np.frombuffer(b"".join(events[place] for place in places.tolist()), "u1").reshape(places.size, length)
        rest = np.full(places.size, 0xFFFFFFFF, "u4")
        for byte in alike.T:
            rest = _TABLE[(rest ^ byte) & 0xFF] ^ (rest >> 8)
        found[places] = ~rest
    return ((found >> 15) | (found << 17)) + np.uint32(0xA282EAD8)


def _table() -> np.ndarray:
    """Return the remainder of each byte under the polynomial of CRC-32C."""
    rest = np.arange(256, dtype="u4")
    for _ in range(8):
        rest = np.where(rest & 1, (rest >> 1) ^ np.uint32(0x82F63B78), rest >> 1)
    return rest


_TABLE = _table()
