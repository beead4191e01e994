"""Find the circuits of a run, and renew the page that shows them; find those of a language model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from headway.analyze.circuits.circuit import Circuit
    from headway.analyze.circuits.kept import Patching
    from headway.checkpoints.run import Run
    from headway.data.task import Task
    from headway.models.hooked_transformer import HookedTransformer

ORDERS, CONTROLS = 3, 100
# Searches that take longer begin only if the limit is raised.
MAX_MINUTES = 20.0
# Multiplications of the longest search that a training ends with; it takes some ten seconds.
MOST_AT_END = 3e11


def circuit(
    run: Run | TransformerBridge | str | Path,
    part: str | None = None,
    at: int | Literal["last", "all"] = "last",
    replace: str | None = None,
    *,
    nodes: bool = False,
    sequences: int | None = None,
    orders: int = ORDERS,
    controls: int = CONTROLS,
    max_minutes: float = MAX_MINUTES,
    seed: int = 0,
    task: type[Task] | Task | str | None = None,
    trust: bool = False,
    out: str | Path | None = None,
    progress: bool = False,
) -> Circuit:
    """Find the edges that carry a behaviour of a run, follow them over training, and write both to the run.

    With ``at="last"`` the circuit of the last checkpoint is evaluated at every other one, and the circuits of a few
    earlier checkpoints are found, at which a tenth, a quarter, half and three quarters of what is known at the end were
    known. ``headway.analyze.circuits.find.find_circuit`` says how, and ``Run.circuit`` reads the numbers.

    Of a language model, and of a run with ``nodes``, the heads and MLPs are found that carry the behaviour, without
    edges between them. Those of a language model stand in ``circuits`` of its directory.

    Args:
        run: A run or its directory; a language model or its name, with ``task``.
        part: The part of the task whose loss is the behaviour; ``all`` for every position that counts; by default what
            the task says that it is about.
        at: A checkpoint; "last"; or "all", which finds a circuit at every checkpoint.
        replace: What stands in for edges that are not kept: twin, resample, position_mean, mean or zero.
        nodes: Search nodes without edges, which takes less time; ``find_nodes`` says how.
        sequences: Number of sequences of the evaluation batch; 64 if None, fewer, 16 at least, of a run whose search
            would take many minutes with 64.
        orders: Number of orders in which edges are removed.
        controls: Number of random circuits of the same size.
        max_minutes: The longest search that begins; the time is estimated from a few forward passes.
        seed: Seed of twins, orders, controls and resamples.
        task: The class of the task of a run that is given by its directory, or its import path, as of ``Run``. For a
            language model a task whose tokens are those of the model, or ``indirect-object``.
        trust: Import whatever task such a run names, as of ``Run``.
        out: The directory for a language model; ``runs/NAME`` if None.
        progress: Say how long the search takes, and show a progress bar.

    Returns:
        The circuit at ``at``; with "all" that of the last checkpoint.

    Raises:
        NothingToExplainError: the network knows too little at this checkpoint.
        ValueError: a part, a checkpoint or a replacement that does not exist, a search that takes too long.

    Example:
        >>> found = circuit("runs/induction")  # doctest: +SKIP
        >>> print(*found.edges, found.scores.faithfulness.item())  # doctest: +SKIP
    """
    from headway.analyze.circuits.nodes import NodePatching
    from headway.analyze.circuits.patching import EdgePatching
    from headway.analyze.studying import check_is_bridge
    from headway.checkpoints.run import Run
    from headway.data.task import Task

    for name, value in (("sequences", sequences), ("orders", orders), ("controls", controls)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: {value} is not valid; it must be 1 or more")
    if not max_minutes > 0:
        raise ValueError(f"max_minutes: {max_minutes:g} is not valid; it must be more than 0")
    if not isinstance(run, Run | str | Path):
        check_is_bridge(run)
    if not isinstance(run, Run) and is_language_model(run, task):
        if at != "last":
            raise ValueError(f"at: {at} is not valid; a language model has no checkpoints here")
        search = _Search(NodePatching, part, replace, sequences, orders, controls, seed, max_minutes, progress)
        return _of_language_model(run, task, search, out)
    if out is not None:
        raise ValueError(f"out: {str(out)!r} is not valid; the circuit of a run is written to the run")
    if isinstance(run, str | Path):
        if isinstance(task, Task):
            raise ValueError(f"task: {task!r} is not valid; for a run it must be the class of its task")
        run = Run(run, task, trust)
    assert isinstance(run, Run)  # a bridge is a language model
    patched = NodePatching if nodes else EdgePatching
    return _of_run(run, at, _Search(patched, part, replace, sequences, orders, controls, seed, max_minutes, progress))


def is_language_model(run: TransformerBridge | str | Path, task: Any) -> bool:
    """Return whether a circuit of a language model is asked for: by the model, its folder, or its name and a task.

    Raises:
        ValueError: what can only be the name of a language model, without a task.
    """
    from headway.analyze.studies.study import is_model_name

    if not isinstance(run, str | Path):
        return True
    if not is_model_name(str(run)):
        return False

    from headway.analyze.circuits.of_language_model import LANGUAGE_TASKS
    from headway.data.task import Task

    if task is None and not Path(run).exists():
        tasks = ", ".join(LANGUAGE_TASKS)
        raise ValueError(f"run: {run} holds no run; of a language model of this name say the task too, one of {tasks}")
    # A name that is no folder may be a misspelt run.
    return Path(run).is_dir() or isinstance(task, Task) or task in LANGUAGE_TASKS


@dataclass(frozen=True)
class _Search:
    """The options of a search; ``patched`` is what is searched among: edges or nodes."""

    patched: type[Patching]
    part: str | None
    replace: str | None
    sequences: int | None
    orders: int
    controls: int
    seed: int
    max_minutes: float
    progress: bool

    def sequences_for(self, run: Run, model: HookedTransformer, circuits: int) -> int:
        """Return the number of sequences for a network of a run; refuse a network that is much too large."""
        from headway.analyze.circuits.duration import FASTEST, sequences_that_fit
        from headway.analyze.circuits.find import passes_needed
        from headway.analyze.circuits.graph import Graph
        from headway.analyze.circuits.nodes import NodePatching

        graph = Graph(model.cfg)
        parts = len(graph.nodes[:-1] if self.patched is NodePatching else graph.edges)
        passes = passes_needed(parts, self.orders, self.controls)
        weights, positions = sum(weight.numel() for weight in model.parameters()), run.task.n_ctx
        sequences = self.sequences or sequences_that_fit(weights, positions, passes)
        # What a search holds for each edge would not fit into memory there, so nothing can be timed.
        self.check_time(parts, circuits, circuits * passes * weights * positions * sequences / FASTEST, "at least")
        return sequences

    def begin(self, patching: Patching, circuits: int, evaluations: int = 0) -> int:
        """Say how long the search takes, or refuse it if that is too long; return how often it advances.

        Args:
            patching: The network on the batch.
            circuits: The most circuits that are searched for.
            evaluations: At how many checkpoints one of them is evaluated.
        """
        from headway.analyze.circuits.duration import in_words, passes_of_search, seconds_per_pass
        from headway.analyze.circuits.find import passes_needed

        parts = len(patching.names)
        passes = circuits * passes_of_search(patching, self.orders, self.controls) + evaluations * len(patching.nodes)
        seconds = seconds_per_pass(patching) * passes
        self.check_time(parts, circuits, seconds, "about")
        if self.progress:
            print(f"Searching {self.what(parts, circuits)}: about {in_words(seconds)}.", file=sys.stderr)
            if self.replace is None and patching.replacement != "twin":
                task = type(patching.batch.task).__name__
                print(f"{task} draws no twins, so {patching.replacement} stands in.", file=sys.stderr)
        return passes_needed(parts, self.orders, self.controls)

    def check_time(self, parts: int, circuits: int, seconds: float, about: str) -> None:
        """Refuse a search that takes longer than the limit."""
        from headway.analyze.circuits.duration import in_words
        from headway.analyze.circuits.nodes import NodePatching

        if seconds > 60 * self.max_minutes:
            fewer = "" if self.patched is NodePatching else ", search nodes (--nodes)"
            raise ValueError(
                f"max_minutes: {self.max_minutes:g} is not enough: searching {self.what(parts, circuits)} takes "
                f"{about} {in_words(seconds)}; raise it{fewer}, or give fewer orders, controls or sequences"
            )

    def what(self, parts: int, circuits: int) -> str:
        """Return what is searched, in words."""
        from headway.analyze.circuits.nodes import NodePatching

        kind = "nodes" if self.patched is NodePatching else "edges"
        at = f" at up to {circuits} checkpoints" if circuits > 1 else ""
        return f"{parts:,} {kind} in {self.orders} order{'s' if self.orders > 1 else ''}{at}"


def _of_run(run: Run, at: int | Literal["last", "all"], search: _Search) -> Circuit:
    from headway.analyze.circuits.find import NothingToExplainError, begin
    from headway.analyze.circuits.of_run import EARLIER, circuit_at, earlier_steps, over_steps, resolve
    from headway.analyze.report.live import report_if_possible
    from headway.checkpoints.lock import writing

    last = run.check_step("last" if at in ("last", "all") else at)
    circuits = {"last": min(1 + len(EARLIER), len(run.steps)), "all": len(run.steps)}.get(str(at), 1)
    model = run.model(last)
    sequences = search.sequences_for(run, model, circuits)
    part, replacement, batch = resolve(run, search.part, search.replace, sequences)

    def find(step: int, advance: Callable[[int], None]) -> Circuit:
        return circuit_at(
            run, step, part, replacement, batch, seed=search.seed, n_orders=search.orders, n_controls=search.controls,
            advance=advance, patched=search.patched,
        )  # fmt: skip

    with writing(run.path), _bar(search.progress) as bar:
        patching = begin(search.patched, model, batch, part, replacement, search.seed)
        each = search.begin(patching, circuits, len(run.steps) if at in ("last", "all") else 0)
        del patching
        found = find(last, bar(f"step {last}", each))
        if at in ("last", "all"):
            over = over_steps(run, found, batch, search.seed, bar("over all steps", len(run.steps)))
            for step in earlier_steps(over) if at == "last" else run.steps[:-1]:
                try:
                    find(step, bar(f"step {step}", each))
                except NothingToExplainError:
                    continue
    report_if_possible(run)
    return found


def _of_language_model(
    model: TransformerBridge | str | Path, task: Any, search: _Search, out: str | Path | None
) -> Circuit:
    from headway.analyze.circuits.duration import MOST_SEQUENCES
    from headway.analyze.circuits.find import begin
    from headway.analyze.circuits.of_language_model import check_task, model_circuit_file, task_of
    from headway.analyze.circuits.of_run import circuit_of, resolve_of
    from headway.analyze.studying import model_folder
    from headway.models.convert import load_bridge

    folder = model_folder(model, out)
    check_task(task)
    model = load_bridge(str(model)) if isinstance(model, str | Path) else model
    task = task_of(model, task)
    batch = task.evaluation_batch(0, search.sequences or MOST_SEQUENCES).to(model.cfg.device)
    part, replacement, batch = resolve_of(task, batch, search.part, search.replace)
    patching = begin(search.patched, model, batch, part, replacement, search.seed)
    each = search.begin(patching, 1)
    with _bar(search.progress) as bar:
        found = circuit_of(
            model, part, replacement, batch, search.seed, search.orders, search.controls,
            bar(str(folder), each), search.patched,
        )  # fmt: skip
    return found.save(model_circuit_file(folder, task, part, replacement))


def circuit_at_end(run: Run) -> None:
    """Find the circuit of a run that has just finished, and follow it over training, if that takes seconds.

    Nothing is found where the network is too large or knows nothing of its behaviour, or where the search does not
    apply. The caller holds the run's lock.
    """
    from headway.analyze.circuits.duration import MOST_SEQUENCES
    from headway.analyze.circuits.find import passes_needed
    from headway.analyze.circuits.graph import Graph
    from headway.analyze.circuits.of_run import circuit_at, over_steps, resolve
    from headway.analyze.network.requirements import DoesNotApplyError

    cfg, (part, replacement, batch) = run.recipe.model, resolve(run, None, None, MOST_SEQUENCES)
    weights = cfg.n_params + cfg.d_model * (cfg.d_vocab + cfg.d_vocab_out)
    passes = passes_needed(len(Graph(cfg).edges), ORDERS, CONTROLS)
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
