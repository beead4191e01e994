"""The study of induction: each claim on networks where it must hold and where it must fail, and the whole of it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import xarray as xr
from language_models import saved_gpt2
from test_command import contents, refused
from toys import NO_POSITIONS, TOKENS

from headway.__main__ import main
from headway.analyze.studies.circuit import Network, Thresholds, find_circuit
from headway.analyze.studies.copies import Sequences
from headway.analyze.studies.induction import claims, study
from headway.analyze.studies.result import Claim, StudyResult
from headway.checkpoints import Run
from headway.data.repeated_synonyms import RepeatedSynonyms
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch
from headway.models import handmade
from headway.models.config import Head
from headway.models.convert import load_bridge
from headway.models.hooked_transformer import HookedTransformer
from headway.train import train


class Case(NamedTuple):
    """A network, sequences, and what its heads are called by."""

    network: tuple[HookedTransformer, Batch]
    limits: Thresholds = Thresholds()


def plain(kind: str = "k") -> Case:
    return Case(handmade.composing_pair(kind))  # pyright: ignore[reportArgumentType]


def fuzzy() -> Case:
    return Case(handmade.fuzzy_pair())


@torch.no_grad()
def twice(kind: str) -> Case:
    """Both heads of layer 1 do the same."""
    model, batch = handmade.composing_pair(kind)  # pyright: ignore[reportArgumentType]
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        weights = getattr(model.blocks[1].attn, name)
        weights[0] = weights[1]
    return Case((model, batch))


@torch.no_grad()
def nothing() -> Case:
    """Heads of zero weights: uniform attention that writes nothing."""
    model, batch = handmade.composing_pair("k")
    for block in model.blocks:
        for parameter in block.attn.parameters():
            parameter.zero_()
    return Case((model, batch))


@torch.no_grad()
def by_the_order_of_tokens() -> Case:
    """It attends to the token that is one larger, whatever stood before; in these sequences that is what follows."""
    model, batch = handmade.composing_pair("k")
    attention = model.blocks[1].attn
    attention.W_K[1, handmade.PREVIOUS] = 0
    attention.W_K[1, handmade.TOKEN, : handmade.D_VOCAB] = handmade.SHARP * torch.eye(handmade.D_VOCAB)
    attention.W_Q[1, handmade.TOKEN] = attention.W_Q[1, handmade.TOKEN].roll(-1, 0)
    tokens = 1 + torch.arange(-1, 17) % batch.info["period"][:, None]
    tokens[:, 0] = 0
    return Case((model, batch._replace(inputs=tokens[:, :-1], targets=tokens[:, 1:])))


@torch.no_grad()
def half_of_the_tokens_each() -> Case:
    """Two induction heads, of which only the better is known for one: neither sees the queries of the other."""
    model, batch = twice("k").network
    model.blocks[1].attn.W_Q[0, :6] = 0
    model.blocks[1].attn.W_Q[1, 6:13] = 0
    return Case((model, batch), Thresholds(induction=0.9))


@torch.no_grad()
def by_content() -> Case:
    """Its head of layer 0 looks at its like, which here is never the token before."""
    model, batch = handmade.composing_pair("k")
    attention = model.blocks[0].attn
    for W in (attention.W_Q, attention.W_K):
        W[0] = 0
        W[0, handmade.TOKEN, : handmade.D_VOCAB] = handmade.SHARP * torch.eye(handmade.D_VOCAB)
    return Case((model, batch))


CLAIMS: list[tuple[str, Callable[[], Case], Callable[[], Case]]] = [
    ("predicts what repeats", plain, nothing),
    ("looks at the token before", plain, by_content),
    ("finds that token by position", plain, by_content),
    ("followed the current token before", plain, lambda: twice("q")),
    ("keys read", plain, lambda: twice("q")),
    ("finds where it was written", plain, lambda: twice("v")),
    ("it says", plain, lambda: twice("v")),
    ("said by these heads directly", plain, lambda: twice("q")),
    ("need those keys", plain, by_the_order_of_tokens),
    ("is necessary", plain, half_of_the_tokens_each),
    ("is sufficient", plain, half_of_the_tokens_each),
    ("Without positions", plain, by_the_order_of_tokens),
    ("followed a synonym", fuzzy, plain),
    ("predicts the synonyms", fuzzy, plain),
]


def found(case: Case) -> Sequence[Claim]:
    """The claims of a network, on its own sequences and on those with synonyms."""
    (model, batch), limits = case
    own = torch.arange(handmade.D_VOCAB)
    with_synonyms = Sequences(handmade.fuzzy_pair()[1], handmade.SYNONYMS.synonyms)
    sequences = with_synonyms if isinstance(batch.task, RepeatedSynonyms) else Sequences(batch, own)
    return claims(Network(model, model), sequences, with_synonyms, limits)


def the_one(claims: Sequence[Claim], says: str) -> Claim:
    (claim,) = [claim for claim in claims if says in claim.says]
    return claim


@pytest.mark.parametrize(("says", "accepted", "rejected"), CLAIMS, ids=[each[0] for each in CLAIMS])
def test_a_claim_holds_and_fails_where_it_must(says: str, accepted: Callable[[], Case], rejected: Callable[[], Case]):
    claim = the_one(found(accepted()), says)
    assert claim.holds, claim
    claim = the_one(found(rejected()), says)
    assert not claim.holds, claim
    assert np.isfinite(claim.number), claim


def test_every_claim_is_tested():
    claims = found(plain())
    assert len(claims) == len(CLAIMS)
    for says, _, _ in CLAIMS:
        the_one(claims, says)


def test_under_synonyms_the_fuzzy_circuit_is_an_induction_circuit():
    """All claims hold of it on its own sequences, as all but the last two hold of the plain one on plain ones."""
    assert all(claim.holds for claim in found(fuzzy()))
    assert [claim.holds for claim in found(plain())] == [True] * 12 + [False] * 2


def test_the_circuit_is_found_by_what_its_heads_look_at():
    model, batch = handmade.composing_pair("k")
    circuit = find_circuit(model, Sequences(batch, torch.arange(13)), Thresholds())
    assert circuit is not None
    assert (circuit.previous, circuit.induction) == (Head(0, 0), Head(1, 1))
    assert circuit.heads == (Head(0, 0), Head(1, 1))
    # Below the thresholds the best are taken, and never a later head for what an earlier one reads.
    (model, batch), limits = half_of_the_tokens_each()
    circuit = find_circuit(model, Sequences(batch, torch.arange(13)), limits)
    assert circuit is not None
    assert len(circuit.induction_heads) == 1


@torch.no_grad()
def test_a_later_previous_token_head_does_not_hide_the_circuit():
    """Between the layers of the circuit's heads stands one that looks at the token before more sharply, for nobody."""
    pair, batch = handmade.composing_pair("k")
    model = HookedTransformer(replace(pair.cfg, n_layers=3)).eval()
    model.load_state_dict(
        {name: torch.zeros_like(value) for name, value in model.state_dict().items()} | pair.state_dict()
    )
    first, second = (block.attn for block in model.blocks[:2])
    second.W_Q[0], second.W_K[0] = first.W_Q[0], first.W_K[0]
    first.W_Q[0] *= 0.25
    circuit = find_circuit(model, Sequences(batch, torch.arange(13)), Thresholds())
    assert circuit is not None
    assert (circuit.previous, circuit.induction) == (Head(0, 0), Head(1, 1))
    assert circuit.previous_heads == (Head(0, 0),)


def test_what_is_lost_is_not_measured_of_a_network_that_knows_nothing():
    for says in ("need those keys", "necessary", "sufficient", "Without positions"):
        assert np.isnan(the_one(found(nothing()), says).number)


SYNONYMS = replace(
    TOKENS,
    task=RepeatedSynonyms(n_pairs=7, length=11, period_min=4, period_max=5),
    model=replace(TOKENS.model, d_vocab=15, d_vocab_out=15),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    recipes = {"plain": TOKENS, "synonyms": SYNONYMS, "other": NO_POSITIONS}
    return {name: train(**vars(recipe), out=folder / name).path for name, recipe in recipes.items()}


@pytest.mark.parametrize("name", ["plain", "synonyms"])
def test_from_end_to_end(name: str, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    run = Run(runs[name])
    beside = [str(runs["synonyms"])] if name == "plain" else []
    main(["study", "induction", str(run.path), *beside, "--sequences", "23"])
    printed = capsys.readouterr().out
    result = StudyResult.read(run.study_file("induction", run.steps[-1]))
    for claim in result.claims:
        assert claim.says.split()[-1] in printed
    figures = [figure for section in result.sections for figure in section.figures]
    assert {figure.kind for figure in figures} == {"lines", "maps", "table"}
    page = run.report_file.read_text()
    assert json.dumps(result.claims[0].says)[1:-1] in page
    tree = run.study("induction")
    formed = tree["How it formed/Measures, over training"]
    assert formed.step.values.tolist() == run.steps
    assert formed.prefix_matching.dims == ("layer", "head", "step")
    # What is said at the last step is what is said over training.
    scores = tree["Heads/Scores of all heads"].prefix_matching
    np.testing.assert_array_equal(scores, formed.prefix_matching.isel(step=-1))
    networks = tree["Fuzzy induction/Induction, and fuzzy induction"].network.values.tolist()
    mine = [f"{run.path}, equal", f"{run.path}, synonyms"] if name == "plain" else [f"{run.path}, synonyms"]
    assert networks == mine + [f"{path}, synonyms" for path in beside]
    # Components add up to the logit over the mean, and with nothing removed nothing is lost.
    removed = tree["Ablation/Loss without the circuit, and with nothing else"]
    assert removed.heads.values.tolist()[0] == 0
    assert removed.heads.values.tolist()[-1] == 6


@pytest.mark.parametrize(
    "model",
    [
        replace(TOKENS.model, n_layers=1),
        replace(TOKENS.model, n_layers=3),
        replace(TOKENS.model, attn_only=False, d_mlp=17),
        replace(TOKENS.model, positional_embedding_type="shortformer"),
        replace(TOKENS.model, positional_embedding_type="none"),
        replace(TOKENS.model, normalization_type=None),
    ],
    ids=["one layer", "three layers", "MLPs", "shortformer", "no positions", "no LN"],
)
def test_any_network_of_the_task_can_be_studied_at_any_step(model: object, tmp_path: Path):
    small = replace(TOKENS, model=model, steps=2, schedule=replace(TOKENS.schedule, log=0, linear=1, at=()))  # pyright: ignore
    run = train(**vars(small), out=tmp_path / "run")
    for step in (0, 2):
        result = study(run, at=step, sequences=11)
        result.write(tmp_path / "result.nc")
        xr.testing.assert_identical(StudyResult.read(tmp_path / "result.nc").to_tree(), result.to_tree())


def test_pairs_come_from_a_file(runs: dict[str, Path], tmp_path: Path):
    file = tmp_path / "pairs.txt"
    file.write_text("1, 8\n2, 9\n\n3,10\n4, 11\n3, 12\n5, 5\n6, 13\n")
    tree = study(Run(runs["plain"]), sequences=7, pairs=str(file)).to_tree()
    assert "5 pairs of pairs.txt, of which 2 were left out" in tree["Fuzzy induction"].attrs["text"]
    shown = tree["Fuzzy induction/A sequence with synonyms"]
    assert set(shown.next.values) <= {str(token) for token in (1, 8, 2, 9, 3, 10, 4, 11, 6, 13)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_gpt2(tmp_path_factory.mktemp("models") / "gpt2-tiny")


def test_a_language_model_is_loaded_and_studied(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    main(["study", "induction", str(folder), "--sequences", "5"])
    assert "Claims\n" in capsys.readouterr().out
    kept = Path("runs/gpt2-tiny")
    result = StudyResult.read(kept / "studies" / "induction.nc")
    assert (result.step, result.run) == (None, str(folder))
    assert result.claims[0].says in (kept / "report.html").read_text()
    tokens = result.to_tree()["Predictions/What is predicted in the second copy"].token.values.tolist()
    bridge = load_bridge(str(folder))
    assert set(tokens) <= {bridge.tokenizer.decode([token]) for token in range(bridge.cfg.d_vocab)}
    before = contents(kept)
    main(["study", "induction", str(folder)])
    assert "has been made" in capsys.readouterr().out
    assert contents(kept) == before


def test_words_that_a_tokenizer_splits_are_left_out_and_named(folder: Path, tmp_path: Path):
    bridge = load_bridge(str(folder))
    file = tmp_path / "pairs.txt"
    file.write_text("Mary, John\nshop, book\nMaryJohn, to\n")
    result = study(bridge, sequences=3, pairs=str(file))
    (section,) = [section for section in result.sections if section.title == "Fuzzy induction"]
    assert "2 pairs of pairs.txt" in section.text
    assert "words that the tokenizer splits, such as MaryJohn (ĠMary+" in section.text


def test_bad_input_is_one_line_and_changes_nothing(
    runs: dict[str, Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = str(runs["plain"])
    no_pairs, wrong, few = (tmp_path / name for name in ("no_pairs", "wrong", "few"))
    no_pairs.write_text("1 2\n")
    wrong.write_text("1, 77\n")
    few.write_text("1, 2\n")
    before = contents(runs["plain"].parent)
    cases = {
        (str(runs["other"]),): "is of the task PreviousToken; it must be RepeatedTokens or RepeatedSynonyms",
        (run, str(runs["other"]), "--overwrite"): "is of the task PreviousToken",
        (run, "--sequences", "1", "--overwrite"): "sequences: 1 is not valid",
        (run, "--induction_above", "1.5", "--overwrite"): "induction_above: 1.5 is not valid",
        (run, "--pairs", str(tmp_path / "none"), "--overwrite"): "none cannot be read",
        (run, "--pairs", str(no_pairs), "--overwrite"): "line 1 of",
        (run, "--pairs", str(wrong), "--overwrite"): "has '77'; tokens of this run are 1 to 13",
        (run, "--pairs", str(few), "--overwrite"): "has 1 pairs that can be used; there must be at least 2",
        (str(runs["synonyms"]), "--pairs", str(few), "--overwrite"): "which has its own",
        (run, "--out", "elsewhere"): "out: 'elsewhere' is not valid; a study of a run is kept with it",
        (str(folder), "--at", "3", "--out", str(tmp_path / "out")): "has no steps",
        (str(folder), "--out", run): "holds a run",
        (str(runs["plain"].parent / "nothing"),): "holds no run",
        (str(tmp_path),): "holds no run",
    }
    for arguments, message in cases.items():
        assert message in refused(["study", "induction", *arguments], capsys), arguments
    assert contents(runs["plain"].parent) == before
    assert not (tmp_path / "out").exists()


def test_a_sequence_without_a_repeat_has_no_induction_to_be_studied():
    """Tasks refuse to be so, and a batch by hand is refused by the measures."""
    with pytest.raises(ValueError, match="period_max: 17 is not valid"):
        RepeatedTokens(length=17, period_max=17)
    model, batch = handmade.composing_pair("k")
    ascending = batch._replace(inputs=torch.arange(13).expand(3, -1), targets=torch.arange(13).expand(3, -1))
    with pytest.raises(ValueError, match="needs a token that repeats within a sequence; no token of this batch does"):
        find_circuit(model, Sequences(ascending, torch.arange(13)), Thresholds())
