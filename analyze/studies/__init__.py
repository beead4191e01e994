"""STUDIES: every question that can be asked of a whole network, each answered by one folder here.

A study takes a run at a checkpoint, or a language model, calls the measures, and gives figures, tables, and claims
that their numbers support or refute. ``headway.study`` makes it and writes it to disk; the page draws what is there.

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
            "How a network predicts an affine recurrence, layer by layer (arXiv 2410.17438).",
            f"{_HERE}.affine_recurrence.study:study",
            f"{_HERE}.affine_recurrence.options:Options",
            ("headway.data.affine_recurrence:AffineRecurrence",),
        ),
        Study(
            "previous-token",
            "How a network without positions finds the token before; further runs stand beside it.",
            f"{_HERE}.previous_token.study:study",
            f"{_HERE}.previous_token.options:Options",
            ("headway.data.previous_token:PreviousToken",),
            takes_runs=True,
        ),
        Study(
            "induction",
            "Which heads find and copy what followed a token before, or a synonym; also of a language model.",
            f"{_HERE}.induction.study:study",
            f"{_HERE}.induction.options:Options",
            (
                "headway.data.repeated_tokens:RepeatedTokens",
                "headway.data.repeated_synonyms:RepeatedSynonyms",
            ),
            takes_models=True,
            takes_runs=True,
        ),
        Study(
            "name-movers",
            "Why a head attends from the end of a sentence to a name in it; also of a language model.",
            f"{_HERE}.name_movers.study:study",
            f"{_HERE}.name_movers.options:Options",
            ("headway.data.indirect_object:IndirectObject",),
            takes_models=True,
        ),
        Study(
            "if-else",
            "What makes a network say else in `a if b else c`, and whether after `)` too; also of a model.",
            f"{_HERE}.if_else.study:study",
            f"{_HERE}.if_else.options:Options",
            ("headway.data.text:Text",),
            takes_models=True,
        ),
    )
}


def find_study(name: str) -> Study:
    """The study of this name; a ValueError with the nearest name for one that does not exist.

    Example:
        >>> find_study("induction").takes_models
        True
    """
    if name not in STUDIES:
        raise ValueError(f"study: {name!r} is not one of {', '.join(STUDIES)}{nearest(name, STUDIES)}")
    return STUDIES[name]


__all__ = ["STUDIES", "Study", "find_study"]
