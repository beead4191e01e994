"""Measure: a function of a network and a batch, with the range and the null of its score."""

import ast
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from headway.analyze.measures.descriptions import BESIDE, EVERY_QUERY, LOSS, long_name, loss_units, role, units_of
from headway.analyze.measures.scales import PLAIN, Scale

if TYPE_CHECKING:
    from headway.data.task import Batch
    from headway.models.convert import Model

# (model, batch) to scores. The model is a HookedTransformer; the measures here also take a TransformerBridge.
Function = Callable[[Any, Any], xr.Dataset | xr.DataArray]

# The null that ``measure`` computes once for a run; a measure with another null returns it together with its score.
FRESH = "fresh initialisations"


@dataclass(frozen=True)
class Measure:
    """A function that scores a network on a batch, with the range and the null of its score.

    Args:
        function: ``(model, batch)`` to a DataArray, or to a Dataset in which the score has the function's name; or its
            import path, ``package.module:name``, which is imported when a network is scored.
        range: Values that the score can take.
        units: Units of the score; empty for a plain number.
        null: The score of a network in which nothing has formed; FRESH computes it for each run.
        scale: Scale on which this null has the tails of a gamma distribution.
        live: True if it is cheap enough for every checkpoint during training.

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
        """Name of the function, which is also the name of the score; a partial has the name of its function."""
        if isinstance(self.function, str):
            return self.function.partition(":")[2]
        return getattr(self.function, "func", self.function).__name__

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        if isinstance(self.function, str):
            module, _, name = self.function.partition(":")
            return _first_lines(module)[name]
        return _first_line(getattr(self.function, "func", self.function).__doc__)

    @property
    def fresh_null(self) -> bool:
        """True if the null comes from fresh initialisations."""
        return self.null == FRESH

    def __call__(self, model: "Model", batch: "Batch") -> xr.Dataset:
        """Return the scores of ``model`` on ``batch`` as a Dataset with descriptive attributes (see ``described``).

        Raises:
            ValueError: a function of one's own that fails, or returns no xarray object, or a variable that could belong
                to another measure.
        """
        try:
            scores = _imported(self.function)(model, batch)
        except (ValueError, MemoryError):
            raise
        except Exception as error:
            if isinstance(self.function, str):  # ours
                raise
            said = f"{type(error).__name__}: {error}"
            raise ValueError(f"{self.name}: the function fails on this network and batch ({said})") from error
        if isinstance(scores, xr.DataArray):
            scores = scores.to_dataset(name=self.name)
        if not isinstance(scores, xr.Dataset):
            raise ValueError(
                f"{self.name}: it returned a {type(scores).__name__}; it must return an xarray Dataset or DataArray"
            )
        for variable in scores.data_vars:
            if variable != self.name and not str(variable).startswith(f"{self.name}_"):
                raise ValueError(
                    f"{self.name}: its variable {variable!r} is not valid; "
                    f"it must be {self.name!r} or start with '{self.name}_'"
                )
        return self.described(scores, batch)

    def described(self, scores: xr.Dataset, batch: "Batch") -> xr.Dataset:
        """Add ``long_name``, ``units``, ``range``, ``null``, ``description``, ``of`` and ``role`` to scores.

        ``of`` is the name of the measure; ``role`` is how a variable relates to the score (``descriptions.role``).
        Existing attributes of a variable take precedence.
        """
        units = loss_units(batch) if self.units == LOSS else units_of(self.units, batch)
        scores = scores.copy()
        for name in scores.data_vars:
            kind = role(self.name, str(name))
            attributes = {"long_name": long_name(str(name)), "of": self.name, "role": kind}
            if kind in BESIDE:
                attributes["description"] = BESIDE[kind]
            else:
                attributes |= {"units": units, "range": self.range, "null": self.null}
                attributes["description"] = self.summary.replace("``", "") + _pooled(scores[name].attrs)
            scores.variables[name].attrs = attributes | scores.variables[name].attrs
        return scores


def _pooled(attributes: Mapping[str, Any]) -> str:
    """Return a sentence on the queries that an attention score pools, where its summary does not say them."""
    queries = attributes.get("queries", EVERY_QUERY)
    return "" if queries == EVERY_QUERY else f" It pools {queries}."


@cache
def _imported(function: Function | str) -> Function:
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


@cache
def _first_lines(module: str) -> dict[str, str]:
    """Return the first docstring line of each function of a module, read from its source to avoid importing torch."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    return {node.name: _first_line(ast.get_docstring(node)) for node in body if isinstance(node, ast.FunctionDef)}


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]
