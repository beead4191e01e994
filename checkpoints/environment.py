"""The environment in which a run was made, as environment.json holds it."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """Versions, commit and hardware: what a number may depend on beside the recipe."""
    packages = ("headway", "torch", "lightning", "transformer_lens", "numpy")
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": sys.argv,
    }


def _commit() -> str | None:
    """The commit of Headway's own code; None where it is no clone, or the machine has no git."""
    command = ["git", "-C", str(Path(__file__).parent.parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:
        return None
