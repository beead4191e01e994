"""The command line: what it makes of good input, and one line and exit code 2 for bad."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from toys import TOKENS

from headway.__main__ import main
from headway.checkpoints import Run
from headway.checkpoints.scores import read_file
from headway.train import RECIPES

QUICK = ["--steps", "2", "--batch_size", "2", "--eval_batch_size", "3", "--schedule.log", "0", "--schedule.linear", "0"]


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "induction"
    main(["train", "induction", *QUICK, "--out", str(out)])
    return out


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["train", recipe, *QUICK, "--out", str(tmp_path / "run")])
    assert Run(tmp_path / "run").steps == [0, 2]
    assert "looks at the token before" in capsys.readouterr().out


def test_options_reach_the_recipe(tmp_path: Path):
    out = str(tmp_path / "run")
    main(["train", "induction", *QUICK, "--model.n_layers", "1", "--task.n_tokens", "66", "--model.d_vocab", "67",
          "--optim.betas", "[0.5, 0.75]", "--seed", "3", "--out", out])  # fmt: skip
    recipe = Run(out).recipe
    assert (recipe.model.n_layers, recipe.model.d_vocab_out, recipe.seed) == (1, 67, 3)
    assert recipe.optim.betas == (0.5, 0.75)
    assert recipe.optim.lr == RECIPES["induction"].optim.lr


def test_a_config_repeats_a_run(run: Path, tmp_path: Path):
    main(["train", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "config.yaml").read_text() == (run / "config.yaml").read_text()
    assert contents(tmp_path / "again" / "weights").keys() != {}
    for step in (0, 2):
        assert Run(tmp_path / "again").weights_file(step).read_bytes() == Run(run).weights_file(step).read_bytes()


def test_a_task_of_ones_own_by_import_path(tmp_path: Path):
    main(["train", "--task", "toys:Counting", "--task.modulus", "5", *QUICK, "--out", str(tmp_path / "mine")])
    assert Run(tmp_path / "mine").recipe.to_dict()["task"] == {"class": "toys:Counting", "modulus": 5}


def test_resuming_a_finished_run_says_so(run: Path, capsys: pytest.CaptureFixture[str]):
    before = contents(run)
    main(["train", "--resume", str(run)])
    assert "is finished; there is nothing to do" in capsys.readouterr().out
    assert contents(run) == before


def test_measuring_again_computes_what_is_missing(run: Path, capsys: pytest.CaptureFixture[str]):
    lost = run / "scores" / "step-00000002" / "k_composition.safetensors"
    before = read_file(lost)
    others = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors") if path != lost}
    lost.unlink()
    main(["measure", str(run), "--only", "k_composition,loss"])
    assert read_file(lost).equals(before)
    assert {path: path.stat().st_mtime_ns for path in others} == others
    main(["measures"])
    assert "prefix_matching" in capsys.readouterr().out


BAD = [
    (["trian"], "command: 'trian' is not one of"),
    (["train"], "recipe: none given; it must be one of induction"),
    (["train", "inductoin"], "recipe: 'inductoin' is not one of .* nearest is 'induction'"),
    (["train", "induction", "--model.n_layer", "1"], "unrecognized arguments: --model.n_layer 1"),
    (["train", "induction", "--task.d_vector", "3"], "unrecognized arguments: --task.d_vector 3"),
    (["train", "induction", "--model.n_layers", "two"], '"model.n_layers": Expected a .*int.* Got value: two'),
    (["train", "induction", "--model.act_fn", "rleu"], "relu.* Got value: rleu"),
    (["train", "induction", "--model.d_head", "0"], "d_head: 0 is not a size; it must be 1 or more"),
    (["train", "induction", "--batch_size", "0"], "batch_size: 0 is not valid; it must be 1 or more"),
    (["train", "induction", "--steps", "-1"], "steps: -1 is not valid"),
    (["train", "induction", "--model.n_ctx", "47"], "model.n_ctx: 47 is too small; the task needs 48"),
    (["train", "induction", "--model.d_vocab", "64"], "model.d_vocab: 64 is too small; the task needs 65"),
    (["train", "affine-recurrence", "--model.d_vocab", "41"], "model.d_vocab: 41 is not valid"),
    (["train", "induction", "--optim.lr", "nan"], "optim.lr.* Got value: nan"),
    (["train", "induction", "--trainer.accelerator", "gpuu"], "trainer: 'gpuu' with '32-true': .*invalid accelerator"),
    (["train", "induction", "--trainer.precision", "8"], "trainer.precision.* Got value: 8"),
    (["train", "induction", "--steps", "0"], "steps: 0 is not valid; it must be 1 or more"),
    (["train", "induction", "--out", "RUN"], "out: RUN holds a run already; --overwrite replaces it"),
    (["train", "induction", "--out", "RUN/config.yaml"], "out: RUN/config.yaml is a file"),
    (["train", "--resume", "nowhere"], "run: nowhere holds no run"),
    (["train", "induction", "--resume", "RUN"], "resume: a run goes on as it was"),
    (["train", "--resume"], "resume: expected one argument"),
    (["train", "--task", ".x:Y"], "task: '.x:Y' cannot be imported"),
    (["train", "--config", "nowhere.yaml"], "config: nowhere.yaml cannot be read"),
    (["train", "--task", "toys:TOKENS"], "task: 'toys:TOKENS' is not a"),
    (["train", "--task", "no.such:Task"], "task: 'no.such:Task' cannot be imported"),
    (["measure", "RUN", "--at", "1"], "step: 1 was not kept; nearest is"),
    (["measure", "RUN", "--at", "one"], "at: 'one' is not valid"),
    (["measure", "RUN", "--only", "prefix_mathcing"], "only: 'prefix_mathcing' is not a measure; nearest is 'prefix_m"),
    (["measure", "nowhere"], "run: nowhere holds no run"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    before = contents(run)
    with pytest.raises(SystemExit) as end:
        main([argument.replace("RUN", str(run)) for argument in arguments])
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert re.search(message.replace("RUN", re.escape(str(run))), errors), errors
    assert contents(run) == before
    assert contents(tmp_path) == {}


def test_a_diverging_run_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["train", "--task", "toys:TurnsNaN", "--out", str(tmp_path / "nan"), "--batch_size", "2",
              "--eval_batch_size", "3", "--optim.warmup_steps", "0"])  # fmt: skip
    assert end.value.code == 1
    assert "diverged at step" in capsys.readouterr().err
    assert Run(tmp_path / "nan").steps[0] == 0


def test_recipes_fit_their_tasks():
    assert all(replace(recipe) == recipe for recipe in RECIPES.values())
    assert replace(TOKENS, steps=3).steps == 3
