"""The options of the study of if and else."""

from dataclasses import dataclass

from headway.analyze.studies.study import check_at_least


@dataclass(frozen=True)
class Options:
    """Prompts, and further pairs of tokens.

    Args:
        sequences: Number of pairs of generated prompts, a normal and an anomalous one each.
        length: Number of tokens in a prompt, with BOS.
        corpus: Texts with real prompts, for a language model: a corpus as in training. A run uses its own.
        pair: Further pairs of tokens whose entry in the OV circuits is ranked.

    Raises:
        ValueError: fewer than 3 pairs of prompts.
    """

    sequences: int = 200
    length: int = 16
    corpus: str = "stdlib"
    pair: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Check the values that need no network."""
        check_at_least("sequences", self.sequences, 3)
