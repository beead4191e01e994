"""Runs that a Headway of an earlier day wrote open, and their numbers are those of today; ``old_runs`` holds them."""

import shutil
import zipfile
from pathlib import Path

import pytest

from headway.__main__ import main
from headway.analyze import MEASURES, measure
from headway.checkpoints import Run
from headway.checkpoints.audit import audit
from headway.checkpoints.importing import evaluated
from headway.checkpoints.weights import read_label

OLD = sorted((Path(__file__).parent / "old_runs").glob("*.zip"))
# Its scores have no axes, and are measured again.
FIRST = "2026-11-23"


@pytest.fixture(params=OLD, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(tmp_path / request.param.stem)
    return Run(tmp_path / request.param.stem)


def test_a_run_of_an_earlier_day_opens_and_has_the_loss_that_it_had(old: Run):
    assert old.steps == [0, 2, 3]
    assert old.finished
    losses = [evaluated(old.model(step), old.recipe)["loss"] for step in old.steps]
    assert losses == pytest.approx([2.0914087, 1.7302768, 1.6520335], abs=1e-5)
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
    assert labels == {"labelled" in old.path.name}
