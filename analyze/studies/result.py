"""The result of a study: sections of figures and tables, and claims that their numbers support or refute.

A result is data. It names how each figure is drawn and draws nothing: the command prints the tables, the page draws all
figures, and the file holds them for further analysis.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from headway.checkpoints.files import read_tree, write_tree
from headway.checkpoints.scores import WEIGHTS

Kind = Literal["lines", "maps", "scatter", "table"]
Log = Literal["", "x", "y", "xy"]
# The step of a model without checkpoints, on disk: netCDF has no None.
NO_STEP = "none"


@dataclass(frozen=True)
class Figure:
    """A figure or table: named numbers, and how to draw them.

    - ``lines``: each variable is a panel. Its last axis is x; each entry of its other axes is a line.
    - ``maps``: each variable is a row of heatmaps. Its last two axes are rows and columns; each entry of its other axes
      is a heatmap.
    - ``scatter``: each variable is a row of scatter plots. Its last axis has two entries, x and y; the axis before it
      has an entry for each point. Each entry of its other axes is a plot.
    - ``table``: all variables share their first axis, the rows. A variable is a column; one with a second axis has a
      column for each entry of it.

    Args:
        title: The title, unique within the section.
        data: Variables with named axes; ``attrs["long_name"]`` of a variable is shown in place of its name.
        kind: ``lines``, ``maps``, ``scatter`` or ``table``.
        note: One or two sentences on how to read it.
        log: The axes of lines that are logarithmic.

    Raises:
        ValueError: an unknown kind, a variable with too few or too many axes for the kind, a scatter plot whose last
            axis has not two entries, an empty title, or a title with a slash.

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
        """Check the title, the kind and the axes."""
        _check_title(self.title)
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind: {self.kind!r} is not one of {', '.join(get_args(Kind))}")
        if self.log not in get_args(Log):
            raise ValueError(f"log: {self.log!r} is not one of x, y, xy, or nothing")
        least, most = {"lines": (1, None), "maps": (2, None), "scatter": (2, None), "table": (1, 2)}[self.kind]
        for name, values in self.data.data_vars.items():
            if values.ndim < least or (most is not None and values.ndim > most):
                axes = ", ".join(map(str, values.dims)) or "none"
                number = f"{least} or more" if most is None else f"{least} to {most}"
                raise ValueError(f"data: {name} has the axes {axes}; {self.kind} needs {number} axes")
            if self.kind == "scatter" and values.shape[-1] != 2:
                raise ValueError(
                    f"data: the last axis of {name} has {values.shape[-1]} entries; scatter needs two, x and y"
                )
        if self.kind == "table" and len({values.dims[0] for values in self.data.data_vars.values()}) > 1:
            raise ValueError(f"data: the variables of the table {self.title!r} must have the same first axis")


@dataclass(frozen=True)
class Section:
    """Figures that belong together, with a text that explains them."""

    title: str
    text: str
    figures: tuple[Figure, ...]

    def __post_init__(self) -> None:
        """Check that titles are valid and unique."""
        _check_title(self.title)
        titles = [figure.title for figure in self.figures]
        if len(set(titles)) < len(titles):
            raise ValueError(f"figures: two figures of the section {self.title!r} have the same title")


@dataclass(frozen=True)
class Claim:
    """A statement about a network, with the number that decides it.

    Args:
        says: The statement.
        measured: The definition of ``number``, in words.
        number: The measured number; NaN if it does not exist for this network.
        bound: The bound that the number is compared with.
        below: The number must be below the bound, not above it.

    Example:
        >>> Claim("L0 has a previous-token head", "previous_token of L0H3", number=0.9, bound=0.5).holds
        True
    """

    says: str
    measured: str
    number: float
    bound: float
    below: bool = False

    @property
    def holds(self) -> bool:
        """True if the number is on the required side of the bound; False for NaN."""
        return bool(self.number < self.bound if self.below else self.number > self.bound)

    @property
    def needs(self) -> str:
        """The condition on the number, as text.

        Example:
            >>> Claim("", "", 0.0, bound=0.5, below=True).needs
            '< 0.5'
        """
        return f"{'<' if self.below else '>'} {self.bound:.4g}"

    def given(self, *premises: "Claim") -> "Claim":
        """Return the claim if all premises hold, and otherwise the claim without a number: it is not measured.

        A claim that presupposes another ("the keys of the induction head read ...") is neither true nor false without
        it. ``measured`` names the premises.

        Example:
            >>> head = Claim("L0H3 attends to IO", "attention from END to IO", number=0.002, bound=0.5)
            >>> claim = Claim("Its keys read IO", "share of sentences", number=1.0, bound=0.9).given(head)
            >>> claim.holds, claim.number, claim.measured
            (False, nan, 'share of sentences; not measured unless: L0H3 attends to IO')
        """
        number = self.number if all(premise.holds for premise in premises) else np.nan
        named = "; ".join(premise.says for premise in premises)
        return replace(self, number=number, measured=f"{self.measured}; not measured unless: {named}")


Claims = tuple[Claim, ...]


@dataclass(frozen=True)
class StudyResult:
    """The result of a study of one run at one checkpoint, or of one language model.

    Args:
        study: The name of the study, as on the command line.
        run: The directory of the run, or the name of the language model.
        step: The checkpoint; None for a language model.
        sections: The sections, in order.
        claims: The claims.
        weights: The hash of the weights of that checkpoint; None for a language model, and of an older Headway.
    """

    study: str
    run: str
    step: int | None
    sections: tuple[Section, ...]
    claims: Claims
    weights: str | None = None

    def __post_init__(self) -> None:
        """Check that titles of sections are unique, and that none is ``claims``."""
        titles = ["claims", *(section.title for section in self.sections)]
        for title in titles:
            if titles.count(title) > 1:
                raise ValueError(f"sections: {title!r} is a title twice; titles must be unique, and none may be claims")

    def to_tree(self) -> xr.DataTree:
        """Return the result as a tree of xarray Datasets: a node for each section, and below it one for each figure.

        ``tree["claims"]`` has the claims along the axis ``claim``. The attributes of a figure name how to draw it.
        """
        step = NO_STEP if self.step is None else self.step
        weights = {} if self.weights is None else {WEIGHTS: self.weights}
        nodes = {"/": xr.Dataset(attrs={"study": self.study, "run": self.run, "step": step, **weights})}
        for section in self.sections:
            nodes[f"/{section.title}"] = xr.Dataset(attrs={"text": section.text})
            for figure in section.figures:
                drawn = {"kind": figure.kind, "note": figure.note, "log": figure.log}
                nodes[f"/{section.title}/{figure.title}"] = figure.data.assign_attrs(drawn)
        nodes["/claims"] = _dataset_of(self.claims)
        return xr.DataTree.from_dict(nodes)

    @classmethod
    def from_tree(cls, tree: xr.DataTree) -> "StudyResult":
        """Return the result of a tree that ``to_tree`` made."""
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
            tree.attrs.get(WEIGHTS),
        )

    def write(self, path: str | Path) -> None:
        """Write the tree to a netCDF file, which ``xarray.open_datatree`` reads without Headway."""
        write_tree(Path(path), self.to_tree())

    @classmethod
    def read(cls, path: str | Path) -> "StudyResult":
        """Read a file that ``write`` wrote.

        Raises:
            ValueError: a file that is damaged, or cannot be read.
        """
        path = Path(path)
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
    """Return a Dataset whose variables are the columns of a table; ``rows`` is the name of its first axis.

    Example:
        >>> table("part", ["a", "b"], loss=[0.1, 0.2]).loss.sel(part="b").item()
        0.2
    """
    return xr.Dataset({name: (rows, np.asarray(values)) for name, values in columns.items()}, {rows: list(names)})


def by_layer(**columns: xr.DataArray) -> xr.Dataset:
    """Return a table with a row for each layer: scores [layer] are a column, scores [layer, head] a column per head.

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
