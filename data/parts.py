"""Names of files and folders while they are written, and removal of what processes that were killed have left."""

import glob
import os
import platform
import shutil
from contextlib import suppress
from pathlib import Path


def part_of(path: Path, shared: bool = False) -> Path:
    """Return the name under which this process writes ``path``; a folder that machines share names the machine too.

    Example:
        >>> part_of(Path("runs/config.yaml")).match("runs/.config.yaml.*.part")
        True
    """
    machine = f"{platform.node()}." if shared else ""
    return path.with_name(f".{path.name}.{machine}{os.getpid()}.part")


def remove_parts(folder: Path, shared: bool = False) -> None:
    """Remove what processes that were killed have left half-written; of a shared folder, those of this machine."""
    for part in folder.rglob(f".*.{platform.node()}.*.part" if shared else ".*.part"):
        _remove_if_dead(part)


def remove_parts_of(path: Path) -> None:
    """Remove what processes that were killed while they wrote ``path`` have left."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        _remove_if_dead(part)


def _remove_if_dead(part: Path) -> None:
    process = part.name.split(".")[-2]
    if process.isdigit() and _is_alive(int(process)):
        return
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True
