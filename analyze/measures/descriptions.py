"""Attributes that describe stored numbers, so that they can be read and drawn without the code that made them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.data.task import Batch

# Units of losses and of their differences; the batch decides between the two.
LOSS = "nats, or squared error"

# If less than this share of the loss with everything replaced is known, there is nothing to explain.
LEAST_KNOWN = 0.1
SHARE_OF_KNOWN = "share of what is known"

# The queries that attention scores pool, unless a batch has padding or its task reads one position of each sequence.
EVERY_QUERY = "every position from 1 on"

# Roles of the variables ``<score>_<role>`` beside a score. Any other variable is the score on a part of the task.
BESIDE = {
    "null": "the score of a network in which nothing has formed",
    "null_std": "standard deviation of the null",
    "z": "standard deviations from the null",
    "low": "lower edge of the 99 % band of the null",
    "high": "upper edge of the 99 % band of the null",
    "chance": "the score of uniform attention, or of a random guess",
    "ceiling": "the highest score that these weights' singular values allow",
    "spectrum": "the eigenvalues",
    "best": "the distance at which the score is highest, query minus key",
    "by_position": "the score at each position",
    "clean": "the loss of the unchanged network",
    "known": "the loss with everything replaced minus that of the unchanged network",
    "slope": "slope of the least-squares line",
    "intercept": "intercept of the least-squares line",
}
PART = "part"
SCORE = "score"
_WORDS = {"ov": "OV", "qk": "QK", "q": "Q", "k": "K", "v": "V", "top1": "top-1", "topk": "top-k"}


def long_name(name: str) -> str:
    """Return the name of a variable in words.

    Example:
        >>> long_name("prefix_matching"), long_name("k_composition_top1"), long_name("ov_eigenvalue")
        ('prefix matching', 'K-composition top-1', 'OV eigenvalue')
    """
    words = " ".join(_WORDS.get(word, word) for word in name.split("_"))
    for letter in "QKV":
        words = words.replace(f"{letter} composition", f"{letter}-composition")
    return words


def role(measure: str, variable: str) -> str:
    """Return the role of a variable of a measure: ``score``, a key of BESIDE, or ``part``.

    Example:
        >>> role("loss", "loss"), role("loss", "loss_by_position"), role("loss", "loss_repeats")
        ('score', 'by_position', 'part')
    """
    if variable == measure:
        return SCORE
    ending = variable.removeprefix(f"{measure}_")
    return ending if ending in BESIDE else PART


def loss_units(batch: "Batch") -> str:
    """Return the units of the loss of this batch.

    Example:
        >>> from headway.data.previous_token import PreviousToken
        >>> loss_units(PreviousToken().evaluation_batch(seed=0, batch_size=3))
        'nats'
    """
    from headway.data.task import Task

    if batch.task is not None and type(batch.task).loss is not Task.loss:
        return "units of the task's loss"
    return "squared error" if batch.targets.is_floating_point() else "nats"


def units_of(units: str, batch: "Batch") -> str:
    """Return the units of a score on this batch: of two the first for tokens and classes, the last for numbers.

    Example:
        >>> from headway.data.previous_token import PreviousToken
        >>> units_of("logits, or shares of the target", PreviousToken().evaluation_batch(seed=0, batch_size=3))
        'logits'
    """
    first, *others = units.split(", or ")
    # The batch of a run without a task has no targets; measures of weights have one unit.
    return others[-1] if others and batch.targets.is_floating_point() else first
