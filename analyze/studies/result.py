"""What a study finds: sections of figures and tables, and the claims that their numbers support or refute.

A result is data, and says how each figure is drawn without drawing it: the command prints its tables, the page draws
them all, and the file holds them for whoever wants to go on.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from headway.checkpoints.files import read_tree, write_whole

Kind = Literal["lines", "maps", "table"]
Log = Literal["", "x", "y", "xy"]
# What stands for the step of a model that has none: netCDF has no None.
NO_STEP = "none"


@dataclass(frozen=True)
class Figure:
    """One figure or table: named numbers, and how they are drawn.

    - ``lines``: each variable a panel; its last axis is x, and there is a line for each entry of the axes before it.
    - ``maps``: each variable a row of pictures; its last two axes are rows and columns, and there is a picture for each
      entry of the axes before them.
    - ``table``: the variables have one first axis in common, which is the rows; a variable is a column, one with a
      second axis a column for each entry of it.

    Args:
        title: What it is of; no two figures of a section have the same.
        data: Variables with named axes; ``attrs["long_name"]`` of a variable is what it is called, instead of its name.
        kind: How it is drawn.
        note: How to read it, in a sentence or two.
        log: Which axes of lines are logarithmic.

    Raises:
        ValueError: a kind that does not exist, numbers whose axes it cannot draw, a title that is no name.

    Example:
        >>> Figure("Squares", xr.Dataset({"y": ("x", [0, 1, 4])}), "lines").data.y.dims
        ('x',)
    """

    title: str
    data: xr.Dataset
    kind: Kind
    note: str = ""
    log: Log = ""

    def __post_init__(self) -> None:
        """Refuse what could be neither stored nor drawn."""
        _check_title(self.title)
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind: {self.kind!r} is not one of {', '.join(get_args(Kind))}")
        if self.log not in get_args(Log):
            raise ValueError(f"log: {self.log!r} is not one of x, y, xy, or nothing")
        least, most = {"lines": (1, None), "maps": (2, None), "table": (1, 2)}[self.kind]
        for name, values in self.data.data_vars.items():
            if values.ndim < least or (most is not None and values.ndim > most):
                axes = ", ".join(map(str, values.dims)) or "none"
                raise ValueError(f"data: {name} has the axes {axes}; {self.kind} cannot be drawn of them")
        if self.kind == "table" and len({values.dims[0] for values in self.data.data_vars.values()}) > 1:
            raise ValueError(f"data: the columns of the table {self.title!r} have not the same rows")


@dataclass(frozen=True)
class Section:
    """Figures that belong together, and what they are for."""

    title: str
    text: str
    figures: tuple[Figure, ...]

    def __post_init__(self) -> None:
        """Refuse titles that could not be told apart."""
        _check_title(self.title)
        titles = [figure.title for figure in self.figures]
        if len(set(titles)) < len(titles):
            raise ValueError(f"figures: two of the section {self.title!r} have the same title")


@dataclass(frozen=True)
class Claim:
    """One statement about a network, with the number that decides it.

    Args:
        says: The statement.
        measured: What ``number`` is, in words.
        number: What was found; NaN if it could not be measured.
        bound: What it is held against.
        below: The claim needs a number below the bound, and not above it.

    Example:
        >>> Claim("A head looks at the vector before", "previous_token of L0H3", number=0.9, bound=0.5).holds
        True
    """

    says: str
    measured: str
    number: float
    bound: float
    below: bool = False

    @property
    def holds(self) -> bool:
        """Whether the number is on the right side of the bound; not if there is none."""
        return bool(self.number < self.bound if self.below else self.number > self.bound)

    @property
    def needs(self) -> str:
        """What the number must be.

        Example:
            >>> Claim("", "", 0.0, bound=0.5, below=True).needs
            '< 0.5'
        """
        return f"{'<' if self.below else '>'} {self.bound:.4g}"


Claims = tuple[Claim, ...]


@dataclass(frozen=True)
class StudyResult:
    """A study of one run at one step.

    Args:
        study: The study's name, as on the command line.
        run: The run's directory, or the name of a model that was not trained here.
        step: The step that was looked at; None for such a model, which has none.
        sections: What was looked at, in order.
        claims: What it comes to.
    """

    study: str
    run: str
    step: int | None
    sections: tuple[Section, ...]
    claims: Claims

    def __post_init__(self) -> None:
        """Refuse sections that could not be told apart, or from the claims."""
        titles = ["claims", *(section.title for section in self.sections)]
        for title in titles:
            if titles.count(title) > 1:
                raise ValueError(f"sections: {title!r} is the title of two nodes; each needs its own, and not claims")

    def to_tree(self) -> xr.DataTree:
        """The result as one tree of xarray Datasets: one node for each section, one below it for each figure.

        ``tree["claims"]`` has the claims along the axis ``claim``. How a figure is drawn stands in its attributes.
        """
        step = NO_STEP if self.step is None else self.step
        nodes = {"/": xr.Dataset(attrs={"study": self.study, "run": self.run, "step": step})}
        for section in self.sections:
            nodes[f"/{section.title}"] = xr.Dataset(attrs={"text": section.text})
            for figure in section.figures:
                drawn = {"kind": figure.kind, "note": figure.note, "log": figure.log}
                nodes[f"/{section.title}/{figure.title}"] = figure.data.assign_attrs(drawn)
        nodes["/claims"] = _dataset_of(self.claims)
        return xr.DataTree.from_dict(nodes)

    @classmethod
    def from_tree(cls, tree: xr.DataTree) -> "StudyResult":
        """The result that ``to_tree`` made a tree of."""
        sections = []
        for title, node in tree.children.items():
            if title == "claims":
                continue
            figures = []
            for name, child in node.children.items():
                data = child.to_dataset()
                drawn = {key: data.attrs.pop(key) for key in ("kind", "note", "log")}
                figures.append(Figure(name, data, **drawn))
            sections.append(Section(title, node.attrs["text"], tuple(figures)))
        claims = tree["claims"].to_dataset()
        of_each = zip(*(claims[name].values.tolist() for name in _PARTS), strict=True)
        return cls(
            tree.attrs["study"],
            tree.attrs["run"],
            None if tree.attrs["step"] == NO_STEP else int(tree.attrs["step"]),
            tuple(sections),
            tuple(Claim(**dict(zip(_PARTS, parts, strict=True))) for parts in of_each),
        )

    def write(self, path: Path) -> None:
        """Write the tree as one netCDF file, which ``xarray.open_datatree`` reads without Headway."""
        tree = self.to_tree()
        write_whole(path, lambda part: tree.to_netcdf(part, engine="h5netcdf"))

    @classmethod
    def read(cls, path: Path) -> "StudyResult":
        """What ``write`` wrote; a ValueError if the file is damaged."""
        tree = read_tree(path)
        try:
            return cls.from_tree(tree)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"study: {path} is damaged ({error}); remove it and run the study again") from None


_PARTS = ("says", "measured", "number", "bound", "below")


def _dataset_of(claims: Sequence[Claim]) -> xr.Dataset:
    columns = {name: [getattr(claim, name) for claim in claims] for name in (*_PARTS, "holds")}
    return xr.Dataset({name: (("claim",), np.array(column)) for name, column in columns.items()})


def table(rows: str, names: Iterable[Any], **columns: Any) -> xr.Dataset:
    """A Dataset whose variables are the columns of a table; ``rows`` is what the axis is called.

    Example:
        >>> table("part", ["a", "b"], loss=[0.1, 0.2]).loss.sel(part="b").item()
        0.2
    """
    return xr.Dataset({name: (rows, np.asarray(values)) for name, values in columns.items()}, {rows: list(names)})


def by_layer(**columns: xr.DataArray) -> xr.Dataset:
    """A table with a row for each layer: of scores [layer] a column each, of scores [layer, head] one for each head.

    Example:
        >>> by_layer(score=xr.DataArray([[0.1, 0.2]], dims=("layer", "head"))).score.sel(layer="L0", head="H1").item()
        0.2
    """
    numbers = xr.Dataset({name: values.drop_vars(values.coords) for name, values in columns.items()})
    letters = {axis: f"{axis[0].upper()}" for axis in ("layer", "head") if axis in numbers.sizes}
    labels = {axis: [f"{letter}{i}" for i in range(numbers.sizes[axis])] for axis, letter in letters.items()}
    return numbers.assign_coords(labels)


def _check_title(title: str) -> None:
    if title in ("", ".", "..") or "/" in title:
        raise ValueError(f"title: {title!r} is not valid; it must be a name without a slash")
