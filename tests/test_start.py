"""What a command or an import needs: each runs in a process of its own, which lists what it has imported.

Seconds are spent on imports, so that a test of what is imported holds how fast a command starts; ``make bench
ONLY=start`` measures it.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from toys import made_up_run

from headway.__main__ import COMMANDS as SUBCOMMANDS
from headway.checkpoints import Run
from headway.checkpoints.scores import read_file, score_file, write_scores

ROOT = Path(__file__).parent.parent
# From what takes longest to import to what takes least.
BRIDGE = {"transformer_lens.model_bridge", "transformer_lens.weight_processing", "scipy", "sklearn", "sympy"}
NETWORK = {"lightning", "transformer_lens", "transformers", *BRIDGE}
TORCH = {"torch", *NETWORK}
ARRAYS = {"xarray", "numpy", "matplotlib", "tensorboard", "rich", *TORCH}

COMMANDS = [
    # arguments, exit code, what is not imported
    ("--help", 0, ARRAYS),
    ("--version", 0, ARRAYS),
    ("train --help", 0, ARRAYS),
    ("study --help", 0, ARRAYS),
    ("study induction --help", 0, ARRAYS),
    ("measures", 0, TORCH),
    ("report RUN", 0, TORCH),
    ("plot RUN heads --out heads.svg", 0, TORCH),
    ("formation --help", 0, ARRAYS),
    ("formation RUN", 0, TORCH),
    ("train induction --help", 0, NETWORK),
    # wrong ones
    ("trian", 2, ARRAYS),
    ("train inductoin", 2, ARRAYS),
    ("train --resume nowhere", 2, TORCH),
    ("train induction --model.d_vocab 64", 2, NETWORK),
    ("study indcution", 2, ARRAYS),
    ("measure RUN --onyl loss", 2, TORCH),
    ("measure RUN --only lsos", 2, TORCH),
    ("measure RUN --at 1000", 2, TORCH),
    ("report nowhere", 2, TORCH),
    ("formation RUN --olny loss", 2, ARRAYS),
    ("formation RUN --only lsos", 2, TORCH),
    ("plot RUN", 2, TORCH),
    ("plot RUN haeds", 2, TORCH),
    ("plot RUN heads --ta 3", 2, TORCH),
    ("text", 2, ARRAYS),
]
CODE = [
    ("import headway; dir(headway)", {"jsonargparse", *ARRAYS}),
    (
        "import headway; run = headway.Run('RUN')\n"
        "run, run._repr_html_(), run.config, run.finished, run.check_step('last'), run.studies\n"
        "run.training, run.scores, run.summary()",
        {"jsonargparse", *TORCH},
    ),
    ("import headway; headway.MEASURES, headway.Head, headway.ModelConfig, headway.formation", TORCH),
    ("import headway; headway.HookedTransformer, headway.measure", {"lightning", *BRIDGE}),
]

LIST = """
import atexit, sys
atexit.register(lambda: print("imported:", *sys.modules, file=sys.stderr))
"""
AS_COMMAND = """
from headway.__main__ import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with scores of two steps, and a file where the checkpoint of the last would be."""
    run = made_up_run(tmp_path_factory.mktemp("runs") / "made up", layers=2, heads=3, kept=2)
    path = score_file(run.path, 1, "loss")
    scores = read_file(path)
    scores.loss.attrs["baselines"] = run.task.baselines()
    write_scores(path, scores)
    run.weights_file(1).parent.mkdir()
    run.weights_file(1).touch()
    return run


def imported_by(code: str, arguments: list[str], folder: Path) -> tuple[int, set[str]]:
    """The exit code of a process, and the modules that it has imported at its end."""
    command = [sys.executable, "-c", LIST + code, *arguments]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    errors, _, names = process.stderr.rpartition("imported:")
    assert "Traceback" not in errors, errors
    return process.returncode, set(names.split())


@pytest.mark.parametrize(("command", "code", "absent"), COMMANDS, ids=lambda value: value if type(value) is str else "")
def test_a_command_imports_what_it_needs(command: str, code: int, absent: set[str], run: Run, tmp_path: Path):
    arguments = [argument.replace("RUN", str(run.path)) for argument in command.split()]
    ended, imported = imported_by(AS_COMMAND, arguments, tmp_path)
    assert ended == code
    assert "headway.__main__" in imported
    assert imported & absent == set()
    subcommands = {name for name in SUBCOMMANDS if f"headway.commands.{name}" in imported}
    assert subcommands == {*SUBCOMMANDS} & {arguments[0]}


@pytest.mark.parametrize(
    ("code", "absent"), CODE, ids=lambda value: value.partition("\n")[0] if type(value) is str else ""
)
def test_an_import_brings_what_it_needs(code: str, absent: set[str], run: Run, tmp_path: Path):
    ended, imported = imported_by(code.replace("RUN", str(run.path)), [], tmp_path)
    assert ended == 0
    assert imported & absent == set()


def test_the_script_prints_its_help_as_fast_as_the_command(tmp_path: Path):
    script = f"import runpy; runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
    ended, imported = imported_by(script, ["--help"], tmp_path)
    assert ended == 0
    assert "headway.__main__" in imported
    assert imported & ARRAYS == set()
