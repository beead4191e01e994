"""Callbacks that act at checkpoints, and the one that saves them."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT

from headway.checkpoints.files import write_whole
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
        if trainer.global_step == 0:
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
    """Save the weights at each checkpoint for analysis, and Lightning's checkpoint of the latest for resuming."""

    def at_checkpoint(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """Save the weights, then Lightning's checkpoint.

        In this order no weights are ever missing: a run that dies in between resumes from the checkpoint before, and
        saves these weights again.
        """
        if not all(parameter.isfinite().all() for parameter in module.model.parameters()):
            raise DivergedError(
                f"diverged by step {step}: weights are not finite; the last loss was {module.loss.item():g}, "
                f"the last gradient norm {module.grad_norm.item():g}"
            )
        self.run.keep(step, module.model)
        write_whole(self.run.resume_file, lambda part: trainer.save_checkpoint(part))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the recipe in Lightning's checkpoint, because a run must resume with the same recipe."""
        checkpoint["recipe"] = self.run.config


def read_resume_file(run: Run) -> None:
    """Raise a ValueError if Lightning's checkpoint is damaged, or its recipe differs from the one in config.yaml."""
    try:
        then = torch.load(run.resume_file, map_location="cpu", weights_only=True)["recipe"]
        now = run.config
        changed = [f"{part} was {then[part]}" for part in then if then[part] != now[part]]
    except Exception as error:  # torch raises many kinds
        raise ValueError(f"resume: {run.resume_file} is damaged ({str(error).splitlines()[0]})") from None
    if changed:
        raise ValueError(
            f"resume: a run must resume with the recipe it started with, but config.yaml has changed: "
            f"{', '.join(changed)}; undo the change or train a new run"
        )


def _training_module(module: L.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
