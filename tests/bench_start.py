"""How long a command takes to start: CPU seconds of its process beside those of ``import torch``.

``make bench ONLY=start`` prints the table.
"""

import contextlib
import io
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench import show

from headway.recipes import RECIPES
from headway.train import train

ROUNDS = 5


def cpu_seconds(arguments: list[str], folder: str) -> float:
    """User and system time of a Python process, and of what it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def start() -> None:
    """Commands on the induction run, 41 checkpoints, each in turn with ``import torch``."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            train(**vars(replace(RECIPES["induction"], steps=500)), out=Path(folder) / "run")
        command = ["-m", "headway"]
        for name, goal, arguments in (
            ("headway report", "1.3", [*command, "report", "run"]),
            ("headway plot RUN loss", "1.3", [*command, "plot", "run", "loss"]),
            ("headway plot RUN heads", "1.3", [*command, "plot", "run", "heads"]),
            ("headway measures", "1", [*command, "measures"]),
            ("headway train induction --help", "1.3", [*command, "train", "induction", "--help"]),
            ("headway study induction --help", "1", [*command, "study", "induction", "--help"]),
            ("headway --version", "-", [*command, "--version"]),
            ("import Run", "1", ["-c", "from headway.checkpoints import Run"]),
            ("import HookedTransformer", "-", ["-c", "from headway import HookedTransformer"]),
        ):
            ours, torchs = [], []
            for index in range(ROUNDS + 1):
                for which, some in ((arguments, ours), (["-c", "import torch"], torchs))[:: 1 if index % 2 else -1]:
                    some.append(cpu_seconds(which, folder))
            # The first round reads files that the others find in memory.
            ratios = [a / b for a, b in zip(ours[1:], torchs[1:], strict=True)]
            show(f"{name} / import torch, CPU seconds", goal, ratios, f"{sorted(torchs[1:])[ROUNDS // 2]:.2f} s")


PARTS = {"start": start}
