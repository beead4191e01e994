"""Atomic writing of files, reading of netCDF files, and the rule by which a directory is a run."""

import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import xarray as xr
import yaml

from headway.data.parts import NotWrittenError, part_of

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
# Of a file that a user has written; a config.yaml has some thousand bytes.
MOST_BYTES, MOST_VALUES = 10_000_000, 100_000


# A run's files lie at most so many folders below it: circuits/nodes/step-00000000.
DEPTH = 4
# What stands between a netCDF file and its checksum.
SEAL = b"\nsha256 "


def holds_run(path: Path) -> bool:
    """Return whether a directory holds a run: config.yaml and environment.json, of which one at least is Headway's.

    One of them alone is enough, so that a run whose other file is damaged stays one, and says what is damaged.
    """
    config, environment = path / CONFIG, path / ENVIRONMENT
    try:
        if not (config.is_file() and environment.is_file()):
            return False
    except OSError:
        return False
    return _has_keys(config, {"version", "task", "model"}) or _has_keys(environment, {"headway", "torch"})


def _has_keys(path: Path, keys: set[str]) -> bool:
    try:
        values = read_yaml(path)  # of which JSON is a kind
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and keys <= values.keys()


def read_small(path: Path) -> bytes:
    """Read a file that a user has written; a ValueError for one that is too large, such as a device without an end."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"is larger than {MOST_BYTES:,} bytes")
    return content


def read_yaml(path: Path) -> Any:
    """Read a YAML file of plain values, each option once; no file can run code or fill the memory.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not YAML, is too large, or has an option twice; the message goes on from the name of the file.
    """
    return deepcopy(_read_yaml(read_small(path)))


@lru_cache(maxsize=16)
def _read_yaml(content: bytes) -> Any:
    """Read the content of a YAML file; a command reads that of a run again and again, and each time takes 20 ms."""
    try:
        values = yaml.load(content.decode(), _PlainValues)
        size = _size(values, {})
    except _TwiceError as error:
        raise ValueError(f": {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ValueError("is not YAML") from None
    if size > MOST_VALUES:
        raise ValueError(f"holds more than {MOST_VALUES:,} values")
    return values


class _TwiceError(Exception):
    """A mapping has the same key twice."""


class _PlainValues(yaml.SafeLoader):
    """PyYAML's loader of plain values, which would take the last of two values of one key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise _TwiceError(f"{key}: it is given twice; give it once")
        return super().construct_mapping(node, deep)


def _size(values: Any, known: dict[int, int]) -> int:
    """Return the number of values, where those that an alias repeats count each time."""
    if not isinstance(values, dict | list):
        return 1
    if id(values) not in known:
        inner = values if isinstance(values, list) else [*values.keys(), *values.values()]
        known[id(values)] = 1 + sum(_size(each, known) for each in inner)
    return known[id(values)]


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
    write_all({path: content})


def write_all(files: Mapping[Path, bytes | str]) -> None:
    """Write files of one folder, each atomically and in this order; a disk is waited for once, and not for each file.

    Raises:
        NotWrittenError: the disk is full, or a file cannot be written for another reason; earlier ones may be there.
        ValueError: a link in place of a folder leads out of the run in which the files lie.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_all({folder / "a": "first", folder / "b": "second"})
        >>> sorted(path.name for path in folder.iterdir())
        ['a', 'b']
    """
    # Two processes may write the same file; the last one wins.
    parts = {path: part_of(path) for path in files}
    path = next(iter(files), Path())
    try:
        with ExitStack() as opened:
            filled: dict[Path, IO[bytes]] = {}
            # Each folder once: to look through its links takes longer than to write a small file.
            for path in {path.parent: path for path in files}.values():
                _check_links(path)
                path.parent.mkdir(parents=True, exist_ok=True)
            for path, content in files.items():
                parts[path].unlink(missing_ok=True)
                filled[path] = opened.enter_context(parts[path].open("xb"))
                filled[path].write(content.encode() if isinstance(content, str) else content)
                filled[path].flush()
            # Side by side: a disk takes little longer for a few than for one, and to start a thread takes time too.
            with ThreadPoolExecutor(4) as threads:
                synced = {path: threads.submit(os.fsync, file.fileno()) for path, file in filled.items()}
            for path, sync in synced.items():  # noqa: B007  # what the error names
                sync.result()
        for path, part in parts.items():
            part.replace(path)
        for folder in {path.parent for path in files}:
            _sync(folder)
    except OSError as error:
        raise NotWrittenError(error.errno, f"{path} cannot be written ({error.strerror})") from None
    finally:
        for part in parts.values():
            with suppress(OSError):
                part.unlink()


def check_replaceable(out: Path, mark: bytes, kind: str, overwrite: bool, within: int | None = None) -> Path:
    """Refuse a path at which a file of ours would replace something else, and return it.

    Args:
        out: The path.
        mark: Bytes that files of ours hold.
        kind: What they are, in words.
        overwrite: Replace any file.
        within: The number of bytes at the beginning of which ``mark`` is one; None for anywhere.

    Raises:
        ValueError: a directory, a device, or a file that is not ours unless ``overwrite``.
    """
    try:
        if out.is_dir():
            raise ValueError(f"out: {out} is a directory; it must be a file")
        if out.exists() and not out.is_file():
            # Such as /dev/full: it has no end, and a renamed file would take its place.
            raise ValueError(f"out: {out} is not a regular file; it must be one, or not exist")
        if out.exists() and not overwrite:
            with out.open("rb") as file:
                if mark not in file.read(-1 if within is None else within):
                    raise ValueError(f"out: {out} is not {kind} of Headway; --overwrite replaces it")
    except OSError as error:
        raise ValueError(f"out: {out} cannot be read ({error.strerror})") from None
    return out


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
    folder, around = path.parent.resolve(), path.parents[:DEPTH]
    # Whether a folder is a run takes as long as to read its config.yaml, and few files lie behind a link.
    if all(folder.is_relative_to(each.resolve()) for each in around):
        return
    # The outermost one: what looks like a run further in may be seen through such a link.
    root = next((each for each in reversed(around) if holds_run(each)), None)
    if root is not None and not folder.is_relative_to(root.resolve()):
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
