"""Audit of checkpoints that another program wrote: what their weights alone say against the steps in their names."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from headway.checkpoints.way import Finding, Way, Weights
from headway.checkpoints.weight_sources import step_of, surest_step, weight_files
from headway.checkpoints.weights import hash_of
from headway.models.layouts import BUFFERS
from headway.models.weight_files import NoWeightsError, Source, read_source


def faults_of_files(source: str | Path) -> tuple[int, list[Finding]]:
    """Return the number of checkpoints in a file or folder of weights, and their faults in the order of their steps.

    Found are files that are damaged, of another network than the others, or that say another step than their names,
    two files of one step, weights that two steps share, and a way that jumps or returns.

    Raises:
        ValueError: no files of weights, or several whose names have no steps.
    """
    found: list[Finding] = []
    placed: dict[int, tuple[Path, int]] = {}
    files = weight_files([source])
    count = 0
    for path, place, each, several in _checkpoints(files, found):
        count += 1
        try:
            named = surest_step(path, each, several)
        except ValueError:
            named = step_of(path)
            if each.step is None or named is None:  # a name with several steps
                raise
            found.append(Finding(named.step, "label", f"{path.name} says that it is of step {each.step.step}"))
        if named is None and several == 1 and len(files) > 1:
            raise ValueError(f"step: the name of {path} has none; rename it, such as step400{path.suffix}")
        step = place if named is None else named.step
        if step in placed:
            found.append(Finding(step, "repeated", f"{placed[step][0].name} and {path.name} are both of it"))
        else:
            placed[step] = (path, place)
    found += _of_weights(placed)
    return count, sorted(found, key=lambda finding: -1 if finding.step is None else finding.step)


def _checkpoints(files: list[tuple[Path, bool]], found: list[Finding]) -> Iterator[tuple[Path, int, Source, int]]:
    """The checkpoints of files, each with its place in its file and the number of those there."""
    for path, in_folder in files:
        try:
            inside = read_source(path)
        except ValueError as error:
            if in_folder and isinstance(error, NoWeightsError):
                continue  # one of losses
            try:
                named = step_of(path)
            except ValueError:
                named = None
            found.append(Finding(named and named.step, "damaged", str(error).removeprefix("file: ")))
            continue
        for place, each in enumerate(inside):
            yield path, place, each, len(inside)


def _of_weights(placed: dict[int, tuple[Path, int]]) -> Iterator[Finding]:
    """Report what the weights say, which are read again in the order of their steps, because all may be too many."""
    way, hashes = Way(None, 0), dict[int, str]()
    first: dict[str, tuple[int, ...]] = {}
    for step in sorted(placed):
        path, place = placed[step]
        weights = _arrays(read_source(path)[place])
        shapes = {name: weight.shape for name, weight in weights.items()}
        first = first or shapes
        if shapes != first:
            name = next(name for name in {**first, **shapes} if first.get(name) != shapes.get(name))
            yield Finding(step, "damaged", f"{name} of {path.name} is not as in step {min(hashes)}")
            continue
        wrong = next((name for name, weight in weights.items() if not np.isfinite(weight).all()), None)
        if wrong is not None:
            yield Finding(step, "damaged", f"{wrong} of {path.name} has numbers that are not finite")
            continue
        hashes[step] = hash_of(weights)
        same = next((other for other in hashes if other != step and hashes[other] == hashes[step]), None)
        if same is not None:
            yield Finding(step, "repeated", f"its weights are those of step {same}")
            continue
        way.go_on(step, weights)
    yield from way.faults()


def _arrays(source: Source) -> Weights:
    return {
        name: value.detach().float().cpu().numpy() for name, value in source.weights.items() if not BUFFERS.search(name)
    }
