"""Datasets of formation as strict JSON, and back: no NaN, so that any program reads it."""

import json
import math
from collections.abc import Mapping
from typing import Any

import xarray as xr

# What such a file begins with.
FORMAT = "headway formation"


def to_json(groups: Mapping[str, xr.Dataset], differences: xr.Dataset | None = None) -> str:
    """Return groups of runs by name, and their differences, as strict JSON.

    Each variable stands with its axes (``dims``), its attributes (``attrs``) and its numbers (``data``). A number that
    is none is null, and infinity the text "inf" or "-inf".

    Example:
        >>> text = to_json({"many": xr.Dataset({"step": ("run", [1.0, float("nan"), float("inf")])})})
        >>> json.loads(text)["groups"]["many"]["data_vars"]["step"]["data"]
        [1.0, None, 'inf']
        >>> from_json(text)[0]["many"].step.values
        array([ 1., nan, inf])
    """
    plain: dict[str, Any] = {"format": FORMAT, "groups": {name: each.to_dict() for name, each in groups.items()}}
    if differences is not None:
        plain["differences"] = differences.to_dict()
    return json.dumps(_strict(plain), indent=1, allow_nan=False)


def from_json(text: str) -> tuple[dict[str, xr.Dataset], xr.Dataset | None]:
    """Return the groups and differences of ``to_json``.

    Raises:
        ValueError: another text.
    """
    plain = json.loads(text)
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise ValueError("json: it was not written by headway formation")
    groups = {name: xr.Dataset.from_dict(_numbers(each)) for name, each in plain["groups"].items()}
    return groups, xr.Dataset.from_dict(_numbers(plain["differences"])) if "differences" in plain else None


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _strict(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _numbers(dataset: dict[str, Any]) -> dict[str, Any]:
    """Put numbers back in place of null and "inf" in the variables."""
    for variable in dataset["data_vars"].values():
        variable["data"] = _number(variable["data"])
    return dataset


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(each) for each in value]
    return math.nan if value is None else float(value) if value in ("inf", "-inf") else value
