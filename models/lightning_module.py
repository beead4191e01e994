"""The Lightning module of a run: network, loss, optimiser, gradient clipping, and metrics for TensorBoard."""

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from headway.data.seeds import generator
from headway.data.task import Batch, Task, masked_mean
from headway.models.hooked_transformer import HookedTransformer
from headway.models.optim import OptimConfig


class Update(NamedTuple):
    """Metrics of one update; an accelerator may still be computing them."""

    step: int
    loss: Tensor
    grad_norm: Tensor
    lr: float


@dataclass(frozen=True)
class Blocks:
    """Updates number ``first`` to ``last - 1``, as ranges of which each ends where so many are done as ``ends`` say.

    The length is ``last``, that of the whole run in updates, because a Trainer that resumes a run continues its count.

    Example:
        >>> list(Blocks(first=1, last=10, ends={5, 8}))
        [range(1, 5), range(5, 8), range(8, 10)]
    """

    first: int
    last: int
    ends: Collection[int]

    def __iter__(self) -> Iterator[range]:
        ends = sorted(end for end in {*self.ends, self.last} if self.first < end <= self.last)
        return map(range, [self.first, *ends], ends)

    def __len__(self) -> int:
        return self.last


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

    Each of Lightning's steps is a block of updates, because Lightning's own work takes a quarter of the time of a small
    network's update. A block ends every ``log_every`` updates, where its metrics are logged, and at each of
    ``pauses``, where callbacks act. ``global_step`` counts updates.

    After each backward pass ``loss`` and ``grad_norm`` (the norm before clipping) hold the values of that update.
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
        self.automatic_optimization = False
        self.model = model
        self.task = task
        self.optim = optim
        self.steps = steps
        self.batch_size = batch_size
        self.seed = seed
        self.log_every = log_every
        self.pauses: Collection[int] = ()
        # The compiled object is a function, not a module: it has no weights, and analysis uses the plain model.
        self.forward_pass = torch.compile(model.forward) if compile else model.forward
        self.loss = torch.tensor(math.nan)
        self.grad_norm = torch.tensor(math.nan)
        self.unlogged: list[Update] = []

    def train_dataloader(self) -> "Blocks":
        """Return the remaining updates: all of them, or those after the step from which a run is resumed."""
        return Blocks(self.global_step, self.steps, {*self.pauses, *range(0, self.steps, self.log_every)})

    def transfer_batch_to_device(self, batch: range, device: torch.device, dataloader_idx: int) -> range:
        """Return a block as it is: it is the numbers of its updates, whose batches are drawn one after another."""
        return batch

    def training_step(self, block: range, batch_idx: int) -> None:
        """Make the updates of a block, or those up to the one in which the run is asked to stop."""
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(schedule, LambdaLR)
        for index in block:
            optimizer.step(partial(self.loss_and_gradient, index, optimizer))
            schedule.step()
            # Of several processes none may leave a block before the others.
            if self.trainer.should_stop and self.trainer.world_size == 1:
                break

    def loss_and_gradient(self, index: int, optimizer: torch.optim.Optimizer | LightningOptimizer) -> Tensor:
        """Return the mean loss over the positions of batch ``index`` where its mask is True, and take its gradient."""
        batch = self.task.training_batch(self.seed, index, self.batch_size).to(self.device)
        with self._seeded_dropout(index):
            return self._loss_and_gradient(batch, optimizer)

    def _loss_and_gradient(self, batch: Batch, optimizer: torch.optim.Optimizer | LightningOptimizer) -> Tensor:
        """Return the mean loss of a batch, and add up its gradient over the parts in which the batch is computed."""
        optimizer.zero_grad()
        processes, parts = self.trainer.world_size, self.optim.accumulate
        if processes * parts == 1:
            loss = masked_mean(self.task.loss(self.forward_pass(batch.inputs, **batch.padding), batch), batch.mask)
            self._take_gradient(loss)
            self.loss = loss.detach()
            return loss
        losses = []
        for part in range(parts):
            loss = self._own_share(batch, part) * processes
            self._take_gradient(loss)
            losses.append(loss.detach())
        own = torch.stack(losses).sum()
        self.loss = own if processes == 1 else self.trainer.strategy.reduce(own, reduce_op="mean")
        return own

    def _take_gradient(self, loss: Tensor) -> None:
        # Lightning casts all that a step computes; gradients have the types of what they are gradients of.
        with torch.autocast(self.device.type, enabled=False):
            if self.trainer.world_size > 1 or self.trainer.precision == "16-mixed":
                self.manual_backward(loss)  # which takes the mean over processes, and scales
            else:
                loss.backward()

    @contextmanager
    def _seeded_dropout(self, index: int) -> Iterator[None]:
        """Have dropout depend only on the seed, the number of the update and the process, so that a run can resume."""
        if not self.model.cfg.has_dropout:
            yield
            return
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            place = index * self.trainer.world_size + self.global_rank
            torch.manual_seed(generator("dropout", self.seed, place).initial_seed())
            yield

    def _own_share(self, batch: Batch, part: int) -> Tensor:
        """Return what the rows of one part of this process's share of a batch add to the batch's mean loss."""
        processes = self.trainer.world_size
        own = batch.at(slice(self.global_rank + processes * part, None, processes * self.optim.accumulate))
        output = self.forward_pass(own.inputs, **own.padding)
        return self.task.loss(output, own).where(own.mask, 0).sum() / batch.mask.sum()

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and a schedule that multiplies its learning rate by ``optim.factor`` at each step."""
        # With 16-mixed a fused optimiser unscales the gradients itself, after clipping, and Lightning refuses that.
        groups = self.optim.parameter_groups(self.model.named_parameters())
        optimizer = self.optim.build(groups, fused=self.trainer.precision != "16-mixed")
        schedule = LambdaLR(optimizer, lambda step: self.optim.factor(step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient norm, record it, and raise a DivergedError before a step that would ruin the weights."""
        norm_before = self.grad_norm
        bound = math.inf if self.optim.max_grad_norm is None else self.optim.max_grad_norm
        # The optimiser has a list of all weights; to look for those of each module takes as long as to clip them.
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.grad_norm = torch.nn.utils.clip_grad_norm_(weights, bound)
        done = self.global_step
        lr = self.optim.lr * self.optim.factor(done, self.steps)
        self.unlogged.append(Update(done + 1, self.loss, self.grad_norm, lr))
        # Reading a number from an accelerator waits for its computation, so the check runs every log_every steps there.
        if self.device.type != "cpu" and done % self.log_every:
            return
        # With 16-mixed an infinite gradient is normal: the scaler skips that step and lowers its scale.
        scaled = self.trainer.precision == "16-mixed"
        if not (self.loss.isfinite() and (scaled or self.grad_norm.isfinite())):
            self._log_updates()
            raise diverged(self.device, done + 1, self.loss, self.grad_norm, norm_before)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the number of updates from ``global_step``, because earlier versions left Lightning count them."""
        done = {"ready": checkpoint["global_step"], "completed": checkpoint["global_step"]}
        counts = checkpoint["loops"]["fit_loop"]
        counts["epoch_loop.manual_optimization.optim_step_progress"] = {"total": done, "current": done}

    def on_train_batch_end(self, outputs: Any, batch: range, batch_idx: int) -> None:
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
