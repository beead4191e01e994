"""What a command or an import needs: each runs in a process of its own, which lists what it has imported.

Where xarray or torch may be imported, the process is a fork of one that has imported it, which saves a second each.

Seconds are spent on imports, so that a test of what is imported holds how fast a command starts; ``make bench
ONLY=start`` measures it.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from installed_lens import IS_3
from toys import made_up_run

from headway.__main__ import COMMANDS as SUBCOMMANDS
from headway.checkpoints import Run
from headway.checkpoints.scores import read_file, score_file, write_scores

ROOT = Path(__file__).parent.parent
# From what takes longest to import to what takes least.
BRIDGE = {"transformer_lens.model_bridge", "transformer_lens.weight_processing", "scipy", "sklearn", "sympy"}
NETWORK = {"lightning", "transformer_lens", "transformers", *BRIDGE}
TORCH = {"torch", *NETWORK}
# TransformerLens 3.9 imports its bridges whenever it is imported.
BESIDE_NETWORKS = {"lightning", "sklearn"} if IS_3 else {"lightning", *BRIDGE}
ARRAYS = {"xarray", "numpy", "matplotlib", "tensorboard", "rich", *TORCH}

COMMANDS = [
    # arguments, exit code, what is not imported
    ("--help", 0, ARRAYS),
    ("--version", 0, ARRAYS),
    ("train --help", 0, ARRAYS),
    ("study --help", 0, ARRAYS),
    ("study induction --help", 0, ARRAYS),
    ("import --help", 0, ARRAYS),
    ("audit --help", 0, ARRAYS),
    ("export --help", 0, ARRAYS),
    ("measures", 0, TORCH),
    ("report RUN", 0, TORCH),
    ("plot RUN heads --out heads.svg", 0, TORCH),
    ("formation --help", 0, ARRAYS),
    ("reproduce", 0, ARRAYS),
    ("reproduce induction --help", 0, ARRAYS),
    ("formation RUN", 0, TORCH),
    ("train induction --help", 0, NETWORK),
    # wrong ones
    ("trian", 2, ARRAYS),
    ("train inductoin", 2, ARRAYS),
    ("train --resume nowhere", 2, TORCH),
    ("train induction --model.d_vocab 64", 2, NETWORK),
    ("study indcution", 2, ARRAYS),
    ("reproduce inductoin", 2, ARRAYS),
    ("reproduce induction --sedes 3", 2, ARRAYS),
    ("measure RUN --onyl loss", 2, TORCH),
    ("measure RUN --only lsos", 2, TORCH),
    ("measure RUN --at 1000", 2, TORCH),
    ("report nowhere", 2, TORCH),
    ("audit nowhere", 2, TORCH),
    ("export nowhere --to bridge --out new", 2, TORCH),
    ("export nowhere --to bridge", 2, ARRAYS),
    ("import them.pt", 2, TORCH),
    ("import them.pt --out new --step x", 2, TORCH),
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
    ("import headway; headway.HookedTransformer, headway.measure", BESIDE_NETWORKS),
]

# Reads lines of code, arguments and folder; answers each with the exit code, the modules, and the errors of a child.
SERVE = """
import json, os, sys, tempfile, traceback
for line in sys.stdin:
    code, arguments, folder = json.loads(line)
    errors = tempfile.TemporaryFile("w+")
    receive, send = os.pipe()
    if not os.fork():
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(errors.fileno(), 2)
        sys.argv[1:] = arguments
        status = 0
        try:
            exec(code, {"__name__": "__main__"})
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stderr.flush()
        with os.fdopen(send, "w") as to:
            json.dump([status, [*sys.modules]], to)
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as answer:
        status, modules = json.load(answer)
    os.wait()
    errors.seek(0)
    print(json.dumps([status, modules, errors.read()]), flush=True)
"""
AS_COMMAND = """
import sys
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


class Server:
    """A process that has imported a module, and runs code in forks of itself."""

    def __init__(self, module: str):
        code = f"import {module}\n{SERVE}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def imported_by(self, code: str, arguments: list[str], folder: Path) -> tuple[int, set[str]]:
        """The exit code of a process, and the modules that it has imported at its end."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps([code, arguments, str(folder)]), file=self._process.stdin, flush=True)
        status, modules, errors = json.loads(self._process.stdout.readline())
        assert "Traceback" not in errors, errors
        return status, set(modules)

    def end(self) -> None:
        """End the process."""
        self._process.communicate()


@pytest.fixture(scope="module")
def server() -> Iterator[Callable[[set[str]], Server]]:
    """Gives the process that has imported what takes longest of what may be imported."""
    servers: dict[str, Server] = {}

    def server(absent: set[str]) -> Server:
        module = next((each for each in ("torch", "xarray") if each not in absent), "sys")
        if module not in servers:
            servers[module] = Server(module)
        return servers[module]

    yield server
    for each in servers.values():
        each.end()


@pytest.mark.parametrize(("command", "code", "absent"), COMMANDS, ids=lambda value: value if type(value) is str else "")
def test_a_command_imports_what_it_needs(
    command: str, code: int, absent: set[str], run: Run, tmp_path: Path, server: Callable[[set[str]], Server]
):
    arguments = [argument.replace("RUN", str(run.path)) for argument in command.split()]
    ended, imported = server(absent).imported_by(AS_COMMAND, arguments, tmp_path)
    assert ended == code
    assert "headway.__main__" in imported
    assert imported & absent == set()
    subcommands = {name for name in SUBCOMMANDS if f"headway.commands.{name}" in imported}
    assert subcommands == {*SUBCOMMANDS} & {arguments[0]}


@pytest.mark.parametrize(
    ("code", "absent"), CODE, ids=lambda value: value.partition("\n")[0] if type(value) is str else ""
)
def test_an_import_brings_what_it_needs(
    code: str, absent: set[str], run: Run, tmp_path: Path, server: Callable[[set[str]], Server]
):
    ended, imported = server(absent).imported_by(code.replace("RUN", str(run.path)), [], tmp_path)
    assert ended == 0
    assert imported & absent == set()


def test_the_script_prints_its_help_as_fast_as_the_command(tmp_path: Path, server: Callable[[set[str]], Server]):
    script = f"import runpy; runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
    ended, imported = server(ARRAYS).imported_by(script, ["--help"], tmp_path)
    assert ended == 0
    assert "headway.__main__" in imported
    assert imported & ARRAYS == set()
