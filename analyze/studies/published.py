"""Published runs, to compare with runs of the same sizes."""

from collections.abc import Mapping
from dataclasses import dataclass

from headway.checkpoints.recipe import Recipe
from headway.data.task import Task


@dataclass(frozen=True)
class PublishedRun:
    """The losses of a published run, and the sizes of it that are known.

    Args:
        losses: Training losses of single batches, by the number of earlier updates.
        task: The task.
        model: The known fields of its ModelConfig.
        batch_size: The number of sequences in a batch.
        lr: The learning rate; None for any.
    """

    losses: Mapping[int, float]
    task: Task
    model: Mapping[str, object]
    batch_size: int
    lr: float | None = None

    def is_like(self, recipe: Recipe) -> bool:
        """Return whether a recipe has the sizes and the data of this run."""
        return (
            recipe.task == self.task
            and recipe.batch_size == self.batch_size
            and self.lr in (None, recipe.optim.lr)
            and all(getattr(recipe.model, name) == value for name, value in self.model.items())
        )
