"""Imports by a path that someone wrote: ``package.module:name``. Code that lies inside a run is never imported.

The working directory is on the path of imports from the first such import on, because a task of one's own may stand in
it, and not before: libraries look for optional packages, and would run what lies there under their names.
"""

import importlib
import os
import sys
from importlib.machinery import PathFinder
from operator import attrgetter
from pathlib import Path
from typing import Any

from headway.checkpoints.files import holds_run


def imported(option: str, path: str, form: str) -> Any:
    """Import ``package.module:name``.

    Args:
        option: What the path was given for; errors begin with it.
        path: The import path.
        form: What a valid path is, in words.

    Raises:
        ValueError: nothing can be imported under this path, or its code lies inside a run.

    Example:
        >>> imported("only", "math:sqrt", "package.module:function")(49)
        7.0
    """
    module, _, name = path.partition(":")
    here = os.getcwd()
    run = _run_around(module, here)
    if run is not None:
        raise ValueError(
            f"{option}: {path!r} is code inside the run {run}, which is never imported; "
            "put a copy elsewhere if you trust it"
        )
    if here not in sys.path:
        sys.path.append(here)
    try:
        return attrgetter(name)(importlib.import_module(module))
    except (Exception, SystemExit) as error:  # whatever a module of one's own may raise
        raise ValueError(
            f"{option}: {path!r} cannot be imported ({type(error).__name__}: {error}); it must be {form}"
        ) from None


def is_loaded(path: str) -> bool:
    """Return whether ``package.module:name`` is there already, so that no code runs to get it.

    Example:
        >>> is_loaded("pathlib:Path"), is_loaded("pathlib:Nothing"), is_loaded("this:s")
        (True, False, False)
    """
    module, _, name = path.partition(":")
    try:
        attrgetter(name)(sys.modules[module])
    except (KeyError, AttributeError):
        return False
    return True


def _run_around(module: str, folder: str) -> Path | None:
    """The run in which the code of a module lies, or of a package around it; they are found without running them.

    They are looked for on the path of imports, and then in ``folder``.
    """
    if module in sys.modules:
        return None  # it has run
    places = [*sys.path, folder]
    parts = module.split(".")
    for last in range(1, len(parts) + 1):
        try:
            found = PathFinder.find_spec(".".join(parts[:last]), places)
        except (ImportError, ValueError, AttributeError):
            return None
        if found is None:
            return None
        places = list(found.submodule_search_locations or [])
        for place in [found.origin, *places]:
            here = Path(place).resolve() if place else None
            for folder in [here, *here.parents] if here else []:
                if holds_run(folder):
                    return folder
    return None
