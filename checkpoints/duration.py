"""The time that a training took, from the wall times in TensorBoard's files."""

import struct
from pathlib import Path

from headway.checkpoints.log import Record, records_of
from headway.checkpoints.run import UPDATE_TAGS


def training_seconds(folder: Path) -> float | None:
    """Return the seconds from the first update of a run to its last; None if its files tell of less than two.

    Of a run that was resumed the sessions add up, and the time between them is not counted, as long as each has its
    own file. Files are read up to what is damaged or not yet whole.
    """
    files = records_of(folder, [UPDATE_TAGS["loss"]])
    spans = [span for records in files if (span := _span(records)) is not None]
    return sum(spans) if spans else None


def _span(records: list[Record]) -> float | None:
    """Return the time between the first and the last update; an event begins with the byte 9 and its wall time."""
    times = [struct.unpack_from("<d", event, 1)[0] for event, _ in records if event[:1] == b"\x09"]
    span = times[-1] - times[0] if times else 0.0
    return span if 0 < span < float("inf") else None
