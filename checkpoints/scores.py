"""The store of scores: one safetensors file for each (step, measure), read back as one xarray.Dataset.

A file that exists is complete, so what is there need not be computed again. Nulls that belong to the whole run and
not to a step stand in ``scores/null``. Nothing here knows what a measure is: names, axes and numbers go in and out.
"""

import json
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
    """Write a Dataset: its variables, the names of their axes, and the attributes."""
    arrays = {str(name): variable.values.copy(order="C") for name, variable in scores.data_vars.items()}
    axes = {str(name): list(map(str, variable.dims)) for name, variable in scores.data_vars.items()}
    metadata = {"axes": json.dumps(axes), "attributes": json.dumps(scores.attrs)}
    write_whole(path, lambda part: safetensors.numpy.save_file(arrays, part, metadata))


def read_file(path: Path) -> xr.Dataset:
    """One file as a Dataset; a ValueError if it is damaged."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata()
            axes = json.loads(metadata["axes"])
            variables = {name: (axes[name], file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        return xr.Dataset(variables, attrs=json.loads(metadata["attributes"]))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"scores: {path} is damaged ({error}); remove it and measure again") from None


def read_scores(run: Path) -> xr.Dataset:
    """All scores of a run: axis ``step`` first, then each score's own; NaN where a step lacks a measure.

    The other axes are numbered from 0, so ``scores.previous_token.sel(step=400, layer=1, head=2)`` works.
    """
    by_measure: dict[str, dict[int, xr.Dataset]] = {}
    for path in sorted(run.glob("scores/step-*/*.safetensors")):
        by_measure.setdefault(path.stem, {})[int(path.parent.name.removeprefix("step-"))] = read_file(path)
    parts = [
        xr.concat(datasets.values(), dim=xr.Variable("step", list(datasets)), join="outer", combine_attrs="drop")
        for datasets in by_measure.values()
    ]
    parts += [read_file(path) for path in sorted(run.glob(f"scores/{NULL}/*.safetensors"))]
    # Numbered before they are merged, so that measures may have axes of one name and several lengths.
    numbered = [
        part.assign_coords({axis: np.arange(size) for axis, size in part.sizes.items() if axis != "step"})
        for part in parts
    ]
    return xr.merge(numbered, join="outer", compat="no_conflicts", combine_attrs="drop")
