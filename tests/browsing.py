"""A page in a real browser, for every test that opens one."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Debian's Chromium refuses its sandbox to root, as which CI runs.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """Opens a page from disk without a network; afterwards there may have been no error on any."""
    errors: list[str] = []
    contexts = []

    def opened(path: Path, place: str = "", width: int = 1280, theme: str = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, color_scheme=theme)  # pyright: ignore[reportArgumentType]
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: errors.append(request.url) if not request.url.startswith("file:") else None)
        page.goto(f"{path.as_uri()}{place}")
        page.wait_for_selector("body[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


def drawn(page: Page) -> None:
    """Wait until what has changed is drawn.

    The page draws in the frame after an observer has told it what came into view or what changed its size. Observers
    are told together, in the order in which they were made, so that one made here hears of it last. What is drawn may
    change the sizes of other figures: hence the second round.
    """
    for _ in range(2):
        page.evaluate(
            """() => new Promise((done) => {
                const observer = new IntersectionObserver(() => {
                    observer.disconnect();
                    requestAnimationFrame(() => setTimeout(done));
                });
                observer.observe(document.body);
            })"""
        )


def settled(page: Page) -> None:
    """Wait until everything is drawn, on the screen or not: what is drawn above the screen moves what is on it."""
    page.wait_for_function("() => [...figures.values()].every((each) => !each.stale || !each.width)")
    drawn(page)


def go(page: Page, place: int) -> None:
    page.locator("#slider").fill(str(place))
    drawn(page)


def seen(page: Page, section: str) -> Locator:
    """A section, scrolled to."""
    found = page.locator(f"#{section}")
    found.scroll_into_view_if_needed()
    drawn(page)
    return found


def first(page: Page, panel: str) -> Locator:
    """A panel of the first screen, scrolled to: loss, diagram or attention."""
    found = page.locator(f"#overview .{panel}").first
    found.scroll_into_view_if_needed()
    drawn(page)
    return found


def pixels(canvas: Locator) -> str:
    return canvas.evaluate("(canvas) => canvas.toDataURL()")


def check_paper(page: Page) -> None:
    """Check that nothing waits to be drawn, every drawing has ink, and nothing goes beyond the sheet on either side."""
    assert page.evaluate("[...figures.values()].filter((each) => each.stale).length") == 0
    blank = """(canvases) => canvases.filter((canvas) => canvas.checkVisibility() &&
        !canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((byte) => byte)).length"""
    assert page.locator("canvas").evaluate_all(blank) == 0
    beyond = """() => [...document.querySelectorAll("main *")].filter((each) => {
        const { left, right, width } = each.getBoundingClientRect();
        return width && (right > document.body.getBoundingClientRect().right + 1 || left < -1);
    }).map((each) => each.outerHTML.slice(0, 90))"""
    assert page.evaluate(beyond) == []
