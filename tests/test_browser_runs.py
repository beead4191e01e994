"""The page of many runs in a real browser: it sorts, draws single runs, fits a phone, and prints."""

from pathlib import Path

import pytest
import xarray as xr
from browsing import Open, check_paper, drawn, go, needs_chromium, pixels, seen
from many_runs import listed, repeated
from playwright.sync_api import Page
from test_runs_page import NASTY, few, seven  # noqa: F401  # fixtures

from headway.analyze.report.page import page_of_many
from headway.analyze.report.runs_page import of_formation

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def many(few: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The page of 101 runs; two of their names and options are markup."""
    data = repeated(few, 101)
    data = data.assign_coords(run=[*data.run.values[:99], NASTY, "<b>bold</b>"])
    runs = [each._replace(options={**each.options, "task.name": f"<i>{at}"}) for at, each in enumerate(listed(data))]
    page = tmp_path_factory.mktemp("pages") / "many.html"
    page.write_text(page_of_many("many", of_formation(data, runs) | {"about": [("task", NASTY)]}))
    assert page.stat().st_size < 5_000_000
    return page


def names(page: Page) -> list[str]:
    return page.locator("#runs tbody tr button.name").all_text_contents()


def test_the_page_of_many_opens_with_every_figure(many: Path, opened: Open):
    page = opened(many)
    titles = page.locator("section h2").all_text_contents()
    assert titles == ["What formed", "Runs", "Curves", "Dates", "Order", "About"]
    assert page.locator("#runs tbody tr").count() == 101
    assert page.locator("#ways canvas").count() == 2
    assert page.locator("#dates canvas").count() == 2
    assert NASTY in names(page)
    assert page.locator("img, b:not(.name), i:not(.keys i)").count() == 0
    assert page.locator("#runs tbody a").first.get_attribute("href") == "seed-000/report.html"


def test_a_column_sorts_up_and_down_and_what_never_formed_is_last(many: Path, opened: Open):
    page = opened(many)
    before = names(page)
    head = page.locator("#runs th", has_text="loss on repeats: half-way step")
    for way, sign in (("ascending", 1), ("descending", -1)):
        head.locator("button").press("Enter")
        assert head.get_attribute("aria-sort") == way
        cells = page.locator("#runs tbody tr td:nth-child(5)").all_text_contents()
        dates = [int(text) for text in cells if text.isdigit()]
        assert dates == sorted(dates, reverse=sign < 0)
        # A seventh of the runs never learned.
        assert cells[len(dates) :] == ["not formed"] * 15
    assert names(page) != before
    assert "sort=event-0" in page.url
    assert names(opened(many, page.url[page.url.index("#") :])) == names(page)


def test_a_run_that_is_looked_at_or_chosen_has_its_own_curve(many: Path, opened: Open):
    page = opened(many)
    canvas = seen(page, "ways").locator("canvas").first
    plain = pixels(canvas)
    page.locator("#runs button.name").nth(3).focus()
    drawn(page)
    assert "seed-003" in (page.locator("#runs .chosen-runs").text_content() or "")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    seen(page, "ways")
    assert page.locator("#runs tr.chosen").locator("button.name").all_text_contents() == ["seed-004"]
    assert page.locator("#runs button.name").nth(4).get_attribute("aria-pressed") == "true"
    assert "seed-004" in (page.locator("#ways figcaption").first.text_content() or "")
    assert pixels(canvas) != plain
    page.locator("#runs button.name").nth(4).press("Enter")
    page.locator("#theme").focus()
    seen(page, "ways")
    assert pixels(canvas) == plain


def test_the_slider_marks_its_step_and_says_the_share_formed_by_then(many: Path, opened: Open):
    page = opened(many)
    assert "loss on repeats formed in 85 %" in page.locator("#place").inner_text()
    curve, strip = seen(page, "ways").locator("canvas").first, page.locator("#dates canvas").first
    late = pixels(curve), pixels(seen(page, "dates").locator("canvas").first)
    go(page, 0)
    assert "loss on repeats formed in 0 %" in page.locator("#place").inner_text()
    assert "loss on repeats: 0 %" in (page.locator("#dates .keys").last.text_content() or "")
    seen(page, "ways")
    early = pixels(curve)
    seen(page, "dates")
    assert (early, pixels(strip)) != late
    assert early != late[0]
    assert pixels(strip) != late[1]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(many: Path, opened: Open, theme: str):
    page = opened(many, width=390, theme=theme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("#runs .tall").evaluate("(each) => each.scrollWidth > each.clientWidth")


def test_on_paper_everything_is_drawn_and_nothing_is_cut(many: Path, opened: Open):
    page = opened(many, theme="dark")
    page.emulate_media(media="print")
    drawn(page)
    check_paper(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.emulate_media(media="screen")
    drawn(page)
    assert page.locator("details[open]").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 25)"
    assert len(page.pdf(prefer_css_page_size=True)) > 10_000
