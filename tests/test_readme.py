"""The README on what a reader has: an unmodified demo run."""

import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from few_networks import WHOLE
from filelock import FileLock
from threads import Threads

from headway.__main__ import main
from headway.checkpoints import Run
from headway.reproductions.published import REPRODUCTIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


# Options of the runs that are not the demo. Fresh networks are scored for each kind of them, which takes longest.
SMALL = {"steps": 4, "batch_size": 2, "eval_batch_size": 3, "model.d_model": 12, "model.d_head": 3}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def command_lines(block: str) -> list[list[str]]:
    lines = (line.partition("  #")[0].strip() for line in block.splitlines())
    return [shlex.split(line) for line in lines if line]


def expanded(argument: str) -> list[str]:
    """What a shell makes of an argument."""
    return sorted(map(str, Path().glob(argument))) if "*" in argument else [argument]


def test_commands_name_programs_and_targets_that_exist():
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for program, first, *rest in command_lines("\n".join(blocks("sh"))):
        assert program in ("make", "python", "headway", "tensorboard")
        if program == "make":
            assert {first, *rest} <= set(targets)
        if program == "python":
            assert (ROOT / first).name == "train.py"


@pytest.fixture
def demo(unchecked: None, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The demo run, trained once in a session, where a reader has it: in ``runs`` of the working directory."""
    first = shared / "demo"
    with FileLock(shared / "demo.lock"):
        if not first.exists():
            (tmp_path / "first").mkdir()
            monkeypatch.chdir(tmp_path / "first")
            with monkeypatch.context() as patch:
                patch.setattr("headway.analyze.measures.nulls.NETWORKS", WHOLE)
                main(["train", "induction"])  # what make demo runs
            (tmp_path / "first").rename(first)
    shutil.copytree(first / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return Run("runs/induction")


@pytest.mark.whole
def test_the_demo_trains(demo: Run):
    assert demo.finished
    assert demo.steps[-1] == 1500


@pytest.mark.parametrize("block", blocks("sh"), ids=lambda block: block.partition("  ")[0].partition("\n")[0])
@pytest.mark.whole
@pytest.mark.usefixtures("demo")
def test_commands_run_on_a_demo_run(block: str, monkeypatch: pytest.MonkeyPatch):
    """Every command of a block, in the order of a reader. Other runs than the demo are small."""
    monkeypatch.setattr("headway.commands.many.chosen_workers", lambda options, count: Threads(1))
    (sweep,) = blocks("yaml")
    small = ", ".join(f"{name}: {value}" for name, value in SMALL.items())
    Path("sizes.yaml").write_text(re.sub("steps: [0-9]+", small, sweep.replace("0:20", "0:1")))
    for program, *arguments in command_lines(block):
        if program == "tensorboard":
            assert Path(arguments[arguments.index("--logdir") + 1]).is_dir()
        if program not in ("python", "headway"):
            continue
        if program == "python":
            arguments = ["train", *arguments[1:]]
        if arguments[0] == "train" and not {"--resume", "--config"} & set(arguments):
            # The last of an option counts.
            arguments += [f"--{name}={value}" for name, value in SMALL.items()]
        if arguments[:2] == ["train", "text"]:
            arguments += ["--task.corpus", "package:email", "--task.n_tokens", "1009"]
        if arguments[0] == "reproduce" and len(arguments) > 1:
            toy = replace(REPRODUCTIONS[arguments[1]], options=SMALL)
            monkeypatch.setitem(REPRODUCTIONS, arguments[1], toy)
        if "--seeds" in arguments:
            arguments += ["--seeds", "0:2"]
        arguments = [path for given in arguments for path in expanded(given)]
        if arguments[0] == "study":
            arguments += ["--sequences", "7"]
        if arguments[0] == "circuit":
            arguments += ["--sequences", "7", "--orders", "1", "--controls", "3"]
        main(arguments)


@pytest.mark.whole
@pytest.mark.usefixtures("demo")
def test_python_runs_on_a_demo_run(monkeypatch: pytest.MonkeyPatch):
    """In a module, so that a class defined there can be found again by its name, as in a notebook."""
    notebook = ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    for block in blocks("python"):
        exec(block, vars(notebook))
