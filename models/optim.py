"""Configuration of the optimiser: learning rate, warm-up, decay, and gradient clipping."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

OptimizerName = Literal["AdamW", "Adam", "SGD"]


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its learning-rate schedule.

    Args:
        optimizer: Name of the torch optimiser: AdamW, Adam or SGD.
        lr: Peak learning rate.
        betas: Decay rates of the two running averages of AdamW and Adam.
        momentum: Momentum of SGD.
        weight_decay: Weight decay; decoupled from the gradient with AdamW, added to it with Adam and SGD.
        warmup_steps: Number of steps of linear warm-up to lr.
        decay: Schedule after the warm-up: constant, or cosine or linear decay to 0 at the last step.
        max_grad_norm: Value at which the L2 norm of the gradient is clipped; null for no clipping.

    Raises:
        ValueError: the optimiser or decay is unknown, lr is not finite and above 0, a beta or the momentum is outside
            [0, 1), weight_decay is negative or not finite, warmup_steps is negative, or max_grad_norm is not above 0.
    """

    optimizer: OptimizerName = "AdamW"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.0
    weight_decay: float = 0.01
    warmup_steps: int = 0
    decay: Literal["constant", "cosine", "linear"] = "constant"
    max_grad_norm: float | None = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))  # a list is valid too
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr: {self.lr} is not valid; it must be finite and above 0")
        if self.optimizer not in get_args(OptimizerName):
            raise ValueError(f"optimizer: {self.optimizer!r} is not one of {', '.join(get_args(OptimizerName))}")
        for name, value in (*(("betas", beta) for beta in self.betas), ("momentum", self.momentum)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}: {value} is not valid; it must be at least 0 and below 1")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay: {self.weight_decay} is not valid; it must be finite and 0 or more")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps: {self.warmup_steps} is not valid; it must be 0 or more")
        if self.decay not in ("constant", "cosine", "linear"):
            raise ValueError(f"decay: {self.decay!r} is not one of constant, cosine, linear")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(
                f"max_grad_norm: {self.max_grad_norm} is not valid; it must be above 0, or null for no clipping"
            )

    def build(self, parameters: Iterable[torch.nn.Parameter], fused: bool) -> torch.optim.Optimizer:
        """Return the optimiser of ``parameters``; with ``fused``, one kernel updates all of them."""
        own = {"momentum": self.momentum} if self.optimizer == "SGD" else {"betas": self.betas}
        kind = getattr(torch.optim, self.optimizer)
        return kind(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=fused, **own)

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of lr in update ``step`` (counted from 0) of ``steps``, between 0 and 1.

        Example:
            >>> optim = OptimConfig(warmup_steps=4, decay="linear")
            >>> [optim.factor(step, steps=8) for step in range(8)]
            [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.decay == "constant":
            return 1.0
        done = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        return 1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
