"""Processes: the signals that end one in an orderly way, and how one that is gone has ended."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

# Ctrl-C, a cluster that is about to kill, a terminal that is closed.
STOPPING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class DiedError(RuntimeError):
    """A process that others wait for is gone; the message says how it ended."""


class SignalledError(BaseException):
    """A signal asks this process to end. It is no KeyboardInterrupt, of which Lightning makes an exit of its own."""

    def __init__(self, by: signal.Signals):
        super().__init__(by.name)
        self.signal = by


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise a SignalledError at the first of STOPPING, so that what is open is closed; a second one kills."""

    def end(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SignalledError(signal.Signals(number))

    # No other thread may handle signals; what is ignored stays so, such as SIGHUP under nohup.
    main = threading.current_thread() is threading.main_thread()
    handlers = {each: signal.getsignal(each) for each in STOPPING if main}
    before = {each: handler for each, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
    for each in before:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def hold_back(signals: Iterable[signal.Signals]) -> None:
    """Have these signals wait until ``let_through``; processes that are started meanwhile never see them."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)


def let_through(signals: Iterable[signal.Signals]) -> None:
    """Have these signals come, also those that were held back."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def start_resource_tracker() -> None:
    """Start the process of multiprocessing that clears up after all others; it is to outlive a signal to all of them.

    By itself it ignores Ctrl-C and SIGTERM, but not SIGHUP.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no such process
        return
    hold_back(STOPPING)
    try:
        resource_tracker.ensure_running()
    finally:
        let_through(STOPPING)


def leave_signals_to_parent() -> None:
    """Have this process, which its parent alone may end, not see STOPPING, and end when the parent is gone.

    They are held back and not ignored, because Lightning puts in handlers of its own.
    """
    hold_back(STOPPING)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def ending(code: int | None) -> str:
    """Return how a process with this exit code ended, in words.

    Example:
        >>> ending(-9), ending(1)
        ('was killed (SIGKILL, as when memory runs out)', 'ended with status 1')
    """
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL, as when memory runs out)"
    if code is not None and code < 0:
        return f"was killed ({signal.Signals(-code).name})"
    return f"ended with status {code}"
