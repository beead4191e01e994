"""The Lightning module of a run: network, loss, optimiser, gradient clipping, and metrics for TensorBoard."""

import math
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from headway.data.task import Batch, Batches, Task, masked_mean
from headway.models.hooked_transformer import HookedTransformer
from headway.models.optim import OptimConfig


class Update(NamedTuple):
    """Metrics of one update; an accelerator may still be computing them."""

    step: int
    loss: Tensor
    grad_norm: Tensor
    lr: float


class DivergedError(RuntimeError):
    """The loss, the gradient or a weight is not finite; weights that are not finite are never saved."""


def diverged(device: torch.device, step: int, loss: Tensor, norm: Tensor, norm_before: Tensor) -> DivergedError:
    """Return the error that ends a run at an update whose loss or gradient norm is not finite.

    An accelerator is looked at every few updates, so that it may have happened before.
    """
    at = "at" if device.type == "cpu" else "by"
    return DivergedError(
        f"diverged {at} step {step}: loss {loss.item():g}, gradient norm {norm.item():g} "
        f"(one step earlier {norm_before.item():g})"
    )


class TrainingModule(L.LightningModule):
    """Train ``model`` on ``task``; batch k of the run is ``task.batch(seed, k, batch_size)``.

    After each backward pass ``loss`` and ``grad_norm`` (the norm before clipping) hold the values of that step.
    """

    def __init__(
        self,
        model: HookedTransformer,
        task: Task,
        optim: OptimConfig,
        steps: int,
        batch_size: int,
        seed: int,
        log_every: int = 10,
        compile: bool = False,
    ):
        super().__init__()
        self.model = model
        self.task = task
        self.optim = optim
        self.steps = steps
        self.batch_size = batch_size
        self.seed = seed
        self.log_every = log_every
        # The compiled object is a function, not a module: it has no weights, and analysis uses the plain model.
        self.forward_pass = torch.compile(model.forward) if compile else model.forward
        self.loss = torch.tensor(math.nan)
        self.grad_norm = torch.tensor(math.nan)
        self.unlogged: list[Update] = []

    def train_dataloader(self) -> Batches:
        """Return the remaining batches: all of them, or those after the step from which a run is resumed."""
        return Batches(self.task, self.seed, self.batch_size, first=self.global_step, last=self.steps)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch by its own method."""
        return batch.to(device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss over the positions where the batch's mask is True.

        Of several processes each takes its rows of the batch, and the mean of what they return is that of the batch.
        """
        processes, counted = self.trainer.world_size, batch.mask.sum()
        if processes == 1:
            loss = masked_mean(self.task.loss(self.forward_pass(batch.inputs), batch), batch.mask)
            self.loss = loss.detach()
            return loss
        batch = batch.some(slice(self.global_rank, None, processes))
        losses = self.task.loss(self.forward_pass(batch.inputs), batch).where(batch.mask, 0)
        loss = losses.sum() * (processes / counted)
        self.loss = self.trainer.strategy.reduce(loss.detach(), reduce_op="mean")
        return loss

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and a schedule that multiplies its learning rate by ``optim.factor`` at each step."""
        # With 16-mixed a fused optimiser unscales the gradients itself, after clipping, and Lightning refuses that.
        optimizer = self.optim.build(self.model.parameters(), fused=self.trainer.precision != "16-mixed")
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.optim.factor(step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Clip the gradient norm, record it, and raise a DivergedError before a step that would ruin the weights."""
        norm_before = self.grad_norm
        bound = math.inf if self.optim.max_grad_norm is None else self.optim.max_grad_norm
        self.grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), bound)
        lr = self.optimizers().param_groups[0]["lr"]  # pyright: ignore
        self.unlogged.append(Update(self.global_step + 1, self.loss, self.grad_norm, lr))
        # Reading a number from an accelerator waits for its computation, so the check runs every log_every steps there.
        if self.device.type != "cpu" and self.global_step % self.log_every:
            return
        # With 16-mixed an infinite gradient is normal: the scaler skips that step and lowers its scale.
        scaled = self.trainer.precision == "16-mixed"
        if not (self.loss.isfinite() and (scaled or self.grad_norm.isfinite())):
            self._log_updates()
            raise diverged(self.device, self.global_step + 1, self.loss, self.grad_norm, norm_before)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the updates since the last time, every ``log_every`` steps."""
        if self.global_step % self.log_every == 0:
            self._log_updates()

    def write_log(self) -> None:
        """Log all updates so far, to disk: a run that goes on from here does not repeat them."""
        self._log_updates()
        if self.logger is not None:
            self.logger.save()

    def on_train_end(self) -> None:
        """Log the last updates."""
        self._log_updates()

    def _log_updates(self) -> None:
        """Log loss, gradient norm and learning rate of each update to TensorBoard."""
        for update in self.unlogged if self.logger is not None else []:
            self.logger.log_metrics(  # pyright: ignore[reportOptionalMemberAccess]
                {
                    "loss/train": update.loss.item(),
                    "optimiser/gradient_norm": update.grad_norm.item(),
                    "optimiser/lr": update.lr,
                },
                step=update.step,
            )
        self.unlogged.clear()
