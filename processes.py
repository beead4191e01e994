"""Processes: the signals that end one in an orderly way, and how one that is gone has ended."""

import signal

# Ctrl-C, a cluster that is about to kill, a terminal that is closed.
STOPPING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class DiedError(RuntimeError):
    """A process that others wait for is gone; the message says how it ended."""


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
