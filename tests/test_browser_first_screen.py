"""The first screen in a real browser: everything is in view and moves together, and the rest is one click away."""

import shutil
from pathlib import Path

import pytest
from browsing import Open, check_paper, drawn, first, go, needs_chromium, pixels, seen
from playwright.sync_api import Page
from toys import made_up_circuit, made_up_over_steps, made_up_run

from headway.analyze.report import write_report
from headway.checkpoints import Run
from headway.checkpoints.scores import read_file, score_file, write_scores

pytestmark = needs_chromium

Box = dict[str, float]
SHOWN = (".first-lines", ".loss figure svg", ".diagram figure svg", ".tiles", ".large canvas", ".card")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A made-up run with a circuit and its half-way step."""
    run = made_up_run(tmp_path_factory.mktemp("runs") / "run", layers=2, heads=3, kept=5)
    made_up_circuit(run, 3, ["embed->L0H1.v", "L0H1->L1H2.k", "L1H2->output"], [], ("L1H2", "L1H0"))
    write_report(run)
    return run


def boxes(page: Page, width: int, height: int) -> dict[str, Box]:
    """The boxes of what the first screen shows, in a window of this size that nobody has scrolled."""
    page.set_viewport_size({"width": width, "height": height})
    drawn(page)
    assert page.evaluate("scrollY") == 0
    panels = {name: page.locator(f"#overview {name}") for name in SHOWN}
    found = {name: panel.bounding_box() for name, panel in panels.items() if panel.count()}
    return {
        name: {key: float(value) for key, value in box.items() if isinstance(value, int | float)}
        | {"right": box["x"] + box["width"], "bottom": box["y"] + box["height"]}
        for name, box in found.items()
        if box
    }


def apart(one: Box, other: Box) -> bool:
    """Return whether two boxes do not overlap."""
    return (
        one["right"] <= other["x"] + 1 or other["right"] <= one["x"] + 1
        or one["bottom"] <= other["y"] + 1 or other["bottom"] <= one["y"] + 1
    )  # fmt: skip


def check_first_screen(page: Page) -> None:
    """Check that all of it lies between the bar at the top and the slider, and that nothing lies over another."""
    found = boxes(page, 1280, 800)
    assert found.keys() == set(SHOWN)
    top, bottom = page.locator("header").bounding_box(), page.locator("#slider").bounding_box()
    controls = page.locator("#controls").bounding_box()
    assert top
    assert bottom
    assert controls
    assert bottom["y"] + bottom["height"] <= 800
    for name, box in found.items():
        assert box["y"] >= top["y"] + top["height"], name
        assert box["bottom"] <= controls["y"], name
        assert 0 <= box["x"] <= box["right"] <= 1280, name
        assert box["height"] > 30, name
        assert box["width"] > 100 or name == ".tiles", name
    names = list(found)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            assert apart(found[name], found[other]), (name, other)


def test_at_1280_by_800_the_first_screen_shows_everything_without_scrolling(run: Run, opened: Open):
    check_first_screen(opened(run.report_file))


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (1, 7), (3, 11), (12, 12)])
def test_it_does_for_other_numbers_of_heads_and_without_a_circuit(
    layers: int, heads: int, opened: Open, tmp_path: Path
):
    page = opened(write_report(made_up_run(tmp_path / "run", layers=layers, heads=heads, kept=2, length=7)))
    check_first_screen(page)
    assert page.locator("#overview .tiles button").count() == layers * heads
    assert page.locator("#overview .node").count() == layers * heads
    assert page.evaluate("document.documentElement.scrollWidth") == 1280


def test_without_attention_the_room_is_given_to_what_is_there(run: Run, opened: Open, tmp_path: Path):
    bare = Run(shutil.copytree(run.path, tmp_path / "run"))
    for file in bare.path.glob("scores/step-*/attention.*"):
        file.unlink()
    page = opened(write_report(bare))
    found = boxes(page, 1280, 800)
    assert found.keys() == set(SHOWN) - {".tiles", ".large canvas"}
    assert all(box["bottom"] <= 800 for box in found.values())
    page.locator("#overview [data-node=L1H1]").click()
    drawn(page)
    assert page.locator("#overview .card h4").inner_text() == "L1H1 at step 4"


def test_slider_keys_and_play_move_all_figures_in_the_same_frame(run: Run, opened: Open):
    page = opened(run.report_file)

    def shown() -> list[str]:
        overview = page.locator("#overview")
        return [
            overview.locator(".loss .cursor").get_attribute("x1") or "",
            overview.locator(".diagram figure svg").get_attribute("aria-label") or "",
            pixels(overview.locator(".tiles canvas").nth(4)),
            pixels(overview.locator(".large canvas")),
            overview.locator(".card h4").inner_text(),
        ]

    before = shown()
    for move in (lambda: go(page, 0), lambda: page.keyboard.press("ArrowRight"), lambda: page.keyboard.press("End")):
        move()
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        after = shown()
        assert all(one != other for one, other in zip(before, after, strict=True))
        before = after
    page.locator("#play").click()
    page.wait_for_function("() => state.place === 2")
    drawn(page)
    assert all(one != other for one, other in zip(before, shown(), strict=True))


def test_without_a_choice_the_head_with_the_largest_effect_is_shown(run: Run, opened: Open, tmp_path: Path):
    changed = Run(shutil.copytree(run.path, tmp_path / "run"))
    path = score_file(changed.path, 4, "effect")
    scores = read_file(path)
    scores["effect_known"][...] = 3.0
    scores["effect"][:] = [[0.1, -0.5, 0.2], [0.75, 0.3, 0.0]]
    write_scores(path, scores)
    page = opened(write_report(changed))
    assert page.locator("#overview .card h4").inner_text() == "L1H0 at step 4"
    go(page, 0)
    assert page.locator("#overview .card h4").inner_text() == "L1H0 at step 0"
    assert "at the end most is lost without it" in page.locator("#overview .card").inner_text()


def test_half_way_steps_are_marked_where_they_lie_on_the_axis(run: Run, opened: Open, tmp_path: Path):
    marked = Run(shutil.copytree(run.path, tmp_path / "run"))
    made_up_over_steps(marked, 3, [0, 1, 2, 3, 4])
    page = opened(write_report(marked))
    loss = first(page, "loss")
    steps = {each["of"]: each["step"] for each in page.evaluate("RUNS[0].halfWay")}
    assert "circuit" in steps
    places = {of: float(loss.locator(f".half-way[data-of={of}]").get_attribute("x1") or 0) for of in steps}
    ends = []
    for place in (0, 4):
        go(page, place)
        ends.append(float(loss.locator(".cursor").get_attribute("x1") or 0))
    for of, step in steps.items():
        share = page.evaluate("([step, last]) => Math.log1p(step) / Math.log1p(last)", [step, 4])
        assert places[of] == pytest.approx(ends[0] + share * (ends[1] - ends[0]), abs=0.1)
        assert loss.locator("svg text", has_text=f"{of} half-way {round(step)}").count() == 1


def test_a_question_mark_shows_and_hides_what_a_figure_means_by_keyboard(run: Run, opened: Open):
    page = opened(run.report_file)
    button = seen(page, "heads").locator("button.explain").first
    told = page.locator(f"[id={button.get_attribute('aria-controls')}]")
    assert "99 % band" in (told.text_content() or "")
    assert button.get_attribute("aria-label") == "what Scores of heads shows"
    button.focus()
    for key, shown in (("Enter", True), ("Space", False), ("Space", True), ("Escape", False)):
        page.keyboard.press(key)
        assert button.get_attribute("aria-expanded") == str(shown).lower()
        assert told.is_visible() == shown
    # Every one has a text of its own, and none is open at the start.
    ids = page.locator("button.explain").evaluate_all("(all) => all.map((each) => each.getAttribute('aria-controls'))")
    assert len(set(ids)) == len(ids) > 8
    assert page.locator(".explanation:visible").count() == 0


@pytest.mark.parametrize("width", [1280, 390])
def test_the_contents_stay_in_view_and_lead_to_each_section(width: int, run: Run, opened: Open):
    page = opened(run.report_file, width=width)
    bar, links = page.locator("header"), page.locator("nav a")
    sections = page.locator("main > section")
    assert links.count() == sections.count() > 8
    place = page.url
    for at in range(links.count()):
        links.nth(at).press("Enter")
        drawn(page)
        title = sections.nth(at).locator("h2")
        assert title.evaluate("(title) => document.activeElement === title")
        box, below = bar.bounding_box(), title.bounding_box()
        assert box
        assert below
        assert box["y"] == 0
        assert at == 0 or box["y"] + box["height"] <= below["y"] <= 900
    assert page.locator("nav a[aria-current]").all_inner_texts() == ["About"]
    assert page.url == place
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_function("() => document.querySelector('nav a[aria-current]').textContent === 'Overview'")


def test_a_phone_has_one_column_and_does_not_scroll_sideways(run: Run, opened: Open):
    page = opened(run.report_file, width=390)
    page.wait_for_function("() => ![...figures.values()].some((each) => each.stale && each.width)")
    found = boxes(page, 390, 844)
    order = [found[name]["y"] for name in SHOWN]
    assert order == sorted(order)
    assert all(apart(found[one], found[other]) for one in SHOWN for other in SHOWN if one != other)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_on_paper_everything_is_drawn_with_what_it_means(run: Run, opened: Open):
    page = opened(run.report_file, theme="dark")
    page.emulate_media(media="print")
    drawn(page)
    check_paper(page)
    assert page.locator(".explanation:visible").count() == page.locator(".explanation").count()
    assert page.locator("nav, button.explain").locator("visible=true").count() == 0
    found = {name: page.locator(f"#overview {name}").bounding_box() for name in SHOWN}
    assert all(found.values())
    page.emulate_media(media="screen")
    drawn(page)
    check_first_screen(page)
    assert page.locator(".explanation:visible").count() == 0
