"""Workers of a sweep in this process, for tests of what is not about processes."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Threads:
    """Workers in this process."""

    def __init__(self, count: int = 2):
        self.count, self.pool, self.stopped = count, ThreadPoolExecutor(count), threading.Event()
        self.running = self.most = 0

    def start(self, job: Callable[..., Any], *arguments: Any) -> Future[Any]:
        self.running += 1
        self.most = max(self.most, self.running)
        future = self.pool.submit(job, *arguments)
        future.add_done_callback(lambda _: setattr(self, "running", self.running - 1))
        return future

    def stop(self) -> None:
        self.stopped.set()

    def __enter__(self) -> "Threads":
        return self

    def __exit__(self, *exception: object) -> None:
        self.pool.shutdown()
