"""One process writes a run at a time; reading is always allowed."""

import errno
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from headway.checkpoints.files import write_whole
from headway.data.parts import remove_parts

LOCK, HOLDER = ".lock", ".writer.json"
# What a system answers whose file system has no locks.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
# Seconds after which a file that stands for a lock is nobody's, if nobody has renewed it.
LEASE = 30.0
# The folders of a run.
FOLDERS = ("weights", "states", "scores", "circuits", "studies")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Hold the run in a directory, which is made, for this process; what killed processes left half-written is removed.

    The system gives the lock of a process that has died to the next that asks. Where a file system has no locks, a file
    stands for one, which the process that holds it renews; one that nobody has renewed for a while is taken over.

    Raises:
        ValueError: another process writes the run; it is named.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = _acquired(path.absolute())
    except Timeout:
        raise ValueError(f"run: {path} is being written by {_holder(path)}; wait until that has ended") from None
    except OSError as error:
        raise ValueError(f"out: {path} cannot be written ({error.strerror})") from None
    try:
        if lock.lock_counter == 1:
            remove_parts(path, FOLDERS)
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


def _acquired(path: Path) -> BaseFileLock:
    lock = FileLock(path / LOCK, timeout=0, is_singleton=True, fallback_to_soft=False)
    try:
        lock.acquire()
    except (NotImplementedError, OSError) as error:
        if isinstance(error, Timeout) or (isinstance(error, OSError) and error.errno not in NO_LOCKS):
            raise
        lock = SoftFileLease(path / f"{LOCK}.soft", lease_duration=LEASE, timeout=0, is_singleton=True)
        try:
            lock.acquire()
        except Timeout:
            if time.time() - (path / f"{LOCK}.soft").stat().st_mtime < 2 * LEASE:
                raise
            lock.acquire(timeout=2 * LEASE)  # a lease ends when it has been watched that long, and was not renewed
    return lock


def _holder(path: Path) -> str:
    try:
        about = json.loads((path / HOLDER).read_text(encoding="utf-8"))
        return f"process {about['process']} on {about['host']} since {about['since']} ({about['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
