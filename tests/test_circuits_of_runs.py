"""Circuits of runs: found at checkpoints, followed over all of them, kept with the run and read back."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from toys import LAST, PARTLY, TOKENS, VECTORS, WHOLE, Train, handmade_run, made_up_circuit

import headway
from headway.analyze.circuits import duration
from headway.analyze.circuits.circuit import Circuit
from headway.analyze.circuits.find import NothingToExplainError, find_circuit
from headway.analyze.circuits.groups import NECESSARY, REDUNDANT, Parts
from headway.analyze.circuits.of_run import complete_over_steps
from headway.checkpoints import Recipe, Run
from headway.checkpoints.files import write_whole
from headway.checkpoints.schedule import Schedule
from headway.commands.plot import plot_command
from headway.models.handmade_circuits import CIRCUITS
from headway.models.hooked_transformer import HookedTransformer
from headway.models.optim import OptimConfig


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return handmade_run(tmp_path / "run")


@pytest.fixture(scope="module")
def searched_once(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = handmade_run(tmp_path_factory.mktemp("searched") / "run")
    headway.circuit(run, controls=7)
    return run


@pytest.fixture
def searched(searched_once: Run, tmp_path: Path) -> Run:
    """The run with its circuits, in a copy that a test may change."""
    return Run(shutil.copytree(searched_once.path, tmp_path / "searched"))


def test_a_circuit_is_found_at_the_end_and_at_the_steps_on_the_way(run: Run):
    found = headway.circuit(run, controls=7)
    assert run.circuits == [(PARTLY, "repeats", "twin"), (WHOLE, "repeats", "twin"), (LAST, "repeats", "twin")]
    assert run.circuit().identical(found.scores)
    assert run.circuit(PARTLY).known < found.scores.known
    assert found.nodes == ["embed", "L0H0", "L1H1"]
    assert found.scores.node_in_circuit.attrs["names"]["L0H0"][0] == "previous-token head"
    assert found.scores.node_in_circuit.attrs["names"]["L1H1"][0] == "induction head"
    attributes = found.scores.known.attrs
    assert {name: attributes[name] for name in ("part", "replacement", "second", "step", "sequences")} == {
        "part": "repeats", "replacement": "twin", "second": "position_mean", "step": LAST, "sequences": 29,
    }  # fmt: skip


def test_alike_parts_are_judged_together_under_both_replacements(tmp_path: Path):
    known = CIRCUITS["two_induction_heads"]
    model, batch = known.build()
    assert batch.task is not None
    recipe = Recipe(
        task=batch.task, model=model.cfg, optim=OptimConfig(), schedule=Schedule(log=0, linear=0), steps=1,
        batch_size=2, eval_batch_size=29,
    )  # fmt: skip
    run = Run.create(tmp_path / "run", recipe)
    run.keep(1, model)
    scores = headway.circuit(run, controls=7).scores
    (pair,) = scores.group.values
    heads = pair.split()
    assert set(heads) < set(known.nodes)
    assert (scores.effect.sel(node=heads) < 0.1).all()
    assert [Parts(scores).verdict(head) for head in heads] == [REDUNDANT, REDUNDANT]
    assert Parts(scores).verdict("L0H0") == NECESSARY
    for kind in ("", "second_"):
        assert scores[f"{kind}group_effect"].sel(group=pair) > 0.5
        low, high = (scores[f"{kind}group_effect_{end}"].item() for end in ("low", "high"))
        assert low <= scores[f"{kind}group_effect"].item() <= high


def test_every_stored_number_says_what_it_is(searched: Run):
    for scores in (searched.circuit(), searched.circuit(over_steps=True)):
        for name, variable in scores.data_vars.items():
            assert {"long_name", "units", "description"} <= variable.attrs.keys(), name
            assert not str(name).startswith("second_") or variable.attrs["description"].endswith("second replacement")
    scores = searched.circuit()
    assert (scores.known.units, scores.effect.units) == ("nats", "share of what is known")
    assert scores.known.attrs["step"] == LAST
    assert scores.effect_low.description == "lower end of the 95 % interval of effect"
    assert scores.faithfulness.null == "that of random circuits of its size, control_faithfulness"


def test_over_all_steps_it_is_the_same_circuit(searched: Run):
    found = searched.circuit()
    over = searched.circuit(over_steps=True)
    assert over.step.values.tolist() == [0, PARTLY, WHOLE, LAST]
    # Nothing is known of what an untrained network does, and so no share of it.
    assert np.isnan(over.faithfulness.sel(step=0))
    assert over.known.sel(step=0) == pytest.approx(0, abs=0.05)
    last = over.sel(step=LAST, drop=True)
    for name in ("clean", "known", "faithfulness", "faithfulness_low", "necessity_high", "reach_necessity", "effect"):
        np.testing.assert_allclose(last[name].values, found[name].values, err_msg=name)
    assert over.sel(step=WHOLE, drop=True).equals(last)


def test_a_checkpoint_that_is_added_later_gets_the_numbers_that_it_would_have_had(searched: Run):
    headway.circuit(searched, nodes=True, controls=7)
    files = [searched.circuit_file(None, "repeats", "twin", nodes) for nodes in (False, True)]
    for file in files:
        whole = Circuit.load(file).scores
        Circuit(whole.sel(step=[0, WHOLE, LAST])).save(file)
        complete_over_steps(searched)
        assert Circuit.load(file).scores.identical(whole)
    damaged = b"no circuit"
    write_whole(files[0], damaged)
    with pytest.warns(UserWarning, match=r"^circuit: .* has no numbers at the new checkpoints \(.*is damaged"):
        complete_over_steps(searched)
    assert files[0].read_bytes() == damaged


def test_at_one_checkpoint_and_under_what_is_asked(run: Run):
    headway.circuit(run, part="all", at=WHOLE, replace="resample", controls=7)
    assert run.circuits == [(WHOLE, "all", "resample")]
    with pytest.raises(ValueError, match=r"^circuit: .* is missing; headway circuit .* --part all writes it"):
        run.circuit(over_steps=True)
    with pytest.raises(ValueError, match=r"^circuit: it has not been found; .*; there is all \(resample\) at step 7"):
        run.circuit(part="repeats")


def test_at_all_checkpoints_those_that_know_nothing_are_left_out(run: Run):
    headway.circuit(run, at="all", controls=7)
    assert [step for step, *_ in run.circuits] == [PARTLY, WHOLE, LAST]


def test_it_is_what_find_circuit_finds_on_the_evaluation_batch(run: Run):
    found = headway.circuit(run, at=LAST, controls=7, seed=3)
    alone = find_circuit(run.model(LAST), run.batch(), "repeats", "twin", n_controls=7, seed=3)
    assert alone.scores.drop_attrs().identical(found.scores[list(alone.scores.data_vars)].drop_attrs())


def test_a_new_run_in_its_place_has_no_circuit(searched: Run):
    again = Run.create(searched.path, searched.recipe, overwrite=True)
    assert again.circuits == []
    assert not (searched.path / "circuits").exists()


def test_a_damaged_circuit_is_named(searched: Run):
    file = searched.circuit_file(LAST, "repeats", "twin")
    whole = file.read_bytes()
    for content in (whole[:100], whole[:-1] + bytes([whole[-1] ^ 1])):
        write_whole(file, content)
        with pytest.raises(ValueError, match=r"^circuit: .*repeats-twin.safetensors is damaged"):
            searched.circuit()


def test_numbers_over_steps_are_those_of_the_circuit_that_is_there(searched: Run):
    assert searched.circuit(over_steps=True).known.attrs["step"] == LAST
    headway.circuit(searched, at=WHOLE, controls=7, seed=3)  # not the circuit that was followed
    assert searched.circuit(over_steps=True).known.attrs["step"] == LAST
    headway.circuit(searched, at=LAST, controls=7, seed=3)
    with pytest.raises(ValueError, match="is missing; headway circuit"):
        searched.circuit(over_steps=True)


def test_no_earlier_circuit_is_drawn_in_place_of_a_damaged_one(searched: Run):
    file = searched.circuit_file(LAST, "repeats", "twin")
    write_whole(file, file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"^circuit: .*repeats-twin.safetensors is damaged"):
        searched.plot("circuit")
    assert f"step {WHOLE}" in searched.plot("circuit", at=WHOLE).get_suptitle()


def test_edges_whose_nodes_are_not_in_the_circuit_are_refused(searched: Run):
    scores = searched.circuit()
    contradicted = scores.assign(node_in_circuit=scores.node_in_circuit & False)
    with pytest.raises(ValueError, match="joins a node that is not in the circuit"):
        _ = Parts(contradicted).edges


@pytest.mark.parametrize("recipe", [TOKENS, VECTORS], ids=["tokens", "vectors"])
def test_a_toy_that_has_hardly_trained_has_nothing_to_explain(recipe: Recipe, trained: Train, tmp_path: Path):
    run = trained(recipe, tmp_path / "run")
    with pytest.raises(NothingToExplainError, match="less than a tenth of it is known"):
        headway.circuit(run)
    assert run.circuits == []


def test_nodes_are_searched_followed_and_kept_apart_from_edges(searched: Run):
    edges = searched.circuit()
    found = headway.circuit(searched, nodes=True, controls=7)
    assert searched.circuit().identical(edges)
    assert searched.circuits == searched.node_circuits
    assert found.file == searched.circuit_file(LAST, "repeats", "twin", nodes=True)
    assert found.nodes == ["embed", "L0H0", "L1H1"]
    read = searched.circuit(nodes=True)
    assert read.sizes["edge"] == 0
    assert read.node_in_circuit.attrs["names"]["L1H1"][0] == "induction head"
    # A node is replaced whole either way.
    np.testing.assert_allclose(read.effect, edges.effect.sel(node=read.node), atol=1e-6)
    np.testing.assert_allclose(read.second_effect, edges.second_effect.sel(node=read.node), atol=1e-6)
    over = searched.circuit(over_steps=True, nodes=True)
    assert over.step.values.tolist() == [0, PARTLY, WHOLE, LAST]
    np.testing.assert_allclose(over.faithfulness.sel(step=LAST), read.faithfulness)


def test_nodes_alone_are_in_the_summary_and_the_figure(trained: Train, tmp_path: Path):
    run = trained(TOKENS, tmp_path / "run")
    scores = made_up_circuit(run, run.steps[-1], ["embed->L0H1.v", "L0H1->output"], [], ("L0H1", "L0H0"))
    run.circuit_file(run.steps[-1], "repeats", "twin").unlink()
    Circuit(scores.isel(edge=[])).save(run.circuit_file(run.steps[-1], "repeats", "twin", nodes=True))
    circuit = next(line for line in run.summary().splitlines() if line.startswith("Circuit"))
    assert "loss on repeats: nodes L0H1: alone it keeps" in circuit  # L0H0 stands in
    for option in ({}, {"nodes": True}):
        title = run.plot("circuit", **option).get_suptitle()
        assert title.startswith(f"nodes, repeats (twin), step {run.steps[-1]}")
    with pytest.raises(ValueError, match=r"^nodes: only circuits of nodes have been found; .* finds one of edges"):
        run.plot("circuit", nodes=False)


def test_a_circuit_of_nodes_behind_one_of_edges_is_drawn_if_asked_for(run: Run):
    headway.circuit(run, at=LAST, controls=7)
    with pytest.raises(ValueError, match=r"^nodes: only circuits of edges have been found; .* --nodes finds one"):
        run.plot("circuit", nodes=True)
    headway.circuit(run, at=WHOLE, nodes=True, controls=7)
    title = f"repeats (twin), step {LAST}"
    assert run.plot("circuit").get_suptitle().startswith(title)
    assert run.plot("circuit", nodes=False).get_suptitle().startswith(title)
    figure = run.plot("circuit", nodes=True)
    assert figure.get_suptitle().startswith(f"nodes, repeats (twin), step {WHOLE}")
    # It has nodes and no edges.
    labels = {patch.get_label() for patch in figure.axes[0].patches}
    assert {"L0H0", "L1H1"} <= labels
    assert not any("->" in str(label) for label in labels)
    out = run.path / "nodes.svg"
    plot_command([str(run.path), "circuit", "--nodes", "--part", "repeats", "--at", str(LAST), "--out", str(out)])
    assert f"step {WHOLE}" in out.read_text()
    with pytest.raises(ValueError, match=r"^nodes: True is not valid; the figure loss takes at"):
        run.plot("loss", nodes=True)


def test_a_run_without_a_circuit_of_nodes_says_how_to_find_one(searched: Run):
    with pytest.raises(ValueError, match=r"^circuit: it has not been found; headway circuit .* --nodes does; .* none$"):
        searched.circuit(nodes=True)


def test_a_search_that_takes_too_long_says_how_long_and_writes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duration, "FASTEST", np.inf)
    edges = (
        r"searching 42 edges in 3 orders at up to 4 checkpoints takes about \d+ s; raise it, search nodes \(--nodes\)"
    )
    with pytest.raises(ValueError, match=rf"^max_minutes: 1e-06 is not enough: {edges}"):
        headway.circuit(run, max_minutes=1e-6)
    with pytest.raises(ValueError, match=r"nodes in 1 order takes about \d+ s; raise it, or give fewer"):
        headway.circuit(run, at=LAST, nodes=True, orders=1, max_minutes=1e-6)
    assert not (run.path / "circuits").exists()


def test_a_network_that_is_much_too_large_is_refused_before_it_is_run(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duration, "FASTEST", 1.0)
    monkeypatch.setattr(HookedTransformer, "forward", lambda *args, **kwargs: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=r"^max_minutes: 20 is not enough: searching 42 edges .* at least .* h;"):
        headway.circuit(run, at=LAST)


def test_the_time_is_said_before_the_search(run: Run, capsys: pytest.CaptureFixture[str]):
    headway.circuit(run, at=LAST, controls=7, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"Searching 42 edges in 3 orders: about \d+ s\.\n", err)


def test_a_task_without_twins_says_what_stands_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    run = handmade_run(tmp_path / "run")
    monkeypatch.setattr(type(run.task), "twin", lambda self, batch, generator: None)
    found = headway.circuit(run, at=LAST, controls=7, progress=True)
    assert capsys.readouterr().err.endswith("RepeatedTokens draws no twins, so position_mean stands in.\n")
    assert found.scores.known.attrs["replacement"] == "position_mean"


def test_what_is_given_for_a_language_model_alone_is_refused_for_a_run(run: Run):
    with pytest.raises(ValueError, match=r"^out: 'there' is not valid; the circuit of a run is written to the run"):
        headway.circuit(run, out="there")
