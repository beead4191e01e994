"""Arguments that several commands take: paths, and the options of a run whose task is the user's."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_trust(parser: "ArgumentParser") -> None:
    """Add --task and --trust, without which a run imports no task, and reads no corpus, that its config names."""
    parser.add_argument("--task", type=str | None, help="the run's task, package.module:Class, if it is not Headway's")
    parser.add_argument(
        "--trust", action="store_true", help="import the task that the run names, and read the corpus that it names"
    )


def checked_directory(option: str, path: str) -> Path:
    """Return the path of a directory as given, like ``checked_path``."""
    return checked_path(option, path, "a directory")


def checked_path(option: str, path: str, kind: str = "a file") -> Path:
    """Return a path as given; a ValueError for what no file system takes: nothing, NUL, a name of 256 bytes."""
    if not path or "\0" in path or any(len(os.fsencode(part)) > 255 for part in path.split("/")):
        from headway.options import shown

        raise ValueError(f"{option}: {shown(path)} is not valid; it must be {kind}")
    return Path(path).expanduser()
