"""One page a run, or several runs: what formed, on one slider over training. It needs no network and no server."""

from headway.analyze.report.page import write_report

__all__ = ["write_report"]
