"""One process writes a run at a time; reading is always allowed."""

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from headway.checkpoints.files import write_whole
from headway.data.parts import remove_parts

LOCK, HOLDER = ".lock", ".writer.json"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Hold the run in a directory, which is made, for this process; what killed processes left half-written is removed.

    The system gives the lock of a process that has died to the next that asks. Where a file system has no locks, a file
    with the name of the process stands for one.

    Raises:
        ValueError: another process writes the run; it is named.
    """
    lock = FileLock(path.absolute() / LOCK, timeout=0, is_singleton=True)
    try:
        path.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except NotImplementedError:  # the file system has no locks
            lock = SoftFileLock(path.absolute() / f"{LOCK}.soft", timeout=0, is_singleton=True)
            lock.acquire()
    except Timeout:
        raise ValueError(f"run: {path} is being written by {_holder(path)}; wait until that has ended") from None
    except OSError as error:
        raise ValueError(f"out: {path} cannot be written ({error.strerror})") from None
    try:
        if lock.lock_counter == 1:
            remove_parts(path)
            about = {
                "process": os.getpid(),
                "host": platform.node(),
                "since": datetime.now().isoformat(timespec="seconds"),
                "command": " ".join(sys.argv),
            }
            write_whole(path / HOLDER, json.dumps(about))
        yield
    finally:
        if lock.lock_counter == 1:
            (path / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    try:
        about = json.loads((path / HOLDER).read_text(encoding="utf-8"))
        return f"process {about['process']} on {about['host']} since {about['since']} ({about['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
