"""Names of files and folders while they are written, and removal of what processes that were killed have left."""

import glob
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class NotWrittenError(OSError):
    """A file could not be written; what was there before is whole."""


def part_of(path: Path) -> Path:
    """Return the name under which this process writes ``path``.

    Example:
        >>> part_of(Path("runs/config.yaml")).match("runs/.config.yaml.*.part")
        True
    """
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def make_part_folder(folder: Path) -> Path:
    """Make the folder in which one thread writes ``folder``; machines may share where it lies, so it names this one."""
    return Path(tempfile.mkdtemp(f".{os.getpid()}.part", f".{folder.name}.{platform.node()}.", folder.parent))


def remove_parts(folder: Path, inner: Iterable[str] = (), shared: bool = False) -> None:
    """Remove what processes that were killed have left half-written in a folder of ours.

    Args:
        folder: The folder, in which others may have files too: only what a part is called is removed.
        inner: Names of folders in it that are ours, and are searched with everything in them. A name that is a link
            may lead to somebody else's folder, and is left alone.
        shared: Machines share the folder, so what another one has left stays.
    """
    pattern = f".*.{platform.node()}.*.part" if shared else ".*.part"
    ours = [folder / name for name in inner if not (folder / name).is_symlink()]
    for part in [*folder.glob(pattern), *(part for each in ours for part in each.rglob(pattern))]:
        _remove_if_dead(part)


def remove_parts_of(path: Path) -> None:
    """Remove what processes that were killed while they wrote ``path`` have left."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        _remove_if_dead(part)


def _remove_if_dead(part: Path) -> None:
    process = part.name.split(".")[-2]
    # Other programs end the names of their files in .part too.
    if not process.isdecimal() or _is_alive(int(process)):
        return
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to another user
        return True
    return True
