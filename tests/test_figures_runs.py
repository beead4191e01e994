"""Several runs over each other: lines are those of the runs, and the median and band those of formation."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from test_runs_page import few, seven  # noqa: F401  # fixtures

from headway.__main__ import main
from headway.analyze.report.figures.plot import draw_many
from headway.checkpoints import Run


def y(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_ydata(), float)


def x(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_xdata(), float)


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_formation_is_the_share_of_runs_by_step(seven: list[Run], few: xr.Dataset):  # noqa: F811
    figure = draw_many(seven, "formation", at=63)
    (axes,) = figure.axes
    assert legend(figure) == ["previous token (7 of 7)", "loss on repeats (6 of 7)"]
    for name, line in zip(["previous_token", "behaviour"], axes.lines, strict=False):
        shares = y(line)
        expected = few.formed_by.sel(event=name)
        np.testing.assert_allclose(shares[1:-1], expected.dropna("step"))
        np.testing.assert_array_equal(x(line)[[0, -1]], [0, 1023])
        assert shares[-1] == expected.dropna("step").values[-1]
    assert sum(isinstance(each, PolyCollection) for each in axes.collections) == 2
    assert x(axes.lines[-1])[0] == 63
    assert "95 % intervals" in figure.get_suptitle()


def test_heads_are_thin_lines_with_their_median_and_quartiles(seven: list[Run], few: xr.Dataset):  # noqa: F811
    figure = draw_many(seven, "heads")
    (axes,) = figure.axes
    *thin, median = axes.lines
    assert len(thin) == 7
    for line, way in zip(thin, few.way.sel(event="previous_token"), strict=True):
        np.testing.assert_allclose(y(line), way)
    np.testing.assert_allclose(y(median), few.way_quartile.sel(event="previous_token", quartile=0.5))
    assert median.get_linewidth() > 2 * thin[0].get_linewidth()
    assert legend(figure) == ["one run", "quartiles over runs", "median over runs"]


def test_loss_has_a_panel_for_each_part(seven: list[Run]):  # noqa: F811
    figure = draw_many(seven, "loss")
    assert [axes.get_title("left") for axes in figure.axes] == ["loss", "loss on first", "loss on repeats"]
    expected = [run.scores.loss_repeats.values for run in seven]
    repeats = figure.axes[2]
    np.testing.assert_allclose([y(line) for line in repeats.lines[:-1]], expected)
    np.testing.assert_allclose(y(repeats.lines[-1]), np.median(expected, 0))
    assert len(draw_many(seven, "loss", part="repeats").axes) == 1


def test_two_runs_have_a_median_and_no_band(seven: list[Run]):  # noqa: F811
    assert legend(draw_many(seven[:2], "loss")) == ["one run", "median over runs"]
    assert "95 %" not in draw_many(seven[:2], "formation").get_suptitle()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("RUNS attention", "figure: attention is of one run; of several there is formation, heads, loss"),
        ("RUNS formatoin", "figure: 'formatoin' is not one of formation, heads, loss; nearest is 'formation'"),
        ("RUNS loss --layer 1", "layer: 1 is not valid; the figure loss takes at, part"),
        ("RUNS loss --part wrong", "part: 'wrong' is not valid; it must be one of all, first, repeats"),
        ("RUNS/seed-0 RUNS/seed-0 loss", "run: RUNS/seed-0 is given twice; it counts once"),
        ("RUNS/seed-0 formation", "figure: formation is of several runs; give more than one, or a folder of runs"),
    ],
)
def test_what_does_not_fit_is_refused(
    arguments: str,
    said: str,
    seven: list[Run],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    folder = str(seven[0].path.parent)
    with pytest.raises(SystemExit) as ended:
        main(["plot", *arguments.replace("RUNS", folder).split()])
    assert ended.value.code == 2
    assert capsys.readouterr().err.replace(folder, "RUNS") == f"headway: {said}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_the_command_writes_the_overlay_of_a_folder_of_runs(ending: str, seven: list[Run], tmp_path: Path):  # noqa: F811
    out = tmp_path / f"figure.{ending}"
    main(["plot", str(seven[0].path.parent), "heads", "--out", str(out)])
    assert out.stat().st_size > 3000
