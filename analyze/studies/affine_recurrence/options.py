"""The options of the study of affine recurrences."""

from dataclasses import dataclass

from headway.analyze.studies.study import check_at_least


@dataclass(frozen=True)
class Options:
    """Sequences, heads for the identity surgery, and numbers of sequences.

    Args:
        c: Coefficient of the sequences whose attention is shown.
        length: Number of vectors in a sequence, for figures of one length; at most that of the task.
        heads: Heads whose circuits are replaced by identities together, such as L2H0; the last layer if not given.
        sequences: Number of sequences that each number is measured on.
        probe_sequences: Number of sequences that probes are trained on; half as many are held out, and half as many
            stop an MLP probe.

    Raises:
        ValueError: fewer than 2 sequences.
    """

    c: float = -1.5
    length: int = 14
    heads: tuple[str, ...] = ()
    sequences: int = 64
    probe_sequences: int = 4096

    def __post_init__(self) -> None:
        """Check the values that need no network."""
        check_at_least("sequences", self.sequences, 2)
