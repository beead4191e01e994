"""Numbers of a run that are compared with published ones, read from the files of the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from jaxtyping import Float
    from xarray import DataArray

    from headway.checkpoints.run import Run
    from headway.data.task import Batch


@dataclass(frozen=True)
class TrainingLoss:
    """The training loss around an update: the median over the updates up to ``width`` away.

    Example:
        >>> str(TrainingLoss(400))
        'training loss at update 400'
    """

    at: int
    width: int = 10

    def __str__(self) -> str:
        return f"training loss at update {self.at:,}"

    def __call__(self, run: Run) -> float:
        """Return the number of a run."""
        # The loss of the update that made step k is that of the network before it, k - 1.
        near = slice(self.at + 1 - self.width, self.at + 1 + self.width)
        return float(run.training.loss.sel(step=near).median())


@dataclass(frozen=True)
class Score:
    """A stored score over training, of the best head of a ``layer`` where it has heads.

    Example:
        >>> str(Score("loss")), str(Score("previous_token", layer=0))
        ('loss', 'previous_token of the best head of layer 0')
    """

    name: str
    layer: int | None = None

    def __str__(self) -> str:
        return f"{self.name}{'' if self.layer is None else f' of the best head of layer {self.layer}'}"

    def over_training(self, run: Run) -> Float[DataArray, " step"]:
        """Return the score at each checkpoint of a run."""
        values = run.scores[self.name]
        return values if self.layer is None else values.sel(layer=self.layer).max("head")


@dataclass(frozen=True)
class LossAbove:
    """The loss over training, minus that of a predictor of the task on the same evaluation sequences.

    Example:
        >>> str(LossAbove("unigram"))
        'loss above unigram'
    """

    predictor: str

    def __str__(self) -> str:
        return f"loss above {self.predictor}"

    def over_training(self, run: Run) -> Float[DataArray, " step"]:
        """Return the difference at each checkpoint of a run."""
        return run.scores.loss - _losses_of_predictors(run)[self.predictor]


@dataclass(frozen=True)
class LossBetween:
    """The loss over training between those of two predictors of the task on the same sequences: 0 is the lower one.

    Example:
        >>> str(LossBetween("bigram", "unigram"))
        'loss, from bigram (0) to unigram (1)'
    """

    lower: str
    upper: str

    def __str__(self) -> str:
        return f"loss, from {self.lower} (0) to {self.upper} (1)"

    def over_training(self, run: Run) -> Float[DataArray, " step"]:
        """Return the share at each checkpoint of a run."""
        losses = _losses_of_predictors(run)
        return (run.scores.loss - losses[self.lower]) / (losses[self.upper] - losses[self.lower])


def _losses_of_predictors(run: Run) -> dict[str, float]:
    """Return the loss of each predictor of the task on the evaluation sequences of a run."""
    from headway.data.task import masked_mean

    batch = run.batch()
    return {
        name: masked_mean(run.task.loss(output, batch), batch.mask).item()
        for name, output in run.task.predictors(batch).items()
    }


# What has a number at each checkpoint.
OverTraining = Score | LossAbove | LossBetween


@dataclass(frozen=True)
class ScoreAt:
    """A stored score at a checkpoint, the last one if ``at`` is None.

    Example:
        >>> str(ScoreAt(Score("loss"))), str(ScoreAt(Score("accuracy_repeats"), at=500))
        ('loss at the end', 'accuracy_repeats at update 500')
    """

    score: OverTraining
    at: int | None = None

    def __str__(self) -> str:
        return f"{self.score} at {_when(self.at)}"

    def __call__(self, run: Run) -> float:
        """Return the number of a run."""
        step = run.check_step("last" if self.at is None else self.at)
        return float(self.score.over_training(run).sel(step=step))


def _when(at: int | None) -> str:
    return "the end" if at is None else f"update {at:,}"


@dataclass(frozen=True)
class FirstStep:
    """The first checkpoint at which a stored score is above a bound, or below one; infinite if there is none.

    Example:
        >>> str(FirstStep(Score("accuracy"), above=0.99))
        'first checkpoint with accuracy above 0.99'
    """

    score: OverTraining
    above: float = -math.inf
    below: float = math.inf

    def __post_init__(self) -> None:
        """Refuse a step without a bound, which would be the first of all."""
        if self.above == -math.inf and self.below == math.inf:
            raise ValueError("above: -inf is not valid without below; give a bound")

    def __str__(self) -> str:
        return f"first checkpoint with {self.score} {self._bounds}"

    @property
    def _bounds(self) -> str:
        bounds = (("above", self.above), ("below", self.below))
        return " and ".join(f"{name} {bound:g}" for name, bound in bounds if abs(bound) < math.inf)

    def __call__(self, run: Run) -> float:
        """Return the number of a run."""
        values = self.score.over_training(run)
        passed = self._passed((values.values > self.above) & (values.values < self.below))
        return float(values.step.values[passed][0]) if passed.any() else math.inf

    def _passed(self, within: np.ndarray) -> np.ndarray:
        return within


@dataclass(frozen=True)
class ForGood(FirstStep):
    """The first checkpoint from which on a stored score stays above a bound, or below one; infinite if there is none.

    Example:
        >>> str(ForGood(LossAbove("bigram"), below=0.01))
        'checkpoint from which on loss above bigram stays below 0.01'
    """

    def __str__(self) -> str:
        return f"checkpoint from which on {self.score} stays {self._bounds}"

    def _passed(self, within: np.ndarray) -> np.ndarray:
        return within[::-1].cumprod()[::-1].astype(bool)


@dataclass(frozen=True)
class ShareNear:
    """The share of the updates up to ``before`` at which a stored score, interpolated, is near a level.

    Example:
        >>> str(ShareNear(LossAbove("unigram"), 0, within=0.01, before=2000))
        'share of the first 2,000 updates with loss above unigram within 0.01 of 0'
    """

    score: OverTraining
    level: float
    within: float
    before: int

    def __str__(self) -> str:
        return f"share of the first {self.before:,} updates with {self.score} within {self.within:g} of {self.level:g}"

    def __call__(self, run: Run) -> float:
        """Return the number of a run."""
        values = self.score.over_training(run).interp(step=range(1, self.before + 1))
        return float((abs(values - self.level) <= self.within).mean())


@dataclass(frozen=True)
class FreshScore:
    """The loss or the accuracy of the last network on sequences that were not drawn before.

    Example:
        >>> str(FreshScore("accuracy", sequences=65_536))
        'accuracy on 65,536 fresh sequences'
    """

    score: Literal["loss", "accuracy"]
    sequences: int

    def __str__(self) -> str:
        return f"{self.score} on {self.sequences:,} fresh sequences"

    def __call__(self, run: Run) -> float:
        """Return the number of a run."""
        import torch

        from headway.data.task import masked_mean

        model, total, count = run.model(), 0.0, 0
        for batch in _fresh(run, self.sequences):
            with torch.no_grad():
                output = model(batch.inputs, **batch.padding)
            of_each = run.task.loss(output, batch) if self.score == "loss" else output.argmax(-1) == batch.targets
            counting = int(batch.mask.sum())
            total, count = total + masked_mean(of_each.float(), batch.mask).item() * counting, count + counting
        return total / count


@dataclass(frozen=True)
class FreshErrors:
    """The number of sequences that were not drawn before of which the last network gets an answer wrong.

    Example:
        >>> str(FreshErrors(sequences=16_384))
        'wrong of 16,384 fresh sequences'
    """

    sequences: int

    def __str__(self) -> str:
        return f"wrong of {self.sequences:,} fresh sequences"

    def __call__(self, run: Run) -> float:
        """Return the number of a run."""
        import torch

        model, wrong = run.model(), 0
        for batch in _fresh(run, self.sequences):
            with torch.no_grad():
                answers = model(batch.inputs, **batch.padding).argmax(-1)
            wrong += int(((answers != batch.targets) & batch.mask).any(-1).sum())
        return float(wrong)


@dataclass(frozen=True)
class FreshBatches:
    """The median loss of fresh batches of the training's size at a checkpoint, over the positions of one part.

    A logged loss that was published is that of one such batch. The sequences of an evaluation are few, and all runs
    share them, so that their mean can lie beside it in each run alike.

    Example:
        >>> str(FreshBatches("determined", at=500, batches=200))
        'median loss_determined of 200 fresh batches at update 500'
        >>> str(FreshBatches("determined", at=None, batches=200))
        'median loss_determined of 200 fresh batches at the end'
    """

    part: str
    at: int | None
    batches: int

    def __str__(self) -> str:
        return f"median loss_{self.part} of {self.batches:,} fresh batches at {_when(self.at)}"

    def __call__(self, run: Run) -> float:
        """Return the number of a run."""
        import torch

        model, losses = run.model("last" if self.at is None else self.at), []
        for index in range(self.batches):
            batch = run.task.batch(_FRESH, index, run.recipe.batch_size)
            with torch.no_grad():
                loss = run.task.loss(model(batch.inputs, **batch.padding), batch)
            losses.append(loss[run.task.parts(batch)[self.part] & batch.mask].mean())
        return torch.stack(losses).quantile(0.5).item()


@dataclass(frozen=True)
class FreshBetween:
    """The loss of the last network between those of two predictors of the task, on fresh sequences: 0 is the lower one.

    Example:
        >>> str(FreshBetween("pool", "ridge", sequences=8192))
        'loss on fresh sequences, from pool (0) to ridge (1)'
    """

    lower: str
    upper: str
    sequences: int

    def __str__(self) -> str:
        return f"loss on fresh sequences, from {self.lower} (0) to {self.upper} (1)"

    def __call__(self, run: Run) -> float:
        """Return the number of a run."""
        import torch

        model, losses = run.model(), []
        for batch in _fresh(run, self.sequences):
            predicted = run.task.predictors(batch)  # pyright: ignore[reportAttributeAccessIssue]
            with torch.no_grad():
                outputs = (model(batch.inputs, **batch.padding), predicted[self.lower], predicted[self.upper])
            losses.append([run.task.loss(output, batch)[batch.mask].sum().item() for output in outputs])
        ours, lower, upper = (sum(each) for each in zip(*losses, strict=True))
        return (ours - lower) / (upper - lower)


# The seed of fresh sequences, far from those that runs have by default, and how many are computed at once.
_FRESH, _BATCH = 2**31 - 1, 1024


def _fresh(run: Run, sequences: int) -> Iterator[Batch]:
    for index, first in enumerate(range(0, sequences, _BATCH)):
        yield run.task.batch(_FRESH, index, min(_BATCH, sequences - first))


Number = (
    TrainingLoss | ScoreAt | FirstStep | ForGood | ShareNear | FreshScore | FreshErrors | FreshBatches | FreshBetween
)
