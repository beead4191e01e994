"""Progress of many runs in a terminal: one bar for all, and one for each that goes on."""

from collections.abc import Callable
from typing import Self

from headway.sweeps.each import Outcome


class ShowRuns:
    """Bars in a terminal, and elsewhere a line for each run that ends.

    Args:
        count: Number of runs.
        share: How far a run is, from 0 to 1, by its name.
        quiet: Show nothing.
    """

    def __init__(self, count: int, share: Callable[[str], float] | None = None, quiet: bool = False):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = Console(stderr=True, quiet=quiet, highlight=False, markup=False)
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self.all = self.bars.add_task("runs", total=count)
        self.share = share
        self.count, self.ended_so_far = count, 0
        self.running: dict[str, int] = {}

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def started(self, name: str) -> None:
        """Show a bar for this run, once."""
        if name not in self.running:
            self.running[name] = int(self.bars.add_task(name, total=100))

    def ended(self, name: str, outcome: Outcome) -> None:
        """Take the bar of this run away, and count it."""
        self.bars.remove_task(self.running.pop(name))  # pyright: ignore[reportArgumentType]
        self.bars.advance(self.all)
        self.ended_so_far += 1
        if not self.console.is_terminal or outcome.state == "failed":
            reason = f": {outcome.reason}" if outcome.reason else ""
            self.console.print(f"{self.ended_so_far} of {self.count}: {name} {outcome.state}{reason}", soft_wrap=True)

    def look(self) -> None:
        """Draw how far each run is; this reads directories, so only where somebody looks."""
        if self.share is not None and self.console.is_terminal:
            for name, bar in self.running.items():
                self.bars.update(bar, completed=round(100 * self.share(name)))  # pyright: ignore[reportArgumentType]
