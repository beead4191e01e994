"""The options of the study of name movers."""

from dataclasses import dataclass
from typing import Literal

from headway.analyze.studies.study import check_at_least

Place = Literal["io", "s1", "s2"]
PLACES: tuple[Place, ...] = ("io", "s1", "s2")


@dataclass(frozen=True)
class Options:
    """The heads to explain, and the sentences.

    Args:
        sequences: Number of sentences that each number is measured on.
        head: The head whose attention scores are explained, such as L10H7; if not given, the strongest negative name
            mover, or the strongest name mover if there is none.
        beside: A second head, such as L11H10, whose attention is shown beside that of the first.
        to: The position that it attends to: io, s1 or s2.
        names: Names in the sentences for a language model, each a single token; the built-in names if not given.

    Raises:
        ValueError: fewer than 2 sentences, an unknown position.
    """

    sequences: int = 200
    head: str | None = None
    beside: str | None = None
    to: Place = "io"
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the values that need no network."""
        check_at_least("sequences", self.sequences, 2)
        if self.to not in PLACES:
            raise ValueError(f"to: {self.to!r} is not one of {', '.join(PLACES)}")
