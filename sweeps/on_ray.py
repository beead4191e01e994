"""Jobs on Ray: on this machine, or on a cluster whose machines share a file system."""

import os
import re
import socket
import sys
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Self

from headway.processes import DiedError
from headway.sweeps.pool import THREADS, cores


class Ray:
    """Workers of Ray; ``with Ray(...) as workers`` starts or joins a cluster, and leaves it.

    Args:
        count: Jobs at once; as many as the cluster has CPUs for if None.
        address: A cluster, as of ``ray.init``; a new one on this machine if None.
        cpus: CPUs of each job, and its threads.
        gpus: GPUs of each job; a fraction lets several share one.

    Raises:
        ValueError: Ray is not installed or cannot be reached, or a number that is not valid.
    """

    def __init__(self, count: int | None = None, address: str | None = None, cpus: int = 1, gpus: float = 0):
        try:
            import ray
        except ImportError:
            raise ValueError("on: ray is not installed; pip install 'headway[ray]' does it") from None
        if count is not None and not 1 <= count <= 100_000:
            raise ValueError(f"workers: {count} is not valid; it must be 1 or more")
        if not 1 <= cpus <= 1024:
            raise ValueError(f"threads: {cpus} is not valid; it must be from 1 to 1024")
        if not 0 <= gpus <= 64:
            raise ValueError(f"gpus: {gpus} is not valid; it must be from 0 to 64, such as 0.25")
        self._ray, self._asked = ray, count
        self.address, self.cpus, self.gpus = address, cpus, gpus
        self._jobs: dict[Future[Any], Any] = {}

    def __enter__(self) -> Self:
        # A job imports what this process can; the working directory is among it if a task of the user's own was named.
        paths = [path for path in sys.path if path]
        variables = {name: str(self.cpus) for name in THREADS} | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
        new = {"num_cpus": (self._asked or cores()) * self.cpus} if self.address is None else {}
        if self.address is not None:
            _check_reachable(self.address)
        try:
            self._ray.init(
                address=self.address or "local",
                runtime_env={"env_vars": variables},
                log_to_driver=False,
                logging_level="ERROR",
                include_dashboard=False if self.address is None else None,
                **new,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            said = " ".join(str(error).split())[:200]
            raise ValueError(f"address: {self.address} cannot be reached ({said})") from None
        there = self._ray.cluster_resources()
        room = int(there.get("CPU", 0) // self.cpus)
        if self.gpus:
            room = min(room, int(there.get("GPU", 0) / self.gpus))
        if not room:
            self._ray.shutdown()
            raise ValueError(f"workers: a job with {self.cpus} CPUs and {self.gpus:g} GPUs fits nowhere in the cluster")
        self.count = min(room, self._asked or room)
        return self

    def __exit__(self, *exception: object) -> None:
        self._ray.shutdown()

    def start(self, job: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Start a job on a worker that is free."""
        # ``each`` starts a job again whose process has died, and counts how often.
        remote = self._ray.remote(job).options(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)
        reference = remote.remote(*arguments)
        ours: Future[Any] = Future()
        self._jobs[ours] = reference
        reference.future().add_done_callback(lambda theirs: self._hand_on(theirs, ours))
        return ours

    def stop(self) -> None:
        """Interrupt every job, as Ctrl-C does: one that trains keeps its step and ends its run."""
        for future, reference in list(self._jobs.items()):
            if not future.done():
                self._ray.cancel(reference)

    def _hand_on(self, theirs: Future[Any], ours: Future[Any]) -> None:
        """Give the result of Ray's future to our own, with a DiedError for a worker that is gone."""
        self._jobs.pop(ours, None)
        gone = self._ray.exceptions
        try:
            ours.set_result(theirs.result())
        except gone.OutOfMemoryError:
            ours.set_exception(DiedError("its process was killed, because its machine ran out of memory"))
        except (gone.WorkerCrashedError, gone.NodeDiedError, gone.LocalRayletDiedError):
            ours.set_exception(DiedError("its process died"))
        except (gone.TaskCancelledError, CancelledError):
            ours.set_exception(DiedError("its process was interrupted"))
        except Exception as error:
            ours.set_exception(error)


def _check_reachable(address: str) -> None:
    """A ValueError if nobody answers at ``host:port``; Ray itself would wait for minutes."""
    match = re.fullmatch(r"(?:ray://)?([^/:]+):([0-9]{1,5})", address)
    if not match:
        return  # "auto", and whatever else Ray knows
    try:
        socket.create_connection((match[1], int(match[2])), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"address: {address} cannot be reached ({error})") from None
