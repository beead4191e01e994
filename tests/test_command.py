"""The command line: what it makes of good input, and one line and exit code 2 for bad."""

import importlib
import os
import re
import runpy
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from toys import PADDED, TOKENS, NoFields, made_up_run

from headway.__main__ import main
from headway.analyze import MEASURES
from headway.analyze.report import write_report
from headway.checkpoints import Recipe, Run
from headway.checkpoints.scores import read_file
from headway.recipes import RECIPES
from headway.train import StoppedError

ROOT = Path(__file__).parent.parent
QUICK = ["--steps", "2", "--batch_size", "2", "--eval_batch_size", "5", "--schedule.log", "0", "--schedule.linear", "0"]


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that ends with exit code 2: one line."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    return errors


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "induction"
    main(["train", "induction", *QUICK, "--out", str(out)])
    return out


@pytest.mark.whole
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_and_its_page_stays_small(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Patterns weigh most; a page of 41 steps of the induction recipe may have 3 MB. Weights take what they leave."""
    corpus = ["--task.corpus", "package:email", "--task.n_tokens", "1009"] if recipe == "text" else []
    main(["train", recipe, *QUICK, *corpus, "--out", str(tmp_path / "run")])
    run = Run(tmp_path / "run")
    assert run.steps == [0, 2]
    printed = capsys.readouterr().out
    assert "\nBehaviour   loss" in printed
    assert "\nCircuit     " in printed
    fixed = write_report(Run.create(tmp_path / "empty", run.recipe)).stat().st_size
    per_step = (write_report(run, weights="none").stat().st_size - fixed) / 2
    assert fixed + 45 * per_step < (3e6 if recipe == "induction" else 12e6)


def test_a_run_that_fails_at_a_later_batch_says_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "run"
    options = ["--task", "toys:CountsNothingLater", "--task.index", "5", "--steps", "11", "--out", str(out)]
    with pytest.raises(SystemExit) as end:
        main(["train", *options, "--schedule.at", "[3]"])
    assert end.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"headway: task: no position of batch 5 counts; its mask must be True somewhere; what was kept before that is "
        f"in {out}"
    )
    assert 3 in Run(out).steps


def test_options_reach_the_recipe(tmp_path: Path):
    out = str(tmp_path / "run")
    main(["train", "induction", *QUICK, "--model.n_layers", "1", "--task.n_tokens", "66",
          "--optim.betas", "[0.5, 0.75]", "--seed", "3", "--out", out])  # fmt: skip
    recipe = Run(out).recipe
    assert (recipe.model.n_layers, recipe.model.d_vocab_out, recipe.seed) == (1, 67, 3)
    assert recipe.optim.betas == (0.5, 0.75)
    assert recipe.optim.lr == RECIPES["induction"].optim.lr


def recipe_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe that a command line asks for; nothing is trained."""
    asked: dict[str, Any] = {}

    def take(**options: Any) -> None:
        asked.update(options)
        raise StoppedError(0, signal.SIGINT)

    monkeypatch.setattr("headway.train.train", take)
    with pytest.raises(SystemExit):
        main(["train", *arguments])
    return Recipe(**{f.name: asked[f.name] for f in fields(Recipe)})


@pytest.mark.parametrize(
    ("arguments", "n_ctx", "d_vocab"),
    [
        (["induction", "--task.n_tokens", "301"], 48, 302),
        (["induction", "--task.length", "53", "--task.n_tokens", "67"], 53, 68),
        (["induction", "--task.n_tokens", "61", "--model.n_ctx", "59"], 59, 62),
        (["affine-recurrence", "--task.d_vector", "7"], 32, 7),
        (["text", "--task.length", "61"], 61, 4096),
        (["text", "--task.n_tokens", "307", "--model.n_ctx=131"], 131, 307),
        (["--task", "toys:Counting", "--task.modulus", "17"], 5, 17),
        (["--task", "toys:Counting", "--task.modulus", "17", "--model.d_vocab", "19"], 5, 19),
        # A network that is larger than its task stays as large.
        (["--config", "LARGER", "--task.length", "13", "--task.n_tokens", "23"], 13, 29),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_sizes_that_the_task_decides_follow_it_unless_they_are_given(
    arguments: list[str], n_ctx: int, d_vocab: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    larger = replace(TOKENS, model=replace(TOKENS.model, d_vocab=29, d_vocab_out=29))
    larger.save(tmp_path / "larger.yaml")
    arguments = [argument.replace("LARGER", str(tmp_path / "larger.yaml")) for argument in arguments]
    recipe = recipe_of(arguments, monkeypatch)
    assert (recipe.model.n_ctx, recipe.model.d_vocab, recipe.model.d_vocab_out) == (n_ctx, d_vocab, d_vocab)
    assert recipe.model.input_type == recipe.task.input_type


def test_the_direction_that_a_task_needs_is_that_of_its_network(monkeypatch: pytest.MonkeyPatch):
    recipe = recipe_of(["--task", "headway.data.brackets:Brackets"], monkeypatch)
    assert recipe.model.attention_dir == "bidirectional"
    # A task that needs neither leaves that of the recipe.
    recipe = recipe_of(["brackets", "--task", "toys:Adding"], monkeypatch)
    assert recipe.model.attention_dir == "bidirectional"
    # An option of the task may decide.
    assert PADDED.model.attention_dir == "causal"
    assert PADDED.changed({"task.at_end": False}).model.attention_dir == "bidirectional"


@pytest.mark.parametrize(
    ("options", "training", "held_out"),
    [
        # 7² pairs, of which the rounded half is held out, as of 53² in the recipe.
        (["--task.p", "7"], 25, 24),
        (["--task.p", "7", "--batch_size", "3"], 3, 24),
        (["--task.p", "7", "--eval_batch_size", "5"], 25, 5),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_batch_of_all_sequences_stays_one_of_all(
    options: list[str], training: int, held_out: int, monkeypatch: pytest.MonkeyPatch
):
    recipe = recipe_of(["modular-addition", *options], monkeypatch)
    assert (recipe.batch_size, recipe.eval_batch_size) == (training, held_out)


def test_a_config_repeats_a_run(run: Path, tmp_path: Path):
    main(["train", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "config.yaml").read_text() == (run / "config.yaml").read_text()
    for step in (0, 2):
        assert Run(tmp_path / "again").weights_file(step).read_bytes() == Run(run).weights_file(step).read_bytes()


def test_a_task_of_ones_own_by_import_path(tmp_path: Path):
    main(["train", "--task", "toys:Counting", "--task.modulus", "5", *QUICK, "--out", str(tmp_path / "mine")])
    assert Run(tmp_path / "mine").recipe.to_dict()["task"] == {"class": "toys:Counting", "modulus": 5}


@pytest.mark.parametrize(
    "options", [["--model.normalization_type", "null"], ["--optim.max_grad_norm", "null"]], ids=str
)
def test_an_option_that_is_null_comes_back(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = recipe_of(["induction", *QUICK, *options], monkeypatch)
    part, name = options[0].removeprefix("--").split(".")
    assert getattr(getattr(recipe, part), name) is None
    recipe.save(tmp_path / "config.yaml")
    assert recipe_of(["--config", str(tmp_path / "config.yaml")], monkeypatch) == recipe


def test_a_task_without_fields_trains_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    main(["train", "--task", "toys:NoFields", *QUICK, "--out", str(tmp_path / "run")])
    assert Run(tmp_path / "run").task == NoFields()
    assert recipe_of(["--config", str(tmp_path / "run" / "config.yaml")], monkeypatch) == Run(tmp_path / "run").recipe


def test_resuming_a_finished_run_says_so(run: Path, capsys: pytest.CaptureFixture[str]):
    before = contents(run)
    main(["train", "--resume", str(run)])
    assert "is finished; there is nothing to do" in capsys.readouterr().out
    assert contents(run) == before


def test_measuring_again_computes_what_is_missing(run: Path):
    lost = run / "scores" / "step-00000002" / "k_composition.safetensors"
    before = read_file(lost)
    others = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors") if path != lost}
    lost.unlink()
    main(["measure", str(run), "--only", "k_composition,loss"])
    assert read_file(lost).equals(before)
    assert {path: path.stat().st_mtime_ns for path in others} == others


def test_the_list_of_measures_has_one_line_each_with_range_and_null(capsys: pytest.CaptureFixture[str]):
    main(["measures"])
    lines = capsys.readouterr().out.splitlines()
    for each in MEASURES:
        (line,) = (line for line in lines if line.split()[0] == each.name)
        assert each.range in line
        assert (each.null or "none") in line


def test_a_measure_of_ones_own_by_import_path(run: Path, capsys: pytest.CaptureFixture[str]):
    main(["measure", str(run), "--only", "toys:embedding_norm,rank_stable", "--at", "2"])
    assert "holds embedding_norm, rank_stable" in capsys.readouterr().out
    scores = Run(run).scores
    lengths = Run(run).model(2).W_E.detach().norm(dim=-1).numpy()
    assert (scores.embedding_norm.sel(step=2).values == lengths).all()
    assert set(scores.rank_stable.circuit.values) == {"OV", "QK"}


def test_what_does_not_apply_is_said_once_with_its_reason(run: Path, capsys: pytest.CaptureFixture[str]):
    main(["measure", str(run), "--only", "induction_stripe,loss"])
    said = capsys.readouterr().out
    assert said.count("induction_stripe does not apply: it needs sequences of BOS and one segment") == 1
    assert said.endswith("holds loss\n")


def test_a_figure_of_ours_is_drawn_again_and_no_other_file_is_replaced(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    main(["plot", str(run), "loss"])
    before = (tmp_path / "loss.svg").read_bytes()
    main(["plot", str(run), "loss"])
    assert (tmp_path / "loss.svg").read_bytes() == before
    capsys.readouterr()
    (tmp_path / "mine.svg").write_text("mine")
    arguments = ["plot", str(run), "attention", "--at", "0", "--layer", "1", "--out", "mine.svg"]
    assert "out: mine.svg is not a figure of Headway; --overwrite replaces it" in refused(arguments, capsys)
    assert (tmp_path / "mine.svg").read_text() == "mine"
    main([*arguments, "--overwrite"])
    assert "attention, step 0, sequence 0" in (tmp_path / "mine.svg").read_text()


def test_a_diverging_run_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["train", "--task", "toys:TurnsNaN", "--out", str(tmp_path / "nan"), "--batch_size", "2",
              "--eval_batch_size", "3", "--optim.warmup_steps", "0", "--trainer.accelerator", "cpu",
              "--schedule.log", "0", "--schedule.linear", "0"])  # fmt: skip
    assert end.value.code == 1
    assert "diverged at step" in capsys.readouterr().err
    assert Run(tmp_path / "nan").steps[0] == 0


def test_recipes_fit_their_tasks():
    assert all(replace(recipe) == recipe for recipe in RECIPES.values())
    assert replace(TOKENS, steps=5).steps == 5


def test_help_lists_the_recipes_as_they_are(capsys: pytest.CaptureFixture[str]):
    main(["train", "--help"])
    shown = re.findall(r"^  ([a-z-]+)  +([A-Z].*)$", capsys.readouterr().out, flags=re.MULTILINE)
    assert dict(shown) == {
        name: (type(recipe.task).__doc__ or "").partition("\n")[0] for name, recipe in RECIPES.items()
    }


def test_a_task_from_a_notebook_trains_resumes_and_reloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A class of __main__, as in a notebook, and afterwards the same class by its import path."""
    (tmp_path / "mine.py").write_text(NOTEBOOK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    runpy.run_path("mine.py", run_name="__main__")
    mine = importlib.import_module("mine")
    mine.look("by-path")
    assert yaml.safe_load((tmp_path / "notebook" / "config.yaml").read_text())["task"]["class"] == "__main__:Doubling"
    assert yaml.safe_load((tmp_path / "by-path" / "config.yaml").read_text())["task"]["class"] == "mine:Doubling"
    with pytest.raises(ValueError, match="task: '__main__:Doubling' cannot be imported"):
        _ = Run(tmp_path / "notebook", trust=True).task
    assert Run(tmp_path / "notebook", task=mine.Doubling).task == mine.Doubling(modulus=13)


NOTEBOOK = """
from dataclasses import dataclass
import torch
from headway.checkpoints import Run
from headway.data.task import Batch, Task
from headway.models.config import ModelConfig
from headway.train import resume, train

@dataclass(frozen=True)
class Doubling(Task):
    modulus: int = 11
    d_vocab = property(lambda self: self.modulus)
    n_ctx = 5

    def sample(self, generator, batch_size):
        start = torch.randint(1, self.modulus, (batch_size, 1), generator=generator)
        tokens = start * 2 ** torch.arange(6) % self.modulus
        return Batch(tokens[:, :-1], tokens[:, 1:], torch.ones(batch_size, 5, dtype=torch.bool))

    def baselines(self):
        return {"oracle": 0.0}

def look(out):
    model = ModelConfig(n_layers=1, d_model=7, n_ctx=5, d_head=3, n_heads=2, d_vocab=13)
    train(task=Doubling(modulus=13), model=model, out=out, steps=3, batch_size=2, eval_batch_size=2)
    run = Run(out)
    assert run.task == Doubling(modulus=13)
    assert resume(out).steps == run.steps == [0, 1, 2, 3]
    assert run.scores.loss.sizes["step"] == 4
    assert run.model(step=2)(run.batch().inputs).shape == (2, 5, 13)

if __name__ == "__main__":
    look("notebook")
"""


def test_a_terminal_that_lacks_a_letter_is_no_reason_to_fail(tmp_path: Path):
    """Headway prints ± and →; a terminal of ASCII shows them as question marks."""
    run = made_up_run(tmp_path / "run", layers=2, heads=2, kept=2)
    script = f"from headway.__main__ import main; main(['report', {str(run.path)!r}]); print('\\xfc \\u2192 \\xb1')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == b"? ? ?"
