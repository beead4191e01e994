"""Find the circuits of a run, and renew the page that shows them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from headway.analyze.circuits.circuit import Circuit
    from headway.checkpoints.run import Run
    from headway.data.task import Task

SEQUENCES, ORDERS, CONTROLS = 64, 3, 100
MAX_EDGES = 3000
# Multiplications of the longest search that a training ends with; it takes some ten seconds.
MOST_AT_END = 3e11


def circuit(
    run: Run | str | Path,
    part: str | None = None,
    at: int | Literal["last", "all"] = "last",
    replace: str | None = None,
    *,
    sequences: int = SEQUENCES,
    orders: int = ORDERS,
    controls: int = CONTROLS,
    max_edges: int = MAX_EDGES,
    seed: int = 0,
    task: type[Task] | str | None = None,
    trust: bool = False,
    progress: bool = False,
) -> Circuit:
    """Find the edges that carry a behaviour of a run, follow them over training, and write both to the run.

    With ``at="last"`` the circuit of the last checkpoint is evaluated at every other one, and the circuits of a few
    earlier checkpoints are found, at which a tenth, a quarter, half and three quarters of what is known at the end were
    known. ``headway.analyze.circuits.find.find_circuit`` says how, and ``Run.circuit`` reads the numbers.

    Args:
        run: A run or its directory.
        part: The part of the task whose loss is the behaviour; ``all`` for every position that counts; by default what
            the task says that it is about.
        at: A checkpoint; "last"; or "all", which finds a circuit at every checkpoint.
        replace: What stands in for edges that are not kept: twin, resample, position_mean, mean or zero.
        sequences: Number of sequences of the evaluation batch.
        orders: Number of orders in which edges are removed.
        controls: Number of random circuits of the same size.
        max_edges: The largest network that is searched; the time grows with the square of its edges.
        seed: Seed of twins, orders, controls and resamples.
        task: The class of the task of a run that is given by its directory, or its import path, as of ``Run``.
        trust: Import whatever task such a run names, as of ``Run``.
        progress: Show a progress bar.

    Returns:
        The circuit at ``at``; with "all" that of the last checkpoint.

    Raises:
        NothingToExplainError: the network knows too little at this checkpoint.
        ValueError: a part, a checkpoint or a replacement that does not exist, a network with too many edges.

    Example:
        >>> found = circuit("runs/induction")  # doctest: +SKIP
        >>> print(*found.edges, found.scores.faithfulness.item())  # doctest: +SKIP
    """
    from headway.analyze.circuits.find import NothingToExplainError, passes_needed
    from headway.analyze.circuits.graph import Graph
    from headway.analyze.circuits.of_run import circuit_at, earlier_steps, over_steps, resolve
    from headway.analyze.report.live import report_if_possible
    from headway.checkpoints.lock import writing
    from headway.checkpoints.run import Run

    run = run if isinstance(run, Run) else Run(run, task, trust)
    for name, value in (("sequences", sequences), ("orders", orders), ("controls", controls)):
        if value < 1:
            raise ValueError(f"{name}: {value} is not valid; it must be 1 or more")
    last = run.check_step("last" if at in ("last", "all") else at)
    chosen, replacement, batch = resolve(run, part, replace, sequences)
    graph = Graph(run.model(last).cfg)
    if len(graph.edges) > max_edges:
        raise ValueError(
            f"max_edges: {max_edges} is not valid for this network, which has {len(graph.edges):,} edges; the search "
            "grows with their square"
        )
    each = passes_needed(graph, orders, controls)

    def find(step: int, advance: Callable[[int], None]) -> Circuit:
        return circuit_at(
            run, step, chosen, replacement, batch, seed=seed, n_orders=orders, n_controls=controls, advance=advance
        )

    with writing(run.path), _bar(progress) as bar:
        found = find(last, bar(f"step {last}", each))
        if at in ("last", "all"):
            over = over_steps(run, found, batch, seed, bar("over all steps", len(run.steps)))
            for step in earlier_steps(over) if at == "last" else run.steps[:-1]:
                try:
                    find(step, bar(f"step {step}", each))
                except NothingToExplainError:
                    continue
    report_if_possible(run)
    return found


def circuit_at_end(run: Run) -> None:
    """Find the circuit of a run that has just finished, and follow it over training, if that takes seconds.

    Nothing is found where the network is too large or knows nothing of its behaviour, or where the search does not
    apply. The caller holds the run's lock.
    """
    from headway.analyze.circuits.find import passes_needed
    from headway.analyze.circuits.graph import Graph
    from headway.analyze.circuits.of_run import circuit_at, over_steps, resolve
    from headway.analyze.network.requirements import DoesNotApplyError

    cfg, (part, replacement, batch) = run.recipe.model, resolve(run, None, None, SEQUENCES)
    weights = cfg.n_params + cfg.d_model * (cfg.d_vocab + cfg.d_vocab_out)
    passes = passes_needed(Graph(cfg), ORDERS, CONTROLS)
    if passes * weights * batch.mask.numel() > MOST_AT_END:
        return
    with suppress(DoesNotApplyError):
        found = circuit_at(run, run.steps[-1], part, replacement, batch)
        over_steps(run, found, batch)


@contextmanager
def _bar(shown: bool) -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Give a function that begins a new bar, of a title and a number of steps, and returns what advances it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(
        console=Console(stderr=True), disable=not (shown and sys.stderr.isatty()), transient=True
    ) as progress:

        def begin(title: str, total: int) -> Callable[[int], None]:
            bar = progress.add_task(escape(title), total=total)
            return lambda count: progress.advance(bar, count)

        yield begin
