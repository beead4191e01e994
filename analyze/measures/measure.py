"""Measure: a function of a network and a batch, with its range and its null."""

import ast
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from headway.analyze.measures.descriptions import BESIDE, LOSS, long_name, loss_units, role
from headway.analyze.measures.scales import PLAIN, Scale

if TYPE_CHECKING:
    from headway.data.task import Batch
    from headway.models.convert import Model

# (model, batch) to scores. The model is a HookedTransformer; ours take a TransformerBridge as well.
Function = Callable[[Any, Any], xr.Dataset | xr.DataArray]

# The null that ``measure`` computes once a run; a measure with another null returns it beside its score.
FRESH = "fresh initialisations"


@dataclass(frozen=True)
class Measure:
    """A function that scores a network on a batch, with the range and the null of its score.

    Args:
        function: ``(model, batch)`` to a DataArray, or to a Dataset in which the score has the function's name; or its
            import path, ``package.module:name``, which is imported when a network is scored.
        range: The values that the score can take.
        units: What it is measured in; empty for a plain number.
        null: What the score is when nothing has formed; FRESH has it computed for each run.
        scale: The scale on which that null has the tails of a gamma distribution.
        live: Whether it is cheap enough to run at every checkpoint of a training run.

    Example:
        >>> Measure("headway.analyze.measures.attention:previous_token").name
        'previous_token'
    """

    function: Function | str
    range: str = ""
    null: str = ""
    units: str = ""
    scale: Scale = PLAIN
    live: bool = True

    @property
    def name(self) -> str:
        """The function's name, which is the score's; of a partial, that of the function with its options."""
        if isinstance(self.function, str):
            return self.function.partition(":")[2]
        return getattr(self.function, "func", self.function).__name__

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        if isinstance(self.function, str):
            module, _, name = self.function.partition(":")
            return _first_lines(module)[name]
        return _first_line(getattr(self.function, "func", self.function).__doc__)

    @property
    def fresh_null(self) -> bool:
        """Whether fresh initialisations are its null."""
        return self.null == FRESH

    def __call__(self, model: "Model", batch: "Batch") -> xr.Dataset:
        """The scores of ``model`` on ``batch``, as a Dataset whose variables say what they are (``described``).

        Raises:
            ValueError: a function that gives no xarray object, or a variable that may be another measure's.
        """
        scores = _imported(self.function)(model, batch)
        if isinstance(scores, xr.DataArray):
            scores = scores.to_dataset(name=self.name)
        if not isinstance(scores, xr.Dataset):
            raise ValueError(
                f"{self.name}: it gave a {type(scores).__name__}; it must give an xarray Dataset or DataArray"
            )
        for variable in scores.data_vars:
            if variable != self.name and not str(variable).startswith(f"{self.name}_"):
                raise ValueError(
                    f"{self.name}: its variable {variable!r} may be another measure's; "
                    f"call it {self.name!r}, or {self.name}_ and more"
                )
        return self.described(scores, batch)

    def described(self, scores: xr.Dataset, batch: "Batch") -> xr.Dataset:
        """Scores of this measure with ``long_name``, ``units``, ``range``, ``null``, ``description``, ``of``, ``role``.

        ``of`` is the measure's name; ``role`` says how a variable stands to the score (``descriptions.role``).
        Attributes that a variable has already stay.
        """
        units = loss_units(batch) if self.units == LOSS else self.units
        scores = scores.copy()
        for name in scores.data_vars:
            standing = role(self.name, str(name))
            words = {"long_name": long_name(str(name)), "of": self.name, "role": standing}
            if standing in BESIDE:
                words["description"] = BESIDE[standing]
            else:
                words |= {"units": units, "range": self.range, "null": self.null}
                words["description"] = self.summary.replace("``", "")
            scores.variables[name].attrs = words | scores.variables[name].attrs
        return scores


@cache
def _imported(function: Function | str) -> Function:
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


@cache
def _first_lines(module: str) -> dict[str, str]:
    """The first docstring line of every function of a module, from its source: importing it would import torch."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    return {node.name: _first_line(ast.get_docstring(node)) for node in body if isinstance(node, ast.FunctionDef)}


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]
