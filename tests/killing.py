"""A task that kills the process which trains it. Its worker imports this module, and so pools few networks too."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import few_networks  # noqa: F401

from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch


@dataclass(frozen=True)
class Killing(RepeatedTokens):
    """Kills its process at one batch, once: where it has left a file it goes on."""

    dies_at: int = 0
    mark: str = ""

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        if index == self.dies_at and seed == 3 and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(seed, index, batch_size)
