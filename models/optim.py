"""How a network is trained: AdamW, warm-up, what comes after it, and clipping."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its learning rate over time.

    Args:
        lr: Peak learning rate.
        betas: Decay rates of AdamW's two running means.
        weight_decay: AdamW's decoupled weight decay.
        warmup_steps: Steps over which the learning rate rises in a line to lr, and not past it.
        decay: What follows the warm-up: constant, or cosine or linear down to 0 at the last step.
        max_grad_norm: The gradient's L2 norm is clipped at this; null for no clipping.

    Raises:
        ValueError: a learning rate that is not a positive number, a beta outside [0, 1), a negative decay or warm-up.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    warmup_steps: int = 0
    decay: Literal["constant", "cosine", "linear"] = "constant"
    max_grad_norm: float | None = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr: {self.lr} is not valid; a learning rate is a number above 0")
        for beta in self.betas:
            if not 0 <= beta < 1:
                raise ValueError(f"betas: {beta} is not valid; a beta is at least 0 and below 1")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay: {self.weight_decay} is not valid; it is 0 or more")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps: {self.warmup_steps} is not valid; it is 0 or more")
        if self.decay not in ("constant", "cosine", "linear"):
            raise ValueError(f"decay: {self.decay!r} is not one of constant, cosine, linear")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(
                f"max_grad_norm: {self.max_grad_norm} is not valid; it is above 0, or null for no clipping"
            )

    def factor(self, step: int, steps: int) -> float:
        """What lr is multiplied with in update ``step`` (counted from 0) of ``steps``; between 0 and 1.

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
