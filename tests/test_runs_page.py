"""The page of many runs: its numbers are those of formation, it is small, and nothing of a run is markup."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from many_runs import listed, repeated
from packed_arrays import array_of, bytes_of
from toys import TOKENS, run_of_ways

from headway.__main__ import main
from headway.analyze.formation.over_runs import formation
from headway.analyze.report import write_report
from headway.analyze.report.about import options_of
from headway.analyze.report.page import page_of_many
from headway.analyze.report.runs_page import differing, link, of_formation
from headway.checkpoints import Run

NEVER = [0.0] * 6
LATE, EARLY = [0.0, 0.0, 0.0, 0.1, 1.0, 1.0], [0.0, 0.0, 0.2, 1.0, 1.0, 1.0]
NASTY = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Seven runs of which one never learns."""
    folder = tmp_path_factory.mktemp("runs") / "many"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: None)
        return [
            run_of_ways(
                folder / f"seed-{seed}",
                {"behaviour": LATE if seed else NEVER, "previous_token": EARLY},
                heads=(seed % 3, 0),
                seed=seed,
            )
            for seed in range(7)
        ]


@pytest.fixture(scope="module")
def few(seven: list[Run]) -> xr.Dataset:
    return formation(seven)


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])["many"]


def array(data: dict[str, Any], name: str) -> np.ndarray:
    place = data[name]
    return array_of(place, bytes_of(data["packed"]))


def test_six_runs_and_more_have_a_page_of_many_whose_numbers_are_those_of_formation(
    seven: list[Run], few: xr.Dataset, tmp_path: Path
):
    folder = shutil.copytree(seven[0].path.parent, tmp_path / "many")
    (folder / "seed-3" / "report.html").write_text("a page")
    main(["report", str(folder)])
    data = data_of(folder / "report.html")
    assert [run["name"] for run in data["runs"]] == few.run.values.tolist()
    assert [run["page"] for run in data["runs"]] == [None] * 3 + ["seed-3/report.html"] + [None] * 3
    assert data["options"] == ["seed"]
    assert [run["options"] for run in data["runs"]] == [[seed] for seed in range(7)]
    assert [event["label"] for event in data["events"]] == ["loss on repeats", "previous token"]
    assert data["events"][0]["states"] == ["not formed"] + ["formed"] * 6
    np.testing.assert_allclose(array(data, "dates")[:, 0], few.half_way.values.T, rtol=1e-6)
    np.testing.assert_allclose(array(data, "ways"), few.way.transpose("event", "run", "checkpoint"), rtol=1 / 4000)
    np.testing.assert_allclose(array(data, "quartiles"), few.way_quartile, rtol=1 / 4000)
    np.testing.assert_allclose(array(data, "formedBy")[:, 1], few.formed_by_low, rtol=1 / 4000)
    assert data["headline"][0].startswith("6 of 7 runs formed the behaviour, loss on repeats: 86 % (95 % interval")
    assert "never formed (6 of 7 did)" in data["runs"][0]["outlier"]
    # The page itself is nothing that a folder of runs should not hold.
    assert not any("report.html" in note for note in formation(folder).attrs["notes"])


def test_fewer_than_six_runs_stand_beside_each_other(seven: list[Run], tmp_path: Path):
    text = write_report(seven[:5], tmp_path / "five.html").read_text()
    assert '"many"' not in text


def test_runs_without_scores_are_named_and_left_out(seven: list[Run], tmp_path: Path):
    runs = [Run(shutil.copytree(run.path, tmp_path / run.path.name)) for run in seven[:6]]
    shutil.rmtree(runs[2].path / "scores")
    data = data_of(write_report(runs))
    assert len(data["runs"]) == 5
    assert data["notes"][0] == "seed-2 has no scores yet: passed over"
    for run in runs:
        shutil.rmtree(run.path / "scores", ignore_errors=True)
    assert data_of(write_report(runs))["events"] == []


def test_a_hundred_and_one_runs_take_less_than_five_megabytes(few: xr.Dataset):
    data = repeated(few, 101)
    data = data.drop_vars(["way_quartile", "way_runs"]).interp(checkpoint=np.arange(1023.0))
    data["way"] += np.random.default_rng(0).normal(0, 0.1, data.way.shape)  # noise is hard to compress
    data["way_quartile"] = data.way.quantile([0.25, 0.5, 0.75], "run").transpose("event", "quantile", "checkpoint")
    data["way_runs"] = data.way.notnull().sum("run")
    found = of_formation(data, listed(data))
    assert (len(found["runs"]), found["checkpoints"]) == (101, 1023)
    assert 50 < len(found["steps"]) <= 100
    assert len(page_of_many("many", found).encode()) < 5_000_000 * data.sizes["event"] / 20


def test_with_two_runs_there_is_no_interval(seven: list[Run]):
    data = formation(seven[1:3])
    found = of_formation(data, listed(data))
    assert found["headline"][0] == "2 of 2 runs formed the behaviour, loss on repeats: 100 %."
    assert found["events"][0]["median"][1:] == [None, None]
    assert np.isnan(array(found, "quartiles")[:, [0, 2]]).all()
    assert np.isfinite(array(found, "quartiles")[:, 1]).all()


def test_nothing_of_a_run_ends_the_script(few: xr.Dataset):
    data = repeated(few, 6)
    runs = [each._replace(options={**each.options, NASTY: f"{NASTY}{at}"}) for at, each in enumerate(listed(data))]
    data = data.assign_coords(run=[NASTY, *data.run.values[1:]])
    text = page_of_many(NASTY, of_formation(data, runs))
    assert NASTY not in text
    assert text.count("</script>") == 3


def test_a_link_leads_from_the_page_to_a_run_and_has_no_scheme(seven: list[Run], tmp_path: Path):
    run = Run(shutil.copytree(seven[0].path, tmp_path / "runs" / "java:script #1"))
    assert link(run, tmp_path / "report.html") is None
    run.report_file.touch()
    assert link(run, tmp_path / "runs" / "report.html") == "java%3Ascript%20%231/report.html"
    assert link(run, tmp_path / "pages" / "a.html") == "../runs/java%3Ascript%20%231/report.html"


def test_only_options_that_differ_are_columns():
    assert differing([{"seed": 0, "lr": 0.1, "old": 1}, {"seed": 1, "lr": 0.1}]) == ["seed", "old"]


def test_a_run_from_before_an_option_existed_has_its_default(tmp_path: Path):
    new, old = (Run.create(tmp_path / f"seed-{seed}", replace(TOKENS, seed=seed)) for seed in range(2))
    config = yaml.safe_load((old.path / "config.yaml").read_text())
    for added in ("use_attn_scale", "attn_scale"):
        del config["model"][added]
    (old.path / "config.yaml").write_text(yaml.safe_dump(config))
    runs = [new, Run(old.path)]
    assert options_of(runs)[0].keys() == options_of(runs)[1].keys()
    assert differing(options_of(runs)) == ["seed"]
