"""Headway: train toy transformers and watch their circuits form.

The way of the data: ``headway.data`` (tasks) → ``headway.models`` (networks) → ``headway.train`` (one run)
→ ``headway.checkpoints`` (the run on disk) → ``headway.analyze`` (what formed, when, and why).
"""

from importlib.metadata import version

__version__ = version("headway")
