"""The page as a file: it holds what was scored, says what was not, and harms nothing on disk."""

import html
import json
import re
import shutil
import struct
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from packed_arrays import array_of, bytes_of
from toys import TOKENS, VECTORS, Train, TurnsNaN, embedding_norm, made_up_circuit, made_up_over_steps

from headway.__main__ import main
from headway.analyze import MEASURES, measure
from headway.analyze.measures.nulls import Null, beside_null
from headway.analyze.measures.variety import varied_sequences
from headway.analyze.network.axes import PAIR
from headway.analyze.network.requirements import DoesNotApplyError
from headway.analyze.report import live, page, stored, write_report
from headway.analyze.report.about import citation
from headway.analyze.report.packed import Packed
from headway.analyze.report.page import run_data
from headway.analyze.report.stored import StoredScores, spread
from headway.analyze.report.updates_page import group_starts, grouped
from headway.checkpoints import Recipe, Run
from headway.checkpoints import scores as scores_module
from headway.checkpoints.duration import training_seconds
from headway.checkpoints.files import ENVIRONMENT
from headway.checkpoints.run import UPDATE_TAGS
from headway.checkpoints.schedule import Schedule
from headway.checkpoints.scores import ScoreFile, read_file, score_file, write_scores
from headway.data.markov_chains import MarkovChains
from headway.data.modular_addition import ModularAddition
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch
from headway.models.hooked_transformer import HookedTransformer
from headway.models.lightning_module import DivergedError
from headway.train import resume, train

# Of no step between the first and the last.
SHORT = replace(TOKENS, steps=3, schedule=Schedule(log=0, linear=0))


def train_toy(folder: Path, recipe: Recipe = TOKENS, **options: Any) -> Run:
    return train(**{**vars(recipe), **options}, out=folder / "run")


@pytest.fixture(scope="module")
def original(trained: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(TOKENS, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(original: Run, tmp_path: Path) -> Run:
    """A copy that a test may change."""
    shutil.copytree(original.path, tmp_path / "run")
    return Run(tmp_path / "run")


def data_of(path: Path) -> dict[str, Any]:
    """What the scripts of a page are given, arrays and all."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found
    data = json.loads(found[1])
    data["runs"] = [unpacked(each, bytes_of(each["packed"])) for each in data["runs"]]
    return data


def unpacked(node: Any, packed: bytes) -> Any:
    if isinstance(node, list):
        return [unpacked(each, packed) for each in node]
    if not isinstance(node, dict):
        return node
    if node.keys() >= {"type", "shape", "at"}:
        return array_of(node, packed)
    return {name: unpacked(value, packed) for name, value in node.items()}


def run_of(path: Path) -> dict[str, Any]:
    return data_of(path)["runs"][0]


@pytest.mark.parametrize("digits", [1, 2, 3, 5])
def test_packing_keeps_as_many_digits_as_it_says_and_what_is_no_number(digits: int):
    draws = np.random.default_rng(0)
    # Sizes of 30 decades with both signs, their neighbours at powers of ten, and a walk whose steps are alike.
    wide = draws.uniform(-1, 1, (11, 7)) * 10.0 ** draws.integers(-20, 10, (11, 7))
    powers = np.outer([1, 0.9999999, 0.99996, 1.00004, -1], 10.0 ** np.arange(-5, 6))
    walk = 100 + draws.normal(size=(5, 3, 13)).cumsum(0)
    others = np.array([0.0, np.nan, np.inf, -np.inf, 1e-38, 2.5e38, -1e-44])
    values = {
        "wide": wide,
        "powers": powers,
        "walk": walk,
        "others": others,
        "none": np.zeros((0, 3)),
        "one": wide[0, 0],
    }
    packed = Packed()
    tree = {name: packed.add(each, digits) for name, each in values.items()}
    found = unpacked(tree, bytes_of(packed.text()))
    for name, each in values.items():
        given = np.asarray(each, "f4")
        # As Python writes them.
        decimals = np.array([float(f"{x:.{digits - 1}e}") for x in given.ravel()], "f4").reshape(given.shape)
        np.testing.assert_allclose(found[name], decimals, rtol=1e-6, err_msg=name)


def test_packing_with_a_unit_keeps_its_multiples():
    packed, values = Packed(), np.array([[-3.2946, 0.04, 0.06, 12.77], [1429.4, np.nan, -0.04, 7.0]])
    rounded = unpacked(packed.add(values, 2, 0.1), bytes_of(packed.text()))
    np.testing.assert_allclose(rounded, [[-3.3, 0.0, 0.1, 13.0], [1400.0, np.nan, 0.0, 7.0]], rtol=1e-6)


def test_packing_keeps_exact_numbers_and_shares():
    draws = np.random.default_rng(0)
    exact = np.concatenate([draws.normal(size=(13, 7)), np.full((1, 7), np.nan), np.full((1, 7), 12345678.0)])
    shares = np.array([0.0, 1.0, np.nan, 1 / 3, 0.25])
    whole = draws.uniform(0, 1, (11, 2, 5, 5))
    matrices = {"lower": np.tril(whole), "upper": np.triu(whole), "odd": np.tril(whole)[..., :4, :]}
    matrices["lower"][3, 1] = np.tril(np.full((5, 5), np.nan))
    packed = Packed()
    tree = {"exact": packed.add_exact(exact), "shares": packed.add_shares(shares)}
    tree |= {name: packed.add_shares(each) for name, each in matrices.items()}
    found = unpacked(tree, bytes_of(packed.text()))
    np.testing.assert_array_equal(found["exact"], exact.astype("f4"))
    np.testing.assert_allclose(found["shares"], shares, atol=1 / 508)
    assert [tree[name]["lower"] for name in matrices] == [True, False, False]
    for name, each in matrices.items():
        np.testing.assert_allclose(found[name], each, atol=1 / 507, err_msg=name)


def test_the_page_holds_the_circuits_of_the_run(run: Run):
    assert run_of(run.report_file)["circuits"] == []
    late = ["embed->L0H1.v", "L0H1->L1H2.k", "L1H2->output"]
    scores = made_up_circuit(run, 17, late, ["L1H0->output"], ("L1H2", "L1H0"))
    made_up_circuit(run, 5, ["embed->output"], [], ("embed", "L0H0"))
    run.circuit_file(12, "repeats", "twin").parent.mkdir(parents=True)
    run.circuit_file(12, "repeats", "twin").write_bytes(b"half of a file")
    over = made_up_over_steps(run, 17)
    (found,) = run_of(write_report(run))["circuits"]
    assert (found["behaviour"], found["replacement"], len(found["damaged"])) == ("repeats", "twin", 1)
    assert (found["over"]["of"], found["over"]["steps"]) == (17, run.steps)
    for name in ("known", "faithfulness", "necessity"):
        expected = [over[name + end] for end in ("", "_low", "_high")]
        np.testing.assert_allclose(found["over"][name], expected, rtol=1 / 4000)
    assert [each["step"] for each in found["found"]] == [5, 17]
    last = found["found"][1]
    shown = [name for name in scores.edge.values if name in (*late, "L1H0->output")]
    assert [f"{a}->{b}" + ("" if c == "in" else f".{c}") for a, b, c, _ in last["edges"]] == shown
    assert [each[3] for each in last["edges"]] == [name in late for name in shown]
    for place, end in enumerate(("", "_low", "_high")):
        np.testing.assert_allclose(last["effect"][place], scores[f"effect{end}"], rtol=1 / 4000)
        np.testing.assert_allclose(last["secondEffect"][place], scores[f"second_effect{end}"], rtol=1 / 4000)
        np.testing.assert_allclose(last["cost"][place], scores[f"cost{end}"].sel(edge=shown), rtol=1 / 4000)
        assert last["numbers"]["faithfulness"][place] == pytest.approx(scores[f"faithfulness{end}"].item(), rel=1e-5)
    assert last["misleads"] == last["leastEdge"] == ""
    assert last["controls"]["drawn"] == 7
    assert last["controls"]["most"] == pytest.approx(scores.control_faithfulness.max().item(), rel=1e-5)
    roles = {node["name"]: node["role"] for node in last["nodes"]}
    assert (roles["L0H1"], roles["L1H0"], roles["L0H0"]) == ("in the circuit", "stands in for L1H2", "not needed")


def test_the_page_holds_the_scores_of_the_run(original: Run):
    scores, data = original.scores, run_of(original.report_file)
    assert data["steps"] == original.steps
    np.testing.assert_allclose(data["attention"]["values"], scores.attention.values, atol=1 / 508)
    losses = {each["label"]: each["values"] for each in data["losses"]}
    assert losses.keys() == {"loss", "loss on first", "loss on repeats"}
    np.testing.assert_allclose(losses["loss on repeats"], scores.loss_repeats.values, rtol=1 / 4000)
    np.testing.assert_array_equal(losses["loss"], data["loss"])
    curves = {each["label"]: {line["label"]: line["values"] for line in each["lines"]} for each in data["curves"]}
    assert curves.keys() == {"accuracy", "in_context"}
    np.testing.assert_allclose(curves["accuracy"]["accuracy on repeats"], scores.accuracy_repeats, rtol=1 / 4000)
    np.testing.assert_allclose(curves["in_context"]["in context"], scores.in_context, rtol=1 / 4000)
    by_name = {each["label"]: each for each in data["perHead"]}
    assert by_name.keys() == {
        "previous_token", "current_token", "first_token", "duplicate_token", "prefix_matching", "ov_eigenvalue",
        "qk_eigenvalue", "effect",
    }  # fmt: skip
    for name, found in by_name.items():
        np.testing.assert_allclose(found["values"], scores[name].values, rtol=1 / 4000)
        for part in () if name == "effect" else ("low", "high", "null"):  # an effect has no null but 0
            # A null is pooled over the heads of a layer.
            expected = scores[f"{name}_{part}"]
            np.testing.assert_allclose(found[part][:, :, None] + 0 * expected, expected, rtol=1 / 4000, atol=1e-12)
    for found in data["perPair"]:
        assert len(found["pairs"]) == 9
        for index, (source, target) in enumerate(found["pairs"].astype(int).tolist()):
            pair = {"from_layer": source // 3, "from_head": source % 3, "to_layer": target // 3, "to_head": target % 3}
            for part, name in (("values", ""), ("z", "_z"), ("ceiling", "_ceiling")):
                expected = scores[f"{found['measure']}{name}"].sel(pair)
                np.testing.assert_allclose(found[part][:, index], expected, rtol=1 / 4000)
    spectrum = data["spectra"][0]
    np.testing.assert_allclose(spectrum["re"], scores.ov_eigenvalue_spectrum.values.real, rtol=1 / 4000)
    # A ratio is that of its spectrum.
    size = np.hypot(spectrum["re"], spectrum["im"]).sum(-1)
    np.testing.assert_allclose(spectrum["re"].sum(-1) / size, spectrum["ratio"], atol=2e-3)
    attribution = {each["label"]: each["values"] for each in data["attributions"]}
    repeats = attribution["direct attribution on repeats"]
    np.testing.assert_allclose(repeats, scores.direct_attribution_repeats, rtol=1 / 4000)


def test_a_page_of_many_checkpoints_shows_some_and_reads_the_patterns_of_those(
    original: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    many = Run(shutil.copytree(original.path, tmp_path / "run"))
    shutil.rmtree(many.path / "scores")
    for step in range(211):
        kept = max(each for each in original.steps if each <= step // 7)
        folder = score_file(original.path, kept, "loss").parent
        shutil.copytree(folder, score_file(many.path, step, "loss").parent)
    monkeypatch.setattr(page, "MOST_CHECKPOINTS", 23)
    monkeypatch.setattr(page, "MOST_POINTS", 61)
    read: list[int] = []
    whole = ScoreFile.read

    def counted(file: ScoreFile, names: Any = None) -> dict[str, np.ndarray]:
        if file.path.stem == "attention":
            read.append(int(file.path.parent.name.removeprefix("step-")))
        return whole(file, names)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreFile, "read", counted)
        patch.setattr(scores_module, "SMALL", 500)
        data = run_of(write_report(many))
    steps, lines, scores = data["steps"], data["lineSteps"], many.scores
    assert read == steps
    assert data["scored"] == 211
    assert (steps[0], steps[-1]) == (0, 210)
    assert 15 <= len(steps) <= 23
    assert set(steps) < set(lines)
    assert len(lines) <= 61
    assert set(StoredScores.of(many).dates) <= set(steps)
    shown, drawn = scores.sel(step=steps), scores.sel(step=lines)
    np.testing.assert_allclose(data["attention"]["values"], shown.attention, atol=1 / 508)
    np.testing.assert_allclose(data["loss"], shown.loss, rtol=1 / 4000)
    np.testing.assert_allclose(data["losses"][0]["values"], drawn.loss, rtol=1 / 4000)
    for found in data["perHead"]:
        np.testing.assert_allclose(found["values"], drawn[found["label"]], rtol=1 / 4000)
    np.testing.assert_allclose(data["spectra"][0]["re"], shown.ov_eigenvalue_spectrum.values.real, rtol=1 / 4000)
    np.testing.assert_allclose(data["attributions"][0]["values"], shown.direct_attribution, rtol=1 / 4000)


def test_spread_steps_have_the_ends_and_the_dates():
    steps = list(range(0, 5000, 3))
    found = [steps[place] for place in spread(steps, 101, dates=[3999, 1002])]
    assert (found[0], found[-1]) == (0, 4998)
    assert {3999, 1002} <= set(found)
    assert 50 < len(found) <= 101
    assert len(spread(steps, 101, dates=steps[:900])) <= 101
    assert spread(steps, len(steps)) == list(range(len(steps)))


def test_the_page_holds_every_update_and_the_loss_at_each_position(original: Run):
    data, training = run_of(original.report_file), original.training
    updates = data["updates"]
    assert updates["steps"] == training.step.values.tolist() == list(range(1, original.steps[-1] + 1))
    assert updates["updates"] == original.steps[-1]
    for curve, name in zip(updates["curves"], ("loss", "gradient_norm", "lr"), strict=True):
        np.testing.assert_allclose(curve["values"], training[name].values[None], rtol=1 / 4000)
    positions = {each["label"]: each for each in data["positions"]}
    expected = {"loss": original.scores.loss_by_position, "accuracy": original.scores.accuracy_by_position}
    assert len(positions) == len(expected)
    for label, each in positions.items():
        assert each["units"] == ("nats" if label.startswith("loss") else "share of positions"), label
        np.testing.assert_allclose(each["values"], expected[label.split()[0]], rtol=1 / 4000)
    # A live page has no updates: to read them takes longer than the page rests.
    assert run_data(StoredScores.of(original), live=True)["updates"] is None


def test_many_updates_are_drawn_as_groups_of_neighbours():
    values = np.random.default_rng(0).normal(size=10_007)
    starts = group_starts(np.arange(1, 10_008), 53)
    assert len(starts) <= 53
    mean, low, high = grouped(values, starts)
    sizes = np.diff([*starts, 10_007])
    assert sizes[0] <= sizes[-1]
    assert (mean * sizes).sum() == pytest.approx(values.sum())
    assert (low.min(), high.max()) == (values.min(), values.max())
    assert all(low <= mean)
    assert all(mean <= high)


def test_the_page_says_what_formed_and_what_each_measure_means(original: Run):
    data = data_of(original.report_file)
    assert data["runs"][0]["sentences"][0].startswith("Behaviour: loss on repeats")
    assert any("previous-token head" in sentence for sentence in data["runs"][0]["sentences"])
    for each in (*data["runs"][0]["perHead"], *data["runs"][0]["perPair"]):
        told = data["definitions"][each["measure"]]
        assert told["summary"]
        assert told["null"]
        assert told["range"]


def test_the_page_is_one_file_that_asks_for_nothing(original: Run):
    text = original.report_file.read_text()
    assert re.findall(r"https?://[^\"'\s]+", text) == ["http://www.w3.org/2000/svg"]  # a name, not an address
    assert not re.search(r"\bsrc\s*=|@import|url\(|fetch\(|XMLHttpRequest|<link", text)


def test_the_same_run_gives_the_same_page(run: Run):
    assert write_report(run) == run.report_file
    again = write_report(run, run.path / "again.html")
    assert again.read_bytes() == run.report_file.read_bytes()


def test_a_damaged_score_leaves_its_step_out_and_is_named(run: Run):
    score_file(run.path, 5, "k_composition").write_bytes(b"half of")
    data = run_of(write_report(run))
    assert data["steps"] == [step for step in run.steps if step != 5]
    [[step, why]] = data["leftOut"]
    assert step == 5
    assert "k_composition.safetensors is damaged" in why


def test_a_step_that_died_half_scored_is_left_out_and_named(run: Run):
    score_file(run.path, 17, "attention").unlink()
    score_file(run.path, 17, "loss").unlink()
    data = run_of(write_report(run))
    assert data["steps"] == run.steps[:-1]
    assert data["leftOut"] == [[17, f"loss, attention not scored; headway measure {run.path} does it"]]
    measure(run, [each for each in MEASURES if each.name in ("loss", "attention")])
    assert run_of(write_report(run))["leftOut"] == []


def test_a_measure_of_few_steps_leaves_none_out(run: Run):
    own = [each for each in MEASURES if each.name == "rank_95"]
    measure(run, own, steps=[5])
    for step in run.steps[1:]:
        score_file(run.path, step, "direct_attribution").unlink()
    data = run_of(write_report(run))
    assert (data["steps"], data["leftOut"]) == (run.steps, [])
    ranks = {each["label"]: each["values"] for each in data["perHead"] if each["measure"] == "rank_95"}
    assert list(ranks) == ["rank_95, OV", "rank_95, QK"]
    assert np.isfinite(ranks["rank_95, OV"]).all((1, 2)).tolist() == [step == 5 for step in run.steps]


def test_a_run_without_scores_has_a_page_that_says_which_command_makes_them(
    run: Run, capsys: pytest.CaptureFixture[str]
):
    shutil.rmtree(run.path / "scores")
    main(["report", str(run.path)])
    assert capsys.readouterr().out.strip() == str(run.report_file)
    data = run_of(run.report_file)
    assert (data["steps"], data["perHead"], data["attention"], data["roles"]) == ([], [], None, None)
    assert "headway measure" in run.report_file.read_text()


def test_one_checkpoint_is_enough(run: Run):
    for step in run.steps[1:]:
        shutil.rmtree(score_file(run.path, step, "loss").parent)
    data = run_of(write_report(run))
    assert data["steps"] == [0]
    assert data["leftOut"] == []


def test_attention_that_is_no_number_stays_none(run: Run):
    path = score_file(run.path, 17, "attention")
    scores = read_file(path)
    scores.attention[1, 2] = np.nan
    write_scores(path, scores)
    values = run_of(write_report(run))["attention"]["values"]
    assert np.isnan(values[-1, 1, 2]).all()
    assert np.isfinite(values[-1, 1, :2]).all()


@dataclass(frozen=True)
class Markup(RepeatedTokens):
    """A task whose tokens are markup."""

    def labels(self, batch: Batch) -> list[list[str]]:
        return [["</script><script>alert(1)</script>", "<b>&amp;", "{{script}}"] * 4 for _ in batch.inputs]


def test_tokens_that_are_markup_stay_text(tmp_path: Path):
    task = Markup(**{name: getattr(TOKENS.task, name) for name in ("n_tokens", "length", "period_min", "period_max")})
    run = train_toy(tmp_path, SHORT, task=task)
    text = run.report_file.read_text()
    assert text.count("<script") == text.count("</script>") == original_scripts()
    assert run_of(run.report_file)["attention"]["tokens"][0][:3] == task.labels(run.batch())[0][:3]


def original_scripts() -> int:
    return (Path(page.__file__).parent / "assets" / "page.html").read_text().count("<script")


def test_a_directory_that_is_markup_stays_text(tmp_path: Path):
    (tmp_path / "<i>a&b").mkdir()
    run = train_toy(tmp_path / "<i>a&b", SHORT)
    assert "<title>run · Headway</title>" in run.report_file.read_text()
    moved = shutil.copytree(run.path, tmp_path / "<i>x")
    assert "<title>&lt;i&gt;x · Headway</title>" in write_report(Run(moved)).read_text()


def test_vectors_and_one_layer_have_pages(tmp_path: Path):
    recipe = replace(SHORT, task=VECTORS.task, model=replace(VECTORS.model, n_layers=1))
    data = run_of(train_toy(tmp_path, recipe).report_file)
    assert data["perPair"] == []
    assert data["lossUnits"] == "squared error"
    assert data["attention"]["tokens"][0][:2] == ["x0", "x1"]


def test_attention_is_cut_to_what_a_page_can_hold(original: Run, monkeypatch: pytest.MonkeyPatch):
    places = range(len(original.steps))
    whole = StoredScores.of(original).attention(places)
    assert whole is not None
    patterns = len(original.steps) * 6
    assert whole.sizes["batch"] == 4
    monkeypatch.setattr(stored, "MOST_ATTENTION", patterns * 11**2 * 3)
    three = StoredScores.of(original).attention(places)
    assert three is not None
    assert (three.sizes["batch"], three.sizes["query"]) == (3, 11)
    monkeypatch.setattr(stored, "MOST_ATTENTION", patterns * 7**2)
    data = run_data(StoredScores.of(original))
    assert data["attention"]["values"]["shape"] == [len(original.steps), 2, 3, 1, 7, 7]
    assert [len(row) for row in data["attention"]["tokens"]] == [7]
    assert data["attention"]["positions"] == 11


def test_patterns_are_cut_to_what_a_page_can_hold_when_they_are_deflated(
    original: Run, monkeypatch: pytest.MonkeyPatch
):
    scores = StoredScores.of(original)
    assert scores.whole_attention is not None
    whole = scores.whole_attention.values

    def size(sequences: int, length: int) -> int:
        alone = Packed()
        alone.add_shares(whole[:, :, :, :sequences, :length, :length])
        return alone.deflated_size

    shapes = []
    for share in (1.5, 0.6, 0.2, 0.05):
        most = int(share * size(4, 11))
        monkeypatch.setattr(page, "MOST_PATTERNS", most)
        data = run_data(scores)["attention"]
        shapes.append(tuple(data["values"]["shape"][3:5]))
        sequences, length = shapes[-1]
        assert size(sequences, length) < 1.3 * most
        assert [len(row) for row in data["tokens"]] == [length] * sequences
        assert data["positions"] == 11
    # First there are fewer sequences, then fewer positions of one.
    assert shapes[0] == (4, 11)
    assert 1 < shapes[1][0] < 4
    assert shapes[1][1] == 11
    assert shapes[-1][0] == 1
    assert shapes[-1][1] < 11


def test_a_measure_of_one_s_own_is_shown(run: Run):
    def twice_the_layer(model: Any, batch: Batch) -> xr.DataArray:
        """The layer's number, twice."""
        return xr.DataArray(2.0 * np.arange(2)[:, None] + np.zeros(3), dims=("layer", "head"))

    def padded(model: Any, batch: Batch) -> xr.Dataset:
        layers = xr.DataArray(np.ones((3, 3)), dims=("layer", "head"))
        return xr.Dataset({"padded": layers, "padded_of_sequences": xr.DataArray(np.ones(23), dims="batch")})

    def above(model: Any, batch: Batch) -> xr.Dataset:
        pairs = xr.DataArray(np.ones((2, 3, 2, 3)), dims=PAIR)
        return xr.Dataset({"above": pairs, "above_high": pairs})  # half a band is none

    measure(run, [twice_the_layer, embedding_norm, padded, above])
    data = data_of(write_report(run))
    assert data["runs"][0]["attention"]["values"].shape[1:4] == (2, 3, 4)
    assert "padded" not in {each["measure"] for each in data["runs"][0]["perHead"]}
    not_shown = {each["name"]: each["axes"] for each in data["runs"][0]["notShown"]}
    assert not_shown["embedding_norm"] == ["token"]
    assert not_shown["padded"] == ["layer", "head"]
    assert not_shown["padded_of_sequences"] == ["batch"]
    [found] = [each for each in data["runs"][0]["perHead"] if each["measure"] == "twice_the_layer"]
    assert found["values"][0].tolist() == [[0, 0, 0], [2, 2, 2]]
    assert (found["null"], found["low"]) == (None, None)
    assert data["definitions"]["twice_the_layer"]["summary"] == "The layer's number, twice."


def test_several_runs_share_a_page(original: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("a", "b"):
        shutil.copytree(original.path, tmp_path / name)
    main(["report", str(tmp_path / "a"), str(tmp_path / "b")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert [each["name"] for each in data_of(tmp_path / "report.html")["runs"]] == ["a", "b"]
    with pytest.raises(ValueError, match="runs: none is given"):
        write_report([])


def test_a_file_that_is_no_page_is_not_replaced(run: Run, tmp_path: Path):
    mine = tmp_path / "mine.html"
    mine.write_text("notes")
    with pytest.raises(ValueError, match=r"out: .*mine.html is not a page of Headway; --overwrite replaces it"):
        write_report(run, mine)
    assert mine.read_text() == "notes"
    assert "Headway" in write_report(run, mine, overwrite=True).read_text()
    write_report(run, mine)
    with pytest.raises(ValueError, match="is a directory"):
        write_report(run, tmp_path)
    with pytest.raises(ValueError, match="cannot be written"):
        write_report(run, mine / "inside.html")


def test_the_page_is_written_at_every_kept_step_of_a_live_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def noted(run: Run, live: bool) -> None:
        seen.append((run_of(write_report(run, live=live))["steps"][-1], data_of(run.report_file)["live"]))

    monkeypatch.setattr(live, "write_report", noted)
    run = train_toy(tmp_path, live=True)
    assert seen == [*((step, True) for step in run.steps), (run.steps[-1], False)]
    assert not data_of(run.report_file)["live"]


def test_watching_a_run_writes_its_page_step_by_step(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another process scores a step now and then; half of a step is not shown."""
    coming, aside = [], tmp_path / "aside"
    for step in run.steps[1:]:
        for path in [run.weights_file(step), *sorted(score_file(run.path, step, "loss").parent.iterdir())]:
            kept = aside / path.relative_to(run.path)
            kept.parent.mkdir(parents=True, exist_ok=True)
            coming.append((path.rename(kept), path))
        coming += [None, None]  # a pause, in which the step is whole
    coming = [None, *coming]
    pages = []

    def pass_time(seconds: float) -> None:
        if run.report_file.exists():
            pages.append(data_of(run.report_file))
        if coming and (moved := coming.pop(0)):
            moved[0].rename(moved[1])

    monkeypatch.setattr(time, "sleep", pass_time)
    run.report_file.unlink()
    assert live.watch([run]) == run.report_file
    assert all(each["live"] and each["runs"][0]["leftOut"] == [] for each in pages)
    lengths = [len(each["runs"][0]["steps"]) for each in pages]
    assert sorted(set(lengths)) == list(range(1, len(run.steps) + 1))
    assert lengths == sorted(lengths)
    last = data_of(run.report_file)
    assert (last["live"], last["runs"][0]["steps"]) == (False, run.steps)


@dataclass(frozen=True)
class Nameless(RepeatedTokens):
    """A task that cannot name its tokens."""

    def labels(self, batch: Batch) -> list[list[str]]:
        raise KeyError("no names")


@dataclass(frozen=True)
class Numbered(RepeatedTokens):
    """A task that names three positions, by numbers."""

    def labels(self, batch: Batch) -> list[list[str]]:
        return [[7, 8, 9]] * len(batch.inputs)  # pyright: ignore[reportReturnType]


def test_a_run_does_not_end_for_tokens_that_have_no_names(tmp_path: Path):
    sizes = {name: getattr(TOKENS.task, name) for name in ("n_tokens", "length", "period_min", "period_max")}
    with pytest.warns(UserWarning, match=r"scores: attention has no tokens \(KeyError: 'no names'\)"):
        run = train_toy(tmp_path, SHORT, task=Nameless(**sizes), live=True)
    assert run.finished
    assert run_of(run.report_file)["attention"]["tokens"][0] == [str(position) for position in range(11)]
    assert run_of(run.report_file)["lacking"] == ["attention"]
    numbered = train(**{**vars(SHORT), "task": Numbered(**sizes)}, out=tmp_path / "numbered")
    assert run_of(numbered.report_file)["attention"]["tokens"][0] == ["7", "8", "9", *[""] * 8]


def test_a_run_does_not_end_for_its_page(run: Run, monkeypatch: pytest.MonkeyPatch):
    def fails(*_: Any, **__: Any) -> None:
        raise KeyError("anything")

    monkeypatch.setattr(live, "write_report", fails)
    with pytest.warns(UserWarning, match=r"report: no page was written \(KeyError: 'anything'\)"):
        live.report_if_possible(run)


def test_watching_ends_for_a_finished_run_whose_last_step_has_no_scores(run: Run, monkeypatch: pytest.MonkeyPatch):
    shutil.rmtree(score_file(run.path, 17, "loss").parent)
    looks = []
    monkeypatch.setattr(time, "sleep", looks.append)
    live.watch([run])
    assert live.LOOKS_AT_THE_END < len(looks) <= live.LOOKS_AT_MOST + 1
    assert not data_of(run.report_file)["live"]


def test_a_run_that_goes_on_has_its_page_renewed(run: Run):
    score_file(run.path, 17, "loss").unlink()
    write_report(run)
    assert run_of(run.report_file)["steps"] == run.steps[:-1]
    resume(run.path)
    assert run_of(run.report_file)["steps"] == run.steps


def test_runs_of_one_name_are_told_apart(original: Run, tmp_path: Path):
    for seed in ("seed-0", "seed-1"):
        shutil.copytree(original.path, tmp_path / seed / "run")
    written = write_report([Run(tmp_path / seed / "run") for seed in ("seed-0", "seed-1")], tmp_path / "both.html")
    assert [each["name"] for each in data_of(written)["runs"]] == ["seed-0/run", "seed-1/run"]


def test_pairs_that_cannot_compose_are_left_out_and_said(run: Run):
    def all_pairs(model: Any, batch: Batch) -> xr.DataArray:
        return xr.DataArray(np.arange(36.0).reshape(2, 3, 2, 3), dims=PAIR)

    measure(run, [all_pairs])
    found = {each["measure"]: each for each in run_of(write_report(run))["perPair"]}
    assert found["all_pairs"]["pairs"].tolist() == found["k_composition"]["pairs"].tolist()
    assert found["all_pairs"]["values"][0].tolist() == [
        6 * first + second for first, second in found["all_pairs"]["pairs"]
    ]
    assert (found["all_pairs"]["elsewhere"], found["k_composition"]["elsewhere"]) == (True, False)


def test_a_run_of_which_all_is_damaged_names_it(run: Run):
    for step in run.steps:
        score_file(run.path, step, "loss").write_bytes(b"half")
    data = run_of(write_report(run))
    assert data["steps"] == []
    assert [step for step, _ in data["leftOut"]] == run.steps


def test_a_run_that_diverges_has_a_page(tmp_path: Path):
    small = replace(TOKENS.model, n_ctx=5, d_vocab=7, d_vocab_out=7)
    with pytest.raises(DivergedError):
        train_toy(tmp_path, TOKENS, task=TurnsNaN(), model=small, steps=200, schedule=Schedule(at=(1, 2, 3)))
    data = run_of(tmp_path / "run" / "report.html")
    assert not data["finished"]
    assert data["steps"][0] == 0


def test_a_notebook_shows_the_page_at_a_step(run: Run):
    shown = run.show(5)._repr_html_()
    found = re.fullmatch(r'<iframe srcdoc="([^"]*)" [^>]*></iframe>', shown)
    assert found
    inside = html.unescape(found[1])
    place = f'<meta name="place" content="step=5" data-address="{run.report_file.absolute().as_uri()}">'
    assert place in inside
    assert inside.replace(place, "") == run.report_file.read_text()
    assert 'content="step=17"' in html.unescape(run.show()._repr_html_())
    with pytest.raises(ValueError, match="step: 3 was not kept; nearest is 4"):
        run.show(3)
    time.sleep(0.01)
    measure(run, [each for each in MEASURES if each.name == "rank_95"], steps=[5])
    assert run.show(5)._repr_html_().startswith("<p>Scored since this page was written; headway report")
    write_report(run)
    assert run.show(5)._repr_html_().startswith("<iframe")
    run.report_file.unlink()
    with pytest.raises(ValueError, match=r"has no page yet; headway report .* writes it"):
        run.show()


# A page is made from files, from axes and from attributes.

# One segment twice, so that induction_stripe applies.
TWICE = replace(TOKENS, task=replace(TOKENS.task, period_min=5, period_max=5, late_start=0.0))
THREE_LAYERS = replace(TOKENS, model=replace(TOKENS.model, n_layers=3))


def scored_by_all(folder: Path, recipe: Recipe) -> Run:
    """A run that nobody trained, scored by every measure that applies to it, with nulls made up where they are slow."""
    run = Run.create(folder, recipe)
    batch = run.batch()
    for step, seed in ((0, 0), (5, 1)):
        network = HookedTransformer(recipe.model, seed=seed).eval()
        for each in MEASURES:
            with suppress(DoesNotApplyError):
                scores = each(network, batch)
                if each.fresh_null:
                    one = np.ones((1,) * scores[each.name].ndim)
                    null = Null(0.1 * one, 0.02 * one)
                    beside = beside_null(each.name, scores[each.name], null)
                    scores = each.described(xr.Dataset({**scores.variables, **beside.variables}), batch)
                write_scores(score_file(run.path, step, each.name), scores)
    return run


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return scored_by_all(tmp_path_factory.mktemp("runs") / "twice", TWICE)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return scored_by_all(tmp_path_factory.mktemp("runs") / "vectors", VECTORS)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Runs of tasks with measures of their own."""
    folder = tmp_path_factory.mktemp("runs")
    tasks = (MarkovChains(n_states=13, length=11), ModularAddition(p=13))
    return [scored_by_all(folder / type(task).__name__, replace(TOKENS, task=task)) for task in tasks]


def shown_in(data: dict[str, Any]) -> set[str]:
    """The measures that a figure of the page shows."""
    figures = ("perHead", "perPair", "curves", "spectra")
    return {
        *(each["measure"] for figure in figures for each in data[figure]),
        *(["loss"] if data["losses"] else []),
        *(["attention"] if data["attention"] else []),
        *(["direct_attribution"] if data["attributions"] else []),
    }


def test_every_measure_is_in_a_figure_or_named_as_not_shown(twice: Run, vectors: Run, others: list[Run]):
    scored = set()
    for run in (twice, vectors, *others):
        measures = {path.stem for path in run.path.glob("scores/step-*/*")}
        data = run_of(write_report(run))
        not_shown = {each["name"]: each["axes"] for each in data["notShown"]}
        assert measures == shown_in(data) | (measures & not_shown.keys())
        # What is named there is found under this name, with these axes.
        for name, axes in not_shown.items():
            assert run.scores[name].dims == ("step", *axes)
        scored |= measures
    assert scored == {each.name for each in MEASURES}


def test_the_distance_from_each_predictor_is_a_curve(others: list[Run]):
    chains, _ = others
    curves = {each["label"]: each for each in run_of(write_report(chains))["curves"]}
    for name in ("uniform", "unigram", "bigram"):
        (line,) = curves[f"predictor_distance, {name}"]["lines"]
        expected = chains.scores.predictor_distance.sel(predictor=name)
        np.testing.assert_allclose(line["values"], expected, rtol=1 / 4000)


def test_scores_of_the_network_and_of_layers_are_curves(vectors: Run):
    data, scores = run_of(write_report(vectors)), vectors.scores
    curves = {each["label"]: each for each in data["curves"]}
    assert {"in_context", "linearity, data", "linearity, isotropic", "outside_embedding"} <= curves.keys()
    lines = {line["label"]: line["values"] for line in curves["linearity, isotropic"]["lines"]}
    assert lines.keys() == {"layer 0", "layer 1"}
    for layer in range(2):
        expected = scores.linearity.sel(inputs="isotropic", layer=layer)
        np.testing.assert_allclose(lines[f"layer {layer}"], expected, rtol=1 / 4000)
    np.testing.assert_allclose(curves["linearity, data"]["null"], scores.linearity_null, rtol=1 / 4000)
    assert curves["outside_embedding"]["limits"] == [0, 1]
    assert curves["in_context"]["units"] == "squared error"
    assert {each["units"] for each in data["attributions"]} == {"shares of the target"}


def test_what_has_one_more_axis_than_its_figure_is_several_scores(twice: Run):
    data, scores = run_of(write_report(twice)), twice.scores
    per_head = {each["label"]: each for each in data["perHead"]}
    for circuit in ("OV", "QK"):
        found = per_head[f"rank_95, {circuit}"]
        np.testing.assert_allclose(found["values"], scores.rank_95.sel(circuit=circuit), rtol=1 / 4000)
        assert found["high"].shape == (2, 2)
    assert {"ablation", "ablation_first", "ablation_repeats"} <= per_head.keys()
    assert {each["label"] for each in data["perPair"]} >= {"path_patch, q", "path_patch, k", "path_patch, v"}


@pytest.mark.parametrize("recipe", [TOKENS, THREE_LAYERS], ids=["two layers", "three layers"])
def test_pairs_of_several_entries_form_each_at_their_own_step(recipe: Recipe, tmp_path: Path):
    """An entry of the axis ``best`` must not date another, nor a pair of another measure."""
    run = Run.create(tmp_path / "run", recipe)
    layers, heads = recipe.model.n_layers, recipe.model.n_heads
    earlier = np.arange(layers)[:, None] < np.arange(layers)
    possible = np.broadcast_to(earlier[:, None, :, None], (layers, heads, layers, heads))
    for step in (0, 1, 5, 17):
        matched = np.where(possible, 0.1, np.nan)[..., None].repeat(2, -1)
        # By key from step 5 on, by query from 17 on, and by composition from 1 on.
        matched[0, 1, 1, 2] = [0.9 if step >= 5 else 0.1, 0.9 if step >= 17 else 0.1]
        composed = matched[..., 0].copy()
        composed[0, 1, 1, 2] = 0.9 if step >= 1 else 0.1
        for name, values, axes in (
            ("k_composition_top1", matched, (*PAIR, "best")),
            ("k_composition", composed, PAIR),
        ):
            score = xr.DataArray(values, dims=axes, coords={"best": ["key", "query"]} if "best" in axes else {})
            numbers = {"null": 0.2, "null_std": 0.1, "low": 0.0, "high": 0.5}
            beside = {f"{name}_{role}": xr.full_like(score, number) for role, number in numbers.items()}
            beside[f"{name}_z"] = (score - 0.2) / 0.1
            write_scores(score_file(run.path, step, name), xr.Dataset({name: score, **beside}))
    data = run_of(write_report(run))
    formed = {}
    for each in data["perPair"]:
        assert len(each["pairs"]) == heads**2 * layers * (layers - 1) // 2
        pair = each["pairs"].tolist().index([1, heads + 2])
        formed[each["label"]] = each["formed"][pair]
        assert np.isnan(np.delete(each["formed"], pair)).all()
    assert formed == {"k_composition": 1, "k_composition_top1, key": 5, "k_composition_top1, query": 17}
    assert any("L0H1 and L1H2 K-compose" in sentence for sentence in data["sentences"])


def test_axes_of_one_measure_do_not_touch_those_of_another(run: Run):
    def odd_labels(model: Any, batch: Batch) -> xr.Dataset:
        """The same axes as other measures have, with other labels and lengths."""
        ones = xr.DataArray(np.ones(3), dims="component", coords={"component": ["L0H0", "mine", "yours"]})
        heads = xr.DataArray(np.ones((7, 5)), dims=("layer", "head"))
        return xr.Dataset({"odd_labels": ones, "odd_labels_of_heads": heads})

    before = run_of(write_report(run))
    measure(run, [odd_labels])
    after = run_of(write_report(run))
    mine = [each for each in after["attributions"] if "odd" in each["label"]]
    assert [each["components"] for each in mine] == [["L0H0", "mine", "yours"]]
    assert {each["name"] for each in after["notShown"]} >= {"odd_labels_of_heads"}
    assert after["layers"] == 2
    for figure in ("perHead", "perPair", "attributions", "spectra"):
        for one, other in zip(before[figure], after[figure], strict=figure != "attributions"):
            for name, values in one.items():
                np.testing.assert_array_equal(other[name], values)


def without_attributes(run: Run) -> Run:
    """The same run as an older Headway wrote it."""
    for path in run.path.glob("scores/step-*/*.safetensors"):
        write_scores(path, read_file(path).drop_attrs())
    return run


def test_a_run_of_an_older_headway_has_the_same_figures(run: Run):
    new = data_of(write_report(run))
    old = data_of(write_report(without_attributes(run)))
    [before], [after] = new["runs"], old["runs"]
    assert before["lacking"] == []
    assert after["lacking"] == ["loss", "attention"]
    assert before["baselines"] == run.task.baselines()
    assert after["baselines"] == {}
    assert before["attention"]["tokens"] == run.task.labels(run.batch().at(varied_sequences(run.batch(), 4)))
    assert after["attention"]["tokens"] == [[str(position) for position in range(11)]] * 4
    assert old["definitions"] == new["definitions"]
    # What the task is about stands beside its losses.
    assert "do not say what the task is about" in after["sentences"][0]
    assert before["sentences"][1].startswith("Circuit: nothing to explain: the loss on repeats is ")
    assert after["sentences"][1].startswith("Circuit: nothing to explain: the loss is ")
    assert before["sentences"][2:] == after["sentences"][2:]
    of_behaviour = {"sentences", "firstLines", "halfWay", "nothingToExplain"}
    for name in before.keys() - {"lacking", "baselines", "attention", "packed"} - of_behaviour:
        assert repr(before[name]) == repr(after[name]), name
    text = (Path(page.__file__).parent / "assets" / "formed.js").read_text()
    assert "headway measure ${run.path} --only ${run.lacking.join" in text
    measure(run, [each for each in MEASURES if each.name in after["lacking"]], overwrite=True)
    assert run_of(write_report(run))["baselines"] == before["baselines"]


def test_a_page_needs_neither_the_task_s_module_nor_its_options(original: Run, tmp_path: Path):
    gone = Run(shutil.copytree(original.path, tmp_path / "run"))
    config = gone.path / "config.yaml"
    config.write_text(
        config.read_text().replace("headway.data.repeated_tokens:RepeatedTokens", "no.such.module:Riddles")
        .replace("period_min: 2", "riddles: 7")
    )  # fmt: skip
    data = run_of(write_report(gone))
    about = dict(data["about"])
    assert about["task"].startswith("Riddles: ")
    assert "riddles 7" in about["task"]
    expected = run_of(original.report_file)
    assert about["network"] == dict(expected["about"])["network"]
    for name in expected.keys() - {"about", "path", "packed"}:
        assert repr(data[name]) == repr(expected[name]), name
    # An own task may have an own loss: what an older file measures it in is not known.
    assert run_of(write_report(without_attributes(gone)))["lossUnits"] == ""


def test_reading_and_drawing_import_no_network():
    modules = ("page", "live", "stored", "summary", "study_page", "prompt_page", "figures.plot")
    code = "import sys\n" + "".join(f"import headway.analyze.report.{name}\n" for name in modules)
    heavy = ("torch", "transformer_lens", "lightning", "transformers", "matplotlib", "scipy")
    code += f"assert not set({heavy}) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_about_has_the_optimiser_the_parameters_the_versions_and_the_duration(run: Run):
    path = run.path / ENVIRONMENT
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"commit": "0f1e2d", "command": ["headway", "train", "<b>"]}))
    about = dict(run_of(write_report(run))["about"])
    assert about["optimiser"].startswith("AdamW, learning rate 0.01 (warm-up over 3 steps, then cosine), betas")
    assert f"{run.model().cfg.n_layers} layers of 3 heads" in about["network"]
    count = sum(weight.numel() for weight in run.model().parameters())
    assert about["network"].endswith(f"{count:,} parameters")
    assert about["version"] == f"headway {stored['headway']}, commit 0f1e2d"
    assert f"torch {stored['torch']}" in about["packages"]
    assert about["command"] == "train <b>"
    assert re.fullmatch(r"\d+ s from the first update to the last", about["duration"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", about["date"])
    assert about["to repeat"] == f"headway train --config {run.path}/config.yaml --out runs/again"
    assert about["to cite"] == citation("0f1e2d")
    # No number depends on what is damaged here.
    path.write_text("[1]")
    assert "version" not in dict(run_of(write_report(run))["about"])


def test_the_citation_is_that_of_the_package():
    root = Path(__file__).parent.parent
    cited = yaml.safe_load((root / "CITATION.cff").read_text())
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    (author,) = cited["authors"]
    assert f"{cited['title'].lower()}." == f"headway: {project['description'].lower()}"
    assert citation() == f"{author['name']}. {cited['title']}; version {project['version']}."


def test_a_duration_adds_up_sessions_and_ends_at_what_is_damaged(tmp_path: Path):
    tag = UPDATE_TAGS["loss"].encode()
    for name, times in (("a", [10.0, 14.0, 17.5]), ("b", [100.0, 101.0])):
        records = []
        for at in times:
            event = b"\x09" + struct.pack("<d", at) + b"\x10\x01" + tag
            records.append(struct.pack("<Q", len(event)) + bytes(4) + event + bytes(4))
        picture = struct.pack("<Q", 900) + bytes(4) + bytes(904)
        (tmp_path / f"events.out.tfevents.{name}").write_bytes(picture.join(records) + b"half of a record")
    assert training_seconds(tmp_path) == 8.5
    assert training_seconds(tmp_path / "nowhere") is None


def test_measure_writes_the_page_again_and_names_that_of_several_runs(run: Run, capsys: pytest.CaptureFixture[str]):
    several = write_report([run, Run(shutil.copytree(run.path, run.path.with_name("other")))])
    main(["measure", str(run.path), "--only", "loss"])
    assert "is older than these" not in capsys.readouterr().out  # nothing was computed
    score_file(run.path, run.steps[-1], "accuracy").unlink()
    write_report(run)
    main(["measure", str(run.path), "--only", "accuracy,ov_top1"])
    assert "ov_top1" in {each["measure"] for each in run_of(run.report_file)["perHead"]}
    assert f"{several} is older than these; headway report with its runs writes it again" in capsys.readouterr().out
    run.report_file.unlink()
    main(["measure", str(run.path), "--only", "rank_95"])
    assert not run.report_file.exists()
