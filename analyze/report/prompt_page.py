"""The data of the page of a prompt, at one checkpoint or at several."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import einops
import numpy as np

from headway.analyze.report.packed import Packed
from headway.analyze.report.stored import spread

if TYPE_CHECKING:
    from headway.analyze.tools.prompt import PromptResult

# The most pairs of positions, over all heads, of which the page has attention and attribution: at one checkpoint, and
# at several together.
MOST_PAIRS = 2**21
MOST_PAIRS_OVER_STEPS = 2**20
# The most checkpoints, and the most predictions over all of them.
MOST_PROMPT_STEPS = 60
MOST_PREDICTIONS = 20_000


def prompt_steps(steps: Sequence[int], at: int, result: "PromptResult", top: int) -> list[int]:
    """Return the checkpoints, with ``at`` among them, at which a page has a prompt: fewer of a long one.

    Args:
        steps: The checkpoints of the run.
        at: The one at which the page opens.
        result: The network on the prompt there.
        top: The number of likeliest tokens that the page shows.
    """
    positions, heads = len(result.tokens), result.attention.sizes["head"]
    most = min(
        MOST_PROMPT_STEPS, MOST_PAIRS_OVER_STEPS // (heads * positions**2), MOST_PREDICTIONS // (positions * top)
    )
    # Fewer than that are no training to slide through.
    return [steps[place] for place in spread(steps, most, [at])] if most >= 8 else [at]


def prompt_data(
    results: "Mapping[int | None, PromptResult]",
    at: int | None,
    layers: int,
    about: list[tuple[str, str]],
    top: int,
    left_out: str = "",
) -> dict[str, Any]:
    """Return numbers and labels of every position; of a long prompt, attention and sources of some.

    Args:
        results: The network on the prompt at each checkpoint; of a language model at None.
        at: The one at which the page opens.
        layers: The number of layers.
        about: Facts for the end of the page.
        top: The number of likeliest tokens at each position.
        left_out: A sentence on checkpoints that the page does not have.
    """
    packed, opened = Packed(), results[at]
    steps = sorted(step for step in results if step is not None)
    most = math.isqrt(MOST_PAIRS // opened.attention.sizes["head"])
    kept = drawn_positions(len(opened.tokens), opened.position, most)
    each = [results[step] for step in steps] if steps else [opened]
    attention = np.stack([_of_layers(one.attention.isel(pos=kept, source=kept).values, layers) for one in each])
    sources = [one.sources for one in each if one.sources is not None]
    outputs = [one.outputs for one in each if one.outputs is not None]
    return {
        "about": about,
        "steps": steps,
        "lineSteps": steps,
        "opened": at,
        "fewer": left_out,
        "layers": layers,
        "heads": opened.attention.sizes["head"] // layers,
        "position": opened.position,
        "tokens": opened.labels,
        "predictions": [_predictions(one, top) for one in each],
        "leftOut": opened.left_out,
        "components": outputs[0].component.values.tolist() if outputs else [],
        "outputs": packed.add(np.stack([one.values for one in outputs])) if len(outputs) == len(each) else None,
        "drawn": kept,
        "sources": packed.add(np.stack([_of_layers(one.isel(pos=kept, source=kept), layers) for one in sources]))
        if len(sources) == len(each)
        else None,
        # Like that of a run, with one sequence.
        "attention": packed.add_shares(attention[:, :, :, None]),
        "packed": packed.text(),
    }


def _predictions(result: "PromptResult", top: int) -> dict[str, Any]:
    """Return what a network predicts at one checkpoint: of the next token, of the explained one, and likeliest."""
    positions = range(len(result.tokens))
    following, explained = result.tokens[1:].tolist(), result.explained.tolist()
    likeliest = [result.likeliest(position, top) for position in positions]
    return {
        "following": [
            {"token": result.label(token), **_chance(result, position, token)}
            for position, token in enumerate(following)
        ],
        "explained": [
            {"token": result.label(token), **_chance(result, position, token)}
            for position, token in enumerate(explained)
        ],
        "likeliest": [
            [{"token": each.token, "probability": _short(each.probability)} for each in found] for found in likeliest
        ],
    }


def drawn_positions(length: int, position: int, most: int) -> list[int]:
    """All positions if they are no more than ``most``; else the first, and those before ``position`` and at it.

    Example:
        >>> drawn_positions(length=5, position=4, most=7), drawn_positions(length=11, position=9, most=4)
        ([0, 1, 2, 3, 4], [0, 7, 8, 9])
    """
    most = max(most, 2)
    if length <= most:
        return list(range(length))
    start = min(max(1, position - most + 2), length - most + 1)
    return [0, *range(start, start + most - 1)]


def _chance(result: "PromptResult", position: int, token: int) -> dict[str, Any]:
    return {"probability": _short(result.probability(position, token)), "rank": result.rank(position, token)}


def _short(probability: float) -> float:
    """Return a probability in the digits that a page shows of it."""
    return float(f"{probability:.4g}")


def _of_layers(values: Any, layers: int) -> np.ndarray:
    return einops.rearrange(np.asarray(values), "(layer head) q k -> layer head q k", layer=layers)
