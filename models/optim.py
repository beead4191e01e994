"""Configuration of the optimiser: learning rate, warm-up, decay, groups of weights, and gradient clipping."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any, Literal, get_args

import torch

OptimizerName = Literal["AdamW", "Adam", "SGD"]
# Options that a group of weights may have of its own.
OF_GROUP = ("lr", "weight_decay")


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
        groups: Options of some weights, by a pattern of their names in the state dict, such as ``{"*.b_*":
            {weight_decay: 0}}``: lr, its peak, and weight_decay. Of several patterns that match, the first counts.
        accumulate: Number of parts in which a batch is computed, one after another, for one update: less memory, and
            the gradient of the whole batch to rounding.

    Raises:
        ValueError: the optimiser or decay is unknown, lr is not finite and above 0, a beta or the momentum is outside
            [0, 1), weight_decay is negative or not finite, warmup_steps is negative, max_grad_norm is not above 0, a
            group has other options or values, or accumulate is below 1.
    """

    optimizer: OptimizerName = "AdamW"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.0
    weight_decay: float = 0.01
    warmup_steps: int = 0
    decay: Literal["constant", "cosine", "linear"] = "constant"
    max_grad_norm: float | None = 1.0
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    accumulate: int = 1

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

        if self.accumulate < 1:
            raise ValueError(f"accumulate: {self.accumulate} is not valid; it must be 1 or more")
        for pattern, options in self.groups.items():
            _check_group(pattern, options)

    def parameter_groups(self, weights: Iterable[tuple[str, torch.nn.Parameter]]) -> list[dict[str, Any]]:
        """Return weights with their names as the groups of ``groups``, in the form that an optimiser takes.

        Raises:
            ValueError: a pattern that matches no weight.
        """
        named = dict(weights)
        return [
            {"params": [named[name] for name in names], **self.groups.get(pattern, {})}
            for pattern, names in grouped(named, self.groups).items()
        ]

    def build(
        self, parameters: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]], fused: bool
    ) -> torch.optim.Optimizer:
        """Return the optimiser of weights, or of ``parameter_groups``; with ``fused``, one kernel updates a group."""
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


def grouped(names: Iterable[str], patterns: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of weights by the first pattern that matches each; first, under ``""``, those that none matches.

    The optimiser numbers the weights in this order.

    Raises:
        ValueError: a pattern that matches no weight, or none that an earlier pattern leaves.

    Example:
        >>> grouped(["embed.W_E", "blocks.0.attn.W_Q", "blocks.0.attn.b_Q"], ["*.b_*"])
        {'': ['embed.W_E', 'blocks.0.attn.W_Q'], '*.b_*': ['blocks.0.attn.b_Q']}
    """
    patterns = list(patterns)
    found: dict[str, list[str]] = {"": [], **{pattern: [] for pattern in patterns}}
    for name in names:
        found[next((pattern for pattern in patterns if fnmatchcase(name, pattern)), "")].append(name)
    for pattern in patterns:
        if not found[pattern]:
            elsewhere = any(fnmatchcase(name, pattern) for name in chain.from_iterable(found.values()))
            which = "only weights that an earlier pattern matches" if elsewhere else "no weight of this network"
            raise ValueError(f"groups: {pattern!r} matches {which}; it must match some, such as 'embed.W_E'")
    return {pattern: some for pattern, some in found.items() if some}


def _check_group(pattern: str, options: Mapping[str, float]) -> None:
    """Refuse a group with other options than those of ``OF_GROUP``, or with none, or with values that are not valid."""
    if not pattern:
        raise ValueError("groups: '' is not valid; it must be a pattern of names of weights, such as '*.b_*'")
    if not options or not set(options) <= set(OF_GROUP):
        raise ValueError(
            f"groups: {pattern!r} has the options {', '.join(options) or 'none'}; they must be some of lr, weight_decay"
        )
    for name, value in options.items():
        if not (math.isfinite(value) and (value > 0 or (name == "weight_decay" and value == 0))):
            least = "above 0" if name == "lr" else "0 or more"
            raise ValueError(f"groups: {name} {value} of {pattern!r} is not valid; it must be finite and {least}")
