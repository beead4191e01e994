"""STUDIES: the list of all studies, one folder each.

A study asks one question of a network: a run at a checkpoint, or a language model. It calls the measures and returns
figures, tables, and claims that their numbers support or refute. ``headway.study`` runs it and writes it to disk; the
page draws what is on disk.

The list names functions and imports none of them, so that listing the studies starts at once.
"""

from headway.analyze.studies.study import Study
from headway.options import nearest

_HERE = __name__

STUDIES = {
    study.name: study
    for study in (
        Study(
            "affine-recurrence",
            "How does a network predict an affine recurrence, layer by layer? (arXiv 2410.17438)",
            f"{_HERE}.affine_recurrence.study:study",
            f"{_HERE}.affine_recurrence.options:Options",
            ("headway.data.affine_recurrence:AffineRecurrence",),
            makes=f"{_HERE}.affine_recurrence.sequences:task_for",
        ),
        Study(
            "previous-token",
            "How does a network without positional embeddings find the previous token?",
            f"{_HERE}.previous_token.study:study",
            f"{_HERE}.previous_token.options:Options",
            ("headway.data.previous_token:PreviousToken",),
            takes_runs=True,
            makes=f"{_HERE}.previous_token.sequences:task_for",
        ),
        Study(
            "induction",
            "Which heads form an induction circuit, and does it also work after a synonym?",
            f"{_HERE}.induction.study:study",
            f"{_HERE}.induction.options:Options",
            ("headway.data.repeated_tokens:RepeatedTokens", "headway.data.repeated_synonyms:RepeatedSynonyms"),
            takes_models=True,
            takes_runs=True,
            makes=f"{_HERE}.induction.sequences:task_for",
        ),
        Study(
            "name-movers",
            "Why does a head attend from the end of a sentence to a name?",
            f"{_HERE}.name_movers.study:study",
            f"{_HERE}.name_movers.options:Options",
            ("headway.data.indirect_object:IndirectObject",),
            takes_models=True,
        ),
        Study(
            "if-else",
            "Why does a network predict `else` after `a if b`, and for the same reason after `)`?",
            f"{_HERE}.if_else.study:study",
            f"{_HERE}.if_else.options:Options",
            ("headway.data.text:Text",),
            takes_models=True,
        ),
    )
}


def find_study(name: str) -> Study:
    """Return the study of this name; raise a ValueError with the nearest name if there is none.

    Example:
        >>> find_study("induction").takes_models
        True
    """
    if name not in STUDIES:
        raise ValueError(f"study: {name!r} is not one of {', '.join(STUDIES)}{nearest(name, STUDIES)}")
    return STUDIES[name]


__all__ = ["STUDIES", "Study", "find_study"]
