"""What TensorBoard shows of a run, read back from its event files."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.plugins.hparams import metadata
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter
from toys import TOKENS, VECTORS, Train

from headway.analyze import LIVE
from headway.analyze.network.axes import HEAD, PAIR
from headway.analyze.report.palette import DIVERGING, SEQUENTIAL, rgb
from headway.analyze.report.tensorboard import ATTENTION, curves, layout, pictures, show
from headway.checkpoints import Recipe, Run
from headway.checkpoints.log import logged_numbers
from headway.checkpoints.run import UPDATE_TAGS
from headway.models.config import Head
from headway.models.lightning_module import TrainingModule
from headway.train import resume, train

ONE_LAYER = replace(TOKENS, model=replace(TOKENS.model, n_layers=1))
GROUPS = ("loss/", "heads/", "circuits/", "optimiser/")
LAYOUT = "custom_scalars__config__"


def read(path: Path) -> EventAccumulator:
    return EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def series(events: EventAccumulator, tag: str) -> dict[int, float]:
    points = [(event.step, event.value) for event in events.Scalars(tag)]
    assert len(points) == len(dict(points)), "a step is shown once"
    return dict(points)


def charts(events: EventAccumulator) -> dict[tuple[str, str], list[str]]:
    """The regular expressions of the one layout there is, by category and title."""
    (event,) = events.Tensors(LAYOUT)
    found = Layout.FromString(event.tensor_proto.string_val[0])
    return {(part.title, chart.title): list(chart.multiline.tag) for part in found.category for chart in part.chart}


def matched(patterns: list[str], tags: list[str]) -> set[str]:
    """As TensorBoard's server matches them: from the start, and not to the end."""
    return {tag for tag in tags if any(re.match(pattern, tag) for pattern in patterns)}


def pixels(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def colour(anchor: str) -> list[int]:
    return [round(255 * channel) for channel in rgb((anchor,))[0]]


def scored(scores: xr.Dataset, axes: tuple[str, ...]) -> list[str]:
    """The live measures whose score has these axes at each step."""
    return [each.name for each in LIVE if each.name in scores and scores[each.name].dims == ("step", *axes)]


@pytest.fixture(
    scope="module",
    params=[TOKENS, VECTORS, ONE_LAYER, replace(TOKENS, schedule=replace(TOKENS.schedule, linear=17))],
    ids=["tokens", "vectors", "one layer", "every step"],
)
def run(request: pytest.FixtureRequest, trained: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(request.param, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def scores(run: Run) -> xr.Dataset:
    return run.scores


@pytest.fixture(scope="module")
def events(run: Run) -> EventAccumulator:
    return read(run.path)


def test_every_kept_step_has_every_head_s_score(run: Run, scores: xr.Dataset, events: EventAccumulator):
    shown = {tag for tag in events.Tags()["scalars"] if tag.startswith("heads/")}
    expected = set()
    for name in scored(scores, HEAD):
        for layer, head in np.ndindex(run.recipe.model.n_layers, run.recipe.model.n_heads):
            tag = f"heads/{name}/{Head(layer, head)}"
            # Of what nobody knows yet there is no effect, and no point.
            stored = scores[name].sel(layer=layer, head=head).dropna("step")
            if stored.size:
                assert series(events, tag) == pytest.approx(dict(zip(stored.step.values, stored.values, strict=True)))
                expected.add(tag)
    assert shown == expected
    assert {tag.split("/")[1] for tag in shown} >= {"previous_token", "ov_eigenvalue"}


def test_losses_and_their_parts_are_those_that_are_stored(run: Run, scores: xr.Dataset, events: EventAccumulator):
    shown = {tag.removeprefix("loss/") for tag in events.Tags()["scalars"] if tag.startswith("loss/")}
    parts = {str(name) for name, score in scores.items() if score.dims == ("step",)}
    references = {
        name for name in parts if name.endswith(("_chance", "_clean", "_known"))
    }  # they stand beside scores of heads
    assert shown == parts - references | {"train"}
    assert {"loss", "in_context"} <= shown
    for name in shown - {"train"}:
        assert list(series(events, f"loss/{name}")) == run.steps
        np.testing.assert_array_equal(list(series(events, f"loss/{name}").values()), scores[name].values)
    assert list(series(events, "loss/train")) == list(range(1, run.recipe.steps + 1))


def test_the_strongest_pair_is_a_curve(run: Run, scores: xr.Dataset, events: EventAccumulator):
    shown = [tag for tag in events.Tags()["scalars"] if tag.startswith("circuits/")]
    names = scored(scores, PAIR)
    assert bool(names) == (run.recipe.model.n_layers > 1)
    assert sorted(shown) == sorted(f"circuits/{name}/strongest" for name in names)
    for name in names:
        largest = scores[name].max(PAIR).values.tolist()
        assert list(series(events, f"circuits/{name}/strongest").values()) == pytest.approx(largest)


def test_tags_stand_in_four_groups(events: EventAccumulator):
    tags = events.Tags()
    for tag in (*tags["scalars"], *tags["images"]):
        assert tag.startswith(GROUPS)
    assert {tag for tag in tags["scalars"] if tag.startswith("optimiser/")} == {
        "optimiser/gradient_norm",
        "optimiser/lr",
    }
    own = {LAYOUT, metadata.EXPERIMENT_TAG, metadata.SESSION_START_INFO_TAG}
    texts = {f"{tag}/text_summary" for tag in tags["images"]}  # how to read each picture
    assert set(tags["tensors"]) == own | texts


def test_each_chart_overlays_the_heads_of_one_measure(run: Run, scores: xr.Dataset, events: EventAccumulator):
    tags = events.Tags()["scalars"]
    found = charts(events)
    heads = {name: matched(patterns, tags) for (category, name), patterns in found.items() if category == "heads"}
    assert set(heads) == set(scored(scores, HEAD))
    for name, overlaid in heads.items():
        assert overlaid == {tag for tag in tags if tag.startswith(f"heads/{name}/")}
        with_numbers = int(scores[name].notnull().any("step").sum())
        assert len(overlaid) == with_numbers
        assert name == "effect" or with_numbers == run.recipe.model.n_layers * run.recipe.model.n_heads
    losses = {name: matched(patterns, tags) for (category, name), patterns in found.items() if category == "loss"}
    assert set().union(*losses.values()) == {tag for tag in tags if tag.startswith("loss/")}
    assert losses["loss"] == {tag for tag in tags if tag.startswith(("loss/loss", "loss/train"))}
    pairs = {tag for tag in tags if tag.startswith("circuits/")}
    assert matched(found.get(("circuits", "strongest pair"), []), tags) == pairs


def test_a_chart_does_not_take_what_belongs_to_a_longer_name():
    heads = xr.DataArray(np.ones((2, 13)), dims=HEAD)
    measured = {name: xr.Dataset({name: heads}) for name in ("copies", "copies_much", "also_copies")}
    tags = [tag for name, scores in measured.items() for tag in curves(name, scores)]
    assert len(tags) == 3 * 26
    for name, (_, patterns) in layout(measured)["heads"].items():
        assert matched(patterns, [*tags, f"heads/{name}/L0H1/more"]) == set(curves(name, measured[name]))


def test_runs_of_other_sizes_share_their_charts():
    def measured(layers: int, heads: int) -> dict[str, xr.Dataset]:
        return {"copies": xr.Dataset({"copies": (HEAD, np.ones((layers, heads)))})}

    assert layout(measured(2, 3)) == layout(measured(5, 7))


def test_there_are_pictures_at_every_kept_step(run: Run, scores: xr.Dataset, events: EventAccumulator):
    pairs = {f"circuits/{name}" for name in scored(scores, PAIR)}
    assert set(events.Tags()["images"]) == {"heads/attention"} | pairs
    for tag in events.Tags()["images"]:
        assert [image.step for image in events.Images(tag)] == run.steps


def test_the_pictures_of_a_run_show_its_attention(run: Run, scores: xr.Dataset, events: EventAccumulator):
    """Every query's colours are in the order of its attention, and what it may not see is white."""
    for image, step in zip(events.Images("heads/attention"), run.steps, strict=True):
        attention = scores.attention.sel(step=step).values[:, :, 0]
        layers, heads, length, _ = attention.shape
        shown = pixels(image.encoded_image_string)
        assert shown.shape == (image.height, image.width, 3)
        tiles = shown.reshape(layers, image.height // layers, heads, image.width // heads, 3)
        zoom = (image.height // layers - 2) // length
        centre = 1 + zoom // 2 + zoom * np.arange(length)
        darkness = 255 - tiles[:, centre][:, :, :, centre].mean(-1)  # layer query head key
        attention = attention.transpose(0, 2, 1, 3)
        order = np.take_along_axis(darkness, attention.argsort(-1), -1)
        assert (np.diff(order, axis=-1) >= 0).all()
        np.testing.assert_array_equal(darkness[attention == 0], 0)
        np.testing.assert_array_equal(darkness[:, 0, :, 0], 255 - np.mean(colour(SEQUENTIAL.light[-1])))


def written(tmp_path: Path, scores: xr.Dataset, name: str, tag: str) -> np.ndarray:
    """The pixels of a picture, from scores through an event file."""
    with SummaryWriter(str(tmp_path)) as writer:
        show(writer, {name: scores}, step=3)
    (image,) = read(tmp_path).Images(tag)
    assert image.step == 3
    return pixels(image.encoded_image_string)


def test_attention_has_the_colours_of_its_square_root(tmp_path: Path):
    patterns = np.zeros((2, 3, 1, 5, 5))
    patterns[:, :, 0, :, 0] = 1
    patterns[1, 2, 0, 4] = [0.25, 0.75, 0, 0, np.nan]
    shown = written(tmp_path, xr.Dataset({"attention": (ATTENTION, patterns)}), "attention", "heads/attention")
    tile = shown.shape[0] // 2
    zoom = (tile - 2) // 5
    assert shown.shape == (2 * tile, 3 * tile, 3)

    def at(layer: int, head: int, query: int, key: int) -> list[int]:
        y, x = layer * tile + 1 + query * zoom, head * tile + 1 + key * zoom
        square = shown[y : y + zoom, x : x + zoom]
        assert (square == square[0, 0]).all()
        return square[0, 0].tolist()

    white, *_, darkest = SEQUENTIAL.light
    assert at(0, 1, 3, 0) == colour(darkest)
    assert at(0, 1, 3, 1) == at(1, 2, 4, 2) == colour(white) == [255, 255, 255]
    # The root of .25 lies in the middle of the ramp, between its third and its fourth colour.
    middle = np.mean([colour(anchor) for anchor in SEQUENTIAL.light[2:4]], axis=0)
    np.testing.assert_allclose(at(1, 2, 4, 0), middle, atol=1)
    assert at(1, 2, 4, 4) == [230, 230, 230]
    # Heads are apart by a line that is none of these.
    lines = np.concatenate([shown[tile - 1 : tile + 1].reshape(-1, 3), shown[:, tile - 1 : tile + 1].reshape(-1, 3)])
    assert len(np.unique(lines, axis=0)) == 1
    assert lines[0].tolist() not in [colour(anchor) for anchor in SEQUENTIAL.light]


def test_compositions_diverge_from_their_null(tmp_path: Path):
    z = np.full((3, 2, 3, 2), np.nan)
    z[0, 0, 1:, :] = [[10, -10], [0, 400]]
    z[1, 1, 2, 0] = -5
    scores = xr.Dataset({"k_composition": (PAIR, abs(z) / 1000), "k_composition_z": (PAIR, z)})
    shown = written(tmp_path, scores, "k_composition", "circuits/k_composition")
    # Those of the first two layers write, those of the last two read.
    squares = shown.reshape(4, shown.shape[0] // 4, 4, shown.shape[1] // 4, 3)[:, shown.shape[0] // 8, :, 20]
    low, *_, high = DIVERGING.light
    grey = [230, 230, 230]
    assert squares[0].tolist() == [colour(high), colour(low), [255, 255, 255], colour(high)]
    assert squares[1].tolist() == squares[2].tolist() == [grey] * 4
    # -5 is half of the way: between the second and the third of the three colours below white, to half a step.
    np.testing.assert_allclose(squares[3, 2], np.mean([colour(c) for c in DIVERGING.light[1:3]], axis=0), atol=2)


def test_what_cannot_be_shown_is_left_out():
    nothing = xr.DataArray(np.full((1, 2, 1, 2), np.nan), dims=PAIR)
    for name, scores in {
        "pairs": xr.Dataset({"pairs": nothing, "pairs_z": nothing}),  # of one layer
        "spectrum": xr.Dataset({"spectrum": (("layer", "head", "eigenvalue"), np.ones((2, 3, 5)))}),
        "parts": xr.Dataset({"parts_first": 1.0}),  # a score of another name
        "zero": xr.Dataset({"zero": (HEAD, [[np.nan]])}),  # a head whose circuit is zero
    }.items():
        assert curves(name, scores) == {}
        assert pictures(name, scores) == {}


def test_the_recipe_is_there_with_the_loss_at_the_end(run: Run, scores: xr.Dataset, events: EventAccumulator):
    for tag in (metadata.EXPERIMENT_TAG, metadata.SESSION_START_INFO_TAG):
        assert len(events.Tensors(tag)) == 1
    experiment, start = (
        events.SummaryMetadata(tag).plugin_data.content
        for tag in (metadata.EXPERIMENT_TAG, metadata.SESSION_START_INFO_TAG)
    )
    columns = metadata.parse_experiment_plugin_data(experiment)
    session = metadata.parse_session_start_info_plugin_data(start)
    kept = {name: getattr(value, value.WhichOneof("kind")) for name, value in session.hparams.items()}
    given = run.recipe.to_dict()
    for name, value in given.items():
        options = {f"{name}.{option}": each for option, each in value.items()} if isinstance(value, dict) else {}
        for option, each in (options or {name: value}).items():
            if option != "version" and each is not None and each != {}:
                assert kept.pop(option) == (str(each) if isinstance(each, list) else each), option
    assert kept == {}
    assert run.recipe.trainer.threads is None
    assert run.recipe.model.rotary_dim is None
    assert {info.name for info in columns.hparam_infos} == {*session.hparams, "trainer.threads", "model.rotary_dim"}
    assert session.group_name == ""  # or runs of one recipe would be averaged
    (metric,) = columns.metric_infos
    assert events.Scalars(metric.name.tag)[-1].value == pytest.approx(scores.loss.values[-1])


def test_lightning_leaves_nothing_of_its_own(run: Run, events: EventAccumulator):
    assert "hp_metric" not in events.Tags()["scalars"]
    assert not (run.path / "hparams.yaml").exists()
    assert [path.parent for path in run.path.rglob("events.out.tfevents.*")] == [run.path]


def test_the_numbers_of_updates_are_those_that_tensorboard_shows(run: Run, events: EventAccumulator):
    for name, tag in UPDATE_TAGS.items():
        shown = series(events, tag)
        assert run.training.step.values.tolist() == list(shown)
        assert run.training[name].values.tolist() == list(shown.values())


@pytest.mark.parametrize(("size", "last"), [(0, 17), (1, 16), (20, 16)])
def test_the_numbers_of_a_log_that_is_cut_off_are_those_of_whole_updates(size: int, last: int, tmp_path: Path):
    content = log_of(17, tmp_path / "whole")
    (tmp_path / "events.out.tfevents.1").write_bytes(content[: len(content) - size])
    assert list(logged_numbers(tmp_path, ["a"])["a"]) == list(range(1, last + 1))


def test_the_numbers_of_a_log_end_before_one_that_is_damaged_but_not_before_a_picture(tmp_path: Path):
    content, log = log_of(17, tmp_path / "whole"), tmp_path / "events.out.tfevents.1"
    expected = read(tmp_path / "whole").Scalars("a")
    log.write_bytes(content)
    assert logged_numbers(tmp_path, ["a"])["a"] == {event.step: event.value for event in expected}
    tag = [at.start() for at in re.finditer(b"a\x15", content)][4]  # that of the fifth update, and its number
    log.write_bytes(content[: tag + 3] + b"?" + content[tag + 4 :])
    assert list(logged_numbers(tmp_path, ["a"])["a"]) == [1, 2, 3, 4]
    picture = content.index(b"IDAT") + 8
    log.write_bytes(content[:picture] + b"?" + content[picture + 1 :])
    assert len(logged_numbers(tmp_path, ["a"])["a"]) == 17
    # What is written again in a later file counts.
    with SummaryWriter(str(tmp_path / "again")) as writer:
        writer.add_scalar("a", 0.1, 3)
    (again,) = (tmp_path / "again").iterdir()
    again.rename(tmp_path / "events.out.tfevents.2")
    assert logged_numbers(tmp_path, ["a", "b"])["a"][3] == np.float32(0.1)


def log_of(updates: int, folder: Path) -> bytes:
    """Return a file of TensorBoard with a number of each update, and a picture in their midst."""
    with SummaryWriter(str(folder)) as writer:
        for update in range(1, updates + 1):
            writer.add_scalar("a", 1 / update, update)
            if update == updates // 2:
                writer.add_image("picture", np.zeros((3, 29, 31)), update)
                writer.add_image("noise", np.random.default_rng(0).uniform(size=(3, 29, 31)), update)
    (log,) = folder.iterdir()
    return log.read_bytes()


def ended_early(recipe: Recipe, out: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that died after step 12, or was stopped there; it has kept step 8, and logged its loss at step 10."""
    plain = TrainingModule.loss_and_gradient

    def at_step_12(self: TrainingModule, index: int, optimizer: Optimizer) -> torch.Tensor:
        if self.global_step == 12:
            if how == "died":
                raise RuntimeError("out of memory")
            self.trainer.should_stop = True
        return plain(self, index, optimizer)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "loss_and_gradient", at_step_12)
        if how == "died":
            with pytest.raises(RuntimeError, match="out of memory"):
                train(**vars(recipe), out=out)
        else:
            train(**vars(recipe), out=out)
    return Run(out)


@pytest.mark.parametrize(("how", "last"), [("died", 8), ("stopped", 13)])
def test_a_resumed_run_shows_everything_once(how: str, last: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    early = ended_early(TOKENS, tmp_path / "run", how, monkeypatch)
    assert early.steps[-1] == last
    assert list(series(read(early.path), "loss/train")) == list(range(1, 14 if how == "stopped" else 11))
    before = charts(read(early.path))
    run = resume(early.path)
    events = read(run.path)
    assert charts(events) == before
    assert len(events.Tensors(metadata.SESSION_START_INFO_TAG)) == 1
    assert list(series(events, "loss/train")) == list(range(1, run.recipe.steps + 1))
    for tag in events.Tags()["images"]:
        assert [image.step for image in events.Images(tag)] == run.steps
    for tag in events.Tags()["scalars"]:
        if tag.startswith("heads/"):
            assert list(series(events, tag)) == run.steps
    shown = series(events, "heads/previous_token/L1H2")
    assert list(shown.values()) == pytest.approx(run.scores.previous_token.sel(layer=1, head=2).values.tolist())
