"""Figures for papers: what is drawn are the scores, everything has its name, and bad input changes nothing on disk."""

import re
import shutil
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, PathPatch
from matplotlib.text import Text
from toys import TOKENS, VECTORS, Train, made_up_circuit

from headway.analyze import MEASURES, measure
from headway.analyze.formation.roles import ROLES, roles
from headway.analyze.measures.attention import attention
from headway.analyze.measures.loss import loss
from headway.analyze.measures.vocabulary import ov_top1
from headway.analyze.report import palette
from headway.analyze.report.figures.axes import DOUBLE, NO_NUMBER, SINGLE
from headway.analyze.report.figures.diagram import KINDS
from headway.analyze.report.figures.plot import FIGURES, draw, save
from headway.checkpoints import Run
from headway.checkpoints.schedule import Schedule
from headway.checkpoints.scores import read_file, score_file, write_scores
from headway.train import train

ONE_LAYER = replace(TOKENS, model=replace(TOKENS.model, n_layers=1))
LAST = 17


def with_circuit(run: Run) -> Run:
    """The run with a circuit of its first layer, as if one had been found at step 0."""
    edges = ["embed->L0H1.q", "embed->L0H1.v", "L0H1->output"]
    made_up_circuit(run, 0, edges, ["L0H2->output"], ("L0H1", "L0H2"))
    return run


@pytest.fixture(scope="module")
def tokens(trained: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return with_circuit(trained(TOKENS, tmp_path_factory.mktemp("runs") / "tokens"))


@pytest.fixture(scope="module")
def vectors(trained: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return with_circuit(trained(VECTORS, tmp_path_factory.mktemp("runs") / "vectors"))


@pytest.fixture(scope="module")
def one_layer(trained: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return with_circuit(trained(ONE_LAYER, tmp_path_factory.mktemp("runs") / "one"))


def settings() -> dict[str, Any]:
    """The settings of matplotlib; a backend that nobody has chosen is not chosen by this."""
    names = set(matplotlib.rcParams) - {"backend"}
    return {"backend": matplotlib.get_backend(auto_select=False)} | {name: matplotlib.rcParams[name] for name in names}


@pytest.fixture(autouse=True)
def pyplot_and_its_settings_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever is drawn or saved here is so without pyplot, and leaves the settings of the caller as they were."""
    before = settings()
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    yield
    assert settings() == before


@pytest.fixture
def run(tokens: Run, tmp_path: Path) -> Run:
    """A copy whose scores a test may change."""
    shutil.copytree(tokens.path, tmp_path / "run")
    return Run(tmp_path / "run")


def change(run: Run, step: int, name: str, **values: Any) -> None:
    """Write other numbers into the scores of a run: of variables, whole or at some places."""
    path = score_file(run.path, step, name)
    scores = read_file(path).copy(deep=True)
    for variable, value in values.items():
        where, number = value if isinstance(value, tuple) else (..., value)
        scores[variable].values[where] = number
    write_scores(path, scores)


def form(run: Run, kind: str, pair: tuple[int, int, int, int], since: int, z: float) -> None:
    """Have a composition be above its band from a step on."""
    for step in run.steps:
        if step >= since:
            change(run, step, kind, **{kind: (pair, 2.0), f"{kind}_z": (pair, z)})


def title(figure: Figure) -> str:
    return figure.get_suptitle()


def panels(figure: Figure) -> list[Any]:
    """What is no colour bar."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def tick_texts(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# What is drawn.


def test_losses_are_lines_over_training_beside_the_baselines(tokens: Run):
    figure = draw(tokens, "loss")
    (axes,) = panels(figure)
    scores = tokens.scores
    lines = {line.get_label(): line for line in axes.get_lines()}
    for name, label in (("loss", "loss"), ("loss_first", "loss on first"), ("loss_repeats", "loss on repeats")):
        np.testing.assert_array_equal(lines[label].get_ydata(), scores[name])
        np.testing.assert_array_equal(lines[label].get_xdata(), scores.step)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss (nats)")
    assert title(figure) == "loss, steps 0 to 17"
    assert legend(figure) == ["loss", "loss on first", "loss on repeats"]
    named = {text.get_text().replace("\n", " ").replace("\u00a0", " ") for text in axes.texts}
    assert named == {"chance 2.56", "first unseen 2.38", "repeats induction 0"}
    assert tick_texts(axes.xaxis) == ["0", "1", "10"]
    x = axes.transData.transform([(step, 1) for step in (0, 1, 10)])[:, 0]
    np.testing.assert_allclose((x[2] - x[0]) / (x[1] - x[0]), np.log(11) / np.log(2), rtol=1e-5)


def test_scores_of_the_network_and_of_layers_are_lines_over_training(vectors: Run, tmp_path: Path):
    run = Run(shutil.copytree(vectors.path, tmp_path / "run"))
    measure(run, [each for each in MEASURES if each.name in ("linearity", "outside_embedding")])
    figure = draw(run, "network")
    titles = [axes.get_title(loc="left") for axes in panels(figure)]
    assert titles == [
        "in_context", "linearity, data", "linearity, isotropic", "linearity_intercept, data",
        "linearity_intercept, isotropic", "linearity_slope, data", "linearity_slope, isotropic", "outside_embedding",
        "effect_mlp",
    ]  # fmt: skip
    assert title(figure) == "scores of the network, steps 0 to 17"
    assert legend(figure) == ["in context", "layer 0", "layer 1", "null"]
    assert [panels(figure)[place].get_ylabel() for place in (0, -1)] == ["squared error", "share of what is known"]
    (axes,) = panels(draw(run, "network", at=5, measure="linearity, isotropic"))
    lines = {line.get_label(): line for line in axes.get_lines()}
    for layer in range(2):
        expected = run.scores.linearity.sel(inputs="isotropic", layer=layer)
        np.testing.assert_array_equal(lines[f"layer {layer}"].get_ydata(), expected)
    np.testing.assert_array_equal(lines["null"].get_ydata(), run.scores.linearity_null)
    assert axes.get_ylim()[0] < 0 < 1 < axes.get_ylim()[1] < 1.1  # its range is from 0 to 1


def test_a_step_is_marked_in_what_goes_over_training(tokens: Run):
    for name in ("loss", "heads", "network"):
        figure = draw(tokens, name, at=5)
        assert title(figure).endswith(", step 5")
        for axes in panels(figure):
            line = axes.get_lines()[0]
            if not np.isfinite(line.get_ydata()).any():
                continue  # the effects of a toy that knows nothing
            assert [line.get_xdata()[place] for place in line.get_markevery()] == [5]
            assert any(list(line.get_xdata()) == [5, 5] for line in axes.get_lines())


def test_losses_far_apart_are_on_a_log_axis(run: Run):
    change(run, LAST, "loss", loss_repeats=1e-3)
    (axes,) = panels(draw(run, "loss"))
    assert axes.get_yscale() == "log"
    # 0 has no place there.
    assert not [text for text in axes.texts if "repeats" in text.get_text()]
    assert "0.01" in tick_texts(axes.yaxis)


def test_units_are_those_of_the_task(vectors: Run):
    assert panels(draw(vectors, "loss"))[0].get_ylabel() == "loss (squared error)"
    assert panels(draw(vectors, "attribution"))[0].get_xlabel() == "shares of the target"


def test_patterns_are_the_attention_scores(tokens: Run):
    figure = draw(tokens, "attention", at=5, sequence=2)
    scores = tokens.scores.attention.sel(step=5, batch=2)
    shown = panels(figure)
    assert [axes.get_title() for axes in shown] == ["L0H0", "L0H1", "L0H2", "L1H0", "L1H1", "L1H2"]
    for place, axes in enumerate(shown):
        expected = scores.sel(layer=place // 3, head=place % 3).transpose("query", "key")
        np.testing.assert_array_equal(axes.images[0].get_array(), expected)
    texts = tokens.task.labels(tokens.batch())[scores.attrs["sequences"][2]]
    assert tick_texts(shown[3].xaxis) == tick_texts(shown[3].yaxis) == texts
    assert (shown[3].get_xlabel(), shown[3].get_ylabel()) == ("key", "query")
    assert title(figure) == "attention, step 5, sequence 2"
    (bar,) = (axes for axes in figure.axes if axes not in shown)
    assert bar.get_ylabel() == "attention"
    # The colour goes by the square root; what stands beside it is attention.
    assert shown[0].images[0].norm(0.25) == 0.5
    assert tick_texts(bar.yaxis) == ["0", "0.1", "0.25", "0.5", "1"]


@pytest.mark.parametrize(
    ("options", "titles"),
    [
        ({"layer": 1, "head": 2}, ["L1H2"]),
        ({"layer": 1}, ["L1H0", "L1H1", "L1H2"]),
        ({"head": 2}, ["L0H2", "L1H2"]),
    ],
)
def test_layer_and_head_choose_panels(options: dict[str, Any], titles: list[str], tokens: Run):
    assert [axes.get_title() for axes in panels(draw(tokens, "attention", **options))] == titles
    circles = panels(draw(tokens, "eigenvalues", **options))
    assert [axes.get_title().partition(":")[0] for axes in circles] == titles


def test_where_tokens_have_no_room_there_are_positions(tokens: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("headway.analyze.report.figures.axes.NAME", 1000)
    (axes,) = panels(draw(tokens, "attention", layer=0, head=0))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("key", "query")
    assert {"0", "3", "6", "9"} <= set(tick_texts(axes.xaxis))


def test_attention_that_is_no_number_is_drawn_as_that(run: Run):
    change(run, LAST, "attention", attention=((1, 2), np.nan))
    shown = panels(draw(run, "attention"))
    assert [axes.get_title() for axes in shown][4:] == ["L1H1", "L1H2: no number"]
    image = shown[5].images[0]
    grey = to_rgb(NO_NUMBER)
    np.testing.assert_allclose(image.cmap(image.norm(image.get_array()))[..., :3], np.broadcast_to(grey, (11, 11, 3)))


@pytest.mark.parametrize("measured", [None, "qk_eigenvalue"])
def test_eigenvalues_are_points_of_the_plane(measured: str | None, tokens: Run):
    name = measured or "ov_eigenvalue"
    figure = draw(tokens, "eigenvalues", at=5, measure=measured)
    assert title(figure) == f"{name}, step 5"
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("real part of λ", "imaginary part of λ")
    spectrum, ratio = tokens.scores[f"{name}_spectrum"], tokens.scores[name].sel(step=5)
    for place, axes in enumerate(panels(figure)):
        head: Any = {"layer": place // 3, "head": place % 3}
        right, left = (line.get_xdata() + 1j * line.get_ydata() for line in axes.get_lines()[:2])
        assert (right.real >= 0).all()
        assert (left.real < 0).all()
        expected = spectrum.sel(step=5, **head).values
        np.testing.assert_array_equal(np.sort_complex([*right, *left]), np.sort_complex(expected))
        # The circle is the largest of all steps, and the number is the score.
        largest = np.abs(spectrum.sel(head)).max().item()
        (circle,) = (patch for patch in axes.patches if isinstance(patch, Circle))
        np.testing.assert_allclose(circle.radius, largest)
        said = axes.get_title().partition("\n")[0].partition(": ")[2].replace("−", "-")
        np.testing.assert_allclose(float(said), ratio.sel(head), rtol=0.06)


def test_scores_of_heads_are_lines_over_the_band_of_their_null(tokens: Run):
    figure = draw(tokens, "heads", measure="qk_eigenvalue")
    shown, scores = panels(figure), tokens.scores
    assert [axes.get_title(loc="left") for axes in shown] == ["layer 0", "layer 1"]
    assert (shown[0].get_xlabel(), shown[0].get_ylabel()) == ("step", "qk_eigenvalue")
    assert legend(figure) == ["head 0", "head 1", "head 2", "99 % band of the null"]
    for layer, axes in enumerate(shown):
        for head, line in enumerate(axes.get_lines()):
            assert line.get_label() == f"head {head}"
            np.testing.assert_array_equal(line.get_ydata(), scores.qk_eigenvalue.sel(layer=layer, head=head))
        (band,) = (part for part in axes.collections if isinstance(part, PolyCollection))
        heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
        assert heights.max() == scores.qk_eigenvalue_high.sel(layer=layer, head=0).max()
        assert heights.min() == scores.qk_eigenvalue_low.sel(layer=layer, head=0).min()


def test_every_score_of_heads_has_its_panels(tokens: Run):
    figure = draw(tokens, "heads")
    titles = [axes.get_title(loc="left") for axes in panels(figure)]
    names = [
        "previous_token", "current_token", "first_token", "duplicate_token", "prefix_matching", "ov_eigenvalue",
        "qk_eigenvalue", "effect",
    ]  # fmt: skip
    assert titles == [text for name in names for text in (f"{name}\nlayer 0", "\nlayer 1")]
    only = panels(draw(tokens, "heads", layer=1, head=2))
    assert [axes.get_title(loc="left") for axes in only] == [f"{name}\nlayer 1" for name in names]
    assert all([line.get_label() for line in axes.get_lines()] == ["head 2"] for axes in only)


def test_a_score_of_a_single_step_is_a_dot(run: Run):
    measure(run, [ov_top1], steps=[5])
    for axes in panels(draw(run, "heads", measure="ov_top1")):
        for line in axes.get_lines():
            assert list(line.get_xdata()) == [5]
            assert (line.get_marker(), line.get_markevery()) == ("o", [0])


def test_compositions_are_matrices_of_z(run: Run):
    form(run, "k_composition", (0, 1, 1, 2), since=5, z=9.0)
    figure = draw(run, "composition", at=5)
    shown = panels(figure)
    assert [axes.get_title() for axes in shown] == ["q_composition", "k_composition", "v_composition"]
    assert title(figure) == "composition, step 5"
    for axes in shown:
        z = run.scores[f"{axes.get_title()}_z"].sel(step=5, from_layer=0, to_layer=1)
        np.testing.assert_array_equal(axes.images[0].get_array(), z.transpose("from_head", "to_head"))
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("reads", "writes")
        assert tick_texts(axes.yaxis) == ["L0H0", "L0H1", "L0H2"]
        assert tick_texts(axes.xaxis) == ["L1H0", "L1H1", "L1H2"]
    assert [axes.get_xlabel() for axes in figure.axes if axes not in shown] == ["z", "z", "z"]
    image = panels(draw(run, "composition", at=5, measure="k_composition"))[0].images[0]
    np.testing.assert_allclose(image.norm([-9, -9 / 4, 0, 9 / 4, 9]), [0, 0.25, 0.5, 0.75, 1])


def test_a_pair_that_cannot_be_and_one_that_is_no_number_look_different(tmp_path: Path):
    ends = Schedule(log=0, linear=0)
    three = replace(TOKENS, model=replace(TOKENS.model, n_layers=3), steps=5, schedule=ends)
    run = train(**vars(three), out=tmp_path / "three")
    change(run, 5, "k_composition", k_composition_z=((0, 1, 1, 2), np.nan))
    (axes,) = panels(draw(run, "composition", measure="k_composition"))
    image = axes.images[0]
    assert tick_texts(axes.yaxis)[0::3] == ["L0H0", "L1H0"]
    assert tick_texts(axes.xaxis)[0::3] == ["L1H0", "L2H0"]
    seen = image.get_alpha()
    assert (seen[:3] == 1).all()
    assert (seen[3:, :3] == 0).all()
    assert (seen[3:, 3:] == 1).all()
    assert np.isnan(np.ma.getdata(image.get_array())[1, 2])


def test_bars_are_what_each_component_adds(tokens: Run):
    figure = draw(tokens, "attribution", at=5)
    shown, scores = panels(figure), tokens.scores.sel(step=5)
    assert title(figure) == "direct_attribution, step 5"
    for axes, part in zip(shown, ("", "_first", "_repeats"), strict=True):
        expected = scores[f"direct_attribution{part}"]
        np.testing.assert_allclose([bar.get_width() for bar in axes.patches], expected)
        for bar, value in zip(axes.patches, expected.values, strict=True):
            assert to_rgb(bar.get_facecolor()) == to_rgb(palette.CATEGORIES[0 if value >= 0 else 1])
        assert axes.get_xlabel() == "logits"
    assert tick_texts(shown[0].yaxis) == scores.component.values.tolist()
    assert shown[0].get_ylabel() == "component"
    titles = [axes.get_title().partition("\n")[0] for axes in shown]
    assert titles == ["direct attribution", "direct attribution on first", "direct attribution on repeats"]


def test_what_is_no_number_is_drawn_as_nothing_and_adds_up_to_nothing(run: Run):
    for name in ("direct_attribution", "ov_eigenvalue", "previous_token", "loss", "k_composition"):
        path = score_file(run.path, LAST, name)
        change(run, LAST, name, **{str(each): np.nan for each in read_file(path).data_vars})
    for name in FIGURES:
        draw(run, name)
    figure = draw(run, "attribution")
    assert all(axes.get_title().endswith("sum –") for axes in panels(figure))
    assert panels(draw(run, "eigenvalues"))[0].get_title().startswith("L0H0: –\n")


def test_a_run_of_which_one_step_is_scored(run: Run):
    for step in run.steps[1:]:
        shutil.rmtree(run.path / "scores" / f"step-{step:08d}")
    for name in FIGURES:
        assert re.search(r", step 0(, sequence 0|: keeps .* %)?$", title(draw(run, name)))


def test_nodes_have_the_colour_of_their_role(tokens: Run):
    figure = draw(tokens, "diagram", at=5)
    (axes,) = panels(figure)
    expected = roles(tokens.scores).sel(step=5)
    nodes = {patch.get_label(): patch for patch in axes.patches if isinstance(patch, Circle)}
    assert nodes.keys() == {f"L{layer}H{head}" for layer in range(2) for head in range(3)}
    for layer, head in np.ndindex(2, 3):
        name, share = (expected[part].sel(layer=layer, head=head).item() for part in ("role", "role_share"))
        full = np.array(to_rgb(palette.CATEGORIES[list(ROLES).index(name)])) if name else np.ones(3)
        part = 0.06 + 0.94 * share if name else 1
        np.testing.assert_allclose(to_rgb(nodes[f"L{layer}H{head}"].get_facecolor()), part * full + 1 - part)
        if name:
            assert ROLES[name] in legend(figure)
    heights = [nodes[f"L{layer}H0"].center[1] for layer in range(2)]
    assert heights[0] < heights[1]


def test_edges_are_the_compositions_that_have_formed(run: Run):
    form(run, "k_composition", (0, 1, 1, 2), since=5, z=40.0)
    form(run, "v_composition", (0, 0, 1, 2), since=12, z=10.0)

    def edges(at: int) -> dict[str, PathPatch]:
        figure = draw(run, "diagram", at=at)
        return {str(p.get_label()): p for p in panels(figure)[0].patches if isinstance(p, PathPatch)}

    steps = run.steps
    before, between = max(step for step in steps if step < 5), max(step for step in steps if step < 12)
    assert not edges(before)
    assert edges(between).keys() == {"k_composition L0H1 L1H2"}
    found = edges(LAST)
    assert found.keys() == {"k_composition L0H1 L1H2", "v_composition L0H0 L1H2"}
    strong, weak = found["k_composition L0H1 L1H2"], found["v_composition L0H0 L1H2"]
    assert strong.get_linewidth() > weak.get_linewidth()
    assert strong.get_linestyle() != weak.get_linestyle()
    figure = draw(run, "diagram")
    assert legend(figure)[-2:] == ["K-composition, z up to 40", "V-composition, z up to 10"]
    assert title(figure) == f"2 compositions above their null bands, step {LAST}"


def test_the_circuit_is_the_last_one_found_by_a_step(run: Run):
    shutil.rmtree(run.path / "circuits")
    with pytest.raises(ValueError, match=rf"figure: circuit has not been found; headway circuit {run.path} finds it"):
        draw(run, "circuit")
    made_up_circuit(run, 5, ["embed->L0H0.v", "L0H0->output"], [], ("L0H0", "L0H2"))
    late = ["embed->L0H1.v", "L0H1->L1H2.k", "L1H2->output"]
    scores = made_up_circuit(run, LAST, late, ["L1H0->output"], ("L1H2", "L1H0"))
    figure = draw(run, "circuit")
    edges = {str(p.get_label()): p for p in panels(figure)[0].patches if isinstance(p, PathPatch)}
    assert edges.keys() == {*late, "L1H0->output"}
    alphas = {name: float(patch.get_alpha() or 1) for name, patch in edges.items()}
    assert all(alphas["L1H0->output"] < alphas[name] for name in late)
    costs = scores.cost.sel(edge=late).values
    assert np.argsort(costs).tolist() == np.argsort([edges[name].get_linewidth() for name in late]).tolist()
    nodes = {p.get_label(): p for p in panels(figure)[0].patches if isinstance(p, Circle)}
    assert [name for name, node in nodes.items() if node.get_linestyle() == "--"] == ["L1H0"]
    assert title(figure).startswith(f"repeats (twin), step {LAST}: keeps ")
    assert "step 5:" in title(draw(run, "circuit", at=12))
    with pytest.raises(ValueError, match=f"at: 3 is not valid; circuits have been found at steps 5, {LAST}"):
        draw(run, "circuit", at=3)
    with pytest.raises(ValueError, match="layer: 1 is not valid; the figure circuit takes at, part, replace"):
        draw(run, "circuit", layer=1)


def test_a_circuit_is_chosen_by_its_behaviour_and_its_replacement(run: Run):
    scores = made_up_circuit(run, 5, ["embed->output"], [], ("embed", "L0H0"))
    for part, replacement in (("all", "twin"), ("repeats", "zero")):
        write_scores(run.circuit_file(5, part, replacement), scores)
    assert title(draw(run, "circuit", part="all")).startswith("all positions (twin), step 5")
    assert title(draw(run, "circuit", replace="zero")).startswith("repeats (zero), step 5")
    assert title(draw(run, "circuit", part="repeats", replace="twin", at=3)).startswith("repeats (twin), step 0")
    for options, message in (
        (
            {"part": "first"},
            "part: 'first' is not valid; circuits have been found of repeats .twin., repeats .zero., all",
        ),
        ({"part": "all", "replace": "zero"}, "replace: 'zero' is not valid; circuits have been found of all .twin.$"),
    ):
        with pytest.raises(ValueError, match=message):
            draw(run, "circuit", part=options["part"], replace=options.get("replace"))


def test_no_two_kinds_of_edges_look_alike():
    assert len({str(kind.dashes) for kind in KINDS.values()}) == len({kind.color for kind in KINDS.values()}) == 3


def test_what_has_no_roles_still_has_its_edges(run: Run):
    for path in run.path.glob("scores/step-*/*.safetensors"):
        if path.stem not in ("k_composition", "loss"):
            path.unlink()
    figure = draw(run, "diagram", at=LAST)
    assert all(
        patch.get_facecolor()[:3] == (1, 1, 1) for patch in panels(figure)[0].patches if isinstance(patch, Circle)
    )


def test_a_run_of_one_layer(one_layer: Run):
    for name in FIGURES.keys() - {"composition"}:
        draw(one_layer, name)
    with pytest.raises(ValueError, match=r"figure: composition is not valid for .*: it has one layer"):
        draw(one_layer, "composition")


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("fixture", ["tokens", "vectors"])
def test_nothing_is_cut_off_and_no_texts_overlap(
    name: str, fixture: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    figure = draw(request.getfixturevalue(fixture), name, at=5)
    assert figure.get_figwidth() in (SINGLE, DOUBLE)
    drawn, draw_text = [], Text.draw

    def spy(text: Text, *arguments: Any, **options: Any) -> None:
        drawn.append(text)
        draw_text(text, *arguments, **options)

    monkeypatch.setattr(Text, "draw", spy)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = {
        text: text.get_window_extent(canvas.get_renderer())
        for text in drawn
        if text.get_visible() and text.get_text().strip()
    }
    assert len(boxes) > 5
    for text, box in boxes.items():
        assert min(box.x0, box.y0, figure.bbox.width - box.x1, figure.bbox.height - box.y1) > -0.5, text
    for (text, box), (other, its) in combinations(boxes.items(), 2):
        apart = max(box.x0, its.x0) + 1 > min(box.x1, its.x1) or max(box.y0, its.y0) + 1 > min(box.y1, its.y1)
        assert apart, (text, other)


# How it is written.


def test_text_of_an_svg_is_text_whatever_it_holds(run: Run, tmp_path: Path):
    odd = ["<script>", "$x$ & y", "a\nb", "\0", "]]>", "a_very_long_one", "π", "\\", "{}", "%", "#"]
    for step in run.steps:
        path = score_file(run.path, step, "attention")
        scores = read_file(path)
        scores.attention.attrs["tokens"] = [odd] * 4
        write_scores(path, scores)
    out = save(draw(run, "attention", layer=0, head=0), tmp_path / "figure.svg")
    written = out.read_text()
    assert "<script" not in written
    texts = {node.text for node in ET.fromstring(written).iter("{http://www.w3.org/2000/svg}text")}
    shown = {"<script>", "$x$ & y", "a\\nb", "\\x00", "]]>", "a_very_l…", "π", "\\", "{}", "%", "#"}
    assert shown | {"L0H0", "key", "query", "attention", "attention, step 17, sequence 0"} <= texts


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_same_figure_gives_the_same_bytes(ending: str, tokens: Run, tmp_path: Path):
    figure = draw(tokens, "attention", layer=0, head=0)
    first = save(figure, tmp_path / f"first.{ending}").read_bytes()
    assert save(figure, tmp_path / f"second.{ending}").read_bytes() == first
    # Whatever else is set in this process.
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "svg.hashsalt": "x", "axes.grid": True}):
        again = save(draw(tokens, "attention", layer=0, head=0), tmp_path / f"again.{ending}").read_bytes()
    assert again == first
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])
    assert {path.suffix for path in tmp_path.iterdir()} == {f".{ending}"}


def test_a_notebook_shows_a_figure_that_pyplot_does_not_know(tokens: Run):
    figure = draw(tokens, "loss")
    picture = figure._repr_png_()  # pyright: ignore[reportAttributeAccessIssue]
    assert picture.startswith(b"\x89PNG")
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    assert width / height == pytest.approx(figure.get_figwidth() / figure.get_figheight(), rel=0.01)
    assert figure._repr_png_() == picture  # pyright: ignore[reportAttributeAccessIssue]


def test_a_figure_of_ours_is_replaced_and_nothing_else(tokens: Run, tmp_path: Path):
    figure, other = draw(tokens, "loss"), draw(tokens, "diagram")
    for ending in ("png", "svg", "pdf"):
        theirs, ours = tmp_path / f"theirs.{ending}", tmp_path / "new" / f"ours.{ending}"
        theirs.write_text("a picture of somebody's")
        with pytest.raises(ValueError, match=r"out: .*theirs.* is not a figure of Headway; --overwrite replaces it"):
            save(figure, theirs)
        assert theirs.read_text() == "a picture of somebody's"
        assert save(figure, theirs, overwrite=True).stat().st_size > 1000
        save(figure, ours)
        assert save(other, ours) == ours


# Bad input.


@pytest.mark.parametrize(
    ("figure", "options", "message"),
    [
        ("los", {}, "figure: 'los' is not one of loss, network, .*; nearest is 'loss'"),
        ("loss", {"layer": 1}, "layer: 1 is not valid; the figure loss takes at$"),
        ("composition", {"head": 0}, "head: 0 is not valid; the figure composition takes at, measure$"),
        ("diagram", {"measure": "k_composition"}, "measure: 'k_composition' is not valid; the figure diagram takes at"),
        ("heads", {"sequence": 0}, "sequence: 0 is not valid; the figure heads takes at, layer, head, measure"),
        ("attribution", {"sequence": 0}, "sequence: 0 is not valid; the figure attribution takes at"),
        ("attention", {"at": 6}, "step: 6 is not among those with scores; nearest is 5, all are 0, "),
        ("loss", {"at": -1}, "step: -1 is not among those with scores; nearest is 0"),
        ("attention", {"layer": 2}, "layer: 2 is not valid; this run has 0 to 1"),
        ("eigenvalues", {"head": -1}, "head: -1 is not valid; this run has 0 to 2"),
        ("heads", {"head": 3}, "head: 3 is not valid; this run has 0 to 2"),
        ("attention", {"sequence": 4}, "sequence: 4 is not valid; this run has 0 to 3"),
        ("heads", {"measure": "k_composition"}, "measure: 'k_composition' is not a score of heads in this run; it"),
        ("heads", {"measure": "previous"}, "is not a score of heads .* one of previous_token, .* nearest is 'previous"),
        ("composition", {"measure": "first_token"}, "not a score of pairs of heads .* one of q_composition, k_compos"),
        ("eigenvalues", {"measure": "loss"}, "'loss' has no eigenvalues in this run; it must be one of ov_eigenvalue"),
        ("network", {"measure": "loss"}, "'loss' is not a score of the network or of layers .* one of accuracy, in_"),
        ("heads", {"measure": "ov_top1"}, "measure: 'ov_top1' has no scores .headway measure .*run.* --only ov_top1 "),
    ],
)  # fmt: skip
def test_bad_options(figure: str, options: dict[str, Any], message: str, tokens: Run):
    before = contents(tokens.path)
    with pytest.raises(ValueError, match=message) as error:
        draw(tokens, figure, **options)
    assert "\n" not in str(error.value)
    assert contents(tokens.path) == before


@pytest.mark.parametrize(
    ("figure", "lost", "only"),
    [
        ("loss", "loss", "loss"),
        ("attention", "attention", "attention"),
        ("eigenvalues", "ov_eigenvalue qk_eigenvalue", "ov_eigenvalue,qk_eigenvalue"),
        ("composition", "q_composition k_composition v_composition", "k_composition"),
        ("attribution", "direct_attribution", "direct_attribution"),
        ("network", "accuracy in_context", "accuracy,in_context"),
        ("heads", "*_token prefix_matching ??_eigenvalue effect", "previous_token"),
        ("diagram", "*_token prefix_matching ?_composition", "previous_token,k_composition"),
    ],
)
def test_scores_that_are_missing_are_named_with_the_command_that_makes_them(
    figure: str, lost: str, only: str, run: Run
):
    for pattern in lost.split():
        for path in run.path.glob(f"scores/step-*/{pattern}.safetensors"):
            path.unlink()
    with pytest.raises(ValueError, match=rf"^figure: .* headway measure {run.path} --only {only} computes them"):
        draw(run, figure)


def test_a_measure_that_one_step_lacks(run: Run):
    measure(run, [ov_top1, attention, loss], steps=[5])
    for step in run.steps:
        if step != 5:
            score_file(run.path, step, "attention").unlink()
    # Most steps lack it, so they count as whole.
    draw(run, "attention", at=5)
    with pytest.raises(ValueError, match=f"attention has no scores at step {LAST}, .* --only attention --at"):
        draw(run, "attention")


def test_a_run_without_scores(run: Run):
    shutil.rmtree(run.path / "scores")
    draw(run, "circuit")  # which needs none
    for name in FIGURES.keys() - {"circuit"}:
        with pytest.raises(ValueError, match=rf"run: .* has no scores yet; headway measure {run.path} computes them"):
            draw(run, name)


def test_bad_places(tokens: Run, tmp_path: Path):
    figure = draw(tokens, "loss")
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "file").touch()
    before = contents(tmp_path)
    for out, message in {
        tmp_path / "figure.jpg": "out: '.*figure.jpg' is not valid; it must end in .png, .svg, .pdf",
        "": "out: '.*' is not valid; it must end in",
        tmp_path / "folder.svg": "out: .*folder.svg is a directory; it must be a file",
        tmp_path / "file" / "figure.svg": "out: .* cannot be written",
    }.items():
        with pytest.raises(ValueError, match=message):
            save(figure, out)
    assert contents(tmp_path) == before


def test_matplotlib_is_asked_for_where_it_is_missing(tokens: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"^plot: needs matplotlib; pip install 'headway\[paper\]'$"):
        draw(tokens, "loss")
