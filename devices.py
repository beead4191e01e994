"""One run on several devices: a process for each, which take equal parts of every batch (torch's DDP)."""

import multiprocessing
import os
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT

from headway.checkpoints.recipe import Recipe
from headway.models.lightning_module import DivergedError
from headway.processes import (
    STOPPING,
    DiedError,
    SignalledError,
    ending,
    hold_back,
    leave_signals_to_parent,
    let_through,
    start_resource_tracker,
)

# Set by Lightning and torch for the processes of a group, and removed with it.
OF_A_GROUP = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK")


class StopTogether(L.Callback):
    """All processes of a run stop after the same update, also where only one of them was asked to."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Agree on whether to stop."""
        trainer.should_stop = trainer.strategy.reduce_boolean_decision(trainer.should_stop, all=False)


class _Rank(LightningEnvironment):
    """The place of one process in a group that we start ourselves, on this machine."""

    def __init__(self, rank: int, port: int):
        super().__init__()
        self.rank, self.port = rank, port

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return self.port

    def local_rank(self) -> int:
        return self.rank


@contextmanager
def other_ranks(
    recipe: Recipe, last: int, begin: Path | None, callbacks: Sequence[L.Callback], pauses: Collection[int]
) -> Iterator[DDPStrategy | str]:
    """Start the other processes of a run, and give the strategy of this one, which alone writes files.

    Args:
        recipe: The recipe of the run; with one device nothing is started.
        last: The step to which it trains.
        begin: Lightning's checkpoint to begin at.
        callbacks: Those in which all processes take part.
        pauses: The updates after which callbacks act.

    Raises:
        DiedError: another process is gone; this one cannot go on without it.
    """
    count = recipe.trainer.devices
    if count == 1:
        yield "auto"
        return
    port = _free_port()
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_take_part, args=(rank, port, recipe, last, begin, callbacks, pauses), daemon=True)
        for rank in range(1, count)
    ]
    before = {name: os.environ.get(name) for name in OF_A_GROUP}
    # By itself it starts with the first process, and lets signals through that are held back.
    start_resource_tracker()
    try:
        hold_back(STOPPING)
        try:
            for other in others:
                other.start()
        finally:
            let_through(STOPPING)
        yield DDPStrategy(cluster_environment=_Rank(0, port))
    except DivergedError:
        raise
    except (SignalledError, KeyboardInterrupt):
        for other in others:
            if other.pid is not None:
                other.kill()
        raise
    except RuntimeError:
        gone = next((other.exitcode for other in others if other.exitcode), None)
        if gone is None:
            raise
        raise DiedError(f"a process of the run {ending(gone)}") from None
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for other in others:
            if other.pid is None:  # a signal came before it was started
                continue
            other.join(timeout=5)
            if other.is_alive():
                other.kill()
                other.join()


def _take_part(
    rank: int,
    port: int,
    recipe: Recipe,
    last: int,
    begin: Path | None,
    callbacks: Sequence[L.Callback],
    pauses: Collection[int],
) -> None:
    """Train in a process that writes nothing; what goes wrong in it goes wrong in the first one too."""
    leave_signals_to_parent()  # the first process decides when to stop

    from headway.train import threads_of, trainer_of, training_module, without_advice

    module = training_module(recipe)
    module.pauses = pauses
    with threads_of(recipe, module.model), without_advice():
        trainer = trainer_of(recipe, callbacks, last, DDPStrategy(cluster_environment=_Rank(rank, port)))
        try:
            trainer.fit(module, ckpt_path=None if begin is None else str(begin), weights_only=True)
        except Exception:
            os._exit(1)


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]
