"""Benchmarks of the page: time to write and open it, its size, and time to move the slider and to switch a head off.

The runs are the default run and one with 144 heads. The numbers are absolute, because a reader waits for them.
``python tests/bench_report.py`` prints the table.
"""

import contextlib
import io
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bench import seconds
from playwright.sync_api import Page, sync_playwright
from toys import made_up_run

from headway.analyze.measures.scoring import Scorer
from headway.analyze.report import write_report
from headway.checkpoints import Run
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer
from headway.recipes import RECIPES
from headway.train import train

# Moves the slider 20 times, waits each time until the screen is drawn, and returns the milliseconds of one move.
SLIDE = """async () => {
    const start = performance.now();
    for (let i = 0; i < 20; i++) {
        go((7 * i) % places.step.length);
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    }
    return (performance.now() - start) / 20;
}"""

# Switches a head off or on 20 times, in the same way.
CLICK = """async () => {
    const buttons = document.querySelectorAll("#try button.head"), start = performance.now();
    for (let i = 0; i < 20; i++) {
        buttons[(7 * i) % buttons.length].click();
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    }
    return (performance.now() - start) / 20;
}"""

# The same of heads that the pointer reaches before: a person takes that long to press a button.
REACHED = 0.3
CLICK_REACHED = f"""async () => {{
    const buttons = document.querySelectorAll("#try button.head");
    let took = 0;
    for (let i = 0; i < 20; i++) {{
        const button = buttons[(7 * i) % buttons.length];
        button.dispatchEvent(new PointerEvent("pointerenter"));
        await new Promise((done) => setTimeout(done, {1000 * REACHED}));
        const start = performance.now();
        button.click();
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        took += performance.now() - start;
    }}
    return took / 20;
}}"""

# Resolves when a head that was switched off has been computed. The page allows no text as code, such as a condition.
SWITCHED = """() => new Promise((done) => {
    const look = () => (RUNS[0].trial.last?.off.length === 1 ? done() : setTimeout(look, 50));
    look();
})"""


def page() -> None:
    """Benchmark the default induction run, and 12 layers of 12 heads with 60 checkpoints and 48 positions."""
    with tempfile.TemporaryDirectory() as folder:
        # The circuit forms in the first 500 steps; the size of a page depends on the number of checkpoints.
        recipe = replace(RECIPES["induction"], steps=500)
        with contextlib.redirect_stdout(io.StringIO()):
            default = train(**vars(recipe), out=Path(folder) / "default")
        report("default run", default, "2", "3", "1", "16.7")
        made_up = made_up_run(Path(folder) / "large", layers=12, heads=12, kept=60, length=48, d_head=16)
        report("144 heads, 60 steps", made_up, "3", "6", "-", "50")
        # The weights of one checkpoint, which are more than a page of their size takes unasked.
        made_up.keep(59, HookedTransformer(ModelConfig(**made_up.config["model"])))
        Scorer(made_up, [], made_up.batch()).store_sequences()
        write_report(made_up, weights="all")
        with browser() as opened:
            switch("144 heads, 60 steps", opened(made_up), "50")


def report(name: str, run: Run, write_goal: str, size_goal: str, ready_goal: str, slide_goal: str) -> None:
    """Print the rows of one run."""
    show(f"{name}: seconds to write the page", write_goal, lambda: seconds(lambda: write_report(run)))
    print(f"{f'{name}: MB':66} {run.report_file.stat().st_size / 1e6:6.2f}  (goal {size_goal})")
    with browser() as opened:
        show(f"{name}: seconds until the page is ready", ready_goal, lambda: ready(opened(run)))
        page = opened(run)
        for section in ("overview", "heads", "pairs"):
            page.evaluate(f"goToSection('{section}')")
            show(f"{name}: milliseconds to slide by one, at {section}", slide_goal, lambda: page.evaluate(SLIDE))
        if page.locator("#try button.head").count():
            switch(name, page, slide_goal)


@contextlib.contextmanager
def browser() -> Iterator[Callable[[Run], Page]]:
    """Give a function that opens the page of a run in a new tab of one browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])

        def opened(run: Run) -> Page:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(run.report_file.absolute().as_uri())
            page.wait_for_selector("body[data-ready]")
            return page

        yield opened
        browser.close()


def switch(name: str, page: Page, goal: str) -> None:
    """Print the rows of switching a head, after the means that a head writes when it is off have been computed."""
    page.evaluate("goToSection('try')")
    page.locator("#try button.head").first.click()
    page.evaluate(SWITCHED)
    show(f"{name}: milliseconds to switch a head at once", goal, lambda: page.evaluate(CLICK))
    reached = f"{name}: milliseconds to switch a head, {REACHED} s after the pointer"
    show(reached, goal, lambda: page.evaluate(CLICK_REACHED))


def ready(page: Page) -> float:
    """Return the seconds from the start of loading to the first complete picture, by the browser's clock."""
    took = int(page.locator("body").get_attribute("data-ready") or 0) / 1000
    page.close()
    return took


def show(name: str, goal: str, measure: Callable[[], float]) -> None:
    """Print median and quartiles of five rounds after one warm-up round."""
    measure()
    low, middle, high = statistics.quantiles([measure() for _ in range(5)], n=4, method="inclusive")
    print(f"{name:66} {middle:6.2f}  ({low:.2f} to {high:.2f}; goal {goal})", flush=True)


PARTS = {"page": page}

if __name__ == "__main__":
    page()
