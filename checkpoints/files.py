"""Atomic writing of files, and reading of netCDF files."""

import os
from collections.abc import Callable
from pathlib import Path

import xarray as xr


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write ``path`` atomically: ``write`` fills a temporary file beside it, which is synced and then renamed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "scores" / "note.txt"
        >>> write_whole(path, lambda part: part.write_text("done", encoding="utf-8"))
        >>> path.read_text(encoding="utf-8")
        'done'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may write the same file; the last one wins.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_tree(path: Path) -> xr.DataTree:
    """Load a netCDF file into memory; raise a ValueError that names the file if it is damaged."""
    try:
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            return tree.load()
    except (OSError, RuntimeError, AttributeError, KeyError, TypeError, ValueError) as error:  # all that HDF5 raises
        raise ValueError(f"study: {path} is damaged ({error}); remove it and run the study again") from None
