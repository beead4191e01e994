"""The page in a real browser: it opens from disk with the network off, and everything on it follows the slider."""

import base64
import io
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from browsing import Open, check_paper, drawn, first, go, needs_chromium, pixels, seen, settled
from matplotlib.image import imread
from playwright.sync_api import Locator, Page
from toys import TOKENS, VECTORS, Train, made_up_circuit, made_up_run

from headway.analyze.circuits.circuit import Circuit
from headway.analyze.report import write_report
from headway.checkpoints import Run
from headway.checkpoints.schedule import Schedule
from headway.checkpoints.scores import read_file, score_file, write_scores
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch
from headway.train import train

pytestmark = needs_chromium


# Of no step between the first and the last.
SHORT = replace(TOKENS, steps=3, schedule=Schedule(log=0, linear=0))


@pytest.fixture(scope="module")
def run(trained: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which a circuit forms: its K-compositions leave their bands between the kept steps."""
    recipe = replace(TOKENS, steps=59, schedule=replace(TOKENS.schedule, log=5, linear=4, at=()))
    return trained(recipe, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def formed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A made-up run in which one pair has left its band at the last of its steps."""
    run = made_up_run(tmp_path_factory.mktemp("runs") / "formed", layers=2, heads=3, kept=5)
    for step in range(5):
        path = score_file(run.path, step, "k_composition")
        scores = read_file(path)
        for name in ("k_composition", "k_composition_z"):
            scores[name][:] = np.where(scores[name].notnull(), 0.0, np.nan)
        scores["k_composition_high"][:], scores["k_composition_low"][:] = 3.0, -3.0
        if step >= 3:
            scores["k_composition"][0, 1, 1, 2] = scores["k_composition_z"][0, 1, 1, 2] = 10.0 * step
        write_scores(path, scores)
        # Enough is known for shares of it.
        path = score_file(run.path, step, "effect")
        scores = read_file(path)
        scores["effect_known"][...], scores["effect"][:] = 3.0, 0.1 * step
        write_scores(path, scores)
    write_report(run)
    return run


def test_the_page_opens_from_disk_and_every_section_has_its_figure(run: Run, opened: Open):
    page = opened(run.report_file)
    assert page.title() == "run · Headway"
    sections = page.locator("section h2").all_text_contents()
    assert sections == [
        "Overview", "What formed", "Try the network", "Circuit", "Scores of heads", "Scores of the network",
        "Composition", "Eigenvalues", "OV and QK, token by token", "Direct attribution",
        "Loss and accuracy by position", "Every update", "About",
    ]  # fmt: skip
    assert page.locator("#slider").input_value() == str(len(run.steps) - 1)
    for section, figure, count in (
        ("overview", ".loss figure path", 3),
        ("overview", ".diagram .node", 6),
        ("overview", ".attention button.head canvas", 6),
        ("network", "figure canvas", 2),
        ("eigenvalues", "button.head canvas", 12),
        ("heads", ".panels canvas", 16),
        ("pairs", "canvas[tabindex]", 3),
        ("attribution", "table", 3),
        ("positions", "canvas", 2),
        ("updates", "canvas", 3),
    ):
        assert seen(page, section).locator(figure).count() == count, section
    assert page.locator("text=cannot be drawn").count() == 0


def test_the_slider_moves_the_cursor_the_diagram_and_the_attention(formed: Run, opened: Open):
    page = opened(formed.report_file, "#kinds=k")
    shown = {}
    for place in (4, 0):
        go(page, place)
        cursor = first(page, "loss").locator(".cursor").get_attribute("x1")
        diagram = first(page, "diagram")
        edges = diagram.locator("path.edge").evaluate_all("(edges) => edges.map((edge) => edge.dataset.kind)")
        pattern = pixels(first(page, "attention").locator("button.head canvas").first)
        plane = pixels(seen(page, "eigenvalues").locator("canvas").first)
        line = pixels(seen(page, "heads").locator("canvas").first)
        bars = seen(page, "attribution").locator("td.number").all_text_contents()
        shown[place] = (cursor, tuple(edges.count(kind) for kind in "K"), pattern, plane, line, tuple(bars))
    for late, early in zip(shown[4], shown[0], strict=True):
        assert late != early
    assert shown[0][1] == (0,)
    assert shown[4][1] == (1,)


def test_an_edge_appears_with_the_step_at_which_its_pair_forms_and_is_as_wide_as_its_z(formed: Run, opened: Open):
    page = opened(formed.report_file)
    edges = page.locator("path.edge[data-kind=K]")
    first(page, "diagram")
    # Compositions are shown on demand.
    assert edges.count() == 0
    page.locator("#overview").get_by_label("K-composition").check()
    drawn(page)
    assert "kinds=k" in page.url
    widths = []
    for place in range(5):
        go(page, place)
        assert edges.count() == (place >= 3)
        if place >= 3:
            assert "L0H1 → L1H2: k_composition" in (edges.text_content() or "")
            assert "above its band from step 3 on" in (edges.text_content() or "")
            widths.append(float(edges.get_attribute("stroke-width") or 0))
    # 1.5 is the thinnest; z is 30 and 40.
    assert (widths[1] - 1.5) / (widths[0] - 1.5) == pytest.approx(4 / 3)
    page.locator("#overview").get_by_label("K-composition").uncheck()
    drawn(page)
    assert edges.count() == 0


def test_the_circuit_is_the_one_found_by_the_step_of_the_slider(formed: Run, opened: Open, tmp_path: Path):
    run = Run(shutil.copytree(formed.path, tmp_path / "run"))
    assert f"headway circuit {formed.path}" in (seen(opened(formed.report_file), "circuit").text_content() or "")
    made_up_circuit(run, 1, ["embed->L0H1.v", "L0H1->output"], [], ("L0H1", "L0H2"))
    late = made_up_circuit(
        run, 3, ["embed->L0H1.v", "L0H1->L1H2.k", "L1H2->output"], ["L1H0->output"], ("L1H2", "L1H0")
    )
    page = opened(write_report(run))
    diagram = first(page, "diagram")
    expected = {
        4: (3, {"embed → L0H1.v", "L0H1 → L1H2.k", "L1H2 → output", "L1H0 → output"}),
        2: (1, {"embed → L0H1.v", "L0H1 → output"}),
        0: (None, set()),
    }
    for place, (step, edges) in expected.items():
        go(page, place)
        found = diagram.locator("path.edge").evaluate_all("(edges) => edges.map((edge) => edge.dataset.edge)")
        assert set(found) == edges
        said = seen(page, "circuit").locator(".said").text_content() or ""
        first(page, "diagram")
        assert said.startswith("No circuit has been found" if step is None else f"Circuit found at step {step} ")
    go(page, 4)
    diagram.locator("[data-node=L0H1]").focus()
    told = diagram.locator("output").text_content() or ""
    assert told.startswith("L0H1 (previous-token head, previous_token 0.75): in the circuit; at step 3 without it ")
    assert diagram.locator("[data-node=L1H0]").get_attribute("data-kind") == "stands in for"
    # At another checkpoint the rings are as thick as the effects that were scored there.
    width = diagram.locator("[data-node=L1H1] .ring").get_attribute("stroke-width")
    assert float(width or 0) == pytest.approx(1.2 + 5 * 0.4, rel=1e-3)
    # At that of the circuit they are those that the search found.
    go(page, 3)
    for name in ("L0H1", "L1H0", "embed"):
        width = float(diagram.locator(f"[data-node={name}] .ring").get_attribute("stroke-width") or 0)
        assert width == pytest.approx(1.2 + 5 * late.effect.sel(node=name).item(), rel=1e-3)


def test_alike_parts_have_their_effect_together_and_what_is_above_one_is_explained(
    formed: Run, opened: Open, tmp_path: Path
):
    run = Run(shutil.copytree(formed.path, tmp_path / "run"))
    scores = made_up_circuit(run, 4, ["embed->L0H1.v", "L0H1->output", "L0H2->output"], [], ("L0H1", "L0H0"))
    section = seen(opened(write_report(run)), "circuit")
    assert section.locator("table").count() == 1
    assert "mislead" not in (section.text_content() or "")
    scores["effect"].loc["L0H1"] = 2.1
    ends = {"": 1.5, "_low": 1.25, "_high": 1.75}
    for kind in ("", "second_"):
        scores = scores.assign({f"{kind}group_effect{end}": ("group", [value]) for end, value in ends.items()})
    write_scores(run.circuit_file(4, "repeats", "twin"), scores.assign_coords(group=["L0H1 L0H2"]))
    section = seen(opened(write_report(run)), "circuit")
    cells = section.locator("table").nth(1).locator("tbody tr").all_inner_texts()
    assert [cell.split("\t") for cell in cells] == [["L0H1, L0H2", "150 % [125 %, 175 %]", "150 % [125 %, 175 %]"]]
    assert (
        "Above 100 %: with this node alone replaced, the other nodes mislead"
        in section.locator("caption").first.inner_text()
    )


def test_the_section_says_how_small_a_circuit_is_and_that_its_replacement_misleads(
    formed: Run, opened: Open, tmp_path: Path
):
    run = Run(shutil.copytree(formed.path, tmp_path / "run"))
    scores = made_up_circuit(run, 4, ["embed->L0H1.v", "L0H1->output"], [], ("L0H1", "L0H0"))
    values = {f"{name}{end}": ((), value + moved)
              for name, value in {"minimality": 0.25, "cpr": 0.75, "cmd": 0.125}.items()
              for end, moved in {"": 0.0, "_low": -0.125, "_high": 0.125}.items()}  # fmt: skip
    scores = scores.assign(values | {"misleads": True, "all_replaced": 9.5, "chance": 4.0})
    scores["minimality"].attrs["edge"] = "L0H1->output"
    write_scores(run.circuit_file(4, "repeats", "twin"), scores)
    said = seen(opened(write_report(run)), "circuit").locator(".said").text_content() or ""
    assert "what the edge that is needed least costs: 25 % [12.5 %, 37.5 %] (L0H1->output)." in said
    assert re.search(r"CPR 0\.75\d* \[0\.62\d*, 0\.87\d*\].*CMD 0\.12\d* \[0, 0\.25\d*\]", said)
    assert "Caution: the replacement (twin) misleads: loss with everything replaced 9.5, chance 4.0;" in said


def test_nodes_without_edges_have_their_drawing_and_their_table(formed: Run, opened: Open, tmp_path: Path):
    run = Run(shutil.copytree(formed.path, tmp_path / "run"))
    scores = made_up_circuit(run, 4, ["embed->L0H1.v", "L0H1->output"], [], ("L0H1", "L0H0"))
    Circuit(scores.isel(edge=[])).save(run.circuit_file(4, "repeats", "twin", nodes=True))
    page = opened(write_report(run))
    diagram = first(page, "diagram")
    diagram.locator("select").select_option(label="repeats, replacement twin, nodes without edges")
    shown = seen(page, "circuit").locator(".circuit:visible")
    nodes, inside = scores.sizes["node"], scores.node_in_circuit.sum().item()
    shown.locator(".said").filter(has_text=f"{inside} of {nodes} nodes").wait_for()
    assert shown.locator("tbody tr").count() == nodes
    assert diagram.locator("[data-node]").count() == nodes + 1
    assert shown.locator("details:not(.downloads)").count() == 0


def test_where_nothing_is_known_there_is_nothing_to_explain(run: Run, opened: Open):
    """A toy that has hardly trained."""
    page = opened(run.report_file)
    assert "there is nothing to explain: the loss on repeats is " in seen(page, "circuit").inner_text()
    assert "Circuit: nothing to explain" in page.locator("#formed").inner_text()
    assert "nothing to explain" in run.summary()


def test_arrow_keys_move_the_slider_from_anywhere(run: Run, opened: Open):
    page, last = opened(run.report_file), len(run.steps) - 1
    told = page.locator("#place")
    for key, place in (
        ("ArrowLeft", last - 1),
        ("ArrowLeft", last - 2),
        ("ArrowRight", last - 1),
        ("Home", 0),
        ("End", last),
    ):
        page.keyboard.press(key)
        assert told.inner_text() == f"step {run.steps[place]}, {place + 1} of {last + 1}"
        assert page.locator("#slider").get_attribute("aria-valuetext") == told.inner_text()
    page.locator("#slider").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#slider").input_value() == str(last - 1)


def test_play_goes_to_the_end_and_stops(formed: Run, opened: Open):
    page = opened(formed.report_file)
    page.keyboard.press("p")
    page.wait_for_function("() => state.place === places.step.length - 1 && !playing", timeout=20_000)
    assert page.locator("#play").text_content() == "Play"


def test_the_address_keeps_the_place(run: Run, opened: Open):
    page = opened(run.report_file)
    go(page, 2)
    page.locator("#head").select_option("L1H2")
    page.locator("#sequence").select_option("3")
    page.locator("#theme").click()
    assert re.search(rf"#step={run.steps[2]}&head=L1H2&sequence=3&theme=dark", page.url)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.locator("#slider").input_value() == "2"
    assert page.locator("#head").input_value() == "L1H2"
    assert page.locator("#sequence").input_value() == "3"
    assert page.locator("html").get_attribute("data-theme") == "dark"
    go(page, len(run.steps) - 1)
    assert "step=last" in page.url


def test_a_click_shows_a_head_large_and_keys_read_it(run: Run, opened: Open):
    page = opened(run.report_file)
    attention = first(page, "attention")
    attention.locator("button.head").nth(4).click()  # L1H1
    drawn(page)
    assert attention.locator(".card h4").inner_text() == "L1H1 at step 59"
    canvas = attention.locator(".large canvas")
    canvas.focus()
    for _ in range(6):
        page.keyboard.press("ArrowDown")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    tokens, value = run.task.labels(run.batch())[0], run.scores.attention.sel(step=59, layer=1, head=1, batch=0)
    text = attention.locator("output.readout").inner_text()
    assert text.startswith(f"Step 59, L1H1: query 7 “{tokens[7]}” → key 3 “{tokens[3]}”: ")
    assert float(text.rpartition(" ")[2]) == pytest.approx(float(value[7, 3]), abs=4e-3)
    # Arrow keys on it have not moved the slider.
    assert page.locator("#slider").input_value() == str(len(run.steps) - 1)
    settled(page)
    box = canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] - 3)
    assert "L1H1: query 10 " in attention.locator("output.readout").inner_text()
    page.keyboard.press("Escape")
    drawn(page)
    assert page.locator("#head").input_value() == ""
    assert "a click on any head shows that one" in attention.locator(".card").inner_text()


def chosen(page: Page) -> set[str]:
    """The heads that the figures of the page show as chosen."""
    page.wait_for_function("() => ![...figures.values()].some((each) => each.stale && each.width)")
    marked = page.locator("main .chosen:not(.chip)").evaluate_all(
        "(all) => all.map((each) => [each.ariaLabel, each.textContent, each.dataset.node].join(' '))"
    )
    shown = page.locator("#overview .card h4").inner_text()
    names = [re.search(r"L\dH\d", text) for text in [*marked, shown]]
    assert all(names)
    return {name[0] for name in names if name} | {page.locator("#head").input_value()}


def test_a_head_chosen_in_one_figure_is_chosen_in_all(run: Run, opened: Open, tmp_path: Path):
    run = Run(shutil.copytree(run.path, tmp_path / "run"))
    made_up_circuit(run, 59, ["embed->L0H1.v", "L0H1->L1H2.k", "L1H2->output"], [], ("L1H2", "L1H0"))
    page = opened(write_report(run))
    first(page, "diagram").locator(".node[data-node=L0H2]").press("Enter")
    assert chosen(page) == {"L0H2"}
    assert page.locator(".node.chosen").get_attribute("aria-pressed") == "true"
    assert page.evaluate("() => document.activeElement.getAttribute('aria-label')").startswith("L0H2")
    first(page, "attention").locator("[data-head=L1H0]").click()
    assert chosen(page) == {"L1H0"}
    for section, name in (("attribution", "L0H0"), ("circuit", "L1H2"), ("formed", "L0H1")):
        seen(page, section).get_by_role("button", name=name, exact=True).first.click()
        assert chosen(page) == {name}
    seen(page, "eigenvalues").locator("button.head").nth(3).click()
    assert chosen(page) == {"L1H0"}
    # The line that is nearest: that of the head whose score is highest lies on top.
    score = run.scores.previous_token.sel(step=59, layer=1)
    canvas = seen(page, "heads").locator(".panels canvas").nth(1)
    settled(page)
    box = canvas.bounding_box()
    assert box
    canvas.click(position={"x": box["width"] - 5, "y": 78 - 74 * float(score.max())})
    assert chosen(page) == {f"L1H{int(score.values.argmax())}"}
    matrix = seen(page, "pairs").locator("canvas[tabindex]").first
    settled(page)
    box = matrix.bounding_box()
    assert box
    matrix.click(position={"x": box["width"] - 5, "y": box["height"] - 5})
    assert chosen(page) == {"L1H2"}
    matrix.click(position={"x": 5, "y": box["height"] - 5})
    assert chosen(page) == {"L0H2"}
    page.locator("#head").select_option("")
    settled(page)
    assert page.locator("main .chosen:not(.chip)").count() == 0


def test_the_table_holds_the_scores(run: Run, opened: Open):
    page = opened(run.report_file)
    heads = seen(page, "heads")
    heads.locator("details:not(.downloads) > summary").click()
    drawn(page)
    names = heads.locator("thead th").all_text_contents()[1:]
    cells = heads.locator("tbody tr").nth(5).locator("td").all_text_contents()
    scores = run.scores.sel(step=59, layer=1, head=2)
    for name, cell in zip(names, cells, strict=True):
        number = float("nan") if cell == "–" else float(cell)
        assert number == pytest.approx(float(scores[name]), rel=6e-3, nan_ok=True)


def test_everything_can_be_named_and_reached(run: Run, opened: Open):
    """Buttons and pictures have names, headings do not skip a level, and text can be told from its ground."""
    for theme in ("light", "dark"):
        page = opened(run.report_file, theme=theme)
        for section in page.locator("section").all():
            section.scroll_into_view_if_needed()
            drawn(page)
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('button, select, input, [role=img], [role=button], summary')]
                .filter((node) => !(node.ariaLabel || node.getAttribute('aria-label') || node.textContent.trim()
                    || node.closest('label')?.textContent.trim()))
                .map((node) => node.outerHTML.slice(0, 80))"""
        )
        assert unnamed == []
        levels = page.evaluate(
            "() => [...document.querySelectorAll('h1, h2, h3')].map((node) => Number(node.tagName[1]))"
        )
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        for selector in ("p.note", "body", ".readout", "#controls output", "svg text", "button"):
            assert contrast(page, selector) >= 4.5, (theme, selector)


def contrast(page: Page, selector: str) -> float:
    """WCAG's contrast of an element's text with what lies behind it."""
    text, ground = page.evaluate(
        """(selector) => {
            const node = document.querySelector(selector), style = getComputedStyle(node);
            const ground = (node) => getComputedStyle(node).backgroundColor;
            let behind = node;
            while (ground(behind) === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
            return [node.tagName === 'text' ? style.fill : style.color, ground(behind)];
        }""",
        selector,
    )

    def luminance(color: str) -> float:
        channels = np.array([float(part) for part in re.findall(r"[\d.]+", color)[:3]]) / 255
        linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, light = sorted((luminance(text), luminance(ground)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_sticks_out_of_the_page(run: Run, opened: Open, width: int, theme: str):
    page = opened(run.report_file, "#head=L1H0", width, theme)
    for section in page.locator("section").all():
        section.scroll_into_view_if_needed()
        drawn(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    controls = page.locator("#controls").bounding_box()
    assert controls
    assert controls["height"] <= (60 if width == 1280 else 120)
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (theme == "light")


@dataclass(frozen=True)
class Markup(RepeatedTokens):
    """A task whose tokens are markup."""

    def labels(self, batch: Batch) -> list[list[str]]:
        return [["<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>"] * 6 for _ in batch.inputs]


def test_a_token_that_is_a_script_shows_as_text(tmp_path: Path, opened: Open):
    task = Markup(**{name: getattr(TOKENS.task, name) for name in ("n_tokens", "length", "period_min", "period_max")})
    run = train(**{**vars(SHORT), "task": task}, out=tmp_path / "run")
    page = opened(run.report_file, "#head=L0H0")
    first(page, "attention")
    assert "“</script><script>alert(2)</script>”" in page.locator(".large .readout").inner_text()
    assert page.locator("img").count() == 0


def test_a_run_without_scores_says_which_command_makes_them(run: Run, tmp_path: Path, opened: Open):
    shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "scores")
    page = opened(write_report(Run(tmp_path / "run")))
    assert f"headway measure {tmp_path / 'run'}" in (page.locator("#overview").text_content() or "")
    assert page.locator("#slider").is_disabled()


def test_half_written_steps_and_missing_scores_are_named(run: Run, tmp_path: Path, opened: Open):
    shutil.copytree(run.path, tmp_path / "run")
    changed = Run(tmp_path / "run")
    score_file(changed.path, 59, "loss").write_bytes(b"half")
    for step in run.steps:
        score_file(changed.path, step, "direct_attribution").unlink()
    page = opened(write_report(changed))
    assert "Left out: step 59; " in (page.locator("#overview").text_content() or "")
    assert "Step 59 is left out: scores: " in (page.locator("#formed").text_content() or "")
    assert page.locator("#place").inner_text().startswith(f"step {run.steps[-2]}, ")
    assert "--only direct_attribution" in (page.locator("#attribution").text_content() or "")


def test_heads_whose_attention_is_no_number_say_so(run: Run, tmp_path: Path, opened: Open):
    shutil.copytree(run.path, tmp_path / "run")
    changed = Run(tmp_path / "run")
    for measure in ("attention", "previous_token"):
        path = score_file(changed.path, 59, measure)
        scores = read_file(path)
        scores[measure][1, 0] = np.nan
        write_scores(path, scores)
    for step in run.steps:
        path = score_file(changed.path, step, "k_composition")
        write_scores(path, read_file(path) * np.nan)
    page = opened(write_report(changed), "#head=L1H0")
    attention = first(page, "attention")
    assert "L1H0: attention is NaN" in (attention.locator("button.head").nth(3).get_attribute("aria-label") or "")
    assert attention.locator(".large .readout").inner_text() == "Its attention is NaN."
    assert seen(page, "pairs").get_by_text("No pair has a number.").count() == 1
    seen(page, "heads")


def test_one_checkpoint_of_vectors_in_one_layer_is_a_page(tmp_path: Path, opened: Open):
    recipe = replace(SHORT, task=VECTORS.task, model=replace(VECTORS.model, n_layers=1))
    run = train(**vars(recipe), out=tmp_path / "run")
    shutil.rmtree(score_file(run.path, recipe.steps, "loss").parent)
    page = opened(write_report(run), "#head=L0H0")
    assert "Only one checkpoint has scores" in (page.locator("#overview").text_content() or "")
    assert page.locator("#slider").is_disabled()
    assert "“x1”" in first(page, "attention").locator(".large .readout").inner_text()
    assert "One layer" in (seen(page, "pairs").text_content() or "")
    assert "squared error" in (page.locator("#overview .loss").text_content() or "")


def test_several_runs_move_together_by_step_or_by_loss(run: Run, trained: Train, tmp_path: Path, opened: Open):
    other = trained(TOKENS, tmp_path / "other")
    page = opened(write_report([run, other], tmp_path / "both.html"))
    told = page.locator("#overview .loss output.readout")
    steps = sorted({*run.steps, *other.steps})
    for place in (2, len(steps) - 1):
        go(page, place)
        first(page, "loss")
        for index, each in enumerate((run, other)):
            shown = max(step for step in each.steps if step <= steps[place])
            assert told.nth(index).inner_text().startswith(f"Step {shown}: ")
    page.locator("#by").select_option("loss")
    go(page, 30)
    first(page, "loss")
    wanted = page.evaluate("() => places.loss[state.place]")
    for index, each in enumerate((run, other)):
        losses = each.scores.loss.values
        reached = [step for step, loss in zip(each.steps, losses, strict=True) if loss <= wanted * (1 + 1 / 4000)]
        expected = f"Step {reached[0]}: " if reached else f"Step {each.steps[-1]} (it never reaches "
        assert told.nth(index).inner_text().startswith(expected)
    assert "loss=30" in page.url
    assert page.locator("#overview .attention button.head").count() == 12


def test_a_live_page_loads_itself_again_and_keeps_its_place(formed: Run, tmp_path: Path, opened: Open):
    shutil.copytree(formed.path, tmp_path / "run")
    run = Run(tmp_path / "run")
    coming = score_file(run.path, 4, "loss").parent.rename(tmp_path / "aside")
    page = opened(write_report(run, live=True), "#step=1&head=L1H2&theme=dark")
    assert page.locator("#slider").get_attribute("max") == "3"
    coming.rename(tmp_path / "run" / "scores" / "step-00000004")
    write_report(run)
    page.wait_for_function("() => document.getElementById('slider')?.max === '4'", timeout=20_000)
    assert page.locator("#slider").input_value() == "1"
    assert page.locator("#head").input_value() == "L1H2"
    assert page.locator("html").get_attribute("data-theme") == "dark"


def test_a_page_at_its_end_follows_a_run_that_goes_on(formed: Run, tmp_path: Path, opened: Open):
    shutil.copytree(formed.path, tmp_path / "run")
    run = Run(tmp_path / "run")
    coming = score_file(run.path, 4, "loss").parent.rename(tmp_path / "aside")
    page = opened(write_report(run, live=True))
    coming.rename(tmp_path / "run" / "scores" / "step-00000004")
    write_report(run)
    page.wait_for_function("() => document.getElementById('slider')?.value === '4'", timeout=20_000)
    assert page.locator("#place").inner_text().startswith("step 4, ")


def test_a_notebook_s_frame_shows_the_page_at_its_step(run: Run, tmp_path: Path, opened: Open):
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<body data-ready>{run.show(run.steps[1])._repr_html_()}</body>")
    frame = opened(notebook).frame_locator("iframe")
    frame.locator("body[data-ready]").wait_for()
    assert frame.locator("#place").inner_text().startswith(f"step {run.steps[1]}, 2 of ")
    frame.locator("#slider").fill("0")
    assert frame.locator("#place").inner_text().startswith("step 0, 1 of ")
    # It cannot reach what is around it, such as the notebook's cookies.
    reached = "() => { try { return String(parent.document.body); } catch (error) { return error.name; } }"
    assert frame.locator("body").evaluate(reached) == "SecurityError"


def test_a_network_of_144_heads_opens_and_slides(tmp_path: Path, opened: Open):
    run = made_up_run(tmp_path / "large", layers=12, heads=12, kept=11, length=11)
    page = opened(write_report(run))
    diagram = first(page, "diagram")
    assert diagram.locator(".node").count() == 144
    before = diagram.locator("output").inner_text()
    attention = first(page, "attention").locator("button.head canvas").first
    pattern = pixels(attention)
    go(page, 7)
    assert pixels(attention) != pattern
    assert first(page, "diagram").locator("output").inner_text() != before
    assert page.locator("path.edge").count() <= 120


@pytest.fixture(scope="module")
def marked(formed: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same with one mark in each figure at the last step, so that what is drawn can be told from anything else."""
    run = Run(shutil.copytree(formed.path, tmp_path_factory.mktemp("runs") / "marked"))
    for step in range(5):
        for measure, mark in MARKS.items():
            path = score_file(run.path, step, measure)
            scores = read_file(path)
            mark(scores, step)
            if measure == "loss":
                scores.loss.attrs["baselines"] = run.task.baselines()
            write_scores(path, scores)
    write_report(run)
    return run


def mark_attention(scores: xr.Dataset, step: int) -> None:
    scores["attention"][:] = 0
    if step == 4:
        scores["attention"][1, 1, 2, 5, 2] = scores["attention"][0, 2, 0, 9, 3] = 1


def mark_pairs(scores: xr.Dataset, step: int) -> None:
    pair = scores["q_composition_z"]
    pair[:] = np.where(pair.notnull(), 0.0, np.nan)
    pair[0, 0, 1, 2] = 10.0 * step
    scores["q_composition_low"][:], scores["q_composition_high"][:] = -50.0, 50.0


def mark_spectrum(scores: xr.Dataset, step: int) -> None:
    spectrum = scores["ov_eigenvalue_spectrum"]
    spectrum[:] = 0
    spectrum[0, 1], spectrum[1, 0], spectrum[1, 2] = [2, 0], [2j, 0], [-2, 0]


def mark_previous_token(scores: xr.Dataset, step: int) -> None:
    scores["previous_token"][:] = 0.1
    scores["previous_token"][0, 1], scores["previous_token"][1, 2] = 0.9, 0.3
    for part, edges in (("low", (0.05, 0.55)), ("high", (0.15, 0.65))):
        scores[f"previous_token_{part}"][:] = np.array(edges)[:, None]


def mark_others(name: str) -> Callable[[xr.Dataset, int], None]:
    def mark(scores: xr.Dataset, step: int) -> None:
        scores[name][:] = scores[f"{name}_chance"]
        scores[f"{name}_low"][:], scores[f"{name}_high"][:] = -1.0, 2.0

    return mark


def mark_loss(scores: xr.Dataset, step: int) -> None:
    scores["loss"] = scores["loss"] * 0 + (8.0, 4.0, 2.0, 1.0, 0.1)[step]


def mark_attribution(scores: xr.Dataset, step: int) -> None:
    count = scores.sizes["component"]
    scores["direct_attribution"][:] = np.where(np.arange(count) % 2, -1, 1) * np.arange(1, count + 1)


MARKS = {
    "attention": mark_attention,
    "q_composition": mark_pairs,
    "ov_eigenvalue": mark_spectrum,
    "previous_token": mark_previous_token,
    **{name: mark_others(name) for name in ("prefix_matching", "duplicate_token", "current_token", "first_token")},
    "loss": mark_loss,
    "direct_attribution": mark_attribution,
}
DARKEST, BLUEST = (8, 48, 107), (5, 48, 97)


def image_of(canvas: Locator) -> np.ndarray:
    """Its pixels [row, column, channel]; what nobody has drawn on is white."""
    image = imread(io.BytesIO(base64.b64decode(pixels(canvas).partition(",")[2])))
    image = np.rint(255 * image).astype("int")
    return np.where(image[..., 3:] > 127, image[..., :3], 255)


def places_of(canvas: Locator, color: tuple[int, ...], tolerance: int = 24) -> np.ndarray:
    """The pixels [found, (row, column)] that have a colour."""
    return np.argwhere((abs(image_of(canvas) - np.array(color)) <= tolerance).all(-1))


def entry_of(canvas: Locator, color: tuple[int, ...], size: int) -> tuple[int, int] | None:
    """The one entry [row, column] of a matrix of ``size`` that has this colour; names stand above and to the left."""
    found = places_of(canvas, color)
    if not len(found):
        return None
    # Its frame is the first column that is grey nearly all the way down.
    grey = np.asarray((abs(image_of(canvas) - np.array((213, 219, 228))) <= 24).all(-1))
    left, side = int(np.argmax(grey.mean(0) > 0.5)), len(grey)
    row, column = ((found.mean(0) - left) / (side - left) * size).astype(int)
    return int(row), int(column)


def test_each_head_s_pattern_is_drawn_where_it_belongs(marked: Run, opened: Open):
    page = opened(marked.report_file, "#head=L1H1")
    attention = first(page, "attention")
    small, large = attention.locator("button.head canvas"), attention.locator(".large canvas")
    for sequence, shown in ((0, {2: (9, 3)}), (2, {4: (5, 2)})):
        page.locator("#sequence").select_option(str(sequence))
        drawn(page)
        assert {head: at for head in range(6) if (at := entry_of(small.nth(head), DARKEST, 16))} == shown
        assert entry_of(large, DARKEST, 16) == shown.get(4)
    go(page, 3)
    assert all(entry_of(small.nth(head), DARKEST, 16) is None for head in range(6))


def test_pairs_are_drawn_from_the_head_that_writes_to_the_one_that_reads(marked: Run, opened: Open):
    page = opened(marked.report_file)
    matrices = seen(page, "pairs").locator("canvas[tabindex]")
    assert entry_of(matrices.nth(0), BLUEST, 3) == (0, 2)
    assert entry_of(matrices.nth(1), BLUEST, 3) == (1, 2)
    assert "Strongest: L0H1 → L1H2: k_composition" in (page.locator("#pairs output").nth(1).inner_text())
    go(page, 0)
    assert entry_of(matrices.nth(0), BLUEST, 3) is None


def test_eigenvalues_lie_to_the_right_where_they_are_real_and_above_where_imaginary(marked: Run, opened: Open):
    page = opened(marked.report_file)
    planes = seen(page, "eigenvalues").locator("canvas")
    # The first two colours of the palette, three quarters of them on white.
    blue, orange = (64, 149, 197), (224, 134, 64)
    for head, color, x, y in ((1, blue, 1, 0), (3, blue, 0, 1), (5, orange, -1, 0)):
        found = places_of(planes.nth(head), color)
        middle = image_of(planes.nth(head)).shape[0] / 2
        # The other eigenvalue is 0, in the middle.
        row, column = found[np.argmax(np.hypot(*(found - middle).T))]
        assert [column / middle - 1, 1 - row / middle] == pytest.approx([x, y], abs=0.15), head


def test_bars_are_as_long_as_what_a_component_adds(marked: Run, opened: Open):
    page = opened(marked.report_file)
    table = seen(page, "attribution").locator("table").first
    numbers = [float(text) for text in table.locator("td.number").all_inner_texts()]
    assert numbers == [(-1) ** i * (i + 1) for i in range(len(numbers))]
    boxes = [bar.bounding_box() for bar in table.locator(".track i").all()]
    middles = [line.bounding_box() for line in table.locator(".track b").all()]
    for number, bar, middle in zip(numbers, boxes, middles, strict=True):
        assert bar
        assert middle
        assert bar["width"] / (boxes[-1] or bar)["width"] == pytest.approx(abs(number) / abs(numbers[-1]), rel=0.05)
        assert (bar["x"] + bar["width"] / 2 > middle["x"]) == (number > 0)


def test_the_loss_falls_on_the_picture_as_it_does_in_the_numbers(marked: Run, opened: Open):
    page = opened(marked.report_file)
    loss = first(page, "loss")
    path = loss.locator("svg path").first.get_attribute("d") or ""
    points = [tuple(map(float, point.split())) for point in re.findall(r"[ML]([\d.]+ [\d.]+)", path)]
    xs, ys = zip(*points, strict=True)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys)  # further down
    # Logarithmic: halving is as far anywhere.
    assert ys[2] - ys[1] == pytest.approx(ys[1] - ys[0], abs=0.3)
    known = [name.replace("_", " ") for name, value in marked.task.baselines().items() if value > 0]
    texts = loss.locator("svg text").all_text_contents()
    assert all(any(text.startswith(name) for text in texts) for name in known)
    assert loss.locator("svg line[stroke-dasharray='1 3']").count() == len(known)


def test_a_node_has_the_colour_of_its_role(marked: Run, opened: Open):
    page = opened(marked.report_file)
    nodes = first(page, "diagram").locator(".node")
    roles = nodes.evaluate_all("(nodes) => nodes.map((node) => node.dataset.role)")
    assert roles == ["", "previous_token", "", "", "", ""]
    key = page.locator("#overview .diagram .keys i").first.evaluate("(node) => getComputedStyle(node).backgroundColor")
    fill = nodes.nth(1).locator("circle").nth(1)
    assert fill.evaluate("(node) => getComputedStyle(node).fill") == key
    # (.9 - chance) / (1 - chance)
    chance = float(marked.scores.previous_token_chance[-1])
    share = (0.9 - chance) / (1 - chance)
    assert float(fill.get_attribute("fill-opacity") or 0) == pytest.approx(0.06 + 0.94 * share, abs=1e-3)


def test_lines_and_bands_are_those_of_their_layer(marked: Run, opened: Open):
    page = opened(marked.report_file)
    heads = seen(page, "heads")
    charts, told = heads.locator(".panels canvas"), heads.locator("figcaption")
    band = (223, 229, 238)
    for layer, middle in ((0, 0.1), (1, 0.6)):
        found = places_of(charts.nth(layer), band, tolerance=3)
        # The frame reaches from 4 to 78 of 92 pixels.
        assert (78 - np.median(found[:, 0])) / 74 == pytest.approx(middle, abs=0.03)
    # Each line has the colour that the key gives its head.
    keys = heads.locator(".keys").first.locator("li")
    assert keys.all_inner_texts() == [f"head {head}" for head in range(3)]
    colors = keys.locator("line").evaluate_all("(all) => all.map((each) => getComputedStyle(each).stroke)")
    for head, value in enumerate((0.1, 0.9)):
        color = tuple(map(int, re.findall(r"\d+", colors[head])))
        found = places_of(charts.nth(0), color)
        assert (78 - np.median(found[:, 0])) / 74 == pytest.approx(value, abs=0.05)
    assert told.nth(0).inner_text() == "L0H1 0.9, above its band 0.05 to 0.15"
    assert told.nth(1).inner_text() == "L1H2 0.3, below its band 0.55 to 0.65"
    # The pointer reads the head whose line is nearest.
    settled(page)
    box = charts.nth(0).bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 78 - 0.1 * 74)
    assert "L0H0 0.1" in told.nth(0).inner_text()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 78 - 0.85 * 74)
    assert "L0H1 0.9" in told.nth(0).inner_text()
    heads.locator("details:not(.downloads) > summary").click()
    drawn(page)
    column = heads.locator("thead th").all_inner_texts().index("previous_token")
    out = [row.locator("th, td").nth(column).get_attribute("class") for row in heads.locator("tbody tr").all()]
    assert ["out" in (each or "") for each in out] == [False, True, False, True, True, True]


def test_a_run_that_goes_on_says_where_it_is(run: Run, tmp_path: Path, opened: Open):
    shutil.copytree(run.path, tmp_path / "run")
    changed = Run(tmp_path / "run")
    changed.weights_file(59).unlink()
    shutil.rmtree(score_file(changed.path, 59, "loss").parent)
    page = opened(write_report(changed))
    assert f"This run is at step {run.steps[-2]} of 59." in (page.locator("#overview").inner_text())


def test_a_picture_of_the_whole_page_has_every_figure(run: Run, opened: Open):
    page = opened(run.report_file)
    page.wait_for_function("() => [...figures.values()].every((figure) => !figure.stale || !figure.width)")
    lines = page.locator("#pairs canvas").first  # below the fold, and never scrolled to
    assert lines.evaluate("(canvas) => canvas.width") > 0
    assert len(set(pixels(lines))) > 1


def test_figures_follow_the_width_and_the_theme(run: Run, opened: Open):
    page = opened(run.report_file)
    svg = first(page, "loss").locator("svg").last
    wide, light = float(svg.get_attribute("width") or 0), pixels(seen(page, "pairs").locator("canvas").first)
    page.locator("#theme").click()
    drawn(page)
    assert pixels(seen(page, "pairs").locator("canvas").first) != light
    page.set_viewport_size({"width": 700, "height": 900})
    drawn(page)
    first(page, "loss")
    page.wait_for_function(
        "(wide) => document.querySelector('#overview .loss figure svg').width.baseVal.value > wide + 200", arg=wide
    )


def test_a_live_page_is_left_alone_while_it_is_used(formed: Run, tmp_path: Path, opened: Open):
    shutil.copytree(formed.path, tmp_path / "run")
    page = opened(write_report(Run(tmp_path / "run"), live=True))
    page.evaluate("() => { window.mark = true; }")
    for place in range(40):  # four seconds, twice as long as a page rests
        page.mouse.move(200 + place, 300)
        page.wait_for_timeout(100)
    assert page.evaluate("() => window.mark")
    page.wait_for_function("() => !window.mark", timeout=20_000)


@pytest.mark.parametrize("count", [1, 3])
def test_on_paper_every_figure_is_drawn_within_the_sheet(count: int, formed: Run, opened: Open, tmp_path: Path):
    runs = [Run(shutil.copytree(formed.path, tmp_path / f"run-{place}")) for place in range(count)]
    for run in runs:
        made_up_circuit(run, 3, ["embed->L0H1.v", "L0H1->L1H2.k", "L1H2->output"], [], ("L1H2", "L1H0"))
    page = opened(write_report(runs))
    page.emulate_media(media="print")
    drawn(page)
    check_paper(page)
    assert page.locator("details:not([open])").count() == 0
    assert "At step 4" in (page.locator("header + p").text_content() or "")
    page.emulate_media(media="screen")
    drawn(page)
    assert page.locator("header + p").count() == 0
    assert page.locator("html.paper").count() == 0


def test_no_number_of_an_axis_is_cut_off(formed: Run, opened: Open, tmp_path: Path):
    run = Run(shutil.copytree(formed.path, tmp_path / "run"))
    for step in run_steps(run):
        path = score_file(run.path, step, "loss")
        scores = read_file(path)
        for name in scores:
            scores[name][...] = -0.00058 + 1e-6 * step
        write_scores(path, scores)
    for width in (390, 1280):
        section = first(opened(write_report(run), width=width), "loss")
        texts = section.locator("svg text").evaluate_all(
            "(all) => all.map((each) => [each.textContent, each.getBoundingClientRect().left])"
        )
        left = section.locator("figure svg").evaluate("(svg) => svg.getBoundingClientRect().left")
        assert any(text == "-4.0e-4" for text, _ in texts)
        assert all(place >= left for _, place in texts)


def run_steps(run: Run) -> list[int]:
    """The steps of a run that has scores and no weights."""
    return sorted(int(folder.name.removeprefix("step-")) for folder in run.path.glob("scores/step-*"))
