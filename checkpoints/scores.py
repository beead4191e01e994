"""The store of scores: one safetensors file for each (step, measure), read back as one xarray.Dataset.

A file that exists is complete, so what is there need not be computed again. What belongs to the whole run and not to a
step (the moments of a null) stands in ``scores/null``, one file each. Nothing here knows what a measure is: names, axes
and numbers go in and out.

To open scores reads what the files say of themselves, and no number. Numbers are read when somebody looks at them, of
the steps that are asked for.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from headway.checkpoints.files import write_whole

NULL = "null"
DESCRIBED = "described"
# The hash of the weights that were scored: an attribute of a Dataset. In a file it is an array and no part of the
# header, because files whose headers are the same are opened together.
WEIGHTS = "weights"
WEIGHTS_ARRAY = "weights_sha256"
# The types of numbers in a safetensors file, as numpy writes them.
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "C64": "<c8", "BOOL": "?", "I64": "<i8", "I32": "<i4", "I16": "<i2",
    "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip
# A file with at most so many bytes of numbers is read whole: less would take as long.
SMALL = 16_384
# Most headers are shorter, so that one read has all of it.
USUAL_HEADER = 8_192
STEP = "step"
# The name of the mask of a part of the task, among the evaluation sequences, begins so.
PART_MASK = "part_"


def score_file(run: Path, step: int | None, name: str) -> Path:
    """Return the path of the scores of measure ``name`` at ``step``; of the null of the run if ``step`` is None."""
    folder = NULL if step is None else f"step-{step:08d}"
    return run / "scores" / folder / f"{name}.safetensors"


def evaluation_file(run: Path) -> Path:
    """Return the path of the sequences on which a run is scored."""
    return run / "scores" / "evaluation.safetensors"


class DamagedError(ValueError):
    """A file of numbers is damaged, for a reason."""

    def __init__(self, path: Path, reason: object):
        super().__init__(f"scores: {path} is damaged ({reason}); remove it and measure again")
        self.path, self.reason = path, reason


def write_scores(path: Path, scores: xr.Dataset, checksum: bool = False) -> None:
    """Write a Dataset: its variables with their axes and attributes, and the labels along axes that have some.

    Of its own attributes ``weights`` is written, the hash of the weights that were scored. A Dataset that was read from
    such a file is written as the same bytes.

    Args:
        path: The file.
        scores: The Dataset.
        checksum: Write a checksum of all of it too, for what is read as a whole.
    """
    write_whole(path, content_of(scores, checksum))


def content_of(scores: xr.Dataset, checksum: bool = False) -> bytes:
    """Return what ``write_scores`` writes."""
    # Variables alone: a DataArray of each takes longer to make than its bytes.
    variables = {str(name): scores.variables[name] for name in sorted(scores.data_vars, key=str)}
    arrays = {name: variable.values.copy(order="C") for name, variable in variables.items()}
    described = {
        "axes": {name: list(map(str, variable.dims)) for name, variable in variables.items()},
        "attributes": {name: variable.attrs for name, variable in variables.items()},
        "labels": {
            axis: scores[axis].values.tolist() for axis in sorted(map(str, scores.dims)) if axis in scores.coords
        },
    }
    if checksum:
        described["sha256"] = _checksum(arrays, *described.values())
    if WEIGHTS in scores.attrs:
        arrays[WEIGHTS_ARRAY] = np.frombuffer(bytes.fromhex(scores.attrs[WEIGHTS]), np.uint8)
    # One entry, because the order of several is another in each process.
    return safetensors.numpy.save(arrays, {DESCRIBED: json.dumps(described)})


def _checksum(arrays: Mapping[str, np.ndarray], axes: Any, attributes: Any, labels: Any) -> str:
    """The checksum of arrays with their types, axes and attributes, and of labels."""
    kinds = {name: (arrays[name].dtype.str, arrays[name].shape) for name in sorted(arrays)}
    found = hashlib.sha256(json.dumps([kinds, axes, attributes, labels], sort_keys=True).encode())
    for name in kinds:
        found.update(arrays[name].tobytes())
    return found.hexdigest()


class Place(NamedTuple):
    """An array in a file: its type, its shape, and its first and last byte behind the header."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class Layout(NamedTuple):
    """The header of a file: where each array lies, its axes and attributes, and the labels along axes."""

    places: dict[str, Place]
    axes: dict[str, list[str]]
    attributes: dict[str, dict[str, Any]]
    labels: dict[str, list]
    checksum: str | None
    weights: Place | None

    @property
    def size(self) -> int:
        """The number of bytes behind the header."""
        places = [*self.places.values(), *([] if self.weights is None else [self.weights])]
        return max((place.end for place in places), default=0)

    def dataset(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        """Arrays with these axes, attributes and labels."""
        variables = {name: (self.axes[name], array, deepcopy(self.attributes[name])) for name, array in arrays.items()}
        return xr.Dataset(variables, coords=self.labels)

    def is_like(self, other: "Layout") -> bool:
        """Return whether both have the same variables over the same axes and labels."""
        if self is other:
            return True
        shapes, others = ({name: place[:2] for name, place in each.places.items()} for each in (self, other))
        return (shapes, self.axes, self.labels) == (others, other.axes, other.labels)


class ScoreFile(NamedTuple):
    """One file of scores that has been opened: ``start`` is its first byte behind the header."""

    path: Path
    state: tuple[int, int]
    start: int
    layout: Layout

    @classmethod
    def open(cls, path: Path) -> "ScoreFile":
        """Read the header of a file.

        Raises:
            ValueError: a damaged file.
        """
        try:
            with path.open("rb", buffering=0) as file:
                head = file.read(USUAL_HEADER)
                length = int.from_bytes(head[:8], "little")
                state = _state(file.fileno())
                if len(head) < 8 or 8 + length > state[1]:
                    raise ValueError("its header is cut off")
                if 8 + length > len(head):
                    head += file.read(8 + length - len(head))
            layout = _layout(head[8 : 8 + length])
            if 8 + length + layout.size != state[1]:
                raise ValueError(f"it has {state[1]} bytes and not {8 + length + layout.size}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedError(path, error) from None
        return cls(path, state, 8 + length, layout)

    def read(self, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Read arrays by name; all of them if none is named.

        Raises:
            ValueError: the file has been changed or removed since it was opened.
        """
        return self._read({name: self.layout.places[name] for name in (self.layout.places if names is None else names)})

    def _read(self, places: Mapping[str, Place]) -> dict[str, np.ndarray]:
        first = min((place.start for place in places.values()), default=0)
        last = max((place.end for place in places.values()), default=0)
        try:
            with self.path.open("rb") as file:
                there = _state(file.fileno()) == self.state
                file.seek(self.start + first)
                content = file.read(last - first)
        except OSError:
            there, content = False, b""
        if not there:
            raise ValueError(f"scores: {self.path} was changed or removed after it was opened; open the scores again")
        return {
            name: np.frombuffer(content, place.dtype, int(np.prod(place.shape)), place.start - first).reshape(
                place.shape
            )
            for name, place in places.items()
        }

    def weights(self) -> str | None:
        """The hash of the weights that were scored; None in a file of an older Headway, or of no network."""
        if self.layout.weights is None:
            return None
        return self._read({WEIGHTS_ARRAY: self.layout.weights})[WEIGHTS_ARRAY].tobytes().hex()

    def dataset(self) -> xr.Dataset:
        """All of it as a Dataset.

        Raises:
            DamagedError: it has a checksum, and not that of what it holds.
        """
        arrays = {name: array.copy() for name, array in self.read().items()}
        axes, attributes, labels, checksum = self.layout[1:5]
        if checksum not in (None, _checksum(arrays, axes, attributes, labels)):
            raise DamagedError(self.path, "its checksum is another")
        weights = self.weights()
        return self.layout.dataset(arrays).assign_attrs({} if weights is None else {WEIGHTS: weights})


def _state(file: int) -> tuple[int, int]:
    """When an open file was changed, and its size."""
    stat = os.fstat(file)
    return stat.st_mtime_ns, stat.st_size


# The files of one measure have the same header at most steps.
@lru_cache(maxsize=512)
def _layout(header: bytes) -> Layout:
    """Read a header; an error of some kind if it is none."""
    parts = json.loads(header)
    described = _described(parts.pop("__metadata__"))
    axes, attributes, labels = (described[name] for name in ("axes", "attributes", "labels"))
    places, weights, end = {}, None, 0
    for name, part in sorted(parts.items(), key=lambda each: each[1]["data_offsets"]):
        place = Place(np.dtype(DTYPES[part["dtype"]]), tuple(part["shape"]), *part["data_offsets"])
        if place.start != end or place.end - end != place.dtype.itemsize * np.prod(place.shape, dtype=int):
            raise ValueError(f"{name} has bytes of another array")
        end = place.end
        if name == WEIGHTS_ARRAY:
            weights = place
            continue
        if len(axes[name]) != len(place.shape) or not isinstance(attributes[name], dict):
            raise ValueError(f"{name} has the axes {axes[name]}")
        places[name] = place
    found = Layout(dict(sorted(places.items())), axes, attributes, labels, described.get("sha256"), weights)
    # It refuses axes and labels of different lengths.
    found.dataset({name: np.broadcast_to(np.zeros((), place.dtype), place.shape) for name, place in places.items()})
    return found


def _described(metadata: dict[str, str]) -> dict[str, Any]:
    """Axes, attributes and labels, and a checksum where there is one; older files have an entry for each."""
    if DESCRIBED in metadata:
        return json.loads(metadata[DESCRIBED])
    return {name: json.loads(value) for name, value in metadata.items()}


def read_file(path: Path) -> xr.Dataset:
    """One file as a Dataset; a DamagedError if it is damaged."""
    return ScoreFile.open(path).dataset()


def read_circuit(path: Path) -> xr.Dataset:
    """The file of a circuit as a Dataset; a ValueError if it is damaged."""
    try:
        return read_file(path)
    except DamagedError as error:
        raise ValueError(
            f"circuit: {path} is damaged ({error.reason}); remove it and run headway circuit again"
        ) from None


def score_files(run: Path) -> dict[tuple[int, str], Path]:
    """The files of all scores that have been computed, by step and measure, in order."""
    found = {
        (int(path.parent.name.removeprefix("step-")), path.stem): path
        for path in run.glob("scores/step-*/*.safetensors")
    }
    return dict(sorted(found.items()))


def read_scores(run: Path) -> xr.Dataset:
    """All scores of a run: axis ``step`` first, then each score's own; NaN where a step lacks a measure.

    Numbers are read from their files when they are looked at, and of the steps that are asked for: ``.load()`` reads
    them all, and a file that has changed in between is refused by a ValueError.

    An axis without labels is numbered from 0, so ``scores.previous_token.sel(step=500, layer=1, head=2)`` works. Two
    measures share an axis if its labels are the same in both. If they are not, most measures' axis keeps the name, and
    that of another is named after its measure: ``my_measure_token``. So is a variable whose name another measure has.
    Variables have the attributes of their last step. The files of one measure are joined along ``step`` by label.
    """
    return xr.open_dataset(run, engine=_Scores)  # pyright: ignore[reportArgumentType]


class _Scores(BackendEntrypoint):
    """Xarray's way to open a run, which gives each variable a cache."""

    def open_dataset(self, filename_or_obj: Any, *, drop_variables: Any = None) -> xr.Dataset:
        by_measure: dict[str, dict[int, ScoreFile]] = {}
        for (step, measure), path in score_files(Path(filename_or_obj)).items():
            by_measure.setdefault(measure, {})[step] = ScoreFile.open(path)
        steps = sorted({step for files in by_measure.values() for step in files})
        return _merged({measure: over_steps(files, steps) for measure, files in by_measure.items()})


def over_steps(files: Mapping[int, ScoreFile], steps: Sequence[int] | None = None) -> xr.Dataset:
    """The files of one measure along the axis ``step``, at ``steps`` or their own; numbers are read when looked at.

    Numbers in other units than those of the last file, which another version of a measure wrote, are left out.

    Raises:
        ValueError: files whose axes have other lengths and no labels.
    """
    steps = list(files) if steps is None else list(steps)
    files = _in_the_same_units(files)
    layouts = [file.layout for file in files.values()]
    if not all(layout.is_like(layouts[-1]) for layout in layouts):
        return _joined_by_label(files).reindex(step=steps)
    series = _Series(files, steps)
    last = layouts[-1]
    variables = {
        name: xr.Variable(
            [STEP, *last.axes[name]],
            indexing.LazilyIndexedArray(_OverSteps(series, name)),
            deepcopy(last.attributes[name]),
        )
        for name in last.places
    }
    return xr.Dataset(variables, coords={STEP: series.steps, **last.labels})


def _in_the_same_units(files: Mapping[int, ScoreFile]) -> Mapping[int, ScoreFile]:
    """Return the files of a measure whose variables have the units that they have in the last one."""
    last = list(files.values())[-1].layout
    # The files of one measure share few layouts.
    layouts = {id(file.layout): file.layout for file in files.values()}
    alike = {key: _has_units_of(layout, last) for key, layout in layouts.items()}
    return files if all(alike.values()) else {step: file for step, file in files.items() if alike[id(file.layout)]}


def _has_units_of(layout: Layout, other: Layout) -> bool:
    """Return whether no variable of both has other units; some files name two units, of which one fits."""
    for name in layout.places.keys() & other.places.keys():
        first, second = (each.attributes[name].get("units", "") for each in (layout, other))
        if first and second and not set(first.split(", or ")) & set(second.split(", or ")):
            return False
    return True


def _joined_by_label(files: Mapping[int, ScoreFile]) -> xr.Dataset:
    """Files of one measure whose axes have been changed between two checkpoints."""
    try:
        index = xr.Variable(STEP, list(files))
        joined = xr.concat(
            [file.dataset() for file in files.values()], dim=index, join="outer", combine_attrs="override"
        )
        return joined.drop_attrs(deep=False)  # the weights of one step
    except ValueError as error:
        first, *_, last = (file.path for file in files.values())
        raise ValueError(
            f"scores: the axes of {first} and those up to {last} differ ({error}); measure them again"
        ) from None


class _Series:
    """The files of one measure over ``steps``, all with the same header but for attributes."""

    def __init__(self, files: Mapping[int, ScoreFile], steps: list[int]):
        self.steps = steps
        self.layout = next(iter(files.values())).layout
        self._files = [files.get(step) for step in steps]
        self._whole: dict[str, np.ndarray] | None = None
        self.blank = {
            name: _blank(place.dtype) if None in self._files else np.zeros((), place.dtype)
            for name, place in self.layout.places.items()
        }

    def read(self, name: str, at: np.ndarray) -> np.ndarray:
        """The numbers of a variable at some of the steps, by their places."""
        small = self.layout.size <= SMALL
        if self._whole is None and small and len(at) == len(self.steps):
            self._whole = self._stacked(list(self.layout.places), at)
        if self._whole is not None:
            return self._whole[name][at]
        return self._stacked([name], at)[name]

    def _stacked(self, names: list[str], at: np.ndarray) -> dict[str, np.ndarray]:
        found = {name: np.empty((len(at), *self.layout.places[name].shape), self.blank[name].dtype) for name in names}
        for row, place in enumerate(at):
            file = self._files[place]
            arrays = self.blank if file is None else file.read(names)
            for name in names:
                found[name][row] = arrays[name]
        return found


def _blank(dtype: np.dtype) -> np.ndarray:
    """The value that xarray writes where a number of this type is missing."""
    return xr.DataArray(np.zeros(1, dtype), {STEP: [0]}, (STEP,)).reindex({STEP: [1]}).values[0:1].reshape(())


class _OverSteps(BackendArray):
    """A variable of a series of files, which xarray indexes without reading all of it."""

    def __init__(self, series: _Series, name: str):
        self.series, self.name = series, name
        self.dtype = series.blank[name].dtype
        self.shape = (len(series.steps), *series.layout.places[name].shape)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        steps, *others = key
        values = self.series.read(self.name, np.atleast_1d(np.arange(len(self.series.steps))[steps]))
        # One axis after the other, from the last: numpy would pair up the places along two axes.
        for axis, places in reversed(list(enumerate(others, 1))):
            values = values[(slice(None),) * axis + (places,)]
        return values[0] if np.ndim(np.arange(len(self.series.steps))[steps]) == 0 else values


def _merged(parts: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Measures as one Dataset: axes of one name are one if their labels are the same, variables never."""
    labels = {measure: {str(axis): _labels(part, str(axis)) for axis in part.dims} for measure, part in parts.items()}
    # Of those that are as common the first.
    axes = {
        axis: Counter(each[axis] for each in labels.values() if axis in each)
        for each in labels.values()
        for axis in each
    }
    shared = {axis: count.most_common(1)[0][0] for axis, count in axes.items()}
    owners: dict[str, str] = {}
    for measure, part in parts.items():
        for name in map(str, part.data_vars):
            owners[name] = name if name in parts else owners.get(name, measure)
    distinct: list[xr.Dataset] = []
    for measure, part in parts.items():
        own = [axis for axis, of_axis in labels[measure].items() if of_axis != shared[axis]]
        own += [name for name in map(str, part.data_vars) if owners[name] != measure or name in axes]
        numbered = part.assign_coords({axis: list(of_axis) for axis, of_axis in labels[measure].items()})
        distinct.append(numbered.rename({name: f"{measure}_{name}" for name in own}))
    return xr.merge(distinct, join="exact", compat="override", combine_attrs="override")


def _labels(part: xr.Dataset, axis: str) -> tuple[Any, ...]:
    """The labels along an axis; numbers from 0 if it has none."""
    return tuple(part[axis].values.tolist() if axis in part.coords else range(part.sizes[axis]))
