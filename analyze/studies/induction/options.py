"""The options of the study of induction."""

from dataclasses import dataclass

from headway.analyze.studies.study import check_at_least


@dataclass(frozen=True)
class Options:
    """Number of sequences, thresholds of heads, and synonyms.

    Args:
        sequences: Number of sequences that each number is measured on.
        current_above: Score above which a head is a current-token head (attention to the current position).
        previous_above: Score above which a head is a previous-token head (attention to the previous position).
        first_above: Score above which a head is a first-token head (attention to position 0).
        induction_above: Score above which a head is an induction head (attention to what followed the current token).
        pairs: A file of synonyms, two tokens per line separated by a comma; tokens with similar embeddings if not
            given.

    Raises:
        ValueError: too few sequences, a threshold outside 0 to 1.
    """

    sequences: int = 64
    current_above: float = 0.3
    previous_above: float = 0.35
    first_above: float = 0.7
    induction_above: float = 0.5
    pairs: str | None = None

    def __post_init__(self) -> None:
        """Check the values that need no network."""
        check_at_least("sequences", self.sequences, 2)
        for kind, value in self.thresholds.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{kind}_above: {value} is not valid; it must be 0 to 1")

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds by kind of head: ``current``, ``previous``, ``first``, ``induction``."""
        kinds = ("current", "previous", "first", "induction")
        return {kind: getattr(self, f"{kind}_above") for kind in kinds}
