"""Keeping checkpoints while a network trains."""

import lightning as L
from lightning.pytorch.utilities.types import STEP_OUTPUT

from headway.checkpoints.files import write_whole
from headway.checkpoints.run import Run
from headway.models.lightning_module import DivergedError, TrainingModule


class AtKeptSteps(L.Callback):
    """Does something at each of ``steps``, and at the step where a run is stopped early.

    Subclasses say what, in ``at_kept_step``.
    """

    def __init__(self, run: Run, steps: list[int]):
        self.run = run
        self.steps = frozenset(steps)

    def at_kept_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """What to do after update ``step``."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Step 0 is before the first update; a resumed run has it already."""
        if trainer.global_step == 0:
            self.at_kept_step(trainer, _training_module(pl_module), 0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Count the updates."""
        if trainer.global_step in self.steps:
            self.at_kept_step(trainer, _training_module(pl_module), trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that is stopped early keeps the step it stopped at."""
        if trainer.global_step not in self.steps:
            self.at_kept_step(trainer, _training_module(pl_module), trainer.global_step)


class KeepCheckpoints(AtKeptSteps):
    """Keeps the weights of each kept step for analysis, and Lightning's checkpoint of the last one for going on."""

    def at_kept_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
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


def _training_module(module: L.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
