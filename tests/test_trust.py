"""A run from somebody else: opening it runs no code and reads no file outside of it, until the user says so."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from toys import TOKENS, Train, made_up_run

from headway.__main__ import main
from headway.checkpoints import Run
from headway.checkpoints.imports import imported
from headway.checkpoints.schedule import Schedule
from headway.data.text import Text
from headway.models.config import ModelConfig
from headway.train import train

CODE = """
from dataclasses import dataclass
from pathlib import Path
from headway.data.repeated_tokens import RepeatedTokens
Path("executed").touch()

@dataclass(frozen=True)
class Mine(RepeatedTokens):
    pass
"""


@pytest.fixture
def received(trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose folder holds the code of its task, in the folder that one works in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run = trained(TOKENS, tmp_path / "received")
    (run.path / "tasks.py").write_text(CODE)
    rename_task(run, "received.tasks:Mine")
    return Run("received")


def rename_task(run: Run, path: str) -> None:
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    config["task"]["class"] = path
    (run.path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    before = contents(Path.cwd())
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert contents(Path.cwd()) == before
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


LOOKS: dict[str, Callable[[Run], object]] = {
    "model": lambda run: run.model(5),
    "scores": lambda run: run.scores.load(),
    "training": lambda run: run.training,
    "finished": lambda run: run.finished,
    "summary": lambda run: run.summary(),
    "show": lambda run: run.show()._repr_html_(),
    "card": lambda run: run._repr_html_(),
    "plot": lambda run: run.plot("attention", layer=0),
    "report": lambda run: main(["report", str(run.path)]),
    "plot command": lambda run: main(["plot", str(run.path), "loss"]),
}
ASKS = {
    "measure": ["measure", "received"],
    "study": ["study", "induction", "received", "--sequences", "3"],
    "config": ["train", "--config", "received/config.yaml"],
    "densify": ["densify", "received", "--between", "8", "17", "--from_start"],
    "measure the last": ["measure", "received", "--only", "loss", "--at", "17", "--overwrite"],
}


@pytest.mark.parametrize("look", LOOKS)
def test_looking_at_a_run_needs_no_task_and_runs_no_code(look: str, received: Run):
    LOOKS[look](received)
    assert not Path("executed").exists()


@pytest.mark.parametrize("ask", ASKS)
def test_what_needs_the_task_says_how_to_name_it(ask: str, received: Run, capsys: pytest.CaptureFixture[str]):
    said = refused(ASKS[ask], capsys)
    assert "'received.tasks:Mine' is not a task of Headway" in said
    assert "--task received.tasks:Mine" in said
    assert "--trust" in said


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("word", [["--trust"], ["--task", "received.tasks:Mine"]], ids=["trusted", "named"])
def test_code_inside_a_run_is_never_imported(
    ask: str, word: list[str], received: Run, capsys: pytest.CaptureFixture[str]
):
    assert "is code inside the run" in refused([*ASKS[ask], *word], capsys)
    assert not Path("executed").exists()


def test_a_run_that_is_not_finished_goes_on_only_with_a_task(received: Run, capsys: pytest.CaptureFixture[str]):
    received.weights_file(17).unlink()
    assert "--trust" in refused(["train", "--resume", "received"], capsys)


@pytest.mark.parametrize("word", [["--trust"], ["--task", "mine_elsewhere:Mine"]], ids=["trusted", "named"])
def test_a_task_that_lies_elsewhere_is_imported_on_demand(word: list[str], received: Run):
    Path("mine_elsewhere.py").write_text(CODE)
    try:
        rename_task(received, "mine_elsewhere:Mine")
        with pytest.raises(ValueError, match="not a task of Headway"):
            _ = Run("received").task
        main(["measure", "received", "--only", "loss", "--at", "0", "--overwrite", *word])
        assert Path("executed").exists()
        assert type(Run("received").task).__name__ == "Mine"  # it is loaded by then
    finally:
        sys.modules.pop("mine_elsewhere", None)


def test_a_class_in_hand_is_taken_for_the_one_that_the_run_names(received: Run):
    assert Run("received", task=type(TOKENS.task)).task == TOKENS.task


@pytest.fixture
def of_my_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of text that names a folder of the user's as its corpus; its network, scores and page are there."""
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "private"
    folder.mkdir()
    for number in range(11):
        (folder / f"{number}.py").write_text(f"secret_{number} = {number}\n" * 29)
    run = made_up_run(tmp_path / "received", layers=2, heads=2, kept=2)
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    config["task"] = {
        "class": "headway.data.text:Text", "corpus": str(folder), "n_tokens": 270, "length": 7, "held_out": 0.3,
        "corpus_hash": None, "tokenizer_hash": None,
    }  # fmt: skip
    config["model"] |= {"d_vocab": 270, "d_vocab_out": 270}
    (run.path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return run.path


def test_looking_at_a_run_reads_none_of_my_files(of_my_files: Path):
    main(["report", "received"])
    main(["plot", "received", "loss"])
    assert "is left out: task: this run reads the corpus" in Run("received").summary()
    assert "secret" not in (of_my_files / "report.html").read_text().replace("private", "")
    assert not Path("cache").exists()


@pytest.mark.parametrize("named", [[], ["--task", "headway.data.text:Text"]], ids=["not named", "named"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["measure", "received"],
        ["train", "--config", "received/config.yaml"],
        ["densify", "received", "--between", "0", "4", "--from_start"],
    ],
    ids=["measure", "train", "densify"],
)
def test_my_files_are_read_on_my_word_alone(
    arguments: list[str], named: list[str], of_my_files: Path, capsys: pytest.CaptureFixture[str]
):
    for step in (0, 4):  # whose weights nobody gets to read
        (of_my_files / "weights").mkdir(exist_ok=True)
        Run(of_my_files).weights_file(step).touch()
    assert "private" in refused([*arguments, *named], capsys)
    assert not Path("cache").exists()


def test_a_corpus_whose_tokens_are_known_here_is_no_secret(of_my_files: Path):
    corpus = str(Path("private").absolute())
    task = Text(corpus=corpus, n_tokens=270, length=7, held_out=0.3)
    assert task.outside_files == f"the corpus {corpus!r}"
    assert task.resolved().outside_files is None
    sizes = ModelConfig(n_layers=1, d_model=6, n_ctx=7, d_head=3, n_heads=2, d_vocab=270)
    recipe = replace(TOKENS, task=task, model=sizes, steps=1, batch_size=2, schedule=Schedule())
    run = train(**vars(recipe), out="own")
    assert len(Run(run.path).batch().inputs) == TOKENS.eval_batch_size


def test_what_a_library_looks_for_is_not_found_in_the_folder_that_one_works_in(received: Run):
    """Libraries import optional packages, whose names a received folder may use for its own code."""
    code = """
import sys, pathlib
class Asked:
    def find_spec(self, name, path=None, target=None):
        if path is None and not pathlib.Path(name + ".py").exists():
            pathlib.Path(name + ".py").write_text(f"import pathlib; pathlib.Path('executed').write_text({name!r})")
sys.meta_path.append(Asked())
from headway.__main__ import main
main(["report", "."])
"""
    (received.path / "report.html").unlink()
    # The first run plants a module for each name that nobody has found; the second would run it.
    for _ in range(2):
        done = subprocess.run([sys.executable, "-P", "-c", code], cwd=received.path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (received.path / "report.html").exists()
    assert len(list(received.path.glob("*.py"))) > 1
    assert not (received.path / "executed").exists()


def test_a_task_of_ones_own_is_found_in_the_folder_that_one_works_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "tasks_of_mine.py").write_text(CODE)
    assert imported("task", "tasks_of_mine:Mine", "package.module:Class").__name__ == "Mine"
