"""Whole stories about one network: each file here is a study, to be read from top to bottom.

A study takes a run of its task and a kept step, or a language model, calls the measures, and gives a StudyResult:
figures and tables, and the claims that their numbers support or refute. ``headway study`` runs it, prints its tables
and keeps it; the page draws what has been kept.
"""

from headway.analyze.studies import affine_recurrence, induction, name_movers, previous_token
from headway.analyze.studies.if_else import study as if_else_study

STUDIES = {
    module.NAME: module.study for module in (affine_recurrence, previous_token, induction, name_movers, if_else_study)
}
