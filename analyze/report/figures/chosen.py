"""Heads, scores and rows that a figure shows, and errors about those that are missing."""

from collections.abc import Iterable, Sequence
from math import ceil

from headway.analyze import MEASURES
from headway.analyze.report.figure_data import Score
from headway.analyze.report.stored import StoredScores
from headway.checkpoints.scores import score_file
from headway.models.config import Head
from headway.options import nearest


def chosen_heads(stored: StoredScores, layer: int | None, head: int | None) -> list[Head]:
    """The heads of one layer, of one number, or all of them."""
    layers, count = stored.heads
    wanted_layers = range(layers) if layer is None else [valid_number("layer", layer, layers)]
    wanted = range(count) if head is None else [valid_number("head", head, count)]
    return [Head(layer, head) for layer in wanted_layers for head in wanted]


def rows_of_heads(chosen: Sequence[Head], widest: int) -> list[list[Head]]:
    """Rows of panels: each layer begins one, if it has several heads; none is wider than ``widest``.

    Example:
        >>> [len(row) for row in rows_of_heads([Head(0, head) for head in range(12)], widest=8)]
        [6, 6]
        >>> [len(row) for row in rows_of_heads([Head(layer, 3) for layer in range(2)], widest=8)]
        [2]
    """
    rows, layers = [], dict.fromkeys(which.layer for which in chosen)
    together = [list(layers)] if len(layers) == len(chosen) else [[layer] for layer in layers]
    for some in together:
        of_layer = [which for which in chosen if which.layer in some]
        length = ceil(len(of_layer) / ceil(len(of_layer) / widest))
        rows += [of_layer[start : start + length] for start in range(0, len(of_layer), length)]
    return rows


def chosen_scores(
    stored: StoredScores, scores: list[Score], usual: str, wrong: str, measure: str | None
) -> list[Score]:
    """The scores of one measure, all of them for None."""
    found = [score for score in scores if measure in (None, score.measure, score.name, score.label)]
    if found:
        return found
    if measure is None:
        raise not_scored(stored, usual)
    raise wrong_measure(stored, measure, wrong, dict.fromkeys(score.measure for score in scores))


def is_scored(stored: StoredScores, measure: str, index: int) -> bool:
    """Return whether the run has scores of a measure at the step of this index."""
    return score_file(stored.run.path, stored.steps[index], measure).exists()


def check_scored(stored: StoredScores, measure: str, index: int) -> None:
    """Raise a ValueError for a step at which a measure has no scores; between other steps it is only NaN."""
    if not is_scored(stored, measure, index):
        raise not_scored(stored, measure, stored.steps[index])


def not_scored(stored: StoredScores, measures: str, step: int | None = None) -> ValueError:
    """The error about measures without scores, with the command that computes them."""
    when, at = ("", "") if step is None else (f" at step {step}", f" --at {step}")
    return ValueError(
        f"figure: {measures} has no scores{when}, or does not apply to this run; "
        f"headway measure {stored.run.path} --only {measures}{at} computes them or says why not"
    )


def wrong_measure(stored: StoredScores, measure: str, wrong: str, valid: Iterable[str]) -> ValueError:
    """The error about a measure that a figure cannot show."""
    if measure in {each.name for each in MEASURES} and measure not in stored.measures:
        wrong = f"has no scores (headway measure {stored.run.path} --only {measure} computes them)"
    return ValueError(
        f"measure: {measure!r} {wrong} in this run; it must be one of {', '.join(valid)}{nearest(measure, valid)}"
    )


def valid_number(name: str, number: int, count: int) -> int:
    """The number of a layer, head or sequence; a ValueError if the run does not have so many."""
    if not 0 <= number < count:
        raise ValueError(
            f"{name}: {number} is not valid; this run has {'only 0' if count == 1 else f'0 to {count - 1}'}"
        )
    return number
