"""The time that a training took, from the wall times in TensorBoard's files."""

import os
import struct
from pathlib import Path

from headway.checkpoints.run import UPDATE_TAGS

# An event of an update is a few numbers; pictures and tables are longer, and are passed over unread.
_LONGEST = 512


def training_seconds(folder: Path) -> float | None:
    """Return the seconds from the first update of a run to its last; None if its files tell of less than two.

    Of a run that was resumed the sessions add up, and the time between them is not counted, as long as each has its
    own file. Files are read up to what is damaged or not yet whole.
    """
    spans = [span for path in folder.glob("events.out.tfevents.*") if (span := _span(path)) is not None]
    return sum(spans) if spans else None


def _span(path: Path) -> float | None:
    """Return the time between the first and the last update in a file of TensorBoard.

    Each record is its length in 8 bytes, 4 bytes of checksum, an event, and 4 bytes of checksum; an event begins with
    the byte 9 and its wall time.
    """
    tag, first, last = UPDATE_TAGS["loss"].encode(), None, None
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while len(head := file.read(12)) == 12:
            (length,) = struct.unpack_from("<Q", head)
            if length > size:
                break
            if length > _LONGEST:
                file.seek(length + 4, os.SEEK_CUR)
                continue
            event = file.read(length + 4)
            if len(event) == length + 4 and event[:1] == b"\x09" and tag in event:
                (last,) = struct.unpack_from("<d", event, 1)
                first = last if first is None else first
    return None if first is None or last is None or not 0 < last - first < float("inf") else last - first
