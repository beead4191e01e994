"""The way of training through its checkpoints: whether it goes on, and no further at once than an optimiser allows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from headway.models.optim import OptimConfig

Weights = Mapping[str, np.ndarray]
# The bounds on a way are empirical. In 45 clean runs of six tasks with AdamW, of up to 107 checkpoints, a checkpoint
# was at most 0.98 times as far from one beside it as these are from each other, and a move at most 1.6 times as long as
# those beside it make likely. Two neighbours that are exchanged give a detour of 1.2 to 2.
DETOUR, JUMP = 1.15, 4.0
# The updates of SGD are as long as its gradients, which grow fast where a network learns something at once.
JUMP_OF_SGD = 16.0
# A way no longer than so many updates may swing to and fro, as those of a large learning rate do.
SWINGS = 5
# The relative size of rounding in float32.
ROUNDING = 2.0**-23
KINDS = (
    "damaged", "altered", "label", "repeated", "initial", "way", "update", "missing", "scores", "config", "state",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A fault of a run.

    Args:
        step: The step that it is about; None for the whole run.
        fault: Its kind, one of KINDS.
        text: A sentence about it.
    """

    step: int | None
    fault: str
    text: str

    def __str__(self) -> str:
        return self.text if self.step is None else f"step {self.step}: {self.text}"


@dataclass
class Way:
    """The way of the weights from checkpoint to checkpoint.

    Args:
        optim: The optimiser; None if it is not known.
        last: The number of updates of the whole run.
    """

    optim: "OptimConfig | None"
    last: int
    steps: list[int] = field(default_factory=list)
    moves: list[float] = field(default_factory=list)
    """The distances from each checkpoint to the next."""
    straight: list[float] = field(default_factory=list)
    """The distances from each checkpoint to the next but one."""
    largest: float = 0.0
    """The largest norm that the weights may have had so far."""
    _last: list[Weights] = field(default_factory=list)

    def go_on(self, step: int, weights: Weights) -> list[Finding]:
        """Take the next checkpoint, and return a fault if learning rate and clipping do not allow to come there."""
        self.steps.append(step)
        self._last = [*self._last[-2:], weights]
        if len(self._last) == 1:
            self.largest = norm(weights)
            return []
        self.moves.append(distance(*self._last[-2:]))
        if len(self._last) == 3:
            self.straight.append(distance(self._last[0], weights))
        if self.optim is None:
            return []
        (first, last), (before, after) = self.steps[-2:], self._last[-2:]
        return [*self._not_allowed(self.optim, first, last, before, after)]

    def _not_allowed(
        self, optim: "OptimConfig", first: int, last: int, before: Weights, after: Weights
    ) -> Iterator[Finding]:
        from headway.models.optim import grouped

        rounding = ROUNDING * (last - first + 10)
        if optim.optimizer == "SGD":
            bound = furthest_by_sgd(_fastest(optim), self.last, first, last, self.largest)
            start, moved = norm(before), self.moves[-1]
            self.largest = max(self.largest, start + bound)
            if moved > bound * (1 + 1e-3) + rounding * self.largest:
                yield Finding(
                    last,
                    "update",
                    f"its weights are {moved:.3g} from those of step {first}, where optim allows {bound:.3g}",
                )
            return
        patterns = {name: pattern for pattern, names in grouped(before, optim.groups).items() for name in names}
        bounds = {
            pattern: furthest_by_adam(replace(optim, **optim.groups.get(pattern, {})), self.last, first, last)
            for pattern in set(patterns.values())
        }
        for name, weight in before.items():
            apart, grown = bounds[patterns[name]]
            bound = apart * (1 + 1e-3) + grown * np.abs(weight)
            moved = np.abs(after[name].astype(np.float64) - weight)
            over = moved - bound - rounding * np.maximum(np.abs(weight), np.abs(after[name]))
            if (over > 0).any():
                worst = np.unravel_index(np.argmax(over), over.shape)
                yield Finding(
                    last,
                    "update",
                    f"{name} moved by {moved[worst]:.3g} since step {first}, where optim allows {bound[worst]:.3g}",
                )
                return

    def faults(self) -> Iterator[Finding]:
        """Yield the checkpoints that lie off the way, and the moves that are too long."""
        off: list[int] = []
        # A checkpoint that lies off makes long moves, next to which another one seems near.
        while more := [
            place for place in range(1, len(self.steps) - 1) if place not in off and self._is_off(place, off)
        ]:
            off += more
        for place in sorted(off):
            first, middle, last = self.steps[place - 1 : place + 2]
            far = max(self.moves[place - 1 : place + 1]) / max(self.straight[place - 1], 1e-300)
            yield Finding(
                middle,
                "way",
                f"its weights lie off the way from step {first} to step {last}: from one of these they are {far:.1f} "
                "times as far as these are from each other",
            )
        of_sgd = self.optim is not None and self.optim.optimizer == "SGD"
        for place in range(len(self.moves)):
            ratio = self._times_as_long(place)
            # Next to a checkpoint that lies off the way every move is too long.
            if ratio > (JUMP_OF_SGD if of_sgd else JUMP) and not {place, place + 1} & set(off):
                first, last = self.steps[place : place + 2]
                yield Finding(
                    last,
                    "way",
                    f"its weights jump: they are {ratio:.1f} times as far from those of step {first} as the moves "
                    "before and after make likely",
                )

    def _is_off(self, place: int, off: Sequence[int]) -> bool:
        """Return whether a checkpoint is further from one beside it than these are from each other.

        Moves from and to those that are known to lie ``off`` say nothing of how long moves are.
        """
        away = {move for each in (place, *off) for move in (each - 1, each)}
        longest = max(self.moves[place - 1 : place + 1])
        others = [move / (self.steps[at + 1] - self.steps[at]) for at, move in enumerate(self.moves) if at not in away]
        return longest > DETOUR * self.straight[place - 1] and longest > SWINGS * max(others, default=0.0)

    def _times_as_long(self, place: int) -> float:
        """Return the length of a move as a multiple of that which the longer of its neighbours makes likely.

        n updates together are n times as long as one of them if all go the same way, and √n times if each goes its own.
        """
        likely = []
        for other in (place - 1, place + 1):
            if 0 <= other < len(self.moves):
                ratio = self._rate(place) / max(self._rate(other), 1e-300)
                likely.append(self.moves[other] * max(ratio, math.sqrt(ratio)))
        return self.moves[place] / max(*likely, 1e-300) if likely else 0.0

    def _rate(self, place: int) -> float:
        """The sum of the learning rates of a move's updates; their number if these are not known."""
        first, last = self.steps[place : place + 2]
        return float(last - first) if self.optim is None else float(_rates(self.optim, self.last, first, last).sum())


def _fastest(optim: "OptimConfig") -> "OptimConfig":
    """Return an optimiser that moves every weight as far as that with groups moves any of them."""
    groups = [{}, *optim.groups.values()]
    most = {
        name: max(float(group.get(name, getattr(optim, name))) for group in groups) for name in ("lr", "weight_decay")
    }
    return replace(optim, **most, groups={})


def _rates(optim: "OptimConfig", steps: int, first: int, last: int) -> np.ndarray:
    """The learning rates of the updates from one checkpoint to another."""
    return optim.lr * np.array([optim.factor(step, steps) for step in range(first, last)])


def furthest_by_adam(optim: "OptimConfig", steps: int, first: int, last: int) -> tuple[float, float]:
    """Return how far Adam or AdamW can move a weight w between two checkpoints: ``apart + grown * |w|``.

    Update t moves a weight by lr_t |m̂_t| / (√v̂_t + ε), whatever the gradients are, and clipped or not. With m̂_t =
    (1 − β1) / (1 − β1^t) Σ β1^(t−i) g_i and v̂_t = (1 − β2) / (1 − β2^t) Σ β2^(t−i) g_i², the inequality of Cauchy and
    Schwarz gives |m̂_t| / √v̂_t ≤ c_t with

        c_t = (1 − β1) / (1 − β1^t) · √((1 − β2^t) / (1 − β2)) · √(Σ_{j<t} (β1² / β2)^j),

    which is 1 in the first update and goes to 7.3 for β = (0.9, 0.999). AdamW moves it by lr_t λ |w| too, so that a
    weight that is d from its start is at most d (1 + lr_t λ) + lr_t (c_t + λ |w|) from it after the update. With L the
    sum of the lr_t this is at most e^(λL) Σ lr_t c_t + (e^(λL) − 1) |w|. Adam adds its decay to the gradient, and the
    bound is that of λ = 0.

    Example:
        >>> from headway.models.optim import OptimConfig
        >>> furthest_by_adam(OptimConfig(lr=0.01, weight_decay=0.0), 100, first=0, last=1)
        (0.01, 0.0)
    """
    (b1, b2), t = optim.betas, np.arange(first + 1, last + 1, dtype=np.float64)
    rates = _rates(optim, steps, first, last)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        q = np.float64(b1**2) / b2 if b2 > 0 else np.float64(np.inf if b1 > 0 else 0.0)
        powers = t if q == 1 else (1 - q**t) / (1 - q)
        c = (1 - b1) / (1 - b1**t) * np.sqrt((1 - b2**t) / (1 - b2)) * np.sqrt(powers)
    c = np.nan_to_num(c, nan=np.inf, posinf=np.inf)
    decay = optim.weight_decay if optim.optimizer == "AdamW" else 0.0
    grown = math.exp(min(decay * float(rates.sum()), 700.0))
    return grown * float((rates * c).sum()), grown - 1


def furthest_by_sgd(optim: "OptimConfig", steps: int, first: int, last: int, largest: float) -> float:
    """Return how far SGD can move all weights together between two checkpoints; infinity without clipping.

    The gradient is clipped to the norm g, the decay λ w is added, and momentum μ sums both up: an update is at most
    lr_t (g + λ W) / (1 − μ) long, where W is the largest norm of the weights so far. Over all updates, with L the sum
    of the lr_t and k = λ / (1 − μ), that is at most e^(kL) (W + g L / (1 − μ)) − W.

    Example:
        >>> from headway.models.optim import OptimConfig
        >>> furthest_by_sgd(OptimConfig("SGD", lr=0.1, weight_decay=0.0, max_grad_norm=2.0), 9, 0, 2, largest=5.0)
        0.4
    """
    if optim.max_grad_norm is None:
        return math.inf
    long, inertia = float(_rates(optim, steps, first, last).sum()), 1 / (1 - optim.momentum)
    growth = math.expm1(min(optim.weight_decay * inertia * long, 700.0))
    clipped = optim.max_grad_norm * inertia * long
    return growth * (largest + clipped) + clipped


def norm(weights: Weights) -> float:
    """Return the length of all weights together."""
    return math.sqrt(sum(float((weight.astype(np.float64) ** 2).sum()) for weight in weights.values()))


def distance(weights: Weights, others: Weights) -> float:
    """Return the length of the differences of weights of the same names."""
    return norm({name: weights[name].astype(np.float64) - others[name] for name in weights})
