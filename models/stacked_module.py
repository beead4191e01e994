"""The Lightning module of several runs that are trained together: one stack of weights, one optimiser.

The runs differ in their seed alone. Each weight of the stack has an axis for the members in front, and one kernel
computes for all of them what a kernel of a single run computes for one. On an accelerator, which waits for the next
kernel most of the time that it trains a toy, many members take little longer than one.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from headway.data.stacked_batches import StackedBatch, StackedBatches
from headway.data.task import Batch, masked_mean
from headway.models.lightning_module import TrainingModule, Update, diverged


class StackedUpdate(NamedTuple):
    """Metrics of one update of all members; an accelerator may still be computing them."""

    step: int
    losses: Float[Tensor, "member"]
    grad_norms: Float[Tensor, "member"]
    lr: float


class StackedModule(L.LightningModule):
    """Train several members at once; each gets the batches, and to rounding the weights, of a run of its own.

    A member is the training module that its run would have. ``update_members`` gives it the weights and metrics that
    it has reached. One whose loss is not finite, or whose batch is not valid, is left behind, with its error in
    ``ended``; because no operation mixes members, nothing of it reaches the others.

    Args:
        members: Training modules of one recipe with different seeds.
    """

    def __init__(self, members: Sequence[TrainingModule]):
        super().__init__()
        self.members = tuple(members)  # a tuple registers no submodules: their weights are copies
        stack, _ = stack_module_state([member.model for member in members])  # pyright: ignore[reportArgumentType]
        # A ParameterDict sorts a dict; in the order of the model the optimiser's numbers are those of a single run.
        self.stack = nn.ParameterDict([(name_in_stack(name), nn.Parameter(weight)) for name, weight in stack.items()])
        self.names = list(stack)
        self.losses = torch.full((len(members),), math.nan)
        self.grad_norms = torch.full((len(members),), math.nan)
        self.ended: dict[int, Exception] = {}
        self.new: list[StackedUpdate] = []

    @property
    def running(self) -> list[int]:
        """The places of the members that have not ended."""
        return [place for place in range(len(self.members)) if place not in self.ended]

    def on_fit_start(self) -> None:
        """Move the network that computes, and with it the tables that are not weights, to where the stack is."""
        self.members[0].to(self.device)

    def train_dataloader(self) -> StackedBatches:
        """Return the remaining batches, as of ``TrainingModule``."""
        first, seeds = self.members[0], [member.seed for member in self.members]
        return StackedBatches(first.task, seeds, first.batch_size, first=self.global_step, last=first.steps)

    def transfer_batch_to_device(self, batch: StackedBatch, device: torch.device, dataloader_idx: int) -> StackedBatch:
        """Move a batch by its own method."""
        return batch.to(device)

    def losses_of(self, batch: StackedBatch) -> Float[Tensor, "member"]:
        """Return the mean loss of each member over the positions where its mask is True."""
        first = self.members[0]
        # A causal query that is not padding never sees any, because padding comes last.
        hides = first.model.cfg.attention_dir != "causal"
        padding = {} if batch.attention_mask is None or not hides else {"attention_mask": batch.attention_mask}

        def loss(
            weights: dict[str, Tensor], inputs: Tensor, targets: Tensor, mask: Tensor, info: Any, padding: Any
        ) -> Tensor:
            output = functional_call(first.model, weights, (inputs,), padding)
            own = Batch(inputs, targets, mask, info, first.task, **padding)
            return masked_mean(first.task.loss(output, own), mask)

        weights = dict(zip(self.names, self.stack.values(), strict=True))
        return vmap(loss)(weights, batch.inputs, batch.targets, batch.mask, dict(batch.info), padding)

    def training_step(self, batch: StackedBatch, batch_idx: int) -> Tensor:
        """Return the sum of the members' losses, whose gradient is for each member that of its own loss."""
        for place in batch.refused.keys() & self.running:
            self.end(place, batch.refused[place])
        losses = self.losses_of(batch)
        self.losses = losses.detach()
        return losses.sum()

    def configure_optimizers(self) -> Any:
        """Return one optimiser of the stack, and its schedule; it treats each number by itself, as in a single run."""
        optim, steps = self.members[0].optim, self.members[0].steps
        groups = optim.parameter_groups(zip(self.names, self.stack.values(), strict=True))
        optimizer = optim.build(groups, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: optim.factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Clip the gradient norm of each member, record it, and leave those behind that have diverged."""
        before = self.grad_norms
        gradients = [weight.grad for weight in self.stack.values() if weight.grad is not None]
        self.grad_norms = clip_each(gradients, self.members[0].optim.max_grad_norm)
        lr = self.members[0].optim.lr * self.members[0].optim.factor(self.global_step, self.members[0].steps)
        self.new.append(StackedUpdate(self.global_step + 1, self.losses, self.grad_norms, lr))
        # Reading a number from an accelerator waits for its computation.
        if self.device.type != "cpu" and self.global_step % self.members[0].log_every:
            return
        finite = (self.losses.isfinite() & self.grad_norms.isfinite()).tolist()
        for place in self.running:
            if not finite[place]:
                metrics = (self.losses[place], self.grad_norms[place], before[place])
                self.end(place, diverged(self.device, self.global_step + 1, *metrics))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the number of updates from ``global_step``, because Lightning may count those of a single run apart."""
        counts = checkpoint["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
        done = checkpoint["global_step"]
        counts["optimizer"]["step"]["total"] = {"ready": done, "completed": done}

    def end(self, place: int, error: Exception) -> None:
        """Leave a member behind, with the log of its updates so far; when all are, training ends."""
        self._log_new()
        self.members[place].write_log()
        self.ended[place] = error
        if not self.running:
            self.trainer.should_stop = True

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Hand the updates since the last time to the members, every ``log_every`` steps, and have them log these."""
        if self.global_step % self.members[0].log_every == 0:
            self._log_new()
            for place in self.running:
                self.members[place].on_train_batch_end(outputs, batch, batch_idx)

    def on_train_end(self) -> None:
        """Have the members log the last updates."""
        self._log_new()
        for place in self.running:
            self.members[place].on_train_end()

    @torch.no_grad()
    def update_members(self) -> None:
        """Give each member that has not ended its weights, and all of its updates."""
        self._log_new()
        for place in self.running:
            member = self.members[place].to(self.device)
            for name, weight in member.model.named_parameters():
                weight.copy_(self.stack[name_in_stack(name)][place])

    def _log_new(self) -> None:
        """Add the updates since the last time to those that each member has not logged yet."""
        if not self.new:
            return
        losses = torch.stack([update.losses for update in self.new]).cpu()
        grad_norms = torch.stack([update.grad_norms for update in self.new]).cpu()
        for place in self.running:
            member = self.members[place]
            for row, update in enumerate(self.new):
                metrics = losses[row, place], grad_norms[row, place]
                member.unlogged.append(Update(update.step, *metrics, update.lr))
                member.loss, member.grad_norm = metrics
        self.new.clear()


def name_in_stack(name: str) -> str:
    """Return the name of a weight as a key of a ParameterDict, which takes no dots; ``name_in_model`` goes back.

    Example:
        >>> name_in_stack("blocks.0.attn.W_Q")
        'blocks/0/attn/W_Q'
    """
    return name.replace(".", "/")


def name_in_model(name: str) -> str:
    """Return the name of a weight of a stack as it is in each member.

    Example:
        >>> name_in_model("blocks/0/attn/W_Q")
        'blocks.0.attn.W_Q'
    """
    return name.replace("/", ".")


@torch.no_grad()
def clip_each(gradients: Sequence[Float[Tensor, "member ..."]], bound: float | None) -> Float[Tensor, "member"]:
    """Clip the gradient of each member to the L2 norm ``bound``, and return the norms before.

    For each member this is ``torch.nn.utils.clip_grad_norm_`` of its slices.

    Example:
        >>> gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
        >>> clip_each([gradient], bound=1.0)
        tensor([5.0000, 0.5000])
        >>> gradient
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])
    """
    norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
    norm = torch.linalg.vector_norm(norms, dim=0)
    if bound is not None:
        factor = (bound / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))
    return norm
