"""The studies: each claim on networks where it must hold and where it must fail, and both from end to end."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from test_command import contents, refused
from toys import NO_POSITIONS, TOKENS, VECTORS

from headway.__main__ import STUDY_USAGE, main
from headway.analyze.studies import STUDIES, affine_recurrence, previous_token
from headway.analyze.studies.result import Claim, Claims, StudyResult
from headway.checkpoints import Run
from headway.data.affine_recurrence import AffineRecurrence
from headway.data.previous_token import PreviousToken
from headway.data.task import Batch
from headway.models import handmade
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer
from headway.train import train

Network = tuple[HookedTransformer, Batch]
TINY = {"affine-recurrence": (VECTORS, "7"), "previous-token": (NO_POSITIONS, "6")}


def the_one(claims: Claims, says: str) -> Claim:
    found = [claim for claim in claims if says in claim.says]
    assert len(found) == 1, [claim.says for claim in claims]
    return found[0]


@torch.no_grad()
def changed(network: Network, change: Callable[[HookedTransformer], None]) -> Network:
    change(network[0])
    return network


def layers_swapped() -> Network:
    """Layer 0 does what layer 1 should, and the other way round; layer 2 as it should not."""

    def swap(model: HookedTransformer) -> None:
        first, second, third = (block.attn for block in model.blocks)
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            a, b = getattr(first, name), getattr(second, name)
            kept = a.clone()
            a.copy_(b)
            b.copy_(kept)
        # It looks at the vector before, which here is the least alike, and copies.
        third.W_Q.copy_(second.W_Q)
        third.W_K.copy_(second.W_K)
        third.W_O.mul_(-1)

    return changed(handmade.affine_reader(), swap)


def looks_for_its_like() -> Network:
    """Queries and keys of the last layer whose product is a projector already, of vectors large enough to matter."""

    def soften(model: HookedTransformer) -> None:
        model.W_E.mul_(4)
        model.W_U.div_(4)
        third = model.blocks[2].attn
        third.W_Q.copy_(third.W_Q.sign())
        third.W_K.copy_(third.W_K.sign())

    return changed(handmade.affine_reader(), soften)


def values_read_layer_1() -> Network:
    def read_aside(model: HookedTransformer) -> None:
        third = model.blocks[2].attn
        third.W_V.zero_()
        third.W_V[0, 7:14, :7] = torch.eye(7)

    return changed(handmade.affine_reader(), read_aside)


AFFINE = [
    ("looks at the vector before", handmade.affine_reader, layers_swapped),
    ("is a multiple of it", handmade.affine_reader, lambda: handmade.linear_network(torch.ones(7, 7).triu(1))),
    ("looks at the second vector", handmade.affine_reader, layers_swapped),
    ("writes outside", handmade.affine_reader, layers_swapped),
    ("take away", handmade.affine_reader, layers_swapped),
    ("looks for vectors like", handmade.affine_reader, layers_swapped),
    ("all that their queries and keys", looks_for_its_like, handmade.affine_reader),
    ("Q-composition", handmade.affine_reader, layers_swapped),
    ("K-composition", handmade.affine_reader, layers_swapped),
    ("not by values", handmade.affine_reader, values_read_layer_1),
]


@pytest.mark.parametrize(("says", "accepted", "rejected"), AFFINE, ids=[each[0] for each in AFFINE])
def test_a_claim_of_the_affine_study_holds_and_fails_where_it_must(
    says: str, accepted: Callable[[], Network], rejected: Callable[[], Network]
):
    claim = the_one(affine_recurrence.claims(*accepted()), says)
    assert claim.holds, claim
    claim = the_one(affine_recurrence.claims(*rejected()), says)
    assert not claim.holds, claim
    assert np.isfinite(claim.number), claim


def test_every_claim_of_the_affine_study_is_tested():
    claims = affine_recurrence.claims(*handmade.affine_reader())
    assert len(claims) == len(AFFINE)
    for says, _, _ in AFFINE:
        the_one(claims, says)


def test_what_a_network_does_not_have_is_not_measured():
    """One layer has no second layer, no composition, and no embedding to write beside."""
    claims = affine_recurrence.claims(*handmade.linear_network(torch.eye(7)))
    for says in ("second vector", "writes outside", "Q-composition", "K-composition", "not by values"):
        claim = the_one(claims, says)
        assert np.isnan(claim.number)
        assert not claim.holds


def nothing() -> Network:
    """Without weights beyond the embedding, which is 0: all tokens are alike likely, and attention is uniform."""

    def clear(model: HookedTransformer) -> None:
        for parameter in model.parameters():
            parameter.zero_()

    return changed(handmade.position_from_bos(), clear)


def looks_at_its_like() -> Network:
    """Layer 0 attends to earlier copies of the current token alone."""

    def look(model: HookedTransformer) -> None:
        for W in (model.blocks[0].attn.W_Q, model.blocks[0].attn.W_K):
            W[0, :13, :13] = handmade.SHARP * torch.eye(13)

    return changed(handmade.position_from_bos(), look)


def by_the_mlp() -> Network:
    """Attention brings the token, too weakly to say it, and the MLP of layer 1 says it."""

    def weaken(model: HookedTransformer) -> None:
        model.blocks[1].attn.W_O.mul_(3 / 20)
        mlp = model.blocks[1].mlp
        mlp.W_in[:13, :13], mlp.W_out[:13, :13] = torch.eye(13), 20 * torch.eye(13)
        mlp.b_in[:13] = -2.0  # the token itself counts 1, the one before 3

    return changed(handmade.position_from_bos(), weaken)


TOKEN, BEFORE, AT = slice(0, 13), slice(13, 26), slice(26, 37)


@torch.no_grad()
def with_positions() -> Network:
    """Layer 0 looks at the token before by a table of positions, and copies it; layer 1 does nothing."""
    task = handmade.NO_POSITIONS
    sizes = ModelConfig(
        n_layers=2, d_model=41, n_ctx=task.length, d_head=19, n_heads=1, d_vocab=13, d_mlp=7, normalization_type=None,
        initializer_range=0.0,
    )  # fmt: skip
    model = HookedTransformer(sizes)
    model.W_E[:, TOKEN] = torch.eye(13)
    model.W_pos[:, AT] = torch.eye(task.length)
    model.W_U[BEFORE] = 20 * torch.eye(13)
    attention = model.blocks[0].attn
    attention.W_K[0, AT, : task.length] = handmade.SHARP * torch.eye(task.length)
    attention.W_Q[0, AT, : task.length] = handmade.SHARP * torch.eye(task.length).roll(-1, 1)
    attention.W_V[0, TOKEN, :13], attention.W_O[0, :13, BEFORE] = torch.eye(13), torch.eye(13)
    return model.eval(), task.evaluation_batch(seed=0, batch_size=29)


def by_token() -> Network:
    """As ``with_positions``, but the token itself is said louder, and layer 1 takes it away from copies of itself."""

    def take_away(model: HookedTransformer) -> None:
        model.W_U[TOKEN] = 60 * torch.eye(13)
        attention = model.blocks[1].attn
        for W in (attention.W_Q, attention.W_K):
            W[0, TOKEN, :13] = handmade.SHARP * torch.eye(13)
        attention.W_V[0, TOKEN, :13], attention.W_O[0, :13, TOKEN] = torch.eye(13), -torch.eye(13)

    return changed(with_positions(), take_away)


PREVIOUS = [
    ("It says the token before", handmade.position_from_bos, nothing),
    ("A head of the last layer", handmade.position_from_bos, nothing),
    ("hardly at others", handmade.position_from_bos, nothing),
    ("not attention itself", by_the_mlp, handmade.position_from_bos),
    ("looks by position", handmade.position_from_bos, by_token),
    ("all tokens alike", handmade.position_from_bos, looks_at_its_like),
    ("share of position 0 says", handmade.position_from_bos, looks_at_its_like),
    ("leaves behind tells", handmade.position_from_bos, nothing),
    ("attention carries the position", handmade.position_from_bos, with_positions),
    ("needed for nothing else", handmade.position_from_bos, with_positions),
    ("MLP hands the position on", handmade.position_from_bos, with_positions),
    ("needs BOS", handmade.position_from_bos, with_positions),
]


@pytest.mark.parametrize(("says", "accepted", "rejected"), PREVIOUS, ids=[each[0] for each in PREVIOUS])
def test_a_claim_of_the_previous_token_study_holds_and_fails_where_it_must(
    says: str, accepted: Callable[[], Network], rejected: Callable[[], Network]
):
    claim = the_one(previous_token.claims(*accepted()), says)
    assert claim.holds, claim
    claim = the_one(previous_token.claims(*rejected()), says)
    assert not claim.holds, claim
    assert np.isfinite(claim.number), claim


def test_every_claim_of_the_previous_token_study_is_tested():
    claims = previous_token.claims(*handmade.position_from_bos())
    assert len(claims) == len(PREVIOUS)
    for says, _, _ in PREVIOUS:
        the_one(claims, says)


def test_what_is_lost_is_not_measured_of_a_network_that_knows_nothing():
    for says in (
        "not attention itself",
        "looks by position",
        "carries the position",
        "nothing else",
        "hands the position",
        "needs BOS",
    ):
        assert np.isnan(the_one(previous_token.claims(*nothing()), says).number)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: train(**vars(recipe), out=folder / name).path for name, (recipe, _) in TINY.items()}


def options(study: str) -> list[str]:
    few = ["--sequences", "23"]
    return [*few, "--probe_sequences", "67", "--length", "7"] if study == "affine-recurrence" else few


@pytest.mark.parametrize("study", TINY)
def test_a_study_from_end_to_end(study: str, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    main(["study", study, str(runs[study]), *options(study)])
    printed = capsys.readouterr().out
    run = Run(runs[study])
    result = StudyResult.read(run.study_file(study, run.steps[-1]))
    assert result.step == run.steps[-1]
    assert run.studies == {study: run.steps[-1]}
    for claim in result.claims:
        assert claim.says.split()[0] in printed
    figures = [figure for section in result.sections for figure in section.figures]
    assert {figure.kind for figure in figures} == {"lines", "maps", "table"}
    for figure in figures:
        assert figure.kind != "table" or figure.title in printed
    data = run.study(study)
    assert set(data.children) == {section.title for section in result.sections} | {"claims"}
    page = run.report_file.read_text()
    assert result.sections[0].figures[0].title in page
    assert json.dumps(result.claims[0].says)[1:-1] in page


@pytest.mark.parametrize("study", TINY)
def test_a_study_at_another_step_and_again(study: str, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    run = Run(runs[study])
    early = run.steps[2]
    main(["study", study, str(run.path), "--at", str(early), *options(study)])
    result = StudyResult.read(run.study_file(study, early))
    assert result.step == early
    formed = result.sections[-1].figures[-1].data
    assert formed.step.values.tolist() == run.steps[:3]
    assert np.array_equal([claim.number for claim in result.claims], [formed[n][-1] for n in formed], equal_nan=True)
    file = run.study_file(study, early)
    there = file.read_bytes()
    capsys.readouterr()
    main(["study", study, str(run.path), "--at", str(early)])
    assert "has been made" in capsys.readouterr().out
    assert file.read_bytes() == there
    main(["study", study, str(run.path), "--at", str(early), *options(study), "--overwrite"])
    xr.testing.assert_identical(StudyResult.read(file).to_tree(), result.to_tree())


def test_further_runs_stand_beside_the_first(runs: dict[str, Path], tmp_path: Path):
    recipe = replace(NO_POSITIONS, model=replace(NO_POSITIONS.model, positional_embedding_type="standard"), steps=5,
                     schedule=replace(NO_POSITIONS.schedule, at=()))  # fmt: skip
    other = train(**vars(recipe), out=tmp_path / "positions")
    result = previous_token.study(Run(runs["previous-token"]), [other], sequences=11)
    beside = result.to_tree()["Training/Runs beside each other"]
    assert beside.run.values.tolist() == ["previous-token", "positions"]
    assert beside.updates.values.tolist() == [17, 5]
    assert beside.positions.values.tolist() == ["none", "standard"]
    trained = result.to_tree()["Without BOS, and with positions/Trained with and without positions and BOS"]
    assert trained.step.values.tolist() == [17, 5]


@pytest.mark.parametrize(
    ("recipe", "study"),
    [
        (replace(VECTORS, model=replace(VECTORS.model, n_layers=1, attn_only=True)), "affine-recurrence"),
        (replace(VECTORS, model=replace(VECTORS.model, n_layers=3)), "affine-recurrence"),
        (
            replace(VECTORS, task=AffineRecurrence(d_vector=7, compl=2, length_min=5, length_max=12)),
            "affine-recurrence",
        ),
        (replace(VECTORS, model=replace(VECTORS.model, normalization_type=None, d_model=5)), "affine-recurrence"),
        (replace(VECTORS, model=replace(VECTORS.model, positional_embedding_type="shortformer")), "affine-recurrence"),
        (replace(NO_POSITIONS, model=replace(NO_POSITIONS.model, n_layers=1, attn_only=True)), "previous-token"),
        (replace(NO_POSITIONS, task=PreviousToken(n_tokens=13, length=11, bos=False)), "previous-token"),
        (replace(NO_POSITIONS, model=replace(NO_POSITIONS.model, normalization_type=None)), "previous-token"),
        (
            replace(NO_POSITIONS, model=replace(NO_POSITIONS.model, positional_embedding_type="shortformer")),
            "previous-token",
        ),
    ],
    ids=[
        "one layer",
        "three layers",
        "order 2",
        "no room beside",
        "shortformer",
        "one layer, tokens",
        "no BOS",
        "no LN",
        "shortformer,",
    ],
)
def test_a_study_takes_any_run_of_its_task(recipe: object, study: str, tmp_path: Path):
    small = replace(recipe, steps=2, schedule=replace(TOKENS.schedule, log=0, linear=1, at=()))  # pyright: ignore
    run = train(**vars(small), out=tmp_path / "run")
    few = {"probe_sequences": 67, "length": 7} if study == "affine-recurrence" else {}
    result = STUDIES[study](run, sequences=23, **few)
    result.write(tmp_path / "result.nc")
    xr.testing.assert_identical(StudyResult.read(tmp_path / "result.nc").to_tree(), result.to_tree())


def test_attention_that_reads_layer_1_moves_without_it():
    """In the hand-made network queries and keys of L2H0 read what L1H0 writes, which here makes attention sharper."""
    model, batch = handmade.affine_reader()
    uniform, _ = layers_swapped()
    with torch.no_grad():
        for W in (uniform.blocks[2].attn.W_Q, uniform.blocks[2].attn.W_K):
            W.zero_()
    sharp, flat = (
        affine_recurrence._patterns_without_layer_1(each, batch)[1].data.moved.item() for each in (model, uniform)
    )
    assert flat == 0
    assert 0 < sharp <= 1


@pytest.mark.parametrize("study", TINY)
def test_bad_input_is_one_line_and_changes_nothing(
    study: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    there = {name: shutil.copytree(path, tmp_path / name) for name, path in runs.items()}
    run, wrong = str(there.pop(study)), str(there.popitem()[1])
    made = Run(run).study_file(study, Run(run).steps[-1])
    made.parent.mkdir(parents=True, exist_ok=True)
    made.touch()
    before = contents(tmp_path)
    cases = {
        ("no-such-study", run): r"study: 'no-such-study' is not one of affine-recurrence, previous-token",
        (study, wrong): f"{study} needs",
        (study, run, "--at", "6"): "step: 6 was not kept; nearest is",
        (study, run, "--sequences", "29"): "has been made; --overwrite makes it again, with sequences",
        (study, run, "--sequences", "1", "--overwrite"): "sequences: 1 is not valid",
        (study, run, "--squences", "3"): "--squences: there is no such option; nearest is '--sequences'",
        (study, f"{run}-x"): "holds no run",
        (study,): "runs",
    }
    if study == "affine-recurrence":
        cases |= {
            (
                study,
                run,
                *options(study)[:2],
                "--probe_sequences",
                "19",
                "--length",
                "7",
                "--overwrite",
            ): "probe_sequences: 19 is not valid; it must be at least 21, more samples than the 19 features",
            (
                study,
                run,
                "--length",
                "3",
                "--overwrite",
            ): "length: 3 is not valid; it must be at least 4, for an answer",
            (
                study,
                run,
                "--heads",
                "[L7H0]",
                "--overwrite",
            ): "head: L7H0 does not exist; this network has L0H0 to L1H2",
            (study, run, "--heads", "[7]", "--overwrite"): "it must be a list such as [L0H3, L1H0]",
            (study, run, "--heads", "[7H0]", "--overwrite"): "head: '7H0' is not valid; it must be a name such as L0H7",
        }
    else:
        cases |= {
            (study, run, "--sequences", "2", "--overwrite"): "sequences: 2 is not valid; its 20 positions are too few",
            (study, run, wrong, "--overwrite"): "needs PreviousToken",
            (study, run, run, "--overwrite"): "is given twice",
            (study, run, "--top", "0", "--overwrite"): "top: 0 is not valid",
        }
    for arguments, message in cases.items():
        assert message in refused(["study", *arguments], capsys), arguments
    assert contents(tmp_path) == before


def test_the_usage_names_every_study(capsys: pytest.CaptureFixture[str]):
    for name in STUDIES:
        assert f"  {name} " in STUDY_USAGE
        main(["study", name, "--help"])
        assert "--at" in capsys.readouterr().out


@pytest.mark.parametrize("study", TINY)
def test_a_study_of_the_network_before_its_first_update(study: str, runs: dict[str, Path], tmp_path: Path):
    few = {"probe_sequences": 67, "length": 7} if study == "affine-recurrence" else {}
    result = STUDIES[study](Run(runs[study]), at=0, sequences=23, **few)
    result.write(tmp_path / "result.nc")
    xr.testing.assert_identical(StudyResult.read(tmp_path / "result.nc").to_tree(), result.to_tree())
    assert result.sections[-1].figures[-1].data.step.values.tolist() == [0]


def test_the_keys_that_a_token_looks_for_are_the_largest_of_its_row_of_the_qk_map(runs: dict[str, Path]):
    """Two figures of one circuit, folded and divided by sqrt(d_head) alike."""
    tree = previous_token.study(Run(runs["previous-token"]), sequences=23).to_tree()
    maps = tree["Tokens/QK map of each head"].score.values
    for layer, head in np.ndindex(*maps.shape[:2]):
        keys = tree[f"Keys and combinations of keys/Keys that L{layer}H{head} looks for, by token"].to_dataset()
        for query, best, scores in zip(keys["query"].values, keys.key.values, keys.score.values, strict=True):
            row = maps[layer, head, int(query.removeprefix("token "))]
            np.testing.assert_allclose(scores, np.sort(row)[::-1][: len(scores)], rtol=1e-4, atol=1e-7)
            np.testing.assert_allclose(row[best], scores, rtol=1e-4, atol=1e-7)
