"""The options of the study of induction."""

from dataclasses import dataclass

from headway.analyze.studies.study import check_at_least


@dataclass(frozen=True)
class Options:
    """How many sequences are looked at, and from which score on a head is named after it.

    Args:
        sequences: How many sequences each number is taken over.
        current_above: Attention to its own position above which a head is called a current-token head.
        previous_above: Attention to the position before above which a head is called a previous-token head.
        first_above: Attention to position 0 above which a head is called a first-token head.
        induction_above: Attention to what followed the current token above which a head is called an induction head.
        pairs: A file of tokens that mean the same, two in a line with a comma between them; those that the network
            embeds alike if not given.

    Raises:
        ValueError: too few sequences, a threshold that is no share.
    """

    sequences: int = 64
    current_above: float = 0.3
    previous_above: float = 0.35
    first_above: float = 0.7
    induction_above: float = 0.5
    pairs: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no network can be studied with."""
        check_at_least("sequences", self.sequences, 2)
        for kind, value in self.thresholds.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{kind}_above: {value} is not valid; attention is from 0 to 1")

    @property
    def thresholds(self) -> dict[str, float]:
        """Above which attention a head is called what: ``current``, ``previous``, ``first``, ``induction``."""
        kinds = ("current", "previous", "first", "induction")
        return {kind: getattr(self, f"{kind}_above") for kind in kinds}
