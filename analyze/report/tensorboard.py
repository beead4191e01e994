"""A run in TensorBoard: curves of losses and heads, patterns and pairs in colour, and the recipe.

Tags have groups: ``loss/`` and other numbers of the whole network, ``heads/<measure>/L0H3``, ``layers/<measure>/L0``,
``circuits/`` for pairs of heads, ``optimiser/``. What is shown of a score follows from its axes and its attributes.
"""

import io
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import groupby
from typing import Any

import einops
import lightning as L
import numpy as np
import xarray as xr
from jaxtyping import Float
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from torch.utils.tensorboard import SummaryWriter

from headway.analyze.network.axes import HEAD, PAIR
from headway.analyze.report.attributes import role_of
from headway.analyze.report.palette import DIVERGING, NOTHING, SEQUENTIAL, rgb
from headway.checkpoints.recipe import Recipe
from headway.checkpoints.run import UPDATE_TAGS, Run
from headway.checkpoints.scores import read_file, score_files
from headway.data.parts import part_of
from headway.models.config import Head

ATTENTION = ("layer", "head", "batch", "query", "key")
# Files are read in the order of their names, which begin with a time: this one before all that a run writes later.
MENDED = "events.out.tfevents.0000000000.mended"
# TensorBoard's table of runs shows five options at first, and prefers options that are marked as differing.
FIRST = ("model.n_layers", "optim.lr", "seed", "steps", "task.class")
# A colour map in an image of 256 colours: the anchors of both ramps lie on its steps, or half a step beside one.
STEPS = 250
ABSENT, LINE = STEPS + 1, STEPS + 2
ABSENT_COLOUR = "#e6e6e6"
# The z at which a composition has the last colour.
STRONG = 10.0


class RunLogger(TensorBoardLogger):
    """Lightning's logger, writing into a run's own directory."""

    def __init__(self, run: Run):
        self.run = run
        super().__init__(run.path, name="", version="")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write numbers of one step as one event, in a third of the time that an event for each takes."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in metrics.items()]
        _write(self.experiment, Summary(value=values), step=step)

    def save(self) -> None:
        """Flush. Lightning's hparams.yaml is not written, because config.yaml holds the options."""
        self.experiment.flush()


def mend_log(run: Run, step: int | None) -> None:
    """Bring TensorBoard's files to the state in which an undisturbed run has them after its checkpoint at ``step``.

    What a run has written of later steps before it died is left out, because these are taken again, what was written
    twice is written once, and scores that were never shown are shown. If nothing is amiss no file changes.
    """
    old = sorted(run.path.glob("events.out.tfevents.*"))
    logged = [event for path in old for event in LegacyEventFileLoader(str(path)).Load() if event.summary.value]
    kept = sorted(_each_once(logged, -1 if step is None else step), key=lambda event: event.step)
    shown = {event.step for event in kept if any(map(_shows_score, event.summary.value))}
    scored: dict[int, dict[str, xr.Dataset]] = {}
    for (at, name), path in score_files(run.path).items():
        if at not in shown and step is not None and at <= step:
            scored.setdefault(at, {})[name] = read_file(path)
    if 0 in scored:
        # What is written once comes before the scores of step 0, and is written again with them.
        kept = [event for event in kept if event.step > 0]
    if not scored and kept == logged:
        return
    folder = part_of(run.path / "log")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        writer = SummaryWriter(str(folder))
        by_step = {at: list(events) for at, events in groupby(kept, key=lambda event: event.step)}
        for at in sorted(by_step.keys() | scored.keys()):
            for event in by_step.get(at, []):
                writer._get_file_writer().add_event(event, at, event.wall_time)
            if at == 0 and at in scored:
                show_run(writer, run.recipe, scored[at])
            if at in scored:
                show(writer, scored[at], at)
        writer.close()
        (written,) = folder.iterdir()
        written.replace(run.path / MENDED)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for path in old:
        if path.name != MENDED:
            path.unlink()


def _each_once(events: Iterable[Any], last: int) -> Iterator[Any]:
    """Yield the events up to step ``last``, without what an earlier one has written of the same step."""
    seen: set[tuple[int, str]] = set()
    for event in events:
        new = [value for value in event.summary.value if (event.step, value.tag) not in seen]
        if event.step > last or not new:
            continue
        seen.update((event.step, value.tag) for value in new)
        if len(new) < len(event.summary.value):
            event = Event(step=event.step, wall_time=event.wall_time, summary=Summary(value=new))
        yield event


def _shows_score(value: Any) -> bool:
    """Return whether a value is a number or picture of a score, and neither of an update nor what is written once."""
    return value.HasField("image") or (value.HasField("simple_value") and value.tag not in UPDATE_TAGS.values())


def log_scores(trainer: L.Trainer, scores: Mapping[str, xr.Dataset], step: int) -> None:
    """Write the scores of one checkpoint of a run that trains, and at step 0 its recipe too."""
    logger = trainer.logger
    if isinstance(logger, RunLogger):
        if step == 0:
            show_run(logger.experiment, logger.run.recipe, scores)
        show(logger.experiment, scores, step)


def show_run(writer: SummaryWriter, recipe: Recipe, measured: Mapping[str, xr.Dataset]) -> None:
    """Write what is written once: the recipe, the layout of the charts that overlay curves, captions of pictures."""
    _write(writer, *hyperparameters(recipe))
    writer.add_custom_scalars(layout(measured))
    for name, scores in measured.items():
        for tag, (_, legend) in pictures(name, scores).items():
            writer.add_text(tag, legend)


def show(writer: SummaryWriter, measured: Mapping[str, xr.Dataset], step: int) -> None:
    """Write the scores at one step, by measure: curves and pictures, all in one event."""
    summary = Summary()
    for name, scores in measured.items():
        for tag, value in curves(name, scores).items():
            summary.value.add(tag=tag, simple_value=value)
        for tag, (image, _) in pictures(name, scores).items():
            summary.value.add(tag=tag, image=_encoded(image))
    _write(writer, summary, step=step)
    # A run that is killed has written what it has kept.
    writer.flush()


def curves(name: str, scores: xr.Dataset) -> dict[str, float]:
    """The numbers that are drawn over the steps, by tag: of the network, of heads, of layers, and the largest of pairs.

    Example:
        >>> curves("copies", xr.Dataset({"copies": (("layer", "head"), [[0.5, np.nan]])}))
        {'heads/copies/L0H0': 0.5}
    """
    if name not in scores:
        return {}
    dims, values = scores.variables[name].dims, scores.variables[name].values
    drawn: dict[str, float] = {}
    if dims == ():
        drawn = {f"loss/{part}": each.item() for part, each in scores.data_vars.items() if each.dims == ()}
    elif dims == HEAD:
        drawn = {f"heads/{name}/{Head(*at)}": values[at].item() for at in np.ndindex(values.shape)}
    elif dims == ("layer",):
        drawn = {f"layers/{name}/L{layer}": value.item() for layer, value in enumerate(values)}
    elif dims == PAIR:
        drawn = {f"circuits/{name}/strongest": np.fmax.reduce(values, axis=None).item()}
    return {tag: value for tag, value in drawn.items() if not math.isnan(value)}


def pictures(name: str, scores: xr.Dataset) -> dict[str, tuple[Image.Image, str]]:
    """The pictures at each step, by tag, with their captions: attention patterns, and the z of pairs of heads.

    The colour of attention follows its square root, so that weak attention is visible.
    """
    drawn = {}
    for variable, array in scores.variables.items():
        if array.dims == ATTENTION:
            first_sequence = array.values[:, :, 0].clip(0, 1)
            drawn[f"heads/{variable}"] = (
                picture(np.sqrt(first_sequence), SEQUENTIAL.light, zoom=max(1, 144 // array.sizes["key"])),
                "Attention on the first sequence of the evaluation batch, one row of heads for each layer. Rows: "
                "queries, columns: keys. White is 0, dark blue 1; the colour follows the square root.",
            )
        elif array.dims == PAIR and role_of(name, str(variable), array.attrs) == "z" and array.sizes["from_layer"] > 1:
            # No layer reads the output of the last, and the first reads no output.
            pairs = einops.rearrange(array.values[:-1, :, 1:], "l1 h1 l2 h2 -> (l1 h1) (l2 h2) 1 1")
            drawn[f"circuits/{name}"] = (
                picture(pairs / (2 * STRONG) + 0.5, DIVERGING.light, zoom=max(8, 288 // len(pairs))),
                "Standard deviations between a pair of heads and its null. Rows: heads that write, from L0H0 on; "
                f"columns: heads that read, from L1H0 on. Brown: -{STRONG:.0f} or less, white: 0, dark blue: "
                f"{STRONG:.0f} or more, grey: no such pair.",
            )
    return drawn


def picture(tiles: Float[np.ndarray, "rows columns height width"], anchors: tuple[str, ...], zoom: int) -> Image.Image:
    """A grid of tiles, lines around each: 0 in the first colour, 1 in the last, NaN light grey.

    Each number is a square of ``zoom`` pixels.

    Example:
        >>> image = picture(np.array([[[[1.0, 0.0]]]]), ("#000000", "#ffffff"), zoom=3).convert("RGB")
        >>> image.size, image.getpixel((1, 1)), image.getpixel((6, 3))
        ((8, 5), (255, 255, 255), (0, 0, 0))
    """
    index = np.where(np.isnan(tiles), ABSENT, np.rint(STEPS * tiles.clip(0, 1))).astype("uint8")
    squares = einops.repeat(index, "rows columns y x -> rows columns (y z1) (x z2)", z1=zoom, z2=zoom)
    framed = np.pad(squares, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=LINE)
    # One byte for each pixel is encoded in a tenth of the time that three take.
    image = Image.fromarray(einops.rearrange(framed, "rows columns y x -> (rows y) (columns x)"))
    image.putpalette(_palette(anchors))
    return image


@cache
def _palette(anchors: tuple[str, ...]) -> bytes:
    """Return the colours of an image's numbers: the ramp between the anchors, then that of absent ones and of lines."""
    at = np.linspace(0, 1, STEPS + 1)
    ramp = [np.interp(at, np.linspace(0, 1, len(anchors)), channel) for channel in zip(*rgb(anchors), strict=True)]
    colours = np.vstack([np.stack(ramp, axis=1), rgb((ABSENT_COLOUR, NOTHING))])
    return np.rint(255 * colours).astype("uint8").tobytes()


def layout(measured: Mapping[str, xr.Dataset]) -> dict[str, dict[str, list[Any]]]:
    """The charts of the tab Custom Scalars: by category and title, the regular expressions of the tags they overlay.

    They fit networks of any size, so that runs beside each other share their charts.
    """
    charts: dict[str, dict[str, list[Any]]] = {"loss": {}, "heads": {}, "layers": {}, "circuits": {}}
    for name, scores in measured.items():
        dims = scores[name].dims if name in scores else None
        if dims == ():
            parts = [rf"^loss/{re.escape(name)}(_.+)?$"]
            charts["loss"][name] = ["Multiline", ["^loss/train$", *parts] if name == "loss" else parts]
        elif dims == HEAD:
            charts["heads"][name] = ["Multiline", [rf"^heads/{re.escape(name)}/L\d+H\d+$"]]
        elif dims == ("layer",):
            charts["layers"][name] = ["Multiline", [rf"^layers/{re.escape(name)}/L\d+$"]]
        elif dims == PAIR:
            charts["circuits"]["strongest pair"] = ["Multiline", [r"^circuits/.+/strongest$"]]
    return {category: titled for category, titled in charts.items() if titled}


def hyperparameters(recipe: Recipe) -> tuple[Summary, Summary]:
    """The tab HParams: its columns (every option of the recipe, and the loss at the end) and this run's values.

    Options are called as on the command line, ``model.n_layers``.
    """
    values = {
        name: str(value) if isinstance(value, list) else value
        for name, value in _flat(recipe.to_dict()).items()
        if name != "version"
    }
    kinds = {bool: "DATA_TYPE_BOOL", str: "DATA_TYPE_STRING"}
    columns = api_pb2.Experiment(  # pyright: ignore[reportAttributeAccessIssue]
        hparam_infos=[
            {"name": name, "type": kinds.get(type(value), "DATA_TYPE_FLOAT64"), "differs": name in FIRST}
            for name, value in values.items()
        ],
        metric_infos=[{"name": {"tag": "loss/loss"}, "display_name": "evaluation loss"}],
    )
    content = plugin_data_pb2.HParamsPluginData(experiment=columns)  # pyright: ignore[reportAttributeAccessIssue]
    described = metadata.create_summary_metadata(content)
    experiment = Summary.Value(tag=metadata.EXPERIMENT_TAG, metadata=described, tensor=metadata.NULL_TENSOR)
    # An option that is not set has a column and no value. Without an id of its own each run is a trial.
    given = {name: value for name, value in values.items() if value is not None}
    return Summary(value=[experiment]), summary_v2.hparams_pb(given, trial_id="")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _encoded(image: Image.Image) -> Summary.Image:
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)
    return Summary.Image(height=image.height, width=image.width, colorspace=3, encoded_image_string=file.getvalue())


def _write(writer: SummaryWriter, *summaries: Summary, step: int | None = None) -> None:
    for summary in summaries:
        writer._get_file_writer().add_summary(summary, step)
