"""The study of ``a if b else c``: one file for what is looked at, one for each kind of question, and the whole."""

from headway.analyze.studies.if_else.study import NAME, study

__all__ = ["NAME", "study"]
