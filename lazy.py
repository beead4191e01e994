"""Names that a package exports and imports when they are first used."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def exporter(package: str, exports: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose ``exports`` are names, each with the module that defines it.

    Example:
        >>> exporter("headway.models", {"Head": "headway.models.config"})("Head").__name__
        'Head'
    """

    def __getattr__(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(exports[name]), name)

    return __getattr__
