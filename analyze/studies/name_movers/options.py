"""The options of the study of name movers."""

from dataclasses import dataclass
from typing import Literal

from headway.analyze.studies.study import check_at_least

Place = Literal["io", "s1", "s2"]
PLACES: tuple[Place, ...] = ("io", "s1", "s2")


@dataclass(frozen=True)
class Options:
    """Which head is explained, and on which sentences.

    Args:
        sequences: How many sentences each number is taken over.
        head: The head whose scores are explained, such as L10H7; if not given the negative name mover that takes back
            most, or the strongest name mover where there is none.
        to: Whose position is attended to: io, s1 or s2.
        names: Of a language model: the names in the sentences, each one token of its tokenizer; ours if not given.

    Raises:
        ValueError: too few sentences.
    """

    sequences: int = 200
    head: str | None = None
    to: Place = "io"
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what no network can be studied with."""
        check_at_least("sequences", self.sequences, 2)
        if self.to not in PLACES:
            raise ValueError(f"to: {self.to!r} is not one of {', '.join(PLACES)}")
