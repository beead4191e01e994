"""Runs that a notebook or a paper published, beside which a run of ours can stand."""

from collections.abc import Mapping
from dataclasses import dataclass

from headway.checkpoints.recipe import Recipe
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

    def is_like(self, recipe: Recipe) -> bool:
        """Whether a recipe has the sizes and the data of this run."""
        return (
            recipe.task == self.task
            and recipe.batch_size == self.batch_size
            and self.lr in (None, recipe.optim.lr)
            and all(getattr(recipe.model, name) == value for name, value in self.model.items())
        )
