"""The run on disk: which steps are kept, their weights and scores, and the way back to a model."""

from headway.checkpoints.recipe import Recipe
from headway.checkpoints.run import Run

__all__ = ["Recipe", "Run"]
