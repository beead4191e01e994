"""Names that a package exports and imports when they are first used."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def exporter(package: str, exports: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose ``exports`` are names, each with the module that defines it.

    A name whose module is ``package.name`` itself is that module.

    Example:
        >>> exporter("headway.models", {"Head": "headway.models.config"})("Head").__name__
        'Head'
        >>> exporter("headway.models", {"config": "headway.models.config"})("config").__name__
        'headway.models.config'
    """

    def __getattr__(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(exports[name])
        return module if module.__name__ == f"{package}.{name}" else getattr(module, name)

    return __getattr__
