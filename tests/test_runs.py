"""A run from end to end: what is kept, that it repeats, that it goes on, and how it ends when it ends badly."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.optim import Optimizer
from toys import NO_POSITIONS, TOKENS, VECTORS, Spikes, Train, TurnsNaN, embedding_norm

from headway.__main__ import main
from headway.analyze import LIVE, MEASURES, measure
from headway.analyze.measures.measure import Measure
from headway.analyze.studies.result import Claim, Figure, Section, StudyResult
from headway.checkpoints import Recipe, Run
from headway.checkpoints.environment import environment
from headway.checkpoints.files import holds_run
from headway.checkpoints.recipe import TrainerConfig
from headway.checkpoints.schedule import Schedule
from headway.checkpoints.scores import score_file, write_scores
from headway.data.repeated_tokens import RepeatedTokens
from headway.data.task import Batch, masked_mean
from headway.models.hooked_transformer import HookedTransformer
from headway.models.lightning_module import DivergedError, TrainingModule
from headway.models.optim import OptimConfig
from headway.train import check_hardware, resume, threads_of, train

# What keeps nothing between its first and its last step trains sooner.
ENDS = replace(TOKENS, schedule=Schedule(log=0, linear=0))


def run_recipe(recipe: Recipe, out: Path, **options) -> Run:
    return train(**vars(recipe), out=out, **options)


def weights(run: Run, step: int) -> dict[str, torch.Tensor]:
    return load_file(run.weights_file(step))


def identical(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def run(trained: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(TOKENS, tmp_path_factory.mktemp("runs") / "tokens")


def test_schedule_is_the_union_of_its_parts():
    assert Schedule(log=0, linear=0).steps(100) == [0, 100]
    assert Schedule(log=3, linear=0).steps(100) == [0, 1, 10, 100]
    assert Schedule(log=0, linear=4).steps(100) == [0, 25, 50, 75, 100]
    assert Schedule(log=0, linear=0, at=(7, 3)).steps(100) == [0, 3, 7, 100]
    assert Schedule().steps(0) == [0]
    assert Schedule(log=3, linear=2, at=(9,)).steps(1000) == [0, 1, 9, 32, 500, 1000]
    assert Schedule(log=2, linear=1).steps(1) == [0, 1]


@given(last=st.integers(200, 10**6))
def test_the_default_schedule_keeps_at_least_thirty_steps(last: int):
    steps = Schedule().steps(last)
    assert len(steps) >= 30
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, last)


def test_a_run_keeps_what_its_schedule_says(run: Run):
    assert run.steps == [0, 1, 4, 5, 8, 17]
    assert run.finished
    assert run.recipe == TOKENS
    assert {path.name for path in run.path.iterdir()} >= {"config.yaml", "environment.json", "resume.ckpt", "scores"}
    assert json.loads((run.path / "environment.json").read_text())["torch"] == version("torch")


def test_step_zero_is_the_initialisation(run: Run):
    fresh = HookedTransformer(TOKENS.model, seed=TOKENS.seed)
    assert identical(weights(run, 0), dict(fresh.state_dict()))
    assert not identical(weights(run, 0), weights(run, 1))


def test_a_model_comes_back_and_can_be_taken_apart(run: Run):
    model = run.model(step=17)
    assert not model.training
    assert identical(dict(model.state_dict()), weights(run, 17))
    batch = run.batch()
    assert torch.equal(batch.inputs, TOKENS.task.evaluation_batch(0, 23).inputs)
    processed = run.model(step=17, processed=True)
    assert processed.cfg.normalization_type == "LNPre"
    torch.testing.assert_close(
        processed(batch.inputs).log_softmax(-1), model(batch.inputs).log_softmax(-1), atol=1e-5, rtol=0
    )


def test_the_same_recipe_gives_the_same_weights_bit_for_bit(run: Run, tmp_path: Path):
    again = run_recipe(TOKENS, tmp_path / "again")
    assert all(identical(weights(again, step), weights(run, step)) for step in run.steps)
    other_seed = run_recipe(replace(ENDS, seed=1), tmp_path / "other")
    assert not identical(weights(other_seed, 0), weights(run, 0))


def test_config_yaml_repeats_the_run(run: Run, tmp_path: Path):
    assert Recipe.load(run.path / "config.yaml") == TOKENS
    values = yaml.safe_load((run.path / "config.yaml").read_text())
    assert values["model"]["d_vocab_out"] == TOKENS.model.d_vocab  # resolved


@pytest.mark.parametrize("stop_at", [1, 6])
def test_a_stopped_run_goes_on_bit_for_bit(run: Run, tmp_path: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch):
    plain = TrainingModule.loss_and_gradient

    def then_stop(self: TrainingModule, index: int, optimizer: Optimizer) -> torch.Tensor:
        self.trainer.should_stop = index + 1 == stop_at
        return plain(self, index, optimizer)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "loss_and_gradient", then_stop)
        half = run_recipe(TOKENS, tmp_path / "half")
    assert half.steps[-1] == stop_at
    assert not half.finished
    whole = resume(half.path)
    assert whole.finished
    assert set(whole.steps) == {*run.steps, stop_at}
    assert all(identical(weights(whole, step), weights(run, step)) for step in run.steps)


def test_a_run_that_died_goes_on_from_its_last_kept_step(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = TrainingModule.loss_and_gradient

    def die(self: TrainingModule, index: int, optimizer: Optimizer) -> torch.Tensor:
        if self.global_step == 7:
            raise RuntimeError("out of memory")
        return plain(self, index, optimizer)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "loss_and_gradient", die)
        with pytest.raises(RuntimeError, match="out of memory"):
            run_recipe(TOKENS, tmp_path / "died")
    assert Run(tmp_path / "died").steps == [0, 1, 4, 5]
    whole = resume(tmp_path / "died")
    assert whole.steps == run.steps
    assert all(identical(weights(whole, step), weights(run, step)) for step in run.steps)


def test_a_run_that_died_while_keeping_its_last_step_is_completed(run: Run, tmp_path: Path):
    died = tmp_path / "died"
    shutil.copytree(run.path, died)
    shutil.rmtree(died / "scores" / "step-00000017")
    assert list(resume(died).scores.step.values) == run.steps


def test_a_directory_that_only_looks_like_a_run_is_never_emptied(run: Run, tmp_path: Path):
    mine = tmp_path / "mine"
    (mine / "weights").mkdir(parents=True)
    (mine / "weights" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"out: .* holds weights but no run"):
            run_recipe(TOKENS, mine, overwrite=overwrite)
    assert [path.name for path in mine.rglob("*")] == ["weights", "thesis.txt"]


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_other_optimisers_train(optimizer: Literal["Adam", "SGD"], tmp_path: Path):
    optim = replace(TOKENS.optim, optimizer=optimizer, lr=0.1, momentum=0.5)
    run = run_recipe(replace(ENDS, optim=optim), tmp_path / "run")
    assert run.scores.loss.values[-1] < run.scores.loss.values[0]


def test_lightning_s_checkpoint_holds_each_weight_once(run: Run):
    kept = torch.load(run.resume_file, weights_only=True)
    assert set(kept["state_dict"]) == {f"model.{name}" for name in weights(run, 17)}
    assert kept["recipe"] == TOKENS.to_dict()


def test_a_home_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "home")
    assert run_recipe(replace(ENDS, steps=1), Path("~/run")).path == tmp_path / "home" / "run"
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["run"]


def test_what_a_file_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(ValueError, match="cannot be written"):
        run_recipe(replace(TOKENS, optim=replace(TOKENS.optim, lr=np.float64(0.01))), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_that_are_no_numbers_are_not_kept(tmp_path: Path):
    with pytest.raises(DivergedError, match="diverged"):
        run_recipe(replace(TOKENS, optim=replace(TOKENS.optim, lr=3e37, warmup_steps=0)), tmp_path / "huge")
    kept = Run(tmp_path / "huge")
    assert all(value.isfinite().all() for step in kept.steps for value in weights(kept, step).values())


def test_resuming_a_finished_run_changes_nothing(run: Run):
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    assert resume(run.path).steps == run.steps
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


ONE_PERIOD = replace(TOKENS, task=RepeatedTokens(n_tokens=13, length=11, period_min=5, period_max=5, late_start=0.0))


# All that applies to several periods applies to one.
@pytest.mark.parametrize("recipe", [ONE_PERIOD, NO_POSITIONS, VECTORS], ids=["one period", "no-positions", "vectors"])
def test_live_scores_equal_replayed_ones(recipe: Recipe, tmp_path: Path):
    recipe = replace(recipe, schedule=Schedule(log=0, linear=0), steps=7)
    run = run_recipe(recipe, tmp_path / "run", measures=MEASURES)
    live = run.scores.load()
    inapplicable = measure(run, MEASURES, overwrite=True)
    replayed = run.scores
    assert set(live.data_vars) == set(replayed.data_vars)
    assert {each.name for each in MEASURES} - set(live.data_vars) == set(inapplicable)
    assert list(live.step.values) == run.steps
    for name in live.data_vars:
        np.testing.assert_array_equal(live[name].values, replayed[name].values, err_msg=str(name))


def test_scores_have_named_axes(run: Run):
    scores = run.scores
    assert scores.previous_token.dims == ("step", "layer", "head")
    assert scores.attention.dims == ("step", "layer", "head", "batch", "query", "key")
    assert scores.k_composition.dims == ("step", "from_layer", "from_head", "to_layer", "to_head")
    assert scores.loss_by_position.dims == ("step", "pos")
    assert {"loss_first", "loss_repeats", "ov_eigenvalue_null_std", "previous_token_null"} <= set(scores.data_vars)
    assert scores.ov_eigenvalue.sel(step=5, layer=1, head=2).item() == scores.ov_eigenvalue.values[3, 1, 2]


def test_a_measure_of_ones_own_is_stored_like_ours(run: Run):
    def losses(model: HookedTransformer, batch: Batch) -> xr.DataArray:
        return xr.DataArray(np.arange(len(batch.inputs)), dims="batch")

    assert measure(run, [Measure(embedding_norm), losses], steps=[0, 17]) == {}
    # Ours keep the patterns of a few sequences only, under the same name of an axis.
    assert run.scores.losses.sel(step=17).values.tolist() == list(range(TOKENS.eval_batch_size))
    kept = run.scores.embedding_norm
    np.testing.assert_array_equal(kept.sel(step=17).values, run.model(17).W_E.detach().norm(dim=-1).numpy())
    assert kept.sel(step=5).isnull().all()


def test_measuring_that_was_interrupted_goes_on(run: Run, tmp_path: Path):
    asked: list[float] = []
    before: list[float] = []

    def first(model: HookedTransformer, batch: Batch) -> xr.DataArray:
        before.append(model.W_E.sum().item())
        return xr.DataArray(before[-1])

    def interrupted(model: HookedTransformer, batch: Batch) -> xr.DataArray:
        asked.append(model.W_E.sum().item())
        if len(asked) == 3:
            raise KeyboardInterrupt
        return xr.DataArray(asked[-1])

    with pytest.raises(KeyboardInterrupt):
        measure(run, [first, interrupted])
    measure(run, [first, interrupted])
    assert len(before) == len(run.steps)  # its score was stored before the other was asked
    assert len(asked) == len(run.steps) + 1  # the one that was interrupted is asked again
    assert run.scores.interrupted.values.tolist() == [run.model(step).W_E.sum().item() for step in run.steps]


def test_a_null_that_is_none_is_named(run: Run, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    write_scores(score_file(copy, None, "previous_token"), xr.Dataset({"previous_token_null": 0.1}))
    with pytest.raises(ValueError, match=r"previous_token\.safetensors holds no null; remove it and measure again"):
        measure(Run(copy), [each for each in MEASURES if each.name == "previous_token"], overwrite=True)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_was_good(tmp_path: Path):
    recipe = replace(
        TOKENS,
        task=TurnsNaN(),
        model=replace(TOKENS.model, d_vocab=7, d_vocab_out=7),
        schedule=Schedule(linear=17),
        trainer=TrainerConfig(accelerator="cpu"),  # where every step is looked at
    )
    with pytest.raises(
        DivergedError, match=r"diverged at step \d+: loss nan, gradient norm .*one step earlier"
    ) as error:
        run_recipe(recipe, tmp_path / "nan")
    run = Run(tmp_path / "nan")
    failed = int(str(error.value).split("step ")[1].split(":")[0])
    assert 0 < failed <= 17
    assert run.steps[-1] == failed - 1
    assert all(value.isfinite().all() for value in weights(run, failed - 1).values())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_spike_is_clipped_at_the_bound(precision: Literal["32-true", "bf16-mixed"], tmp_path: Path):
    """Some batches have a loss a million times as large. Plain gradient descent of rate 1 then moves by the bound."""
    bound = 0.25
    recipe = replace(
        TOKENS,
        task=Spikes(),
        model=replace(TOKENS.model, d_vocab=7, d_vocab_out=7),
        optim=OptimConfig(optimizer="SGD", lr=1.0, weight_decay=0.0, max_grad_norm=bound),
        trainer=TrainerConfig(precision=precision),
        schedule=Schedule(log=0, linear=17),
        steps=17,
    )
    run = run_recipe(recipe, tmp_path / "run", measures=())
    logged = run.training.gradient_norm.values
    assert run.training.step.values.tolist() == list(range(1, 18))
    assert max(logged) > 1e5 * min(logged)
    kept = [torch.cat([value.flatten() for value in weights(run, step).values()]) for step in range(18)]
    moved = [(after - before).norm().item() for before, after in pairwise(kept)]
    assert max(moved) == pytest.approx(bound, rel=1e-4)
    assert sum(distance == pytest.approx(bound, rel=1e-4) for distance in moved) >= 5


def test_mixed_precision_keeps_weights_and_scores_in_float32(tmp_path: Path):
    recipe = replace(TOKENS, trainer=TrainerConfig(precision="bf16-mixed"), steps=20)
    run = run_recipe(recipe, tmp_path / "run")
    for step in run.steps:
        assert {value.dtype for value in weights(run, step).values()} == {torch.float32}
        assert all(value.isfinite().all() for value in weights(run, step).values())
    live = run.scores.load()
    assert {live[name].dtype.name for name in ("loss", "ov_eigenvalue", "k_composition")} <= {"float32", "float64"}
    measure(run, LIVE, overwrite=True)
    assert live.equals(run.scores)
    full = run_recipe(replace(ENDS, trainer=TrainerConfig(), steps=20), tmp_path / "full")
    assert not identical(weights(run, 20), weights(full, 20))


def test_a_cpu_without_bf16_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("headway.train.bf16_slowdown", lambda: 280.0)
    with pytest.warns(UserWarning, match="will be very slow: this CPU takes 280 times as long"):
        check_hardware(TrainerConfig(precision="bf16-mixed", accelerator="cpu"))
    with pytest.raises(ValueError, match=r"trainer.precision: '16-mixed' is not valid on a CPU"):
        run_recipe(replace(TOKENS, trainer=TrainerConfig(precision="16-mixed", accelerator="cpu")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: on a CPU 16-mixed is refused")
def test_half_precision_trains_on_a_gpu(tmp_path: Path):
    run = run_recipe(replace(TOKENS, trainer=TrainerConfig(precision="16-mixed"), steps=20), tmp_path / "run")
    assert all(value.isfinite().all() for value in weights(run, 20).values())
    assert {value.dtype for value in weights(run, 20).values()} == {torch.float32}


COMPILED = """
import sys
from functools import partial
import torch
from headway.__main__ import main
for name in sys.argv[1:]:
    main(["train", "--config", f"{name}/config.yaml", "--compile", "--out", f"{name}-compiled"])
    # The C++ compiler takes seconds for each network, and one shows that it works.
    torch.compile = partial(torch.compile, backend="aot_eager")
"""


@pytest.mark.whole
def test_compiled_training_is_the_same_up_to_rounding(tmp_path: Path):
    """In a process of its own, because the shape checks of the tests cannot be compiled."""
    recipes = {"tokens": ENDS, "vectors": replace(VECTORS, schedule=ENDS.schedule)}
    recipes = {name: replace(each, model=replace(each.model, n_layers=1)) for name, each in recipes.items()}
    eager = {name: run_recipe(recipe, tmp_path / name) for name, recipe in recipes.items()}
    # More threads would be processes, each of which imports torch.
    one_thread = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    command = [sys.executable, "-c", COMPILED, *recipes]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env=one_thread)
    for name, recipe in recipes.items():
        compiled = Run(tmp_path / f"{name}-compiled")
        assert compiled.recipe == replace(recipe, compile=True)
        assert weights(compiled, 0).keys() == weights(eager[name], 0).keys()
        for key, value in weights(eager[name], recipe.steps).items():
            torch.testing.assert_close(weights(compiled, recipe.steps)[key], value, atol=2e-3, rtol=0)
        live = compiled.scores.load()
        measure(compiled, LIVE, overwrite=True)
        assert live.equals(compiled.scores)


def test_the_number_of_threads_follows_the_size_of_a_step(monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    for threads, d_model, batch_size, expected in (
        (None, 19, 7, 1),
        (3, 19, 7, 3),
        # Six operations a parameter and position, 11,000 parameters, 220,000 positions: 15 GFLOP for 5 threads.
        (None, 67, 20_000, 5),
    ):
        seen.clear()
        config = replace(TOKENS.model, d_model=d_model)
        recipe = replace(TOKENS, model=config, batch_size=batch_size, trainer=TrainerConfig(threads=threads))
        with threads_of(recipe, HookedTransformer(config)):
            assert seen == [expected]
        assert seen == [expected, 5]


def test_overwrite_replaces_a_run_and_spares_other_files(run: Run, tmp_path: Path):
    out = shutil.copytree(run.path, tmp_path / "out")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"out: .* holds a run already"):
        run_recipe(TOKENS, out)
    replaced = run_recipe(ENDS, out, overwrite=True)
    assert replaced.steps == [0, 17]
    assert list(replaced.scores.step.values) == [0, 17]
    assert (out / "notes.txt").read_text() == "mine"


def test_a_step_may_be_the_last_or_the_nearest(run: Run):
    last = dict(run.model(17).state_dict())
    for model in (run.model(), run.model("last"), run.model(None), run.model(10**6, nearest=True)):
        assert identical(dict(model.state_dict()), last)
    assert identical(dict(run.model(step=7, nearest=True).state_dict()), weights(run, 8))
    assert [run.check_step(step, nearest=True) for step in (-3, 2, 3, 5, 6, 12, 13)] == [0, 1, 4, 5, 5, 8, 17]


def test_a_run_says_in_a_line_how_far_it_has_come(run: Run, tmp_path: Path):
    assert repr(run) == f"Run({str(run.path)!r}, 6 checkpoints, finished)"
    begun = Run.create(tmp_path / "begun", TOKENS)
    assert repr(begun) == f"Run({str(begun.path)!r}, 0 checkpoints, not finished)"
    begun.keep(4, HookedTransformer(TOKENS.model))
    assert repr(begun) == f"Run({str(begun.path)!r}, 1 checkpoint, not finished)"
    (begun.path / "config.yaml").write_text("]")
    assert repr(Run(begun.path)) == f"Run({str(begun.path)!r}, 1 checkpoint, config.yaml is damaged)"


def test_a_notebook_shows_a_card_of_a_run_and_not_its_page(run: Run, tmp_path: Path):
    card = run._repr_html_()
    rows = dict(re.findall(r"<tr><th[^>]*>([^<]*)</th><td[^>]*>([^<]*)</td></tr>", card))
    assert rows == {
        "run": str(run.path),
        "state": "6 checkpoints, finished",
        "task": "RepeatedTokens",
        "model": "n_layers 2, n_heads 3, d_model 19",
        "seed": "0",
        "page": ".show()",
    }
    odd = Run.create(tmp_path / "<b>&", TOKENS)
    story(odd, 4).write(odd.study_file("mine", 4))
    (odd.path / "config.yaml").write_text("version: 2")
    card = Run(odd.path)._repr_html_()
    assert "<b>" not in card
    assert "&lt;b&gt;&amp;" in card
    assert "mine (step 4)" in card
    assert "version: 2 is not valid" in card
    assert "headway report" in card


def test_config_is_read_without_the_task(run: Run, tmp_path: Path):
    """A run whose task's module is gone can still be looked at."""
    gone = tmp_path / "gone"
    shutil.copytree(run.path, gone)
    config = (gone / "config.yaml").read_text()
    (gone / "config.yaml").write_text(config.replace("headway.data.repeated_tokens:", "no.such.module:"))
    assert Run(gone).config == {
        **TOKENS.to_dict(),
        "task": {**TOKENS.to_dict()["task"], "class": "no.such.module:RepeatedTokens"},
    }
    assert (Run(gone).finished, Run(gone).steps) == (True, run.steps)
    assert Run(gone).scores.equals(run.scores)
    assert Run(gone).training.equals(run.training)
    assert Run(gone).summary().splitlines()[1:-1] == run.summary().splitlines()[1:-1]
    with pytest.raises(ValueError, match=r"task: 'no.such.module:RepeatedTokens' cannot be imported"):
        _ = Run(gone, trust=True).task


@pytest.mark.parametrize(
    ("line", "instead", "message"),
    [
        ("steps: 17", "steps: many", "steps: 'many' is not valid; it must be a whole number"),
        ("steps: 17", "", "steps: None is not valid; it must be a whole number"),
        ("seed: 0", "seed: true", "seed: True is not valid; it must be a whole number"),
        ("optim:", "optim: 3\nnone:", "optim: 3 is not valid; it must be a mapping of options"),
        ("  n_layers: 2", "  n_layers: -2", "model.n_layers: -2 is not valid; it must be 1 or more"),
        ("  n_layers: 2", "  n_layers: two", "model.n_layers: 'two' is not valid; it must be a whole number"),
        ("  n_layers: 2", "", "model.n_layers: is missing; a recipe in a file holds every option"),
        ("  n_layers: 2", "  n_layerz: 2", "model.n_layerz: there is no such option; nearest is 'n_layers'"),
        ("version: 1", "version: 3", "version: 3 is not valid; this Headway reads version 1"),
        ("version: 1", "[", "is not YAML"),
    ],
)
def test_a_damaged_config_is_one_line(line: str, instead: str, message: str, tmp_path: Path):
    run = Run.create(tmp_path / "run", TOKENS)
    good = (run.path / "config.yaml").read_text()
    assert re.search(rf"^{line}", good, flags=re.MULTILINE)
    (run.path / "config.yaml").write_text(re.sub(rf"^{line}", instead, good, count=1, flags=re.MULTILINE))
    with pytest.raises(ValueError, match=rf"^config: {re.escape(str(run.path))}/config.yaml:? {message}") as error:
        _ = run.finished
    assert "\n" not in str(error.value)


def test_a_summary_is_loss_baselines_behaviour_and_parts(run: Run, tmp_path: Path):
    lines = run.summary().splitlines()
    assert lines[0] == f"{run.path}, step 17:"
    assert f"loss {run.scores.loss.sel(step=17).item():.4f}" in lines[1]
    assert all(f"{value:.4f}" in lines[1] for value in run.task.baselines().values())
    assert lines[2].startswith("Behaviour   loss")
    assert lines[3].startswith("Circuit     nothing to explain: the loss on repeats is ")
    assert lines[-1].endswith(str(run.report_file))
    with pytest.raises(ValueError, match="has no scores yet; headway measure"):
        Run.create(tmp_path / "new", TOKENS).summary()


def test_a_summary_says_which_later_step_it_leaves_out(run: Run, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    score_file(copy, 17, "loss").write_bytes(b"junk")
    first, second, *_ = Run(copy).summary().splitlines()
    assert first.startswith(f"step 17 is left out: scores: {score_file(copy, 17, 'loss')} is damaged")
    assert second == f"{copy}, step 8:"


def test_a_figure_is_drawn_from_a_run(run: Run):
    figure = run.plot("heads", at=17, layer=1)
    assert figure.axes
    with pytest.raises(ValueError, match="figure: 'haeds' is not one of"):
        run.plot("haeds")


def test_a_step_that_was_not_kept_is_named(run: Run):
    with pytest.raises(ValueError, match=r"step: 7 was not kept; nearest is 8, all are 0, 1, 4, 5, 8, 17"):
        run.model(step=7)


def assert_stopped(out: Path, sent: signal.Signals, code: object, errors: str) -> None:
    run = Run(out)
    last = run.steps[-1]
    assert code == 128 + sent
    assert errors.strip().endswith(f"stopped at step {last}; go on with: headway train --resume {out}")
    assert 0 < last < run.recipe.steps
    assert run.resume_file.exists()


def test_a_process_that_gets_a_signal_keeps_a_checkpoint_and_says_how_to_go_on(tmp_path: Path):
    recipe = replace(TOKENS, steps=100_000, schedule=Schedule(log=0, linear=0, at=(3,)))
    config, out = Run.create(tmp_path / "recipe", recipe).path / "config.yaml", tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "headway", "train", "--config", str(config), "--out", str(out)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 100
    while not (out / "weights" / "step-00000003.safetensors").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert_stopped(out, signal.SIGTERM, process.returncode, errors)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_each_signal_keeps_a_checkpoint_and_is_given_back(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    sent, plain = signal.Signals[name], TrainingModule.loss_and_gradient
    before = signal.getsignal(sent)

    def signalled(self: TrainingModule, index: int, optimizer: Optimizer) -> torch.Tensor:
        if self.global_step == 6:
            assert signal.getsignal(sent) not in (before, signal.SIG_DFL)  # which would end the tests
            os.kill(os.getpid(), sent)
        return plain(self, index, optimizer)

    monkeypatch.setattr(TrainingModule, "loss_and_gradient", signalled)
    config = Run.create(tmp_path / "recipe", TOKENS).path / "config.yaml"
    with pytest.raises(SystemExit) as end:
        main(["train", "--config", str(config), "--out", str(tmp_path / "run")])
    assert_stopped(tmp_path / "run", sent, end.value.code, capsys.readouterr().err)
    assert Run(tmp_path / "run").steps[-1] == 7
    assert signal.getsignal(sent) == before


# What each update was


def test_a_signal_that_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """As SIGHUP is under nohup, so that a run outlives the terminal in which it began."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    step = TrainingModule.loss_and_gradient

    def hung_up(module: TrainingModule, index: int, optimizer: Optimizer) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGHUP)
        return step(module, index, optimizer)

    try:
        monkeypatch.setattr(TrainingModule, "loss_and_gradient", hung_up)
        assert train(**vars(replace(TOKENS, steps=5)), out=tmp_path / "run").finished
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_machine_without_git_trains(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert environment()["commit"] is None


@pytest.mark.parametrize("damaged", ["config.yaml", "environment.json"])
@pytest.mark.parametrize("content", ["", "version: 1", "[1]", "a: ["])
def test_a_run_with_a_damaged_file_is_a_run_for_everyone(damaged: str, content: str, run: Run, tmp_path: Path):
    copy = Path(shutil.copytree(run.path, tmp_path / "copy"))
    (copy / damaged).write_text(content)
    assert holds_run(copy)
    assert Run(copy).steps == run.steps
    with pytest.raises(ValueError, match="holds a run already"):
        Run.place(copy, overwrite=False)
    other = "environment.json" if damaged == "config.yaml" else "config.yaml"
    (copy / other).write_text(content)
    assert not holds_run(copy)
    with pytest.raises(ValueError, match="holds no run"):
        Run(copy)


def test_training_has_every_update_once(run: Run):
    training = run.training
    assert set(training.data_vars) == {"loss", "gradient_norm", "lr"}
    assert training.step.values.tolist() == list(range(1, 18))
    assert all(training[name].dims == ("step",) and training[name].notnull().all() for name in training)
    factors = [TOKENS.optim.lr * TOKENS.optim.factor(step, TOKENS.steps) for step in range(TOKENS.steps)]
    assert training.lr.values == pytest.approx(factors, rel=1e-6)


@pytest.mark.parametrize("recipe", [TOKENS, NO_POSITIONS, VECTORS], ids=["tokens", "no-positions", "vectors"])
def test_the_loss_of_an_update_was_taken_before_it(recipe: Recipe, tmp_path: Path):
    """Step k is the loss of batch k - 1 under the weights kept at k - 1, and its gradient's norm."""
    recipe = replace(recipe, schedule=Schedule(log=0, linear=4, at=(1, 7)), steps=8)
    run = run_recipe(recipe, tmp_path / "run", measures=())
    for step in (1, 8):
        model = run.model(step - 1).train()
        batch = recipe.task.batch(recipe.seed, step - 1, recipe.batch_size)
        loss = masked_mean(recipe.task.loss(model(batch.inputs), batch), batch.mask)
        loss.backward()
        norm = torch.stack([each.grad.norm() for each in model.parameters() if each.grad is not None]).norm()
        logged = run.training.sel(step=step)
        assert logged.loss.item() == pytest.approx(loss.item(), rel=1e-5)
        assert logged.gradient_norm.item() == pytest.approx(norm.item(), rel=1e-4)


def test_a_run_without_updates_has_an_empty_training(tmp_path: Path):
    run = Run.create(tmp_path / "run", TOKENS)
    assert run.training.sizes == {"step": 0}
    assert set(run.training.data_vars) == {"loss", "gradient_norm", "lr"}
    run.keep(0, HookedTransformer(TOKENS.model))
    assert run.training.sizes == {"step": 0}


def test_updates_that_happened_twice_are_there_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ten updates are written and the run dies in the fourteenth; it goes on from step 8, the last one it kept."""
    plain = TrainingModule.loss_and_gradient

    def die(self: TrainingModule, index: int, optimizer: Optimizer) -> torch.Tensor:
        if self.global_step == 13:
            raise RuntimeError("out of memory")
        return plain(self, index, optimizer)

    out = tmp_path / "died"
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "loss_and_gradient", die)
        with pytest.raises(RuntimeError, match="out of memory"):
            run_recipe(TOKENS, out)
    died = Run(out)
    assert died.steps[-1] == 8
    assert died.training.step.values.tolist() == list(range(1, 11))
    whole = resume(out)
    assert whole.training.step.values.tolist() == list(range(1, 18))
    xr.testing.assert_identical(whole.training, run.training)


# Studies


def story(run: Run, step: int, name: str = "mine") -> StudyResult:
    """A study of one figure and one claim."""
    figure = Figure("Squares", xr.Dataset({"y": ("x", [0, 1, step])}), "lines", "How they grow.")
    section = Section("Numbers", "What they are.", (figure,))
    return StudyResult(name, str(run.path), step, (section,), (Claim("It grows", "last", float(step), 1.0),))


@pytest.fixture
def studied(tmp_path: Path) -> Run:
    """A run with two studies, one of them at three steps; that of step 100,000,000 has one digit more."""
    run = Run.create(tmp_path / "run", TOKENS)
    for name, step in (("mine", 17), ("mine", 4), ("other", 5), ("mine", 10**8)):
        story(run, step, name).write(run.study_file(name, step))
    return run


def test_studies_are_listed_with_their_last_step(studied: Run, tmp_path: Path):
    assert studied.studies == {"mine": 10**8, "other": 5}
    assert Run.create(tmp_path / "new", TOKENS).studies == {}


def test_what_is_no_study_is_not_listed(studied: Run):
    folder = studied.study_file("mine", 17).parent
    (folder / ".third.nc.4711.part").write_text("half")
    (folder / "notes.txt").write_text("mine")
    (folder.parent / "elsewhere").mkdir()
    shutil.copy(studied.study_file("mine", 17), folder.parent / "elsewhere" / "fourth.nc")
    assert set(studied.studies) == {"mine", "other"}


def test_a_study_is_read_at_its_last_step_or_the_one_asked_for(studied: Run):
    assert studied.study("mine").attrs["step"] == 10**8
    tree = studied.study("mine", 4)
    assert (tree.attrs["study"], tree.attrs["step"], tree.attrs["run"]) == ("mine", 4, str(studied.path))
    assert tree["Numbers/Squares"].y.values.tolist() == [0, 1, 4]
    assert StudyResult.from_tree(tree) == replace(story(studied, 4), sections=StudyResult.from_tree(tree).sections)
    # The file is closed: it can be replaced, and what was read stays.
    studied.study_file("mine", 4).unlink()
    assert tree["Numbers/Squares"].y.values.tolist() == [0, 1, 4]
    xr.testing.assert_identical(studied.study("mine", 17), story(studied, 17).to_tree())


def test_a_study_that_has_not_been_made_says_which_have(studied: Run, tmp_path: Path):
    there = "there is mine at step 100000000, other at step 5"
    for name, step, which in (
        ("third", None, "third"),
        ("third", 5, "third at step 5"),
        ("mine", 5, "mine at step 5"),
        ("other", 17, "other at step 17"),
    ):
        with pytest.raises(ValueError, match=rf"^study: {which} has not been made; {there}$"):
            studied.study(name, step)
    with pytest.raises(ValueError, match=r"^study: mine has not been made; there is none$"):
        Run.create(tmp_path / "new", TOKENS).study("mine")


def test_overwriting_a_run_takes_its_studies_along(studied: Run):
    (studied.path / "environment.json").write_text("{}")
    assert Run.create(studied.path, TOKENS, overwrite=True).studies == {}
    assert not (studied.path / "studies").exists()
