"""Studies on the page in a real browser: claims, lines, pictures and tables show the numbers of their story."""

import re
import shutil
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from browsing import Open, drawn, first, go, needs_chromium, pixels, seen, settled
from networks import gpt2_bridge
from PIL import Image
from playwright.sync_api import Locator, Page
from toy_studies import MARKUP, made_up_study
from toys import made_up_run

from headway.analyze.report import write_report
from headway.analyze.report.page import write_studies
from headway.analyze.studies.result import Figure, Section, StudyResult
from headway.checkpoints import Run

pytestmark = needs_chromium
DARKEST, GREY = (8, 48, 107), (128, 128, 128)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = made_up_run(tmp_path_factory.mktemp("runs") / "run", layers=2, heads=3, kept=3)
    made_up_study().write(run.study_file("made_up", 2))
    write_report(run)
    return run


def unfolded(page: Page) -> Locator:
    """The studies, all of whose sections have been opened and drawn."""
    studies = seen(page, "studies")
    for summary in studies.locator(".study > summary").all()[1:]:
        summary.click()
    for title in studies.locator("h4").all():
        title.scroll_into_view_if_needed()
        drawn(page)
    return studies


def under(studies: Locator, title: str, kind: str) -> Locator:
    """What of a kind follows the title of a figure."""
    after = f"h4:has-text('{title}') ~"
    return studies.locator(f"{after} {kind}, {after} .downloadable {kind}").first


def test_studies_stand_before_about_and_only_where_there_are_some(run: Run, tmp_path: Path, opened: Open):
    page = opened(run.report_file)
    assert page.locator("section h2").all_text_contents()[-3:] == ["Loss and accuracy by position", "Studies", "About"]
    assert page.locator("#studies h3").all_text_contents() == ["made_up at step 4"]
    without = Run(shutil.copytree(run.path, tmp_path / "without"))
    shutil.rmtree(without.path / "studies")
    page = opened(write_report(without))
    assert page.locator("#studies").count() == 0
    page = opened(write_report([run, without], tmp_path / "both.html"))
    assert page.locator("#studies .runs > div").nth(1).inner_text().splitlines()[-1] == ("This run has no study.")
    assert page.locator("#studies .runs > div").nth(0).locator("h3").all_text_contents() == ["run", "made_up at step 4"]


def test_the_page_of_a_model_that_was_not_trained_here_has_its_studies_and_nothing_else(tmp_path: Path, opened: Open):
    replace(made_up_study("gpt2"), step=None).write(tmp_path / "studies" / "made_up.nc")
    page = opened(write_studies(tmp_path, gpt2_bridge()))
    assert page.locator("section h2").all_text_contents() == ["Studies", "About"]
    assert page.locator("#studies h3").all_text_contents() == ["made_up"]
    assert page.locator("#controls, .skip, #slider").count() == 0
    assert "2 layers of 4 heads" in page.locator("#about").inner_text()
    unfolded(page)
    assert page.locator("#studies canvas").count() > 0
    for key in ("ArrowLeft", "p", "End"):
        page.keyboard.press(key)
    page.locator("#theme").click()
    drawn(page)


def test_claims_are_told_with_their_numbers_and_what_they_need(run: Run, opened: Open):
    page = opened(run.report_file)
    rows = seen(page, "studies").locator("table").first.locator("tbody tr")
    assert [row.locator("th, td").all_text_contents() for row in rows.all()] == [
        ["A head looks at the vector before its own", "previous_token of L0H3", "0.93", "> 0.5", "yes"],
        [MARKUP, "what is left of the loss without L1H2, beside what is left with it", "0.8", "< 0.1", "no"],
        # With as many digits as tell it from its bound.
        ["It is just enough", "share of the variance", "0.50004", "> 0.5", "yes"],
        ["It generalises", "slope beyond the lengths trained on", "–", "> 0.1", "not measured"],
    ]


def test_the_first_section_is_open_and_a_closed_one_is_drawn_when_it_opens(run: Run, opened: Open):
    page = opened(run.report_file)
    sections = seen(page, "studies").locator("details.study")
    assert sections.evaluate_all("(all) => all.map((each) => each.open)") == [True, False]
    page.locator("#theme").click()  # what is closed has to follow, too
    sections.locator(":scope > summary").nth(1).click()
    canvas = sections.nth(1).locator(".maps canvas").first
    canvas.scroll_into_view_if_needed()
    drawn(page)
    dark = image_of(canvas)
    assert (abs(dark - np.array((242, 249, 255))).max(-1) > 100).any()  # not all of it is bright
    page.locator("#theme").click()
    # The button lies at the top of the page, and what is out of sight is drawn when it comes back.
    canvas.scroll_into_view_if_needed()
    drawn(page)
    assert not np.array_equal(dark, image_of(canvas))


def test_a_table_holds_the_numbers_of_its_dataset(run: Run, opened: Open):
    studies = unfolded(opened(run.report_file))
    table = under(studies, "A table", ".cells").locator("table")
    names = table.locator("thead th").all_text_contents()
    steps = [f"Steps taken, head {head}" for head in range(4)]
    assert names == ["part", "loss", "holds", "said", *steps]
    assert [row.locator("th, td").all_text_contents() for row in table.locator("tbody tr").all()] == [
        ["first", "0.123", "yes", "as it is", "0", "1000", "2000", "3000"],
        [MARKUP, "–", "no", MARKUP, "4000", "5000", "6000", "7000"],
        ["third", "1234567", "yes", "–", "8000", "9000", "10000", "11000"],
    ]
    assert table.locator("thead th").evaluate_all("(all) => all.every((each) => each.scope === 'col')")
    assert table.locator("tbody th").evaluate_all("(all) => all.every((each) => each.scope === 'row')")


def points_of(path: str) -> list[list[tuple[float, float]]]:
    """The points of each stroke."""
    strokes = [stroke for stroke in path.split("M") if stroke]
    return [
        [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", stroke.replace("h0", ""))]
        for stroke in strokes
    ]


def test_lines_lie_where_their_numbers_are_on_logarithmic_axes(run: Run, opened: Open):
    page = opened(run.report_file)
    panel = seen(page, "studies").locator(".lines").first
    lines = panel.locator("path[fill=none]")
    assert lines.count() == 2
    # The axis is of 1 + step, as everywhere on the page, and what is no number is a gap.
    first = points_of(lines.nth(0).get_attribute("d") or "")
    assert [len(stroke) for stroke in first] == [3, 2]
    (x0, _), (x1, y1), (x10, y10) = first[0]
    (x1000, y001), (_, y0001) = first[1]
    doubling = (x1000 - x0) / np.log2(1001)
    assert x1 - x0 == pytest.approx(doubling, abs=0.3)
    assert x10 - x0 == pytest.approx(np.log2(11) * doubling, abs=0.3)
    decade = y0001 - y001
    assert y001 - y10 == pytest.approx(2 * decade, abs=0.3)
    assert y10 - y1 == pytest.approx(np.log10(2.5) * decade, abs=0.3)
    # A number with a gap on either side is a dot; what is not above 0 has no place on a log axis.
    assert [len(stroke) for stroke in points_of(lines.nth(1).get_attribute("d") or "")] == [1, 1, 1]
    ticks = panel.locator("text").all_text_contents()
    assert {"0", "1", "10", "100", "1k", "0.01", "0.1", "step (log)"} <= set(ticks)
    told = panel.locator("xpath=following-sibling::output").inner_text()
    assert told == f"Highest at the end: {MARKUP}, step 4000: 3 (1 of 9 points are not above 0 and not on a log axis)"
    assert page.locator("#studies .keys").first.locator("li").all_text_contents() == ["first", MARKUP]


def test_points_lie_where_their_numbers_are_and_keys_read_them(tmp_path: Path, opened: Open):
    values = np.array([[[0.0, 1.0], [-1.0, 3.0], [2.0, np.nan], [3.0, -1.0]], [[1.0, 0.0]] * 4])
    data = xr.Dataset({"pairs": (("layer", "entry", "of"), values)}, {"layer": ["L0", "L1"], "of": ["in", "out"]})
    section = Section("Points", "", (Figure("Pairs", data, "scatter", "What goes in and comes out."),))
    StudyResult("made_up", "gpt2", None, (section,), ()).write(tmp_path / "studies" / "made_up.nc")
    page = opened(write_studies(tmp_path, gpt2_bridge()))
    unfolded(page)
    plots = page.locator("#studies .lines")
    assert plots.count() == 2
    dots = [stroke[0] for stroke in points_of(plots.nth(0).locator("path.dots").get_attribute("d") or "")]
    x, y = np.array(dots).T
    # From left to right, without the point that has no number; both axes are linear.
    np.testing.assert_allclose(np.diff(x) / (x[2] - x[0]), [1 / 4, 3 / 4], atol=0.01)
    np.testing.assert_allclose(np.diff(y) / (y[2] - y[0]), [2 / 4, 2 / 4], atol=0.01)
    assert y[2] > y[0]  # downwards
    told = plots.nth(0).locator("xpath=following-sibling::output")
    assert told.inner_text() == "3 points of 4"
    plots.nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert told.inner_text() == "entry 0: in 0, out 1"
    settled(page)
    box = plots.nth(0).bounding_box()
    assert box
    page.mouse.move(box["x"] + x[2] + 2, box["y"] + y[2] - 3)
    assert told.inner_text() == "entry 3: in 3, out -1"
    # All plots of a variable have the same scale.
    other = points_of(plots.nth(1).locator("path.dots").get_attribute("d") or "")[0][0]
    assert other[0] == pytest.approx(x[0] + (x[2] - x[0]) / 2, abs=0.3)


def test_keys_and_pointer_read_a_line_and_leave_the_slider(run: Run, opened: Open):
    page = opened(run.report_file)
    panel = seen(page, "studies").locator(".lines").nth(2)
    told = panel.locator("xpath=following-sibling::output")
    score = made_up_study().sections[0].figures[1].data.score
    ends = score.values[:, :, -1].ravel()
    best = int(np.argmax(ends))
    assert told.inner_text() == f"Highest at the end: L{best // 4}H{best % 4}, position 30: {said(ends[best])}"
    assert "20 lines, from L0H0 (the faintest) to L4H3" in page.locator("#studies").inner_text()
    panel.focus()
    for key in ("ArrowLeft", "ArrowLeft", *["ArrowUp"] * 20, "ArrowDown"):
        page.keyboard.press(key)
    assert told.inner_text() == f"L0H1, position 28: {said(score.values[0, 1, 28])}"
    assert page.locator("#slider").input_value() == "2"
    # The pointer reads the line that is nearest.
    x, y = points_of(panel.locator("path[fill=none]").nth(best).get_attribute("d") or "")[0][-1]
    settled(page)
    box = panel.bounding_box()
    assert box
    page.mouse.move(box["x"] + x + 3, box["y"] + y)
    assert told.inner_text() == f"L{best // 4}H{best % 4}, position 30: {said(ends[best])}"
    page.mouse.move(1, 1)
    panel.blur()
    assert told.inner_text().startswith("Highest at the end")


def said(number: float) -> str:
    return f"{number:.3g}"


def image_of(canvas: Locator) -> np.ndarray:
    """Its pixels [row, column, channel]."""
    encoded = canvas.evaluate("(canvas) => canvas.toDataURL()").partition(",")[2]
    return np.array(Image.open(BytesIO(b64decode(encoded))).convert("RGB")).astype(int)


def places_of(canvas: Locator, color: tuple[int, ...]) -> np.ndarray:
    """The pixels [found, (row, column)] that have a colour."""
    return np.argwhere((abs(image_of(canvas) - np.array(color)) <= 6).all(-1))


def test_pictures_share_a_scale_and_show_each_number_where_it_belongs(run: Run, opened: Open):
    page = opened(run.report_file)
    studies = unfolded(page)
    maps = studies.locator(".maps").first
    assert maps.locator("span").all_text_contents() == [f"L{layer}H{head}" for layer in range(2) for head in range(3)]
    pictures = maps.locator("canvas")
    darkest = [len(places_of(picture, DARKEST)) > 50 for picture in pictures.all()]
    assert darkest == [False] * 5 + [True]  # 2 in L1H2 is the largest of all
    for picture, color, row, column in ((pictures.nth(5), DARKEST, 5, 3), (pictures.nth(0), GREY, 0, 1)):
        found = places_of(picture, color)
        height, width, _ = image_of(picture).shape
        cell = np.sqrt(len(found))
        # Names stand above and to the left.
        from_the_end = (np.array([height, width]) - found.mean(0)) / cell
        np.testing.assert_allclose(from_the_end, [7 - row - 0.5, 7 - column - 0.5], atol=0.25)
    told = studies.locator("output.follows").first
    assert told.inner_text() == "Largest: L1H2: query 5, key 3 “a”: 2"
    text = studies.inner_text()
    assert "Rows: query; columns: key. Colours from 0 to 2, by the square root, the same for all pictures." in text
    assert "Grey is no number." in text
    assert "Rows: row; columns: column. Colours from −1 (orange) over 0 to 1 (blue), by the square root." in text
    pictures.nth(4).focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    attention = made_up_study().sections[1].figures[0].data.attention.values
    assert told.inner_text() == f"L1H1: query 2, key 1 “b”: {said(attention[1, 1, 2, 1])}"
    assert page.locator("#slider").input_value() == "2"
    settled(page)
    box = pictures.nth(5).bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] - 3)
    assert told.inner_text() == f"L1H2: query 6, key 6 “g”: {said(attention[1, 2, 6, 6])}"


def test_a_picture_may_have_other_sides(run: Run, opened: Open):
    page = opened(run.report_file)
    studies = unfolded(page)
    picture, told = studies.locator(".maps").nth(1).locator("canvas"), studies.locator("output.follows").nth(1)
    assert told.inner_text() == "Furthest from 0: row 0, column 0: -1"
    picture.focus()
    for key in ("ArrowRight",) * 15 + ("ArrowDown",) * 5:
        page.keyboard.press(key)
    assert told.inner_text() == "row 2, column 10: 0.5"
    large = studies.locator("output.follows").nth(2)
    assert large.inner_text() == "Largest: row 297–299, column 198–199: 497"
    assert "this shows means over 3 entries of row, means over 2 entries of column; run.study(" in studies.inner_text()


def test_the_slider_leaves_studies_alone_and_they_follow_the_width(run: Run, opened: Open):
    page = opened(run.report_file)
    studies = unfolded(page)
    picture = studies.locator(".maps canvas").first
    picture.scroll_into_view_if_needed()
    drawn(page)
    page.evaluate("() => document.querySelectorAll('#studies svg').forEach((svg) => { svg.dataset.old = '1'; })")
    before = pixels(picture)
    go(page, 0)
    assert pixels(picture) == before
    panel = studies.locator(".lines").first
    panel.scroll_into_view_if_needed()
    drawn(page)
    assert panel.locator("svg[data-old]").count() == 1
    page.set_viewport_size({"width": 700, "height": 900})
    panel.scroll_into_view_if_needed()
    page.wait_for_function("() => !document.querySelector('#studies .lines').querySelector('svg[data-old]')")
    # Its lines are as wide as its panel.
    lines = panel.locator("svg").evaluate("(svg) => [svg.width.baseVal.value, svg.parentNode.clientWidth]")
    assert lines[0] == pytest.approx(lines[1], abs=1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # h5netcdf's, of a file it cannot open
def test_a_damaged_study_is_named_and_the_rest_of_the_page_is_there(run: Run, tmp_path: Path, opened: Open):
    broken = Run(shutil.copytree(run.path, tmp_path / "broken"))
    broken.study_file("another", 1).parent.mkdir(parents=True)
    broken.study_file("another", 1).write_bytes(b"half of")
    page = opened(write_report(broken))
    warning = page.locator("#studies .warn")
    assert warning.inner_text().startswith("This study is left out: study: ")
    assert "another.nc is damaged" in warning.inner_text()
    assert page.locator("#studies h3").all_text_contents() == ["another at step 1", "made_up at step 4"]
    assert page.locator("#studies details.study").count() == 2
    assert first(page, "loss").locator("figure path").count() > 0


def test_names_that_are_markup_are_shown_as_text(run: Run, opened: Open):
    page = opened(run.report_file)
    studies = unfolded(page)
    assert studies.locator("b, script").count() == 0
    assert studies.inner_text().count(MARKUP) >= 5


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_sticks_out_and_everything_has_a_name(run: Run, opened: Open, width: int, theme: str):
    page = opened(run.report_file, "", width, theme)
    studies = unfolded(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    named = studies.locator("[role=img], [role=group], table").evaluate_all(
        "(all) => all.map((each) => each.ariaLabel)"
    )
    assert all(named)
    levels = page.evaluate(
        "() => [...document.querySelectorAll('h1, h2, h3, h4')].map((each) => Number(each.tagName[1]))"
    )
    assert all(after - before <= 1 for before, after in pairwise(levels))
    box = studies.locator(".cells").last
    scrolls = box.evaluate("(box) => box.scrollWidth > box.clientWidth")
    assert scrolls == (width == 390)
    box.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    # Keys scroll what scrolls, and move the slider where nothing does.
    page.keyboard.press("ArrowLeft")
    assert page.locator("#slider").input_value() == ("2" if scrolls else "0")
