"""A prompt: probabilities are the network's, attributions add up to its logits, and the page shows both."""

import copy
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import Open, drawn, go, needs_chromium, pixels, seen
from corpora import write_corpus
from language_models import TEXT, saved_gpt2
from networks import llama_bridge, with_random_biases
from test_attribution import NETWORKS, PLAIN, built
from toys import TOKENS
from transformer_lens.model_bridge import TransformerBridge

from headway.__main__ import main
from headway.analyze import DoesNotApplyError
from headway.analyze.measures.attribution import attribute_outputs, attribute_sources
from headway.analyze.report import prompt_page
from headway.analyze.report.page import write_prompt_page
from headway.analyze.report.prompt_page import drawn_positions, prompt_steps
from headway.analyze.tools.prompt import PromptResult, run_prompt
from headway.checkpoints import Run
from headway.data.task import Batch
from headway.data.text import Text
from headway.data.tokenizer import format_token, train_bpe, wrapped
from headway.models.config import ModelConfig
from headway.models.convert import Model, load_bridge
from headway.models.handmade import composing_pair
from headway.models.hooked_transformer import HookedTransformer

STRING = "Then Mary and John went to the shop"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_gpt2(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def bridge(folder: Path) -> TransformerBridge:
    return load_bridge(str(folder))


@pytest.fixture(scope="module")
def ours() -> HookedTransformer:
    tokenizer = wrapped(train_bpe([TEXT] * 3, n_tokens=281))
    config = ModelConfig(n_layers=2, d_model=13, n_ctx=31, d_head=5, n_heads=3, d_vocab=281, attn_only=False, d_mlp=23)
    return with_random_biases(HookedTransformer(config, tokenizer))


@pytest.fixture(params=["a bridge, folded", "ours, LN"])
def model(request: pytest.FixtureRequest, bridge: TransformerBridge, ours: HookedTransformer) -> Model:
    return bridge if request.param.startswith("a bridge") else ours


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("over_mean", [False, True])
def test_what_a_head_takes_from_its_sources_adds_up_to_its_term(name: str, over_mean: bool):
    network, batch = NETWORKS[name]()
    if over_mean and batch.targets.is_floating_point():
        with pytest.raises(DoesNotApplyError, match="over_mean needs tokens"):
            attribute_sources(network, batch, over_mean=True)
        return
    everywhere = attribute_sources(network, batch, over_mean=over_mean)
    terms = attribute_outputs(network, batch, over_mean).sel(component=everywhere["head"].values)
    np.testing.assert_allclose(everywhere.sum("source"), terms, rtol=1e-4, atol=1e-4)
    # One position a sequence is a part of that.
    positions = torch.arange(len(batch.inputs)) * 3 % batch.inputs.shape[1]
    some = attribute_sources(network, batch, positions, over_mean)
    for sequence, position in enumerate(positions.tolist()):
        np.testing.assert_allclose(some[:, sequence], everywhere[:, sequence, position], rtol=1e-4, atol=1e-4)
    # What a query does not see adds nothing.
    if network.cfg.attention_dir == "causal":
        assert not np.triu(everywhere.values, 1).any()


def test_a_source_adds_what_is_lost_without_its_value():
    """Without LayerNorm after it, taking one value from a head of the last layer moves the logit by its term."""
    network, batch = built(TOKENS, normalization_type=None)
    query, source = 7, 4
    taken = attribute_sources(network, batch).sel(head="L1H2").values[:, query, source]

    def without(v, hook):
        v[:, source, 2] = 0
        return v

    with torch.no_grad():
        before = network(batch.inputs)
        with network.hooks(fwd_hooks=[("blocks.1.attn.hook_v", without)]):
            after = network(batch.inputs)
    lost = (before - after).gather(-1, batch.targets[..., None])[:, query, 0]
    np.testing.assert_allclose(taken, lost, rtol=1e-3, atol=1e-4)


def test_an_induction_head_takes_its_token_from_where_it_stood():
    network, batch = composing_pair("k")
    taken = attribute_sources(network, batch).sel(head="L1H1")
    repeats = batch.task.parts(batch)["repeats"] if batch.task is not None else None
    assert repeats is not None
    for sequence, position in repeats.nonzero().tolist():
        source = int(taken.values[sequence, position].argmax())
        assert batch.inputs[sequence, source] == batch.targets[sequence, position]
        assert source < position


def test_sources_that_do_not_exist_are_refused():
    network, batch = built(TOKENS)
    for positions, message in (
        (torch.tensor([3, 11, 0, 0, 0]), "positions: 11 does not exist; this batch has 0 to 10"),
        (torch.tensor([3]), "positions: 1 given; there must be 5, one for each sequence"),
    ):
        with pytest.raises(ValueError, match=message):
            attribute_sources(network, batch, positions)
    tokens = torch.arange(10).reshape(2, 5)
    with pytest.raises(DoesNotApplyError, match="4 query heads over 2 value heads"):
        attribute_sources(llama_bridge(), Batch(tokens, tokens, torch.ones_like(tokens, dtype=torch.bool)))


def test_probabilities_are_the_softmax_of_the_network_s_logits(model: Model):
    shown = run_prompt(model, STRING)
    tokens = model.tokenizer.encode(STRING, add_special_tokens=False)
    assert shown.tokens.tolist() == [model.tokenizer.bos_token_id, *tokens]
    with torch.no_grad():
        logits = model(shown.tokens[None])[0]
    torch.testing.assert_close(shown.probabilities, logits.softmax(-1), rtol=1e-4, atol=1e-7)
    likeliest = shown.likeliest(3, 5)
    order = logits[3].argsort(descending=True)
    assert [each.token for each in likeliest] == [format_token(model.tokenizer, int(token)) for token in order[:5]]
    assert [shown.rank(3, int(token)) for token in order[:5]] == [1, 2, 3, 4, 5]
    assert len(shown.likeliest(0, 10**6)) == model.cfg.d_vocab
    with torch.no_grad():
        _, cache = model.run_with_cache(shown.tokens[None])
    np.testing.assert_allclose(shown.attention[-1], cache["blocks.1.attn.hook_pattern"][0, -1], atol=1e-5)


def test_attributions_add_up_to_the_explained_logit_over_the_mean(model: Model):
    shown = run_prompt(model, STRING, position=4, token=" John")
    assert shown.outputs is not None
    assert shown.sources is not None
    with torch.no_grad():
        logits = model(shown.tokens[None])[0]
    # The next token where there is one, the likeliest at the end, and what was asked for where it was asked about.
    explained = torch.cat([shown.tokens[1:], logits[-1:].argmax(-1)])
    explained[4] = model.tokenizer.encode(" John", add_special_tokens=False)[0]
    assert shown.explained.tolist() == explained.tolist()
    over_mean = (logits - logits.mean(-1, keepdim=True)).gather(-1, explained[:, None])[:, 0]
    np.testing.assert_allclose(shown.outputs.sum("component"), over_mean, rtol=1e-4, atol=1e-4)
    heads = shown.outputs.sel(component=shown.sources["head"].values)
    np.testing.assert_allclose(shown.sources.sum("source"), heads.values, rtol=1e-4, atol=1e-4)


def test_a_network_that_attribution_does_not_cover_is_shown_without_it():
    network = llama_bridge()
    network.tokenizer = _Letters()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        shown = run_prompt(network, "abc")
    finally:
        network.tokenizer = None
    assert shown.sources is None
    assert "query heads over 2 value heads" in shown.left_out
    assert shown.attention.shape == (8, 4, 4)


class _Letters:
    """A tokenizer of single letters."""

    bos_token_id = 0

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [1 + "abcdefghijklmnopqrstuvwxyz".index(letter) for letter in text]

    def decode(self, tokens: list[int], **_: object) -> str:
        return "".join(" abcdefghijklmnopqrstuvwxyz"[token] for token in tokens)


def test_of_a_long_string_the_first_position_and_those_before_the_one_asked_about_are_drawn():
    for length in (1, 2, 5, 13):
        for position in range(length):
            for most in (2, 3, 7, 19):
                kept = drawn_positions(length, position, most)
                assert kept == sorted(set(kept))
                assert len(kept) == min(length, most)
                assert {0, position} <= set(kept) <= set(range(length))


def data_of(page: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])["prompt"]


def test_the_command_prints_its_tables_and_writes_a_page(
    folder: Path, bridge: TransformerBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    main(["text", str(folder), STRING, "--top", "3"])
    printed = capsys.readouterr().out
    shown = run_prompt(bridge, STRING)
    for position, label in enumerate(shown.labels):
        row = re.search(rf"^{position} +{re.escape(label)} +(.*)$", printed, re.MULTILINE)
        assert row, label
        assert all(each.token in row[1] for each in shown.likeliest(position, 3))
        if position < len(shown.tokens) - 1:
            assert f" {shown.rank(position, int(shown.tokens[position + 1]))} " in row[1]
    assert f"Direct attribution of {shown.label(int(shown.explained[-1]))} after position 8, ' shop'" in printed
    assert len(re.findall(r"^L\dH\d ", printed, re.MULTILINE)) == 2 * 8
    assert printed.splitlines()[-1].endswith("runs/small/text.html")
    page = tmp_path / "runs" / "small" / "text.html"
    assert data_of(page)["tokens"] == shown.labels
    # A page of ours is renewed; what comes out of a pipe is the string, but for the line's end.
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{STRING}\n"))
    main(["text", str(folder), "-", "--position", "2", "--token", " John"])
    assert "Direct attribution of ' John' after position 2, ' Mary'" in capsys.readouterr().out
    assert data_of(page)["tokens"] == shown.labels
    assert data_of(page)["predictions"][0]["explained"][2]["token"] == "' John'"
    Path("taken.html").write_text("mine")
    main(["text", str(folder), STRING, "--out", "taken.html", "--overwrite"])
    assert data_of(Path("taken.html"))["tokens"] == shown.labels


@pytest.fixture(scope="module")
def page_file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pages") / "text.html"
    main(["text", str(folder), f"{STRING} <b>", "--out", str(out), "--top", "3"])
    return out


@needs_chromium
def test_the_page_shows_the_string_and_follows_a_click(page_file: Path, bridge: TransformerBridge, opened: Open):
    shown = run_prompt(bridge, f"{STRING} <b>")
    assert shown.outputs is not None
    assert shown.sources is not None
    page = opened(page_file)
    chips = page.locator("button.chip")
    assert chips.all_text_contents() == shown.labels
    assert page.locator("button.chip.chosen").all_text_contents() == [shown.labels[-1]]
    assert page.locator("#attention button.head").count() == 8
    chips.nth(3).click()
    drawn(page)
    assert page.locator("button.chip.chosen").all_text_contents() == ["' and'"]
    bars = page.locator("#next tbody th").all_text_contents()
    likeliest = [each.token for each in shown.likeliest(3, 3)]
    assert bars[:3] == likeliest
    assert page.locator("#next tbody th.strong").all_text_contents()[0].startswith("' John'")
    seen(page, "attribution")
    tables = page.locator("#attribution table")
    names = tables.nth(0).locator("tbody th").all_text_contents()
    terms = shown.outputs.isel(pos=3)
    assert names == terms.component.values[np.argsort(-abs(terms.values))].tolist()
    sources = tables.nth(1).locator("tbody tr")
    assert sources.locator("th").all_text_contents() == [f"{at} {shown.labels[at]}" for at in range(4)]
    numbers = [float(text) for text in sources.locator("td.number").all_text_contents()]
    np.testing.assert_allclose(numbers, shown.sources.sum("head")[3, :4], rtol=0.02, atol=1e-3)


@needs_chromium
def test_a_head_of_the_page_is_shown_large_and_alone(page_file: Path, bridge: TransformerBridge, opened: Open):
    shown = run_prompt(bridge, f"{STRING} <b>")
    assert shown.sources is not None
    page = opened(page_file, theme="dark", width=500)
    large = page.locator("#attention .large")
    assert large.is_hidden()
    page.locator("#attention button.head").nth(6).click()
    drawn(page)
    assert large.locator("h3").inner_text().startswith("L1H2")
    seen(page, "attribution")
    table = page.locator("#attribution table").nth(1)
    assert "through L1H2" in table.locator("caption").inner_text()
    numbers = [float(text) for text in table.locator("td.number").all_text_contents()]
    np.testing.assert_allclose(numbers, shown.sources.sel(head="L1H2")[-1], rtol=0.02, atol=1e-3)
    page.keyboard.press("ArrowLeft")
    seen(page, "string")
    assert page.locator("button.chip.chosen").all_text_contents() == [shown.labels[-2]]
    # An entry of the large pattern, by the keys.
    canvas = large.locator("canvas")
    canvas.focus()
    for key in ("ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    drawn(page)
    query = len(shown.labels) - 3  # the one above the chosen position
    weight = shown.attention.sel(head="L1H2").values[query, 1]
    said_there = large.locator("output").inner_text()
    assert f"query {query} {shown.labels[query]} → key 1 {shown.labels[1]}" in said_there
    assert float(re.findall(r": ([\d.]+),", said_there)[0]) == pytest.approx(weight, abs=0.003)
    page.locator("#theme").click()
    page.keyboard.press("Escape")
    drawn(page)
    assert large.is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_command_takes_the_prompt_through_the_checkpoints_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "cache"))
    task = Text(str(write_corpus(tmp_path / "corpus")), n_tokens=331, length=17).resolved()
    cfg = ModelConfig(n_layers=1, d_model=11, n_ctx=17, d_head=5, n_heads=2, d_vocab=task.d_vocab, attn_only=True)
    run = Run.create(tmp_path / "run", dataclasses.replace(TOKENS, task=task, model=cfg))
    for step in (0, 3, 9):
        run.keep(step, HookedTransformer(cfg, seed=step))
    run.weights_file(3).write_bytes(b"damaged")
    main(["text", str(run.path), "return x", "--at", "0"])
    data = data_of(run.path / "text.html")
    assert (data["steps"], data["opened"]) == ([0, 9], 0)
    assert data["fewer"].startswith("The slider stops at 2 of 3 checkpoints. Step 3 is left out: ")
    about = dict(data["about"])
    assert about["string"] == "return x"
    assert about["to repeat"].startswith("headway train --config ")
    for predictions, step in zip(data["predictions"], (0, 9), strict=True):
        shown = run_prompt(run.model(step), "return x")
        found = [each["probability"] for each in predictions["following"]]
        expected = [shown.probability(at, int(token)) for at, token in enumerate(shown.tokens[1:])]
        assert found == pytest.approx(expected, rel=1e-3)


@pytest.fixture
def trained_twice(ours: HookedTransformer, tmp_path: Path) -> tuple[dict[int | None, PromptResult], Path]:
    """A prompt at three checkpoints of a network, each with other weights, and its page, opened at the second."""
    results: dict[int | None, PromptResult] = {}
    for step in (0, 5, 17):
        network = copy.deepcopy(ours)
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(1 + step / 10)
        results[step] = run_prompt(network, STRING, position=2)
    page = write_prompt_page(
        results, 5, ours, [("model", "ours")], tmp_path / "text.html", left_out="Some are left out."
    )
    return results, page


@needs_chromium
def test_a_slider_moves_the_prompt_through_training(
    trained_twice: tuple[dict[int | None, PromptResult], Path], opened: Open
):
    results, file = trained_twice
    page = opened(file)
    assert "Some are left out." in page.locator("#string").inner_text()
    assert page.locator("#slider").input_value() == "1"
    patterns = []
    for place, shown in enumerate(results.values()):
        go(page, place)
        chosen, following = shown.probabilities[:-1], shown.tokens[1:]
        losses = -chosen.gather(-1, following[:, None])[:, 0].log()
        said = page.locator("#string output").inner_text()
        assert float(re.findall(r"loss ([\d.]+) nats", said)[0]) == pytest.approx(losses[2].item(), rel=6e-3)
        assert float(re.findall(r"Mean loss of the prompt ([\d.]+)", said)[0]) == pytest.approx(
            losses.mean().item(), rel=6e-3
        )
        bars = page.locator("#next tbody th").all_text_contents()
        assert bars[:5] == [each.token for each in shown.likeliest(2, 5)]
        patterns.append(pixels(seen(page, "attention").locator("button.head canvas").nth(4)))
        seen(page, "string")
    assert len(set(patterns)) == 3
    # Arrow keys choose a position; the slider has them where it has the focus.
    page.locator("#slider").blur()
    page.keyboard.press("ArrowRight")
    drawn(page)
    assert page.locator("button.chip.chosen").all_text_contents() == [results[0].labels[3]]
    page.locator("#slider").focus()
    page.keyboard.press("ArrowLeft")
    drawn(page)
    assert page.locator("#place").inner_text().startswith("step 5, 2 of 3 · mean loss ")
    assert "step=5&position=3" in page.url
    again = opened(file, f"#{page.url.partition('#')[2]}")
    assert again.locator("button.chip.chosen").all_text_contents() == [results[0].labels[3]]
    # A press on a head shows its large pattern, whose words are of the chosen position.
    seen(again, "attention").locator("button.head").last.click()
    drawn(again)
    large = again.locator(".large")
    assert "query 3 " in large.locator("output").inner_text()
    assert large.evaluate("(element) => element.getBoundingClientRect().top >= 0")


def test_a_long_prompt_has_fewer_checkpoints(ours: HookedTransformer, monkeypatch: pytest.MonkeyPatch):
    short, steps = run_prompt(ours, "a"), list(range(0, 1000, 10))
    few = prompt_steps(steps, 330, short, top=5)
    assert 8 < len(few) <= 60
    assert {0, 330, 990} <= set(few)
    monkeypatch.setattr(prompt_page, "MOST_PREDICTIONS", 7 * 2 * 5)
    assert prompt_steps(steps, 330, short, top=5) == [330]
