"""Train a published toy over seeds, and compare its numbers with the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from headway.analyze.studies.result import Figure, Section, StudyResult, table
from headway.checkpoints.recipe import Recipe
from headway.checkpoints.run import Run
from headway.recipes import RECIPES
from headway.reproductions.compared import Compared
from headway.reproductions.published import find_reproduction
from headway.reproductions.reproduction import Reproduction

if TYPE_CHECKING:
    from headway.sweeps.each import Workers

# The name of the result among studies, and of its file.
STUDY = "reproduction"
# Points of a curve.
_POINTS = 400


def recipes_of(name: str, seeds: str | int | Sequence[int] | None = None) -> dict[str, Recipe]:
    """Return the recipes of a reproduction, one for each seed, by the names of their directories.

    Raises:
        ValueError: a name that is none, seeds that are none.
    """
    from headway.sweeps.plan import planned

    found = find_reproduction(name)
    seeds = f"0:{found.seeds}" if seeds is None else seeds
    return planned(RECIPES[found.recipe], {"options": dict(found.options), "seeds": seeds})


def reproduce(
    name: str,
    seeds: str | int | Sequence[int] | None = None,
    out: str | Path | None = None,
    workers: Workers | None = None,
    quiet: bool = False,
) -> StudyResult:
    """Train a published toy over seeds, compare it with what was published, and write the result and its page.

    Args:
        name: One of REPRODUCTIONS.
        seeds: A range such as ``"0:10"``, or a list; as many as the reproduction names if None.
        out: The directory of the runs; ``runs/reproduce/NAME`` if None. Finished runs are not trained again.
        workers: Where they are trained, as of ``train_all``.
        quiet: Show nothing while they are trained.

    Raises:
        ValueError: a name or seeds that are none, a directory that holds other things.
        RuntimeError: a run that failed, or that was asked to stop.

    Example:
        >>> result = reproduce("previous-token", seeds="0:3")  # doctest: +SKIP
        >>> result.to_tree()["Numbers/Published and ours"].verdict.values  # doctest: +SKIP
    """
    from headway.sweeps.train_all import check_all, train_all

    recipes, out = recipes_of(name, seeds), folder_of(name, out)
    check_all(recipes, out)
    outcomes, asked = train_all(recipes, out, workers, quiet)
    if asked is not None:
        raise RuntimeError("stopped; the same call goes on")
    for run, outcome in outcomes.items():
        if outcome.state == "failed":
            raise RuntimeError(f"{run} failed: {outcome.reason}")
    return compare(name, [Run(out / run) for run in recipes], out)


def folder_of(name: str, out: str | Path | None) -> Path:
    """Return the directory of the runs of a reproduction."""
    return Path("runs") / "reproduce" / name if out is None else Path(out).expanduser()


def compare(name: str, runs: Sequence[Run], out: Path) -> StudyResult:
    """Compare finished runs of a reproduction with what was published, and write the result and its page to ``out``."""
    from headway.analyze.report.page import write_results

    found = find_reproduction(name)
    compared = [Compared(each, np.array([each.number(run) for run in runs])) for each in found.published]
    result = StudyResult(STUDY, name, None, tuple(sections(found, runs, compared)), claims=())
    result.write(out / f"{STUDY}.nc")
    about = [("source", found.source), ("recipe", command(name, found)), ("runs", f"{len(runs)} in {out}")]
    write_results(f"{name}: published and ours", out / f"{STUDY}.html", about, [result])
    return result


def command(name: str, found: Reproduction) -> str:
    """Return the configuration as a command."""
    options = " ".join(f"--{option} {_as_argument(value)}" for option, value in found.options.items())
    return f"headway train {found.recipe} {options}".strip()


def _as_argument(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    return f'"{text}"' if " " in text else text


def sections(found: Reproduction, runs: Sequence[Run], compared: Sequence[Compared]) -> list[Section]:
    """Return the table of published numbers beside ours, and the losses of the runs over training."""
    rows = table(
        "number",
        [str(each.published.number) for each in compared],
        published=[str(each.published) for each in compared],
        ours=[each.estimate.value for each in compared],
        low=[each.estimate.low for each in compared],
        high=[each.estimate.high for each in compared],
        least=[each.ours.min() for each in compared],
        most=[each.ours.max() for each in compared],
        n=[each.n for each in compared],
        verdict=[each.verdict for each in compared],
        note=[each.published.note for each in compared],
    )
    titles = {"ours": "ours, median", "low": "95 % from", "high": "to", "least": "least run", "most": "highest run"}
    for column, title in titles.items():
        rows[column].attrs["long_name"] = title
    of_each = xr.Dataset(
        {
            f"number_{place}": ("seed", each.ours, {"long_name": str(each.published.number)})
            for place, each in enumerate(compared)
        },
        {"seed": [run.recipe.seed for run in runs]},
    )
    how = (
        "Ours are medians over runs with bootstrap intervals. A published number is one draw: ours agree if it lies "
        "within the range of our runs. A bound must hold in every run; in brackets is the Wilson interval of the "
        "share. Where no bound was published it is a goal of ours."
    )
    figures = (
        Figure("Published and ours", rows, "table", how),
        Figure("Each run", of_each, "lines", "Each panel is a number, and each point of its line a run."),
        Figure("Training loss", curves(runs), "lines", "Each line is a run, as medians of neighbouring updates.", "x"),
    )
    return [Section("Numbers", " ".join(filter(None, [found.source, found.note])), figures)]


def curves(runs: Sequence[Run]) -> xr.Dataset:
    """Return the training loss of each run, as medians over blocks of updates that are even in log(update)."""
    losses = [run.training.loss for run in runs]
    last = max(int(each.step[-1]) for each in losses)
    ends = np.unique(np.geomspace(1, last + 1, _POINTS).astype(int))
    blocks = list(pairwise(ends))
    values = [
        [
            np.median(each.values[first - 1 : end - 1]) if first <= each.sizes["step"] else np.nan
            for first, end in blocks
        ]
        for each in losses
    ]
    return xr.Dataset(
        {"loss": (("run", "update"), values, {"long_name": "training loss"})},
        {"run": [run.path.name for run in runs], "update": [int(first) for first, _ in blocks]},
    )
