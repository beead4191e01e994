"""Files, folders and state dicts that hold checkpoints of another program, and the steps that they are of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headway.checkpoints.files import holds_run
from headway.models.arguments import checked_int
from headway.models.file_names import SUFFIXES, NamedStep, in_order_of_numbers, step_in_name
from headway.models.weight_files import NoWeightsError, Source, read_source, sources_in
from headway.options import shown

# From the surest to the least sure.
_UNITS = ("step", "epoch", "checkpoint", "number")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint that is imported: its tensors, its step, and the unit of that; "" if nothing says the step."""

    step: int
    unit: str
    source: Source


def checkpoints_of(source: Any, steps: Sequence[int] | None, key: str | None) -> tuple[list[Checkpoint], list[str]]:
    """Return the checkpoints of files or state dicts in the order of their steps, and the files without weights.

    In a folder there may be files without weights, such as one of losses.

    Raises:
        ValueError: files without weights, two checkpoints of one step, or another number of steps than checkpoints.
    """
    read, without = _read(source, key)
    check_count(steps, len(read))
    found: dict[int, Checkpoint] = {}
    for place, (path, each, several) in enumerate(read):
        named = None if steps is not None else surest_step(path, each, several)
        if steps is not None:
            step = steps[place]
        elif named is not None:
            step = named.step
        elif several > 1:
            step = place
        elif len(read) > 1:
            raise ValueError(f"step: the name of {path} has none; give --step, one for each file")
        else:
            step = 1
        if step < 0:
            raise ValueError(f"step: {step} is not valid; it must be 0 or more")
        if step in found:
            raise ValueError(f"step: {found[step].source.name} and {each.name} are both of step {step}; give --step")
        found[step] = Checkpoint(step, "" if named is None else named.unit, each)
    return [found[step] for step in sorted(found)], without


def _read(source: Any, key: str | None) -> tuple[list[tuple[Path | None, Source, int]], list[str]]:
    """Return checkpoints, each with its file and the number of those in it, and the files of folders without any."""
    if isinstance(source, Mapping) or (
        isinstance(source, list | tuple) and not all(isinstance(each, str | Path) for each in source)
    ):
        inside = sources_in(source, "source", key)
        return [(None, each, len(inside)) for each in inside], []
    found: list[tuple[Path | None, Source, int]] = []
    without: dict[str, NoWeightsError] = {}
    for path, in_folder in weight_files([source] if isinstance(source, str | Path) else list(source)):
        try:
            inside = read_source(path, key)
        except NoWeightsError as error:
            if not in_folder:
                raise
            without[path.name] = error
            continue
        found += [(path, each, len(inside)) for each in inside]
    if not found:
        raise next(iter(without.values()))
    return found, list(without)


def surest_step(path: Path | None, source: Source, several: int) -> NamedStep | None:
    """Return the step of a checkpoint that its file or the name of that says.

    Raises:
        ValueError: they say different ones.
    """
    inside, named = source.step, None if path is None or several > 1 else step_of(path)
    said = [each for each in (inside, named) if each is not None]
    if len({each.step for each in said if each.unit == "step"}) > 1:
        steps = " and ".join(str(each.step) for each in said)
        raise ValueError(f"step: {source.name} and its name say different ones ({steps}); give --step")
    return min(said, key=lambda each: _UNITS.index(each.unit), default=None)


def assumed_steps(found: Sequence[Checkpoint]) -> str:
    """Say which steps are assumed; nothing where files or names say them."""
    units = {each.unit for each in found}
    steps = ", ".join(str(each.step) for each in found)
    if "" in units:
        return steps
    if units - {"step"}:
        return f"the {'epochs' if units == {'epoch'} else 'numbers in names'} {steps}"
    return ""


def check_count(steps: Sequence[int] | None, count: int) -> None:
    """Refuse another number of steps than of checkpoints."""
    if steps is not None and len(steps) != count:
        raise ValueError(f"step: {len(steps)} are given for {count} checkpoints; give one for each")


def checked_steps(steps: Any) -> list[int]:
    """Return the steps that a caller gives; refuse what is no list of whole numbers."""
    if isinstance(steps, str) or not isinstance(steps, Sequence | np.ndarray):
        raise ValueError(f"steps: {shown(steps)} is not valid; it must be a list of steps, one for each checkpoint")
    return [checked_int("steps", step, 0) for step in steps]


def weight_files(sources: Sequence[str | Path]) -> list[tuple[Path, bool]]:
    """Return files, and in place of a folder those in it or in its folders; each with whether it is of a folder.

    Raises:
        ValueError: a folder without files of weights, or that is a run.
    """
    if not sources:
        raise ValueError("file: is missing; give a file of weights")
    files: list[tuple[Path, bool]] = []
    for each in sources:
        path = Path(each).expanduser()
        if not path.is_dir():
            files.append((path, False))
            continue
        if holds_run(path):
            raise ValueError(f"file: {path} is a run already; every command takes it as it is")
        inside = _files_in(path) or [file for folder in in_order(path) if folder.is_dir() for file in _files_in(folder)]
        if not inside:
            raise ValueError(f"file: {path} holds no file of weights ({', '.join(SUFFIXES)})")
        files += [(file, True) for file in inside]
    return files


def in_order(folder: Path) -> list[Path]:
    """Return the members of a folder, step20 before step100."""
    return sorted(folder.iterdir(), key=lambda path: in_order_of_numbers(path.name))


def _files_in(folder: Path) -> list[Path]:
    return [file for file in in_order(folder) if file.suffix in SUFFIXES and file.is_file()]


def step_of(path: Path) -> NamedStep | None:
    """Return the step in the name of a file, or of the folder in which it lies.

    Example:
        >>> step_of(Path("run_400.pt")), step_of(Path("step7/model.pt"))
        (NamedStep(step=400, unit='number'), NamedStep(step=7, unit='step'))
    """
    folder = step_in_name(path.parent.name)
    if folder and folder.unit == "number" and not path.parent.name.isdecimal():
        folder = None  # a name such as run_3
    said = [each for each in (step_in_name(path.stem), folder) if each is not None]
    return min(said, key=lambda each: _UNITS.index(each.unit), default=None)
