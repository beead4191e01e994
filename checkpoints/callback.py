"""Keeping checkpoints while a network trains."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT

from headway.checkpoints.files import write_whole
from headway.checkpoints.run import Run
from headway.models.lightning_module import DivergedError, TrainingModule


class AtCheckpoints(L.Callback):
    """Does something at each of ``steps``, and at the step where a run is stopped early.

    Subclasses say what, in ``at_checkpoint``.
    """

    def __init__(self, run: Run, steps: list[int]):
        self.run = run
        self.steps = frozenset(steps)

    def at_checkpoint(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """What to do after update ``step``."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Step 0 is before the first update; a resumed run has it already."""
        if trainer.global_step == 0:
            self.at_checkpoint(trainer, _training_module(pl_module), 0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Count the updates."""
        if trainer.global_step in self.steps:
            self.at_checkpoint(trainer, _training_module(pl_module), trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that is stopped early keeps the step it stopped at."""
        if trainer.global_step not in self.steps:
            self.at_checkpoint(trainer, _training_module(pl_module), trainer.global_step)


class KeepCheckpoints(AtCheckpoints):
    """Keeps the weights of each kept step for analysis, and Lightning's checkpoint of the last one for going on."""

    def at_checkpoint(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """Write both. The weights come first: a run that dies in between goes on from the step before, and keeps
        these again, so that no kept step is ever missing.
        """
        if not all(parameter.isfinite().all() for parameter in module.model.parameters()):
            raise DivergedError(
                f"diverged by step {step}: weights are no longer numbers; the last loss was {module.loss.item():g}, "
                f"the last gradient norm {module.grad_norm.item():g}"
            )
        self.run.keep(step, module.model)
        write_whole(self.run.resume_file, lambda part: trainer.save_checkpoint(part))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """A run goes on as it was, so Lightning's checkpoint holds the recipe as well."""
        checkpoint["recipe"] = self.run.recipe.to_dict()


def read_resume_file(run: Run) -> None:
    """A ValueError if Lightning's checkpoint is damaged, or belongs to another recipe than config.yaml now holds."""
    try:
        then = torch.load(run.resume_file, map_location="cpu", weights_only=True)["recipe"]
        now = run.recipe.to_dict()
        changed = [f"{part} was {then[part]}" for part in then if then[part] != now[part]]
    except Exception as error:  # torch raises half a dozen kinds
        raise ValueError(f"resume: {run.resume_file} is damaged ({str(error).splitlines()[0]})") from None
    if changed:
        raise ValueError(f"resume: a run goes on as it was, but config.yaml has been changed: {', '.join(changed)}")


def _training_module(module: L.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
