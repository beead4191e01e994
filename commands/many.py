"""Options and endings that commands share which work on many runs at once."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.commands.failure import fail

if TYPE_CHECKING:
    from signal import Signals

    from jsonargparse import ArgumentParser, Namespace

    from headway.checkpoints import Recipe
    from headway.sweeps.each import Outcome

# What add_workers adds, and the option of ``study`` that goes with it.
OF_MANY = ("on", "workers", "threads_each", "address", "gpus_each", "each")
WORDS = {"finished": "finished", "skipped": "finished before", "stopped": "stopped", "failed": "failed"}


def add_workers(parser: "ArgumentParser") -> None:
    """Add the options that say where many runs are computed."""
    from typing import Literal

    parser.add_argument("--on", type=Literal["pool", "ray"], default="pool", help="processes of this machine, or Ray")
    parser.add_argument("--workers", type=int | None, help="runs at once; as many as there are cores if not given")
    parser.add_argument("--threads_each", type=int | None, help="threads of each; its share of the cores if not given")
    parser.add_argument("--address", type=str | None, help="with --on ray: a cluster, such as auto or ray://host:10001")
    parser.add_argument("--gpus_each", type=float, default=0, help="with --on ray: GPUs of each run, such as 0.25")


def add_together(parser: "ArgumentParser") -> None:
    """Add the option that says how many runs one process trains at once."""
    parser.add_argument(
        "--together",
        type=int | None,
        help="train up to this many runs that differ in their seed alone as one stack of weights, and as many stacks "
        "at once as --workers says (1 if not given); worth it on an accelerator only",
    )


def chosen_workers(options: "Namespace", count: int) -> AbstractContextManager[Any]:
    """Return the processes on which ``count`` runs are computed, as the options say.

    Raises:
        ValueError: options that do not fit together, Ray that is not installed, a number that is not valid.
    """
    for name, given in (("address", options.address), ("gpus_each", options.gpus_each)):
        if given and options.on != "ray":
            raise ValueError(f"{name}: {given} is not valid without --on ray")
    from headway.sweeps.pool import Pool, cores

    threads = options.threads_each
    try:
        if options.on == "ray":
            from headway.sweeps.on_ray import Ray

            return Ray(options.workers, options.address, 1 if threads is None else threads, options.gpus_each)
        return Pool(min(count, cores()) if options.workers is None else options.workers, threads)
    except ValueError as error:
        # The options of a command say that a number is of each run.
        raise ValueError(re.sub(r"^(threads|gpus):", r"\1_each:", str(error))) from None


def train_many(recipes: "Mapping[str, Recipe]", out: Path, options: "Namespace") -> None:
    """Train the runs of a sweep, and say how they ended."""
    from headway.sweeps.train_all import check_all, train_all

    check_all(recipes, out)
    outcomes, asked, left = dict[str, "Outcome"](), None, recipes
    if options.together is not None:
        from headway.sweeps.together import check_together, train_stacks

        check_together(recipes, options.together)
        with chosen_workers(options, 1) as workers:  # one accelerator has room for one stack
            outcomes, asked = train_stacks(recipes, out, options.together, workers)
        left = {name: recipe for name, recipe in recipes.items() if outcomes[name].state == "finished"}
    if left and asked is None:
        with chosen_workers(options, len(left)) as workers:
            completed, asked = train_all(left, out, workers)
        outcomes = {name: completed.get(name) or outcomes[name] for name in recipes}
    again = "the same command tries them again, and trains those anew whose directories were moved away"
    finish(outcomes, asked, f"{out}: {len(outcomes)} runs", again=again)


def for_each(job: Callable[[Path], object], paths: Sequence[Path], options: "Namespace", done: str) -> None:
    """Do a job for every run beside each other, and say how they ended; ``done`` is what a finished one is."""
    from headway.checkpoints import Run
    from headway.sweeps.display import ShowRuns
    from headway.sweeps.each import each

    runs = {str(path): path.absolute() for path in paths}
    if len(runs) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"run: {twice} is given twice")
    for path in paths:
        Run(path)
    with chosen_workers(options, len(runs)) as workers, ShowRuns(len(runs)) as display:
        outcomes, asked = each(job, runs, workers, display)
    finish(outcomes, asked, f"{len(runs)} runs", {**WORDS, "finished": done, "skipped": "left out"})


def say_stale(paths: Sequence[Path]) -> None:
    """Print which pages of several runs do not show yet what these runs have now."""
    from headway.analyze.report.live import stale_pages
    from headway.checkpoints import Run

    for sentence in stale_pages([Run(path) for path in paths]):
        print(sentence)


def finish(
    outcomes: "Mapping[str, Outcome]",
    asked: "Signals | None",
    title: str,
    words: "Mapping[str, str]" = WORDS,
    again: str = "the same command tries them again",
) -> None:
    """Print how many runs ended in which way, and why some failed; the exit status is 1 if one did."""
    counts = Counter(outcome.state for outcome in outcomes.values())
    print(f"{title}: {', '.join(f'{counts[state]} {word}' for state, word in words.items() if counts[state])}")
    warned = Counter(text for outcome in outcomes.values() for text in outcome.warnings)
    for text, times in warned.items():
        print(f"warning in {times} of them: {text}")
    for name, outcome in outcomes.items():
        if outcome.state == "failed":
            print(f"{name} failed: {outcome.reason}")
        if outcome.state == "skipped" and outcome.reason != "finished":
            print(f"{name} was left out: {outcome.reason}")
    if asked is not None:
        fail("stopped; the same command goes on", code=128 + asked)
    if counts["failed"]:
        fail(f"{counts['failed']} of {len(outcomes)} failed; {again}", code=1)
