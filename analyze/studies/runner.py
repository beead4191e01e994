"""Walking over the checkpoints of a run with the claims of a study."""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from tqdm import tqdm

from headway.analyze.formation.dates import held_from
from headway.analyze.network.forward import shared_forward_pass
from headway.analyze.studies.result import Claims, Figure, table
from headway.checkpoints.run import Run


def over_steps(
    run: Run,
    last: int,
    claims: Callable[[int], Claims],
    progress: bool = False,
    quantities: Callable[[int], xr.Dataset] | None = None,
) -> tuple[Figure, ...]:
    """When each claim came to hold, over the kept steps up to ``last``: a table, and the numbers as lines.

    ``since`` is the kept step from which on the claim holds for good, NaN if it does not hold at ``last``.
    ``quantities`` are lines of their own.
    """
    steps = [step for step in run.steps if step <= last]
    found, measured = [], []
    for step in tqdm(steps, desc="how it formed", unit="step", disable=None if progress else True):
        with shared_forward_pass():
            found.append(claims(step))
            measured += [] if quantities is None else [quantities(step)]
    ends = found[-1]
    holds = xr.DataArray([[claim.holds for claim in each] for each in found], dims=("step", "claim"))
    numbers = np.array([[claim.number for claim in each] for each in found])
    formed = table(
        "claim",
        [claim.says for claim in ends],
        since=held_from(holds.assign_coords(step=steps)).values,
        first=numbers[0],
        last=numbers[-1],
        needs=[claim.needs for claim in ends],
    )
    for name, said in {"since": "holds since step", "first": f"at step {steps[0]}", "last": f"at step {last}"}.items():
        formed[name].attrs["long_name"] = said
    lines = {
        f"claim_{i}": ("step", numbers[:, i], {"long_name": f"{claim.says}: {claim.measured} ({claim.needs})"})
        for i, claim in enumerate(ends)
    }
    return (
        Figure(
            "When each claim came to hold",
            formed,
            "table",
            "The kept step from which on the number of a claim is on the right side of its bound for good.",
        ),
        Figure(
            "The numbers that decide the claims, over training",
            xr.Dataset(lines, {"step": steps}),
            "lines",
            "One panel a claim; it says what the number is and what it must be.",
            "x",
        ),
        *([Figure("Measures, over training", _along(measured, steps), "lines", "", "x")] if measured else []),
    )


def _along(measured: Sequence[xr.Dataset], steps: Sequence[int]) -> xr.Dataset:
    """What was measured at each step, with the steps as the last axis."""
    together = xr.concat(measured, dim=xr.Variable("step", list(steps)), join="outer")
    return together.transpose(..., "step")
