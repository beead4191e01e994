"""The runner of studies: what is refused, what is written, what is made again; on a study that asks next to nothing."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from language_models import saved_gpt2
from test_command import contents, refused
from toy_studies import TOY, Options, untrained_run
from toys import NO_POSITIONS, TOKENS

from headway.__main__ import main
from headway.analyze.studies import STUDIES, find_study, loading
from headway.analyze.studies.loading import LoadedModel, open_run_or_model
from headway.analyze.studies.result import StudyResult
from headway.analyze.studies.runner import run_study
from headway.analyze.studies.study import imported, is_model_name
from headway.analyze.studying import study, study_files
from headway.checkpoints import Run
from headway.checkpoints.weights import read_label
from headway.models.hooked_transformer import HookedTransformer

STEPS = [0, 3, 17]


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STUDIES, "toy", TOY)
        yield


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return untrained_run(tmp_path / "runs" / "mine", TOKENS, STEPS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model."""
    return saved_gpt2(tmp_path_factory.mktemp("models") / "gpt2-tiny")


# The list


@pytest.mark.parametrize("name", STUDIES)
def test_what_the_list_says_of_a_study_is_so(name: str):
    found = find_study(name)
    takes = ["network", "options", *(["others"] if found.takes_runs else [])]
    assert list(signature(imported(found.function)).parameters) == takes
    assert is_dataclass(found.option_type)
    assert not {"name", "run", "others", "at", "overwrite", "out", "progress"} & {
        each.name for each in fields(found.option_type)
    }
    assert all(imported(path).__name__ in found.task_names for path in found.tasks)
    assert found.given({}) == found.option_type()


def test_the_list_its_usage_and_the_help_of_a_study_come_without_torch():
    """So do errors of options, the public function, and the results on disk."""
    code = """
import sys
from headway.__main__ import main
for arguments in ([], ["inductoin", "x"], ["induction", "--help"], ["if-else", "--help"],
                  ["induction", "x", "--squences", "7"], ["induction", "x", "--sequences", "1"]):
    try:
        main(["study", *arguments])
    except SystemExit as end:
        assert end.code == 2
assert not {"torch", "xarray", "transformer_lens"} & set(sys.modules)
import headway
from headway.analyze.studies.result import StudyResult
assert callable(headway.study)
assert not {"torch", "h5netcdf", "transformer_lens"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for found in STUDIES.values():
        assert found is TOY or f"  {found.name:<20}  {found.question}" in done.stdout
    assert "headway study induction RUN [RUN ...]" in done.stdout
    assert "headway study if-else RUN [RUN ...] [options]" in done.stdout
    for option in ("--induction_above", "--pair SRC DST", "--at", "--out", "--overwrite"):
        assert option in done.stdout
    assert [line.partition(": ")[2] for line in done.stderr.splitlines()] == [
        "study: 'inductoin' is not one of affine-recurrence, previous-token, induction, name-movers, if-else; nearest "
        "is 'induction'",
        "--squences: there is no such option; nearest is '--sequences'",
        "sequences: 1 is not valid; it must be at least 2",
    ]


def test_options_are_those_of_the_study():
    assert TOY.given({"words": ["a", "b"]}) == Options(words=("a", "b"))
    assert TOY.changed(TOY.given({"sequences": 3, "words": []})) == []
    assert TOY.changed(TOY.given({"sequences": 5, "words": ["a"]})) == ["sequences", "words"]
    with pytest.raises(
        ValueError, match=r"^word: not an option of toy; options: sequences, words; nearest is 'words'$"
    ):
        TOY.given({"word": "a"})


# What a network is loaded from


def test_a_name_is_that_of_a_model_or_of_a_directory(tmp_path: Path, model: Path):
    (tmp_path / "folder").mkdir()
    names = {"gpt2": True, "someone/some-model": True, str(model): True, str(tmp_path / "folder"): False}
    names |= {str(tmp_path / "nothing"): False, "": False, "~/": False}
    assert {name: is_model_name(name) for name in names} == names
    with pytest.raises(ValueError, match="holds no run"):
        open_run_or_model(str(tmp_path / "nothing"))


def test_a_study_has_the_hash_of_the_weights_that_it_is_of(run: Run, model: Path, tmp_path: Path):
    for step in (3, 17):
        label = read_label(run.weights_file(step))
        assert label is not None
        assert study("toy", run, at=step).weights == label.weights
        assert StudyResult.read(run.study_file("toy", step)).weights == label.weights
    assert study("toy", str(model), out=tmp_path / "of-model").weights is None


def test_a_loaded_model_is_that_of_its_step(run: Run):
    first, last = LoadedModel.of(run, 0), LoadedModel.of(run)
    assert (first.step, last.step, last.name, last.eval_seed) == (0, 17, str(run.path), run.recipe.eval_seed)
    assert first.model.W_E.equal(HookedTransformer(TOKENS.model, seed=0).W_E)
    assert not first.model.W_E.equal(last.model.W_E)
    tokens = last.model.W_E.new_tensor([[0, 3, 5]]).long()
    difference = last.model(tokens) - last.folded(tokens)
    assert difference.abs().max() < 1e-5
    assert not last.folded.W_E.equal(last.model.W_E)
    assert last.token(3) == run.task.labels(run.batch()._replace(inputs=tokens))[0][1]


# Making a study


def test_a_study_is_made_printed_kept_and_shown(run: Run, capsys: pytest.CaptureFixture[str]):
    main(["study", "toy", str(run.path), "--words", "[hear, hear]"])
    printed = capsys.readouterr().out
    assert run.studies == {"toy": 17}
    result = StudyResult.read(run.study_file("toy", 17))
    assert (result.study, result.run, result.step) == ("toy", str(run.path), 17)
    assert [section.title for section in result.sections] == ["Runs", "Over training"]
    assert result.sections[0].text == "hear hear"
    for text in ("hear hear", "Names", str(run.path), "It knows something", str(run.study_file("toy", 17))):
        assert text in printed.replace("\n", "")
    assert "It knows something" in run.report_file.read_text()
    # What holds of the network at the end is the last of what held on the way.
    tree = run.study("toy")
    numbers = tree["Over training/Numbers of the claims over training"].claim_0
    assert numbers.step.values.tolist() == STEPS
    assert numbers.values[-1] == result.claims[0].number
    measured = tree["Over training/Measures over training"].length_of_embeddings
    for at, step in enumerate(STEPS):
        np.testing.assert_allclose(measured[:, at], run.model(step).W_E.norm(dim=-1).detach(), rtol=1e-6)


def test_only_checkpoints_up_to_the_one_that_is_studied_are_asked(run: Run):
    for at, asked in ((17, STEPS), (3, STEPS[:2]), (0, STEPS[:1])):
        result = study("toy", run, at=at)
        assert result.step == at
        assert result.sections[-1].figures[-1].data.step.values.tolist() == asked
    assert sorted(path.parent.name for path in run.path.glob("studies/*/toy.nc")) == [
        f"step-{step:08d}" for step in STEPS
    ]


def test_what_has_been_made_is_read_and_made_again_when_asked_for(run: Run, capsys: pytest.CaptureFixture[str]):
    made = study("toy", str(run.path), sequences=5)
    before = contents(run.path)
    main(["study", "toy", str(run.path)])
    assert "exists; --overwrite runs it again." in capsys.readouterr().out
    xr.testing.assert_identical(study("toy", run).to_tree(), made.to_tree())
    # The options it was made with are not those of the default; others than those are refused.
    other = untrained_run(run.path.parent / "other", TOKENS)
    for arguments, said in ((["--sequences", "7"], "sequences"), ([str(other.path)], "these runs")):
        message = refused(["study", "toy", str(run.path), *arguments], capsys)
        assert f"{run.study_file('toy', 17)} exists; --overwrite runs it again, with {said}\n" in message
    assert contents(run.path) == before
    # One that was killed before it wrote the page.
    run.report_file.unlink()
    main(["study", "toy", str(run.path)])
    assert contents(run.path) == before
    again = study("toy", run, overwrite=True, sequences=7)
    assert again.claims != made.claims
    xr.testing.assert_identical(StudyResult.read(study_files("toy", run).result).to_tree(), again.to_tree())
    xr.testing.assert_identical(study("toy", run, overwrite=True, sequences=5).to_tree(), made.to_tree())


def test_further_runs_stand_beside_the_first(run: Run, tmp_path: Path):
    others = [untrained_run(tmp_path / name, TOKENS) for name in ("a", "b")]
    result = study("toy", run, [others[0], str(others[1].path)])
    names = result.to_tree()["Runs/Names"].run.values.tolist()
    assert names == [str(each.path) for each in (run, *others)]


def test_a_language_model_is_studied_and_has_a_page_of_its_own(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    main(["study", "toy", str(model)])
    assert "Claims\n" in capsys.readouterr().out
    files = study_files("toy", str(model))
    assert files.result == Path("runs/gpt2-tiny/studies/toy.nc")
    result = StudyResult.read(files.result)
    assert (result.step, result.run, len(result.sections)) == (None, str(model), 1)
    assert "It knows something" in files.page.read_text()
    # Another study of it stands on the same page; and what has been made needs no network.
    with monkeypatch.context() as patch:
        patch.setitem(STUDIES, "toy-again", replace(TOY, name="toy-again"))
        study("toy-again", open_run_or_model(str(model)))
    assert files.page.read_text().count("How long is the name") == 0
    assert '"study":"toy"' in files.page.read_text().replace(" ", "")
    assert '"study":"toy-again"' in files.page.read_text().replace(" ", "")
    monkeypatch.setattr(loading, "load_bridge", lambda name: pytest.fail("loaded"))
    assert study("toy", str(model)).claims[0].says == result.claims[0].says


def test_what_is_wrong_is_one_line_and_changes_nothing(
    run: Run, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    wrong = str(untrained_run(tmp_path / "wrong", NO_POSITIONS).path)
    mine, out = str(run.path), str(tmp_path / "out")
    before = contents(tmp_path)
    cases = {
        ("toy", wrong): f"{wrong} is of the task PreviousToken; toy needs RepeatedTokens",
        ("toy", mine, wrong): f"{wrong} is of the task PreviousToken; toy needs RepeatedTokens",
        ("toy", mine, mine): f"{mine} is given twice",
        ("toy", mine, "--at", "6"): "step: 6 was not kept; nearest is 3",
        ("toy", mine, "--sequences", "1"): "sequences: 1 is not valid; it must be at least 2",
        ("toy", mine, "--out", out): f"out: {out!r} is not valid; a study of a run is written to the run",
        ("toy", f"{mine}-x"): "holds no run",
        ("toy", str(tmp_path)): "holds no run",
        ("toy",): "runs: is missing",
        ("toy", str(model), "--at", "3", "--out", out): "at: 3 is not valid; a language model has no checkpoints",
        ("toy", str(model), "--out", mine): "holds a run; give another directory",
        ("previous-token", ""): "run: '' is not valid; it must be a directory",
        ("previous-token", str(model)): "holds no run",
    }
    for arguments, message in cases.items():
        assert message in refused(["study", *arguments], capsys), arguments
    assert contents(tmp_path) == before


def test_what_a_study_does_not_take_is_refused(run: Run, tmp_path: Path, model: Path):
    other = untrained_run(tmp_path / "other", TOKENS)
    alone = replace(TOY, takes_runs=False, takes_models=False)
    with pytest.raises(ValueError, match=r"^others: toy accepts one run; 1 further runs are given$"):
        run_study(alone, run, others=[other])
    with pytest.raises(ValueError, match=r"^run: toy accepts no language model; give a run of RepeatedTokens$"):
        run_study(alone, open_run_or_model(str(model)))  # pyright: ignore[reportArgumentType]
