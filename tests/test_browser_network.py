"""The network in the page computes what torch computes, on a sequence of one's own and with heads off."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsing import Open, check_paper, drawn, go, needs_chromium, seen, settled
from corpora import write_corpus
from playwright.sync_api import Page
from random_networks import KINDS, network
from tokenizers import Tokenizer
from toys import PADDED, TOKENS, HoldsZero, Train, made_up_circuit, untrained_run

from headway.analyze.measures.ablation import ablated_loss
from headway.analyze.measures.evaluation_sequences import evaluation_sequences
from headway.analyze.measures.loss import task_loss
from headway.analyze.network.interventions import Kind, ablation_hooks, output_with
from headway.analyze.network.vocabulary import VocabularyCircuit
from headway.analyze.report import write_report
from headway.analyze.report.network_in_page import COMPUTED, add_weights, network_in_page, packed_weights
from headway.analyze.report.stored import StoredScores
from headway.checkpoints import Run
from headway.checkpoints.scores import evaluation_file, write_scores
from headway.data.affine_recurrence import AffineRecurrence
from headway.data.task import Batch, masked_mean
from headway.data.text import Text
from headway.data.tokenizer import encode_texts
from headway.models.config import Head
from headway.models.hooked_transformer import HookedTransformer

pytestmark = needs_chromium

# The output, the patterns and z of a sequence, and the output without some heads, by what stands in for them.
RUN_IN_PAGE = """async ([text, step, tried, heads]) => {
    const networks = new Networks(JSON.parse(text)), shown = { trial: Trial.evaluation(networks.sequences, tried) };
    state.tried = tried;
    await networks.load(step);
    for (const _ of networks.computeMeans(step));
    const network = networks.found.get(step), clean = network.run(shown.trial.inputs);
    const without = Object.keys(INSTEAD).map((instead) => {
        state.instead = instead;
        const found = network.run(shown.trial.inputs, standIns(networks, step, shown, heads), clean);
        return [instead, [...network.output(found)]];
    });
    return {
        output: [...network.output(clean)],
        patterns: clean.patterns.flat().map((pattern) => [...pattern]),
        z: clean.z.map((z) => [...z]),
        losses: [...lossOf(network.output(clean), shown.trial.answers)],
        without: Object.fromEntries(without),
    };
}"""
INSTEAD: dict[Kind, str] = {"zero": "zero", "mean": "mean", "resample": "other"}


@pytest.fixture
def scripts(opened: Open, tmp_path: Path) -> Page:
    """A page with the scripts of a network and nothing else."""
    assets = files("headway.analyze.report") / "assets"
    names = ("base", "state", "forward", "networks", "trial", "try", "tokens")
    code = "\n".join((assets / f"{name}.js").read_text() for name in names)
    path = tmp_path / "scripts.html"
    path.write_text(f'<meta charset="utf-8"><body data-ready="1"><script>"use strict";{code}</script>')
    return opened(path)


def test_every_kind_of_network_computes_in_the_page_what_it_computes_in_torch(scripts: Page, tmp_path: Path):
    for place, kind in enumerate(KINDS):
        check_kind(scripts, tmp_path / str(place), kind)


@pytest.mark.parametrize(("outputs_are_inputs", "outputs"), [(True, ["a", "b", "c"]), (False, ["0", "1", "2"])])
def test_outputs_have_the_words_of_tokens_where_they_stand_for_them(
    scripts: Page, outputs_are_inputs: bool, outputs: list[str]
):
    sequences = {"labels": ["a", "b", "c"], "tokenizer": None, "outputs_are_inputs": outputs_are_inputs}
    config = {"d_vocab": 3, "d_vocab_out": 3, "n_ctx": 7, "input_type": "tokens"}
    found = scripts.evaluate("([sequences, config]) => new Words(sequences, config).outputs", [sequences, config])
    assert found == outputs


def check_kind(scripts: Page, folder: Path, kind: dict[str, Any]) -> None:
    """Check what the page computes at three checkpoints, of sequences that it has without their padding."""
    vectors = AffineRecurrence(d_vector=13, length_max=11)
    task = vectors if kind.get("input_type") == "vectors" else HoldsZero(n_tokens=12, length=5, at_end=True)
    batch, heads = task.evaluation_batch(seed=0, batch_size=23), [Head(0, 1), Head(1, 2)]
    models = [network(seed=step, dtype=torch.float32, **kind) for step in range(3)]
    run = Run.create(folder, replace(TOKENS, task=task, model=models[0].cfg))
    write_scores(evaluation_file(run.path), evaluation_sequences(batch), checksum=True)
    for step, model in enumerate(models):
        run.keep(step, model)
    found = network_in_page(StoredScores.of(run), run.steps)
    add_weights([(run, found)], 0)
    data = json.dumps(found.data)  # many times as fast as to hand over lists
    # Sequences that are shorter than the one before them, as long, and longer.
    ends = batch.real.sum(1)
    by_growth = (ends - ends.roll(1)).argsort()
    for (step, model), at in zip(enumerate(models), by_growth[[0, 11, -1]].tolist(), strict=True):
        end = int(ends[at])
        with torch.no_grad():
            output, cache = model.run_with_cache(batch.inputs, **batch.padding)
        in_page = scripts.evaluate(RUN_IN_PAGE, [data, step, at, heads])
        layers = range(model.cfg.n_layers)
        patterns = torch.cat([cache["pattern", layer][at, :, :end, :end] for layer in layers])
        z = torch.stack([cache["z", layer][at, :end] for layer in layers])
        assert in_page["output"] == pytest.approx(output[at, :end].flatten().tolist(), abs=1e-4), kind
        assert np.ravel(in_page["patterns"]) == pytest.approx(patterns.flatten().numpy(), abs=1e-5), kind
        assert np.ravel(in_page["z"]) == pytest.approx(z.flatten().numpy(), abs=1e-4), kind
        counted = batch.mask[at, :end].numpy()
        losses = np.array(in_page["losses"], dtype=float)[counted]
        assert losses == pytest.approx(task_loss(output, batch)[at, :end][counted].numpy(), abs=1e-4), kind
        for replacement, name in INSTEAD.items():
            without = output_with(model, batch, ablation_hooks(model, batch, heads, replacement))[at, :end]
            assert in_page["without"][name] == pytest.approx(without.flatten().tolist(), abs=1e-4), (kind, replacement)


def test_the_tables_of_the_page_are_what_python_says_it_computes(scripts: Page):
    names = "[ACTIVATIONS, DIRECTIONS, EMBEDDINGS, NORMALIZATIONS, POSITIONS].map((table) => Object.keys(table))"
    options = ("act_fn", "attention_dir", "input_type", "normalization_type", "positional_embedding_type")
    known = [["null" if value is None else value for value in COMPUTED[name]] for name in options]
    assert list(map(set, scripts.evaluate(names))) == list(map(set, known))


@pytest.mark.parametrize("kind", ["LN", "LNPre", "RMS", None])
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
    for kind, label in INSTEAD.items():
        section.locator("select").nth(1).select_option(label)
        wait_for(page, f"{SHOWN}.ready && {SHOWN}.instead === '{label}'")
        of_batch = expected_losses(model, batch, heads, kind)
        assert losses(page) == pytest.approx(of_batch[7].tolist(), abs=1e-4), kind
        assert masked_mean(of_batch, batch.mask) == pytest.approx(ablated_loss(model, batch, heads, kind).loss.item())
        if kind != "mean":  # that of one sequence alone is another
            alone = ablated_loss(model, one, heads, kind, reference=before if kind == "resample" else None)
            assert np.mean(losses(page)) == pytest.approx(alone.loss.item(), abs=1e-4)
    last = expected_losses(model, batch, heads, [*INSTEAD][-1])
    for at in (5, 7):
        section.locator("select").first.select_option(str(at))
        drawn(page)
        assert losses(page) == pytest.approx(last[at].tolist(), abs=1e-4)
    said = section.locator(".said").inner_text()
    assert said.startswith(f"Step {run.steps[-1]}, off: L0H1, L1H2: loss ")
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


def test_what_a_press_will_show_is_computed_while_the_pointer_is_on_a_head(run: Run, opened: Open):
    page, model, batch = opened(run.report_file), run.model(), run.batch()
    section = seen(page, "try")
    section.locator("select").nth(1).select_option("zero")
    wait_for(page, f"{SHOWN}.ready")
    off: list[Head] = []
    for name, head in (("L0H1", Head(0, 1)), ("L1H2", Head(1, 2)), ("L0H1", Head(0, 1))):
        button = section.locator(f"[data-head={name}]")
        button.hover()
        wait_for(page, f"{SHOWN}.ahead?.losses")
        expected = page.evaluate(f"[...{SHOWN}.ahead.losses]")
        before = losses(page)
        button.click()
        drawn(page)
        off = [each for each in off if each != head] if head in off else [*off, head]
        of_batch = expected_losses(model, batch, off, "zero")
        assert losses(page) == expected == pytest.approx(of_batch[0].tolist(), abs=1e-4)
        # A second press shows what was shown before.
        button.click()
        drawn(page)
        assert losses(page) == before
        button.click()
        drawn(page)
    # What was computed for another sequence is not shown.
    section.locator("[data-head=L0H1]").hover()
    wait_for(page, f"{SHOWN}.ahead?.losses")
    page.evaluate("setTrial({ tried: 7 })")
    section.locator("[data-head=L0H1]").click()
    drawn(page)
    heads = [Head(0, 1), Head(1, 2)]
    assert losses(page) == pytest.approx(expected_losses(model, batch, heads, "zero")[7].tolist(), abs=1e-4)
    # What is begun for one sequence, and done while another is shown, is of the first.
    page.evaluate("setTrial({ tried: 0, off: new Set() })")
    drawn(page)
    page.evaluate(
        f"""() => {{
            const shown = {SHOWN}, head = [0, 1];
            shown.ahead = new Without(RUNS[0].networks, shown.step, shown, [head]);
            shown.ahead.steps.next();
            setTrial({{ tried: 7 }});
        }}"""
    )
    drawn(page)
    page.evaluate(f"void finished({SHOWN}.ahead.steps)")
    page.evaluate("setTrial({ tried: 0, off: new Set(['L0H1']) })")
    drawn(page)
    assert page.evaluate(f"{SHOWN}.last === {SHOWN}.ahead")
    of_batch = expected_losses(model, batch, [Head(0, 1)], "zero")
    assert losses(page) == pytest.approx(of_batch[0].tolist(), abs=1e-4)


def test_panels_of_several_runs_follow_each_other(run: Run, opened: Open, tmp_path: Path):
    task, model = replace(TOKENS.task, n_tokens=43), replace(TOKENS.model, n_layers=1, d_vocab=44, d_vocab_out=44)
    other = untrained_run(tmp_path / "other", replace(TOKENS, task=task, model=model))
    page = opened(write_report([run, other], tmp_path / "page.html"), "#instead=zero")
    panels = seen(page, "try").locator(".try")
    for at in range(2):
        wait_for(page, f"RUNS[{at}].trial?.ready")
    # What a press will show is computed for all runs.
    panels.first.locator("[data-head=L0H1]").hover()
    for at in range(2):
        wait_for(page, f"RUNS[{at}].trial.ahead?.losses")
    panels.first.locator("[data-head=L0H1]").click()
    drawn(page)
    for at in range(2):
        assert page.evaluate(f"RUNS[{at}].trial.last === RUNS[{at}].trial.ahead")
    # What cannot be read is said where it was typed.
    typed = panels.get_by_label("tokens of the sequence")
    typed.nth(1).fill("BOS 3 99")
    drawn(page)
    told = panels.locator(".said")
    assert told.nth(1).inner_text().startswith("Position 2: “99” is not a token")
    assert told.nth(0).inner_text().startswith("Step ")
    # A text that another network cannot read is read where it can be.
    typed.nth(1).fill("BOS 3 41")
    drawn(page)
    assert page.evaluate("RUNS[1].trial.trial.inputs") == [0, 3, 41]
    assert told.nth(0).inner_text().startswith("Position 2: “41” is not a token")
    assert told.nth(1).inner_text().startswith("Step ")


def test_an_address_that_is_wrong_in_part_says_the_rest(run: Run, opened: Open):
    page = opened(run.report_file, "#edit=null&off=L7H9.L00H1&instead=toString")
    section = seen(page, "try")
    section.locator(".said").filter(has_text="Position 0: “null” is not a token").wait_for()
    assert page.evaluate("[[...state.off], state.instead]") == [["L0H1"], "mean"]
    # A link that is followed while the text has the focus changes the text too.
    typed = section.get_by_label("tokens of the sequence")
    typed.focus()
    page.evaluate("() => { location.hash = 'edit=BOS 5 7'; }")
    wait_for(page, f"{SHOWN}.trial.inputs.length === 3")
    assert typed.input_value() == "BOS 5 7"
    page.evaluate("() => { location.hash = 'edit=null'; }")
    section.locator(".said").filter(has_text="Position 0: “null” is not a token").wait_for()
    page.evaluate("() => { location.hash = 'step=last'; }")
    section.locator(".said").filter(has_text="Step").filter(has_not_text="null").wait_for()
    assert len(typed.input_value().split()) == run.batch().inputs.shape[1]


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
    # The address has what is shown.
    again = opened(run.report_file, "#" + page.evaluate("placeHere()"))
    seen(again, "try")
    wait_for(again, f"{SHOWN}.ready")
    assert losses(again) == before
    # Nor does what comes next change the text, or take it for the sequence.
    section.locator("[data-head=L0H1]").click()
    drawn(page)
    assert typed.input_value() == "BOS 3 fish"
    section.locator("[data-head=L0H1]").click()
    drawn(page)
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


TEXTS = [
    "def f(x):\n    return x",
    "",
    "<|bos|> is text",
    "it's 12 o'clock,  isn't it?\t\n\n  we'll see ",
    "naïve café – 東京 𝕏 😀\u00a0\u3000x\x85y\ufeff!",
    "    if value_3 is None else self.value_3\r\n",
]


def test_a_person_types_text_where_the_network_reads_text(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "cache"))
    task = Text(str(write_corpus(tmp_path / "corpus")), n_tokens=331, length=37).resolved()
    model = replace(TOKENS.model, n_ctx=37, d_vocab=331, d_vocab_out=331)
    run = untrained_run(tmp_path / "run", replace(TOKENS, task=task, model=model))
    page = opened(write_report(run))
    batch, bpe = run.batch(), Tokenizer.from_buffer(task.tokenizer_json)
    section = seen(page, "try")
    wait_for(page, f"{SHOWN}?.ready")
    typed = section.get_by_label("text of the sequence")
    assert typed.input_value() == bpe.decode(batch.inputs[0].tolist())
    encoded = [[0, *tokens] for tokens in encode_texts(bpe, TEXTS)]
    read = "(texts) => texts.map((text) => new Tokenizer(RUNS[0].network.sequences.tokenizer).encode(text))"
    assert page.evaluate(read, TEXTS) == encoded
    for text, tokens in zip(TEXTS[:3], encoded, strict=False):
        typed.fill(text)
        drawn(page)
        assert page.evaluate(f"{SHOWN}.trial.inputs") == tokens
        with torch.no_grad():
            output = run.model()(torch.tensor([tokens])).flatten().tolist()
        assert page.evaluate(f"[...{SHOWN}.output]") == pytest.approx(output, abs=1e-4)
    typed.fill(TEXTS[0] * 19)
    drawn(page)
    assert "this network reads at most 37." in section.locator(".said").inner_text()
    # Arrow keys move in the text, and leave the slider.
    place = page.locator("#slider").input_value()
    typed.press("ArrowLeft")
    assert page.locator("#slider").input_value() == place
    typed.fill(TEXTS[0])
    drawn(page)
    again = opened(run.report_file, "#" + page.url.partition("#")[2])
    seen(again, "try")
    wait_for(again, f"{SHOWN}?.ready")
    assert again.evaluate(f"{SHOWN}.trial.inputs") == encoded[0]


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
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_role("button", name="Circuit off").click()
    drawn(page)
    assert page.evaluate("[...state.off].sort()") == ["L0H1", "L1H2"]
    page.emulate_media(media="print")
    drawn(page)
    check_paper(page)


def test_padding_is_out_of_view_and_classes_are_no_tokens(opened: Open, tmp_path: Path):
    run = untrained_run(tmp_path / "run", PADDED)
    batch, model, head = run.batch(), run.model(), Head(0, 1)
    # A sequence with padding, after one that ended before it.
    ends = batch.real.sum(1)
    at = next(at for at in range(1, len(ends)) if ends[at - 1] < ends[at] < batch.inputs.shape[1])
    page = opened(write_report(run), f"#tried={at}&instead=other&off=L0H1")
    section = seen(page, "try")
    wait_for(page, f"{SHOWN}?.ready")
    with torch.no_grad():
        without = output_with(model, batch, ablation_hooks(model, batch, [head], "resample"))[at, : ends[at]]
    assert page.evaluate(f"[...{SHOWN}.output]") == pytest.approx(without.flatten().tolist(), abs=1e-4)
    off = masked_mean(expected_losses(model, batch, [head], "resample")[at], batch.mask[at]).item()
    assert f"off: L0H1: loss {off:.3g} (" in section.locator(".said").inner_text()
    rows = page.locator("#try .positions tbody tr").all_inner_texts()
    assert len(rows) == section.locator(".chip").count() == ends[at]
    answer = str(int(batch.targets[at, ends[at] - 1]))
    assert [row.split("\t")[2] for row in rows] == [*[""] * (len(rows) - 1), answer]
    assert {row.split("\t")[3] for row in rows} <= {"0", "1"}
    # Positions without an answer have predictions of the same classes.
    for place in (0, len(rows) - 1):
        section.locator(".chip").nth(place).click()
        drawn(page)
        table = section.locator("table").first
        assert set(table.locator("tbody th").all_inner_texts()) == {"0", "1"}
    # Positions act between queries and keys.
    headings = seen(page, "tokens").locator("h3").all_inner_texts()
    assert headings == ["OV circuit"]
    assert "no attention scores of tokens alone" in page.locator("#tokens").inner_text()


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
    go(page, 0)
    assert said.inner_text().startswith("On one sequence: Step 0, off: L1H2: loss ")
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


def test_a_checkpoint_without_weights_is_tried_with_the_nearest_that_has_them(
    run: Run, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "page.html"
    sizes = [len(packed_weights(run, step) or "") for step in run.steps]
    without = write_report(run, out).stat().st_size - sum(sizes)
    monkeypatch.setattr("headway.analyze.report.network_in_page.FITTING", without + 2.9 * sizes[-1])
    page, last = opened(write_report(run, out)), run.steps[-1]
    said = seen(page, "try").locator(".said")
    for place, step in enumerate(run.steps):
        nearest = last if (1 + step) ** 2 > 1 + last else 0
        whose = "" if step == nearest else f", whose weights are the nearest to step {step} in this page"
        go(page, place)
        said.filter(has_text=f"Step {nearest}{whose}: loss").wait_for()
        assert ("has the weights of 2 of" in said.inner_text()) is (step != nearest)


def test_a_page_without_a_network_says_why(run: Run, opened: Open, tmp_path: Path):
    page = opened(write_report(run, tmp_path / "page.html", weights="none"))
    assert "written without weights" in seen(page, "try").inner_text()
