"""A handful of ``make torture``: runs that are killed go on as if they had not been, and mutated files are one line."""

import subprocess
import sys
import zlib
from pathlib import Path

from kills import BETWEEN
from mutations import FORMATS

import headway.checkpoints


def rotation() -> int:
    """A number that each change of the code that writes and reads runs makes another, so that all cases take turns."""
    sources = sorted(Path(headway.checkpoints.__file__).parent.glob("*.py"))
    return zlib.crc32(b"".join(path.read_bytes() for path in sources))


def test_killed_runs_go_on_and_mutated_files_are_refused_in_one_line():
    turn = rotation()
    # Of the kills between two files one of train and that of resume, and a kill of any command and kind of file.
    kills = [turn % (len(BETWEEN) - 1), len(BETWEEN) - 1, len(BETWEEN) + turn % 96]
    # Six formats in a row, from any of them on, with a change that is another one each time.
    mutations = [turn % 1000 * len(FORMATS) + (turn + place) % len(FORMATS) for place in range(6)]
    script = Path(__file__).with_name("torture.py")
    command = [sys.executable, script, "--only", *map(str, kills), "--mutation", *map(str, mutations)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"kills {kills}, mutations {mutations}\n{done.stdout}{done.stderr}"
