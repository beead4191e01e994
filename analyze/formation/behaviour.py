"""The behaviour of a run: the loss that its task is about, and the share of the gap to be closed that is closed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from headway.analyze.formation.half_way import way

# Less than this share of the loss at chance is no gap: a network that closes it has learned nothing.
LEAST_GAP = 0.1


@dataclass(frozen=True)
class Behaviour:
    """A loss over training, between that of a network that does not know the answer and that of one that does.

    Args:
        loss: The loss, axis ``step``.
        chance: The loss of a network that does not know the answer, where the task gives one.
        floor: The loss of a network that knows it, where the task gives one.
        part: The part of the task; None for all positions.
    """

    loss: xr.DataArray
    chance: float | None = None
    floor: float | None = None
    part: str | None = None

    @property
    def null(self) -> float:
        """The loss from which the way begins: chance, or the loss at the first checkpoint."""
        return float(self.loss.values[0] if self.chance is None else self.chance)

    @property
    def best(self) -> float:
        """The loss to which the way leads: the floor, or the lowest loss of the run."""
        return float(np.nanmin(self.loss.values) if self.floor is None else self.floor)

    @property
    def way(self) -> xr.DataArray:
        """The share of the gap that is closed, axis ``step``.

        Where no floor is known and the lowest loss is less than a tenth of the loss at chance below it, there is no gap
        to be closed: the way is 0 everywhere.

        Example:
            >>> loss = xr.DataArray([3.0, 1.0, 0.0], dims="step", coords={"step": [0, 10, 100]})
            >>> Behaviour(loss, chance=4.0, floor=0.0).way.values.tolist()
            [0.25, 0.75, 1.0]
            >>> Behaviour(loss * 0.01 + 4).way.values.tolist()
            [0.0, 0.0, 0.0]
        """
        gap = self.null - self.best
        if not gap > (LEAST_GAP * abs(self.null) if self.floor is None else 0):
            return self.loss.copy(data=np.where(np.isnan(self.loss.values), np.nan, 0.0)).drop_attrs()
        return way(self.loss, self.null, self.best).drop_attrs()


def behaviour(
    losses: Mapping[str, xr.DataArray], asked: Mapping[str, Any] | None, part: str | None = None
) -> Behaviour:
    """Return the behaviour of a run from its stored losses.

    Args:
        losses: The variables ``loss`` and ``loss_<part>`` by name, axis ``step``.
        asked: The attribute ``behaviour`` of ``loss``: part, chance and floor, as the task gives them. A run that an
            older Headway scored has none: all positions then, from the first checkpoint to the lowest loss.
        part: Another part; ``all`` for every position that counts. The task gives no chance and no floor for it.

    Raises:
        ValueError: a part that has no loss.

    Example:
        >>> loss = xr.DataArray([4.0, 1.0], dims="step", coords={"step": [0, 10]})
        >>> found = behaviour({"loss": loss, "loss_late": loss / 2}, {"part": "late", "chance": 2.0, "floor": None})
        >>> found.part, found.null, found.best
        ('late', 2.0, 0.5)
    """
    given = dict(asked or {"part": None, "chance": None, "floor": None})
    chosen = given["part"] if part is None else None if part == "all" else part
    if part is not None and chosen != given["part"]:
        given |= {"chance": None, "floor": None}
    name = "loss" if chosen is None else f"loss_{chosen}"
    if name not in losses and part is None:  # scores of another version of the task
        name, chosen = "loss", None
    if name not in losses:
        parts = [each.removeprefix("loss_") for each in losses if each not in ("loss", "loss_by_position")]
        raise ValueError(f"part: {part!r} is not valid; it must be one of {', '.join(['all', *parts])}")
    return Behaviour(losses[name], given["chance"], given["floor"], chosen)
