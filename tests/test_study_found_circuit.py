"""Studies compare their heads with those of the circuit that was found in the run."""

from pathlib import Path

import networks
import pytest
from toys import LAST, WHOLE, handmade_run

import headway
from headway.analyze.circuits.faithfulness import faithfulness, necessity
from headway.analyze.circuits.replacement import other_sequences
from headway.analyze.studies import find_study
from headway.analyze.studies.found_circuit import TITLE, found_circuit_section
from headway.analyze.studies.loading import LoadedModel
from headway.analyze.studies.result import Section, StudyResult
from headway.analyze.studies.runner import run_study
from headway.checkpoints import Run
from headway.checkpoints.files import write_whole
from headway.models.config import Head

PREVIOUS, OTHER, INDUCTION = Head(0, 0), Head(1, 0), Head(1, 1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return handmade_run(tmp_path / "run")


def rows(section: Section) -> dict[str, tuple[str, float, float]]:
    [figure] = section.figures
    names = figure.data["heads of"].values.tolist()
    columns = (figure.data[name].values.tolist() for name in ("heads", "faithfulness", "necessity"))
    return dict(zip(names, zip(*columns, strict=True), strict=True))


def test_the_same_heads_are_the_same(run: Run):
    headway.circuit(run, at=LAST, controls=7)
    section = found_circuit_section(LoadedModel.of(run), [PREVIOUS, INDUCTION])
    assert "Compared with the heads of this study: they are the same." in section.text
    found = rows(section)
    assert found["this study"] == found[f"found at step {LAST}"]
    heads, kept, lost = found["this study"]
    assert heads == "L0H0, L1H1"
    assert kept > 0.99
    assert lost > 0.9


def test_both_sets_of_heads_have_intervals_over_the_same_sequences(run: Run):
    headway.circuit(run, at=LAST, controls=7)
    heads = [OTHER, INDUCTION]
    [figure] = found_circuit_section(LoadedModel.of(run), heads).figures
    model, batch = run.model(LAST), run.batch()
    twin = other_sequences(batch, "twin")
    for name, measure in (("faithfulness", faithfulness), ("necessity", necessity)):
        value, low, high = (figure.data[f"{name}{end}"].values for end in ("", ", low", ", high"))
        assert (low <= value).all()
        assert (value <= high).all()
        assert value[0] == pytest.approx(measure(model, batch, heads, "resample", "repeats", twin), abs=2e-6)
    # What an induction head does without its previous-token head depends on the sequence.
    assert figure.data["faithfulness, low"].values[0] < figure.data["faithfulness, high"].values[0]


def test_other_heads_are_named_and_judged_on_the_same_sequences(run: Run):
    headway.circuit(run, at=LAST, controls=7)
    section = found_circuit_section(LoadedModel.of(run), [OTHER, INDUCTION])
    assert "besides, it has L0H0; it lacks L1H0." in section.text
    found = rows(section)
    assert found["this study"][1] < 0.1
    assert found[f"found at step {LAST}"][1] > 0.99


def test_the_circuit_is_that_of_the_checkpoint_or_the_last_one(run: Run):
    headway.circuit(run, at=WHOLE, controls=7)
    for at in (WHOLE, LAST):
        assert f"found at step {WHOLE}" in rows(found_circuit_section(LoadedModel.of(run, at), [PREVIOUS]))
    headway.circuit(run, at=LAST, controls=7)
    for at in (WHOLE, LAST):
        assert f"found at step {at}" in rows(found_circuit_section(LoadedModel.of(run, at), [PREVIOUS]))


def test_without_a_stored_circuit_nothing_is_searched_or_measured(run: Run):
    section = found_circuit_section(LoadedModel.of(run), [PREVIOUS])
    assert section.text.startswith("Not measured: no circuit of this behaviour is stored with the network (it has not")
    assert section.figures == ()
    assert run.circuits == []


def test_a_damaged_circuit_is_not_measured(run: Run):
    headway.circuit(run, at=LAST, controls=7)
    file = run.circuit_file(LAST, "repeats", "twin")
    write_whole(file, file.read_bytes()[:100])
    assert "is damaged" in found_circuit_section(LoadedModel.of(run), [PREVIOUS]).text


def test_a_language_model_has_no_stored_circuit():
    section = found_circuit_section(LoadedModel.of(networks.gpt2_bridge()), [PREVIOUS])
    assert section.text == "Not measured: no circuit of this behaviour is stored with the network."


def test_the_study_of_induction_says_it_and_keeps_it(run: Run):
    headway.circuit(run, at=LAST, controls=7)
    found = find_study("induction")
    result = run_study(found, run, found.given({"sequences": 7}))
    again = StudyResult.from_tree(result.to_tree())
    [section] = [each for each in again.sections if each.title == TITLE]
    assert "they are the same" in section.text
    assert set(rows(section)) == {"this study", f"found at step {LAST}"}
