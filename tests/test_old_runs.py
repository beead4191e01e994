"""Runs that a Headway of an earlier day wrote open, and their numbers are those of today; ``old_runs`` holds them."""

import shutil
import zipfile
from pathlib import Path

import pytest
import xarray as xr
from test_report import run_of

from headway.__main__ import main
from headway.analyze import MEASURES, measure
from headway.analyze.circuits.circuit import Circuit
from headway.analyze.circuits.of_run import over_steps
from headway.analyze.studies.result import StudyResult
from headway.checkpoints import Run
from headway.checkpoints.audit import audit
from headway.checkpoints.importing import evaluated
from headway.checkpoints.weights import read_label

OLD = sorted((Path(__file__).parent / "old_runs").glob("*.zip"))
# Its scores have no axes, and are measured again.
FIRST = "2026-11-23"
UNLABELLED = (FIRST, "2026-11-26", "2026-11-27")
# The losses by step, of the first runs, which have neither circuits nor studies, and of those that have them.
LOSSES = (
    {0: 2.0914087, 2: 1.7302768, 3: 1.6520335},
    {0: 1.9448148, 20: 0.7575883, 80: 0.00044173},
)
WITH_CIRCUITS = [path for path in OLD if "circuits/" in zipfile.ZipFile(path).namelist()[0]]


def unpacked(archive: Path, folder: Path) -> Run:
    with zipfile.ZipFile(archive) as files:
        files.extractall(folder / archive.stem)
    return Run(folder / archive.stem)


@pytest.fixture(params=OLD, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    return unpacked(request.param, tmp_path)


@pytest.fixture(params=WITH_CIRCUITS, ids=lambda path: path.stem)
def taken_apart(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """An old run with circuits and a study."""
    return unpacked(request.param, tmp_path)


def test_a_run_of_an_earlier_day_opens_and_has_the_loss_that_it_had(old: Run):
    assert old.finished
    losses = [evaluated(old.model(step), old.recipe)["loss"] for step in old.steps]
    (expected,) = (each for each in LOSSES if list(each) == old.steps)
    assert losses == pytest.approx(list(expected.values()), abs=1e-5)
    assert audit(old) == [] or old.path.name == FIRST
    if old.path.name == FIRST:
        with pytest.raises(ValueError, match="remove it and measure again"):
            _ = old.scores
        shutil.rmtree(old.path / "scores")
        measure(old, [each for each in MEASURES if each.name == "loss"])
        assert audit(old) == []
    assert old.scores["loss"].values == pytest.approx(losses, abs=1e-5)


def test_a_run_of_an_earlier_day_has_a_page(old: Run):
    if old.path.name == FIRST:
        shutil.rmtree(old.path / "scores")
        measure(old, [each for each in MEASURES if each.name == "loss"])
    main(["report", str(old.path)])
    assert old.report_file.is_file()


def test_only_the_newest_runs_have_labels(old: Run):
    labels = {read_label(old.weights_file(step)) is not None for step in old.steps}
    assert labels == {old.path.name not in UNLABELLED}


def test_circuits_of_an_earlier_day_open_and_have_the_numbers_of_today(taken_apart: Run):
    last = taken_apart.steps[-1]
    assert taken_apart.circuits == [(last, "all", "position_mean")]
    assert taken_apart.node_circuits == [(20, "all", "position_mean"), (last, "all", "position_mean")]
    for nodes in (False, True):
        found = Circuit(taken_apart.circuit(nodes=nodes))
        assert found.has_edges is not nodes
        assert found.nodes == ["embed", "L0H0"]
        assert found.stand_ins["L0H0"] == ["L0H1"]
        assert found.scores.node_in_circuit.attrs["names"]["L0H0"][0] == "previous-token head"
        stored = taken_apart.circuit(nodes=nodes, over_steps=True)
        assert list(stored.step.values) == taken_apart.steps
        batch = taken_apart.batch().first(found.scores.known.attrs["sequences"])
        again = over_steps(taken_apart, found, batch)
        xr.testing.assert_allclose(again, stored[list(again.data_vars)], rtol=1e-3, atol=1e-4)
    assert [str(edge) for edge in Circuit(taken_apart.circuit()).edges] == ["embed->L0H0.v", "L0H0->output"]


def test_circuits_and_studies_of_an_earlier_day_are_shown(taken_apart: Run, capsys: pytest.CaptureFixture[str]):
    assert "L0H0" in taken_apart.summary()
    for figure, options in (("circuit", {}), ("circuit", {"nodes": True}), ("diagram", {}), ("heads", {})):
        assert taken_apart.plot(figure, **options).axes
    last = taken_apart.steps[-1]
    assert taken_apart.studies == {"previous-token": last}
    result = StudyResult.read(taken_apart.study_file("previous-token", last))
    label = read_label(taken_apart.weights_file(last))
    assert label is not None
    assert result.weights == label.weights
    claims = taken_apart.study("previous-token")["claims"]
    assert [claim.holds for claim in result.claims] == claims.holds.values.tolist()
    main(["report", str(taken_apart.path)])
    shown = run_of(taken_apart.report_file)
    circuits = shown["circuits"]
    assert {(each["behaviour"], each["replacement"], *each["damaged"]) for each in circuits} == {
        ("all positions", "position_mean")
    }
    assert sorted([each["step"] for each in circuit["found"]] for circuit in circuits) == [[20, last], [last]]
    assert [each["over"]["steps"] for each in circuits] == [taken_apart.steps] * 2
    assert [each["study"] for each in shown["studies"]] == ["previous-token"]
    main(["study", "previous-token", str(taken_apart.path)])  # reads it, and prints its claims
    assert result.claims[0].says in " ".join(capsys.readouterr().out.split())
