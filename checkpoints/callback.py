"""Callbacks that act at checkpoints, and the one that saves them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities.types import STEP_OUTPUT

from headway.checkpoints.files import write_whole
from headway.checkpoints.resuming import digest
from headway.checkpoints.run import Run
from headway.models.lightning_module import DivergedError, TrainingModule


class AtCheckpoints(L.Callback):
    """Callback that acts at each of ``steps``, and at the step where a run stops early.

    Subclasses implement ``at_checkpoint``.
    """

    def __init__(self, run: Run, steps: list[int]):
        self.run = run
        self.steps = frozenset(steps)

    def at_checkpoint(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """Act after update ``step``."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Act at step 0, before the first update; a resumed run already has this checkpoint."""
        if trainer.global_step == 0 and trainer.ckpt_path is None:
            self.at_checkpoint(trainer, _training_module(pl_module), 0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Act if this step has a checkpoint."""
        if trainer.global_step in self.steps:
            self.at_checkpoint(trainer, _training_module(pl_module), trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Act at the last step of a run that stops early."""
        if trainer.global_step not in self.steps:
            self.at_checkpoint(trainer, _training_module(pl_module), trainer.global_step)


class KeepCheckpoints(AtCheckpoints):
    """Save the weights at each checkpoint for analysis, and Lightning's checkpoint of the latest for resuming.

    Args:
        run: The run.
        steps: Steps of its checkpoints.
        states: Those at which Lightning's checkpoint stays.
    """

    def __init__(self, run: Run, steps: list[int], states: Sequence[int] = ()):
        super().__init__(run, steps)
        self.states = frozenset(states)

    def at_checkpoint(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """Write the log, save the state that stays, the weights, then Lightning's checkpoint of the latest.

        In this order nothing is ever missing: a run that dies in between resumes from the checkpoint before, and writes
        these again; the weights of the last step alone make a run finished. Of several processes the first one writes.
        """
        if not all(parameter.isfinite().all() for parameter in module.model.parameters()):
            raise DivergedError(
                f"diverged by step {step}: weights are not finite; the last loss was {module.loss.item():g}, "
                f"the last gradient norm {module.grad_norm.item():g}"
            )
        if trainer.is_global_zero:
            module.write_log()
        if step in self.states:
            trainer.save_checkpoint(self.run.state_file(step))
        if trainer.is_global_zero:
            self.run.keep(step, module.model)
        trainer.save_checkpoint(self.run.resume_file)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the recipe in Lightning's checkpoint, because a run must resume with the same recipe."""
        checkpoint["recipe"] = self.run.config


class WholeFiles(TorchCheckpointIO):
    """Writes Lightning's checkpoint as a run writes all of its files, and with a digest of what is in it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the checkpoint beside its place, and move it there."""
        content = io.BytesIO()
        torch.save({**checkpoint, "digest": digest(checkpoint)}, content)
        write_whole(Path(path), content.getvalue())


def _training_module(module: L.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
