"""The page: the scores of each run in one HTML file, with the scripts that draw them."""

import html
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import einops
import numpy as np
import xarray as xr

from headway.analyze.formation.roles import ROLES
from headway.analyze.measures.descriptions import SHARE_OF_KNOWN
from headway.analyze.report import palette
from headway.analyze.report.about import about_run
from headway.analyze.report.circuit_page import circuits_data
from headway.analyze.report.figure_data import Attribution, Curves, Positions, Score, Spectrum
from headway.analyze.report.formation_lines import (
    behaviour_lines,
    first_lines,
    half_way_steps,
    head_lines,
    nothing_to_explain,
    parts_lines,
)
from headway.analyze.report.network_in_page import Weights, add_weights, most_bytes, network_in_page
from headway.analyze.report.packed import Packed
from headway.analyze.report.prompt_page import prompt_data
from headway.analyze.report.runs_page import MANY, runs_data
from headway.analyze.report.stored import Damaged, StoredScores, read_study, spread
from headway.analyze.report.study_page import study_data
from headway.analyze.report.updates_page import updates_data
from headway.analyze.studies.result import StudyResult
from headway.checkpoints import Run
from headway.checkpoints.files import NotWrittenError, check_replaceable, write_whole
from headway.data.parts import remove_parts_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from headway.analyze.tools.prompt import PromptResult
    from headway.models.convert import Model

# In the order in which they build on each other; each figure of the page is one file.
SCRIPTS = (
    "base", "drawing", "state", "share", "charts", "numbers", "formed", "circuit", "loss", "network", "diagram",
    "attention", "overview", "forward", "networks", "tokenizer", "trial", "try", "comparison", "positions", "tokens",
    "eigenvalues", "heads", "pairs", "attribution", "by_position", "updates", "studies", "start",
)  # fmt: skip
RUNS_SCRIPTS = ("base", "drawing", "state", "share", "charts", "many", "table", "ways", "dates", "runs")
PROMPT_SCRIPTS = ("base", "drawing", "state", "share", "attention", "maps", "prompt")
SHOWN_SCRIPTS = ("base", "drawing", "state", "share", "attention", "maps", "shown")
# The checkpoints of a page: those the slider stops at, and those that lines over training go through.
MOST_CHECKPOINTS = 100
MOST_POINTS = 500
# Of scores of pairs and of eigenvalues, where they are more numbers than this, a page has fewer digits.
MOST_NUMBERS = 100_000
# What the patterns of a page may take, in bytes, when they are deflated.
MOST_PATTERNS = 900_000
MARK = '<meta name="generator" content="headway">'


def write_report(
    runs: Run | Sequence[Run],
    out: str | Path | None = None,
    overwrite: bool = False,
    live: bool = False,
    weights: Weights = "fitting",
) -> Path:
    """Write the page of one run, of several beside each other, or of six and more as a table, and give its path.

    Args:
        runs: The runs.
        out: The file; ``report.html`` in the run's directory, or for several runs in the folder they lie in.
        overwrite: Replace a file that is not a page of ours.
        live: Whether the page loads itself again every two seconds, to show new scores.
        weights: The checkpoints whose network a reader can run in the page, of those that the slider stops at: as many
            as fit into a page of 3 MB (``fitting``), of 100 MB (``all``) or of so many MB, with the last before all
            others, or ``none``. A live page and one of six runs and more have none. A warning says where a page has
            fewer than was asked for.

    Raises:
        ValueError: no run, ``weights`` that are not valid or of which not even one checkpoint fits, an ``out`` that
            holds something else or cannot be written; six runs or more of which one is given twice, that are of
            different tasks, or whose scores are damaged.
    """
    runs = [runs] if isinstance(runs, Run) else list(runs)
    if not runs:
        raise ValueError("runs: none is given; give at least one")
    check_weights(weights, runs)
    out = page_of(runs) if out is None else Path(out).expanduser()
    check_page(out, overwrite)
    if len(runs) >= MANY:
        return write_page(out, page_of_many(out.absolute().parent.name, runs_data(runs, out), live), overwrite)
    return write_page(out, page([StoredScores.of(run) for run in runs], live, weights), overwrite)


def check_weights(weights: Weights, runs: Sequence[Run]) -> None:
    """Refuse ``weights`` that are not valid, or that the page of so many runs cannot have.

    Raises:
        ValueError: as said.
    """
    most_bytes(weights)
    if len(runs) >= MANY and weights not in ("fitting", "none"):
        raise ValueError(
            f"weights: {weights!r} is not valid for {len(runs)} runs; a page of {MANY} runs or more has no network"
        )


def page_of(runs: Sequence[Run]) -> Path:
    """Return the path of the page of one run, or of several, if no other is given."""
    return runs[0].report_file if len(runs) == 1 else runs[0].path.parent / "report.html"


def check_page(out: Path, overwrite: bool = False) -> Path:
    """Refuse a path at which a page would replace something else, and return it.

    Raises:
        ValueError: a directory, a device, or a file that is not a page of ours unless ``overwrite``.
    """
    return check_replaceable(out, MARK.encode(), "a page", overwrite, within=1000)


def is_page(path: Path) -> bool:
    """Return whether a file is a page of ours."""
    with path.open("rb") as file:
        return MARK.encode() in file.read(1000)


def write_studies(folder: Path, model: "TransformerBridge") -> Path:
    """Write the page of a model that was not trained here, with the studies that ``folder`` holds.

    Raises:
        ValueError: a report.html there that is not a page of ours, or that cannot be written.
    """
    cfg, name = model.cfg, str(model.cfg.model_name)
    sizes = (
        f"{cfg.n_layers} layers of {cfg.n_heads} heads, d_model {cfg.d_model}, d_head {cfg.d_head}, "
        f"{cfg.d_vocab} tokens, normalization {cfg.normalization_type}"
    )
    studies = [read_study(path) for path in sorted(folder.glob("studies/*.nc"))]
    return write_results(name, folder / "report.html", [("model", name), ("network", sizes)], studies)


def write_results(
    title: str, out: Path, about: Sequence[tuple[str, str]], results: Sequence["StudyResult | Damaged"]
) -> Path:
    """Write a page that has only results of studies and what they are about, and give its path.

    Raises:
        ValueError: a file there that is not a page of ours, or that cannot be written.
    """
    packed = Packed()
    studies = [_study(result, packed) for result in results]
    data = _nothing_trained(title, out.parent, about) | {"studies": studies, "packed": packed.text()}
    return write_page(out, _text(title, {"live": False, "definitions": {}, "runs": [data]}), False)


def write_prompt_page(
    results: "Mapping[int | None, PromptResult]",
    at: int | None,
    model: "Model",
    about: list[tuple[str, str]],
    out: Path,
    top: int = 5,
    overwrite: bool = False,
    left_out: str = "",
) -> Path:
    """Write the page of a prompt, and give its path.

    Args:
        results: The network on the prompt at each checkpoint that the slider stops at; of a language model at None.
        at: The checkpoint at which the page opens.
        model: The network.
        about: Facts for the end of the page.
        out: The file.
        top: The number of likeliest tokens at each position.
        overwrite: Replace a file that is not a page of ours.
        left_out: A sentence on checkpoints that the page does not have.

    Raises:
        ValueError: a file there that is not a page of ours, or that cannot be written.
    """
    check_page(out, overwrite)
    data = prompt_data(results, at, model.cfg.n_layers, about, top, left_out)
    return write_page(out, _text(about[0][1], {"prompt": data}, PROMPT_SCRIPTS), overwrite)


def small_page(title: str, data: dict[str, Any]) -> str:
    """Return the whole file of the page of attention alone, as text."""
    return _text(title, data, SHOWN_SCRIPTS)


def write_page(out: Path, text: str, overwrite: bool = False) -> Path:
    """Write the text of a page, and give its path.

    Raises:
        ValueError: a file there that is not a page of ours, unless ``overwrite``, or that cannot be written.
    """
    check_page(out, overwrite)
    try:
        remove_parts_of(out)
        write_whole(out, text)
    except NotWrittenError as error:
        raise ValueError(f"out: {error.strerror}") from None
    return out


def page(stored: Sequence[StoredScores], live: bool = False, weights: Weights = "fitting") -> str:
    """The whole file as text."""
    names = _names([each.run.path.resolve() for each in stored])
    runs = [{"name": name, **run_data(each, live)} for name, each in zip(names, stored, strict=True)]
    networks = [network_in_page(each, run["steps"], live, weights) for each, run in zip(stored, runs, strict=True)]
    for run, network in zip(runs, networks, strict=True):
        run["network"] = network.data
    data = {
        "live": live,
        "definitions": {name: text._asdict() for each in stored for name, text in each.definitions.items()},
        "runs": runs,
    }
    if any(each.steps for each in networks):
        size = len(_text(", ".join(names), data).encode())
        fewer = add_weights([(each.run, own) for each, own in zip(stored, networks, strict=True)], size, weights)
        for sentence in fewer if weights != "fitting" else ():
            warnings.warn(f"weights: {sentence}", stacklevel=3)
    return _text(", ".join(names), data)


def page_of_many(title: str, data: dict[str, Any], live: bool = False) -> str:
    """The whole file of the page of many runs, from ``runs_page.runs_data``, as text."""
    return _text(title, {"live": live, "many": data}, RUNS_SCRIPTS)


def _text(title: str, data: dict[str, Any], scripts: Sequence[str] = SCRIPTS) -> str:
    folder = files("headway.analyze.report") / "assets"
    data |= {
        "palette": {
            "categories": palette.CATEGORIES,
            "nothing": palette.NOTHING,
            "sequential": palette.SEQUENTIAL._asdict(),
            "diverging": palette.DIVERGING._asdict(),
        },
        "roles": list(ROLES.items()),
    }
    parts = {
        "mark": MARK,
        "title": html.escape(title),
        "style": (folder / "page.css").read_text(encoding="utf-8"),
        "script": "\n".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in scripts),
        # No token and no path can end the script element.
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    # One pass, so that a part may hold such a place.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], (folder / "page.html").read_text(encoding="utf-8"))


def _names(paths: list[Path]) -> list[str]:
    """The ends of paths, as short as they can be and still differ.

    Example:
        >>> _names([Path("/a/seed-0/run"), Path("/a/seed-1/run")])
        ['seed-0/run', 'seed-1/run']
    """
    for parts in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(path) for path in paths]


def run_data(stored: StoredScores, live: bool = False) -> dict[str, Any]:
    """Return the data from which the page's scripts draw one run; on a live page without its updates.

    Of a run with many checkpoints a page shows some: ``steps`` are those of the slider, ``lineSteps`` those of lines
    over training. Dates are taken from all.
    """
    config, packed = stored.run.config, Packed()
    layers, heads = stored.heads
    shown = spread(stored.steps, MOST_CHECKPOINTS, stored.dates)
    # A line goes through every checkpoint that the slider stops at.
    lines = sorted({*shown, *spread(stored.steps, MOST_POINTS)})
    data = {
        "path": str(stored.run.path),
        "about": about_run(stored.run),
        "trainedHere": True,
        "finished": stored.run.finished,
        "scored": len(stored.steps),
        "steps": [stored.steps[place] for place in shown],
        "lineSteps": [stored.steps[place] for place in lines],
        "lastStep": config["steps"],
        "leftOut": list(stored.left_out.items()),
        "lacking": stored.lacking,
        "layers": layers,
        "heads": heads,
        "firstLines": [line.sentence for line in first_lines(stored)],
        "halfWay": [
            {"of": name, "step": date.step, "text": str(date)} for name, date in half_way_steps(stored).items()
        ],
        "headLines": head_lines(stored),
        "sentences": [*_carried(stored), *stored.sentences],
        "circuits": [circuits_data(each, packed) for each in stored.circuits],
        "nothingToExplain": nothing_to_explain(stored),
        "lossUnits": stored.loss_units,
        "notShown": [{"name": each.name, "axes": each.axes} for each in stored.not_shown],
        "baselines": stored.baselines,
        "loss": next((packed.add(each.values.values[shown]) for each in stored.losses if each.of_all), None),
        "losses": [{"label": each.label, "values": packed.add(each.values.values[lines])} for each in stored.losses],
        "roles": _roles(stored, packed, shown),
        "effects": _effects(stored, packed, shown),
        "spectra": [_spectrum(each, packed, shown) for each in stored.spectra],
        "curves": [_curves(each, packed, lines) for each in stored.curves],
        "positions": [_positions(each, packed, shown) for each in stored.positions],
        "updates": None if live else updates_data(stored, packed),
        "perHead": [_per_head(score, packed, lines) for score in stored.per_head],
        "perPair": [_per_pair(score, packed, shown) for score in stored.per_pair],
        "attributions": [_attribution(each, packed, shown) for each in stored.attributions],
        "attention": _attention(stored, packed, shown),
        "studies": [_study(each, packed) for each in stored.studies],
    }
    return data | {"packed": packed.text()}


def _carried(stored: StoredScores) -> list[str]:
    """Return the behaviour, the circuit and its parts as sentences: the lines of the summary, without their columns."""
    return [line.sentence for line in (*behaviour_lines(stored), *parts_lines(stored))] if stored.steps else []


def _nothing_trained(name: str, folder: Path, about: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the page's data of what has no checkpoints and no scores."""
    return {
        "name": name,
        "path": str(folder),
        "about": list(about),
        "trainedHere": False,
        "finished": True,
        "scored": 0,
        "steps": [],
        "lineSteps": [],
        "lastStep": 0,
        "leftOut": [],
        "lacking": [],
        "layers": 0,
        "heads": 0,
        "firstLines": [],
        "halfWay": [],
        "headLines": {},
        "sentences": [],
        "circuits": [],
        "nothingToExplain": "",
        "lossUnits": "",
        "notShown": [],
        "baselines": {},
        "loss": None,
        "losses": [],
        "roles": None,
        "effects": None,
        "spectra": [],
        "curves": [],
        "positions": [],
        "updates": None,
        "perHead": [],
        "perPair": [],
        "attributions": [],
        "attention": None,
        "network": {},
    }


def _roles(stored: StoredScores, packed: Packed, at: list[int]) -> dict[str, Any] | None:
    """Roles as their places in ROLES, -1 for none."""
    if stored.roles is None:
        return None
    role = stored.roles.role.values
    places = np.select([role == name for name in ROLES], list(range(len(ROLES))), -1)
    return {"role": packed.add(places[at]), "share": packed.add(stored.roles.role_share.values[at])}


def _effects(stored: StoredScores, packed: Packed, at: list[int]) -> dict[str, Any] | None:
    """Return effects of heads and MLPs, as shares of what is known; None for a run that has losses in their place."""
    scored = stored.variables.get("effect", {})
    if "effect" not in scored or scored["effect"].attributes["units"] != SHARE_OF_KNOWN:
        return None
    mlps = scored.get("effect_mlp")
    return {
        "heads": packed.add(scored["effect"].values.transpose("step", "layer", "head").values[at]),
        "mlps": None if mlps is None else packed.add(mlps.values.values[at]),
    }


def _attention(stored: StoredScores, packed: Packed, at: list[int]) -> dict[str, Any] | None:
    patterns = stored.attention(at)
    if patterns is None or stored.whole_attention is None:
        return None
    values = patterns.values  # read from its files once
    sequences, length = _fitting(values)
    return {
        "values": packed.add_shares(values[:, :, :, :sequences, :length, :length]),
        "tokens": [row[:length] for row in stored.tokens[:sequences]],
        "descriptions": stored.descriptions[:sequences],
        "positions": stored.whole_attention.sizes["query"],
    }


def _fitting(patterns: np.ndarray) -> tuple[int, int]:
    """Return how many sequences, and of a single one how many positions, take about MOST_PATTERNS when deflated.

    It goes by the patterns [step, layer, head, batch, query, key] of some heads of each layer.
    """
    heads, sequences, length = patterns.shape[2:5]
    some, alone = patterns[:, :, :: max(1, heads // 3)], Packed()
    alone.add_shares(some)
    room = MOST_PATTERNS / (alone.deflated_size * heads / some.shape[2])
    fitting = min(sequences, max(1, int(room * sequences)))
    return fitting, max(1, int(length * min(1, room * sequences / fitting) ** 0.5))


def _spectrum(spectrum: Spectrum, packed: Packed, at: list[int]) -> dict[str, Any]:
    """Return eigenvalues; many of them to a hundredth of the largest of each head, which is more than one can see."""
    eigenvalues = spectrum.eigenvalues.isel(step=at).values
    many = eigenvalues.size > MOST_NUMBERS

    def part(values: np.ndarray) -> dict[str, Any]:
        return packed.add(values, digits=3, unit=_hundredths(eigenvalues)) if many else packed.add(values)

    return {
        "measure": spectrum.measure,
        "re": part(np.real(eigenvalues)),
        "im": part(np.imag(eigenvalues)),
        "precision": "3 digits, steps of at most 1/100 of the largest of the head" if many else "",
        "ratio": packed.add(spectrum.score.values[at]),
    }


def _hundredths(eigenvalues: np.ndarray) -> np.ndarray:
    """Return the power of ten that is a hundredth of each head's largest eigenvalue, or next below it."""
    size = np.abs(eigenvalues)
    largest = np.where(np.isfinite(size), size, 0).max(axis=(0, 3), keepdims=True)
    return 10.0 ** np.floor(np.log10(np.where(largest > 0, largest, 1) / 100))


def _curves(curves: Curves, packed: Packed, at: list[int]) -> dict[str, Any]:
    return {
        "measure": curves.measure,
        "label": curves.label,
        "units": curves.units,
        "limits": curves.limits,
        "lines": [{"label": name, "values": packed.add(values.values[at])} for name, values in curves.lines.items()],
        "null": None if curves.null is None else packed.add(curves.null.values[at]),
    }


def _positions(positions: Positions, packed: Packed, at: list[int]) -> dict[str, Any]:
    return {
        "label": positions.label,
        "units": positions.units,
        "values": packed.add(positions.values.values[at]),
    }


def _per_head(score: Score, packed: Packed, at: list[int]) -> dict[str, Any]:
    """Nulls and bands are those of all heads of a layer."""

    def of_layers(values: xr.DataArray | None) -> dict[str, Any] | None:
        return None if values is None else packed.add_exact(np.fmax.reduce(values.values[at], axis=-1))

    return {
        "measure": score.measure,
        "label": score.label,
        "limits": score.limits,
        "values": packed.add_exact(score.values.values[at]),
        "null": of_layers(score.null),
        "low": of_layers(score.low),
        "high": of_layers(score.high),
    }


def _per_pair(score: Score, packed: Packed, at: list[int]) -> dict[str, Any]:
    """Pairs stand in one row, those that can have a score; ``pairs`` numbers the heads of each through all layers.

    Many numbers have two digits each; z then has steps of 0.1, where 1 is the spread of its null.
    """
    flat = einops.rearrange(score.values.values, "step l1 h1 l2 h2 -> step (l1 h1) (l2 h2)")
    layer = np.arange(flat.shape[1]) // score.values.sizes["from_head"]
    known, later = np.isfinite(flat).any(0), layer[:, None] < layer
    there = known & later
    many = len(at) * there.sum() > MOST_NUMBERS

    def in_a_row(values: xr.DataArray) -> np.ndarray:
        return einops.rearrange(values.values, "... l1 h1 l2 h2 -> ... (l1 h1) (l2 h2)")[..., there]

    def of_pairs(values: xr.DataArray | None, unit: float = 0.0) -> dict[str, Any] | None:
        if values is None:
            return None
        row = in_a_row(values.isel(step=at))
        return packed.add(row, digits=2, unit=unit) if many else packed.add(row)

    null = None if score.null is None else packed.add(np.fmax.reduce(score.null.values[at], axis=(-3, -1)))
    return {
        "measure": score.measure,
        "label": score.label,
        "pairs": packed.add_exact(np.argwhere(there)),
        "precision": "2 digits" if many else "",
        "elsewhere": bool((known & ~later).any()),
        "values": of_pairs(score.values),
        "null": null,
        "z": of_pairs(score.z, unit=0.1),
        "ceiling": of_pairs(score.ceiling),
        "formed": packed.add_exact(in_a_row(score.formed_from)),
    }


def _attribution(attribution: Attribution, packed: Packed, at: list[int]) -> dict[str, Any]:
    return {
        "label": attribution.label,
        "units": attribution.units,
        "components": attribution.values.component.values.tolist(),
        "values": packed.add(attribution.values.isel(step=at).values),
    }


def _study(study: StudyResult | Damaged, packed: Packed) -> dict[str, Any]:
    return study._asdict() if isinstance(study, Damaged) else study_data(study, packed)
