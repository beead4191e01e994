"""Audit of a run: whether its checkpoints are what their names say, and its scores of the weights that are kept.

What is written down is compared: the label of each file of weights with its name, its content and config.yaml, and the
hash in each file of scores and each study with the weights of its step. What is not written down, as in runs of an
older Headway, is judged by the weights alone: the first against its initialiser, each move against what the optimiser
allows, and the way through all of them against one that goes on.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.checkpoints.files import CONFIG, ENVIRONMENT, holds_run, read_tree, read_yaml
from headway.checkpoints.run import Run
from headway.checkpoints.schedule import Schedule
from headway.checkpoints.scores import WEIGHTS, ScoreFile, score_files
from headway.checkpoints.weights import Label, arrays_of, hash_of, hash_of_config, read_arrays, read_label
from headway.models.config import ModelConfig
from headway.models.file_names import SUFFIXES

if TYPE_CHECKING:
    from headway.models.optim import OptimConfig

Weights = Mapping[str, np.ndarray]
# A weight of a fresh network is outside the null of its initialiser with this probability, over all weights.
RARE = 1e-6
# The bounds on a way are empirical. In 45 clean runs of six tasks with AdamW, of up to 107 checkpoints, a checkpoint
# was at most 0.98 times as far from one beside it as these are from each other, and a move at most 1.6 times as long as
# those beside it make likely. Two neighbours that are exchanged give a detour of 1.2 to 2.
DETOUR, JUMP = 1.15, 4.0
# The updates of SGD are as long as its gradients, which grow fast where a network learns something at once.
JUMP_OF_SGD = 16.0
# A way no longer than so many updates may swing to and fro, as those of a large learning rate do.
SWINGS = 5
# The relative size of rounding in float32.
ROUNDING = 2.0**-23
KINDS = (
    "damaged", "altered", "label", "repeated", "initial", "way", "update", "missing", "scores", "config", "state",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A fault of a run.

    Args:
        step: The step that it is about; None for the whole run.
        fault: Its kind, one of KINDS.
        text: A sentence about it.
    """

    step: int | None
    fault: str
    text: str

    def __str__(self) -> str:
        return self.text if self.step is None else f"step {self.step}: {self.text}"


def audit(run: Run | str | Path) -> list[Finding]:
    """Return the faults of a run, in the order of their steps; none for a run that is what it says.

    Found are: files that are damaged (``damaged``) or were altered since they were kept (``altered``), weights whose
    label is of another step (``label``), weights that two steps share (``repeated``), a step 0 that its initialiser
    does not give (``initial``), a way that jumps or returns (``way``), a move that learning rate and clipping do not
    allow (``update``), steps of the schedule that are missing (``missing``), scores, circuits and studies of other
    weights than those of their step (``scores``), a config.yaml that has changed since (``config``), and a state of
    training with other weights than those of its step (``state``). Not found is what leaves no trace, such as two
    checkpoints of an older Headway that are exchanged late in training, where they hardly differ.

    Of files that are no run, such as a folder of step400.pt and others, what can be found without a recipe is.

    Args:
        run: The run, or its directory; or a file or folder of weights that another program wrote.

    Raises:
        ValueError: a directory that holds no run and no weights, a config.yaml that is damaged, or files whose names
            have no steps.

    Example:
        >>> [str(finding) for finding in audit("runs/induction")]  # doctest: +SKIP
        ['step 400: its weights are those of step 300']
    """
    if isinstance(run, str | Path) and holds_weight_files(run):
        from headway.checkpoints.audit_of_files import faults_of_files

        return faults_of_files(run)[1]
    run = run if isinstance(run, Run) else Run(run)
    config = ModelConfig(**run.config["model"])
    # Of an imported run nobody knows how it was trained.
    optim = None if run.imported is not None else _optimiser(run)
    states = [] if optim is None else _states(run)
    found = _not_imported(run) if optim is None else [*_missing(run, states)]
    labels: dict[int, Label | None] = {}
    hashes: dict[int, str] = {}
    way = Way(optim, run.config["steps"])
    for step in run.steps:
        path = run.weights_file(step)
        try:
            labels[step], weights = read_label(path), read_arrays(path)
            _check_network(weights, config)
        except ValueError as error:
            found.append(Finding(step, "damaged", f"its weights cannot be used ({error})"))
            continue
        hashes[step] = hash_of(weights)
        found += _of_label(step, labels[step], hashes[step])
        same = next((other for other in hashes if other != step and hashes[other] == hashes[step]), None)
        if same is not None:
            found.append(Finding(step, "repeated", f"its weights are those of step {same}"))
            continue  # the way would say the same
        if step == 0 and run.has_initialiser:
            found += initial_faults(
                weights, config, run.config["seed"], exact=optim is not None and _is_of_this_torch(run)
            )
        found += way.go_on(step, weights)
    found += [*way.faults(), *_of_config(run, labels, states), *_of_states(states, hashes), *_of_scores(run, hashes)]
    return sorted(found, key=lambda finding: -1 if finding.step is None else finding.step)


def holds_weight_files(path: str | Path) -> bool:
    """Return whether a path is a file of weights, or a folder of such files or of folders with one, and no run."""
    path = Path(path).expanduser()
    if path.is_file():
        return path.suffix in SUFFIXES
    if not path.is_dir() or holds_run(path):
        return False
    folders = [path, *(each for each in path.iterdir() if each.is_dir())]
    if any(holds_run(folder) for folder in folders):
        return False
    return any(file.suffix in SUFFIXES for folder in folders for file in folder.iterdir())


def _optimiser(run: Run) -> "OptimConfig":
    from headway.models.optim import OptimConfig

    try:
        return OptimConfig(**run.config["optim"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"config: {run.path / CONFIG}: optim.{error}") from None


def _check_network(weights: Weights, config: ModelConfig) -> None:
    """Refuse weights that are not those of a network of this configuration, or not finite."""
    shapes = dict(config.weight_shapes())
    for name, shape in shapes.items():
        if name not in weights or weights[name].shape != shape:
            raise ValueError(f"{name} is not there, or not of the shape {shape} that {CONFIG} says")
    for name, weight in weights.items():
        if name not in shapes:
            raise ValueError(f"{name} is no weight of the network that {CONFIG} says")
        if not np.isfinite(weight).all():
            raise ValueError(f"{name} has numbers that are not finite")


def _missing(run: Run, states: "Sequence[State]") -> Iterator[Finding]:
    """The steps of the schedule that were not kept, up to the last one that was, or that of resume.ckpt."""
    kept = run.steps
    try:
        due = Schedule(**run.config["schedule"]).steps(run.config["steps"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"config: {run.path / CONFIG}: schedule: {error}") from None
    # The weights of a step are kept before resume.ckpt goes on to it.
    last = max([*kept, *(state.step for state in states if state.file == run.resume_file)], default=-1)
    for step in due:
        if step <= last and step not in kept:
            yield Finding(step, "missing", "the schedule has it, and its weights are not kept")


def _not_imported(run: Run) -> list[Finding]:
    """The steps of an imported run whose weights are not there any more."""
    sources = (run.imported or {}).get("sources", {})
    return [
        Finding(int(step), "missing", "it was imported, and its weights are not kept")
        for step in sources
        if int(step) not in run.steps
    ]


@dataclass(frozen=True)
class State:
    """A state of training: its file, its step, its recipe, and the hash of its weights."""

    file: Path
    step: int
    recipe: Mapping[str, Any]
    weights: str


def _states(run: Run) -> list[State]:
    """The states of training that can be read; train --resume and densify say what is wrong with the others."""
    import torch

    found: list[State] = []
    for file in (run.resume_file, *sorted(run.path.glob("states/*.ckpt"))):
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            weights = {
                name.removeprefix("model."): value.float().numpy() for name, value in state["state_dict"].items()
            }
            found.append(State(file, int(state["global_step"]), dict(state["recipe"]), hash_of(weights)))
        except Exception:  # torch raises many kinds
            continue
    return found


def _of_states(states: Sequence[State], hashes: Mapping[int, str]) -> Iterator[Finding]:
    for state in states:
        if state.step in hashes and hashes[state.step] != state.weights:
            yield Finding(state.step, "state", f"its weights are not those in {state.file.name}, which is of this step")


def _of_label(step: int, label: Label | None, weights: str) -> Iterator[Finding]:
    if label is None:  # of an older Headway
        return
    if label.step != step:
        yield Finding(step, "label", f"its weights were kept as those of step {label.step}")
    if label.weights != weights:
        yield Finding(step, "altered", "its weights were altered since they were kept")


def _is_of_this_torch(run: Run) -> bool:
    """Return whether the torch that made a run is this one, which draws the same numbers."""
    try:
        # The version of the package, as the run keeps it: torch itself may name its build too, such as 2.8.0+cpu.
        return read_yaml(run.path / ENVIRONMENT)["torch"] == version("torch")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def initial_faults(weights: Weights, config: ModelConfig, seed: int, exact: bool) -> list[Finding]:
    """Return the faults of weights that should be those of a fresh network.

    Each weight is compared with that of a network that is drawn anew. One that is a constant there must be the same
    constant. The others must have its mean square (F-test) and its mean (t-test); over all of them, a fresh network
    fails with a probability of 1e-6. With ``exact`` they must also be those that the seed gives, up to rounding.
    """
    from scipy import stats

    from headway.models.hooked_transformer import HookedTransformer

    fresh = arrays_of(HookedTransformer(config, seed=seed))
    drawn = [name for name, weight in fresh.items() if np.ptp(weight) > 0]
    outside: list[str] = []
    for name, weight in fresh.items():
        here, there = weights[name].astype(np.float64), weight.astype(np.float64)
        if name not in drawn:
            if not np.array_equal(here, there):
                outside.append(f"{name} is not {there.flat[0]:g} everywhere")
            continue
        n, ratio = here.size, float((here**2).mean() / (there**2).mean())
        t = abs(here.mean() - there.mean()) / math.sqrt((here.var() + there.var()) / n)
        p = min(stats.f.sf(ratio, n, n), stats.f.cdf(ratio, n, n), stats.t.sf(t, 2 * n - 2)) * 4
        if p * len(drawn) < RARE:
            outside.append(f"the standard deviation of {name} is {here.std():.3g}, of a fresh one {there.std():.3g}")
    if outside:
        others = f", and {len(outside) - 1} more weights differ" if len(outside) > 1 else ""
        return [Finding(0, "initial", f"its weights are not those of a fresh network: {outside[0]}{others}")]
    distance = _distance({name: weights[name] for name in drawn}, {name: fresh[name] for name in drawn})
    if exact and distance > 0.01 * _norm({name: fresh[name] for name in drawn}):
        return [Finding(0, "initial", f"its weights are not those that seed {seed} gives")]
    return []


@dataclass
class Way:
    """The way of the weights from checkpoint to checkpoint.

    Args:
        optim: The optimiser; None if it is not known.
        last: The number of updates of the whole run.
    """

    optim: "OptimConfig | None"
    last: int
    steps: list[int] = field(default_factory=list)
    moves: list[float] = field(default_factory=list)
    """The distances from each checkpoint to the next."""
    straight: list[float] = field(default_factory=list)
    """The distances from each checkpoint to the next but one."""
    largest: float = 0.0
    """The largest norm that the weights may have had so far."""
    _last: list[Weights] = field(default_factory=list)

    def go_on(self, step: int, weights: Weights) -> list[Finding]:
        """Take the next checkpoint, and return a fault if learning rate and clipping do not allow to come there."""
        self.steps.append(step)
        self._last = [*self._last[-2:], weights]
        if len(self._last) == 1:
            self.largest = _norm(weights)
            return []
        self.moves.append(_distance(*self._last[-2:]))
        if len(self._last) == 3:
            self.straight.append(_distance(self._last[0], weights))
        if self.optim is None:
            return []
        (first, last), (before, after) = self.steps[-2:], self._last[-2:]
        return [*self._not_allowed(self.optim, first, last, before, after)]

    def _not_allowed(
        self, optim: "OptimConfig", first: int, last: int, before: Weights, after: Weights
    ) -> Iterator[Finding]:
        from headway.models.optim import grouped

        rounding = ROUNDING * (last - first + 10)
        if optim.optimizer == "SGD":
            bound = furthest_by_sgd(_fastest(optim), self.last, first, last, self.largest)
            start, moved = _norm(before), self.moves[-1]
            self.largest = max(self.largest, start + bound)
            if moved > bound * (1 + 1e-3) + rounding * self.largest:
                yield Finding(
                    last,
                    "update",
                    f"its weights are {moved:.3g} from those of step {first}, where optim allows {bound:.3g}",
                )
            return
        patterns = {name: pattern for pattern, names in grouped(before, optim.groups).items() for name in names}
        bounds = {
            pattern: furthest_by_adam(replace(optim, **optim.groups.get(pattern, {})), self.last, first, last)
            for pattern in set(patterns.values())
        }
        for name, weight in before.items():
            apart, grown = bounds[patterns[name]]
            bound = apart * (1 + 1e-3) + grown * np.abs(weight)
            moved = np.abs(after[name].astype(np.float64) - weight)
            over = moved - bound - rounding * np.maximum(np.abs(weight), np.abs(after[name]))
            if (over > 0).any():
                worst = np.unravel_index(np.argmax(over), over.shape)
                yield Finding(
                    last,
                    "update",
                    f"{name} moved by {moved[worst]:.3g} since step {first}, where optim allows {bound[worst]:.3g}",
                )
                return

    def faults(self) -> Iterator[Finding]:
        """Yield the checkpoints that lie off the way, and the moves that are too long."""
        off: list[int] = []
        # A checkpoint that lies off makes long moves, next to which another one seems near.
        while more := [
            place for place in range(1, len(self.steps) - 1) if place not in off and self._is_off(place, off)
        ]:
            off += more
        for place in sorted(off):
            first, middle, last = self.steps[place - 1 : place + 2]
            far = max(self.moves[place - 1 : place + 1]) / max(self.straight[place - 1], 1e-300)
            yield Finding(
                middle,
                "way",
                f"its weights lie off the way from step {first} to step {last}: from one of these they are {far:.1f} "
                "times as far as these are from each other",
            )
        of_sgd = self.optim is not None and self.optim.optimizer == "SGD"
        for place in range(len(self.moves)):
            ratio = self._times_as_long(place)
            # Next to a checkpoint that lies off the way every move is too long.
            if ratio > (JUMP_OF_SGD if of_sgd else JUMP) and not {place, place + 1} & set(off):
                first, last = self.steps[place : place + 2]
                yield Finding(
                    last,
                    "way",
                    f"its weights jump: they are {ratio:.1f} times as far from those of step {first} as the moves "
                    "before and after make likely",
                )

    def _is_off(self, place: int, off: Sequence[int]) -> bool:
        """Return whether a checkpoint is further from one beside it than these are from each other.

        Moves from and to those that are known to lie ``off`` say nothing of how long moves are.
        """
        away = {move for each in (place, *off) for move in (each - 1, each)}
        longest = max(self.moves[place - 1 : place + 1])
        others = [move / (self.steps[at + 1] - self.steps[at]) for at, move in enumerate(self.moves) if at not in away]
        return longest > DETOUR * self.straight[place - 1] and longest > SWINGS * max(others, default=0.0)

    def _times_as_long(self, place: int) -> float:
        """Return the length of a move as a multiple of that which the longer of its neighbours makes likely.

        n updates together are n times as long as one of them if all go the same way, and √n times if each goes its own.
        """
        likely = []
        for other in (place - 1, place + 1):
            if 0 <= other < len(self.moves):
                ratio = self._rate(place) / max(self._rate(other), 1e-300)
                likely.append(self.moves[other] * max(ratio, math.sqrt(ratio)))
        return self.moves[place] / max(*likely, 1e-300) if likely else 0.0

    def _rate(self, place: int) -> float:
        """The sum of the learning rates of a move's updates; their number if these are not known."""
        first, last = self.steps[place : place + 2]
        return float(last - first) if self.optim is None else float(_rates(self.optim, self.last, first, last).sum())


def _fastest(optim: "OptimConfig") -> "OptimConfig":
    """Return an optimiser that moves every weight as far as that with groups moves any of them."""
    groups = [{}, *optim.groups.values()]
    most = {
        name: max(float(group.get(name, getattr(optim, name))) for group in groups) for name in ("lr", "weight_decay")
    }
    return replace(optim, **most, groups={})


def _rates(optim: "OptimConfig", steps: int, first: int, last: int) -> np.ndarray:
    """The learning rates of the updates from one checkpoint to another."""
    return optim.lr * np.array([optim.factor(step, steps) for step in range(first, last)])


def furthest_by_adam(optim: "OptimConfig", steps: int, first: int, last: int) -> tuple[float, float]:
    """Return how far Adam or AdamW can move a weight w between two checkpoints: ``apart + grown * |w|``.

    Update t moves a weight by lr_t |m̂_t| / (√v̂_t + ε), whatever the gradients are, and clipped or not. With m̂_t =
    (1 − β1) / (1 − β1^t) Σ β1^(t−i) g_i and v̂_t = (1 − β2) / (1 − β2^t) Σ β2^(t−i) g_i², the inequality of Cauchy and
    Schwarz gives |m̂_t| / √v̂_t ≤ c_t with

        c_t = (1 − β1) / (1 − β1^t) · √((1 − β2^t) / (1 − β2)) · √(Σ_{j<t} (β1² / β2)^j),

    which is 1 in the first update and goes to 7.3 for β = (0.9, 0.999). AdamW moves it by lr_t λ |w| too, so that a
    weight that is d from its start is at most d (1 + lr_t λ) + lr_t (c_t + λ |w|) from it after the update. With L the
    sum of the lr_t this is at most e^(λL) Σ lr_t c_t + (e^(λL) − 1) |w|. Adam adds its decay to the gradient, and the
    bound is that of λ = 0.

    Example:
        >>> from headway.models.optim import OptimConfig
        >>> furthest_by_adam(OptimConfig(lr=0.01, weight_decay=0.0), 100, first=0, last=1)
        (0.01, 0.0)
    """
    (b1, b2), t = optim.betas, np.arange(first + 1, last + 1, dtype=np.float64)
    rates = _rates(optim, steps, first, last)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        q = np.float64(b1**2) / b2 if b2 > 0 else np.float64(np.inf if b1 > 0 else 0.0)
        powers = t if q == 1 else (1 - q**t) / (1 - q)
        c = (1 - b1) / (1 - b1**t) * np.sqrt((1 - b2**t) / (1 - b2)) * np.sqrt(powers)
    c = np.nan_to_num(c, nan=np.inf, posinf=np.inf)
    decay = optim.weight_decay if optim.optimizer == "AdamW" else 0.0
    grown = math.exp(min(decay * float(rates.sum()), 700.0))
    return grown * float((rates * c).sum()), grown - 1


def furthest_by_sgd(optim: "OptimConfig", steps: int, first: int, last: int, largest: float) -> float:
    """Return how far SGD can move all weights together between two checkpoints; infinity without clipping.

    The gradient is clipped to the norm g, the decay λ w is added, and momentum μ sums both up: an update is at most
    lr_t (g + λ W) / (1 − μ) long, where W is the largest norm of the weights so far. Over all updates, with L the sum
    of the lr_t and k = λ / (1 − μ), that is at most e^(kL) (W + g L / (1 − μ)) − W.

    Example:
        >>> from headway.models.optim import OptimConfig
        >>> furthest_by_sgd(OptimConfig("SGD", lr=0.1, weight_decay=0.0, max_grad_norm=2.0), 9, 0, 2, largest=5.0)
        0.4
    """
    if optim.max_grad_norm is None:
        return math.inf
    long, inertia = float(_rates(optim, steps, first, last).sum()), 1 / (1 - optim.momentum)
    growth = math.expm1(min(optim.weight_decay * inertia * long, 700.0))
    clipped = optim.max_grad_norm * inertia * long
    return growth * (largest + clipped) + clipped


def _norm(weights: Weights) -> float:
    return math.sqrt(sum(float((weight.astype(np.float64) ** 2).sum()) for weight in weights.values()))


def _distance(weights: Weights, others: Weights) -> float:
    return _norm({name: weights[name].astype(np.float64) - others[name] for name in weights})


def _of_config(run: Run, labels: Mapping[int, Label | None], states: Sequence[State]) -> Iterator[Finding]:
    """Report what has changed since checkpoints were kept, with the options that a state of training knows."""
    now = hash_of_config(run.config)
    before = [step for step, label in labels.items() if label is not None and label.config != now]
    changed = ", ".join(_differences(states[0].recipe, run.config)) if states else ""
    if before or changed:
        when = f" since step {_listed(before)} was kept" if before else " since the run was trained"
        yield Finding(None, "config", f"{CONFIG} has changed{when}" + (f": {changed}" if changed else ""))
    path = run.path / "weights" / "config.json"
    try:
        kept = ModelConfig(**json.loads(path.read_text(encoding="utf-8"))) if labels else None
    except (OSError, ValueError, TypeError) as error:
        yield Finding(None, "damaged", f"{path} cannot be read ({error})")
        return
    if kept is not None and kept != ModelConfig(**run.config["model"]):
        yield Finding(None, "config", f"{path} is of another network than {CONFIG}")


def _differences(then: Any, now: Any, option: str = "") -> Iterator[str]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for name in {**then, **now}:
            yield from _differences(then.get(name), now.get(name), f"{option}.{name}" if option else str(name))
    elif then != now:
        yield f"{option} was {then} and is {now}"


def _of_scores(run: Run, hashes: Mapping[int, str]) -> Iterator[Finding]:
    """The scores, circuits and studies that are of other weights than those kept of their step."""
    others: dict[tuple[int, str], list[str]] = {}
    kept = set(run.steps)
    for step, name, path in _scored(run):
        try:
            scored = _weights_of(path)
        except ValueError as error:
            yield Finding(step, "damaged", str(error))
            continue
        if step not in kept:
            others.setdefault((step, ""), []).append(name)
        elif scored is not None and step in hashes and scored != hashes[step]:
            others.setdefault((step, scored), []).append(name)
    owners = {weights: step for step, weights in hashes.items()}
    for (step, scored), names in others.items():
        if not scored:
            text = "it has scores, and its weights are not kept"
        else:
            whose = f"the weights of step {owners[scored]}" if scored in owners else "weights that are not kept"
            text = f"its scores are of {whose}"
        yield Finding(step, "scores", f"{text} ({_listed(names)})")


def _scored(run: Run) -> Iterator[tuple[int, str, Path]]:
    for (step, name), path in score_files(run.path).items():
        yield step, name, path
    for nodes, found in ((False, run.circuits), (True, run.node_circuits)):
        for step, part, replacement in found:
            yield step, f"circuit of {part}", run.circuit_file(step, part, replacement, nodes)
    for step, name in run.studies_at_steps:
        yield step, f"study {name}", run.study_file(name, step)


def _weights_of(path: Path) -> str | None:
    """The hash of the weights that a file of scores or a study is of; None in one of an older Headway."""
    if path.suffix != ".nc":
        return ScoreFile.open(path).weights()
    weights = read_tree(path).attrs.get(WEIGHTS)
    return None if weights is None else str(weights)


def _listed(values: Sequence[Any], most: int = 4) -> str:
    """Name some of many.

    Example:
        >>> _listed([0, 1, 2, 3, 4, 5])
        '0, 1, 2, 3 and 2 more'
    """
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return f"{', '.join(map(str, values[:most]))}{more}"
