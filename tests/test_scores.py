"""Stored scores: what they say of themselves, how files become one Dataset, and nulls that runs share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from toys import NO_POSITIONS, TOKENS, VECTORS, embedding_norm

from headway.analyze import LIVE, MEASURES, Measure, measure
from headway.analyze.measures import run_nulls
from headway.analyze.measures.descriptions import BESIDE, PART, SCORE
from headway.analyze.measures.scoring import Scorer
from headway.checkpoints import Recipe, Run
from headway.checkpoints.scores import ScoreFile, read_file, read_scores, score_file, write_scores
from headway.models.hooked_transformer import HookedTransformer

RECIPES = {"tokens": TOKENS, "no positions": NO_POSITIONS, "vectors": VECTORS}


def untrained_run(folder: Path, recipe: Recipe) -> Run:
    """A run with one checkpoint, that of step 0."""
    run = Run.create(folder, recipe)
    run.keep(0, HookedTransformer(recipe.model, seed=recipe.seed))
    return run


@pytest.fixture(params=RECIPES)
def scored(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    run = untrained_run(tmp_path / "run", RECIPES[request.param])
    measure(run, LIVE)
    return run


def test_every_stored_variable_says_what_it_is(scored: Run):
    for (_, name), path in scores_of(scored).items():
        for variable in read_file(path).data_vars.values():
            said = variable.attrs
            assert {"long_name", "of", "role", "description"} <= said.keys(), variable.name
            assert said["of"] == name
            assert (said["role"] == SCORE) == (variable.name == name)
            if said["role"] in (SCORE, PART):
                assert {"units", "range", "null"} <= said.keys()
            else:
                assert said["role"] in BESIDE


def scores_of(run: Run) -> dict[tuple[int, str], Path]:
    return {(0, path.stem): path for path in run.path.glob("scores/step-*/*.safetensors")}


def test_losses_carry_the_baselines_of_their_task_and_attention_its_tokens(scored: Run):
    scores, task = scored.scores, scored.task
    for name in ["loss", *(f"loss_{part}" for part in task.parts(scored.batch()))]:
        assert scores[name].attrs["baselines"] == task.baselines()
        assert scores[name].attrs["units"] == ("squared error" if task.input_type == "vectors" else "nats")
    sequences = scores.attention.attrs["sequences"]
    assert len(sequences) == scores.sizes["batch"]
    assert scores.attention.attrs["tokens"] == task.labels(scored.batch().at(sequences))


def test_what_was_done_about_layer_norm_is_kept_beside_every_null(tmp_path: Path):
    run = untrained_run(tmp_path / "run", TOKENS)
    model = run.model()
    with torch.no_grad():
        model.state_dict()["blocks.0.ln1.w"].mul_(2.0)
    weights = [each for each in MEASURES if each.name in ("ov_top1", "position_pattern", "rank_95", "ov_eigenvalue")]
    Scorer(run, weights, run.batch()).score(0, model)
    for each in weights:
        assert run.scores[each.name].attrs["layer_norm"] == "weights left out", each.name


def test_runs_of_one_configuration_share_their_nulls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "cache"))
    drawn: list[str] = []
    fresh = run_nulls.fresh_initialisations

    def counted(measures, *arguments):
        drawn.extend(measures)
        return fresh(measures, *arguments)

    monkeypatch.setattr(run_nulls, "fresh_initialisations", counted)
    wanted = [each for each in MEASURES if each.name == "previous_token"]
    first, again, other = (
        untrained_run(tmp_path / name, recipe)
        for name, recipe in {
            "first": TOKENS,
            "again": replace(TOKENS, seed=3),
            "other": replace(TOKENS, eval_seed=3),
        }.items()
    )
    measure(first, wanted)
    measure(again, wanted)
    assert drawn == ["previous_token"]
    null = score_file(Path(), None, "previous_token")
    assert read_file(first.path / null).identical(read_file(again.path / null))
    measure(other, wanted)  # another evaluation batch has another null
    assert drawn == 2 * ["previous_token"]


def test_a_damaged_null_in_the_cache_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "cache"))
    wanted = [each for each in MEASURES if each.name == "previous_token"]
    first, again = (untrained_run(tmp_path / name, TOKENS) for name in ("first", "again"))
    measure(first, wanted)
    (cached,) = (tmp_path / "cache").glob("nulls/*/*.safetensors")
    cached.write_bytes(b"no null")
    measure(again, wanted)
    assert again.scores.identical(first.scores)


def test_a_function_of_ones_own_is_described_by_its_docstring(tmp_path: Path):
    run = untrained_run(tmp_path / "run", TOKENS)
    measure(run, [embedding_norm])
    said = run.scores.embedding_norm.attrs
    assert said["description"] == Measure(embedding_norm).summary
    assert (said["long_name"], said["role"]) == ("embedding norm", SCORE)


def test_files_over_the_same_axes_are_stacked_as_xarray_joins_them(tmp_path: Path):
    draws = np.random.default_rng(0)
    written = {}
    for step in (0, 5, 17):
        values = xr.Dataset(
            {"m": (("layer", "head"), draws.normal(size=(2, 3)), {"units": "u"}), "m_part": ((), draws.normal())},
            coords={"layer": [0, 1]},
        )
        write_scores(score_file(tmp_path, step, "m"), values)
        written[step] = values
    whole = read_scores(tmp_path)
    assert whole.m.dims == ("step", "layer", "head")
    for step, values in written.items():
        np.testing.assert_array_equal(whole.m.sel(step=step), values.m)
        assert whole.m_part.sel(step=step) == values.m_part
    assert whole.m.attrs == {"units": "u"}
    assert whole["head"].values.tolist() == [0, 1, 2]


def test_files_over_different_labels_are_joined_by_label(tmp_path: Path):
    for step, labels in {0: ["a", "b"], 5: ["b", "c"]}.items():
        values = xr.Dataset({"m": ("entry", [float(step), step + 1.0])}, coords={"entry": labels})
        write_scores(score_file(tmp_path, step, "m"), values)
    whole = read_scores(tmp_path).m
    assert whole.sel(step=5, entry="b") == 5.0
    assert whole.sel(step=0, entry="c").isnull()
    assert whole.sel(step=0, entry="b") == 1.0


@pytest.mark.parametrize("also", [(), ("mine_known",)])
def test_numbers_in_other_units_than_the_last_are_left_out(also: tuple[str, ...], tmp_path: Path):
    """An older version of a measure may have written losses where a share stands now."""
    for step, units in ((0, "nats"), (3, "nats, or squared error"), (5, "share"), (7, ""), (11, "share")):
        names = ("mine", *also) if units == "share" else ("mine",)
        scores = {name: xr.DataArray([step, step + 1.0], dims="head", attrs={"units": units}) for name in names}
        write_scores(score_file(tmp_path, step, "mine"), xr.Dataset(scores))
    found = read_scores(tmp_path)
    assert found.step.values.tolist() == [0, 3, 5, 7, 11]
    # Where nothing is said of the units, nothing speaks against them.
    np.testing.assert_array_equal(found.mine, [[np.nan] * 2, [np.nan] * 2, [5, 6], [7, 8], [11, 12]])
    assert found.mine.units == "share"


def test_a_file_whose_axes_do_not_fit_its_arrays_is_damaged(tmp_path: Path):
    path = tmp_path / "m.safetensors"
    write_scores(path, xr.Dataset({"m": (("layer", "head"), np.zeros((2, 3)))}))
    path.write_bytes(path.read_bytes().replace(b'[\\"layer\\", \\"head\\"]', b'[\\"layer\\"         ]'))
    with pytest.raises(ValueError, match=r"m\.safetensors is damaged"):
        ScoreFile.open(path)


def test_scores_are_read_again_only_after_a_file_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = untrained_run(tmp_path / "run", TOKENS)
    measure(run, [embedding_norm])
    before = run.scores
    with monkeypatch.context() as patch:
        patch.setattr("headway.checkpoints.run.read_scores", lambda path: pytest.fail("no file has changed"))
        again = run.scores
    assert again.identical(before)
    again["embedding_norm"] = again.embedding_norm * 2  # the reader's own copy
    assert run.scores.identical(before)
    write_scores(score_file(run.path, 0, "other"), xr.Dataset({"other": ((), 1.0)}))
    assert set(run.scores.data_vars) == {"embedding_norm", "other"}


def made_up_scores(folder: Path, steps: int = 7) -> Path:
    """Scores of a measure with large and small variables, of one that starts late, and of one of other numbers."""
    draws = np.random.default_rng(0)
    for step in range(steps):
        patterns = draws.normal(size=(2, 3, 5, 41, 41)).astype("float32")
        wide = {"wide": (("layer", "head", "batch", "query", "key"), patterns), "wide_part": ((), draws.normal())}
        write_scores(score_file(folder, step, "wide"), xr.Dataset(wide))
        small = {
            "small": (("layer", "head"), draws.normal(size=(2, 3))),
            "small_null": (("layer",), draws.normal(size=2)),
        }
        write_scores(score_file(folder, step, "small"), xr.Dataset(small))
        kinds = {
            "kinds": ("kind", draws.integers(9, size=5)),
            "kinds_spectrum": ("kind", draws.normal(size=5).astype("complex64")),
            "kinds_true": ("kind", draws.normal(size=5) > 0),
        }
        if step > 2:
            write_scores(score_file(folder, step, "kinds"), xr.Dataset(kinds, {"kind": list("abcde")}))
    return folder


def test_scores_that_are_read_lazily_are_those_of_all_files(tmp_path: Path):
    run, steps = made_up_scores(tmp_path), range(7)
    lazy = read_scores(run)
    files = {name: {step: score_file(run, step, name) for step in steps} for name in ("wide", "small", "kinds")}
    for measure_name, paths in files.items():
        parts = [read_file(path) for path in paths.values() if path.exists()]
        index = xr.Variable("step", [step for step, path in paths.items() if path.exists()])
        eager = xr.concat(parts, dim=index).reindex(step=list(steps))
        assert set(eager.data_vars) == {name for name in map(str, lazy.data_vars) if name.startswith(measure_name)}
        for name, expected in eager.data_vars.items():
            assert lazy[name].dtype == expected.dtype
            assert lazy[name].dims == expected.dims
            np.testing.assert_array_equal(lazy[name].values, expected.values)
            chosen = {"step": [5, 0, 3], expected.dims[-1]: -1} if expected.ndim > 1 else {"step": 3}
            np.testing.assert_array_equal(read_scores(run)[name].isel(chosen), expected.isel(chosen))
    places = {"step": [6, 1], "layer": [1, 0], "head": [2, 0], "query": slice(40, 3, -7), "key": 2}
    np.testing.assert_array_equal(read_scores(run).wide[places], lazy.load().wide[places])
    at = xr.DataArray([0, 4], dims="pair")
    np.testing.assert_array_equal(read_scores(run).wide.isel(step=at, key=at), lazy.wide.isel(step=at, key=at))


def test_only_the_files_that_are_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    whole = ScoreFile.read

    def counted(file: ScoreFile, names=None):
        read.append(str(file.path.relative_to(tmp_path / "scores").with_suffix("")))
        return whole(file, names)

    monkeypatch.setattr(ScoreFile, "read", counted)
    scores = read_scores(made_up_scores(tmp_path))
    assert scores.wide.sizes["key"] == 41
    assert set(scores.wide.attrs) == set()
    assert "wide" in repr(scores)
    assert read == []
    _ = scores.wide.sel(step=5).values
    assert read == ["step-00000005/wide"]
    read.clear()
    _ = scores.small.values
    assert read == [f"step-{step:08d}/small" for step in range(7)]
    read.clear()
    _ = scores.small_null.values  # it stands in the same small files
    assert read == []


def test_a_file_that_changes_after_it_was_opened_is_refused_by_name(tmp_path: Path):
    scores = read_scores(made_up_scores(tmp_path))
    write_scores(score_file(tmp_path, 3, "small"), xr.Dataset({"small": (("layer", "head"), np.ones((2, 3)))}))
    score_file(tmp_path, 5, "wide").unlink()
    assert np.isfinite(scores.small.sel(step=2)).all()
    with pytest.raises(ValueError, match=r"step-00000003/small\.safetensors was changed or removed"):
        _ = scores.small.values
    with pytest.raises(ValueError, match=r"step-00000005/wide\.safetensors was changed or removed"):
        _ = scores.wide.sel(step=5).values


def test_a_damaged_file_is_named_when_scores_are_opened(tmp_path: Path):
    path = score_file(made_up_scores(tmp_path), 5, "small")
    content = path.read_bytes()
    for damaged in (b"", b"half of", content[:40], content[:-1], content + b"0", content.replace(b"F64", b"F63")):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"scores: .*step-00000005/small\.safetensors is damaged"):
            read_scores(tmp_path)


def test_measures_share_an_axis_only_if_its_labels_are_the_same(tmp_path: Path):
    entries = {"a": list("xyz"), "b": list("xyz"), "c": list("yzx"), "d": None, "e": [0, 1, 2]}
    for name, labels in entries.items():
        values = xr.Dataset({name: ("entry", np.arange(3.0))}, {} if labels is None else {"entry": labels})
        write_scores(score_file(tmp_path, 0, name), values)
    write_scores(score_file(tmp_path, 0, "f"), xr.Dataset({"f": ("entry", np.arange(5.0)), "a": ((), 7.0)}))
    scores = read_scores(tmp_path)
    assert {name: scores[name].dims[-1] for name in "abcdef"} == {
        "a": "entry", "b": "entry", "c": "c_entry", "d": "d_entry", "e": "e_entry", "f": "f_entry",
    }  # fmt: skip
    assert scores.c.sel(step=0, c_entry="x") == 2.0
    assert scores.a.sel(step=0, entry="z") == 2.0
    assert scores.f.sizes == {"step": 1, "f_entry": 5}
    assert scores.f_a.sel(step=0) == 7.0
    assert not any(each.isnull().any() for each in scores.data_vars.values())
