"""The network in the page computes what torch computes, on a sequence of one's own and with heads off."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsing import Open, check_paper, drawn, go, needs_chromium, seen
from playwright.sync_api import Page
from random_networks import SIZES, inputs_for, network
from toys import TOKENS, Train, made_up_circuit

from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.loss import task_loss
from headway.analyze.network.interventions import Kind, ablation_hooks, output_with
from headway.analyze.network.vocabulary import VocabularyCircuit
from headway.analyze.report import write_report
from headway.analyze.report.network_in_page import COMPUTED, packed_weights
from headway.checkpoints import Run
from headway.data.affine_recurrence import AffineRecurrence
from headway.data.task import Batch, masked_mean
from headway.models.config import Head
from headway.models.hooked_transformer import HookedTransformer

pytestmark = needs_chromium

# Each value of each option at least once, and options that meet in one line of code together.
KINDS: list[dict[str, Any]] = [
    {"attn_only": True},
    {"act_fn": "relu", "normalization_type": "LNPre", "positional_embedding_type": "shortformer"},
    {"act_fn": "gelu", "normalization_type": None, "positional_embedding_type": "none"},
    {"act_fn": "gelu_new", "attention_dir": "bidirectional"},
    {"act_fn": "silu", "input_type": "vectors", "normalization_type": "LNPre"},
    {"act_fn": "solu", "attention_dir": "bidirectional", "positional_embedding_type": "shortformer"},
    {"act_fn": "solu_ln", "normalization_type": "LN"},
    {"act_fn": "solu_ln", "normalization_type": None},
]

RUN_IN_PAGE = """async ([config, layout, weights, sequences]) => {
    const network = new Network(config, layout, await weightsIn(weights));
    return sequences.map((sequence) => {
        const found = network.run(sequence);
        return [[...network.output(found)], found.patterns.flat().map((each) => [...each]), found.z.map((z) => [...z])];
    });
}"""


@pytest.fixture
def scripts(opened: Open, tmp_path: Path) -> Page:
    """A page with the scripts of a network and nothing else."""
    assets = files("headway.analyze.report") / "assets"
    code = "\n".join((assets / f"{name}.js").read_text() for name in ("base", "state", "forward", "try", "tokens"))
    path = tmp_path / "scripts.html"
    path.write_text(f'<meta charset="utf-8"><body data-ready="1"><script>"use strict";{code}</script>')
    return opened(path)


def test_every_kind_of_network_computes_in_the_page_what_it_computes_in_torch(scripts: Page, tmp_path: Path):
    for place, kind in enumerate(KINDS):
        vectors = AffineRecurrence(d_vector=13, length_max=11)
        task = vectors if "input_type" in kind else replace(TOKENS.task, n_tokens=12)
        recipe = replace(TOKENS, task=task, model=network(**kind).cfg)
        run = Run.create(tmp_path / str(place), recipe)
        for step in range(3):
            model = network(seed=step, dtype=torch.float32, **kind)
            run.keep(step, model)
            inputs = inputs_for(model, seed=step)
            output, cache = model.run_with_cache(inputs)
            layout = [[name, list(shape)] for name, shape in model.cfg.weight_shapes()]
            given = [model.cfg.to_dict(), layout, packed_weights(run, step), inputs.tolist()]
            found = scripts.evaluate(RUN_IN_PAGE, given)
            for at, (logits, patterns, z) in enumerate(found):
                expected = output[at].flatten().tolist()
                assert logits == pytest.approx(expected, abs=1e-4), kind
                theirs = torch.cat([cache["pattern", layer][at] for layer in range(SIZES["n_layers"])])
                assert np.ravel(patterns) == pytest.approx(theirs.flatten().numpy(), abs=1e-5), kind
                theirs = torch.stack([cache["z", layer][at] for layer in range(SIZES["n_layers"])])
                assert np.ravel(z) == pytest.approx(theirs.flatten().numpy(), abs=1e-4), kind


def test_the_tables_of_the_page_are_what_python_says_it_computes(scripts: Page):
    names = "[ACTIVATIONS, VISIBLE, EMBEDDINGS, NORMALIZATIONS, POSITIONS].map((table) => Object.keys(table))"
    options = ("act_fn", "attention_dir", "input_type", "normalization_type", "positional_embedding_type")
    known = [["null" if value is None else value for value in COMPUTED[name]] for name in options]
    assert list(map(set, scripts.evaluate(names))) == list(map(set, known))
    used = [{kind.get(name, getattr(network(**kind).cfg, name)) for kind in KINDS} for name in options]
    assert used == [set(COMPUTED[name]) for name in options]


@pytest.mark.parametrize("kind", ["LN", "LNPre", None])
def test_token_tables_are_the_vocabulary_circuits_of_the_folded_network(
    scripts: Page, tmp_path: Path, kind: str | None
):
    model = network(dtype=torch.float32, normalization_type=kind)
    run = Run.create(tmp_path / "run", replace(TOKENS, task=replace(TOKENS.task, n_tokens=12), model=model.cfg))
    run.keep(0, model)
    layout = [[name, list(shape)] for name, shape in model.cfg.weight_shapes()]
    tables = """async ([config, layout, weights]) => {
        const { OV, QK } = tokenCircuits(new Network(config, layout, await weightsIn(weights)), 1, 2);
        return [[...OV], [...QK]];
    }"""
    ov, qk = scripts.evaluate(tables, [model.cfg.to_dict(), layout, packed_weights(run, 0)])
    folded, head = model.processed(center_unembed=False), Head(1, 2)
    every = torch.arange(model.cfg.d_vocab)
    for found, circuit in ((ov, VocabularyCircuit.ov(folded, [head])), (qk, VocabularyCircuit.qk(folded, head))):
        assert np.reshape(found, circuit.shape) == pytest.approx(circuit.rows(every).numpy(), abs=1e-4)


def test_token_tables_and_every_position_follow_the_slider(run: Run, opened: Open):
    page = opened(run.report_file, "#head=L1H2")
    every = torch.arange(14)
    for place in (len(run.steps) - 1, 0):
        go(page, place)
        step = run.steps[place]
        section = seen(page, "tokens")
        wait_for(page, f"document.querySelector('#tokens .readout').textContent === 'L1H2 at step {step}'")
        canvas = section.locator("canvas").first
        canvas.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        said = section.locator(".downloadable output").first.inner_text()
        row, column = (place == 0) + 1, (place == 0) + 1
        entries = VocabularyCircuit.ov(run.model(step).processed(center_unembed=False), [Head(1, 2)]).rows(every)
        assert said.startswith(f"OV of L1H2: input token “{row}” → output token “{column}”: ")
        assert float(said.rpartition(": ")[2]) == pytest.approx(entries[row, column].item(), rel=0.02, abs=1e-6)
        seen(page, "try")
        wait_for(page, f"{SHOWN}.ready && {SHOWN}.step === {step}")
        model, batch = run.model(step), run.batch()
        output = model(batch.inputs[:1])[0]
        rows = page.locator("#try .positions tbody tr").all()
        assert len(rows) == 11
        for at in (2, 9):
            _, answer, best, chance, loss = rows[at].locator("td").all_inner_texts()
            assert int(answer) == batch.targets[0, at]
            assert int(best) == output[at].argmax()
            assert float(chance) == pytest.approx(output[at].softmax(-1).max().item(), rel=0.01)
            assert float(loss) == pytest.approx(task_loss(output[None], batch.first(1))[0, at].item(), rel=0.01)
    period, lead = (batch.info[name][0].item() for name in ("period", "lead"))
    words = f"0: period {period}, from position {lead + 1}"
    assert page.locator("#try select option").first.inner_text() == words
    assert page.locator("#sequence option").first.inner_text() == words


@pytest.fixture(scope="module")
def run(trained: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = trained(TOKENS, tmp_path_factory.mktemp("runs") / "run")
    made_up_circuit(run, 5, ["embed->L0H1.v", "L0H1->L1H2.k", "L1H2->output"], [], ("L1H2", "L1H0"))
    write_report(run)
    return run


SHOWN = "RUNS[0].trial"


def losses(page: Page) -> list[float]:
    return page.evaluate(f"[...{SHOWN}.losses]")


def wait_for(page: Page, expression: str) -> None:
    page.wait_for_function(f"() => {expression}")
    drawn(page)


def expected_losses(model: HookedTransformer, batch: Batch, heads: list[Head], kind: Any) -> torch.Tensor:
    hooks = ablation_hooks(model, batch, heads, kind)
    return task_loss(output_with(model, batch, hooks), batch)


def test_the_network_follows_the_slider_and_its_heads_go_off_as_in_ablated_loss(run: Run, opened: Open):
    page, batch = opened(run.report_file), run.batch()
    section = seen(page, "try")
    for place in (0, len(run.steps) // 2, len(run.steps) - 1):
        go(page, place)
        wait_for(page, f"{SHOWN}.step === {run.steps[place]} && {SHOWN}.ready")
        model = run.model(run.steps[place])
        assert page.evaluate(f"[...{SHOWN}.output]") == pytest.approx(
            model(batch.inputs[:1]).flatten().tolist(), abs=1e-4
        )
    assert losses(page) == pytest.approx(task_loss(model(batch.inputs), batch)[0].tolist(), abs=1e-4)
    # Two heads, one behind the other, on another sequence.
    section.locator("select").first.select_option("7")
    for name in ("L0H1", "L1H2"):
        section.locator(f"[data-head={name}]").click()
    heads = [Head(0, 1), Head(1, 2)]
    one, before = batch.at([7]), batch.at([6])
    labels: dict[Kind, str] = {"zero": "zero", "mean": "mean", "resample": "other"}
    for kind, label in labels.items():
        section.locator("select").nth(1).select_option(label)
        wait_for(page, f"{SHOWN}.ready && {SHOWN}.instead === '{label}'")
        of_batch = expected_losses(model, batch, heads, kind)
        assert losses(page) == pytest.approx(of_batch[7].tolist(), abs=1e-4), kind
        assert masked_mean(of_batch, batch.mask) == pytest.approx(ablated_loss(model, batch, heads, kind).loss.item())
        if kind != "mean":  # that of one sequence alone is another
            alone = ablated_loss(model, one, heads, kind, reference=before if kind == "resample" else None)
            assert np.mean(losses(page)) == pytest.approx(alone.loss.item(), abs=1e-4)
    said = section.locator(".said").inner_text()
    assert said.startswith(f"Step {run.steps[-1]}, off: L0H1, L1H2: loss ")
    last = expected_losses(model, batch, heads, [*labels][-1])
    assert f"loss on repeats {mean_on(batch, last, 7):.3g}" in said
    assert "off=L0H1.L1H2" in page.url
    assert "tried=7" in page.url
    again = opened(run.report_file, "#" + page.url.partition("#")[2])
    seen(again, "try")
    wait_for(again, f"{SHOWN}.ready")
    assert losses(again) == losses(page)
    section.get_by_role("button", name="All heads on").click()
    drawn(page)
    assert losses(page) == page.evaluate(f"[...{SHOWN}.cleanLosses]")


def mean_on(batch: Batch, each: torch.Tensor, at: int) -> float:
    assert batch.task
    return masked_mean(each[at], batch.task.parts(batch)["repeats"][at]).item()


def test_a_person_edits_the_tokens_and_the_answers_follow(run: Run, opened: Open):
    page, batch, model = opened(run.report_file, width=390), run.batch(), run.model()
    section = seen(page, "try")
    typed = section.get_by_label("tokens of the sequence")
    wait_for(page, f"{SHOWN}.ready")
    assert typed.input_value().split() == ["BOS", *map(str, batch.inputs[0, 1:].tolist())]
    for tokens in ([0, 5, 7, 5, 7], [0, 3, *batch.inputs[0, 2:].tolist()]):
        typed.fill(" ".join(map(str, ["BOS", *tokens[1:]])))
        drawn(page)
        output = model(torch.tensor([tokens]))[0]
        assert page.evaluate(f"[...{SHOWN}.output]") == pytest.approx(output.flatten().tolist(), abs=1e-4)
        expected = torch.nn.functional.cross_entropy(output[:-1], torch.tensor(tokens[1:]), reduction="none")
        assert losses(page)[:-1] == pytest.approx(expected.tolist(), abs=1e-4)
    # The last answer is known where the sequence is as long as it was.
    assert np.isfinite(losses(page)[-1])
    before = losses(page)
    typed.fill("BOS 3 fish")
    drawn(page)
    told = section.locator(".said").inner_text()
    assert told.startswith("Position 2: “fish” is not a token; tokens are BOS, 1, 2 … 13.")
    assert losses(page) == before
    section.locator(".chip").nth(3).click()
    drawn(page)
    table = section.locator("table").first
    best = output[3].softmax(-1).topk(1)
    assert table.locator("tbody th").first.inner_text() == str(best.indices.item())
    assert float(table.locator("tbody td").first.inner_text()) == pytest.approx(best.values.item(), rel=0.01)
    section.get_by_role("button", name="As it was").click()
    drawn(page)
    assert losses(page) == pytest.approx(task_loss(model(batch.inputs), batch)[0].tolist(), abs=1e-4)
    # The page is no wider than the screen.
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_circuit_in_this_sequence_stands_beside_the_whole_batch_also_on_paper(run: Run, opened: Open):
    page, batch, model = opened(run.report_file, "#instead=zero&tried=3"), run.batch(), run.model()
    table = seen(page, "try").locator("table").nth(1)
    table.wait_for()
    every = [Head(layer, head) for layer in range(2) for head in range(3)]
    inside = [Head(0, 1), Head(1, 2)]

    def loss_without(heads: list[Head]) -> float:
        return mean_on(batch, expected_losses(model, batch, heads, "zero"), 3)

    clean = loss_without([])
    known = loss_without(every) - clean
    circuit = run.circuit()
    rows = [row.split("\t") for row in table.locator("tbody tr").all_inner_texts()]
    kept = 1 - (loss_without([each for each in every if each not in inside]) - clean) / known
    assert [float(rows[0][1].split()[0]), float(rows[2][1].split()[0])] == pytest.approx(
        [100 * kept, 100 * (loss_without([every[0]]) - clean) / known], abs=0.2
    )
    assert rows[0][2].startswith(f"{100 * circuit.faithfulness.item():.1f}".rstrip("0").rstrip("."))
    page.set_viewport_size({"width": 390, "height": 900})
    drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_role("button", name="Circuit off").click()
    drawn(page)
    assert page.evaluate("[...state.off].sort()") == ["L0H1", "L1H2"]
    page.emulate_media(media="print")
    drawn(page)
    check_paper(page)


def test_a_head_is_switched_off_beside_its_pattern_and_the_loss_is_said_there(run: Run, opened: Open):
    page, batch, model = opened(run.report_file, "#head=L1H2&instead=zero"), run.batch(), run.model()
    card = page.locator("#overview .card")
    card.get_by_role("button", name="Switch L1H2 off").click()
    said = card.locator(".switched")
    said.filter(has_text="off: L1H2: loss ").wait_for()
    off = expected_losses(model, batch, [Head(1, 2)], "zero")
    assert f"loss on repeats {mean_on(batch, off, 0):.3g}" in said.inner_text()
    assert said.inner_text() == f"On one sequence: {page.locator('#try .said').inner_text()}"
    assert page.evaluate("scrollY") == 0
    card.get_by_role("button", name="Switch L1H2 on").click()
    drawn(page)
    assert said.inner_text() == ""
    card.get_by_role("button", name="Try the network").click()
    assert page.evaluate("scrollY") > 0


def test_the_network_runs_in_the_frame_of_a_notebook(run: Run, opened: Open, tmp_path: Path):
    (tmp_path / "notebook.html").write_text(f'<body data-ready="1">{run.show(step=run.steps[0])._repr_html_()}')
    frame = opened(tmp_path / "notebook.html").frame_locator("iframe")
    frame.locator("#try").scroll_into_view_if_needed()
    frame.locator("#try [data-head=L0H1]").click()
    frame.locator("#try .said").filter(has_text="Step 0, off: L0H1: loss").wait_for()


def test_a_page_without_a_network_says_why(run: Run, opened: Open, tmp_path: Path):
    page = opened(write_report(run, tmp_path / "page.html", weights="none"))
    assert "written without weights" in seen(page, "try").inner_text()
