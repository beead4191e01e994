"""Analysis of runs: which circuits form, when they form, and which heads carry a behaviour.

The folders build on each other, in this order: ``network`` (one forward pass, weights, hooks), ``measures``, ``tools``,
``circuits`` and ``formation``, ``studies``, ``report``.
"""

from typing import TYPE_CHECKING

from headway.lazy import exporter

if TYPE_CHECKING:
    from headway.analyze.measures import LIVE, MEASURES, Measure
    from headway.analyze.measures.scoring import measure
    from headway.analyze.network.requirements import DoesNotApplyError

__all__ = ["LIVE", "MEASURES", "DoesNotApplyError", "Measure", "measure"]

__getattr__ = exporter(
    __name__,
    {
        "LIVE": "headway.analyze.measures",
        "MEASURES": "headway.analyze.measures",
        "Measure": "headway.analyze.measures",
        "DoesNotApplyError": "headway.analyze.network.requirements",
        "measure": "headway.analyze.measures.scoring",
    },
)
