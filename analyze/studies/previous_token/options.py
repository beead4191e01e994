"""The options of the study of the previous token."""

from dataclasses import dataclass

from headway.analyze.studies.study import check_at_least


@dataclass(frozen=True)
class Options:
    """Numbers of sequences and of keys.

    Args:
        sequences: Number of sequences that each number is measured on; probes are tested on as many others.
        top: Number of best keys that are shown for a query.

    Raises:
        ValueError: a number below 2.
    """

    sequences: int = 64
    top: int = 5

    def __post_init__(self) -> None:
        """Check the values that need no network."""
        check_at_least("sequences", self.sequences, 2)
        check_at_least("top", self.top, 2)
