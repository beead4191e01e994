"""Runs that a notebook or a paper published, beside which a run of ours can stand."""

from collections.abc import Mapping
from dataclasses import dataclass

from headway.checkpoints.run import Run
from headway.data.task import Task


@dataclass(frozen=True)
class PublishedRun:
    """The losses of a published run, and what a run of ours has in common with it.

    Args:
        losses: Training losses of single batches, by the number of updates before them.
        task: Its task.
        model: The fields of its ModelConfig that are known.
        batch_size: Sequences in a batch.
        lr: Its learning rate; any if not given.
    """

    losses: Mapping[int, float]
    task: Task
    model: Mapping[str, object]
    batch_size: int
    lr: float | None = None

    def is_like(self, run: Run) -> bool:
        """Whether a run has the sizes and the data of this one."""
        recipe = run.recipe
        return (
            run.task == self.task
            and recipe.batch_size == self.batch_size
            and self.lr in (None, recipe.optim.lr)
            and all(getattr(recipe.model, name) == value for name, value in self.model.items())
        )
