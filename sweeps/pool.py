"""Processes of this machine that share its cores, each used for many runs, so that imports are paid once."""

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any, Self

from pebble import ProcessExpired, ProcessPool

from headway.processes import DiedError, ending, start_resource_tracker

# What torch and the libraries under it read when they are imported.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Spawned processes; ``with Pool(count) as workers`` ends them.

    Args:
        count: Processes; one for each core if None. Cores are shared out: two runs with one thread each are faster than
            two runs after each other with two, because threads of a toy's step wait for each other.
        threads: Threads of each process; its share of the cores if None.

    Raises:
        ValueError: fewer than one process or thread.
    """

    def __init__(self, count: int | None = None, threads: int | None = None):
        for name, given in (("workers", count), ("threads", threads)):
            if given is not None and not 1 <= given <= 1024:
                raise ValueError(f"{name}: {given} is not valid; it must be from 1 to 1024")
        self.count = cores() if count is None else count
        self.threads = max(1, cores() // self.count) if threads is None else threads
        self._before: dict[str, str | None] = {}
        self._pool: ProcessPool | None = None

    def __enter__(self) -> Self:
        # A spawned process takes over what stands here.
        self._before = {name: os.environ.get(name) for name in THREADS}
        os.environ.update(dict.fromkeys(THREADS, str(self.threads)))
        return self

    def __exit__(self, *exception: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self._pool is not None:
            self._pool.stop() if exception[0] else self._pool.close()
            self._pool.join()

    def start(self, job: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Start a job on a process that is free."""
        if self._pool is None or not self._pool.active:  # none yet, or one whose processes have all died
            start_resource_tracker()
            self._pool = ProcessPool(self.count, context=multiprocessing.get_context("spawn"))
        ours: Future[Any] = Future()
        # A process that cannot read what pebble gives it dies; one that cannot read this says why.
        pickled = pickle.dumps((job, arguments))
        self._pool.schedule(_do, (pickled,)).add_done_callback(lambda theirs: _hand_on(theirs, ours))
        return ours

    def stop(self) -> None:
        """Send SIGTERM to each process: one that trains keeps its step and ends its run."""
        for process in multiprocessing.active_children():
            with suppress(ProcessLookupError):
                os.kill(process.pid or 0, signal.SIGTERM)


def _do(pickled: bytes) -> Any:
    job, arguments = pickle.loads(pickled)
    return job(*arguments)


def _hand_on(theirs: Future[Any], ours: Future[Any]) -> None:
    """Give the result of pebble's future to our own, with a DiedError for a process that is gone."""
    if theirs.cancelled():
        ours.set_exception(DiedError("its process was ended"))
        return
    error = theirs.exception()
    if isinstance(error, ProcessExpired):
        ours.set_exception(DiedError(f"its process {ending(error.exitcode)}"))
    elif isinstance(error, BrokenProcessPool):
        ours.set_exception(DiedError("all processes have died"))
    elif error is not None:
        ours.set_exception(error)
    else:
        ours.set_result(theirs.result())
