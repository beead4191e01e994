"""One job for each run of many: started where there is room, again if its process died, and shown while they go on."""

import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Literal, Protocol, TypeVar

from headway.processes import STOPPING, DiedError

Item = TypeVar("Item")
State = Literal["finished", "skipped", "stopped", "failed"]

# How often a job is started whose process dies: what kills it may be another program's hunger for memory.
ATTEMPTS = 3


class SkippedError(Exception):
    """There was nothing to do for a job; its message says why."""


class InterruptedJobError(Exception):
    """A job ended before its end because it was asked to."""


@dataclass(frozen=True)
class Outcome:
    """The end of the job of one run: ``skipped`` if there was nothing to do, with the reason if it failed.

    That of a job for several runs has the end of each, by name, in ``of_runs``.
    """

    state: State
    reason: str = ""
    warnings: tuple[str, ...] = ()
    of_runs: Mapping[str, "Outcome"] = field(default_factory=dict)


class OutcomesOfRuns(dict[str, Outcome]):
    """The ends of several runs, by name: the result of a job that does them in one."""

    def whole(self) -> tuple[State, str]:
        """Return the end of the job: as of the first run that was stopped, or failed, or finished, and why one failed.

        Example:
            >>> OutcomesOfRuns(a=Outcome("finished"), b=Outcome("failed", "out of memory")).whole()
            ('failed', '1 of 2: b: out of memory')
        """
        if any(outcome.state == "stopped" for outcome in self.values()):
            return "stopped", ""
        failed = [name for name, outcome in self.items() if outcome.state == "failed"]
        if failed:
            return "failed", f"{len(failed)} of {len(self)}: {failed[0]}: {self[failed[0]].reason}"
        return "finished", ""


class Workers(Protocol):
    """Processes that do jobs; ``Pool`` and ``Ray`` are two."""

    count: int

    def start(self, job: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Start a job on a process that is free; its future raises a DiedError if that process dies."""
        ...

    def stop(self) -> None:
        """Ask every job that runs to end in an orderly way."""
        ...


class Display(Protocol):
    """The progress of many jobs, as a person sees it."""

    def started(self, name: str) -> None:
        """Tell that a job has begun."""
        ...

    def ended(self, name: str, outcome: Outcome) -> None:
        """Tell that a job has ended."""
        ...

    def look(self) -> None:
        """Look again at what is going on."""
        ...


def guarded(job: Callable[[Item], object], item: Item) -> Outcome:
    """Do one job in this process, and say how it ended; what it warned of is kept for the end."""
    of_runs = OutcomesOfRuns()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        try:
            result = job(item)
            of_runs = result if isinstance(result, OutcomesOfRuns) else of_runs
            state, reason = of_runs.whole()
        except SkippedError as error:
            state, reason = "skipped", str(error)
        except (InterruptedJobError, KeyboardInterrupt) as error:
            state, reason = "stopped", str(error)
        except MemoryError:
            state, reason = "failed", "out of memory"
        except Exception as error:
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            state, reason = "failed", kind + " ".join(str(error).split())
    return Outcome(state, reason, tuple(dict.fromkeys(str(each.message) for each in said)), of_runs)


def each(
    job: Callable[[Item], object], items: Mapping[str, Item], workers: Workers, display: Display
) -> tuple[dict[str, Outcome], signal.Signals | None]:
    """Do a job for every item; return how each ended, in the order of the items, and the signal that asked for the end.

    A job whose process dies is started again, up to ATTEMPTS times in all, so it must be able to go on where it was. At
    Ctrl-C, SIGTERM or SIGHUP no other job is started, and those that run are asked to end.
    """
    waiting, running = deque(items), dict[Future[Outcome], str]()
    starts, outcomes = dict.fromkeys(items, 0), dict[str, Outcome]()
    with _signals(workers.stop) as asked:
        while running or (waiting and not asked):
            while waiting and not asked and len(running) < workers.count:
                name = waiting.popleft()
                starts[name] += 1
                running[workers.start(guarded, job, items[name])] = name
                display.started(name)
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                name = running.pop(future)
                try:
                    outcomes[name] = future.result()
                except (DiedError, CancelledError) as error:
                    if asked:
                        outcomes[name] = Outcome("stopped", str(error))
                    elif starts[name] < ATTEMPTS:
                        waiting.appendleft(name)
                        continue
                    else:
                        outcomes[name] = Outcome("failed", f"{error}, {ATTEMPTS} times")
                except Exception as error:  # the process could not read its job, such as a task of a notebook
                    outcomes[name] = Outcome("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
                display.ended(name, outcomes[name])
            display.look()
    ended = {name: outcomes.get(name, Outcome("stopped", "not started")) for name in items}
    return ended, asked[0] if asked else None


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[list[signal.Signals]]:
    """Collect the signals that ask for the end, and call ``stop`` at the first; a second one ends this process."""
    asked: list[signal.Signals] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(signal.Signals(number))
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        stop()

    # No other thread may handle signals; what is ignored stays so, such as SIGHUP under nohup.
    main = threading.current_thread() is threading.main_thread()
    ours = [each for each in STOPPING if main and signal.getsignal(each) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in ours}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
