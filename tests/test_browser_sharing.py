"""A reader takes figures from a page as SVG, their numbers as CSV, and links to what is shown."""

import csv
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from browsing import Open, drawn, first, go, needs_chromium, seen
from playwright.sync_api import Locator, Page
from toys import TOKENS, Train, made_up_circuit

from headway.analyze.report import page as page_of_runs
from headway.analyze.report import write_report
from headway.analyze.report.attention_page import show_attention
from headway.checkpoints import Run
from headway.checkpoints.scores import write_scores
from headway.models.config import Head
from headway.models.handmade import composing_pair

pytestmark = needs_chromium

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def run(trained: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with two circuits, of which the page shows one at a time."""
    run = trained(TOKENS, tmp_path_factory.mktemp("runs") / "run")
    scores = made_up_circuit(run, run.steps[-1], ["embed->L0H1.v", "L0H1->output"], [], ("L0H1", "L0H2"))
    scores["known"].attrs["replacement"] = "position_mean"
    write_scores(run.circuit_file(run.steps[-1], "repeats", "position_mean"), scores, checksum=True)
    write_report(run)
    return run


def saved(page: Page, menu: Locator, kind: str) -> tuple[str, str]:
    """The name and the text of the file that a menu saves."""
    if menu.get_attribute("open") is None:
        menu.locator("summary").click()
    with page.expect_download() as download:
        menu.get_by_role("button", name=kind).click()
    return download.value.suggested_filename, Path(download.value.path()).read_text()


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_each_figure_is_saved_as_a_drawing_that_needs_nothing_else(run: Run, opened: Open):
    page = opened(run.report_file, "#head=L1H0", theme="dark")
    names, ground = [], page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    for section in page.locator("section").all():
        section.scroll_into_view_if_needed()
        drawn(page)
        for menu in section.locator(".downloads:visible").all():
            name, text = saved(page, menu, "SVG")
            names.append(name)
            root = ElementTree.fromstring(text)
            assert root.tag == f"{SVG}svg"
            assert root.findtext(f"{SVG}title")
            # In light colours, whatever the page is in.
            assert root.find(f"{SVG}rect").get("fill") == "#ffffff"  # pyright: ignore[reportOptionalMemberAccess]
            ink = {each.get("fill") for each in root.iter(f"{SVG}text")}
            assert ink
            assert not ink & {"rgb(167, 177, 192)", "#a7b1c0", "rgb(232, 237, 244)"}, name
            # Nothing of the page's style sheet, and nothing from elsewhere.
            assert "var(--" not in text
            assert "class=" not in text
            links = [value for each in root.iter() for key, value in each.attrib.items() if key.endswith("href")]
            assert all(link.startswith("data:image/png") for link in links)
            menu.locator("summary").click()
    assert len(names) == len(set(names)) > 20
    assert all(re.fullmatch(r"[\w.+-]+-step-17\.svg", name) for name in names)
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == ground
    assert page.locator(".exported").count() == 0


def test_a_drawing_has_the_lines_and_the_patterns_of_its_figure(run: Run, opened: Open):
    page = opened(run.report_file)
    loss = ElementTree.fromstring(saved(page, first(page, "loss").locator(".downloads"), "SVG")[1])
    shown = page.locator("#overview .loss figure path").evaluate_all(
        "(paths) => paths.map((path) => path.getAttribute('d'))"
    )
    assert [each.get("d") for each in loss.iter(f"{SVG}path")][-len(shown) :] == shown
    heads = seen(page, "heads").locator(".downloadable").first
    drawing = ElementTree.fromstring(saved(page, heads.locator(".downloads"), "SVG")[1])
    # A line for each head, and the bands of both layers; canvases become shapes and not pictures.
    assert len([each for each in drawing.iter(f"{SVG}path") if each.get("stroke")]) >= 6
    assert not list(drawing.iter(f"{SVG}image"))
    patterns = first(page, "attention").locator(".downloads:visible").first
    drawing = ElementTree.fromstring(saved(page, patterns, "SVG")[1])
    assert len(list(drawing.iter(f"{SVG}image"))) == 6 + 1  # and the bar of colours


def test_numbers_of_figures_are_those_of_the_run_one_row_a_value(run: Run, opened: Open):
    page = opened(run.report_file)
    go(page, 3)
    name, text = saved(page, first(page, "loss").locator(".downloads"), "CSV")
    assert name == f"run-loss-step-{run.steps[3]}.csv"
    rows = table(text)
    assert list(rows[0]) == ["run", "step", "loss", "value [nats]"]
    found = [float(row["value [nats]"]) for row in rows if row["loss"] == "loss on repeats"]
    np.testing.assert_allclose(found, run.scores.loss_repeats, rtol=3e-4)
    rows = table(saved(page, first(page, "attention").locator(".downloads:visible").first, "CSV")[1])
    assert {row["step"] for row in rows} == {str(run.steps[3])}
    stored = run.scores.attention.sel(step=run.steps[3]).isel(batch=0)
    for row in rows[:: len(rows) // 23]:
        layer, head, query, key = (int(row[name]) for name in ("layer", "head", "query position", "key position"))
        value = stored.isel(layer=layer, head=head, query=query, key=key).item()
        assert float(row["attention (steps of 1/254)"]) == pytest.approx(value, abs=3e-3)
    score = seen(page, "heads").locator(".downloadable").first
    measure = score.locator("h3").inner_text()
    rows = table(saved(page, score.locator(".downloads"), "CSV")[1])
    assert len(rows) == len(run.steps) * 6
    for row in rows:
        value = run.scores[measure].sel(step=int(row["step"]), layer=int(row["layer"]), head=int(row["head"]))
        assert float(row[measure]) == pytest.approx(value.item(), rel=1e-6)
    rows = table(saved(page, first(page, "diagram").locator(".downloads"), "CSV")[1])
    assert {row["part"] for row in rows} >= {"node"}
    assert str(Head(0, 1)) in {row["name"] for row in rows}


def test_files_of_many_numbers_have_fewer_digits_and_say_so(
    run: Run, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(page_of_runs, "MOST_NUMBERS", 0)
    page = opened(write_report(run, tmp_path / "report.html"))
    scores, figure = run.scores, seen(page, "pairs").locator(".downloadable").first
    measure = figure.locator("h3").inner_text()
    rows = table(saved(page, figure.locator(".downloads"), "CSV")[1])
    assert list(rows[0]) == [
        "run", "step", "from head", "to head", f"{measure} (2 digits)", "null", "z (2 digits, steps of 0.1)",
        "ceiling (2 digits)",
    ]  # fmt: skip
    for row in rows:
        layers, heads = zip(
            *(map(int, re.findall(r"\d+", row[name])) for name in ("from head", "to head")), strict=True
        )
        pair = {"from_layer": layers[0], "from_head": heads[0], "to_layer": layers[1], "to_head": heads[1]}
        stored = scores.sel(step=int(row["step"])).isel(pair)
        assert float(row[f"{measure} (2 digits)"]) == pytest.approx(stored[measure].item(), rel=0.051)
        z = stored[f"{measure}_z"].item()
        assert float(row["z (2 digits, steps of 0.1)"]) == pytest.approx(z, rel=0.051, abs=0.051)
    figure = seen(page, "eigenvalues").locator(".downloadable").first
    measure = figure.locator("h3").inner_text()
    rows = table(saved(page, figure.locator(".downloads").first, "CSV")[1])
    precision = "(3 digits, steps of at most 1/100 of the largest of the head)"
    spectra = scores[f"{measure}_spectrum"]
    largest = abs(spectra).max(("step", "eigenvalue"))
    for row in rows[:: len(rows) // 97]:
        at = {name: int(row[name]) for name in ("layer", "head")}
        value = spectra.sel(step=int(row["step"])).isel(at | {"eigenvalue": int(row["eigenvalue"])}).item()
        found = complex(float(row[f"real part {precision}"]), float(row[f"imaginary part {precision}"]))
        assert abs(found - value) < 0.011 * largest.isel(at).item()


def test_a_menu_is_reached_and_left_by_keys_and_is_not_printed(run: Run, opened: Open):
    page = opened(run.report_file)
    menu = first(page, "loss").locator(".downloads")
    menu.locator("summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename.endswith(".svg")
    page.keyboard.press("Escape")
    assert menu.get_attribute("open") is None
    assert menu.locator("summary").evaluate("(node) => node === document.activeElement")
    page.emulate_media(media="print")
    drawn(page)
    assert page.locator(".downloads:visible").count() == 0


def place_of(page: Page) -> list[str | None]:
    """The state of a page: the step, the head, the sequence, the circuit, and the heads that are off."""
    seen(page, "try")
    page.wait_for_function("() => document.querySelector('#try .said').textContent.includes('loss')")
    circuit = page.locator("#overview .diagram select").first.input_value()
    off = page.locator("#try button.off").evaluate_all("(cells) => cells.map((cell) => cell.dataset.head).join()")
    chosen = [page.locator(f"#{name}").input_value() for name in ("slider", "head", "sequence")]
    return [*chosen, circuit, off]


def test_a_link_gives_what_is_shown(run: Run, opened: Open):
    page = opened(run.report_file)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    go(page, 2)
    page.locator("#head").select_option("L1H2")
    page.locator("#sequence").select_option("1")
    second = page.locator("#overview .diagram option").nth(1).get_attribute("value")
    page.locator("#overview .diagram select").first.select_option(second)
    seen(page, "try").locator("[data-head=L0H1]").click()
    drawn(page)
    shown = place_of(page)
    assert shown == ["2", "L1H2", "1", second, "L0H1"]
    page.locator("#copy-link").click()
    page.locator(".copied").filter(has_text="Copied").wait_for()
    link = page.evaluate("() => navigator.clipboard.readText()")
    assert link == page.url
    address, _, place = link.partition("#")
    assert address == run.report_file.as_uri()
    assert place_of(opened(run.report_file, f"#{place}")) == shown
    # A link that is followed in the same page replaces all of what was shown.
    page.evaluate("() => { location.hash = 'step=0&head=L0H0'; }")
    seen(page, "overview")
    one = page.locator("#overview .diagram option").first.get_attribute("value")
    assert place_of(page) == ["0", "L0H0", "0", one, ""]
    page.evaluate("() => { location.hash = 'step=0&theme=dark&kinds=k&log=0&table=1'; }")
    seen(page, "overview")
    assert page.locator("#theme").inner_text() == "Light"
    assert page.locator("#overview [data-shared=K]").first.is_checked()
    assert not page.locator("#overview [data-shared=log]").first.is_checked()
    assert page.locator("#heads details.scores").get_attribute("open") is not None
    assert {"theme=dark", "kinds=k", "log=0", "table=1"} <= set(page.url.partition("#")[2].split("&"))
    # Also where the page writes what was shown before it hears of the link.
    page.evaluate("() => { location.hash = 'step=0&head=L1H1'; writeHash(); }")
    seen(page, "overview")
    assert place_of(page)[:2] == ["0", "L1H1"]


def test_a_link_from_another_page_leaves_out_what_is_not_here(run: Run, opened: Open):
    other_page = opened(run.report_file)
    usual = place_of(other_page)
    other = "#step=1e9&head=L7H3&sequence=999&circuit=none&off=L9H9.x&tried=77&kinds=z&instead=all&position=4&runs=["
    page = opened(run.report_file, other)
    last = page.locator("#sequence option").last.get_attribute("value")
    assert place_of(page) == [*usual[:2], last, *usual[3:]]
    assert place_of(opened(run.report_file, "#step=x&head=&%E0%A4%A&off")) == usual


def test_where_nothing_may_be_copied_the_link_stands_there(run: Run, opened: Open, tmp_path: Path):
    (tmp_path / "notebook.html").write_text(f'<body data-ready="1">{run.show(step=run.steps[1])._repr_html_()}')
    frame = opened(tmp_path / "notebook.html").frame_locator("iframe")
    frame.locator("body[data-ready]").wait_for()
    frame.locator("#head").select_option("L1H1")
    frame.locator("#copy-link").click()
    link = frame.get_by_label("Link to what is shown").input_value()
    assert link.startswith(f"{run.report_file.absolute().as_uri()}#step={run.steps[1]}&head=L1H1")
    page = opened(run.report_file, "#" + link.partition("#")[2])
    assert place_of(page)[:2] == ["1", "L1H1"]


def test_arrows_and_letters_in_a_text_are_not_for_the_slider(run: Run, opened: Open):
    page = opened(run.report_file)
    before = page.locator("#slider").input_value()
    field = seen(page, "try").get_by_label("tokens of the sequence")
    field.press("ArrowLeft")
    field.press("p")
    assert page.locator("#slider").input_value() == before
    assert page.locator("#play").inner_text() == "Play"


def test_attention_on_one_s_own_sequences_is_a_small_page(opened: Open, tmp_path: Path):
    model, batch = composing_pair("k")
    batch = batch.first(3)
    page = opened(show_attention(model, batch).save(tmp_path / "attention.html"))
    assert page.locator("#attention button.head canvas").count() == 4
    page.locator("#sequence").select_option("2")
    page.locator("#attention button.head").nth(3).click()
    drawn(page)
    assert page.locator(".shown-tokens span").all_text_contents() == batch.task.labels(batch)[2]  # pyright: ignore[reportOptionalMemberAccess]
    _, text = saved(page, page.locator("#attention .downloads").first, "CSV")
    _, cache = model.run_with_cache(batch.inputs)
    for row in table(text)[::997]:
        layer, *at = (int(row[name]) for name in ("layer", "sequence", "head", "query position", "key position"))
        assert float(row["attention (steps of 1/254)"]) == pytest.approx(
            cache["pattern", layer][tuple(at)].item(), abs=3e-3
        )
    # The same in a notebook, and on tokens alone.
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f'<body data-ready="1">{show_attention(model, batch.inputs[0])._repr_html_()}')
    frame = opened(notebook).frame_locator("iframe")
    frame.locator("body[data-ready]").wait_for()
    assert frame.locator("#attention button.head").count() == 4
    assert frame.locator("#copy-link").count() == 0


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_sequence_of_a_network_is_refused(tmp_path: Path):
    model, batch = composing_pair("k")
    longest, d_vocab = model.cfg.n_ctx, model.cfg.d_vocab
    for given, message in (
        (torch.zeros(2, 3, 5, dtype=torch.long), r"batch: a tensor of shape \(2, 3, 5\)"),
        (torch.full((3,), d_vocab), f"batch: token {d_vocab} is not valid; tokens must be 0 to {d_vocab - 1}"),
        (torch.zeros(longest + 1, dtype=torch.long), f"batch: {longest + 1} positions are not valid"),
        ("a prompt", "model: it has no tokenizer"),
        ([1, 2], "batch: list is not valid; it must be a Batch, tokens or a prompt"),
    ):
        with pytest.raises(ValueError, match=message):
            show_attention(model, given)  # pyright: ignore[reportArgumentType]
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(ValueError, match="is not a page of Headway"):
        show_attention(model, batch).save(tmp_path / "mine.html")
