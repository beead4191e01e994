"""The options of the study of the previous token."""

from dataclasses import dataclass

from headway.analyze.studies.study import check_at_least


@dataclass(frozen=True)
class Options:
    """How many sequences, and how many keys, are looked at.

    Args:
        sequences: How many sequences each number is taken over; probes are tried on as many others.
        top: How many keys are shown of those that a query looks for.

    Raises:
        ValueError: a number that is too small.
    """

    sequences: int = 64
    top: int = 5

    def __post_init__(self) -> None:
        """Refuse what no network can be studied with."""
        check_at_least("sequences", self.sequences, 2)
        check_at_least("top", self.top, 2)
