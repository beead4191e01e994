"""Checkpoints of runs that are trained together: each member's callbacks act on its own run, as if it trained alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.loggers import Logger

from headway.checkpoints.callback import AtCheckpoints, WholeFiles
from headway.checkpoints.run import Run
from headway.models.lightning_module import DivergedError
from headway.models.stacked_module import StackedModule, name_in_model, name_in_stack

# What the names of a training module's weights and of a stack's begin with, in Lightning's checkpoint.
MODEL, STACK = "model.", "stack."


class MemberTrainer:
    """Lightning's Trainer as one member of a stack meets it: with a log of its own, and the common step.

    Args:
        stack: The stack, which a Trainer trains.
        logger: The log of the member's run.
    """

    def __init__(self, stack: StackedModule, logger: Logger):
        self.stack, self.logger = stack, logger
        self.is_global_zero = True  # no other process trains the stack

    @property
    def global_step(self) -> int:
        """The number of updates so far."""
        return self.stack.trainer.global_step

    @property
    def ckpt_path(self) -> Any:
        """The checkpoint from which training goes on; None if it began at step 0."""
        return self.stack.trainer.ckpt_path

    def save_checkpoint(self, path: str | Path) -> None:
        """Write Lightning's checkpoint of the member in whose run ``path`` lies; ``MemberFiles`` takes it out."""
        self.stack.trainer.save_checkpoint(path)


class MembersAtCheckpoints(L.Callback):
    """Have the callbacks of each member act at its checkpoints; one that has diverged there is left behind.

    Args:
        steps: Steps of the checkpoints, which are those of all members.
        callbacks: The callbacks of each member.
        loggers: The log of each member's run.
    """

    def __init__(self, steps: Sequence[int], callbacks: Sequence[Sequence[AtCheckpoints]], loggers: Sequence[Logger]):
        self.steps = frozenset(steps)
        self.callbacks = callbacks
        self.loggers = loggers

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give each member its view of the Trainer."""
        stack = _stack(pl_module)
        for member, logger in zip(stack.members, self.loggers, strict=True):
            member.trainer = MemberTrainer(stack, logger)  # pyright: ignore[reportAttributeAccessIssue]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Act at step 0."""
        self._each(_stack(pl_module), "on_train_start")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Act if this step has a checkpoint."""
        if trainer.global_step in self.steps:
            self._each(_stack(pl_module), "on_train_batch_end", outputs, batch, batch_idx)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Act at the last step of runs that stop early."""
        self._each(_stack(pl_module), "on_train_end")

    def _each(self, stack: StackedModule, hook: str, *arguments: Any) -> None:
        """Call a hook of the callbacks of every member that has not ended."""
        stack.update_members()
        for place in stack.running:
            member = stack.members[place]
            try:
                for callback in self.callbacks[place]:
                    getattr(callback, hook)(cast(L.Trainer, member.trainer), member, *arguments)
            except DivergedError as error:
                stack.end(place, error)


class MemberFiles(WholeFiles):
    """Writes and reads Lightning's checkpoint of a stack as those of its members, each of which can go on alone.

    Args:
        runs: The runs of the members.
    """

    def __init__(self, runs: Sequence[Run]):
        super().__init__()
        self.runs = runs

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the part of the member in whose run ``path`` lies."""
        place = next(place for place, run in enumerate(self.runs) if run.path in Path(path).parents)
        own = {**of_member(checkpoint, place), "recipe": self.runs[place].config}
        super().save_checkpoint(own, path, storage_options)

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Return the last checkpoints of all members as one; ``path`` is the file of any of them."""
        load = super().load_checkpoint
        return of_stack([load(run.resume_file, *arguments, **options) for run in self.runs])


def of_member(checkpoint: Mapping[str, Any], place: int) -> dict[str, Any]:
    """Return Lightning's checkpoint of one member of a stack: what a run of its own would have.

    Whatever has no axis for members, such as the number of updates that an optimiser counts, is that of every member.
    """

    def own(value: Any) -> Any:
        # A view would be written with the whole stack behind it.
        return value[place].clone() if torch.is_tensor(value) and value.ndim > 0 else value

    weights = checkpoint["state_dict"].items()
    return {
        **checkpoint,
        "state_dict": {f"{MODEL}{name_in_model(name.removeprefix(STACK))}": own(weight) for name, weight in weights},
        "optimizer_states": [
            {**optimizer, "state": {n: {k: own(v) for k, v in each.items()} for n, each in optimizer["state"].items()}}
            for optimizer in checkpoint["optimizer_states"]
        ],
    }


def of_stack(checkpoints: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the inverse of ``of_member``: checkpoints of runs at one step as that of a stack."""
    first = checkpoints[0]

    def together(values: Sequence[Any]) -> Any:
        return torch.stack(list(values)) if torch.is_tensor(values[0]) and values[0].ndim > 0 else values[0]

    optimizers = []
    for place, optimizer in enumerate(first["optimizer_states"]):
        states = [checkpoint["optimizer_states"][place]["state"] for checkpoint in checkpoints]
        stacked = {n: {k: together([each[n][k] for each in states]) for k in state} for n, state in states[0].items()}
        optimizers.append({**optimizer, "state": stacked})
    return {
        **first,
        "state_dict": {
            f"{STACK}{name_in_stack(name.removeprefix(MODEL))}": together([c["state_dict"][name] for c in checkpoints])
            for name in first["state_dict"]
        },
        "optimizer_states": optimizers,
    }


def _stack(module: L.LightningModule) -> StackedModule:
    assert isinstance(module, StackedModule)
    return module
