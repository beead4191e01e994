"""Audit of a run: whether its checkpoints are what their names say, and its scores of the weights that are kept.

What is written down is compared: the label of each file of weights with its name, its content and config.yaml, and the
hash in each file of scores and each study with the weights of its step. What is not written down, as in runs of an
older Headway, is judged by the weights alone: the first against its initialiser, each move against what the optimiser
allows, and the way through all of them against one that goes on.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.checkpoints.files import CONFIG, ENVIRONMENT, holds_run, read_tree, read_yaml
from headway.checkpoints.run import Run
from headway.checkpoints.schedule import Schedule
from headway.checkpoints.scores import WEIGHTS, ScoreFile, score_files
from headway.checkpoints.way import Finding, Way, Weights, distance, norm
from headway.checkpoints.weights import Label, arrays_of, hash_of, hash_of_config, read_arrays, read_label
from headway.models.config import ModelConfig
from headway.models.file_names import SUFFIXES

if TYPE_CHECKING:
    from headway.models.optim import OptimConfig

# A weight of a fresh network is outside the null of its initialiser with this probability, over all weights.
RARE = 1e-6


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
    away = distance({name: weights[name] for name in drawn}, {name: fresh[name] for name in drawn})
    if exact and away > 0.01 * norm({name: fresh[name] for name in drawn}):
        return [Finding(0, "initial", f"its weights are not those that seed {seed} gives")]
    return []


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
