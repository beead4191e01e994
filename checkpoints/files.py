"""Atomic writing of files, reading of netCDF files, and the rule by which a directory is a run."""

import hashlib
import io
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import xarray as xr
import yaml

from headway.data.parts import part_of

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"


# What stands between a netCDF file and its checksum.
SEAL = b"\nsha256 "


class NotWrittenError(OSError):
    """A file could not be written; what was there before is whole."""


def holds_run(path: Path) -> bool:
    """Return whether a directory holds a run: its config.yaml is one of Headway, and environment.json exists."""
    try:
        values = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError):
        return False
    ours = isinstance(values, dict) and {"version", "task", "model"} <= values.keys()
    return ours and (path / ENVIRONMENT).exists()


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file atomically: a temporary file beside it is filled, synced and renamed.

    Raises:
        NotWrittenError: the disk is full, or the file cannot be written for another reason.
        ValueError: a link in place of a folder leads out of the run in which the file lies.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "scores" / "note.txt"
        >>> write_whole(path, "done")
        >>> path.read_text(encoding="utf-8")
        'done'
    """
    _check_links(path)
    # Two processes may write the same file; the last one wins.
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        with part.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise NotWrittenError(error.errno, f"{path} cannot be written ({error.strerror})") from None
    finally:
        with suppress(OSError):
            part.unlink()


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def written_after(path: Path, others: Iterable[Path]) -> bool:
    """Return whether a file exists and is at least as new as others."""
    return path.exists() and all(other.stat().st_mtime_ns <= path.stat().st_mtime_ns for other in others)


def _sync(folder: Path) -> None:
    """Have a renamed file survive a crash of the machine, where the system can."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _check_links(path: Path) -> None:
    """A run from somebody else may hold a link in place of a folder."""
    root = next((each for each in path.parents[:3] if (each / CONFIG).is_file()), None)
    if root is not None and not path.parent.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"run: {path.parent} is a link that leads out of the run; nothing is written there")


def write_tree(path: Path, tree: xr.DataTree) -> None:
    """Write a netCDF file, which ``xarray.open_datatree`` reads, with a checksum behind its end."""
    # HDF5 ends the whole process where a disk is full, so it writes into memory.
    content = io.BytesIO()
    tree.to_netcdf(content, engine="h5netcdf")
    write_whole(path, content.getvalue() + SEAL + _checksum(content.getvalue()))


def read_tree(path: Path) -> xr.DataTree:
    """Load a netCDF file into memory; raise a ValueError that names the file if it is damaged."""
    try:
        # HDF5 may loop forever in a damaged file. Files of older versions have no checksum.
        content, seal, checksum = path.read_bytes().rpartition(SEAL)
        if seal and checksum != _checksum(content):
            raise ValueError("its checksum is another")
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            return tree.load()
    except (OSError, RuntimeError, AttributeError, KeyError, TypeError, ValueError) as error:  # all that HDF5 raises
        raise ValueError(f"study: {path} is damaged ({error}); remove it and run the study again") from None
