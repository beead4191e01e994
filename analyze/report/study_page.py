"""Studies for a page: figures and claims as data for its scripts; large figures are made smaller and say so."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import einops
import numpy as np
import xarray as xr

from headway.analyze.report.packed import Packed
from headway.analyze.studies.result import Claims, Figure, Section, StudyResult

# The most bytes that the numbers of one study take, before they are deflated.
MOST = 1_000_000
# After so many times one line and one picture of 8 by 8 are left of each variable.
MOST_TIMES = 12


class Limits(NamedTuple):
    """The most that is shown of each figure.

    Args:
        side: Rows, and columns, of a picture.
        points: Points of a line.
        entries: Lines of a panel, pictures of a variable.
        rows: Rows of a table.
        columns: Columns that a variable with a second axis has in a table.
    """

    side: int = 128
    points: int = 1024
    entries: int = 256
    rows: int = 200
    columns: int = 40

    def tighter(self, times: int) -> "Limits":
        """Half of the sides and points each time, and after two times of what makes up a figure too.

        Example:
            >>> Limits().tighter(3)[:3]
            (16, 128, 128)
        """
        whole = max(0, times - 2)
        entries, rows, columns = (max(1, most >> whole) for most in self[2:])
        return Limits(max(8, self.side >> times), max(16, self.points >> times), entries, rows, columns)


def study_data(study: StudyResult, packed: Packed) -> dict[str, Any]:
    """The data of a study for the page's scripts; its numbers are added to ``packed``.

    Figures are made smaller together until all of them fit into ``MOST`` bytes: pictures and lines by means over
    blocks, tables and lists of pictures by their first entries. Each figure says what is left out.
    """
    sections, times = _fitted_sections(study, Limits()), 0
    while sum(figure.size for figures in sections for figure in figures) > MOST and times < MOST_TIMES:
        times += 1
        sections = _fitted_sections(study, Limits().tighter(times))
    return {
        "study": study.study,
        "step": study.step,
        "claims": _claims(study.claims, packed),
        "sections": [
            _section(f"{study.study}/{section.title}", section, figures, packed)
            for section, figures in zip(study.sections, sections, strict=True)
        ],
    }


@dataclass(frozen=True)
class _Axis:
    """An axis as it is shown: its name, and a label for each place."""

    name: str
    labels: list[str]
    # Whether the labels are words: they have no distances.
    words: bool
    numbers: np.ndarray | None


@dataclass(frozen=True)
class _Part:
    """A variable as it is shown: ``values`` [entry, ...] with a name for each entry, and the axes after the first."""

    name: str
    label: str
    entries: list[str]
    # Entries in a row of pictures: the length of the last axis before those of the pictures.
    across: int
    values: np.ndarray
    axes: tuple[_Axis, ...]


@dataclass(frozen=True)
class _Fitted:
    """A figure as it is shown: ``less`` says in words what is left out, ``not_drawn`` what has no numbers."""

    figure: Figure
    parts: list[_Part]
    less: list[str]
    not_drawn: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The bytes that its numbers take."""
        return sum(4 * part.values.size for part in self.parts)


def _fitted_sections(study: StudyResult, limits: Limits) -> list[list[_Fitted]]:
    return [[_fitted(figure, limits) for figure in section.figures] for section in study.sections]


def _fitted(figure: Figure, limits: Limits) -> _Fitted:
    if figure.kind == "table":
        return _fitted_table(figure, limits)
    parts, less, not_drawn = [], [], []
    for name, values in figure.data.data_vars.items():
        if values.dtype.kind not in "fiub":
            not_drawn.append(_label(name, values))
            continue
        part, shortened = _fitted_part(str(name), values, figure.kind, limits)
        parts.append(part)
        less += shortened
    return _Fitted(figure, parts, list(dict.fromkeys(less)), not_drawn)


def _fitted_part(name: str, values: xr.DataArray, kind: str, limits: Limits) -> tuple[_Part, list[str]]:
    inner, most, what = {
        "lines": (1, limits.points, "lines"),
        "maps": (2, limits.side, "pictures"),
        "scatter": (2, limits.points, "plots"),
    }[kind]
    outer, last = values.dims[:-inner], values.dims[-inner:]
    flat = einops.rearrange(_floats(values.values), "... x -> (...) x" if inner == 1 else "... y x -> (...) y x")
    names = entry_names([(str(dim), _labels(values, dim)) for dim in outer])
    across = values.sizes[outer[-1]] if outer else 1
    axes, less = [], []
    if len(flat) > limits.entries:
        less.append(f"the first {limits.entries} of {len(flat)} {what}")
        flat, names = flat[: limits.entries], names[: limits.entries]
    for place, dim in enumerate(last):
        axis, block = _axis(values, dim), -(-values.sizes[dim] // most)
        if block > 1 and kind == "scatter":
            # The mean of points is no point.
            flat, axis = flat[:, ::block], replace(axis, labels=axis.labels[::block])
            less.append(f"one of every {block} points")
        elif block > 1:
            flat, axis = _means_of_blocks(flat, 1 + place, block), _blocks(axis, block)
            less.append(f"means over {block} entries of {axis.name}")
        axes.append(axis)
    return _Part(name, _label(name, values), names, across, flat, tuple(axes)), less


def _fitted_table(figure: Figure, limits: Limits) -> _Fitted:
    """A table has an entry for each column."""
    parts, less = [], []
    for name, values in figure.data.data_vars.items():
        rows = values.sizes[values.dims[0]]
        if rows > limits.rows:
            less.append(f"the first {limits.rows} of {rows} rows")
        label, columns = _label(name, values), [_label(name, values)]
        shown = values[: limits.rows]
        if values.ndim == 2:
            if values.shape[1] > limits.columns:
                less.append(f"the first {limits.columns} of {values.shape[1]} columns of {label}")
            shown = shown[:, : limits.columns]
            columns = entry_names([(str(values.dims[1]), _labels(shown, values.dims[1]))])
            # The title of a single variable stands for all columns.
            columns = columns if len(figure.data.data_vars) == 1 else [f"{label}, {each}" for each in columns]
        cells = shown.values if shown.ndim == 2 else shown.values[:, None]
        parts.append(_Part(str(name), label, columns, 1, cells.T, (_axis(shown, values.dims[0]),)))
    return _Fitted(figure, parts, list(dict.fromkeys(less)))


def entry_names(axes: Sequence[tuple[str, Sequence[Any]]]) -> list[str]:
    """A name for each entry of some axes, the last of which runs fastest; layers with heads become names of heads.

    Example:
        >>> entry_names([("layer", [0, 1]), ("head", [3]), ("part", ["repeats"])])
        ['L0H3, repeats', 'L1H3, repeats']
        >>> entry_names([("from_layer", [0]), ("from_head", [1]), ("batch", [2])])
        ['from L0H1, batch 2']
    """
    parts: list[list[str]] = []
    rest = list(axes)
    while rest:
        dim, labels = rest.pop(0)
        of = dim.removesuffix("layer")
        if dim.endswith("layer") and rest and rest[0][0] == f"{of}head" and not _words(labels, rest[0][1]):
            heads = rest.pop(0)[1]
            parts.append([f"{_spoken(of)}L{_text(layer)}H{_text(head)}" for layer in labels for head in heads])
        else:
            parts.append([_text(each) if _words([each]) else f"{_spoken(dim)} {_text(each)}" for each in labels])
    names = [""]
    for each in parts:
        names = [f"{before}, {name}" if before else name for before in names for name in each]
    return names


def _section(key: str, section: Section, figures: list[_Fitted], packed: Packed) -> dict[str, Any]:
    return {
        "title": section.title,
        "text": section.text,
        "figures": [_figure(f"{key}/{figure.figure.title}", figure, packed) for figure in figures],
    }


def _figure(key: str, fitted: _Fitted, packed: Packed) -> dict[str, Any]:
    figure = fitted.figure
    draw = {"lines": _lines, "maps": _maps, "scatter": _scatter, "table": _table}[figure.kind]
    return {
        "title": figure.title,
        "note": figure.note,
        "kind": figure.kind,
        "log": figure.log,
        "less": fitted.less,
        "notDrawn": fitted.not_drawn,
        **draw(key, fitted.parts, packed),
    }


def _lines(key: str, parts: list[_Part], packed: Packed) -> dict[str, Any]:
    def x(axis: _Axis) -> dict[str, Any]:
        numbers = None if axis.numbers is None else packed.add_exact(axis.numbers)
        return {"name": axis.name, "labels": None if numbers else axis.labels, "numbers": numbers}

    return {"parts": [_drawn(key, part, packed) | {"x": x(part.axes[0])} for part in parts]}


def _maps(key: str, parts: list[_Part], packed: Packed) -> dict[str, Any]:
    def side(axis: _Axis) -> dict[str, Any]:
        return {"name": axis.name, "labels": axis.labels, "words": axis.words}

    return {
        "parts": [
            _drawn(key, part, packed)
            | {"across": part.across, "rows": side(part.axes[0]), "columns": side(part.axes[1])}
            for part in parts
        ]
    }


def _scatter(key: str, parts: list[_Part], packed: Packed) -> dict[str, Any]:
    return {
        "parts": [
            _drawn(key, part, packed)
            | {"points": part.axes[0].name, "labels": part.axes[0].labels, "axes": part.axes[1].labels}
            for part in parts
        ]
    }


def _drawn(key: str, part: _Part, packed: Packed) -> dict[str, Any]:
    """``key`` is the same for the same figure of another run, so that both have the same scale."""
    values = packed.add(part.values)
    return {"key": f"{key}/{part.name}", "label": part.label, "entries": part.entries, "values": values}


def _table(key: str, parts: list[_Part], packed: Packed) -> dict[str, Any]:
    def columns() -> Iterator[dict[str, Any]]:
        for part in parts:
            for label, cells in zip(part.entries, part.values, strict=True):
                if cells.dtype.kind in "fiu":
                    yield {"label": label, "numbers": packed.add_exact(_floats(cells)), "texts": None}
                else:
                    yield {"label": label, "numbers": None, "texts": [_text(cell) for cell in cells.tolist()]}

    rows = parts[0].axes[0] if parts else _Axis("", [], True, None)
    return {"rows": {"name": rows.name, "labels": rows.labels}, "columns": list(columns())}


def _claims(claims: Claims, packed: Packed) -> dict[str, Any]:
    """``holds`` is None for a claim that was not measured."""
    return {
        "says": [claim.says for claim in claims],
        "measured": [claim.measured for claim in claims],
        "numbers": packed.add_exact(_floats([claim.number for claim in claims])),
        "bounds": packed.add_exact(_floats([claim.bound for claim in claims])),
        "needs": [claim.needs for claim in claims],
        "holds": [None if np.isnan(claim.number) else claim.holds for claim in claims],
    }


def _label(name: Hashable, values: xr.DataArray) -> str:
    return str(values.attrs.get("long_name") or _spoken(str(name)))


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _words(*labels: Iterable[Any]) -> bool:
    """Return whether any label is not a number; a bool is a word too."""
    return any(isinstance(each, bool) or not isinstance(each, (int, float)) for row in labels for each in row)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _floats(values: Any) -> np.ndarray:
    """Numbers in float32, as the page holds them; too large ones become infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype("float32")


def _labels(values: xr.DataArray, dim: Hashable) -> list[Any]:
    return values[dim].values.tolist() if dim in values.coords else list(range(values.sizes[dim]))


def _axis(values: xr.DataArray, dim: Hashable) -> _Axis:
    labels = _labels(values, dim)
    words = _words(labels)
    name = values[dim].attrs.get("long_name") if dim in values.coords else None
    return _Axis(
        str(name or _spoken(str(dim))), [_text(each) for each in labels], words, None if words else _floats(labels)
    )


def _blocks(axis: _Axis, block: int) -> _Axis:
    """The axis of means over blocks: each block has the names of its first and last entry, and lies in their middle."""
    firsts, lasts = axis.labels[::block], [axis.labels[block - 1 :: block], axis.labels[-1:]]
    ends = (lasts[0] + lasts[1])[: len(firsts)]
    labels = [first if first == last else f"{first}–{last}" for first, last in zip(firsts, ends, strict=True)]
    numbers = None if axis.numbers is None else _means_of_blocks(axis.numbers, 0, block)
    return _Axis(axis.name, labels, False, numbers)


def _means_of_blocks(values: np.ndarray, axis: int, block: int) -> np.ndarray:
    """Means over every ``block`` entries of an axis (the last block may be shorter), without NaN.

    Example:
        >>> _means_of_blocks(np.array([1.0, 3.0, np.nan, 5.0, np.nan]), 0, 2)
        array([ 2.,  5., nan])
    """
    known, starts = ~np.isnan(values), np.arange(0, values.shape[axis], block)
    with np.errstate(invalid="ignore"):
        total = np.add.reduceat(np.where(known, values, 0), starts, axis)
        return total / np.add.reduceat(known, starts, axis, dtype=values.dtype)
