"""The README on what a reader has: an unmodified demo run."""

import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from headway.__main__ import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def command_lines() -> list[list[str]]:
    lines = (line.partition("  #")[0].strip() for block in blocks("sh") for line in block.splitlines())
    return [shlex.split(line) for line in lines if line]


def test_commands_name_programs_and_targets_that_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for program, first, *rest in command_lines():
        assert program in ("make", "python", "headway", "tensorboard")
        if program == "make":
            assert {first, *rest} <= set(targets)
        if program == "python":
            assert (ROOT / first).name == "train.py"


@pytest.mark.usefixtures("unchecked")
def test_commands_and_python_run_on_a_demo_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every command and every block of Python, in the order of a reader. Other runs than the demo are small."""
    monkeypatch.chdir(tmp_path)
    main(["train", "induction"])  # what make demo runs
    for program, *arguments in command_lines():
        if program == "tensorboard":
            assert Path(arguments[arguments.index("--logdir") + 1]).is_dir()
        if program not in ("python", "headway"):
            continue
        if program == "python":
            arguments = ["train", *arguments[1:]]
        if arguments[0] == "train" and not {"--resume", "--config"} & set(arguments):
            # The last of an option counts.
            arguments += ["--steps", "4", "--batch_size", "2", "--eval_batch_size", "3"]
        if arguments[:2] == ["train", "text"]:
            arguments += ["--task.corpus", "package:email", "--task.n_tokens", "1009"]
        if arguments[0] == "study":
            arguments += ["--sequences", "7"]
        main(arguments)
    # A module, so that a class defined there can be found again by its name, as in a notebook.
    notebook = ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    for block in blocks("python"):
        exec(block, vars(notebook))
