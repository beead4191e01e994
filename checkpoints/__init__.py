"""The run on disk: which steps are kept, their weights and scores, and the way back to a model."""

from typing import TYPE_CHECKING

from headway.lazy import exporter

if TYPE_CHECKING:
    from headway.checkpoints.recipe import Recipe
    from headway.checkpoints.run import Run

__all__ = ["Recipe", "Run"]

__getattr__ = exporter(
    __name__,
    {
        "Recipe": "headway.checkpoints.recipe",
        "Run": "headway.checkpoints.run",
    },
)
