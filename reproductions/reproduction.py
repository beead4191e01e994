"""A published toy, and the numbers that were published about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headway.reproductions.numbers import Number


@dataclass(frozen=True)
class Published:
    """A published number, and what ours must be to agree with it.

    - ``is``: a published number is one draw, of a run or of several. Ours agree if it lies within the range of our
      runs, or no further than ``within`` from that range.
    - ``above`` and ``below``: a bound that every run must satisfy.

    Args:
        number: The number, as a function of a run.
        value: The published value, or the bound.
        relation: ``is``, ``above`` or ``below``.
        within: A tolerance, for ``is``.
        goal: A bound of ours, where none was published.
        note: What a reader must know to compare the two.
    """

    number: Number
    value: float
    relation: Literal["is", "above", "below"] = "is"
    within: float = 0.0
    goal: bool = False
    note: str = ""

    def __str__(self) -> str:
        sign = {"is": "", "above": "> ", "below": "< "}[self.relation]
        return f"{sign}{self.value:g}{' (our goal)' if self.goal else ''}"


@dataclass(frozen=True)
class Reproduction:
    """A published toy: a recipe with its options, the source, and the published numbers.

    Args:
        recipe: The name of the recipe.
        options: Its options, by the names of ``headway train RECIPE --help``.
        source: The publication.
        published: The published numbers.
        seeds: The number of seeds if none are given.
        minutes: The minutes that one run takes on one core.
        note: How the published configuration was read where it is not certain.
    """

    recipe: str
    options: Mapping[str, Any]
    source: str
    published: tuple[Published, ...]
    minutes: float
    seeds: int = 5
    note: str = ""
