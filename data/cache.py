"""The user's cache directory, for files that take long to make and can be made again."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """Return the directory that HEADWAY_CACHE names, or else ``headway`` in the user's cache directory."""
    named = os.environ.get("HEADWAY_CACHE")
    return Path(named).expanduser() if named else user_cache_path("headway")
