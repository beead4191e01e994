"""Each kind of page is for readers who do not see it, see little of it, or have no mouse."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr
from browsing import Open, drawn, needs_chromium
from many_runs import listed
from playwright.sync_api import Page
from random_networks import network
from test_runs_page import few, seven  # noqa: F401  # fixtures
from toy_studies import made_up_study
from toys import TOKENS, Train, made_up_circuit

from headway.analyze.report import write_report
from headway.analyze.report.attention_page import show_attention
from headway.analyze.report.page import page_of_many, write_prompt_page, write_results
from headway.analyze.report.runs_page import of_formation
from headway.analyze.tools.prompt import PromptResult, run_prompt
from headway.data.tokenizer import train_bpe, wrapped

pytestmark = needs_chromium

KINDS = ("run", "two runs", "many runs", "study", "prompt", "attention")
# What a reader can act on or is told of: each has to have a name.
NAMED = {
    "button", "link", "combobox", "slider", "spinbutton", "textbox", "checkbox", "radio", "image", "img", "region",
    "DisclosureTriangle", "form", "group", "table", "figure",
}  # fmt: skip


@pytest.fixture(scope="module")
def pages(
    trained: Train,
    few: xr.Dataset,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    run = trained(TOKENS, folder / "run")
    made_up_circuit(run, run.steps[-1], ["embed->L0H1.v", "L0H1->L1H2.k", "L1H2->output"], [], ("L0H1", "L0H2"))
    made_up_study().write(run.study_file("made_up", run.steps[-1]))
    other = trained(TOKENS, folder / "other")
    (folder / "many.html").write_text(page_of_many("many", of_formation(few, listed(few)) | {"about": []}))
    model = network(dtype=torch.float32, d_vocab=267, d_vocab_out=267)
    model.set_tokenizer(wrapped(train_bpe(["then Mary and John"] * 3, n_tokens=267)))
    results: dict[int | None, PromptResult] = {step: run_prompt(model, "Mary and John") for step in (0, 1, 2)}
    return {
        "run": write_report(run),
        "two runs": write_report([run, other], folder / "two.html"),
        "many runs": folder / "many.html",
        "study": write_results("a study", folder / "study.html", [("model", "small")], [made_up_study()]),
        "prompt": write_prompt_page(results, 2, model, [("model", "small")], folder / "text.html"),
        "attention": show_attention(model, torch.arange(21).reshape(3, 7)).save(folder / "attention.html"),
    }


@pytest.fixture(params=KINDS)
def file(request: pytest.FixtureRequest, pages: dict[str, Path]) -> Path:
    return pages[request.param]


def whole(page: Page) -> Page:
    """A page of which all is open and drawn."""
    page.evaluate("() => { for (const each of document.querySelectorAll('details')) each.open = true; }")
    drawn(page)
    page.evaluate("drawAll()")
    drawn(page)
    return page


def test_what_is_there_has_a_name(file: Path, opened: Open):
    page = whole(opened(file, "#head=L1H1&large=1"))
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    unnamed = [node for node in tree if _role(node) in NAMED and not node["ignored"] and not _name(node)]
    # Groups that only fold something, such as the content of an open section, are told by what they hold.
    assert [node for node in unnamed if _role(node) not in ("group", "figure", "table")] == []
    assert len([node for node in tree if _role(node) in NAMED and _name(node)]) > 3
    # Drawings say what they are, or stand inside of something that does.
    mute = """() => [...document.querySelectorAll("canvas, svg")].filter((each) => each.checkVisibility() &&
        !each.closest("[aria-hidden=true]") && !(each.getAttribute("role") && each.getAttribute("aria-label")) &&
        !each.closest("button, [role=img][aria-label]")).map((each) => each.outerHTML.slice(0, 99))"""
    assert page.evaluate(mute) == []
    assert page.evaluate("() => document.documentElement.lang") == "en"
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(ids) == len(set(ids))


def _role(node: dict[str, Any]) -> str:
    return node.get("role", {}).get("value", "")


def _name(node: dict[str, Any]) -> str:
    return node.get("name", {}).get("value", "").strip()


def test_headings_are_in_order(file: Path, opened: Open):
    page = whole(opened(file))
    levels = page.evaluate(
        """() => [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter((each) => each.checkVisibility())
            .map((each) => Number(each.tagName[1]))"""
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), levels


# The text that stands on the page itself, with WCAG's contrast; what is switched off need not have any.
FAINT = """() => {
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const over = ([r, g, b, a = 1], ground) => [r, g, b].map((c, i) => c * a + ground[i] * (1 - a));
    const light = (color) => {
        const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        const [r, g, b] = color.map((c) => linear(c / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const groundOf = (node) => {
        const behind = [];
        for (let each = node; each; each = each.parentElement) behind.unshift(getComputedStyle(each).backgroundColor);
        return behind.reduce((ground, color) => over(parts(color), ground), [255, 255, 255]);
    };
    const found = {};
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !node.checkVisibility({ visibilityProperty: true })) continue;
        if (node.closest("script, style, [aria-hidden=true] i, :disabled, .skip, option")) continue;
        const style = getComputedStyle(node), ground = groundOf(node);
        let alpha = 1;
        for (let each = node; each; each = each.parentElement) alpha *= Number(getComputedStyle(each).opacity);
        const ink = parts(node.closest("svg") ? style.fill : style.color);
        const shown = over([...ink.slice(0, 3), (ink[3] ?? 1) * alpha], ground);
        const [dark, bright] = [light(shown), light(ground)].sort((a, b) => a - b);
        const contrast = (bright + 0.05) / (dark + 0.05);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.6 && Number(style.fontWeight) >= 600);
        if (contrast < (large ? 3 : 4.5))
            found[`${node.tagName}.${node.getAttribute("class") ?? ""} in ${node.closest("[id]")?.id}`] = contrast;
    }
    return found;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_told_from_its_ground(file: Path, theme: str, opened: Open):
    assert whole(opened(file, "#head=L1H1&large=1", theme=theme)).evaluate(FAINT) == {}


def test_keys_go_through_the_page_and_one_sees_where_they_are(file: Path, opened: Open):
    page = opened(file)
    drawn(page)
    page.evaluate("() => { window.visited = []; document.activeElement.blur(); }")
    look = """() => {
        const node = document.activeElement, style = getComputedStyle(node);
        if (node === document.body) return "end";
        if (visited.includes(node)) return "again";
        visited.push(node);
        const ring = node.querySelector?.(".role");
        const seen = (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1) ||
            (ring && getComputedStyle(ring).strokeDasharray !== "none");
        return seen ? "seen" : `unseen: ${node.outerHTML.slice(0, 99)}`;
    }"""
    said = ["seen"]
    while said[-1] == "seen" and len(said) < 900:
        page.keyboard.press("Tab")
        said.append(page.evaluate(look))
    # At the end the keys leave the page: they are held nowhere, and nothing that takes them is passed over.
    assert said[-1] == "end"
    missed = """() => [...document.querySelectorAll(
        "button, a[href], input, select, summary, [tabindex]:not([tabindex='-1'])")].filter((each) =>
        each.checkVisibility({ visibilityProperty: true }) && !each.disabled && !visited.includes(each))
        .map((each) => each.outerHTML.slice(0, 99))"""
    assert page.evaluate(missed) == []
