"""Children of one process that has imported everything: each is a command of its own, without seconds of imports.

The parent computes nothing, so its children inherit neither threads nor locks that somebody holds. Linux only.
"""

import atexit
import contextlib
import gc
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# What commands import; the parent imports it once.
HEAVY = [
    "headway.train", "headway.analyze.studying", "headway.analyze.studies.runner", "headway.data.text",
    "headway.analyze.report.figures.plot", "headway.analyze.report.console", "headway.analyze.report.summary",
    "headway.analyze.studies.induction.study", "headway.analyze.tools.prompt", "headway.recipes", "transformers",
    "transformer_lens.model_bridge", "h5netcdf.legacyapi", "tensorboard.backend.event_processing.event_accumulator",
    "headway.analyze.circuiting", "headway.commands.many", "docstring_parser", "attrs", "einops._torch_specific",
]  # fmt: skip
FAULT = 70
"""The exit status of a command that ended in a traceback."""


class Ended(NamedTuple):
    """The end of a child: its exit status, the negative number of the signal that killed it, and what it printed."""

    status: int
    printed: str


def import_once() -> None:
    """Import what children need, with one thread for arithmetic."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for name in HEAVY:
        importlib.import_module(name)

    import torch

    torch.set_num_threads(1)
    # Each child would look through all of this for garbage, and copy it into its own memory while it does.
    gc.collect()
    gc.freeze()


def forked(
    action: Callable[[], None], folder: Path, seconds: float = 120, kill: bool = False, memory: int | None = None
) -> Ended:
    """Run ``action`` in a child whose working directory is ``folder``, and kill it after ``seconds``.

    Args:
        action: What the child does.
        folder: Its working directory; ``cache`` below it is Headway's cache.
        seconds: How long it may take.
        kill: Whether to be killed is what should happen; else it prints that the time was over.
        memory: Bytes of address space beyond what the parent has.
    """
    log = folder.with_name(f"{folder.name}.log")
    child = os.fork()
    if child == 0:
        _become(action, folder, log, memory)
    end = time.monotonic() + seconds
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        left = end - time.monotonic()
        if left <= 0:
            os.kill(child, signal.SIGKILL)
            done = os.waitpid(child, 0)
            break
        time.sleep(min(left, 0.002))
    status = os.waitstatus_to_exitcode(done[1])
    printed = log.read_text(errors="replace") if log.exists() else ""
    if status == -signal.SIGKILL and not kill:
        printed += f"\nit was killed after {seconds} seconds"
    return Ended(status, printed)


def _become(action: Callable[[], None], folder: Path, log: Path, memory: int | None) -> None:
    status = FAULT
    try:
        atexit._clear()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.chdir(folder)
        os.environ["HEADWAY_CACHE"] = str(folder / "cache")
        if memory is not None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * os.sysconf("SC_PAGE_SIZE") + memory
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            action()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        atexit._run_exitfuncs()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
