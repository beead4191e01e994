"""The options of the study of if and else."""

from dataclasses import dataclass

from headway.analyze.studies.study import check_at_least


@dataclass(frozen=True)
class Options:
    """Which prompts are looked at, and which pairs of tokens.

    Args:
        sequences: How many pairs of prompts are generated, a normal and an anomalous one each.
        length: How many tokens a prompt has, BOS among them.
        corpus: Of a language model: the texts that other prompts are taken from, as in training. A run has its own.
        pair: Further pairs of tokens whose place in the OV circuits is looked up.

    Raises:
        ValueError: too few prompts.
    """

    sequences: int = 200
    length: int = 16
    corpus: str = "stdlib"
    pair: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no network can be studied with."""
        check_at_least("sequences", self.sequences, 3)
