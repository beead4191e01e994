"""The data of the page of a prompt."""

import math
from typing import TYPE_CHECKING, Any

import einops
import numpy as np

from headway.analyze.report.packed import Packed

if TYPE_CHECKING:
    from headway.analyze.tools.prompt import PromptResult

# The most pairs of positions, over all heads, of which the page has attention and attribution.
MOST_PAIRS = 2**21


def prompt_data(result: "PromptResult", layers: int, about: list[tuple[str, str]], top: int) -> dict[str, Any]:
    """Numbers and labels of every position; of a long prompt, attention and sources of some (``drawn_positions``)."""
    packed, positions = Packed(), range(len(result.tokens))
    kept = drawn_positions(len(positions), result.position, math.isqrt(MOST_PAIRS // result.attention.sizes["head"]))
    following = result.tokens[1:].tolist()
    likeliest = [result.likeliest(position, top) for position in positions]
    explained = result.explained.tolist()
    attention = result.attention.isel(pos=kept, source=kept).values
    return {
        "about": about,
        "layers": layers,
        "heads": result.attention.sizes["head"] // layers,
        "position": result.position,
        "tokens": result.labels,
        "following": [
            {"token": result.label(token), **_chance(result, position, token)}
            for position, token in enumerate(following)
        ],
        "explained": [
            {"token": result.label(token), **_chance(result, position, token)}
            for position, token in enumerate(explained)
        ],
        "likeliest": [[each._asdict() for each in found] for found in likeliest],
        "leftOut": result.left_out,
        "components": [] if result.outputs is None else result.outputs.component.values.tolist(),
        "outputs": None if result.outputs is None else packed.add(result.outputs.values),
        "drawn": kept,
        "sources": None
        if result.sources is None
        else packed.add(_of_layers(result.sources.isel(pos=kept, source=kept), layers)),
        # Like that of a run, with one checkpoint and one sequence.
        "attention": packed.add_shares(_of_layers(attention, layers)[None, :, :, None]),
        "packed": packed.text(),
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
    return {"probability": result.probability(position, token), "rank": result.rank(position, token)}


def _of_layers(values: Any, layers: int) -> np.ndarray:
    return einops.rearrange(np.asarray(values), "(layer head) q k -> layer head q k", layer=layers)
