"""Studies on the page, as data: what was found, no more than a page can hold, and what is damaged by its name."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from packed_arrays import bytes_of
from test_report import run_of, unpacked
from toy_studies import MARKUP, made_up_study
from toys import made_up_run

from headway.analyze.report import study_page, write_report
from headway.analyze.report.packed import Packed
from headway.analyze.report.study_page import entry_names, study_data
from headway.analyze.studies.result import Claims, Figure, Section, StudyResult, table
from headway.checkpoints import Run


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = made_up_run(tmp_path_factory.mktemp("runs") / "run", layers=2, heads=3, kept=2)
    made_up_study().write(run.study_file("made_up", 1))
    return run


@pytest.fixture
def run(original: Run, tmp_path: Path) -> Run:
    """A copy that a test may change."""
    return Run(shutil.copytree(original.path, tmp_path / "run"))


def data_of(study: StudyResult) -> dict[str, Any]:
    """What the page's scripts are given of a study."""
    packed = Packed()
    data = study_data(study, packed)
    return unpacked(data, bytes_of(packed.text()))


def of(*figures: Figure, claims: Claims = ()) -> list[dict[str, Any]]:
    return data_of(StudyResult("own", "run", 1, (Section("Section", "", figures),), claims))["sections"][0]["figures"]


def test_the_page_holds_the_numbers_of_every_figure(original: Run):
    [data], told = run_of(write_report(original))["studies"], made_up_study()
    assert (data["study"], data["step"]) == ("made_up", 4)
    two, many, bars, small, _, cells = [each for section in data["sections"] for each in section["figures"]]
    datasets = {figure.title: figure.data for section in told.sections for figure in section.figures}
    loss = two["parts"][0]
    np.testing.assert_allclose(loss["values"], datasets["Two panels"].loss, rtol=1 / 4000)
    assert (loss["label"], loss["entries"], two["log"]) == (f"Loss, {MARKUP}", ["first", MARKUP], "xy")
    assert (loss["x"]["name"], loss["x"]["numbers"].tolist()) == ("step", [0, 1, 10, 100, 1000, 4000])
    assert two["parts"][1]["label"] == "grows by"
    [score] = many["parts"]
    names = [f"L{layer}H{head}" for layer in range(5) for head in range(4)]
    assert score["entries"] == names
    np.testing.assert_allclose(score["values"][names.index("L3H1")], datasets["Many lines"].score[3, 1], rtol=1 / 4000)
    assert bars["parts"][0]["x"]["labels"] == ["embed", "pos_embed", "L0 mlp, the long one", MARKUP, "L1H0"]
    attention = small["parts"][0]
    np.testing.assert_allclose(attention["values"][5], datasets["Small maps"].attention[1, 2], rtol=1 / 4000)
    assert (attention["entries"][5], attention["across"]) == ("L1H2", 3)
    assert (attention["rows"]["name"], attention["columns"]["labels"][2]) == ("query", MARKUP)
    columns = {column["label"]: column for column in cells["columns"]}
    np.testing.assert_array_equal(columns["loss"]["numbers"], np.array([0.123456, np.nan, 1234567.0], "float32"))
    assert columns["holds"]["texts"] == ["yes", "no", "yes"]
    assert columns["said"]["texts"] == ["as it is", MARKUP, "–"]
    assert columns["Steps taken, head 2"]["numbers"].tolist() == [2000, 6000, 10000]
    assert cells["rows"] == {"name": "part", "labels": ["first", MARKUP, "third"]}


def test_a_claim_without_a_number_neither_holds_nor_fails(original: Run):
    [data] = run_of(write_report(original))["studies"]
    assert data["claims"]["holds"] == [True, False, True, None]
    assert data["claims"]["needs"] == ["> 0.5", "< 0.1", "> 0.5", "> 0.1"]
    np.testing.assert_array_equal(data["claims"]["numbers"], np.array([0.93, 0.8, 0.50004, np.nan], "float32"))


def test_a_run_without_studies_has_none_and_a_story_may_be_empty(run: Run):
    StudyResult("empty", str(run.path), 1, (), ()).write(run.study_file("made_up", 1))
    [empty] = run_of(write_report(run))["studies"]
    assert (empty["study"], empty["sections"], empty["claims"]["says"]) == ("empty", [], [])
    shutil.rmtree(run.path / "studies")
    assert run_of(write_report(run))["studies"] == []


def test_a_study_is_shown_at_the_last_step_at_which_it_was_made(run: Run):
    made_up_study(step=0).write(run.study_file("made_up", 0))
    made_up_study(step=0).write(run.study_file("early", 0))
    assert [(each["study"], each["step"]) for each in run_of(write_report(run))["studies"]] == [
        ("made_up", 0),
        ("made_up", 4),
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # h5netcdf's, of a file it cannot open
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_a_damaged_study_is_named_and_the_rest_is_there(run: Run, part: float):
    whole = run.study_file("made_up", 1).read_bytes()
    run.study_file("broken", 1).write_bytes(whole[: int(part * len(whole))])
    data = run_of(write_report(run))
    broken, made_up = data["studies"]
    assert (broken["study"], broken["step"]) == ("broken", 1)
    assert "broken.nc is damaged" in broken["why"]
    assert made_up["sections"]
    assert len(data["steps"]) == 2


def test_whatever_reading_a_study_comes_to_the_page_is_written(run: Run, monkeypatch: pytest.MonkeyPatch):
    """A damaged HDF5 file may give a RuntimeError or an AttributeError, depending on the byte."""

    def read(path: Path) -> StudyResult:
        raise RuntimeError("Unspecified error")

    monkeypatch.setattr(StudyResult, "read", read)
    [broken] = run_of(write_report(run))["studies"]
    assert broken["why"] == f"{run.study_file('made_up', 1)} is damaged (Unspecified error)"


def test_what_is_markup_stays_text(original: Run):
    text = write_report(original).read_text()
    before = shutil.copytree(original.path, original.path.parent / "without")
    shutil.rmtree(before / "studies")
    assert text.count("<script") == write_report(Run(before)).read_text().count("<script")
    assert MARKUP not in text
    assert not re.search("<b>bold", text)


def test_large_maps_are_means_over_blocks_and_say_so():
    rows = np.arange(300.0)[:, None] + np.zeros(7)
    rows[0:2, 3], rows[3:6, 4] = np.nan, np.nan
    data = xr.Dataset({"map": (("row", "token"), rows)}, {"token": list("abcdefg"), "row": np.arange(300) * 10})
    [figure] = of(Figure("Map", data, "maps"))
    [part] = figure["parts"]
    assert part["values"].shape == (1, 100, 7)
    assert part["values"][0, 50, 0] == 151  # of 150, 151 and 152
    assert part["values"][0, 0, 3] == 2
    assert np.isnan(part["values"][0, 1, 4])
    assert part["rows"]["labels"][:2] == ["0–20", "30–50"]
    assert part["columns"]["labels"] == list("abcdefg")
    assert figure["less"] == ["means over 3 entries of row"]


def test_points_are_drawn_as_they_are_or_left_out():
    """A mean of points would be no point."""
    points = np.arange(2 * 2051 * 2, dtype=float).reshape(2, 2051, 2)
    data = xr.Dataset({"pairs": (("layer", "entry", "of"), points)}, {"layer": ["L0", "L1"], "of": ["input", "output"]})
    [figure] = of(Figure("Points", data, "scatter"))
    [part] = figure["parts"]
    np.testing.assert_allclose(part["values"], points[:, ::3], rtol=1 / 4000)
    assert (part["entries"], part["axes"], part["points"]) == (["L0", "L1"], ["input", "output"], "entry")
    assert (part["labels"][:3], len(part["labels"])) == (["0", "3", "6"], 684)
    assert figure["less"] == ["one of every 3 points"]


def test_a_last_block_may_be_shorter():
    [figure] = of(Figure("Lines", xr.Dataset({"y": ("x", np.arange(2001.0))}), "lines"))
    [part] = figure["parts"]
    assert part["values"].shape == (1, 1001)
    assert part["values"][0, [0, -1]].tolist() == [0.5, 2000]
    assert part["x"]["numbers"][[0, -1]].tolist() == [0.5, 2000]


def test_a_whole_study_fits_into_what_a_page_can_hold():
    draws = np.random.default_rng(0).normal(size=(12, 12, 128, 128)).astype("float32")
    heads = xr.Dataset({"attention": (("layer", "head", "query", "key"), draws)})
    small = xr.Dataset({"y": ("x", [1.0, 2.0, 3.0])})
    packed = Packed()
    section = Section("A", "", (Figure("M", heads, "maps"), Figure("L", small, "lines")))
    data = study_data(StudyResult("own", "run", 1, (section,), ()), packed)
    raw = bytes_of(packed.text())
    assert study_page.MOST / 8 < len(raw) <= study_page.MOST
    maps, lines = unpacked(data, raw)["sections"][0]["figures"]
    [part] = maps["parts"]
    assert len(part["entries"]) == 144
    side = part["values"].shape[1]
    block = 128 // side
    assert maps["less"] == [f"means over {block} entries of query", f"means over {block} entries of key"]
    np.testing.assert_allclose(part["values"][13, 0, 1], draws[1, 1, :block, block : 2 * block].mean(), rtol=1e-3)
    assert lines["parts"][0]["values"].tolist() == [[1, 2, 3]]
    assert lines["less"] == []


def test_long_tables_and_many_pictures_are_cut_and_say_so():
    cells = table("row", range(300), number=np.arange(300))
    cells["wide"] = (("row", "column"), np.zeros((300, 50)))
    maps = xr.Dataset({"map": (("neuron", "row", "column"), np.arange(300.0)[:, None, None] + np.zeros((2, 3)))})
    cut, pictures = of(Figure("Table", cells, "table"), Figure("Maps", maps, "maps"))
    assert [len(column["numbers"]) for column in cut["columns"]] == [200] * 41
    assert cut["less"] == ["the first 200 of 300 rows", "the first 40 of 50 columns of wide"]
    assert pictures["parts"][0]["values"].shape == (256, 2, 3)
    assert pictures["parts"][0]["entries"][-1] == "neuron 255"
    assert pictures["less"] == ["the first 256 of 300 pictures"]


def test_what_has_no_numbers_is_named_and_the_rest_is_drawn():
    data = xr.Dataset({"names": ("x", ["a", "b"]), "huge": ("x", [1e300, -np.inf]), "there": ("x", [True, False])})
    [figure] = of(Figure("Lines", data, "lines"))
    assert figure["notDrawn"] == ["names"]
    assert [part["values"].tolist() for part in figure["parts"]] == [[[np.inf, -np.inf]], [[1, 0]]]


def test_heads_are_named_as_heads_are():
    assert entry_names([]) == [""]
    assert entry_names([("layer", [0, 1]), ("head", [0, 11])]) == ["L0H0", "L0H11", "L1H0", "L1H11"]
    assert entry_names([("from_layer", [0]), ("from_head", [1]), ("to_layer", [2]), ("to_head", [3])]) == [
        "from L0H1, to L2H3"
    ]
    assert entry_names([("head", [0]), ("layer", [1])]) == ["head 0, layer 1"]
    assert entry_names([("layer", ["all"]), ("head", [1]), ("share", [0.25])]) == ["all, head 1, share 0.25"]
    assert entry_names([("causal", [True])]) == ["yes"]
