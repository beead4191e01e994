"""The store of scores: one safetensors file for each (step, measure), read back as one xarray.Dataset.

A file that exists is complete, so what is there need not be computed again. What belongs to the whole run and not to a
step (the moments of a null) stands in ``scores/null``, one file each. Nothing here knows what a measure is: names, axes
and numbers go in and out.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import xarray as xr

from headway.checkpoints.files import write_whole

NULL = "null"


def score_file(run: Path, step: int | None, name: str) -> Path:
    """Where the scores of measure ``name`` at ``step`` are kept; ``step`` None for the null of the whole run."""
    folder = NULL if step is None else f"step-{step:08d}"
    return run / "scores" / folder / f"{name}.safetensors"


def write_scores(path: Path, scores: xr.Dataset) -> None:
    """Write a Dataset: its variables with their axes and attributes, and the labels along axes that have some."""
    arrays = {str(name): variable.values.copy(order="C") for name, variable in scores.data_vars.items()}
    described = {
        "axes": {name: list(map(str, scores[name].dims)) for name in arrays},
        "attributes": {name: scores[name].attrs for name in arrays},
        "labels": {str(axis): scores[axis].values.tolist() for axis in scores.dims if axis in scores.coords},
    }
    metadata = {key: json.dumps(value) for key, value in described.items()}
    write_whole(path, lambda part: safetensors.numpy.save_file(arrays, part, metadata))


def read_file(path: Path) -> xr.Dataset:
    """One file as a Dataset; a ValueError if it is damaged."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            axes, attributes, labels = (json.loads(file.metadata()[key]) for key in ("axes", "attributes", "labels"))
            variables = {
                name: (axes[name], file.get_tensor(name), attributes[name])
                for name in file.keys()  # noqa: SIM118
            }
        return xr.Dataset(variables, coords=labels)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
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

    An axis without labels is numbered from 0, so ``scores.previous_token.sel(step=400, layer=1, head=2)`` works.
    """
    return joined({key: read_file(path) for key, path in score_files(run).items()})


def joined(scores: Mapping[tuple[int, str], xr.Dataset]) -> xr.Dataset:
    """What has been read of single files, by step and measure, as one Dataset; axes as in ``read_scores``."""
    by_measure: dict[str, dict[int, xr.Dataset]] = {}
    for (step, measure), values in scores.items():
        by_measure.setdefault(measure, {})[step] = values
    parts = [
        xr.concat(datasets.values(), dim=xr.Variable("step", list(datasets)), join="outer", combine_attrs="override")
        for datasets in by_measure.values()
    ]
    # Numbered before they are merged, so that measures may have axes of one name and several lengths.
    numbered = [
        part.assign_coords({axis: np.arange(size) for axis, size in part.sizes.items() if axis not in part.coords})
        for part in parts
    ]
    return xr.merge(numbered, join="outer", compat="no_conflicts", combine_attrs="override")
