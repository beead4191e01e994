"""The store of scores: one safetensors file for each (step, measure), read back as one xarray.Dataset.

A file that exists is complete, so what is there need not be computed again. What belongs to the whole run and not to a
step (the moments of a null) stands in ``scores/null``, one file each. Nothing here knows what a measure is: names, axes
and numbers go in and out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
import xarray as xr

from headway.checkpoints.files import write_whole

NULL = "null"
DESCRIBED = "described"


def score_file(run: Path, step: int | None, name: str) -> Path:
    """Return the path of the scores of measure ``name`` at ``step``; of the null of the run if ``step`` is None."""
    folder = NULL if step is None else f"step-{step:08d}"
    return run / "scores" / folder / f"{name}.safetensors"


def write_scores(path: Path, scores: xr.Dataset) -> None:
    """Write a Dataset: its variables with their axes and attributes, and the labels along axes that have some.

    A Dataset that was read from such a file is written as the same bytes.
    """
    arrays = {str(name): scores[name].values.copy(order="C") for name in sorted(map(str, scores.data_vars))}
    described = {
        "axes": {name: list(map(str, scores[name].dims)) for name in arrays},
        "attributes": {name: scores[name].attrs for name in arrays},
        "labels": {
            axis: scores[axis].values.tolist() for axis in sorted(map(str, scores.dims)) if axis in scores.coords
        },
    }
    # One entry, because the order of several is another in each process.
    write_whole(path, safetensors.numpy.save(arrays, {DESCRIBED: json.dumps(described)}))


class ScoreFile(NamedTuple):
    """One file of scores: arrays by name, with the axes and attributes of each, and the labels along axes."""

    arrays: dict[str, np.ndarray]
    axes: dict[str, list[str]]
    attributes: dict[str, dict[str, Any]]
    labels: dict[str, list]

    def dataset(self) -> xr.Dataset:
        """The same as a Dataset."""
        variables = {name: (self.axes[name], array, self.attributes[name]) for name, array in self.arrays.items()}
        return xr.Dataset(variables, coords=self.labels)

    def is_like(self, other: "ScoreFile") -> bool:
        """Return whether both hold the same variables over the same axes and labels."""
        shapes, others = ({name: array.shape for name, array in each.arrays.items()} for each in (self, other))
        return (shapes, self.axes, self.labels) == (others, other.axes, other.labels)


def read_arrays(path: Path) -> ScoreFile:
    """One file; a ValueError if it is damaged."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            axes, attributes, labels = _described(file.metadata())
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
        for name, array in arrays.items():
            if len(axes[name]) != array.ndim or not isinstance(attributes[name], dict):
                raise ValueError(f"{name} has the axes {axes[name]}")
        return ScoreFile(arrays, axes, attributes, labels)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"scores: {path} is damaged ({error}); remove it and measure again") from None


def _described(metadata: dict[str, str]) -> tuple[Any, Any, Any]:
    """Axes, attributes and labels; older files have an entry for each."""
    if DESCRIBED in metadata:
        together = json.loads(metadata[DESCRIBED])
        return together["axes"], together["attributes"], together["labels"]
    return json.loads(metadata["axes"]), json.loads(metadata["attributes"]), json.loads(metadata["labels"])


def read_file(path: Path) -> xr.Dataset:
    """One file as a Dataset; a ValueError if it is damaged."""
    try:
        return read_arrays(path).dataset()
    except (TypeError, ValueError) as error:
        if str(error).startswith("scores: "):
            raise
        raise ValueError(f"scores: {path} is damaged ({error}); remove it and measure again") from None


def score_files(run: Path) -> dict[tuple[int, str], Path]:
    """The files of all scores that have been computed, by step and measure, in order."""
    found = {
        (int(path.parent.name.removeprefix("step-")), path.stem): path
        for path in run.glob("scores/step-*/*.safetensors")
    }
    return dict(sorted(found.items()))


def read_scores(run: Path) -> xr.Dataset:
    """All scores of a run: axis ``step`` first, then each score's own; NaN where a step lacks a measure.

    An axis without labels is numbered from 0, so ``scores.previous_token.sel(step=500, layer=1, head=2)`` works.
    Variables have the attributes of their last step.
    """
    return joined({key: read_arrays(path) for key, path in score_files(run).items()})


def joined(scores: Mapping[tuple[int, str], ScoreFile]) -> xr.Dataset:
    """Files of scores, by step and measure, as one Dataset; axes as in ``read_scores``."""
    by_measure: dict[str, dict[int, ScoreFile]] = {}
    for (step, measure), file in scores.items():
        by_measure.setdefault(measure, {})[step] = file
    # Numbered before they are merged, so that measures may have axes of one name and several lengths.
    numbered = [
        part.assign_coords({axis: np.arange(size) for axis, size in part.sizes.items() if axis not in part.coords})
        for part in map(_over_steps, by_measure.values())
    ]
    return xr.merge(numbered, join="outer", compat="no_conflicts", combine_attrs="override")


def _over_steps(files: Mapping[int, ScoreFile]) -> xr.Dataset:
    """The files of one measure along the axis ``step``."""
    steps, last = list(files), list(files.values())[-1]
    if not all(file.is_like(last) for file in files.values()):
        # Such as a measure whose axes have been changed between two checkpoints.
        index = xr.Variable("step", steps)
        return xr.concat([file.dataset() for file in files.values()], dim=index, join="outer", combine_attrs="override")
    stacked = {
        name: (["step", *last.axes[name]], np.stack([file.arrays[name] for file in files.values()]), attributes)
        for name, attributes in last.attributes.items()
    }
    return xr.Dataset(stacked, coords={"step": steps, **last.labels})
