"""Recipes, schedules, optimisers and folders of runs, without training: what is valid, to the last number that is."""

import math
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toys import TOKENS, VECTORS, Adding, Counting

from headway.checkpoints import Recipe, Run
from headway.checkpoints.files import holds_run
from headway.checkpoints.recipe import TrainerConfig, task_class
from headway.checkpoints.schedule import Schedule
from headway.commands.train import base_recipe
from headway.data.seeds import check_seed
from headway.data.task import Task
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer
from headway.models.optim import OptimConfig

# Numbers


def test_step_zero_and_the_last_may_be_named():
    assert Schedule(log=0, linear=0, at=(0, 5)).steps(5) == [0, 5]
    with pytest.raises(ValueError, match=r"^schedule.at: 6 is not valid; .*5"):
        Schedule(at=(6,)).steps(5)
    with pytest.raises(ValueError, match=r"^at: -1 is not valid"):
        Schedule(at=(3, -1))


def test_linear_steps_are_spaced_evenly_from_zero_which_is_not_counted():
    assert Schedule(log=0, linear=7).steps(70) == list(range(0, 71, 10))


@pytest.mark.parametrize("name", ["log", "linear"])
def test_as_many_steps_are_spaced_as_can_be_kept(name: str):
    for valid in (0, 10_000):
        assert replace(Schedule(log=0, linear=0), **{name: valid}).steps(20_000)[-1] == 20_000
    for wrong in (-1, 10_001):
        with pytest.raises(ValueError, match=f"^{name}: {wrong} is not valid; .*10000"):
            replace(Schedule(), **{name: wrong})


@pytest.mark.parametrize("name", ["steps", "batch_size", "eval_batch_size"])
def test_counts_begin_at_one_and_end_at_a_billion(name: str):
    for valid in (1, 10**9):
        assert getattr(replace(TOKENS, schedule=Schedule(), **{name: valid}), name) == valid
    for wrong in (0, 10**9 + 1):
        with pytest.raises(ValueError, match=f"^{name}: {wrong} is not valid; .*1000000000"):
            replace(TOKENS, schedule=Schedule(), **{name: wrong})


def test_threads_begin_at_one_and_end_at_1024():
    assert [TrainerConfig(threads=valid).threads for valid in (None, 1, 1024)] == [None, 1, 1024]
    for wrong in (0, 1025):
        with pytest.raises(ValueError, match=rf"^threads: {wrong} is not valid"):
            TrainerConfig(threads=wrong)


@pytest.mark.parametrize("name", ["seed", "eval_seed"])
def test_seeds_are_numbers_of_32_bits(name: str):
    for valid in (0, 2**32 - 1):
        check_seed(name, valid)
        assert getattr(replace(TOKENS, **{name: valid}), name) == valid
    for wrong in (-1, 2**32):
        with pytest.raises(ValueError, match=f"^{name}: {wrong} is not valid"):
            replace(TOKENS, **{name: wrong})


@pytest.mark.parametrize(
    ("valid", "wrong"),
    [
        ({"lr": 1e-9}, {"lr": 0.0}),
        ({"lr": 1e9}, {"lr": math.inf}),
        ({"betas": (0.0, 0.99)}, {"betas": (0.9, 1.0)}),
        ({"betas": (0.99, 0.0)}, {"betas": (-0.1, 0.9)}),
        ({"momentum": 0.0}, {"momentum": -0.1}),
        ({"momentum": 0.99}, {"momentum": 1.0}),
        ({"weight_decay": 0.0}, {"weight_decay": -0.1}),
        ({"weight_decay": 3.0}, {"weight_decay": math.nan}),
        ({"weight_decay": 2.0}, {"weight_decay": math.inf}),
        ({"warmup_steps": 0}, {"warmup_steps": -1}),
        ({"max_grad_norm": 1e-9}, {"max_grad_norm": 0.0}),
        ({"max_grad_norm": None}, {"max_grad_norm": math.nan}),
        ({"optimizer": "SGD"}, {"optimizer": "Adamax"}),
        ({"decay": "linear"}, {"decay": "step"}),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked")
def test_an_optimiser_s_options_are_checked(valid: dict[str, Any], wrong: dict[str, Any]):
    for name, value in valid.items():
        assert getattr(OptimConfig(**valid), name) == value
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name}: "):
        OptimConfig(**wrong)


# The learning rate


def test_the_learning_rate_rises_to_its_peak_and_falls_by_its_kind():
    steps, warmup = 29, 5
    rising = [(step + 1) / warmup for step in range(warmup)]
    after = [k / (steps - warmup) for k in range(steps - warmup)]
    expected = {
        "constant": [1.0 for _ in after],
        "linear": [1 - share for share in after],
        "cosine": [math.cos(math.pi * share / 2) ** 2 for share in after],
    }
    for decay, falling in expected.items():
        optim = OptimConfig(warmup_steps=warmup, decay=decay)  # pyright: ignore[reportArgumentType]
        assert [optim.factor(step, steps) for step in range(steps)] == pytest.approx([*rising, *falling])
    # All of the run may be warm-up.
    assert OptimConfig(warmup_steps=7, decay="linear").factor(6, 7) == 1


def test_the_optimiser_is_torch_s_with_these_options():
    parameters = [torch.nn.Parameter(torch.ones(3))]
    sgd = OptimConfig(optimizer="SGD", lr=0.5, momentum=0.25, weight_decay=0.125).build(parameters, fused=False)
    assert isinstance(sgd, torch.optim.SGD)
    assert {"lr": 0.5, "momentum": 0.25, "weight_decay": 0.125}.items() <= sgd.defaults.items()
    for name in ("AdamW", "Adam"):
        adam = OptimConfig(optimizer=name, lr=0.5, betas=(0.25, 0.75), weight_decay=0.0).build(parameters, fused=False)  # pyright: ignore[reportArgumentType]
        assert type(adam) is getattr(torch.optim, name)
        assert {"lr": 0.5, "betas": (0.25, 0.75), "weight_decay": 0.0}.items() <= adam.defaults.items()


# What fits together


def test_a_network_takes_what_its_task_gives():
    with pytest.raises(ValueError, match=r"^model.input_type: 'vectors' is not valid; .*tokens"):
        replace(TOKENS, model=replace(TOKENS.model, input_type="vectors"))
    with pytest.raises(ValueError, match=r"^model.d_vocab: 8 is not valid; .*7"):
        replace(VECTORS, model=replace(VECTORS.model, d_vocab=8))
    for name, needed in (("n_ctx", 11), ("d_vocab", 14), ("d_vocab_out", 14)):
        # More is no harm.
        assert replace(TOKENS, model=replace(TOKENS.model, **{name: needed + 1}))
        with pytest.raises(ValueError, match=rf"^model.{name}: {needed - 1} is .*{needed}"):
            replace(TOKENS, model=replace(TOKENS.model, **{name: needed - 1}))


@dataclass(frozen=True)
class Nested(Counting):
    schedule: Schedule = Schedule()


@dataclass(frozen=True)
class Hidden(Counting):
    hidden: int = field(default=3, init=False)


def test_the_outputs_of_a_network_follow_its_task():
    """Without a word of d_vocab_out they are as many as the final task has, be they fewer or more than its tokens."""
    base = replace(TOKENS, task=Adding(), model=ModelConfig(1, 8, 3, 4, 2, 6, 5), batch_size=4, eval_batch_size=4)
    larger = base.changed({"task.modulus": 11})
    assert (larger.model.d_vocab, larger.model.d_vocab_out) == (12, 11)
    assert base.changed({"task.modulus": 3, "model.d_vocab": 7}).model.d_vocab_out == 3
    wide = replace(base, model=replace(base.model, d_vocab_out=6))
    assert wide.changed({"seed": 1}).model.d_vocab_out == 6
    assert Recipe.from_dict(yaml.safe_load(wide.to_yaml()), trust=True) == wide
    assert base.changed({"model.d_vocab_out": 6}).model.d_vocab_out == 6
    with pytest.raises(ValueError, match=r"^model.d_vocab_out: 4 is too small; the task needs 5"):
        replace(base, model=replace(base.model, d_vocab_out=4))
    assert base_recipe(None, None, "toys:Signs", True)[1].model.d_vocab_out == 5
    assert base_recipe(None, None, "toys:Adding", True)[1].batch_size == 13


@pytest.mark.parametrize(("task", "name"), [(Nested(), "schedule"), (Hidden(), "hidden")], ids=["nested", "hidden"])
def test_a_task_has_options_that_a_file_can_hold(task: Counting, name: str):
    with pytest.raises(ValueError, match=f"^task.{name}: no option can set it"):
        replace(TOKENS, task=task, model=replace(TOKENS.model, d_vocab=7, d_vocab_out=7))


# config.yaml


def test_a_config_says_its_version_its_task_and_the_rest_in_the_order_of_a_reader():
    text = TOKENS.to_yaml()
    assert text.startswith("version: 1\ntask:\n  class: headway.data.repeated_tokens:RepeatedTokens\n  n_tokens: 13\n")
    assert [*yaml.safe_load(text)] == [
        *("version", "task", "model", "optim", "schedule", "trainer"),
        *("steps", "batch_size", "seed", "eval_seed", "eval_batch_size", "compile"),
    ]
    assert Recipe.from_dict(yaml.safe_load(text)) == TOKENS


@pytest.mark.parametrize("version", [None, 0, 2, "1", 1.0, True], ids=repr)
def test_another_version_is_refused(version: object):
    with pytest.raises(ValueError, match=r"^version: .* is not valid; .*1"):
        Recipe.from_dict({**TOKENS.to_dict(), "version": version})


@pytest.mark.parametrize("task", [None, "headway.data.repeated_tokens:RepeatedTokens", {}, {"class": 3}], ids=repr)
def test_a_config_names_its_task(task: object):
    with pytest.raises(ValueError, match=r"^task.class: is missing"):
        Recipe.from_dict({**TOKENS.to_dict(), "task": task})


def test_a_task_is_a_class_of_tasks():
    assert task_class("headway.data.repeated_tokens:RepeatedTokens") is type(TOKENS.task)
    for wrong in ("headway.data.repeated_tokens:math", "headway.data.seeds:generator", "headway.models.config:Head"):
        with pytest.raises(ValueError, match=rf"^task: '{wrong}' is not "):
            task_class(wrong)
    # One that is not quite right is guessed, from tasks alone.
    with pytest.raises(ValueError, match=r"nearest is 'headway.data.repeated_tokens:RepeatedTokens'"):
        task_class("headway.data.repeated_token:RepeatedTokens")
    for near in ("headway.data.task:Batchs", "headway.data.task:Tasks", "headway.data.tokenizer:Pretrained"):
        with pytest.raises(ValueError, match="cannot be imported") as error:
            task_class(near)
        assert issubclass(task_class(str(error.value).partition("nearest is ")[2].strip("'")), Task)


@pytest.mark.parametrize(
    ("written", "message"),
    [("- 3", "holds no"), ("", "holds no"), ("a: [", "is not YAML"), (None, "cannot be read")],
    ids=repr,
)
def test_a_file_without_a_recipe_is_named(written: str | None, message: str, tmp_path: Path):
    path = tmp_path / "config.yaml"
    if written is not None:
        path.write_text(written)
    with pytest.raises(ValueError, match=f"^config: {path} {message}"):
        Recipe.load(path)


def test_options_are_named_in_full():
    """A beginning of a name is no name, on a command line or in a file."""
    parser = Recipe.parser(type(TOKENS.task))
    with pytest.raises(Exception, match="batch_siz"):
        parser.parse_args(["--task.n_tokens", "7", "--batch_siz", "3"])


# Folders


def folder_of_a_run(path: Path) -> Path:
    return Run.create(path, TOKENS).path


def test_a_run_needs_a_folder_of_its_own(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match=f"^out: {file} is a file"):
        Run.create(file, TOKENS)
    run = folder_of_a_run(tmp_path / "not" / "yet" / "there")
    assert Run(run).recipe == TOKENS
    with pytest.raises(ValueError, match=f"^out: {run / 'in' / 'it'} .*{run}"):
        Run.create(run / "in" / "it", TOKENS)
    # An empty one may be there already.
    (tmp_path / "empty").mkdir()
    assert Run.create(tmp_path / "empty", TOKENS).steps == []


def test_a_run_is_replaced_by_request_alone(tmp_path: Path):
    run = folder_of_a_run(tmp_path / "run")
    with pytest.raises(ValueError, match=f"^out: {run} .*--overwrite"):
        Run.create(run, TOKENS)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.txt").write_text("mine")
    (run / "weights").symlink_to(tmp_path / "kept")
    (run / "scores").mkdir()
    (run / "report.html").write_text("")
    Run.create(run, replace(TOKENS, seed=3), overwrite=True)
    assert {path.name for path in run.iterdir()} == {".lock", "config.yaml", "environment.json"}
    assert Run(run).recipe.seed == 3
    # A link to a folder is removed, and the folder is not.
    assert (tmp_path / "kept" / "thesis.txt").read_text() == "mine"


def test_what_is_there_and_no_run_is_named_and_stays(tmp_path: Path):
    (tmp_path / "weights").mkdir()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=f"^out: {tmp_path} .*weights"):
            Run.create(tmp_path, TOKENS, overwrite)
    assert (tmp_path / "weights").is_dir()


def test_a_run_is_known_by_its_config_and_its_environment(tmp_path: Path):
    run = folder_of_a_run(tmp_path / "run")
    assert holds_run(run)
    config, environment = run / "config.yaml", run / "environment.json"
    whole = config.read_text()
    for written in (whole.replace("version", "edition"), "- 3", "a: [", "version: 1\n"):
        config.write_text(written)
        assert holds_run(run)  # its environment says so
        about = environment.read_text()
        environment.write_text("{}")
        assert not holds_run(run)
        environment.write_text(about)
    # Anything more is no harm.
    config.write_text(f"note: mine\n{whole}")
    assert holds_run(run)
    for missing in (environment, config):
        missing.rename(run / "elsewhere")
        assert not holds_run(run)
        with pytest.raises(ValueError, match=f"^run: {run} holds no run .*{missing.name}"):
            Run(run)
        (run / "elsewhere").rename(missing)


def test_a_run_that_was_killed_while_it_was_made_is_in_nobody_s_way(tmp_path: Path):
    whole = Run.create(tmp_path / "whole", TOKENS).path
    for last in ((), ("environment.json",), ("environment.json", "tokenizer.json")):
        begun = tmp_path / str(len(last))
        begun.mkdir()
        for name in last:
            (begun / name).write_bytes((whole / "environment.json").read_bytes())
        with pytest.raises(ValueError, match="holds no run"):
            Run(begun)
        assert Run.create(begun, TOKENS).recipe == TOKENS


def test_steps_are_those_whose_weights_are_there(tmp_path: Path):
    run = Run.create(tmp_path / "run", TOKENS)
    with pytest.raises(ValueError, match=f"^run: {run.path} has no checkpoint yet$"):
        run.check_step(None)
    model = HookedTransformer(TOKENS.model)
    for step in (20, 0, 123456789, 3):
        run.keep(step, model)
    (run.path / "weights" / "step-0000007.safetensors").touch()  # a name of another kind
    assert run.steps == [0, 3, 20, 123456789]
    assert (run.check_step(None), run.check_step(3), run.finished) == (123456789, 3, False)
    with pytest.raises(ValueError, match=r"^step: 13 .*nearest is 20.* 0, 3, 20, 123456789"):
        run.check_step(13)
    run.keep(TOKENS.steps, model)
    assert run.finished


def test_a_page_older_than_its_scores_says_so(tmp_path: Path):
    run = Run.create(tmp_path / "run", TOKENS)
    run.keep(5, HookedTransformer(TOKENS.model))
    with pytest.raises(ValueError, match=f"^run: {run.path} has no page"):
        run.show()
    run.report_file.write_text("<head></head><head></head>")
    scores = run.path / "scores" / "step-00000005"
    scores.mkdir(parents=True)
    now = time.time()
    for scored, stale in ((now - 10, False), (now, False), (now + 10, True)):
        os.utime(run.report_file, (now, now))
        os.utime(scores, (scored, scored))
        shown = run.show()._repr_html_()
        assert ("headway report" in shown) == stale
    # The place is given once, in the page's own head.
    assert shown.count("step=5") == 1
