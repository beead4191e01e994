"""What Lightning trains, alone with a Trainer: where a loss that is no number stops it, and what it says of updates."""

import math
from dataclasses import dataclass, replace

import lightning as L
import pytest
import torch
from toys import TOKENS, Counting

from headway.data.task import Batch
from headway.models.hooked_transformer import HookedTransformer
from headway.models.lightning_module import DivergedError, TrainingModule
from headway.models.optim import OptimConfig


@dataclass(frozen=True)
class NoNumberBelow(Counting):
    """A task whose loss is no number as soon as it is small."""

    below: float = 0.0

    def loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        loss = super().loss(output, batch)
        return torch.where(loss.mean() < self.below, torch.nan, loss)


def module(task: Counting, steps: int = 61, **optim) -> TrainingModule:
    model = HookedTransformer(replace(TOKENS.model, d_vocab=7, d_vocab_out=7))
    return TrainingModule(model, task, OptimConfig(lr=0.01, **optim), steps=steps, batch_size=7, seed=0)


def fit(training: TrainingModule, *callbacks: L.Callback) -> None:
    trainer = L.Trainer(
        accelerator="cpu", max_steps=training.steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(training)


def test_on_a_cpu_a_loss_that_is_no_number_stops_the_run_before_the_step_it_would_ruin():
    """At whatever step: not only at those where an accelerator is looked at."""
    stopped = set()
    for below in (1.9, 1.7, 1.4, 1.1, 0.8):
        training = module(NoNumberBelow(below=below))
        with pytest.raises(DivergedError, match=r"^diverged at step \d+: loss nan, gradient norm ") as error:
            fit(training)
        step = int(str(error.value).split("step ")[1].split(":")[0])
        # The step it would have been.
        assert step == training.trainer.global_step + 1
        assert math.isnan(training.loss)
        assert all(parameter.isfinite().all() for parameter in training.model.parameters())
        stopped.add((step - 1) % training.log_every)
    assert len(stopped) > 2, stopped


@pytest.mark.parametrize("bound", [0.01, 1e9, None])
def test_the_gradient_norm_is_kept_as_it_was_before_clipping(bound: float | None):
    training = module(Counting(), steps=5, max_grad_norm=bound)
    training.log_every = 1  # update in each of Lightning's steps
    norms = []

    class Norms(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            gradient = torch.cat([p.grad.flatten() for p in training.model.parameters() if p.grad is not None])
            norms.append((gradient.norm().item(), training.grad_norm.item()))

    fit(training, Norms())
    assert len(norms) == training.steps
    for clipped, whole in norms:
        assert clipped == pytest.approx(whole if bound is None else min(bound, whole), rel=1e-3)
        assert whole > 0.01


def test_the_updates_are_the_same_in_blocks_of_any_length():
    ends = []
    for log_every in (1, 7, 100):
        training = module(Counting(), steps=17)
        training.log_every, training.pauses = log_every, (5,)
        fit(training)
        assert training.trainer.global_step == 17
        ends.append(torch.cat([parameter.detach().flatten() for parameter in training.model.parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_a_block_ends_at_each_pause():
    training = module(Counting(), steps=17)
    training.pauses = (5, 13)
    done = []

    class Ends(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            done.append(trainer.global_step)

    fit(training, Ends())
    assert done == [5, 10, 13, 17]
