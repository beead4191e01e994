"""The options of the study of affine recurrences."""

from dataclasses import dataclass

from headway.analyze.studies.study import check_at_least


@dataclass(frozen=True)
class Options:
    """Which sequences are looked at, and which heads are replaced by identities.

    Args:
        c: The coefficient of the sequences whose attention is shown.
        length: How many vectors a sequence has where one length is looked at; the task's longest, if that is shorter.
        heads: The heads that are replaced by identities together, such as L2H0; those of the last layer if not given.
        sequences: How many sequences each number is taken over.
        probe_sequences: How many sequences probes are trained on; half as many are held out.

    Raises:
        ValueError: too few sequences for a mean.
    """

    c: float = -1.5
    length: int = 14
    heads: tuple[str, ...] = ()
    sequences: int = 64
    probe_sequences: int = 4096

    def __post_init__(self) -> None:
        """Refuse what no network can be studied with."""
        check_at_least("sequences", self.sequences, 2, "for a mean")
