"""Headway: train toy transformers and watch their circuits form.

The way of the data: ``headway.data`` (tasks) → ``headway.models`` (networks) → ``headway.train`` (one run)
→ ``headway.checkpoints`` (the run on disk) → ``headway.analyze`` (what formed, when, and why).
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from headway.lazy import exporter

if TYPE_CHECKING:
    from headway.analyze.circuiting import circuit
    from headway.analyze.formation.over_runs import formation
    from headway.analyze.measures import MEASURES
    from headway.analyze.measures.scoring import measure
    from headway.analyze.report.attention_page import show_attention
    from headway.analyze.studying import study
    from headway.checkpoints.audit import audit
    from headway.checkpoints.exporting import export_run
    from headway.checkpoints.importing import import_run
    from headway.checkpoints.run import Run
    from headway.data.finite import FiniteTask
    from headway.data.task import Batch, Task
    from headway.models.config import Head, ModelConfig
    from headway.models.hooked_transformer import HookedTransformer
    from headway.replay import densify
    from headway.reproductions.reproduce import reproduce
    from headway.train import resume, train

__version__ = version("headway")
__all__ = [
    "MEASURES",
    "Batch",
    "FiniteTask",
    "Head",
    "HookedTransformer",
    "ModelConfig",
    "Run",
    "Task",
    "audit",
    "circuit",
    "densify",
    "export_run",
    "formation",
    "import_run",
    "measure",
    "reproduce",
    "resume",
    "show_attention",
    "study",
    "train",
]

__getattr__ = exporter(
    __name__,
    {
        "MEASURES": "headway.analyze.measures",
        "Batch": "headway.data.task",
        "FiniteTask": "headway.data.finite",
        "Head": "headway.models.config",
        "HookedTransformer": "headway.models.hooked_transformer",
        "ModelConfig": "headway.models.config",
        "Run": "headway.checkpoints.run",
        "Task": "headway.data.task",
        "audit": "headway.checkpoints.audit",
        "circuit": "headway.analyze.circuiting",
        "densify": "headway.replay",
        "formation": "headway.analyze.formation.over_runs",
        "export_run": "headway.checkpoints.exporting",
        "import_run": "headway.checkpoints.importing",
        "measure": "headway.analyze.measures.scoring",
        "reproduce": "headway.reproductions.reproduce",
        "resume": "headway.train",
        "show_attention": "headway.analyze.report.attention_page",
        "study": "headway.analyze.studying",
        "train": "headway.train",  # the module, which can be called
    },
)


def __dir__() -> list[str]:
    """The public names, also those that have not been imported yet."""
    return sorted({*globals(), *__all__})
